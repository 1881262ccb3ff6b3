"""Run an ESPnet program with our classes known to it.

    python3 -m espnet_hkd.run [--set KEY=VALUE]... -m MODULE [ARGS]...
    python3 -m espnet_hkd.run [--set KEY=VALUE]... SCRIPT [ARGS]...
    python3 -m espnet_hkd.run [--set KEY=VALUE]... -c CODE [ARGS]...

It stands wherever `python3` stands, above all in `asr.sh --python "python3 -m
espnet_hkd.run"`. `--set decoder_conf.tail=0.4` overrides an option of the model's
configuration for this process and those it starts, and logs it; to change the
configuration itself use `espnet-hkd configure`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import sys
import warnings

import espnet_hkd  # noqa: F401  (installs the import hook)
from espnet_hkd.errors import ConfigError, HKDError

# How `--set` reaches the processes that multiprocessing spawns.
_OVERRIDES = "_ESPNET_HKD_OVERRIDES"

# How typeguard's InstrumentationWarning begins.
_NOT_TYPE_CHECKED = "(cannot find|instrumentor did not find) the target function"

_USAGE = (
    "python3 -m espnet_hkd.run [--set KEY=VALUE]... (-m MODULE | -c CODE | SCRIPT) "
    "[ARGS]..."
)


def main(arguments: list[str]) -> None:
    """Take our own options off the front and run the rest as python3 would."""
    try:
        runner, subject, rest = _prepare(arguments)
    except HKDError as error:
        sys.exit(f"espnet_hkd.run: {error}")
    runner(subject, rest)


def _prepare(arguments: list[str]):
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
        sys.exit()
    settings, arguments = _split_settings(arguments)
    os.environ[_OVERRIDES] = json.dumps(settings)
    _install_overrides()
    runners = {"-m": _run_module, "-c": _run_code}
    if arguments and arguments[0] in runners:
        kind, *arguments = arguments
        if not arguments:
            raise ConfigError(
                f"{kind} without its argument",
                got="nothing after it",
                wanted=_USAGE,
                remedy="name the program to run",
            )
        return runners[kind], arguments[0], arguments[1:]
    if not arguments or arguments[0].startswith("-"):
        got = arguments[0] if arguments else "no program"
        raise ConfigError(
            "no program to run",
            got=got,
            wanted=_USAGE,
            remedy="name the program to run, after our own options",
        )
    return _run_script, arguments[0], arguments[1:]


def _split_settings(arguments: list[str]) -> tuple[list[str], list[str]]:
    settings = []
    while arguments and arguments[0].partition("=")[0] == "--set":
        if arguments[0] == "--set":
            settings += arguments[1:2]
            arguments = arguments[2:]
        else:
            settings.append(arguments[0].removeprefix("--set="))
            arguments = arguments[1:]
    return settings, arguments


def _install_overrides() -> None:
    settings = json.loads(os.environ[_OVERRIDES])
    if settings:
        from espnet_hkd.border import settings as overrides

        overrides.install(settings)


def _run_module(name: str, arguments: list[str]) -> None:
    spec = importlib.util.find_spec(name)
    sys.argv = [(spec and spec.origin) or name, *arguments]
    # The program's own type checks look for its functions in `__main__`, which is this
    # file, and warn of each one: they are off here, and no result depends on them.
    warnings.filterwarnings("ignore", _NOT_TYPE_CHECKED)
    # With alter_sys the program would become `__main__`, and processes that
    # multiprocessing spawns would import it instead of this file: our classes would
    # be unknown there.
    runpy.run_module(name, run_name="__main__", alter_sys=False)


def _run_script(path: str, arguments: list[str]) -> None:
    sys.argv = [path, *arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    runpy.run_path(path, run_name="__main__")


def _run_code(code: str, arguments: list[str]) -> None:
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main(sys.argv[1:])
elif __name__ == "__mp_main__":
    _install_overrides()
