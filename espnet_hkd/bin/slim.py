"""Write EXP/slim: the model of an experiment without what only training needs.

Distillation heads, teacher store and optimizer are left out, so that the model loads
on a machine without store and without transformers. This is what recipes pack.
"""

from __future__ import annotations

import argparse
import sys


def get_parser() -> argparse.ArgumentParser:
    """The command line, with defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_hkd.bin.slim",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("exp", help="experiment folder with config.yaml")
    parser.add_argument("--checkpoint", default="train.total_count.ave.pth")
    parser.add_argument("--out", help="folder to write; None: EXP/slim")
    parser.add_argument(
        "--inference_config",
        help="decoding YAML; its ctc_weight becomes the packed default",
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=["float32", "float16", "bfloat16"],
        help="of the weights in the file",
    )
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    args = get_parser().parse_args(arguments)
    from espnet_hkd.errors import HKDError
    from espnet_hkd.pretrained.slim import slim

    try:
        report = slim(
            args.exp,
            args.checkpoint,
            out=args.out,
            inference_config=args.inference_config,
            dtype=args.dtype,
        )
    except HKDError as error:
        sys.exit(f"slim: {error}")
    print("\n".join(report))


if __name__ == "__main__":
    main()
