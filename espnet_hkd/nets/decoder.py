"""The CIF decoder: integrates encoder frames into tokens and names them one by one.

Letters: B utterances, T encoder frames, U target tokens (end-of-sentence included),
D model width, V vocabulary, N hypotheses of a beam search.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import torch
from espnet2.asr.decoder.abs_decoder import AbsDecoder
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    MultiHeadedAttention,
)
from espnet2.legacy.nets.pytorch_backend.transformer.embedding import (
    PositionalEncoding,
)
from espnet2.legacy.nets.pytorch_backend.transformer.positionwise_feed_forward import (
    PositionwiseFeedForward,
)
from espnet2.legacy.nets.scorer_interface import BatchScorerInterface

from espnet_hkd.checks import (
    check_divides,
    check_keys,
    check_number,
    check_switch,
    check_whole,
)
from espnet_hkd.cif import FiredTokens, WeightPredictor, integrate_and_fire
from espnet_hkd.errors import SearchError
from espnet_hkd.nets.void_options import DECODER

# A large finite number: added up over many steps it can never become NaN.
FORBIDDEN = -1.0e10


class DecoderOutput(NamedTuple):
    """One pass of the decoder over whole sentences.

    Attributes:
        logits: (B, U, V).
        merged: (B, U, D), decoder state and CIF vector merged; what linguistic
            distillation teaches and what the vocabulary projection reads.
        fired: The integration; `fired.states` is what acoustic distillation teaches.
    """

    logits: torch.Tensor
    merged: torch.Tensor
    fired: FiredTokens


@dataclasses.dataclass(frozen=True)
class FiredCounts:
    """What the hypotheses of a search share: firings under each count, K an utterance.

    No tuple: ESPnet would copy it with each hypothesis that ends.

    Attributes:
        states: (B K, U, D), the CIF vectors.
        lengths: B K token counts.
        prior: (B, K) log probability of each count, from the weights alone.
        frames: T.
    """

    states: torch.Tensor
    lengths: tuple[int, ...]
    prior: torch.Tensor
    frames: int

    @property
    def per_utterance(self) -> int:
        """K."""
        return self.prior.size(1)


class CausalLayer(torch.nn.Module):
    """Pre-norm Transformer layer of causal self-attention and feed-forward only."""

    def __init__(
        self, size: int, attention_heads: int, linear_units: int, dropout_rate: float
    ) -> None:
        super().__init__()
        self.norm_attn = torch.nn.LayerNorm(size)
        self.self_attn = MultiHeadedAttention(attention_heads, size, dropout_rate)
        self.norm_ff = torch.nn.LayerNorm(size)
        self.feed_forward = PositionwiseFeedForward(size, linear_units, dropout_rate)
        self.dropout = torch.nn.Dropout(dropout_rate)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Map x (B, U, D) under mask (1, U, U), true where attention is allowed."""
        h = self.norm_attn(x)
        x = x + self.dropout(self.self_attn(h, h, h, mask))
        return x + self.dropout(self.feed_forward(self.norm_ff(x)))

    def step(
        self, x: torch.Tensor, past: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map one position; keys and values of earlier positions are not recomputed.

        Args:
            x: (N, 1, D).
            past: (N, 2, H, u, D / H) keys and values so far, None at the first step.

        Returns:
            The output (N, 1, D) and the keys and values (N, 2, H, u + 1, D / H).
        """
        attn = self.self_attn
        h = self.norm_attn(x)
        query, key, value = attn.forward_qkv(h, h, h)
        present = torch.stack([key, value], dim=1)
        if past is not None:
            present = torch.cat([past, present], dim=3)
        key, value = present.unbind(1)
        scores = query @ key.transpose(-2, -1) / math.sqrt(attn.d_k)
        x = x + attn.forward_attention(value, scores, None)
        return x + self.feed_forward(self.norm_ff(x)), present


class CIFDecoder(AbsDecoder, BatchScorerInterface):
    """CIF and autoregressive decoder in one ("hkd_cif_transformer").

    Han et al., INTERSPEECH 2023 (arXiv 2301.13003), figure 1; CIF after Dong & Xu,
    ICASSP 2020 (arXiv 1905.11235). Token u is named from the integrated vector c_u
    and a causal self-attention over what was said before; there is no attention to
    the encoder. Because the CIF sits inside the decoder, ESPnet's beam search needs
    no special case: the length of every hypothesis follows from the scores.

    Args:
        vocab_size: V.
        encoder_output_size: D.
        num_blocks: Self-attention layers.
        attention_heads: Heads of each layer.
        linear_units: Width of the feed-forward layers.
        dropout_rate: On residuals, attention, activations and the weight predictor.
        threshold: Accumulated weight at which a token fires, in (0.5, 1].
        tail: Residual weight above which the utterance's end fires once more, in
            [0, 1]; 1 means never. Used in decoding and for the statistic
            `count_error`, not by the losses.
        early_eos: Allow end-of-sentence before the last firing.
        emit_unk: Allow `<unk>` in hypotheses.
        count_search: Decode with up to so many tokens more and fewer than the weights
            say, too, and let the scores decide; 0: with what they say alone.
        count_penalty: Log probability that each token of difference to the sum of the
            weights costs there.
        initial_weight: Mean weight of a frame before training, in (0, 1); good is the
            corpus' number of tokens (end-of-sentence included) per encoder frame.

    Raises:
        ConfigError: For an unknown key or a value out of range.
    """

    def __init__(
        self,
        vocab_size: int,
        encoder_output_size: int,
        *,
        num_blocks: int = 2,
        attention_heads: int = 4,
        linear_units: int = 2048,
        dropout_rate: float = 0.2,
        threshold: float = 1.0,
        tail: float = 0.5,
        early_eos: bool = False,
        emit_unk: bool = False,
        count_search: int = 0,
        count_penalty: float = 1.0,
        initial_weight: float = 0.25,
        **unknown: Any,
    ) -> None:
        super().__init__()
        size = encoder_output_size
        check_keys("decoder_conf", unknown, CIFDecoder, void=DECODER)
        check_whole("decoder_conf.num_blocks", num_blocks)
        check_whole("decoder_conf.linear_units", linear_units)
        check_whole("decoder_conf.attention_heads", attention_heads)
        check_divides("decoder_conf.attention_heads", attention_heads, size)
        check_number("decoder_conf.dropout_rate", dropout_rate, least=0.0, below=1.0)
        check_number(
            "decoder_conf.initial_weight", initial_weight, above=0.0, below=1.0
        )
        self.threshold = check_number(
            "decoder_conf.threshold", threshold, above=0.5, most=1.0
        )
        self.tail = check_number("decoder_conf.tail", tail, least=0.0, most=1.0)
        self.early_eos = check_switch("decoder_conf.early_eos", early_eos)
        self.emit_unk = check_switch("decoder_conf.emit_unk", emit_unk)
        self.count_search = check_whole(
            "decoder_conf.count_search", count_search, least=0
        )
        self.count_penalty = check_number(
            "decoder_conf.count_penalty", count_penalty, least=0.0
        )
        self.set_special_tokens(blank=0, unk=1, eos=vocab_size - 1)

        self.weight_predictor = WeightPredictor(
            size, initial_weight=initial_weight, dropout_rate=dropout_rate
        )
        self.embed = torch.nn.Embedding(vocab_size, size)
        torch.nn.init.normal_(self.embed.weight, std=size**-0.5)
        self.linear_in = torch.nn.Linear(2 * size, size, bias=False)
        self.positions = PositionalEncoding(size, 0.0)
        self.dropout = torch.nn.Dropout(dropout_rate)
        self.layers: Any = torch.nn.ModuleList(
            CausalLayer(size, attention_heads, linear_units, dropout_rate)
            for _ in range(num_blocks)
        )
        self.norm_out = torch.nn.LayerNorm(size)
        self.linear_merge = torch.nn.Linear(2 * size, size, bias=False)
        self.output_layer = torch.nn.Linear(size, vocab_size, bias=False)

    def set_special_tokens(self, *, blank: int, unk: int | None, eos: int) -> None:
        """Name the ids that the search treats specially; `unk` None: there is none."""
        self.blank = blank
        self.unk = unk
        self.eos = eos

    def fire(
        self,
        hidden: torch.Tensor,
        lengths: torch.Tensor,
        *,
        targets: torch.Tensor | None = None,
        max_tokens: int | None = None,
    ) -> FiredTokens:
        """Integrate encoder output hidden (B, T, D) of lengths (B,) into tokens."""
        weights = self.weight_predictor(hidden, lengths)
        return self._integrate(
            hidden, weights, lengths, targets=targets, max_tokens=max_tokens
        )

    def _integrate(
        self,
        hidden: torch.Tensor,
        weights: torch.Tensor,
        lengths: torch.Tensor,
        **tokens: Any,
    ) -> FiredTokens:
        return integrate_and_fire(
            hidden, weights, lengths, threshold=self.threshold, tail=self.tail, **tokens
        )

    def name_tokens(
        self, fired_states: torch.Tensor, ys_in: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Score every token of known sentences in one pass.

        Args:
            fired_states: (B, U, D), the CIF vectors c_1 ... c_U.
            ys_in: (B, U) int64, start-of-sentence and the first U - 1 tokens.

        Returns:
            logits (B, U, V) and merged states (B, U, D). Position u depends on
            positions up to u only, so padding at the end changes nothing before it.
        """
        shifted = torch.nn.functional.pad(fired_states, (0, 0, 1, 0))[:, :-1]
        x = self._input(ys_in, shifted, first=0)
        size = ys_in.size(1)
        mask = torch.ones(1, size, size, dtype=torch.bool, device=x.device).tril()
        for layer in self.layers:
            x = layer(x, mask)
        return self._output(x, fired_states)

    def forward(
        self,
        hs_pad: torch.Tensor,
        hlens: torch.Tensor,
        ys_in_pad: torch.Tensor,
        ys_in_lens: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Score sentences teacher-forced, weights scaled to the true token counts.

        Args:
            hs_pad: (B, T, D) encoder output.
            hlens: (B,) its lengths.
            ys_in_pad: (B, U) start-of-sentence and the labels.
            ys_in_lens: (B,) their number, so labels and end-of-sentence are counted.

        Returns:
            logits (B, U, V) and ys_in_lens.
        """
        return self.teach(hs_pad, hlens, ys_in_pad, ys_in_lens).logits, ys_in_lens

    def teach(
        self,
        hidden: torch.Tensor,
        lengths: torch.Tensor,
        ys_in: torch.Tensor,
        targets: torch.Tensor,
    ) -> DecoderOutput:
        """As `forward`, with everything that the losses need."""
        fired = self.fire(
            hidden, lengths, targets=targets, max_tokens=int(ys_in.size(1))
        )
        logits, merged = self.name_tokens(fired.states, ys_in)
        return DecoderOutput(logits, merged, fired)

    # Beam search. The number of tokens is a latent variable: with `count_search` C a
    # hypothesis is scored under K = 2 C + 1 counts at once, else under one, and what
    # the search sees is their mixture. Each count has a row of its own in what is
    # fired, K rows for an utterance, one below the other.
    #
    # A hypothesis' state is a plain tuple (ESPnet copies it by `type(obj)(generator)`):
    # what all hypotheses share, the own utterance, the keys and values of the
    # self-attention (K, layers, 2, H, u, D / H), and the log probability of count and
    # tokens so far, given the tokens but for the last (K, V).

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
        return (self._fire_counts(x, xs_lengths.to(x.device)), None, None, None)

    def batch_score(
        self,
        ys: torch.Tensor,
        states: list[Any],
        xs: torch.Tensor,
        return_hs: bool = False,
        xs_mask: torch.Tensor | None = None,
    ) -> tuple[Any, list[Any]]:
        """Score the next token of N hypotheses.

        Let F be the utterance's fired tokens. At tokens 1 to F - 1 end-of-sentence is
        forbidden unless `early_eos`; token F may be anything; after it only
        end-of-sentence is left, at score 0 (its firing was missed, no label is lost).
        Nothing is renormalised. With `count_search` this holds for each count, and the
        scores are those of the mixture.

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
        if xs.size(1) != shared.frames:
            raise SearchError(
                "streaming search cannot decode a CIF model: it needs whole utterances",
                got=f"{xs.size(1)} encoder frames after {shared.frames} at the start",
                wanted="the same encoder output at every step",
                remedy="set `streaming: false` in the decoding configuration",
            )
        counts = shared.per_utterance
        each = len(states) * counts // len(shared.lengths)
        utterances = [i // each if s[1] is None else s[1] for i, s in enumerate(states)]
        rows = [row * counts + k for row in utterances for k in range(counts)]
        fired = torch.tensor([shared.lengths[row] for row in rows], device=xs.device)
        step = ys.size(1) - 1
        weight = self._count_weights(ys, states, shared, utterances)
        caches = [s[2] for s in states]
        if step >= int(fired.max()):
            logp = xs.new_zeros(len(rows), self.output_layer.out_features).float()
            merged = xs.new_zeros(len(rows), xs.size(2))
        else:
            past = None if step == 0 else torch.cat(caches)
            last = ys[:, -1:].repeat_interleave(counts, dim=0)
            logp, merged, present = self._step(last, step, shared.states, rows, past)
            caches = list(present.split(counts))
        logp = self._allow(logp, step, fired).view(len(states), counts, -1)
        joint = weight[..., None] + logp  # (N, K, V)
        # Alone, a count's weight is 0 and the sum is the score itself, to the last bit.
        logp = joint.logsumexp(1) if counts > 1 else joint[:, 0]
        new_states = [
            (shared, row, cache, known)
            for row, cache, known in zip(utterances, caches, joint, strict=True)
        ]
        if not return_hs:
            return logp, new_states
        likeliest = weight.argmax(1) + counts * torch.arange(
            len(states), device=weight.device
        )
        return (logp, merged[likeliest]), new_states

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

    def _input(
        self, tokens: torch.Tensor, previous: torch.Tensor, first: int
    ) -> torch.Tensor:
        """Join tokens (B, U) and the CIF vectors before them (B, U, D)."""
        embedded = self.embed(tokens) * math.sqrt(self.embed.embedding_dim)
        x = self.linear_in(torch.cat([embedded, previous.to(embedded.dtype)], dim=-1))
        last = first + tokens.size(1)
        self.positions.extend_pe(x.new_zeros(1, last))
        table: Any = self.positions.pe
        return self.dropout(x + table[:, first:last].to(x))

    def _output(
        self, x: torch.Tensor, fired_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.norm_out(x)
        merged = self.linear_merge(torch.cat([x, fired_states.to(x.dtype)], dim=-1))
        return self.output_layer(merged), merged

    def _fire_counts(self, hidden: torch.Tensor, lengths: torch.Tensor) -> FiredCounts:
        """Fire hidden (B, T, D) of lengths (B,) under each count to be tried."""
        weights = self.weight_predictor(hidden, lengths)
        fired = self._integrate(hidden, weights, lengths)
        reach = self.count_search
        if reach == 0:
            prior = hidden.new_zeros(hidden.size(0), 1, dtype=torch.float32)
            return FiredCounts(
                fired.states, tuple(fired.lengths.tolist()), prior, hidden.size(1)
            )
        # Scaled as in training, also to the count that the weights say themselves.
        offset = torch.arange(-reach, reach + 1, device=hidden.device)
        count = fired.lengths[:, None].to(hidden.device) + offset  # (B, K)
        prior = -self.count_penalty * (count - fired.mass[:, None]).abs().float()
        # Silence stays silent, and speech is never made silent.
        silent = fired.lengths[:, None] == 0
        possible = torch.where(silent, count == 0, count > 0)
        prior = prior.masked_fill(~possible, FORBIDDEN)
        each = len(offset)
        scaled = self._integrate(
            hidden.repeat_interleave(each, dim=0),
            weights.repeat_interleave(each, dim=0),
            lengths.repeat_interleave(each),
            targets=count.clamp(min=0).flatten(),
        )
        return FiredCounts(
            scaled.states,
            tuple(scaled.lengths.tolist()),
            prior.log_softmax(-1),
            hidden.size(1),
        )

    @staticmethod
    def _count_weights(
        ys: torch.Tensor,
        states: list[Any],
        shared: FiredCounts,
        utterances: list[int],
    ) -> torch.Tensor:
        """Log probability (N, K) of each count, given the tokens so far."""
        if ys.size(1) == 1:
            return shared.prior[utterances]
        if shared.per_utterance == 1:
            return shared.prior.new_zeros(len(states), 1)
        said = ys[:, -1].tolist()
        known = [s[3][:, token] for s, token in zip(states, said, strict=True)]
        return torch.stack(known).log_softmax(-1)

    def _step(
        self,
        last: torch.Tensor,
        step: int,
        fired_states: torch.Tensor,
        rows: list[int],
        past: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Name one token after `last` (M, 1): log p (M, V), merged (M, D), cache."""
        index = torch.tensor(rows, device=fired_states.device)
        current = fired_states[index, step].unsqueeze(1)
        previous = (
            torch.zeros_like(current)
            if step == 0
            else fired_states[index, step - 1].unsqueeze(1)
        )
        x = self._input(last, previous, first=step)
        presents = []
        for i, layer in enumerate(self.layers):
            x, present = layer.step(x, None if past is None else past[:, i])
            presents.append(present)
        logits, merged = self._output(x, current)
        logp = logits[:, 0].float().log_softmax(dim=-1)
        return logp, merged[:, 0], torch.stack(presents, dim=1)

    def _allow(
        self, logp: torch.Tensor, step: int, fired: torch.Tensor
    ) -> torch.Tensor:
        """Forbid what may not come at this step; logp (N, V), fired (N,)."""
        never = [self.blank]
        if not self.emit_unk and self.unk is not None:
            never.append(self.unk)
        logp[:, never] = FORBIDDEN
        if not self.early_eos:
            logp[step < fired - 1, self.eos] = FORBIDDEN
        used_up = step >= fired
        logp[used_up] = FORBIDDEN
        logp[used_up, self.eos] = 0.0
        return logp
