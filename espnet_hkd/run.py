"""Run an ESPnet program with our classes known to it.

    python3 -m espnet_hkd.run [--set KEY=VALUE]... -m MODULE [ARGS]...
    python3 -m espnet_hkd.run [--set KEY=VALUE]... SCRIPT [ARGS]...
    python3 -m espnet_hkd.run [--set KEY=VALUE]... -c CODE [ARGS]...

It stands wherever `python3` stands, above all in `asr.sh --python "python3 -m
espnet_hkd.run"`. `--set decoder_conf.tail=0.4` overrides an option of the model's
configuration for this process and those it starts, and logs it; to change the
configuration itself use `espnet_hkd.bin.configure`.
"""

from __future__ import annotations

import json
import os
import runpy
import sys

import espnet_hkd  # noqa: F401  (installs the import hook)
from espnet_hkd.errors import ConfigError

# How `--set` reaches the processes that multiprocessing spawns.
_OVERRIDES = "_ESPNET_HKD_OVERRIDES"

_USAGE = (
    "python3 -m espnet_hkd.run [--set KEY=VALUE]... (-m MODULE | -c CODE | SCRIPT) "
    "[ARGS]..."
)


def main(arguments: list[str]) -> None:
    """Take our own options off the front and run the rest as python3 would."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return
    settings, arguments = _split_settings(arguments)
    if settings:
        os.environ[_OVERRIDES] = json.dumps(settings)
        _install_overrides()
    kind = arguments[0] if arguments else ""
    if kind in ("-m", "-c"):
        if len(arguments) < 2:
            raise ConfigError(f"{kind} without argument", wanted=_USAGE)
        subject, rest = arguments[1:2], arguments[2:]
        (_run_module if kind == "-m" else _run_code)(subject[0], rest)
    elif not kind or kind.startswith("-"):
        raise ConfigError(
            "nothing to run" if not kind else f"unknown option {kind}", wanted=_USAGE
        )
    else:
        _run_script(kind, arguments[1:])


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
    if os.environ.get(_OVERRIDES):
        from espnet_hkd import overrides

        overrides.install(json.loads(os.environ[_OVERRIDES]))


def _run_module(name: str, arguments: list[str]) -> None:
    sys.argv = [name, *arguments]
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
