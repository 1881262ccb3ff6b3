"""Measure what a training configuration costs on this machine's CPU.

    espnet-hkd cost --config conf/train_asr_cif*.yaml --tokens 4233

Steps of training (forward, backward, clipping, optimizer) on noise, in batches of equal
utterances: CPU time per second of speech. Times the seconds of a corpus it is an
epoch, without the loading and augmenting of data. Of several configurations the costs
are also told in ratios to the first; a GPU may see another ratio.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from espnet_hkd.bin.command import Parser


def get_parser() -> Parser:
    """The command line, with defaults."""
    parser = Parser("espnet-hkd cost", __doc__)
    parser.add_argument(
        "--config", required=True, nargs="+", help="training YAML, several to compare"
    )
    parser.add_argument(
        "--tokens",
        required=True,
        help="how many there are, <blank>, <unk> and <sos/eos> included, or a token "
        "list as asr.sh writes it",
    )
    parser.add_argument("--utterances", type=int, default=8, help="per batch")
    parser.add_argument("--seconds", type=float, default=4.5, help="per utterance")
    parser.add_argument("--length", type=int, default=14, help="tokens per utterance")
    parser.add_argument("--steps", type=int, default=3, help="timed; one more is not")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    from espnet_hkd.recipes.cost import Work, measure

    with parser.report_errors():
        work = Work(
            args.utterances, args.seconds, args.length, args.steps, args.threads
        )
        print(
            f"CPU seconds per second of speech: median (least, most) of "
            f"{work.steps} steps of {work.utterances} x {work.seconds} s with "
            f"{work.length} tokens each, {work.threads} threads; ratio"
        )
        first = None
        for config in args.config:
            costs = measure(config, args.tokens, work)
            cost = statistics.median(costs)
            first = first or cost
            print(
                f"{cost:7.3f} ({min(costs):.3f}, {max(costs):.3f}) "
                f"{cost / first:6.2f}  {config}",
                flush=True,
            )


if __name__ == "__main__":
    main()
