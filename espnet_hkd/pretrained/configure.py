"""Options written into an experiment's configuration, and so into its packed model."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from espnet_hkd.border.settings import check_setting, chosen_class, parse_setting
from espnet_hkd.errors import CheckpointError, ConfigError
from espnet_hkd.files import replace_file
from espnet_hkd.pretrained.files import read_config

RECORD = "configure.log"


def configure(exp: Path, settings: Sequence[str]) -> list[str]:
    """Write settings into `exp/config.yaml` and a record of them beside it.

    The file is written as ESPnet writes it, as a whole or not at all.

    Args:
        exp: An experiment folder.
        settings: `PART_conf.KEY=VALUE`, such as `decoder_conf.tail=0.4`; the value is
            YAML. Or `preencoder=NAME`, for one without weights.

    Returns:
        One line `decoder_conf.tail: 0.5 -> 0.4` per setting.

    Raises:
        CheckpointError: The configuration is missing, or is none of a trained model.
        ConfigError: A setting has an unknown key or a value of the wrong type, or the
            file cannot be written.
    """
    parsed = [parse_setting(text) for text in settings]
    path = exp / "config.yaml"
    config = read_config(path)
    if "token_list" not in config:
        raise CheckpointError(
            f"{path} is not the configuration of a trained ASR model",
            got="no token_list",
            wanted="the config.yaml that training wrote",
            remedy="give the experiment's folder in exp, not its conf/*.yaml",
        )
    changes = []
    for setting in parsed:
        old = config.get(setting.part)
        if setting.key is None:
            changes.append(f"{setting}: {_scalar(old)} -> {_scalar(setting.value)}")
            config[setting.part] = setting.value
            continue
        check_setting(setting, chosen_class(setting.part, old))
        section = config.get(f"{setting.part}_conf") or {}
        old = _scalar(section[setting.key]) if setting.key in section else "(default)"
        changes.append(f"{setting}: {old} -> {_scalar(setting.value)}")
        config[f"{setting.part}_conf"] = {**section, setting.key: setting.value}
    text = yaml.safe_dump(config, indent=4, sort_keys=False, allow_unicode=True)
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    try:
        replace_file(path, lambda new: new.write_text(text, encoding="utf-8"))
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


def _scalar(value: object) -> str:
    """Write a value as YAML on one line."""
    line = yaml.safe_dump(value, default_flow_style=True, width=sys.maxsize)
    return line.removesuffix("...\n").strip()
