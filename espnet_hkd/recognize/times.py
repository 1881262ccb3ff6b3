"""When each token of a hypothesis was said, and how sure the decoder is of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from espnet_hkd.cif import FiredTokens
from espnet_hkd.nets.scoring import ScoringOptions
from espnet_hkd.speech.records import TokenTime


class Stretch(NamedTuple):
    """Where a piece of audio lies in its recording, in seconds.

    Attributes:
        offset: Its begin.
        seconds: Its length.
        frame: The length of an encoder frame.
    """

    offset: float
    seconds: float
    frame: float


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

    A token ends where its mass is complete and starts where the one before it ends.

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
    ends = _ends(fired, stretch)
    starts = [stretch.offset, *ends]
    confidences = _confidences(model, fired.states[:, : len(ids)], ids)
    return [
        TokenTime(*token)
        for token in zip(symbols, starts, ends, confidences, strict=False)
    ]


def _ends(fired: FiredTokens, stretch: Stretch) -> list[float]:
    """Ends of the tokens in the recording, in seconds."""
    ends = fired.ends[0, : int(fired.lengths[0])].tolist()
    return [min(end * stretch.frame, stretch.seconds) + stretch.offset for end in ends]


def _confidences(model: Any, states: Tensor, ids: list[int]) -> list[float]:
    """Probability of each token, given those before it; states (1, U, D)."""
    ys = torch.tensor([[model.sos, *ids]], device=states.device)
    logits, _ = model.decoder.forward_tokens(states, ys[:, :-1])
    probability = logits[0].float().softmax(-1).gather(1, ys[0, 1:, None])
    return probability[:, 0].tolist()
