"""Look through what a training will go on from, before it is started (stage 11).

    python -m espnet_hkd.recipes.resume exp/asr_hkd

Every file that will be resumed from or averaged is read. What can be mended without
loss is; without a sound resume point the command that starts again is printed. The
training does the same itself: here it is done before GPUs are taken.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from espnet_hkd.errors import HKDError


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("exp", type=Path, help="folder of the experiment")
    parser.add_argument(
        "--command",
        default="./run.sh",
        help="what started the training, for the command that starts it again",
    )
    return parser


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


def main(argv: list[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    try:
        for note in look_through(args.exp, args.command):
            print(note)
    except HKDError as error:
        print(f"resume: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
