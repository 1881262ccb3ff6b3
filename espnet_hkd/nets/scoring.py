"""What beam search asks of the CIF decoder: scores of the next token, and the counts.

The number of tokens is a latent variable. With `count_search` C a hypothesis is scored
under K counts at once, else under one, and what the search sees is their mixture: K is
2 C + 1, up to C tokens more and fewer; or, where the weights are rounded by stretches,
2 ** C, with one token more or less at each of the C most doubtful places; fewer with
`count_doubt`, which leaves out what lies too far from the weights. A count that the
tokens so far have made all but impossible is not computed any more.

Letters: B utterances, T encoder frames, U tokens, D width, V vocabulary, N hypotheses,
K counts, M pairs of a hypothesis and a count that is still possible, L layers, H heads,
u tokens so far.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from espnet2.legacy.nets.scorer_interface import BatchScorerInterface

from espnet_hkd.cif import FiredTokens, integrate_and_fire
from espnet_hkd.errors import SearchError
from espnet_hkd.nets.stretches import round_stretches

# Large finite numbers: added up over many steps they can never become NaN. ESPnet
# gives -1e10 to hypotheses that have ended and to what its CTC never says; what is
# forbidden here ranks above that, and what must never be chosen below it.
FORBIDDEN = -1.0e9
NEVER = -1.0e12
POSSIBLE = 0.5 * FORBIDDEN
# Log probability, given the tokens so far, below which a count is dropped. It changes
# the score of a hypothesis by less than float32 can tell.
NEGLIGIBLE = -20.0


class ScoringOptions(NamedTuple):
    """Options of one search; `CIFDecoder` says what they mean."""

    tail: float
    early_eos: bool
    emit_unk: bool
    count_search: int
    count_penalty: float
    count_doubt: float | None = None


@dataclasses.dataclass(frozen=True)
class FiredCounts:
    """What the hypotheses of a search share: firings under each count, K an utterance.

    No tuple: ESPnet would copy it with each hypothesis that ends.

    Attributes:
        states: (B K, U, D), the CIF vectors.
        lengths: (B, K) tokens under each count that is possible for an utterance.
        prior: (B, K) log probability of each count, from the weights alone.
        most: B numbers, the tokens of the longest possible hypothesis.
        frames: B numbers of frames.
        padded: T.
        options: Of the search.
    """

    states: torch.Tensor
    lengths: torch.Tensor
    prior: torch.Tensor
    most: tuple[int, ...]
    frames: tuple[int, ...]
    padded: int
    options: ScoringOptions


class Prefixes(NamedTuple):
    """N hypotheses of the same number of tokens, of one or more utterances.

    Attributes:
        utterance: (N,) rows of `FiredCounts`.
        weight: (N, K) log probability of each count, given the tokens.
        possible: (N, K) which counts are still computed; M are true.
        pairs: (M,) each, hypothesis and count of what is true, in this order.
        cache: (M, L, 2, H, u, D / H) keys and values, None at the start.
    """

    utterance: torch.Tensor
    weight: torch.Tensor
    possible: torch.Tensor
    pairs: tuple[torch.Tensor, torch.Tensor]
    cache: torch.Tensor | None


class Scored(NamedTuple):
    """Scores of the next token of N hypotheses.

    Attributes:
        logp: (N, V) float32 log probabilities; below `POSSIBLE` where forbidden.
        joint: (N, K, V) the same of count and token together.
        cache: (M, L, 2, H, u + 1, D / H), None when no token was left to compute.
        merged: (N, D) merged states under the likeliest count.
    """

    logp: torch.Tensor
    joint: torch.Tensor
    cache: torch.Tensor | None
    merged: torch.Tensor


def to_device(numbers: Sequence[Any], device: torch.device) -> torch.Tensor:
    """A tensor of these numbers, without waiting for what the device still does."""
    return torch.tensor(numbers).to(device, non_blocking=True)


def _pairs(possible: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hypothesis and count (M,) of each true entry of possible (N, K)."""
    if possible.size(1) == 1:
        first = torch.arange(len(possible), device=possible.device)
        return first, torch.zeros_like(first)
    hypothesis, count = possible.nonzero(as_tuple=True)
    return hypothesis, count


class CIFScorer(BatchScorerInterface):
    """The scoring half of `CIFDecoder`, which says how one position is computed."""

    # Given by the decoder.
    threshold: float
    valley: float
    blank: int
    unk: int | None
    eos: int
    vocab_size: int
    options: ScoringOptions
    predict_weights: Any
    step: Any

    def fire_counts(
        self,
        hidden: torch.Tensor,
        lengths: torch.Tensor,
        options: ScoringOptions | None = None,
    ) -> FiredCounts:
        """Fire hidden (B, T, D) of lengths (B,) under each count to be tried."""
        options = options or self.options
        weights = self.predict_weights(hidden, lengths)
        reach = options.count_search
        states = None
        # Weights (B, K, T) that sum to the counts (B, K), how far these are from what
        # the weights sum up to, and which of them is the weights' own.
        if self.valley > 0:
            scaled, counts, apart = round_stretches(
                weights, self.valley, doubts=reach, tail=options.tail
            )
            own = 0
        else:
            fired = self._integrate(hidden, weights, lengths, tail=options.tail)
            offset = torch.arange(-reach, reach + 1, device=hidden.device)
            counts = fired.lengths[:, None].to(hidden.device) + offset
            apart = (counts - fired.mass[:, None]).abs()
            own = reach
            # Scaled as in training, also to the count that the weights say themselves,
            # where there are others.
            scaled = weights[:, None].expand(-1, len(offset), -1)
            states = fired.states if reach == 0 else None
        # Silence stays silent, and speech is never made silent.
        silent = counts[:, own, None] == 0
        possible = torch.where(silent, counts == 0, counts > 0) & apart.isfinite()
        if options.count_doubt is not None:
            possible &= apart - apart[:, own, None] <= options.count_doubt
        cost = options.count_penalty * apart.float()
        prior = (-cost).masked_fill(~possible, FORBIDDEN).log_softmax(-1)
        longest = counts.masked_fill(~possible, 0).amax(1)
        counts = counts.clamp(min=0)
        # One transfer for all that steers the search.
        used = possible.any(0).to(longest)
        steering = torch.cat([longest, lengths.to(longest), used]).tolist()
        most, frames = steering[: len(longest)], steering[len(longest) : -len(used)]
        # Counts that are possible for no utterance are left out.
        kept = [
            place for place, is_used in enumerate(steering[-len(used) :]) if is_used
        ]
        if len(kept) < len(used):
            places = to_device(kept, counts.device)
            prior, counts = prior[:, places], counts[:, places]
            scaled = scaled[:, places]
        if states is None:
            each = counts.size(1)
            states = self._integrate(
                hidden.repeat_interleave(each, dim=0),
                scaled.flatten(0, 1),
                lengths.repeat_interleave(each),
                targets=counts.flatten(),
            ).states
        return FiredCounts(
            states, counts, prior, tuple(most), tuple(frames), hidden.size(1), options
        )

    def _integrate(
        self,
        hidden: torch.Tensor,
        weights: torch.Tensor,
        lengths: torch.Tensor,
        **tokens: Any,
    ) -> FiredTokens:
        return integrate_and_fire(
            hidden, weights, lengths, threshold=self.threshold, **tokens
        )

    @staticmethod
    def start(shared: FiredCounts) -> Prefixes:
        """The empty hypothesis of each utterance."""
        prior = shared.prior
        utterance = torch.arange(len(prior), device=prior.device)
        possible = prior > NEGLIGIBLE
        return Prefixes(utterance, prior, possible, _pairs(possible), None)

    @staticmethod
    def extend(
        before: Prefixes, scored: Scored, parents: torch.Tensor, tokens: torch.Tensor
    ) -> Prefixes:
        """Append tokens (N',) to the hypotheses `parents` (N',) of `before`.

        With several counts it waits for the number of pairs that are left.
        """
        utterance = before.utterance[parents]
        cache = scored.cache
        if before.weight.size(1) == 1:
            possible = before.possible[parents]
            return Prefixes(
                utterance,
                before.weight[parents],
                possible,
                _pairs(possible),
                None if cache is None else cache[parents],
            )
        weight = scored.joint[parents, :, tokens].log_softmax(-1)
        possible = before.possible[parents] & (weight > NEGLIGIBLE)
        pairs = hypothesis, count = _pairs(possible)
        if cache is not None:
            row = before.possible.flatten().cumsum(0).view_as(before.possible) - 1
            cache = cache[row[parents[hypothesis], count]]
        return Prefixes(utterance, weight, possible, pairs, cache)

    def score_next(
        self, shared: FiredCounts, prefixes: Prefixes, last: torch.Tensor, step: int
    ) -> Scored:
        """Score the next token of N hypotheses of `step` tokens that end in last (N,).

        Let F be the utterance's fired tokens. At tokens 1 to F - 1 end-of-sentence is
        forbidden unless `early_eos`; token F may be anything; after it only
        end-of-sentence is left, at score 0 (its firing was missed, no label is lost).
        Nothing is renormalised. With several counts this holds for each, and the
        scores are those of the mixture.
        """
        counts = prefixes.weight.size(1)
        possible, utterance = prefixes.possible, prefixes.utterance
        fired = shared.lengths[utterance]  # (N, K)
        cache = None
        if step >= max(shared.most):
            size = (*fired.shape, self.vocab_size)
            logp = shared.prior.new_zeros(size)
            merged = shared.states.new_zeros(len(last), shared.states.size(-1))
        else:
            hypothesis, count = prefixes.pairs
            rows = utterance[hypothesis] * counts + count
            current = shared.states[rows, step]
            previous = (
                torch.zeros_like(current)
                if step == 0
                else shared.states[rows, step - 1]
            )
            logits, each, cache = self.step(
                last[hypothesis], previous, current, step=step, past=prefixes.cache
            )
            logp = logits.float().log_softmax(-1)
            if counts == 1:
                logp, merged = logp[:, None], each
            else:
                full = logp.new_full((*fired.shape, logp.size(-1)), FORBIDDEN)
                full[hypothesis, count] = logp
                likeliest = prefixes.weight.masked_fill(~possible, NEVER).argmax(1)
                row = possible.flatten().cumsum(0).view_as(possible) - 1
                merged = each[row.gather(1, likeliest[:, None])[:, 0].clamp(min=0)]
                logp = full
        logp = self._allow(logp, step, fired, shared.options)
        # Alone, a count's weight is 0 and the sum is the score itself, to the last bit.
        if counts == 1:
            return Scored(logp[:, 0], logp, cache, merged)
        joint = logp + prefixes.weight[..., None]
        joint = joint.masked_fill(~possible[..., None], NEVER)
        return Scored(joint.logsumexp(1), joint, cache, merged)

    def _allow(
        self,
        logp: torch.Tensor,
        step: int,
        fired: torch.Tensor,
        options: ScoringOptions,
    ) -> torch.Tensor:
        """Forbid what may not come at this step; logp (N, K, V), fired (N, K)."""
        used_up = (step >= fired)[..., None]
        end = logp[..., self.eos]
        if not options.early_eos:
            end = end.masked_fill(step < fired - 1, FORBIDDEN)
        logp = logp.masked_fill(used_up, FORBIDDEN)
        logp[..., self.eos] = end.masked_fill(used_up[..., 0], 0.0)
        logp[..., self.blank] = NEVER
        if not options.emit_unk and self.unk is not None:
            logp[..., self.unk] = NEVER
        return logp

    # ESPnet's own searches. A hypothesis' state is a plain tuple (ESPnet copies it by
    # `type(obj)(generator)`): what all hypotheses share, the own utterance, which
    # counts are possible (K,), their keys and values, and the log probability of count
    # and tokens so far, given the tokens but for the last (K, V).

    def init_state(self, x: torch.Tensor) -> tuple:
        """Fire the tokens of one utterance x (T, D)."""
        return self.batch_init_state(x)

    def batch_init_state(
        self, x: torch.Tensor, xs_lengths: torch.Tensor | None = None
    ) -> tuple:
        """Fire the tokens of x (T, D) or (B, T, D), once for all hypotheses."""
        if x.dim() == 2:
            x = x.unsqueeze(0)
        if xs_lengths is None:
            xs_lengths = torch.full((x.size(0),), x.size(1), dtype=torch.long)
        return (self.fire_counts(x, xs_lengths.to(x.device)), None, None, None, None)

    def batch_score(
        self,
        ys: torch.Tensor,
        states: list[Any],
        xs: torch.Tensor,
        return_hs: bool = False,
        xs_mask: torch.Tensor | None = None,
    ) -> tuple[Any, list[Any]]:
        """Score the next token of N hypotheses, as `score_next`, for ESPnet's search.

        Args:
            ys: (N, u + 1) int64, start-of-sentence and the u tokens so far.
            states: N states.
            xs: (N, T, D); read only to notice a search that feeds the speech in pieces.
            return_hs: Return the merged states (N, D) too, those of the likeliest
                count.
            xs_mask: Accepted because padding is known from the first state.

        Returns:
            Log probabilities (N, V), float32, and N new states.

        Raises:
            SearchError: When the speech comes in pieces (streaming).
        """
        shared: FiredCounts = states[0][0]
        if xs.size(1) != shared.padded:
            raise SearchError(
                "streaming search cannot decode a CIF model: it needs whole utterances",
                got=f"{xs.size(1)} encoder frames after {shared.padded} at the start",
                wanted="the same encoder output at every step",
                remedy="set `streaming: false` in the decoding configuration",
            )
        step = ys.size(1) - 1
        before, prefixes = self._unpack(shared, states, ys)
        scored = self.score_next(shared, prefixes, ys[:, -1], step)
        scored = self._steer(scored, shared, before, ys, step)
        caches: Any = [None] * len(states)
        if scored.cache is not None:
            # With one count each hypothesis has one row; else it waits for them.
            one = prefixes.possible.size(1) == 1
            sizes = 1 if one else prefixes.possible.sum(1).tolist()
            caches = scored.cache.split(sizes)
        new_states = [
            (shared, *rest)
            for rest in zip(
                before, prefixes.possible, caches, scored.joint, strict=True
            )
        ]
        logp = scored.logp
        return ((logp, scored.merged) if return_hs else logp), new_states

    def _unpack(
        self, shared: FiredCounts, states: list[Any], ys: torch.Tensor
    ) -> tuple[list[int], Prefixes]:
        """Utterances of N states, and the hypotheses that their last tokens make."""
        # All hypotheses begin with one state; utterances follow each other.
        each = len(states) // len(shared.most)
        utterances = [i // each if s[1] is None else s[1] for i, s in enumerate(states)]
        index = to_device(utterances, shared.prior.device)
        if states[0][4] is None:
            prior = shared.prior[index]
            possible = prior > NEGLIGIBLE
            pairs = _pairs(possible)
            return utterances, Prefixes(index, prior, possible, pairs, None)
        possible = torch.stack([s[2] for s in states])
        joint = torch.stack([s[4] for s in states])
        caches = [s[3] for s in states]
        cache = None if caches[0] is None else torch.cat(caches)
        rows = torch.arange(len(states), device=joint.device)
        if possible.size(1) == 1:
            zero = torch.zeros_like(joint[..., 0])
            return utterances, Prefixes(index, zero, possible, _pairs(possible), cache)
        # Its pairs are not looked at: those of what comes next are made there.
        before = Prefixes(index, joint[..., 0], possible, (rows, rows), cache)
        scored = Scored(joint[:, 0], joint, cache, joint)
        return utterances, self.extend(before, scored, rows, ys[:, -1].to(joint.device))

    def _steer(
        self,
        scored: Scored,
        shared: FiredCounts,
        utterances: list[int],
        ys: torch.Tensor,
        step: int,
    ) -> Scored:
        """Make ESPnet's search stop where it would go on, or end a second time.

        Two habits of `BatchBeamSearch`. It always fills its beam, with forbidden
        hypotheses when fewer are possible, and these go on when all others have
        ended: one step after the longest possible hypothesis they are made to fill the
        beam, at the next all of them end. Scores cannot save that step. A search of
        beam K whose N live hypotheses are fewer takes K tokens of them all the same,
        of which at most N end it, one of each: the K - N others live on, until N is K
        for once. A real end cannot wait for that either: the only token that a text
        may hold for nothing, the blank, is impossible to CTC.

        And with `maxlenratio: 0.0` it appends end-of-sentence at step T whatever came,
        so that a hypothesis that has just ended would end twice: there the blank, which
        `asr_inference` removes from its texts, stands for the first end-of-sentence.
        """
        late = [step - shared.most[b] for b in utterances]
        final = [step == shared.frames[b] - 1 for b in utterances]
        if max(late) <= 0 and not any(final):
            return scored
        device = scored.logp.device
        joint = scored.joint.clone()
        if any(final):
            rows = torch.tensor(final, device=device)
            ending = joint[rows]
            ending[ending < POSSIBLE] = NEVER
            ending[..., self.blank] = ending[..., self.eos]
            ending[..., self.eos] = NEVER
            joint[rows] = ending
        # A blank is no label: where it stands for the end, the end is still to come.
        ended = (ys[:, -1] == self.blank).tolist()
        over = [n > 0 and not e for n, e in zip(late, ended, strict=True)]
        if any(over):
            odd = torch.tensor([n % 2 == 1 for n in late], device=device)
            rows = torch.tensor(over, device=device)
            widen, close = rows & odd, rows & ~odd
            joint[widen] = 0.0
            joint[widen, :, self.blank] = NEVER
            joint[widen, :, self.eos] = NEVER
            joint[close] = NEVER
            joint[close, :, self.eos] = 0.0
        logp = joint[:, 0] if joint.size(1) == 1 else joint.logsumexp(1)
        return scored._replace(logp=logp, joint=joint)

    def score(self, y: torch.Tensor, state: Any, x: torch.Tensor) -> Any:
        """Refuse searches that score one hypothesis at a time."""
        raise SearchError(
            "a CIF model cannot be decoded by a search that scores one hypothesis at "
            "a time, such as the time-synchronous one: tokens end by firings, not by "
            "CTC's frames",
            got="a score asked for a single hypothesis",
            wanted="ESPnet's label-synchronous batch beam search",
            remedy="set `time_sync: false`, and use scorers with a batch interface "
            "(`ngram_scorer: full`)",
        )

    def batch_score_partially_AR(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
        """Refuse the partially autoregressive search."""
        raise SearchError(
            "a CIF model cannot be decoded partially autoregressively: that search "
            "fills masked positions, which a CIF decoder was not trained for",
            got="`partial_ar: true`",
            wanted="ESPnet's label-synchronous batch beam search",
            remedy="set `partial_ar: false` in the decoding configuration",
        )

    forward_partially_AR = batch_score_partially_AR  # noqa: N815
