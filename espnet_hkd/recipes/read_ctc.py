#!/usr/bin/env python3
"""Read a model's own CTC greedily, to compare CIF with.

The hypotheses are written as Kaldi-style text.

    python -m espnet_hkd.recipes.read_ctc exp/asr_hkd dump/raw/train_dev \\
        --text ctc/train_dev/text
    python -m espnet_hkd.bin.compare_systems CTC=ctc/train_dev \\
        CIF=exp/asr_hkd/DECODE/train_dev --ref dump/raw/train_dev/text
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from espnet_hkd.errors import HKDError
from espnet_hkd.files import read_table, write_table


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "model", help="experiment, checkpoint or packed model, as from_pretrained takes"
    )
    parser.add_argument("data", type=Path, help="folder with wav.scp (files)")
    parser.add_argument("--text", type=Path, required=True, help="what to write")
    return parser


def main(argv: list[str] | None = None) -> int:
    import espnet_hkd

    args = get_parser().parse_args(argv)
    try:
        audio = read_table(args.data / "wav.scp")
        recognizer = espnet_hkd.from_pretrained(args.model)
        texts = {id: recognizer.read_ctc(path) for id, path in audio.items()}
        args.text.parent.mkdir(parents=True, exist_ok=True)
        write_table(args.text, texts)
    except (HKDError, OSError) as error:
        print(f"read_ctc: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
