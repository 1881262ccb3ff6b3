"""Shorten pauses before the encoder, so that none is longer than those of training.

Letters: B utterances, T frames of features, F features, T' frames that are kept.
"""

from __future__ import annotations

from typing import Any

import torch
from espnet2.asr.preencoder.abs_preencoder import AbsPreEncoder
from torch import Tensor

from espnet_hkd.checks import check_keys, check_number, check_whole
from espnet_hkd.errors import ConfigError

# What is compared over time: means of neighbouring features over neighbouring frames.
# Single values of noise jump by themselves.
BANDS = 8
SMOOTHED = 20
# Frames over which nothing must change: half a second, longer than any sound of speech
# keeps its spectrum but a vowel that is drawn out.
WINDOW = 50


class ShortPauses(AbsPreEncoder):
    """Cut the middle out of stretches in which nothing changes ("hkd_short_pauses").

    Pauses are stationary, however loud their noise is; speech is not, however quiet. A
    stretch in which no band of the features changes by more than `change` within half a
    second is a pause, or a sound that lasts: what is over `longest` frames of it is
    taken from its middle, so that no sound disappears, and the encoder sees no pause
    longer than those it was trained with. The encoder, and all that follows, works on
    the frames that are left, in training and decoding alike.

    It has no parameters: a model that was trained without it takes it by
    `espnet-hkd configure`.

    Args:
        input_size: F, of the frontend; ESPnet tells it to no preencoder.
        longest: Frames of such a stretch that are kept, half of them at either end.
        change: How far a band may move, in the features' own unit: with `global_mvn`,
            standard deviations of the training set.

    Raises:
        ConfigError: For an unknown key or a value that cannot be.
    """

    def __init__(
        self,
        input_size: int | None = None,
        longest: int = 100,
        change: float = 0.5,
        **unknown: Any,
    ) -> None:
        super().__init__()
        check_keys("preencoder_conf", unknown, ShortPauses)
        if input_size is None:
            raise ConfigError(
                "preencoder_conf.input_size is missing",
                got="hkd_short_pauses without it",
                wanted="the number of features: frontend_conf.n_mels, 80 if not given",
                remedy="add it to preencoder_conf",
            )
        self._size = check_whole("preencoder_conf.input_size", input_size)
        self.longest = check_whole("preencoder_conf.longest", longest, least=2)
        self.change = check_number("preencoder_conf.change", change, least=0)

    def output_size(self) -> int:
        """F."""
        return self._size

    def forward(self, input: Tensor, input_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Shorten features (B, T, F).

        Returns:
            Features (B, T', F), zero on padding, and the lengths (B,).

        Raises:
            ConfigError: The features are not as many as `input_size`.
        """
        self.check_size(input.size(-1))
        kept = self.kept(input, input_lengths)
        lengths = kept.sum(1)
        # Kept frames first, each in its order.
        order = kept.logical_not().int().argsort(dim=1, stable=True)
        order = order[:, : int(lengths.max())]
        features = input.gather(1, order[..., None].expand(-1, -1, input.size(2)))
        padding = torch.arange(order.size(1), device=kept.device) >= lengths[:, None]
        return (
            features.masked_fill(padding[..., None], 0.0),
            lengths.to(input_lengths.device, input_lengths.dtype),
        )

    def check_size(self, features: int) -> None:
        """Check `input_size` against the number of features that there are.

        Raises:
            ConfigError: They differ.
        """
        if features != self._size:
            raise ConfigError(
                "preencoder_conf.input_size is not the number of features",
                got=self._size,
                wanted=f"{features}, as the frontend gives",
                remedy="correct it in the configuration",
            )

    @torch.no_grad()
    def kept(self, features: Tensor, lengths: Tensor) -> Tensor:
        """The frames (B, T) that are kept; false on padding, which may hold anything.

        Waits for no device.
        """
        frame = torch.arange(features.size(1), device=features.device)
        length = lengths.to(features.device)[:, None]
        valid = frame < length
        still = valid & (_largest_change(features, valid) <= self.change)
        # A stretch is all that lies in a window without change.
        still = valid & (_near(still.float(), WINDOW) > 0)
        # The first and the last frame of the stretch that each still frame lies in.
        first = torch.where(still, -1, frame + 1).cummax(1).values.clamp(min=0)
        last = torch.where(still, features.size(1), frame - 1)
        last = last.flip(1).cummin(1).values.flip(1).minimum(length - 1)
        begin = self.longest // 2
        end = self.longest - begin
        middle = still & (frame - first >= begin) & (last - frame >= end)
        return valid & ~middle


def _largest_change(features: Tensor, valid: Tensor) -> Tensor:
    """How far the band that moves most moves in a window around each frame (B, T)."""
    with torch.autocast(features.device.type, enabled=False):
        chunks = features.float().chunk(BANDS, dim=-1)
        bands = torch.stack([each.mean(-1) for each in chunks], dim=1)
        known = valid[:, None].float()
        bands = bands.masked_fill(~valid[:, None], 0.0)
        smooth = _mean(bands, SMOOTHED) / _mean(known, SMOOTHED).clamp(min=1e-6)
        highest = _near(smooth.masked_fill(~valid[:, None], -torch.inf), WINDOW)
        lowest = -_near((-smooth).masked_fill(~valid[:, None], -torch.inf), WINDOW)
        return (highest - lowest).amax(1)


def _pad(values: Tensor, size: int, value: float) -> Tensor:
    return torch.nn.functional.pad(values, (size // 2, (size - 1) // 2), value=value)


def _mean(values: Tensor, size: int) -> Tensor:
    return torch.nn.functional.avg_pool1d(_pad(values, size, 0.0), size, 1)


def _near(values: Tensor, size: int) -> Tensor:
    return torch.nn.functional.max_pool1d(_pad(values, size, -torch.inf), size, 1)
