"""What a training will go on from, looked through before it is started (stage 11)."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def look_through(exp: Path, command: str = "./run.sh") -> list[str]:
    """What `espnet_hkd.border.resume.mend` found and did in an experiment's folder.

    Raises:
        CheckpointError: There is no sound resume point where there was one.
    """
    # A training that has not begun has nothing to read, and need not wait for torch.
    if not any(exp.glob("*.pth")):
        return []
    from espnet_hkd.border.resume import mend

    config = _read_config(exp / "config.yaml")
    nbest = config.get("keep_nbest_models", 10)
    stage = f"{command} --stage 11"
    return mend(
        exp,
        lambda weights, folder: (
            f"{stage} --pretrained_model {weights} --asr_exp {folder}_again"
        ),
        criteria=config.get("best_model_criterion", ()),
        nbest=nbest if isinstance(nbest, int) else max(nbest, default=1),
    )


def _read_config(path: Path) -> dict[str, Any]:
    """ESPnet's own record of its options; it is written again when training starts."""
    import yaml

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}
