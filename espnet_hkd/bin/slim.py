"""Write EXP/slim: the model of an experiment without what only training needs.

Distillation heads, teacher store and optimizer are left out, so that the model loads
on a machine without store and without transformers. This is what recipes pack.
"""

from __future__ import annotations

from collections.abc import Sequence

from espnet_hkd.bin.command import Parser


def get_parser() -> Parser:
    """The command line, with defaults."""
    parser = Parser("espnet-hkd slim", __doc__)
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    from espnet_hkd.pretrained.slim import slim

    with parser.report_errors():
        report = slim(
            args.exp,
            args.checkpoint,
            out=args.out,
            inference_config=args.inference_config,
            dtype=args.dtype,
        )
        print("\n".join(report))


if __name__ == "__main__":
    main()
