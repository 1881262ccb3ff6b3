#!/usr/bin/env python3
"""Tell how many vectors of the CIF lie at the CTC spike of their own token.

    local/vectors_and_spikes.py exp/asr_cif_seed1 --set dev

Weights are scaled to the transcript's number of tokens, as in training. A vector lies
where half of its mass is there, and at the token whose spike is nearest, by CTC's
alignment of the transcript. Vectors that lie at another token's spike are taught, and
read, wrongly.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from espnet_hkd.bin.command import Parser
from espnet_hkd.ctc.align import align
from espnet_hkd.files import read_table


def get_parser() -> Parser:
    parser = Parser("vectors_and_spikes.py", __doc__)
    parser.add_argument("exp", type=Path, help="experiment of a CIF model with CTC")
    parser.add_argument("--set", default="dev", help="folder under dump/raw")
    parser.add_argument(
        "--without", default="flite_", help="ids that begin so are left out"
    )
    parser.add_argument("--utterances", type=int, default=100, help="drawn by seed 1")
    parser.add_argument("--checkpoint", default="train.total_count.ave.pth")
    return parser


def distances(weights: np.ndarray, spikes: np.ndarray) -> np.ndarray:
    """Tokens between each token and that whose spike is nearest to its vector: (U,).

    weights (F,) of an utterance, spikes (U,) in frames; one more token, the end of
    sentence, has a share of the weights.
    """
    tokens = len(spikes)
    mass = np.cumsum(weights) * (tokens + 1) / weights.sum()
    middles = np.searchsorted(mass, np.arange(tokens) + 0.5)
    return np.abs(middles[:, None] - spikes).argmin(1) - np.arange(tokens)


def look(
    exp: Path, checkpoint: str, data: Path, ids: Sequence[str]
) -> Iterator[np.ndarray]:
    """Distances of each utterance whose transcript CTC can align."""
    import soundfile
    import torch
    from espnet2.tasks.asr import ASRTask

    import espnet_hkd

    espnet_hkd.register()
    model, args = ASRTask.build_model_from_file(
        str(exp / "config.yaml"), str(exp / checkpoint), "cpu"
    )
    model.eval()
    preprocess = ASRTask.build_preprocess_fn(args, train=False)
    texts, recordings = read_table(data / "text"), read_table(data / "wav.scp")
    for id in ids:
        speech, _ = soundfile.read(recordings[id], dtype="float32")
        item = preprocess(id, {"speech": speech, "text": texts[id]})
        with torch.no_grad():
            hidden, lengths = model.encode(
                torch.from_numpy(item["speech"])[None], torch.tensor([len(speech)])
            )
            weights = model.decoder.predict_weights(hidden, lengths)[0].numpy()
            posteriors = model.ctc.log_softmax(hidden)[0].numpy()
        spans = align(posteriors, item["text"].tolist())
        if spans is not None:
            yield distances(weights, spans.sum(1) / 2 - 0.5)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = get_parser()
    args = parser.parse_args(arguments)
    with parser.report_errors():
        data = Path("dump/raw") / args.set
        ids = [
            id for id in read_table(data / "text") if not id.startswith(args.without)
        ]
        random.Random(1).shuffle(ids)
        found = look(args.exp, args.checkpoint, data, ids[: args.utterances])
        away = np.abs(np.concatenate(list(found)))
        own, one, further = (np.mean(each) for each in (away == 0, away == 1, away > 1))
        print(
            f"{args.exp} {args.set}: {len(away)} tokens, own spike {own:.1%}, "
            f"one away {one:.1%}, further {further:.1%}"
        )


if __name__ == "__main__":
    main()
