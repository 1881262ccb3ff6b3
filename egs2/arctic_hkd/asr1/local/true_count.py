#!/usr/bin/env python3
"""Tell what the transcripts' own numbers of tokens would give.

    local/true_count.py exp/asr_cif_seed1 dump/raw/org/dev

The weights of each utterance are scaled to its transcript's number of tokens, as in
training, and cut by their sum: without valleys, and without a search of counts. Beside
that stand the same weights as they are, and the model as it is configured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from espnet_hkd.bin.command import Parser
from espnet_hkd.compare.align import count_errors
from espnet_hkd.files import read_table

CONFIGURED, OWN, TRUE = "as configured", "their sum", "the transcript's"


class Row(NamedTuple):
    """Of all utterances: words, wrong ones, and tokens too many or too few."""

    words: int
    errors: int
    tokens: int


def get_parser() -> Parser:
    parser = Parser("true_count.py", __doc__)
    parser.add_argument("model", help="experiment folder, or a packed model")
    parser.add_argument("data", type=Path, help="set with wav.scp and text")
    parser.add_argument("--beam", type=int, default=10, help="hypotheses kept")
    parser.add_argument("--ctc_weight", type=float, default=0.3, help="of its scores")
    return parser


@contextmanager
def counted_by(decoder: Any, number: int | None) -> Iterator[None]:
    """A `CIFDecoder` that cuts by the weights' sum, scaled to a number if one is given.

    Only one utterance may be decoded meanwhile.
    """
    predict, valley, search = (
        decoder.predict_weights,
        decoder.valley,
        decoder.count_search,
    )

    def predict_scaled(hidden: Tensor, lengths: Tensor) -> Tensor:
        weights = predict(hidden, lengths)
        if number is None:
            return weights
        return weights * number / weights.sum(1, keepdim=True).clamp(min=1e-6)

    decoder.predict_weights, decoder.valley, decoder.count_search = (
        predict_scaled,
        0.0,
        0,
    )
    try:
        yield
    finally:
        del decoder.predict_weights
        decoder.valley, decoder.count_search = valley, search


def measure(
    recognizer: Any,
    audio: Mapping[str, str],
    texts: Mapping[str, str],
    **options: Any,
) -> dict[str, Row]:
    """Recognise each utterance in the three ways."""
    decoder = recognizer.model.decoder
    rows = {}
    for name in (CONFIGURED, OWN, TRUE):
        said, tokens = [], 0
        for id, text in texts.items():
            wanted = recognizer.count_tokens(text)
            if name == CONFIGURED:
                (found,) = recognizer(audio[id], **options)
            else:
                with counted_by(decoder, None if name == OWN else wanted):
                    (found,) = recognizer(audio[id], **options)
            said.append(found.text.split())
            tokens += abs(len(found.tokens) + 1 - wanted)
        references = [text.split() for text in texts.values()]
        errors = int(count_errors(references, said).total.sum())
        rows[name] = Row(sum(map(len, references)), errors, tokens)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = get_parser()
    args = parser.parse_args(arguments)
    with parser.report_errors():
        import espnet_hkd

        audio, texts = read_table(args.data / "wav.scp"), read_table(args.data / "text")
        rows = measure(
            espnet_hkd.from_pretrained(args.model),
            audio,
            texts,
            beam=args.beam,
            ctc_weight=args.ctc_weight,
        )
        print(f"{args.model}, {args.data}: {len(texts)} utterances")
        print("| number of tokens by | WER % | count error of what is recognised |")
        print("|---|---:|---:|")
        for name, row in rows.items():
            rate, off = 100 * row.errors / row.words, row.tokens / len(texts)
            print(f"| {name} | {rate:.2f} | {off:.2f} |")


if __name__ == "__main__":
    main()
