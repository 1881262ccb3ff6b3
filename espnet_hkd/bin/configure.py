"""Write options into an experiment's configuration, and so into its packed model.

    python -m espnet_hkd.bin.configure exp/asr_hkd decoder_conf.tail=0.4

For a value chosen on the development set after training. To try values without
writing them use `python3 -m espnet_hkd.run --set decoder_conf.tail=0.4 -m PROGRAM`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_hkd.errors import ConfigError, HKDError

if TYPE_CHECKING:
    from espnet_hkd.border.settings import Setting

RECORD = "configure.log"


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_hkd.bin.configure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("exp", type=Path, help="experiment folder with a config.yaml")
    parser.add_argument(
        "settings",
        nargs="+",
        metavar="PART_conf.KEY=VALUE",
        help="an option of the frontend, encoder, decoder, model, ...; VALUE is YAML",
    )
    return parser


def configure(exp: Path, settings: Sequence[str]) -> list[str]:
    """Write settings into `exp/config.yaml` and a record of them beside it.

    Comments, order and layout of the rest stay. The file is replaced as a whole or
    not at all.

    Returns:
        One line `decoder_conf.tail: 0.5 -> 0.4` per setting.

    Raises:
        ConfigError: The configuration is missing or no ESPnet configuration, or a
            setting has an unknown key or a value of the wrong type, or it cannot be
            written.
    """
    from espnet_hkd.border.settings import check_setting, chosen_class, parse_setting

    parsed = [parse_setting(text) for text in settings]
    path = exp / "config.yaml"
    text = _read(path)
    config = _load(text, path)
    for setting in parsed:
        check_setting(setting, chosen_class(setting.part, config.get(setting.part)))

    changes = []
    for setting in parsed:
        section = f"{setting.part}_conf"
        held = config.get(section) or {}
        old = _scalar(held[setting.key]) if setting.key in held else "(default)"
        changes.append(f"{setting}: {old} -> {_scalar(setting.value)}")
        config[section] = {**held, setting.key: setting.value}
        text = _edit(text, setting)
    if _load(text, path) != config:
        raise ConfigError(
            f"cannot edit {path} without changing more than asked",
            got=", ".join(settings),
            wanted="a section that is written out: no anchors, aliases, repeated keys",
            remedy=f"edit it by hand: {', '.join(settings)}",
        )
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    try:
        _replace(path, text)
        with (exp / RECORD).open("a", encoding="utf-8") as record:
            record.writelines(f"{now} {change}\n" for change in changes)
    except OSError as error:
        raise ConfigError(
            f"cannot write {error.filename or path}",
            got=error.strerror or error,
            wanted="a folder one may write to, with enough room on its disk",
            remedy="make room, or give yourself the right to write; config.yaml is "
            "whole, old or new",
        ) from error
    return changes


def _read(path: Path) -> str:
    try:
        # newline="" leaves the line ends as they are.
        with path.open(encoding="utf-8", newline="") as stream:
            return stream.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read {path}",
            got=f"{type(error).__name__}: {error}",
            wanted="an experiment folder with the config.yaml that training wrote",
            remedy="correct the folder, or train first (stage 11)",
        ) from error


def _load(text: str, path: Path) -> dict[str, Any]:
    import yaml

    try:
        config = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{path} is not YAML",
            got=error,
            wanted="the config.yaml that training wrote",
            remedy="undo what was last written into it",
        ) from error
    if not isinstance(config, dict) or "token_list" not in config:
        raise ConfigError(
            f"{path} is not the configuration of a trained ASR model",
            got="no token_list",
            wanted="the config.yaml that training wrote",
            remedy="give the experiment's folder in exp, not its conf/*.yaml",
        )
    return config


def _edit(text: str, setting: Setting) -> str:
    """Replace or add one value, found by its place in the parsed document."""
    import yaml

    def entry(mapping: yaml.MappingNode, key: str) -> Any:
        return next((v for k, v in mapping.value if k.value == key), None)

    root: Any = yaml.compose(text)
    section = entry(root, f"{setting.part}_conf")
    scalar = _scalar(setting.value)
    if section is None:
        end = "" if text.endswith("\n") else "\n"
        return f"{text}{end}{setting.part}_conf:\n    {setting.key}: {scalar}\n"
    if not isinstance(section, yaml.MappingNode):
        # `decoder_conf:` or `decoder_conf: null`
        return _splice(text, section, f" {{{setting.key}: {scalar}}}")
    value = entry(section, setting.key)
    if value is not None:
        return _splice(text, value, scalar)
    if not section.value:
        return _splice(text, section, f"{{{setting.key}: {scalar}}}")
    first = section.value[0][0].start_mark
    separator = ", " if section.flow_style else "\n" + " " * first.column
    new = f"{setting.key}: {scalar}{separator}"
    return text[: first.index] + new + text[first.index :]


def _splice(text: str, node: Any, new: str) -> str:
    return text[: node.start_mark.index] + new + text[node.end_mark.index :]


def _scalar(value: object) -> str:
    """Write a value as YAML on one line."""
    import yaml

    line = yaml.safe_dump(value, default_flow_style=True, width=sys.maxsize)
    return line.removesuffix("...\n").strip()


def _replace(path: Path, text: str) -> None:
    target = path.resolve()
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".config.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, target.stat().st_mode & 0o777)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = get_parser().parse_args(arguments)
    try:
        changes = configure(args.exp, args.settings)
    except HKDError as error:
        sys.exit(f"configure: {error}")
    print("\n".join(changes))


if __name__ == "__main__":
    main()
