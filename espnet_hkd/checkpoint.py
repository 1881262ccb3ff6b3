"""Checkpoints for decoding: without distillation heads, teacher store and optimizer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import yaml

from espnet_hkd.checks import check_number
from espnet_hkd.errors import CheckpointError, ConfigError
from espnet_hkd.files import replace_file

# Parameters that only training needs: a checkpoint may lack them, nothing else.
HEADS = ("kd_acd.", "kd_lrd.")
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
# What RESULTS.md, plots and logs show beside a packed model.
COMPANIONS = ("RESULTS.md", "images")


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
        inference_config: Decoding YAML; its `ctc_weight` becomes the default of
            `espnet_hkd.from_pretrained`.
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
    config = _read_config(exp / "config.yaml")
    weights = _read_weights(exp / checkpoint)
    dropped = [key for key in weights if key.startswith(HEADS)]
    kept = {
        key: value.to(DTYPES[dtype]) if value.is_floating_point() else value
        for key, value in weights.items()
        if key not in dropped
    }
    text = yaml.safe_dump(_slim_config(config, inference_config), sort_keys=False)
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
            got=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            wanted="a folder one may write to, with enough room on its disk",
            remedy="make room or give another --out, then run the same command again",
        ) from error
    numbers = sum(value.numel() for value in kept.values())
    size = (out / checkpoint).stat().st_size / 2**20
    return [
        f"wrote {out / checkpoint}: {numbers:,} weights, {dtype}, {size:.1f} MiB",
        f"dropped: {', '.join(dropped) or 'nothing: no distillation heads'}",
    ]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise CheckpointError(
            f"cannot read {path}",
            got=f"{type(error).__name__}: {error}",
            wanted="an experiment folder with the config.yaml that training wrote",
            remedy="correct the folder, or train first (stage 11)",
        ) from error
    if not isinstance(config, dict) or config.get("model") != "hkd_cif":
        raise CheckpointError(
            f"{path} does not describe a CIF model",
            got=f"model {config.get('model')}" if isinstance(config, dict) else config,
            wanted="`model: hkd_cif`",
            remedy="pack other models with `espnet2.bin.pack` as they are",
        )
    return config


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        names = sorted(p.name for p in path.parent.glob("*.pth"))
        raise CheckpointError(
            f"there is no checkpoint {path}",
            got="no such file",
            wanted=", ".join(names) or "a .pth file",
            remedy="name another with --checkpoint, or train first (stage 11)",
        ) from None
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be loaded",
            got=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            wanted="a checkpoint written by espnet2.bin.asr_train",
            remedy="copy it again, or name another with --checkpoint",
        ) from error
    if isinstance(weights, dict) and "model" in weights and "optimizers" in weights:
        weights = weights["model"]
    if not all(torch.is_tensor(value) for value in weights.values()):
        raise CheckpointError(
            f"{path} holds more than weights",
            got=", ".join(k for k, v in weights.items() if not torch.is_tensor(v)),
            wanted="tensors only",
            remedy="name a checkpoint of the model with --checkpoint",
        )
    return weights


def _slim_config(
    config: dict[str, Any], inference_config: str | Path | None
) -> dict[str, Any]:
    """The configuration without teacher; what it was taught with stays readable."""
    config = dict(config)
    model_conf = dict(config.get("model_conf") or {})
    taught = {key: model_conf[key] for key in _TEACHING if key in model_conf}
    for key in _TEACHING:
        model_conf.pop(key, None)
    config["model_conf"] = model_conf
    config["taught_with"] = taught
    if config.get("preprocessor") == "hkd_teacher":
        config["preprocessor"] = "default"
    conf = dict(config.get("preprocessor_conf") or {})
    for key in ("store", "missing_teacher"):
        conf.pop(key, None)
    config["preprocessor_conf"] = conf
    # Files of the training machine, which decoding never opens.
    for key in ("init_param", "train_data_path_and_name_and_type", "train_shape_file"):
        config[key] = []
    for key in ("valid_data_path_and_name_and_type", "valid_shape_file"):
        config[key] = []
    if inference_config:
        config["inference_conf"] = {"ctc_weight": _ctc_weight(Path(inference_config))}
    return config


def _ctc_weight(path: Path) -> float:
    """What a decoding configuration says, or ESPnet's default."""
    try:
        decoding = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        value = decoding.get("ctc_weight", 0.5)
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"the decoding configuration {path} cannot be read",
            got=f"{type(error).__name__}: {error}",
            wanted="YAML with options of espnet2.bin.asr_inference",
            remedy="correct --inference_config",
        ) from error
    return check_number(f"ctc_weight of {path}", value, least=0, most=1)


_TEACHING = (
    "acd_weight",
    "acd_temperature",
    "acd_negatives",
    "acd_same_token_negatives",
    "acd_gather",
    "lrd_weight",
    "teacher_dim",
)
