"""CTC prefix scores by torch's operators, for any device.

The same as `espnet_hkd.ctc.prefix`, which says what is calculated and is faster on the
CPU. The recursion over time is a loop of operators over all hypotheses at once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from espnet_hkd.ctc.prefix import LOG_ZERO


class Prefixes(NamedTuple):
    """N hypotheses: as in `espnet_hkd.ctc.prefix`, in the dtype of the scores."""

    utterance: Tensor
    last: Tensor
    forward: Tensor
    score: Tensor
    end: Tensor


class TorchPrefixScorer:
    """Prefix scores of a batch of utterances.

    Args:
        logp: (B, T, V) log probabilities, float32 or float64.
        lengths: (B,) frames; those beyond are not counted.
        blank: Index of the blank.
    """

    def __init__(self, logp: Tensor, lengths: Tensor, blank: int = 0) -> None:
        frame = torch.arange(logp.size(1), device=logp.device)
        self._lengths = lengths.to(logp.device)
        self._padding = frame >= self._lengths[:, None]  # (B, T)
        self._logp = logp.masked_fill(self._padding[..., None], LOG_ZERO)
        self._blank = blank

    def start(self) -> Prefixes:
        """The empty hypothesis of each utterance."""
        silent = self._logp[..., self._blank].masked_fill(self._padding, 0.0).cumsum(1)
        forward = torch.stack([torch.full_like(silent, LOG_ZERO), silent], dim=-1)
        utterance = torch.arange(len(silent), device=silent.device)
        return Prefixes(
            utterance,
            torch.full_like(utterance, -1),
            forward,
            silent.new_zeros(len(silent)),
            silent[:, -1],
        )

    def score(self, prefixes: Prefixes, labels: Tensor) -> Tensor:
        """Log probabilities (N, S) of the prefixes with one of labels (N, S) after."""
        repeated = labels == prefixes.last[:, None]
        before = self._before(prefixes)  # (N, 2, T)
        x = self._logp[prefixes.utterance[:, None], :, labels]  # (N, S, T)
        sums = torch.where(repeated[..., None], before[:, 1:], before[:, :1]) + x
        scores = sums.logsumexp(-1).clamp(min=LOG_ZERO)
        return scores.masked_fill(labels == self._blank, LOG_ZERO)

    def extend(self, prefixes: Prefixes, parents: Tensor, labels: Tensor) -> Prefixes:
        """Append labels (M,) to the hypotheses `parents` (M,)."""
        utterance = prefixes.utterance[parents]
        repeated = (labels == prefixes.last[parents])[:, None]
        both = self._before(prefixes)[parents]
        before = torch.where(repeated, both[:, 1], both[:, 0])  # (M, T)
        x = self._logp[utterance, :, labels]  # (M, T)
        blanks = self._logp[utterance, :, self._blank]
        # Beyond the end there are blanks only, of probability 1.
        blanks = blanks.masked_fill(self._padding[utterance], 0.0)
        in_label = torch.full_like(x[:, 0], LOG_ZERO)
        in_blank = in_label
        forward = []
        for t in range(x.size(1)):
            next_blank = torch.logaddexp(in_label, in_blank) + blanks[:, t]
            in_label = torch.logaddexp(in_label, before[:, t]) + x[:, t]
            in_blank = next_blank
            forward.append(torch.stack([in_label, in_blank], dim=-1))
        score = (before + x).logsumexp(-1).clamp(min=LOG_ZERO)
        return Prefixes(
            utterance,
            labels,
            torch.stack(forward, dim=1),
            score,
            torch.logaddexp(in_label, in_blank),
        )

    @staticmethod
    def _before(prefixes: Prefixes) -> Tensor:
        """Log probability (N, 2, T) before each frame, of any end and of a blank."""
        forward = prefixes.forward
        both = torch.stack([forward.logsumexp(-1), forward[..., 1]], dim=1)
        first = torch.where(prefixes.last < 0, 0.0, LOG_ZERO).to(both)
        first = first[:, None, None].expand(-1, 2, 1)
        return torch.cat([first, both[..., :-1]], dim=-1)
