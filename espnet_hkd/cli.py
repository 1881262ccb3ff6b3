"""The command `espnet-hkd`: one subcommand for each program of `espnet_hkd.bin`.

A subcommand's module is imported when it is called; none imports torch, ESPnet or
numpy before it has read its options.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from espnet_hkd.errors import ConfigError, HKDError
from espnet_hkd.version import __version__

# Subcommand -> module with `main(arguments)`, by what they are for. The first line of
# a module's docstring is what `espnet-hkd --help` says of it.
GROUPS: dict[str, dict[str, str]] = {
    "use a model": {
        "recognize": "espnet_hkd.bin.recognize",
        "demo": "espnet_hkd.bin.demo",
        "inspect-model": "espnet_hkd.bin.inspect_model",
    },
    "prepare a training": {
        "recipe": "espnet_hkd.bin.recipe",
        "extract-teacher": "espnet_hkd.bin.extract_teacher",
        "inspect-teacher": "espnet_hkd.bin.inspect_teacher",
        "units": "espnet_hkd.bin.units",
        "parameters": "espnet_hkd.bin.parameters",
        "cost": "espnet_hkd.bin.cost",
        "fit-weights": "espnet_hkd.bin.fit_weights",
    },
    "judge what was trained": {
        "compare": "espnet_hkd.bin.compare_systems",
        "count-error": "espnet_hkd.bin.count_error",
        "read-ctc": "espnet_hkd.bin.read_ctc",
        "configure": "espnet_hkd.bin.configure",
    },
    "single steps of run.sh": {
        "check-sets": "espnet_hkd.bin.check_sets",
        "units-fit": "espnet_hkd.bin.units_fit",
        "lengths": "espnet_hkd.bin.lengths",
        "resume": "espnet_hkd.bin.resume",
        "slim": "espnet_hkd.bin.slim",
        "card": "espnet_hkd.bin.card",
    },
}
COMMANDS = {name: module for group in GROUPS.values() for name, module in group.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the subcommand that the first argument names, with the others."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_help())
    elif given[0] == "--version":
        print(f"espnet_hkd {__version__}")
    else:
        try:
            module = _find(given[0])
        except HKDError as error:
            sys.exit(f"espnet-hkd: {error}")
        importlib.import_module(module).main(given[1:])


def _find(name: str) -> str:
    # The modules' own spelling is understood, too.
    known = COMMANDS | {
        module.rpartition(".")[2]: module for module in COMMANDS.values()
    }
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        raise ConfigError(
            "there is no such subcommand",
            got=name,
            wanted=", ".join(COMMANDS),
            remedy=f"did you mean `espnet-hkd {close[0]}`?"
            if close
            else "`espnet-hkd --help` says what each of them does",
        )
    return known[name]


def _help() -> str:
    lines = [
        "usage: espnet-hkd SUBCOMMAND [OPTION]...",
        "       espnet-hkd SUBCOMMAND --help",
        "",
        "CIF speech recognition taught by pre-trained language models, inside ESPnet.",
    ]
    for title, group in GROUPS.items():
        lines += ["", f"{title}:"]
        for name, module in group.items():
            summary = (importlib.import_module(module).__doc__ or "").partition("\n")[0]
            lines.append(f"  {name:<17}{summary}")
    lines += [
        "",
        "ESPnet's own programs run as `python3 -m espnet_hkd.run -m PROGRAM`.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
