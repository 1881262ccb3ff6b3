"""When each token of a hypothesis was said, and how sure the decoder is of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from espnet_hkd.ctc.align import align
from espnet_hkd.nets.scoring import ScoringOptions
from espnet_hkd.recognize.spans import mass_centres, spans
from espnet_hkd.speech.records import TokenTime


class Stretch(NamedTuple):
    """Where a piece of audio lies in its recording, in seconds.

    Attributes:
        offset: Its begin.
        seconds: Its length.
        frame: The length of an encoder frame.
        power: Its loudness over time (`espnet_hkd.speech.loudness`).
    """

    offset: float
    seconds: float
    frame: float
    power: np.ndarray


@torch.no_grad()
def time_tokens(
    model: Any,
    hidden: Tensor,
    ids: list[int],
    symbols: list[str],
    stretch: Stretch,
    options: ScoringOptions,
) -> list[TokenTime]:
    """Times and confidences of the tokens of a hypothesis.

    A token lies around the middle of its CTC spike (`decoder_conf.times: ctc`) or of
    its mass (`cif`, and where there is no CTC or it finds no way through the tokens).
    It begins `decoder_conf.time_shift` after that and ends with the last sound before
    the next begins.

    Args:
        model: A `CIFASRModel`.
        hidden: (T, D) encoder output.
        ids: U tokens, end-of-sentence excluded.
        symbols: Their names.
        stretch: The audio that `hidden` was made of.
        options: Those of the search.
    """
    if not ids:
        return []
    length = torch.tensor([len(hidden)], device=hidden.device)
    # Where counts are searched, the count that names the tokens with their end.
    targets = None
    if options.count_search > 0:
        targets = torch.tensor([len(ids) + 1], device=hidden.device)
    fired = model.decoder.fire(hidden[None], length, targets=targets, tail=options.tail)
    confidences = _confidences(model, fired.states[:, : len(ids)], ids)
    centres = None
    if model.decoder.times == "ctc" and model.ctc_weight > 0:
        centres = _spikes(model, hidden, ids)
    if centres is None:
        weights = model.decoder.predict_weights(hidden[None], length)[0]
        centres = mass_centres(weights.cpu().numpy(), len(ids))
    times = stretch.offset + spans(
        centres * stretch.frame,
        stretch.power,
        stretch.seconds,
        model.decoder.time_shift,
    )
    return [
        TokenTime(symbol, start, end, confidence)
        for symbol, (start, end), confidence in zip(
            symbols, times.tolist(), confidences, strict=True
        )
    ]


def _spikes(model: Any, hidden: Tensor, ids: list[int]) -> np.ndarray | None:
    """Middle of each token's CTC spike (U,), in frames, None if it has none."""
    log_probs = model.ctc.log_softmax(hidden[None])[0].float().cpu().numpy()
    frames = align(log_probs, ids, blank=model.blank_id)
    return None if frames is None else frames.mean(axis=1)


def _confidences(model: Any, states: Tensor, ids: list[int]) -> list[float]:
    """Probability of each token, given those before it; states (1, U, D)."""
    ys = torch.tensor([[model.sos, *ids]], device=states.device)
    logits, _ = model.decoder.forward_tokens(states, ys[:, :-1])
    probability = logits[0].float().softmax(-1).gather(1, ys[0, 1:, None])
    return probability[:, 0].tolist()
