#!/usr/bin/env python3
"""Print how often a model fires as many tokens as there are, on a Kaldi-style set.

The count error is the mean over utterances of the absolute difference between tokens
fired, with the model's own tail, and tokens of the transcript, end-of-sentence
included in both. Too few firings become deletions, too many insertions.

    python3 -m espnet_hkd.recipes.count_error exp/asr_hkd dump/raw/train_dev

With --hypotheses, what a search has decided counts instead of what the weights say: the
two differ with decoder_conf.count_search.

    python3 -m espnet_hkd.recipes.count_error exp/asr_hkd dump/raw/train_dev \\
        --hypotheses exp/asr_hkd/DECODE/org/train_dev/text
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from espnet_hkd.errors import DataError, HKDError
from espnet_hkd.files import read_table


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "model", help="experiment, checkpoint or packed model, as from_pretrained takes"
    )
    parser.add_argument("data", type=Path, help="folder with text and wav.scp (files)")
    parser.add_argument(
        "--hypotheses", type=Path, help="Kaldi-style text of what was recognised"
    )
    parser.add_argument("--worst", type=int, default=5, help="utterances to name")
    return parser


def count_differences(
    model: str, data: Path, hypotheses: Path | None = None
) -> dict[str, int]:
    """Tokens fired, or recognised, minus those of the transcript, by utterance."""
    import espnet_hkd

    recognizer = espnet_hkd.from_pretrained(model)
    audio, texts = read_table(data / "wav.scp"), read_table(data / "text")
    if hypotheses is not None:
        found = read_table(hypotheses)
        missing = sorted(texts.keys() - found.keys())
        if missing:
            raise DataError(
                f"{hypotheses} lacks utterances of {data}",
                got=f"{len(missing)} missing, such as {missing[0]}",
                wanted="a hypothesis for each, empty ones too",
                remedy="decode the whole set (stage 12)",
            )
        return {
            id: recognizer.count_tokens(found[id]) - recognizer.count_tokens(text)
            for id, text in texts.items()
        }
    differences = {}
    for id, text in texts.items():
        if id not in audio:
            raise DataError(
                f"{id} of {data} has no audio",
                got="a transcript only",
                wanted="the same utterances in text and wav.scp",
                remedy="give a whole set",
            )
        fired = recognizer.firing(audio[id])
        differences[id] = len(fired.symbols) - recognizer.count_tokens(text)
    return differences


def main(argv: list[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    try:
        differences = count_differences(args.model, args.data, args.hypotheses)
    except HKDError as error:
        print(f"count_error: {error}", file=sys.stderr)
        return 1
    size = len(differences)
    error = sum(map(abs, differences.values())) / max(size, 1)
    exact = sum(value == 0 for value in differences.values())
    print(
        f"{args.data}: count error {error:.3f}, exact in {exact} of {size} utterances"
    )
    for value, times in sorted(Counter(differences.values()).items()):
        print(f"  {value:+d}: {times}")
    worst = sorted(differences.items(), key=lambda item: -abs(item[1]))[: args.worst]
    for id, value in worst:
        if value:
            print(f"  {id}: {value:+d}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
