"""What the model learns from teachers, and from sentences without speech.

The half of `CIFASRModel` that is not needed to recognise speech. Its heads and running
means are the model's own, so that checkpoints name them `kd_...`.

Letters: B utterances, U target tokens (end-of-sentence included), D model width,
V vocabulary, E PLM width, N tokens of the batch with a teacher, X sentences without
speech.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from espnet_hkd.checks import check_number, check_switch, check_whole
from espnet_hkd.errors import ConfigError
from espnet_hkd.losses import (
    acoustic_contrastive_terms,
    gather_tokens,
    label_smoothed_cross_entropy,
)
from espnet_hkd.losses.contrastive import counts_of_ranks, own_rank
from espnet_hkd.losses.regression import KINDS, RegressionTerms, regression_terms
from espnet_hkd.nets.decoder import CIFDecoder, DecoderOutput
from espnet_hkd.nets.pseudo_speech import PseudoSpeech
from espnet_hkd.nets.token_means import TokenMeans


class Selection(NamedTuple):
    """What of a batch the losses here look at, found by one wait for the device.

    Attributes:
        rows: (N,) int64, the tokens with a teacher among the B U target tokens.
        tokens: (N,) int64, their numbers in the vocabulary.
        teacher: (N, E) their teachers; None in a model that does not distil.
        counts: N of each rank if they share candidates, else of this one.
        extra: (X,) int64, the utterances that bring a sentence without speech.
    """

    rows: Tensor
    tokens: Tensor
    teacher: Tensor | None
    counts: list[int]
    extra: Tensor


class Distillation(torch.nn.Module, ABC):
    """Distillation heads, their terms, and those of sentences without speech."""

    # Given by the model.
    decoder: CIFDecoder
    ignore_id: int
    lsm_weight: float

    @abstractmethod
    def add_sos_eos(self, text: Tensor, text_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Given by the model: decoder input and targets."""

    def set_up_distillation(
        self,
        vocab_size: int,
        size: int,
        *,
        acd_weight: float,
        acd_temperature: float,
        acd_negatives: int | str,
        acd_same_token_negatives: bool,
        acd_gather: bool,
        lrd_weight: float,
        lrd_loss: str,
        lrd_residual: bool,
        kd_ramp: int,
        kd_norm: bool,
        extra_weight: float,
        extra_noise: float,
        extra_confusions: float,
        extra_masks: float,
        teacher_dim: int | None,
    ) -> None:
        """Check the options, which `CIFASRModel` explains, and make what they need.

        Raises:
            ConfigError: For a value that cannot be.
        """
        self.acd_weight = check_number("model_conf.acd_weight", acd_weight, least=0)
        self.acd_temperature = check_number(
            "model_conf.acd_temperature", acd_temperature, above=0
        )
        if acd_negatives != "all":
            check_whole("model_conf.acd_negatives", acd_negatives, wanted=', or "all"')
        self.acd_negatives = acd_negatives
        self.acd_same_token_negatives = check_switch(
            "model_conf.acd_same_token_negatives", acd_same_token_negatives
        )
        self.acd_gather = check_switch("model_conf.acd_gather", acd_gather)
        self.lrd_weight = check_number("model_conf.lrd_weight", lrd_weight, least=0)
        if lrd_loss not in KINDS:
            raise ConfigError(
                "model_conf.lrd_loss has no such value",
                got=repr(lrd_loss),
                wanted=" or ".join(KINDS),
                remedy="correct it in the training configuration",
            )
        self.lrd_loss = lrd_loss
        self.kd_ramp = check_whole("model_conf.kd_ramp", kd_ramp, least=0)
        self.extra_weight = check_number(
            "model_conf.extra_weight", extra_weight, least=0
        )
        if self.distils or teacher_dim is not None:
            check_whole(
                "model_conf.teacher_dim",
                teacher_dim,
                wanted=", the width of the teacher's states when acd_weight or "
                "lrd_weight is above 0: 384 for MiniLM-L6, 768 for BERT-base",
                remedy="`espnet-hkd inspect-teacher STORE` prints it",
            )
        self.teacher_dim = teacher_dim
        norm = check_switch("model_conf.kd_norm", kd_norm)
        if teacher_dim is not None and self.acd_weight > 0:
            self.kd_acd = _head(size, teacher_dim, norm)
        if teacher_dim is not None and self.lrd_weight > 0:
            self.kd_lrd = _head(size, teacher_dim, norm)
        self.kd_means = None
        if check_switch("model_conf.lrd_residual", lrd_residual) and self.distils:
            assert teacher_dim is not None
            self.kd_means = TokenMeans(vocab_size, teacher_dim)
        pseudo = PseudoSpeech(
            vocab_size,
            size,
            noise=extra_noise,
            confusions=extra_confusions,
            masks=extra_masks,
        )
        self.kd_pseudo = pseudo if self.extra_weight > 0 else None

    @property
    def distils(self) -> bool:
        """Whether a loss needs teacher states."""
        return self.acd_weight > 0 or self.lrd_weight > 0

    def select(self, ys_out: Tensor, batch: Mapping[str, Any]) -> Selection:
        """Find what has a teacher among ys_out (B, U), and the sentences of a batch.

        Waits for their numbers, all in one transfer: the only wait in a training step
        outside of CTC. A model without distillation and such sentences never waits.
        """
        none = ys_out.new_zeros(0)
        teacher, taught, extra = None, none, none
        if self.distils:
            teacher, taught = self._teacher(ys_out, batch)
        if self.kd_pseudo is not None and self.training:
            extra = self._extra_lengths(batch) > 0
        if teacher is None and not len(extra):
            return Selection(none, none, None, [0], none)
        gathers = self.acd_gather and self.acd_weight > 0
        number = taught.sum()[None]
        if gathers:
            number = counts_of_ranks(number)
        *counts, sentences = torch.cat([number, extra.sum()[None]]).tolist()
        rows = _rows(taught, counts[own_rank()] if gathers else counts[0])
        if teacher is not None:
            teacher = teacher.flatten(0, 1)[rows]
        tokens = ys_out.flatten()[rows]
        return Selection(rows, tokens, teacher, counts, _rows(extra, sentences))

    def distillation_terms(
        self, output: DecoderOutput, selection: Selection
    ) -> tuple[Tensor, Tensor, RegressionTerms]:
        """Acoustic term and accuracy, linguistic terms, of the tokens with teacher."""
        zero = output.logits.new_zeros((), dtype=torch.float32)
        acd, accuracy, lrd = zero, zero, RegressionTerms(zero, zero)
        if selection.teacher is None:
            return acd, accuracy, lrd
        rows, tokens = selection.rows, selection.tokens
        teacher = self._residual(selection.teacher, tokens)  # (N, E)
        if self.acd_weight > 0:
            student = self.kd_acd(output.fired.states.flatten(0, 1)[rows])
            candidates, own = teacher, None
            ids = None if self.acd_same_token_negatives else tokens
            if self.acd_gather:
                candidates, ids, own = gather_tokens(teacher, ids, selection.counts)
            terms = acoustic_contrastive_terms(
                student,
                candidates,
                temperature=self.acd_temperature,
                # Validation draws nothing, so that its figures can be compared.
                negatives=self.acd_negatives if self.training else "all",
                token_ids=ids,
                anchors=own,
            )
            acd = terms.loss
            accuracy = terms.correct / terms.anchors.clamp(min=1)
        if self.lrd_weight > 0:
            student = self.kd_lrd(output.merged.flatten(0, 1)[rows])
            lrd = regression_terms(student, teacher, kind=self.lrd_loss)
        return acd, accuracy, lrd

    def _residual(self, teacher: Tensor, tokens: Tensor) -> Tensor:
        """Teachers (N, E) of tokens (N,), without their tokens' means if asked for."""
        if self.kd_means is None:
            return teacher
        if self.training:
            self.kd_means.update(teacher, tokens)
        return teacher - self.kd_means(tokens)

    def extra_terms(
        self,
        output: DecoderOutput,
        ys_out: Tensor,
        batch: Mapping[str, Any],
        selection: Selection,
    ) -> tuple[Tensor, Tensor]:
        """Cross entropy and regression of the batch's sentences without speech."""
        zero = output.logits.new_zeros((), dtype=torch.float32)
        if self.kd_pseudo is None or not self.training:
            return zero, zero
        self.kd_pseudo.update(output.fired.states, ys_out)
        rows = selection.extra
        if not len(rows):
            return zero, zero
        fired, spoken = output.fired.states, ys_out
        ys_in, ys_out = self.add_sos_eos(
            batch["extra"][rows], batch["extra_lengths"][rows]
        )  # (X, U)
        # A token that speech never brought has no vector yet.
        known = self.kd_pseudo.knows(ys_out)[:, None]
        ys_out = ys_out.masked_fill(~known, self.ignore_id)
        logits, merged = self.decoder.forward_tokens(
            self.kd_pseudo(ys_out, fired, spoken).to(output.merged), ys_in
        )
        extra = label_smoothed_cross_entropy(logits, ys_out, self.lsm_weight)
        if self.lrd_weight == 0 or "extra_teacher" not in batch:
            return extra, zero
        teacher, taught = self._teacher(
            ys_out,
            {
                "teacher": batch["extra_teacher"][rows],
                "teacher_mask": batch["extra_teacher_mask"][rows],
            },
        )
        if self.kd_means is not None:
            teacher = teacher - self.kd_means(ys_out.clamp(min=0))
        # Zeros on both sides add nothing; to leave them out is to wait for the others'
        # number.
        left_out = ~taught[..., None]
        lrd = regression_terms(
            self.kd_lrd(merged).masked_fill(left_out, 0.0),
            teacher.masked_fill(left_out, 0.0),
            kind=self.lrd_loss,
        )
        return extra, lrd.loss

    def _extra_lengths(self, batch: Mapping[str, Any]) -> Tensor:
        """Labels (B,) of the sentences without speech."""
        if "extra" not in batch:
            raise ConfigError(
                "`extra_weight` needs sentences without speech",
                got=f"extra_weight {self.extra_weight}, and no sentences from the "
                "preprocessor",
                wanted="`preprocessor: hkd_teacher` with `preprocessor_conf: "
                "{extra_text: FILE}`",
                remedy="add both to the training configuration, or set extra_weight "
                "to 0",
            )
        return batch["extra_lengths"]

    def _teacher(
        self, ys_out: Tensor, batch: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Teacher states (B, U, E) and where they are valid (B, U)."""
        if "teacher" not in batch or "teacher_mask" not in batch:
            raise ConfigError(
                "distillation needs teacher states and the batch has none",
                got=f"acd_weight {self.acd_weight}, lrd_weight {self.lrd_weight}, "
                "and no teacher from the preprocessor",
                wanted="`preprocessor: hkd_teacher` with `preprocessor_conf: {store: "
                "FOLDER}`",
                remedy="add both to the training configuration, or set acd_weight "
                "and lrd_weight to 0",
            )
        teacher, mask = batch["teacher"], batch["teacher_mask"]
        short = ys_out.size(1) - teacher.size(1)
        if teacher.size(2) != self.teacher_dim or short < 0:
            raise ConfigError(
                "the teacher states do not fit the model",
                got=f"{teacher.size(1)} tokens of width {teacher.size(2)}",
                wanted=f"at most {ys_out.size(1)} tokens of width {self.teacher_dim}",
                remedy=f"set model_conf.teacher_dim to {teacher.size(2)}, or build the "
                "store with the PLM that the configuration names",
            )
        teacher = torch.nn.functional.pad(teacher, (0, 0, 0, short))
        mask = torch.nn.functional.pad(mask, (0, ys_out.size(1) - mask.size(1)))
        return teacher, (mask == 1) & (ys_out != self.ignore_id)


def _head(size: int, teacher_dim: int, norm: bool) -> torch.nn.Module:
    """From the model's width D to the teacher's E."""
    linear = torch.nn.Linear(size, teacher_dim)
    return torch.nn.Sequential(torch.nn.LayerNorm(size), linear) if norm else linear


def _rows(mask: Tensor, count: int) -> Tensor:
    """Places of the `count` true entries of a mask, flattened; waits for nothing."""
    return torch.nonzero_static(mask.flatten(), size=count)[:, 0]
