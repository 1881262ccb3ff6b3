"""The picture of the page: features, weights and firings, and CTC beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

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
    spikes = ctc_spikes(recognizer, samples)
    if spikes is not None:
        axis = figure.axes[-1]
        middle = (np.arange(len(spikes)) + 0.5) * recognizer.frame_seconds
        axis.plot(middle, spikes, color=CTC_COLOR, linewidth=1.2, label="CTC")
        axis.legend(loc="upper left", fontsize=8)
    return figure


@torch.no_grad()
def ctc_spikes(recognizer: Recognizer, samples: np.ndarray) -> np.ndarray | None:
    """Probability (T,) that CTC gives to anything but blank, by encoder frame.

    None for a model without CTC.
    """
    model = recognizer.model
    if model.ctc_weight == 0:
        return None
    speech = torch.from_numpy(samples).to(recognizer.device)[None]
    lengths = torch.tensor([len(samples)], device=recognizer.device)
    hidden, hidden_lengths = model.encode(speech, lengths)
    blank = model.ctc.log_softmax(hidden)[0, : int(hidden_lengths[0]), model.blank_id]
    return 1.0 - blank.exp().float().cpu().numpy()
