"""The CIF speech recogniser and its training losses.

Letters: B utterances, T encoder frames, U target tokens (end-of-sentence included),
D model width, V vocabulary, E PLM width, N valid tokens of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.torch_utils.device_funcs import force_gatherable

from espnet_hkd.checks import check_keys, check_number, check_whole
from espnet_hkd.errors import ConfigError, SearchError
from espnet_hkd.losses import label_smoothed_cross_entropy, quantity_loss
from espnet_hkd.losses.counts import count_alignment_loss, ctc_expected_counts
from espnet_hkd.nets.decoder import CIFDecoder
from espnet_hkd.nets.distillation import Distillation
from espnet_hkd.nets.lexicon import LexiconCTC
from espnet_hkd.nets.loading import announce_loading, check_weights
from espnet_hkd.nets.own_mass import own_mass
from espnet_hkd.nets.short_pauses import ShortPauses
from espnet_hkd.nets.stretches import stretch_quantity_loss, token_stretches
from espnet_hkd.nets.void_options import MODEL

PARENT_OPTIONS = (
    "autocast_frontend",
    "extract_feats_in_collect_stats",
    "ignore_id",
    "sym_blank",
    "sym_eos",
    "sym_sos",
    "sym_space",
)


class AbsentCTC(torch.nn.Module):
    """Stands where the CTC head would be in a model trained without one."""

    def log_softmax(self, hs_pad: torch.Tensor) -> torch.Tensor:
        """Refuse: ESPnet's decoding asks for CTC with weight 0.5 by default."""
        raise SearchError(
            "the decoding configuration asks for CTC scores and the model has no CTC",
            got="ctc_weight above 0, and a model trained with `ctc_weight: 0`",
            wanted="no CTC scores",
            remedy="set `ctc_weight: 0.0` in the decoding configuration",
        )

    argmax = log_softmax
    softmax = log_softmax


class CIFASRModel(Distillation, ESPnetASRModel):
    """CIF recogniser with hierarchical knowledge distillation ("hkd_cif").

    Han et al., INTERSPEECH 2023 (arXiv 2301.13003), section 3:

        loss = cross entropy + ctc_weight * CTC + quantity_weight * quantity
               + acd_weight * acoustic contrastive + lrd_weight * linguistic regression

    and, beyond the paper, lexicon_weight * CTC of the tokens' pronunciations.
    Every term is a sum over the batch, divided once by the number of target tokens
    (end-of-sentence included) of all ranks. End-of-sentence is a target token of the
    CIF and of the decoder; CTC labels do not contain it.

    Args:
        ctc_weight: Added to the other terms, unlike in ESPnet's hybrid model; 0: no
            CTC head.
        lsm_weight: Label smoothing of the cross entropy, in [0, 1).
        quantity_weight: Weight of |sum of weights - U|.
        count_align_weight: Weight of the CIF's running sum against the number of labels
            that CTC expects to have begun, frame by frame; beyond the paper.
        count_align_steps: Training steps after which it ends; 0: never.
        token_scaling: Share of the training's utterances whose weights are scaled
            token by token: each has mass 1 in its own stretch of frames by CTC's
            alignment of the transcript, and the quantity loss asks for that. 0, as
            published: the weights are scaled to the utterance's number of tokens.
        acd_weight: Weight of the acoustic contrastive distillation; 0: no head.
        acd_temperature: Divides the cosines.
        acd_negatives: Negatives drawn per token, or "all".
        acd_same_token_negatives: Admit other occurrences of the same token as
            negatives, as published.
        acd_gather: Take negatives from all ranks.
        lrd_weight: Weight of the linguistic regression distillation; 0: no head.
        lrd_loss: How states are compared: `squared` (published), `smooth_l1`, `cosine`.
        lrd_residual: Teach what of a teacher's state the token alone does not explain:
            its difference to the running mean of the token's states.
        kd_ramp: Training steps over which both distillation weights rise from 0.
        kd_norm: A layer norm before each distillation head.
        extra_weight: Weight of the sentences without speech that
            `preprocessor_conf.extra_text` brings: their cross entropy and, with a
            teacher, `lrd_weight` times their regression, from pseudo-speech.
        extra_noise: How the pseudo-speech is spoilt, here by noise; see PseudoSpeech.
        extra_confusions: The same, by tokens that sound alike.
        extra_masks: The same, by masks.
        teacher_dim: E; required when one of the distillation weights is above 0.
        lexicon: File of lines "TOKEN SYMBOL SYMBOL ..."; null: no such loss. It stands
            on the layers that `encoder_conf.interctc_layer_idx` names.
        lexicon_weight: Weight of its CTC loss, the mean over these layers.
        options: Those of ESPnetASRModel that apply; see PARENT_OPTIONS.

    Raises:
        ConfigError: For an unknown key, a wrong type or a negative weight.
    """

    # ESPnet declares both optional; here the decoder is always there, and a model
    # without CTC has a stand-in.
    decoder: CIFDecoder
    ctc: Any
    training_steps: torch.Tensor

    def __init__(
        self,
        vocab_size: int,
        token_list: tuple[str, ...] | list[str],
        frontend: Any,
        specaug: Any,
        normalize: Any,
        preencoder: Any,
        encoder: Any,
        postencoder: Any,
        decoder: Any,
        ctc: Any,
        joint_network: Any = None,
        *,
        ctc_weight: float = 0.5,
        lsm_weight: float = 0.1,
        quantity_weight: float = 1.0,
        count_align_weight: float = 0.0,
        count_align_steps: int = 0,
        token_scaling: float = 0.0,
        acd_weight: float = 0.0,
        acd_temperature: float = 0.02,
        acd_negatives: int | str = 700,
        acd_same_token_negatives: bool = False,
        acd_gather: bool = False,
        lrd_weight: float = 0.0,
        lrd_loss: str = "squared",
        lrd_residual: bool = False,
        kd_ramp: int = 0,
        kd_norm: bool = False,
        extra_weight: float = 0.0,
        extra_noise: float = 1.0,
        extra_confusions: float = 0.1,
        extra_masks: float = 0.2,
        teacher_dim: int | None = None,
        lexicon: str | None = None,
        lexicon_weight: float = 0.5,
        **options: Any,
    ) -> None:
        if not isinstance(decoder, CIFDecoder):
            raise ConfigError(
                "`model: hkd_cif` works with its own decoder only",
                got=f"decoder {type(decoder).__name__}",
                wanted="`decoder: hkd_cif_transformer`",
                remedy="set it in the training configuration, or choose another model",
            )
        check_keys("model_conf", options, CIFASRModel, PARENT_OPTIONS, void=MODEL)
        _check_statistics(frontend, normalize)
        _check_preencoder(frontend, preencoder)
        ctc_weight = check_number("model_conf.ctc_weight", ctc_weight, least=0)
        _check_ctc(ctc, ctc_weight, encoder)
        super().__init__(
            vocab_size=vocab_size,
            token_list=token_list,
            frontend=frontend,
            specaug=specaug,
            normalize=normalize,
            preencoder=preencoder,
            encoder=encoder,
            postencoder=postencoder,
            decoder=decoder,
            ctc=ctc,
            joint_network=joint_network,
            # The parent mixes with 1 - ctc_weight and drops the decoder at 1. Here
            # the weight is additive; the parent only learns whether there is a CTC.
            ctc_weight=0.5 if ctc_weight > 0 else 0.0,
            report_cer=False,
            report_wer=False,
            **options,
        )
        if self.ctc is None:
            self.ctc = AbsentCTC()
        self.ctc_weight = ctc_weight
        self.lsm_weight = check_number(
            "model_conf.lsm_weight", lsm_weight, least=0, below=1
        )
        self.quantity_weight = check_number(
            "model_conf.quantity_weight", quantity_weight, least=0
        )
        tokens = list(token_list)
        decoder.set_special_tokens(
            blank=self.blank_id,
            unk=tokens.index("<unk>") if "<unk>" in tokens else None,
            eos=self.eos,
        )
        if (decoder.ctc_gate > 0 or decoder.ctc_prior) and ctc_weight == 0:
            raise ConfigError(
                "CTC cannot say where tokens or pauses are in a model without CTC",
                got=f"decoder_conf.ctc_gate {decoder.ctc_gate}, ctc_prior "
                f"{str(decoder.ctc_prior).lower()}; ctc_weight 0",
                wanted="a ctc_weight above 0",
                remedy="set it, or set ctc_gate to 0 and ctc_prior to false",
            )
        decoder.ask_ctc(self.ctc)
        self.set_up_distillation(
            vocab_size,
            decoder.embed.embedding_dim,
            acd_weight=acd_weight,
            acd_temperature=acd_temperature,
            acd_negatives=acd_negatives,
            acd_same_token_negatives=acd_same_token_negatives,
            acd_gather=acd_gather,
            lrd_weight=lrd_weight,
            lrd_loss=lrd_loss,
            lrd_residual=lrd_residual,
            kd_ramp=kd_ramp,
            kd_norm=kd_norm,
            extra_weight=extra_weight,
            extra_noise=extra_noise,
            extra_confusions=extra_confusions,
            extra_masks=extra_masks,
            teacher_dim=teacher_dim,
        )
        self.count_align_weight = check_number(
            "model_conf.count_align_weight", count_align_weight, least=0
        )
        self.count_align_steps = check_whole(
            "model_conf.count_align_steps", count_align_steps, least=0
        )
        self.token_scaling = check_number(
            "model_conf.token_scaling", token_scaling, least=0, most=1
        )
        supervised = self.count_align_weight > 0 or self.token_scaling > 0
        if supervised and ctc_weight == 0:
            raise ConfigError(
                "CTC cannot supervise the weights of a model without CTC",
                got=f"count_align_weight {count_align_weight}, token_scaling "
                f"{token_scaling}, ctc_weight 0",
                wanted="a ctc_weight above 0",
                remedy="set it, or set count_align_weight and token_scaling to 0",
            )
        # The number of this training step, also on the host: None after loading.
        self._step: int | None = 0
        if self.kd_ramp > 0 or self.count_align_steps > 0:
            self.register_buffer("training_steps", torch.zeros(()))
            self.register_load_state_dict_post_hook(_forget_step)
        self.lexicon_weight = check_number(
            "model_conf.lexicon_weight", lexicon_weight, least=0
        )
        self.lexicon_ctc = None
        if lexicon is not None and self.lexicon_weight > 0:
            self.lexicon_ctc = _lexicon_ctc(lexicon, tokens, encoder)
        announce_loading(self)

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        text: torch.Tensor,
        text_lengths: torch.Tensor,
        **kwargs: Any,
    ) -> Any:
        """Compute the loss of a batch.

        Args:
            speech: (B, samples) or features (B, frames, F).
            speech_lengths: (B,).
            text: (B, U - 1) int64 labels, padded with -1.
            text_lengths: (B,).
            kwargs: `teacher` (B, U, E) and `teacher_mask` (B, U), 1 where valid,
                when distilling; `utt_id` and lengths are not read.

        Returns:
            The loss per own target token, statistics (floats, always the same keys),
            and the number of own target tokens, by which ESPnet weights the ranks.
        """
        if self.training and hasattr(self, "training_steps"):
            self._count_step()
        hidden, inner, lengths = self._encode_layers(speech, speech_lengths)
        ys_in, ys_out = self.add_sos_eos(text, text_lengths)
        targets = text_lengths + 1
        counts = self._expected_counts(hidden, lengths, text, text_lengths)
        stretches = self._stretches(counts, targets, ys_in.size(1))
        output = self.decoder.teacher_forced(hidden, lengths, ys_in, targets, stretches)
        valid = ys_out != self.ignore_id

        att = label_smoothed_cross_entropy(output.logits, ys_out, self.lsm_weight)
        ctc, infeasible, best = self._ctc_term(hidden, lengths, text, text_lengths)
        if stretches is None:
            quantity = quantity_loss(output.fired.mass, targets)
        else:
            quantity = stretch_quantity_loss(
                output.weights, stretches, targets, ys_in.size(1)
            )
        selection = self.select(ys_out, kwargs)
        acd, acc_acd, lrd = self.distillation_terms(output, selection)
        lexicon = self._lexicon_term(inner, lengths, text)
        ramp = self._ramp()
        align = self._alignment_term(output.weights, counts, lengths)
        extra, extra_lrd = self.extra_terms(output, ys_out, kwargs, selection)

        tokens = targets.sum()
        loss = (
            att
            + self.ctc_weight * ctc
            + self.quantity_weight * quantity
            + self.count_align_weight * align
            + ramp * self.acd_weight * acd
            + ramp * self.lrd_weight * lrd.loss
            + self.extra_weight * (extra + ramp * self.lrd_weight * extra_lrd)
            + self.lexicon_weight * lexicon
        ) / tokens
        fired = self.decoder.count(output.weights.detach())
        correct = (output.logits.argmax(-1) == ys_out) & valid
        stats = {
            "loss": loss,
            "loss_att": att / tokens,
            "loss_ctc": ctc / tokens,
            "loss_quantity": quantity / tokens,
            "loss_count_align": align / tokens,
            "loss_acd": acd / tokens,
            "loss_lrd": lrd.loss / tokens,
            "lrd_explained": lrd.explained,
            "loss_extra": extra / tokens,
            "loss_extra_lrd": extra_lrd / tokens,
            "loss_lexicon": lexicon / tokens,
            "acc": correct.sum() / tokens,
            "acc_acd": acc_acd,
            "count_error": (fired - targets).abs().float().mean(),
            "ctc_infeasible": infeasible,
            "own_mass": own_mass(
                output.weights, best, lengths, text_lengths, blank=self.blank_id
            ),
        }
        # ESPnet averages statistics over ranks and cannot do so for integers.
        stats = {key: value.detach().float() for key, value in stats.items()}
        return force_gatherable((loss, stats, tokens), loss.device)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights; only heads of training (`HEADS`) may be missing.

        ESPnet loads with strict=False in decoding, so that a checkpoint that does not
        fit would decode at random. Here `strict` makes no difference.

        Raises:
            CheckpointError: For missing, surplus or differently shaped weights.
        """
        check_weights(self, state_dict)
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def encode(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames (B, T, D) and their numbers (B,), without the inner layers.

        With them, which ESPnet's encoders give on demand, its decoding would return
        something else than hypotheses.
        """
        hidden, _, lengths = self._encode_layers(speech, speech_lengths)
        return hidden, lengths

    def _encode_layers(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
        """Frames (B, T, D), those of the inner layers asked for, and numbers (B,)."""
        hidden, lengths = super().encode(speech, speech_lengths)
        if not isinstance(hidden, tuple):
            return hidden, [], lengths
        hidden, inner = hidden
        return hidden, [frames for _, frames in inner], lengths

    def add_sos_eos(
        self, text: torch.Tensor, text_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decoder input (B, U), padded with eos, and targets (B, U), with ignore_id."""
        position = torch.arange(text.size(1) + 1, device=text.device)
        length = text_lengths.to(text.device)[:, None]
        padded = torch.nn.functional.pad(text, (0, 1), value=self.ignore_id)
        ys_out = padded.masked_fill(position >= length, self.ignore_id)
        ys_out = ys_out.masked_fill(position == length, self.eos)
        ys_in = torch.nn.functional.pad(text, (1, 0), value=self.sos)
        return ys_in.masked_fill(position > length, self.eos), ys_out

    def _count_step(self) -> None:
        """Count a training step; waits for the device only once after loading."""
        if self._step is None:
            self._step = int(self.training_steps)
        self._step += 1
        self.training_steps.fill_(self._step)

    def _ramp(self) -> float:
        """What part of the distillation weights counts; all of it in validation."""
        if self.kd_ramp == 0 or not self.training:
            return 1.0
        return min((self._step or 0) / self.kd_ramp, 1.0)

    def _ctc_term(
        self,
        hidden: torch.Tensor,
        lengths: torch.Tensor,
        text: torch.Tensor,
        text_lengths: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sum of CTC losses, share of utterances too short for one, and best symbols.

        The symbols (B, T) are all blank in a model without CTC.
        """
        lengths = lengths.to(text.device)
        repeated = (text[:, 1:] == text[:, :-1]) & (text[:, 1:] != self.ignore_id)
        infeasible = (text_lengths + repeated.sum(1) > lengths).float().mean()
        if self.ctc_weight == 0:
            best = torch.full_like(hidden[..., 0], self.blank_id, dtype=torch.long)
            return hidden.new_zeros(()), infeasible, best
        logits = self.ctc.ctc_lo(
            torch.nn.functional.dropout(hidden, self.ctc.dropout_rate, self.training)
        )
        with torch.autocast(hidden.device.type, enabled=False):
            loss = torch.nn.functional.ctc_loss(
                logits.float().log_softmax(-1).transpose(0, 1),  # (T, B, V)
                text.masked_fill(text == self.ignore_id, self.blank_id),
                lengths,
                text_lengths,
                blank=self.blank_id,
                reduction="sum",
                zero_infinity=True,
            )
        return loss, infeasible, logits.detach().argmax(-1)

    def _lexicon_term(
        self, inner: list[torch.Tensor], lengths: torch.Tensor, text: torch.Tensor
    ) -> torch.Tensor:
        """Sum of the pronunciations' CTC losses, the mean over the inner layers."""
        if self.lexicon_ctc is None:
            return torch.zeros((), device=text.device)
        losses = [self.lexicon_ctc(frames, lengths, text) for frames in inner]
        return torch.stack(losses).mean()

    def _expected_counts(
        self,
        hidden: torch.Tensor,
        lengths: torch.Tensor,
        text: torch.Tensor,
        text_lengths: torch.Tensor,
    ) -> torch.Tensor | None:
        """Labels (B, T) that CTC expects to have begun; None where nobody asks."""
        scales = self.token_scaling > 0 and self.training
        if not scales and not self._aligns():
            return None
        with torch.no_grad():
            return ctc_expected_counts(
                self.ctc.log_softmax(hidden),
                lengths,
                text,
                text_lengths,
                blank=self.blank_id,
            )

    def _stretches(
        self, counts: torch.Tensor | None, targets: torch.Tensor, tokens: int
    ) -> torch.Tensor | None:
        """The token of each frame (B, T), in utterances that are scaled by tokens.

        In the others, one stretch for all.
        """
        if counts is None or self.token_scaling == 0 or not self.training:
            return None
        chosen = torch.rand(len(counts), 1, device=counts.device) < self.token_scaling
        stretches = token_stretches(counts, targets, tokens)
        return torch.where(chosen, stretches, 0)

    def _aligns(self) -> bool:
        """Whether the alignment's loss counts, in this step."""
        ended = 0 < self.count_align_steps < (self._step or 0)
        return self.count_align_weight > 0 and not (ended and self.training)

    def _alignment_term(
        self, weights: torch.Tensor, counts: torch.Tensor | None, lengths: torch.Tensor
    ) -> torch.Tensor:
        """Sum over utterances of how far the weights run from what CTC expects."""
        if counts is None or not self._aligns():
            return torch.zeros((), device=weights.device)
        return count_alignment_loss(weights, counts, lengths)


def _forget_step(model: Any, _: Any) -> None:
    """The buffer has been loaded: what the host remembers is of another training."""
    model._step = None


def _check_statistics(frontend: Any, normalize: Any) -> None:
    """Check that `global_mvn` has as many features as the frontend."""
    mean = getattr(normalize, "mean", None)
    if frontend is None or not torch.is_tensor(mean):
        return
    if frontend.output_size() != mean.size(-1):
        raise ConfigError(
            "the feature statistics are of another frontend",
            got=f"{mean.size(-1)} features in {normalize.stats_file}",
            wanted=f"{frontend.output_size()}, as frontend_conf says",
            remedy="collect them again: ./run.sh --stage 10",
        )


def _check_preencoder(frontend: Any, preencoder: Any) -> None:
    """Check that pauses are shortened in as many features as the frontend has."""
    if frontend is not None and isinstance(preencoder, ShortPauses):
        preencoder.check_size(frontend.output_size())


def _check_ctc(ctc: Any, ctc_weight: float, encoder: Any) -> None:
    """Check options of the CTC that its loss here, torch's own, does not follow."""
    for key, expected, why in (
        ("ctc_type", "builtin", "the loss is torch's, summed over the batch"),
        ("reduce", True, "the loss is summed and divided by the target tokens"),
    ):
        given = getattr(ctc, key, expected)
        if given != expected:
            raise ConfigError(
                f"ctc_conf.{key} has no effect, because {why}",
                got=repr(given),
                wanted=f"{expected!r}, its default",
                remedy=f"remove {key} from ctc_conf",
            )
    if ctc_weight == 0 and getattr(encoder, "interctc_use_conditioning", False):
        raise ConfigError(
            "encoder_conf.interctc_use_conditioning needs a CTC, whose scores are "
            "added to inner layers",
            got="`interctc_use_conditioning: true` and `model_conf: {ctc_weight: 0}`",
            wanted="a ctc_weight above 0, or no conditioning",
            remedy="change one of the two in the training configuration",
        )


def _lexicon_ctc(lexicon: str, tokens: list[str], encoder: Any) -> LexiconCTC:
    """The pronunciations' head, for an encoder that shows an inner layer."""
    if not getattr(encoder, "interctc_layer_idx", None):
        raise ConfigError(
            "a lexicon needs an inner layer of the encoder",
            got=f"{type(encoder).__name__} without `interctc_layer_idx`",
            wanted="the number of a layer below the last, such as "
            "`encoder_conf: {interctc_layer_idx: [2]}`",
            remedy="set it; of the encoders, conformer, e_branchformer, branchformer "
            "and transformer have it",
        )
    return LexiconCTC(lexicon, tokens, encoder.output_size())
