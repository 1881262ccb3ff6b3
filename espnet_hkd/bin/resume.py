"""Look through what a training will go on from, before it is started (stage 11).

    espnet-hkd resume exp/asr_hkd

Every file that will be resumed from or averaged is read. What can be mended without
loss is; without a sound resume point the command that starts again is printed. The
training does the same itself: here it is done before GPUs are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from espnet_hkd.bin.command import Parser


def get_parser() -> Parser:
    """The command line, with defaults."""
    parser = Parser("espnet-hkd resume", __doc__)
    parser.add_argument("exp", type=Path, help="folder of the experiment")
    parser.add_argument(
        "--command",
        default="./run.sh",
        help="what started the training, for the command that starts it again",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    from espnet_hkd.recipes.resume import look_through

    with parser.report_errors():
        for note in look_through(args.exp, args.command):
            print(note)


if __name__ == "__main__":
    main()
