"""The CIF decoder: integrates encoder frames into tokens and names them one by one.

Letters: B utterances, T encoder frames, U target tokens (end-of-sentence included),
D model width, V vocabulary, N hypotheses of a beam search.
"""

from __future__ import annotations

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

from espnet_hkd.checks import (
    check_choice,
    check_divides,
    check_keys,
    check_number,
    check_switch,
    check_whole,
)
from espnet_hkd.cif import FiredTokens, WeightPredictor
from espnet_hkd.nets.emissions import expected_emissions
from espnet_hkd.nets.gate import speech_gate
from espnet_hkd.nets.scoring import CIFScorer, ScoringOptions
from espnet_hkd.nets.stretches import round_stretches, scale_stretches, usable
from espnet_hkd.nets.void_options import DECODER


class DecoderOutput(NamedTuple):
    """One pass of the decoder over whole sentences.

    Attributes:
        logits: (B, U, V).
        merged: (B, U, D), decoder state and CIF vector merged; what linguistic
            distillation teaches and what the vocabulary projection reads.
        fired: The integration; `fired.states` is what acoustic distillation teaches.
        weights: (B, T), as predicted, unscaled.
    """

    logits: torch.Tensor
    merged: torch.Tensor
    fired: FiredTokens
    weights: torch.Tensor


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
        x = x + self.dropout(self._attend(*self.self_attn.forward_qkv(h, h, h), mask))
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
        h = self.norm_attn(x)
        query, key, value = self.self_attn.forward_qkv(h, h, h)
        present = torch.stack([key, value], dim=1)
        if past is not None:
            present = torch.cat([past, present], dim=3)
        key, value = present.unbind(1)
        x = x + self._attend(query, key, value, None)
        return x + self.feed_forward(self.norm_ff(x)), present

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Attend from query (N, H, U, D / H) to keys and values like it: (N, U, D).

        ESPnet's own keeps its weights in the module, where two threads overwrite each
        other's.
        """
        attn = self.self_attn
        scores = query @ key.transpose(-2, -1) / math.sqrt(attn.d_k)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], -torch.inf)
        context = attn.dropout(scores.softmax(-1)) @ value
        return attn.linear_out(context.transpose(1, 2).flatten(2))


class CIFDecoder(AbsDecoder, CIFScorer):
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
        count_doubt: Of these counts, leave out those that are farther by more than this
            from the sum of the weights than what they say is: with 0.5 a sum of 6.3 is
            6 or 7 tokens, one of 6.1 is 6. None: try them all.
        initial_weight: Mean weight of a frame before training, in (0, 1); good is the
            corpus' number of tokens (end-of-sentence included) per encoder frame.
        weight_floor: What a frame's weight must exceed to count, in [0, 1), in training
            and decoding alike; so that pauses fire nothing. 0, as published: none.
        ctc_gate: What CTC's posteriors of all but the blank must sum up to somewhere
            near a frame for its weight to count, in [0, 1), in decoding; so that a
            model trained without pauses fires nothing in them. 0: no gate.
        ctc_gate_reach: How near, in frames; so many frames at the end count always.
        ctc_prior: Let the weights be a correction, in log odds, of the tokens that CTC
            is expected to begin at each frame (`nets.emissions`), rather than of
            `initial_weight`, which then says nothing; no gradient reaches CTC by it.
            For an encoder that CTC has taught before. False, as published.
        valley: Weight below which a frame lies between tokens; in decoding the mass
            between two such is rounded to whole tokens (`nets.stretches`), so that what
            one token lacks does not shift those behind it, and `count_search` is the
            number of places where both ways are tried. 0, as published: no rounding.
        times: What tells when tokens were said: "ctc", the CTC's spikes, where there is
            a CTC; or "cif", the weights.
        time_shift: Seconds from the middle of a token's spike or mass to its begin;
            fitted to aligned speech (`benchmarks/times.py`).

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
        count_doubt: float | None = None,
        initial_weight: float = 0.25,
        weight_floor: float = 0.0,
        ctc_gate: float = 0.0,
        ctc_gate_reach: int = 12,
        ctc_prior: bool = False,
        valley: float = 0.0,
        times: str = "ctc",
        time_shift: float = 0.0,
        **unknown: Any,
    ) -> None:
        super().__init__()
        size = encoder_output_size
        self.vocab_size = vocab_size
        check_keys("decoder_conf", unknown, CIFDecoder, void=DECODER)
        check_whole("decoder_conf.num_blocks", num_blocks)
        check_whole("decoder_conf.linear_units", linear_units)
        check_whole("decoder_conf.attention_heads", attention_heads)
        check_divides("decoder_conf.attention_heads", attention_heads, size)
        check_number("decoder_conf.dropout_rate", dropout_rate, least=0.0, below=1.0)
        check_number(
            "decoder_conf.initial_weight", initial_weight, above=0.0, below=1.0
        )
        check_number("decoder_conf.weight_floor", weight_floor, least=0.0, below=1.0)
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
        self.count_doubt = count_doubt
        if count_doubt is not None:
            self.count_doubt = check_number(
                "decoder_conf.count_doubt", count_doubt, least=0.0
            )
        self.ctc_gate = check_number(
            "decoder_conf.ctc_gate", ctc_gate, least=0.0, below=1.0
        )
        self.ctc_gate_reach = check_whole("decoder_conf.ctc_gate_reach", ctc_gate_reach)
        self.ctc_prior = check_switch("decoder_conf.ctc_prior", ctc_prior)
        self._ctc: tuple[Any, ...] = ()
        self.times = check_choice("decoder_conf.times", times, ("ctc", "cif"))
        self.time_shift = check_number("decoder_conf.time_shift", time_shift)
        self.set_special_tokens(blank=0, unk=1, eos=vocab_size - 1)

        self.weight_predictor = WeightPredictor(
            size,
            # The prior alone at first.
            initial_weight=0.5 if ctc_prior else initial_weight,
            dropout_rate=dropout_rate,
            floor=weight_floor,
        )
        self.valley = check_number("decoder_conf.valley", valley, least=0.0, below=1.0)
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

    def ask_ctc(self, ctc: Any) -> None:
        """Give the CTC that `ctc_gate` and `ctc_prior` ask."""
        # In a tuple: it is the model's part, not the decoder's.
        self._ctc = (ctc,)

    @property
    def options(self) -> ScoringOptions:
        """What a search uses unless it is told otherwise."""
        return ScoringOptions(
            tail=self.tail,
            early_eos=self.early_eos,
            emit_unk=self.emit_unk,
            count_search=self.count_search,
            count_penalty=self.count_penalty,
            count_doubt=self.count_doubt,
        )

    def predict_weights(
        self, hidden: torch.Tensor, lengths: torch.Tensor
    ) -> torch.Tensor:
        """Weights (B, T) of encoder output hidden (B, T, D) of lengths (B,)."""
        gated = self.ctc_gate > 0 and not self.training
        if not gated and not self.ctc_prior:
            return self.weight_predictor(hidden, lengths)
        (ctc,) = self._ctc
        with torch.no_grad():
            logits = ctc.ctc_lo(hidden)
        prior = None
        if self.ctc_prior:
            prior = expected_emissions(logits, lengths, blank=self.blank)
        weights = self.weight_predictor(hidden, lengths, prior)
        if not gated:
            return weights
        blank = logits.float().softmax(-1)[..., self.blank]
        near = speech_gate(
            blank, lengths, threshold=self.ctc_gate, reach=self.ctc_gate_reach
        )
        return weights.masked_fill(~near, 0.0)

    def fire(
        self,
        hidden: torch.Tensor,
        lengths: torch.Tensor,
        *,
        targets: torch.Tensor | None = None,
        max_tokens: int | None = None,
        tail: float | None = None,
    ) -> FiredTokens:
        """Integrate encoder output hidden (B, T, D) of lengths (B,) into tokens.

        Args:
            hidden: Encoder output.
            lengths: Its frames.
            targets: (B,) counts that the weights are scaled to; None: what they say.
            max_tokens: Width of the result, where it is known.
            tail: None: the decoder's own.
        """
        weights = self.predict_weights(hidden, lengths)
        tail = self.tail if tail is None else tail
        if self.valley > 0:
            weights, counts = self._nearest_rounding(weights, targets, tail)
            targets = counts if targets is None else targets
        return self._integrate(
            hidden,
            weights,
            lengths,
            tail=tail,
            targets=targets,
            max_tokens=max_tokens,
        )

    def count(self, weights: torch.Tensor) -> torch.Tensor:
        """Tokens (B,) that decoding would fire from weights (B, T)."""
        if self.valley > 0:
            return round_stretches(weights, self.valley, tail=self.tail).tokens[:, 0]
        mass = usable(weights).sum(1)
        whole = (mass + 1 - self.threshold).floor()
        return whole + (mass - whole > self.tail)

    def _nearest_rounding(
        self, weights: torch.Tensor, targets: torch.Tensor | None, tail: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (B, T) rounded by stretches, and their sums (B,).

        Of the ways that a search looks at, that whose sum is nearest to `targets` (B,).
        """
        doubts = 0 if targets is None else self.count_search
        ways = round_stretches(weights, self.valley, doubts=doubts, tail=tail)
        best = torch.zeros_like(ways.tokens[:, 0])
        if targets is not None:
            off = (ways.tokens - targets.to(best)[:, None]).abs()
            # The sums first, then how much was changed for them: less than T.
            best = (off * weights.size(1) + ways.apart).argmin(1)
        row = torch.arange(len(weights), device=weights.device)
        return ways.weights[row, best], ways.tokens[row, best]

    def forward_tokens(
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
        return self.teacher_forced(
            hs_pad, hlens, ys_in_pad, ys_in_lens
        ).logits, ys_in_lens

    def teacher_forced(
        self,
        hidden: torch.Tensor,
        lengths: torch.Tensor,
        ys_in: torch.Tensor,
        targets: torch.Tensor,
        stretches: torch.Tensor | None = None,
    ) -> DecoderOutput:
        """As `forward`, with everything that the losses need.

        `stretches` (B, T): the token of each frame, if each is to have its own mass.
        """
        weights = self.predict_weights(hidden, lengths)
        scaled = weights
        if stretches is not None:
            scaled = scale_stretches(weights, stretches, targets)
        fired = self._integrate(
            hidden,
            scaled,
            lengths,
            tail=self.tail,
            targets=targets,
            max_tokens=int(ys_in.size(1)),
        )
        logits, merged = self.forward_tokens(fired.states, ys_in)
        return DecoderOutput(logits, merged, fired, weights)

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

    def step(
        self,
        last: torch.Tensor,
        previous: torch.Tensor,
        current: torch.Tensor,
        *,
        step: int,
        past: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute one position; earlier ones are not computed again.

        Args:
            last: (M,) int64, the tokens before it.
            previous: (M, D), their CIF vectors; zeros at the first position.
            current: (M, D), the CIF vectors of the position.
            step: The position, from 0.
            past: (M, layers, 2, H, step, D / H) keys and values so far, None at the
                first position.

        Returns:
            logits (M, V), merged states (M, D), and the keys and values of all
            positions.
        """
        x = self._input(last[:, None], previous[:, None], first=step)
        presents = []
        for i, layer in enumerate(self.layers):
            x, present = layer.step(x, None if past is None else past[:, i])
            presents.append(present)
        logits, merged = self._output(x, current[:, None])
        return logits[:, 0], merged[:, 0], torch.stack(presents, dim=1)
