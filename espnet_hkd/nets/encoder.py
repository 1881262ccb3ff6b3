"""The published encoder: Conformer layers with max-pooling over time between them.

Letters: B utterances, T frames, F features, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.legacy.nets.pytorch_backend.conformer.convolution import ConvolutionModule
from espnet2.legacy.nets.pytorch_backend.conformer.encoder_layer import EncoderLayer
from espnet2.legacy.nets.pytorch_backend.conformer.swish import Swish
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    RelPositionMultiHeadedAttention,
)
from espnet2.legacy.nets.pytorch_backend.transformer.embedding import (
    RelPositionalEncoding,
)
from espnet2.legacy.nets.pytorch_backend.transformer.positionwise_feed_forward import (
    PositionwiseFeedForward,
)
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from torch import Tensor

from espnet_hkd.checks import (
    check_divides,
    check_keys,
    check_number,
    check_whole,
    is_whole,
)
from espnet_hkd.errors import ConfigError
from espnet_hkd.nets.void_options import ENCODER


class MaskedBatchNorm1d(torch.nn.BatchNorm1d):
    """Batch norm whose statistics come from valid frames only.

    Parameters and buffers are named as in torch.nn.BatchNorm1d.
    """

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise input (B, D, T); mask (B, 1, T) is true on valid frames."""
        if mask is None or not self.training:
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            x = input.float()
            count = mask.sum().clamp(min=1).float()
            mean = x.masked_fill(~mask, 0.0).sum((0, 2)) / count
            centred = (x - mean[:, None]).masked_fill(~mask, 0.0)
            variance = centred.square().sum((0, 2)) / count
            self._remember(mean.detach(), variance.detach(), count)
            scale = self.weight.float() * (variance + self.eps).rsqrt()
            return (centred * scale[:, None] + self.bias.float()[:, None]).to(
                input.dtype
            )

    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics, with the unbiased variance, as torch does.

        Not to what is not finite, as half precision may make it in a step that the
        loss scale skips: they would never leave it.
        """
        running_mean: Any = self.running_mean
        running_var: Any = self.running_var
        batches: Any = self.num_batches_tracked
        unbiased = variance * count / (count - 1).clamp(min=1)
        momentum = self.momentum if self.momentum is not None else 0.1
        for running, now in ((running_mean, mean), (running_var, unbiased)):
            now = torch.where(now.isfinite(), now.to(running.dtype), running)
            running.lerp_(now, momentum)
        batches.add_(1)


class MaskedConvolution(ConvolutionModule):
    """ESPnet's convolution module, its batch norm blind to padding too."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, kernel_size, _swish(), bias=False)
        self.norm = MaskedBatchNorm1d(channels)

    def forward(self, x: Tensor, mask_pad: Tensor | None = None) -> Tensor:
        """Map x (B, T, D); mask_pad (B, 1, T) is true on valid frames."""
        x = torch.nn.functional.glu(self.pointwise_conv1(x.transpose(1, 2)), dim=1)
        if mask_pad is not None:
            x = x.masked_fill(~mask_pad, 0.0)
        x = self.activation(self.norm(self.depthwise_conv(x), mask_pad))
        return self.pointwise_conv2(x).transpose(1, 2)


class PooledConformerEncoder(AbsEncoder):
    """Conformer with pooling ("hkd_pooled_conformer"), 8 x subsampling as published.

    The encoder of Han et al., INTERSPEECH 2023 (arXiv 2301.13003): a convolution that
    halves the frames, two linear layers, Conformer layers, and max-pooling by 2 after
    some of them; no final norm. Unlike published, padding is masked in convolutions,
    batch norm and pooling: from the features onward an utterance's encoding does not
    depend on its batch mates, and a pooled frame is valid if either of its two was.

    Args:
        input_size: F.
        output_size: D.
        attention_heads: Heads of each layer.
        linear_units: Width of the feed-forward layers.
        num_blocks: Conformer layers.
        pool_after: Numbers of the layers, counted from 1, after which to pool.
        front_channels: Channels of the first convolution.
        cnn_module_kernel: Frames that a layer's convolution sees, odd.
        dropout_rate: Everywhere.

    Raises:
        ConfigError: For an unknown key or a value that cannot be.
    """

    def __init__(
        self,
        input_size: int,
        *,
        output_size: int = 256,
        attention_heads: int = 4,
        linear_units: int = 2048,
        num_blocks: int = 15,
        pool_after: Sequence[int] = (5, 10),
        front_channels: int = 128,
        cnn_module_kernel: int = 15,
        dropout_rate: float = 0.1,
        **unknown: Any,
    ) -> None:
        super().__init__()
        check_keys("encoder_conf", unknown, PooledConformerEncoder, void=ENCODER)
        for name, value in (
            ("output_size", output_size),
            ("attention_heads", attention_heads),
            ("linear_units", linear_units),
            ("num_blocks", num_blocks),
            ("front_channels", front_channels),
            ("cnn_module_kernel", cnn_module_kernel),
        ):
            check_whole(f"encoder_conf.{name}", value)
        check_divides("encoder_conf.attention_heads", attention_heads, output_size)
        check_number("encoder_conf.dropout_rate", dropout_rate, least=0.0, below=1.0)
        _check_pooling(pool_after, num_blocks, cnn_module_kernel)
        self._output_size = output_size
        self.pool_after = frozenset(pool_after)
        self.front = torch.nn.Conv2d(1, front_channels, 3, stride=2)
        self.linear_front = torch.nn.Linear(
            front_channels * ((input_size - 1) // 2), output_size
        )
        self.positions = RelPositionalEncoding(output_size, 0.0)
        self.linear_scaled = torch.nn.Linear(output_size, output_size)
        self.dropout = torch.nn.Dropout(dropout_rate)

        def feed_forward() -> PositionwiseFeedForward:
            return PositionwiseFeedForward(
                output_size, linear_units, dropout_rate, _swish()
            )

        self.layers = torch.nn.ModuleList(
            EncoderLayer(
                output_size,
                RelPositionMultiHeadedAttention(
                    attention_heads, output_size, dropout_rate
                ),
                feed_forward(),
                feed_forward(),
                MaskedConvolution(output_size, cnn_module_kernel),
                dropout_rate,
            )
            for _ in range(num_blocks)
        )

    def output_size(self) -> int:
        """D."""
        return self._output_size

    def forward(
        self,
        xs_pad: Tensor,
        ilens: Tensor,
        prev_states: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, None]:
        """Encode features.

        Args:
            xs_pad: (B, T, F); padding may hold anything.
            ilens: (B,) number of valid frames.
            prev_states: Not used; ESPnet's interface has it.

        Returns:
            (B, T', D), the lengths (B,), and None. T' follows from T: it is the length
            of an utterance that fills the batch.

        Raises:
            TooShortUttError: The longest utterance has fewer than three frames.
        """
        if xs_pad.size(1) < 3:
            raise TooShortUttError(
                f"{xs_pad.size(1)} frames are too few for subsampling: 3 are needed",
                xs_pad.size(1),
                3,
            )
        lengths = ilens.to(xs_pad.device)
        valid = _mask(lengths, xs_pad.size(1))  # (B, 1, T)
        xs_pad = xs_pad.masked_fill(~valid.transpose(1, 2), 0.0)
        x = torch.relu(self.front(xs_pad[:, None]))  # (B, C, T', F')
        # Frame t reads frames 2t to 2t + 2, so that no valid one reads padding.
        lengths = ((lengths - 1) // 2).clamp(min=0)
        x = self.linear_front(x.transpose(1, 2).flatten(2))
        # The published code scales by sqrt(D) before the second linear layer and adds
        # no positions: they enter the attention only.
        x, pos_emb = self.positions(x)
        x = self.dropout(self.linear_scaled(x))
        valid = _mask(lengths, x.size(1))
        for number, layer in enumerate(self.layers, 1):
            (x, _), _ = layer((x, pos_emb), valid)
            if number in self.pool_after:
                x, lengths = _pool(x, lengths, valid)
                valid = _mask(lengths, x.size(1))
                pos_emb = self.positions(x)[1]
        return x.masked_fill(~valid[:, 0, :, None], 0.0), lengths, None


def _swish() -> Any:
    # ESPnet takes any activation where it declares ReLU.
    return Swish()


def _mask(lengths: Tensor, frames: int) -> Tensor:
    """(B, 1, frames), true on valid frames."""
    return (torch.arange(frames, device=lengths.device) < lengths[:, None])[:, None]


def _pool(x: Tensor, lengths: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum of every two frames of x (B, T, D), whichever of them are valid."""
    lowest = torch.finfo(x.dtype).min
    x = x.masked_fill(~valid.transpose(1, 2), lowest)
    x = torch.nn.functional.pad(x, (0, 0, 0, x.size(1) % 2), value=lowest)
    x = x.unflatten(1, (-1, 2)).amax(2)
    lengths = (lengths + 1) // 2
    return x.masked_fill(~_mask(lengths, x.size(1)).transpose(1, 2), 0.0), lengths


def _check_pooling(pool_after: Sequence[int], num_blocks: int, kernel: int) -> None:
    layers = isinstance(pool_after, list | tuple) and all(map(is_whole, pool_after))
    if not layers or not all(1 <= number <= num_blocks for number in pool_after):
        raise ConfigError(
            "encoder_conf.pool_after names layers that are not there",
            got=repr(pool_after),
            wanted=f"a list of layers from 1 to {num_blocks}, or []",
            remedy="correct it in the training configuration",
        )
    if kernel % 2 == 0:
        raise ConfigError(
            "encoder_conf.cnn_module_kernel must be odd",
            got=kernel,
            wanted="an odd number, such as 15 or 31",
            remedy="correct it in the training configuration",
        )
