"""What ESPnet's encoders make of time: their input layers' kernels and strides."""

from __future__ import annotations

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
