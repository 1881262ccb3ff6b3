"""Label-synchronous beam search over several utterances, ended by the firings.

The same search as ESPnet's `BatchBeamSearch`: every hypothesis of the beam is extended
by all tokens, CTC scores the best of these, and the best are kept. It differs where a
CIF model allows it. It stops when no live hypothesis is left; options are arguments and
nothing is kept in the model, so that calls from several threads do not meet; and CTC's
recursion over time runs for the kept hypotheses only.

Letters: B utterances, T encoder frames, D width, V vocabulary, N live hypotheses,
K beam, C candidates of a hypothesis.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from espnet_hkd.ctc.prefix import PrefixScorer
from espnet_hkd.ctc.prefix_torch import TorchPrefixScorer
from espnet_hkd.nets.scoring import (
    POSSIBLE,
    CIFScorer,
    ScoringOptions,
    to_device,
)

# Candidates of each hypothesis that CTC scores, relative to the beam; ESPnet's.
PRE_BEAM = 1.5


class Hypothesis(NamedTuple):
    """What a search found.

    Attributes:
        tokens: Ids, without start and end of sentence.
        score: Weighted sum of the log probabilities.
    """

    tokens: list[int]
    score: float


class SearchWeights(NamedTuple):
    """Weights of the scores; others, such as language models', by name."""

    decoder: float
    ctc: float
    others: Mapping[str, float]


@torch.no_grad()
def beam_search(
    decoder: CIFScorer,
    hidden: Tensor,
    lengths: Tensor,
    *,
    sos: int,
    beam: int,
    options: ScoringOptions,
    weights: SearchWeights,
    ctc_logp: Tensor | None = None,
    others: Mapping[str, Any] | None = None,
    lock: contextlib.AbstractContextManager[Any] | None = None,
) -> list[list[Hypothesis]]:
    """Search the hypotheses of B utterances.

    Args:
        decoder: The model's.
        hidden: (B, T, D) encoder output.
        lengths: (B,) its frames; padding is not looked at.
        sos: Start-of-sentence.
        beam: Hypotheses kept; those that have ended leave the beam.
        options: Of the decoder's scores.
        weights: A score of weight 0 is not computed.
        ctc_logp: (B, T, V) log probabilities of CTC; needed for its weight.
        others: Scorers with ESPnet's batch interface, by the names in `weights`.
        lock: Held while one of these computes: ESPnet's keep values in themselves.

    Returns:
        For each utterance all hypotheses that ended, best first.
    """
    shared = decoder.fire_counts(hidden, lengths, options)
    state = decoder.start(shared)
    scorers = [
        _Model(others[name], weight, hidden, lock or contextlib.nullcontext())
        for name, weight in weights.others.items()
        if others and weight
    ]
    ctc = None
    if weights.ctc:
        assert ctc_logp is not None
        ctc = _CTC(ctc_logp, lengths, decoder.blank, weights.ctc)
    found: list[list[Hypothesis]] = [[] for _ in hidden]
    ys = torch.full((len(hidden), 1), sos, device=hidden.device)
    # The same on the host, to be read without waiting.
    prefixes: list[list[int]] = [[] for _ in hidden]
    base = hidden.new_zeros(len(hidden), dtype=torch.float32)
    slots = torch.arange(len(hidden), device=hidden.device) * beam
    # An end that has no firing of its own comes one step after the last token.
    for step in range(max(shared.most) + 1):
        scored = decoder.score_next(shared, state, ys[:, -1], step)
        full = base[:, None] + weights.decoder * scored.logp
        for scorer in scorers:
            full = full + scorer.score(ys)
        full = full.masked_fill(scored.logp < POSSIBLE, -torch.inf)
        totals, labels = _candidates(full, beam, decoder.eos, ctc)
        kept = _keep(totals, labels, slots, len(hidden) * beam, beam)
        live = []
        for total, row, token, slot in kept:
            if token == decoder.eos:
                found[slot // beam].append(Hypothesis(prefixes[row], total))
            else:
                live.append((row, token, slot))
        if not live:
            break
        prefixes = [[*prefixes[row], token] for row, token, _ in live]
        parents, tokens, slots = to_device(live, ys.device).unbind(1)
        base = full[parents, tokens]
        if ctc is not None:
            ctc.extend(parents, tokens)
        for scorer in scorers:
            scorer.extend([row for row, _, _ in live])
        state = decoder.extend(state, scored, parents, tokens)
        ys = torch.cat([ys[parents], tokens[:, None]], dim=1)
    return [sorted(each, key=lambda h: h.score, reverse=True) for each in found]


def _candidates(
    full: Tensor, beam: int, eos: int, ctc: _CTC | None
) -> tuple[Tensor, Tensor]:
    """Scores and tokens (N, C) of what may follow, from scores (N, V) without CTC."""
    if ctc is None:
        totals, labels = full.topk(min(beam, full.size(1)))
        return totals, labels
    most = max(1, int(PRE_BEAM * beam))
    totals, labels = full.topk(min(most, full.size(1)))
    # ESPnet's CTC scores the end of sentence whether it is among the best or not.
    totals = totals.masked_fill(labels == eos, -torch.inf) + ctc.score(labels)
    end = full[:, eos] + ctc.end()
    labels = torch.nn.functional.pad(labels, (0, 1), value=eos)
    return torch.cat([totals, end[:, None]], dim=1), labels


def _keep(
    totals: Tensor, labels: Tensor, slots: Tensor, places: int, beam: int
) -> list[tuple[float, int, int, int]]:
    """The best of each utterance: score, row it follows, token, and its own slot.

    Slots 0 to K - 1 are the first utterance's, and so on; `slots` (N,) are the rows'.
    Read from the device once.
    """
    each = totals.size(1)
    grid = totals.new_full((places, each), -torch.inf)
    grid[slots] = totals
    rows = torch.zeros(places, dtype=torch.long, device=slots.device)
    rows[slots] = torch.arange(len(slots), device=slots.device)
    best, index = grid.view(-1, beam * each).topk(beam)  # (B, K)
    first = torch.arange(0, places, beam, device=slots.device)[:, None]
    row = rows[first + index // each]
    label = labels[row, index % each]
    columns = torch.stack([t.double().flatten() for t in (best, row, label)])
    return [
        (total, int(row), int(token), slot)
        for slot, (total, row, token) in enumerate(columns.t().tolist())
        if total > -math.inf
    ]


class _CTC:
    """Weighted prefix scores of the live hypotheses, on whatever device."""

    def __init__(self, logp: Tensor, lengths: Tensor, blank: int, weight: float):
        self._compiled = logp.device.type == "cpu"
        self._weight = weight
        self._scorer: Any
        if self._compiled:
            array = logp.float().numpy()
            self._scorer = PrefixScorer(array, lengths.cpu().numpy(), blank)
        else:
            self._scorer = TorchPrefixScorer(logp.float(), lengths, blank)
        self._prefixes = self._scorer.start()

    def score(self, labels: Tensor) -> Tensor:
        """Of the hypotheses with one of labels (N, C) after: (N, C)."""
        given: Any = labels.numpy() if self._compiled else labels
        return self._weighted(self._scorer.score(self._prefixes, given))

    def end(self) -> Tensor:
        """Of the hypotheses as they are: (N,)."""
        return self._weighted(self._prefixes.end)

    def extend(self, parents: Tensor, labels: Tensor) -> None:
        given: Any = (parents, labels)
        if self._compiled:
            given = (parents.numpy(), labels.numpy())
        self._prefixes = self._scorer.extend(self._prefixes, *given)

    def _weighted(self, scores: Any) -> Tensor:
        tensor = torch.from_numpy(scores) if self._compiled else scores
        return (self._weight * tensor).float()


class _Model:
    """Weighted scores of a language model or the like for the live hypotheses."""

    def __init__(
        self,
        scorer: Any,
        weight: float,
        hidden: Tensor,
        lock: contextlib.AbstractContextManager[Any],
    ) -> None:
        self._scorer = scorer
        self._weight = weight
        self._hidden = hidden
        self._lock = lock
        with lock:
            self._states: Any = [scorer.batch_init_state(h) for h in hidden]
        self._after: Any = self._states

    def score(self, ys: Tensor) -> Tensor:
        """Of each next token (N, V), after ys (N, u + 1)."""
        # Language models do not look at the speech.
        xs = self._hidden[:1].expand(len(ys), -1, -1)
        with self._lock:
            scores, self._after = self._scorer.batch_score(ys, self._states, xs)
        return self._weight * scores

    def extend(self, parents: Sequence[int]) -> None:
        select = self._scorer.select_state
        self._states = [select(self._after, row) for row in parents]
