"""The picture of the page: features, weights and firings, and CTC beside them."""

from __future__ import annotations

from typing import Any

import numpy as np

from espnet_hkd.recognize import Recognizer
from espnet_hkd.recognize.plots import plot_firing

CTC_COLOR = "#2f855a"


def draw(recognizer: Recognizer, samples: np.ndarray) -> Any:
    """Draw what CIF and CTC do with a recording of at most 30 s.

    Args:
        recognizer: The model.
        samples: (samples,) of the model's rate.

    Returns:
        A matplotlib Figure.
    """
    firing = recognizer.firing(samples, sample_rate=recognizer.sample_rate)
    figure = plot_firing(firing)
    if firing.ctc is not None:
        axis = figure.axes[-1]
        middle = (np.arange(len(firing.ctc)) + 0.5) * recognizer.frame_seconds
        axis.plot(middle, firing.ctc, color=CTC_COLOR, linewidth=1.2, label="CTC")
        axis.legend(loc="upper left", fontsize=8)
    return figure
