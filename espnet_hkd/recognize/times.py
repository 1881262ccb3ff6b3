"""When each token of a hypothesis was said, and how sure the decoder is of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from espnet_hkd.ctc.align import align
from espnet_hkd.nets.scoring import ScoringOptions
from espnet_hkd.recognize.encode import Encoded
from espnet_hkd.recognize.spans import mass_centres, spans
from espnet_hkd.speech.records import TokenTime


class Stretch(NamedTuple):
    """Where a piece of audio lies in its recording, in seconds.

    Attributes:
        offset: Its begin.
        seconds: Its length.
        power: Its loudness over time (`espnet_hkd.speech.loudness`).
    """

    offset: float
    seconds: float
    power: np.ndarray


class Spoken(NamedTuple):
    """A hypothesis and what it was found in.

    Attributes:
        tokens: U ids, end-of-sentence excluded.
        symbols: Their names.
        encoded: Encoder output.
        stretch: The audio that it was made of.
    """

    tokens: list[int]
    symbols: list[str]
    encoded: Encoded
    stretch: Stretch


@torch.no_grad()
def time_tokens(
    model: Any, hypotheses: Sequence[Spoken], options: ScoringOptions
) -> list[list[TokenTime]]:
    """Times and confidences of the tokens of each hypothesis.

    A token lies around the middle of its CTC spike (`decoder_conf.times: ctc`) or of
    its mass (`cif`, and where there is no CTC or it finds no way through the tokens).
    It begins `decoder_conf.time_shift` after that and ends with its sound, or where the
    next begins.

    Args:
        model: A `CIFASRModel`.
        hypotheses: Computed together.
        options: Those of the search.
    """
    found: list[list[TokenTime]] = [[] for _ in hypotheses]
    named = [place for place, each in enumerate(hypotheses) if each.tokens]
    if not named:
        return found
    spoken = [hypotheses[place] for place in named]
    frames = [each.encoded.hidden for each in spoken]
    hidden = torch.nn.utils.rnn.pad_sequence(frames, batch_first=True)
    lengths = torch.tensor([len(each) for each in frames], device=hidden.device)
    confidences = _confidences(model, hidden, lengths, spoken, options)
    centres = _centres(model, hidden, lengths, spoken)
    for place, each, middles, sure in zip(
        named, spoken, centres, confidences, strict=True
    ):
        stretch = each.stretch
        times = stretch.offset + spans(
            each.encoded.seconds(middles),
            stretch.power,
            stretch.seconds,
            model.decoder.time_shift,
        )
        found[place] = [
            TokenTime(symbol, start, end, confidence)
            for symbol, (start, end), confidence in zip(
                each.symbols, times.tolist(), sure, strict=True
            )
        ]
    return found


def _centres(
    model: Any, hidden: Tensor, lengths: Tensor, spoken: Sequence[Spoken]
) -> list[np.ndarray]:
    """Middle of each token's spike or mass (U,), in frames."""
    spikes: list[np.ndarray | None] = [None] * len(spoken)
    if model.decoder.times == "ctc" and model.ctc_weight > 0:
        log_probs = model.ctc.log_softmax(hidden).float().cpu().numpy()
        for row, each in enumerate(spoken):
            frames = align(
                log_probs[row, : len(each.encoded.hidden)],
                each.tokens,
                blank=model.blank_id,
            )
            spikes[row] = None if frames is None else frames.mean(axis=1)
    if all(each is not None for each in spikes):
        return [each for each in spikes if each is not None]
    weights = model.decoder.predict_weights(hidden, lengths).cpu().numpy()
    return [
        mass_centres(row[: len(each.encoded.hidden)], len(each.tokens))
        if spike is None
        else spike
        for row, each, spike in zip(weights, spoken, spikes, strict=True)
    ]


def _confidences(
    model: Any,
    hidden: Tensor,
    lengths: Tensor,
    spoken: Sequence[Spoken],
    options: ScoringOptions,
) -> list[list[float]]:
    """Probability of each token, given those before it."""
    numbers = [len(each.tokens) for each in spoken]
    # Where counts are searched, the count that names the tokens with their end.
    targets = None
    if options.count_search > 0:
        targets = torch.tensor(numbers, device=hidden.device) + 1
    fired = model.decoder.fire(hidden, lengths, targets=targets, tail=options.tail)
    ys = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor([model.sos, *each.tokens]) for each in spoken],
        batch_first=True,
        padding_value=model.eos,
    ).to(hidden.device)  # (B, U + 1)
    states = fired.states[:, : max(numbers)]
    logits, _ = model.decoder.forward_tokens(states, ys[:, :-1])
    probability = logits.float().softmax(-1).gather(2, ys[:, 1:, None])[..., 0]
    return [
        row[:number] for row, number in zip(probability.tolist(), numbers, strict=True)
    ]
