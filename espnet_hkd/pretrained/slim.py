"""Checkpoints for decoding: without heads of training, teacher store and optimizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml

from espnet_hkd.checks import check_number
from espnet_hkd.errors import CheckpointError, ConfigError
from espnet_hkd.files import replace_file
from espnet_hkd.nets.loading import HEADS
from espnet_hkd.pretrained.files import (
    FORMAT,
    first_line,
    read_config,
    read_weights,
)
from espnet_hkd.version import __version__

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
# What RESULTS.md, plots and logs show beside a packed model.
COMPANIONS = ("RESULTS.md", "images")
# What the preprocessor `hkd_teacher` has beyond ESPnet's own, for training only.
PREPROCESSOR_OPTIONS = (
    "store",
    "missing_teacher",
    "standardise",
    "before_token",
    "extra_text",
    "extra_share",
    "pause_prob",
    "pause_seconds",
    "pause_only_prob",
    "pause_noise_db",
)


def slim(
    exp: str | Path,
    checkpoint: str = "train.total_count.ave.pth",
    *,
    out: str | Path | None = None,
    inference_config: str | Path | None = None,
    dtype: str = "float32",
) -> list[str]:
    """Write a folder that decodes like an experiment and has nothing else in it.

    Args:
        exp: Experiment folder with config.yaml.
        checkpoint: File name in it; a resume point (checkpoint.pth) serves too.
        out: Folder to write; None: `exp/slim`.
        inference_config: Decoding YAML, packed with the model; its `ctc_weight` is
            the default of `espnet_hkd.from_pretrained`.
        dtype: Of the floating-point weights in the file; they are loaded as float32.

    Returns:
        What was done, line by line.

    Raises:
        CheckpointError: Something is missing or not what training writes, or the folder
            cannot be written.
        ConfigError: The decoding configuration cannot be used.
    """
    exp = Path(exp)
    out = exp / "slim" if out is None else Path(out)
    config = read_config(exp / "config.yaml")
    if config.get("model") != "hkd_cif":
        raise CheckpointError(
            f"{exp / 'config.yaml'} does not describe a CIF model",
            got=f"model: {config.get('model')}",
            wanted="model: hkd_cif",
            remedy="pack other models with `espnet2.bin.pack` as they are",
        )
    weights = read_weights(exp / checkpoint)
    dropped = [key for key in weights if key.startswith(HEADS)]
    kept = {
        key: value.to(DTYPES[dtype]) if value.is_floating_point() else value
        for key, value in weights.items()
        if key not in dropped
    }
    slimmed = _slim_config(config, inference_config)
    plm = _plm(config, exp)
    if plm is not None:
        slimmed["taught_with"]["plm"] = plm
    text = yaml.safe_dump(slimmed, sort_keys=False)
    try:
        out.mkdir(parents=True, exist_ok=True)
        replace_file(out / checkpoint, lambda path: torch.save(kept, path))
        replace_file(
            out / "config.yaml", lambda path: path.write_text(text, encoding="utf-8")
        )
        for name in COMPANIONS:
            source = exp / name
            if source.is_dir():
                shutil.copytree(source, out / name, dirs_exist_ok=True)
            elif source.is_file():
                shutil.copy2(source, out / name)
    # torch's writer has RuntimeError for a full disk.
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{out} cannot be written",
            got=first_line(error),
            wanted="a folder one may write to, with enough room on its disk",
            remedy="make room or give another --out, then run the same command again",
        ) from error
    numbers = sum(value.numel() for value in kept.values())
    size = (out / checkpoint).stat().st_size / 2**20
    return [
        f"wrote {out / checkpoint}: {numbers:,} weights, {dtype}, {size:.1f} MiB",
        f"dropped: {', '.join(dropped) or 'nothing: no heads of training'}",
    ]


def _slim_config(
    config: dict[str, Any], inference_config: str | Path | None
) -> dict[str, Any]:
    """The configuration without teacher; what it was taught with stays readable."""
    config = dict(config)
    model_conf = dict(config.get("model_conf") or {})
    taught = {key: model_conf[key] for key in _TEACHING if key in model_conf}
    # Its weight says that there was one; the file is of the training machine.
    if taught.pop("lexicon", None) is None:
        taught.pop("lexicon_weight", None)
    else:
        taught.setdefault("lexicon_weight", 0.5)
    for key in _TEACHING:
        model_conf.pop(key, None)
    config["model_conf"] = model_conf
    # A model that was made of slim ones, such as their mean, was taught as they were.
    config["taught_with"] = {**(config.get("taught_with") or {}), **taught}
    if config.get("preprocessor") == "hkd_teacher":
        config["preprocessor"] = "default"
    conf = dict(config.get("preprocessor_conf") or {})
    for key in PREPROCESSOR_OPTIONS:
        conf.pop(key, None)
    config["preprocessor_conf"] = conf
    # Files of the training machine, which decoding never opens.
    for key in ("init_param", "train_data_path_and_name_and_type", "train_shape_file"):
        config[key] = []
    for key in ("valid_data_path_and_name_and_type", "valid_shape_file"):
        config[key] = []
    if inference_config:
        config["inference_conf"] = _decoding(Path(inference_config))
    config["espnet_hkd"] = {"format": FORMAT, "version": __version__}
    return config


def _decoding(path: Path) -> dict[str, Any]:
    """A decoding configuration, with ESPnet's default for a missing `ctc_weight`."""
    try:
        decoding = {
            "ctc_weight": 0.5,
            **(yaml.safe_load(path.read_text(encoding="utf-8")) or {}),
        }
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"the decoding configuration {path} cannot be read",
            got=first_line(error),
            wanted="YAML with options of espnet2.bin.asr_inference",
            remedy="correct --inference_config",
        ) from error
    name = f"ctc_weight of {path}"
    decoding["ctc_weight"] = check_number(name, decoding["ctc_weight"], least=0, most=1)
    return decoding


def _plm(config: dict[str, Any], exp: Path) -> dict[str, Any] | None:
    """Name, digest and layer of the teacher, if its store is still there."""
    store = (config.get("preprocessor_conf") or {}).get("store")
    if not store:
        return None
    for root in (Path(), *exp.resolve().parents):
        record = root / store / "store.json"
        if record.is_file():
            known = json.loads(record.read_text(encoding="utf-8"))
            name = str(known["plm"])
            # A folder of this machine says nothing elsewhere, its name may.
            if name.startswith((".", "~", "/")) or name.count("/") > 1:
                name = Path(name).name
            return {"name": name, "digest": known["digest"], "layer": known["layer"]}
    return None


_TEACHING = (
    "acd_weight",
    "acd_temperature",
    "acd_negatives",
    "acd_same_token_negatives",
    "acd_gather",
    "lrd_weight",
    "teacher_dim",
    "lexicon",
    "lexicon_weight",
)
