"""What ESPnet's encoders make of time: input layers, and whether padding matters."""

from __future__ import annotations

from typing import Any

# Kernels and strides of ESPnet's input layers, none padded.
INPUT_LAYERS = {
    "linear": (),
    "conv1d1": ((3, 1), (3, 1)),
    "conv1d2": ((3, 1), (3, 2)),
    "conv1d3": ((3, 1), (5, 3)),
    "conv2d1": ((3, 1), (3, 1)),
    "conv2d2": ((3, 2), (3, 1)),
    "conv2d": ((3, 2), (3, 2)),
    "conv2d6": ((3, 2), (5, 3)),
    "conv2d8": ((3, 2), (3, 2), (3, 2)),
}
ENCODERS = ("transformer", "conformer", "branchformer", "e_branchformer")


def ignores_padding(encoder: Any) -> bool:
    """Whether an encoder of ESPnet gives valid frames the same with padding behind.

    True of the classes and input layers that `tests/test_encoder.py` compares, each
    alone and in a batch; false of all others, and where the feed-forward layers are
    convolutions over time, which do not mask padding.
    """
    from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoder
    from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
    from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
    from espnet2.legacy.nets.pytorch_backend.transformer import (
        multi_layer_conv,
        subsampling,
    )

    compared = (ConformerEncoder, BranchformerEncoder, EBranchformerEncoder)
    inputs = (
        subsampling.Conv2dSubsampling,
        subsampling.Conv2dSubsampling2,
        subsampling.Conv2dSubsampling6,
        subsampling.Conv2dSubsampling8,
    )
    over_time = (multi_layer_conv.MultiLayeredConv1d, multi_layer_conv.Conv1dLinear)
    return (
        type(encoder) in compared
        and type(encoder.embed) in inputs
        and not any(isinstance(module, over_time) for module in encoder.modules())
    )
