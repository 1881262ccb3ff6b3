"""Pictures of what the CIF does with an utterance."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_hkd.speech.records import Firing

logger = logging.getLogger(__name__)

WEIGHT_COLOR = "#2b6cb0"
FIRING_COLOR = "#c53030"
SUM_COLOR = "#718096"


def plot_firing(firing: Firing, *, title: str = "") -> Any:
    """Draw weights, firings and tokens of one utterance.

    Bars are the weights of the encoder frames; the grey line is their running sum
    within each token; a red line stands where a token is complete, with its symbol
    over the frames that went into it.

    Returns:
        A matplotlib Figure.
    """
    from matplotlib.figure import Figure

    seconds = firing.frame_seconds or 1.0
    frames = len(firing.weights)
    rows = 1 if firing.features is None else 2
    figure = Figure(figsize=(max(6.0, min(16.0, 0.16 * frames)), 2.4 * rows + 0.6))
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    if firing.features is not None:
        axes[0].imshow(
            firing.features.T,
            origin="lower",
            aspect="auto",
            cmap="magma",
            extent=(0, frames * seconds, 0, firing.features.shape[1]),
        )
        axes[0].set_ylabel("log-mel band")
    axis = axes[-1]
    left = np.arange(frames) * seconds
    axis.bar(
        left, firing.weights, width=seconds, align="edge", color=WEIGHT_COLOR, alpha=0.8
    )
    axis.plot(*_sawtooth(firing, seconds), color=SUM_COLOR, linewidth=0.9)
    start = 0.0
    for end, symbol in zip(firing.ends * seconds, firing.symbols, strict=False):
        for each in axes:
            each.axvline(end, color=FIRING_COLOR, linewidth=1.0)
        axis.text(
            (start + end) / 2,
            1.06,
            # A dollar sign would start a formula.
            symbol.replace("$", r"\$"),
            ha="center",
            va="bottom",
            fontsize=8,
            rotation=0 if len(symbol) < 6 else 30,
        )
        start = end
    axis.set_ylim(0, 1.35)
    axis.set_xlim(0, max(frames, 1) * seconds)
    axis.set_ylabel("CIF weight")
    axis.set_xlabel("seconds" if firing.frame_seconds else "encoder frame")
    if title:
        axes[0].set_title(
            f"{title}: {len(firing.symbols)} tokens, "
            f"sum of weights {firing.weights.sum():.2f}",
            fontsize=10,
        )
    figure.tight_layout()
    return figure


def _sawtooth(firing: Firing, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Running sum since the last firing, over time, for the grey line."""
    frames = np.arange(len(firing.weights) + 1)
    sums = np.concatenate([[0.0], np.cumsum(firing.weights)])
    fine = np.linspace(0, len(firing.weights), 8 * len(firing.weights) + 1)
    token = np.searchsorted(firing.ends, fine, side="right")
    begins = np.concatenate([[0.0], firing.ends])
    values = np.interp(fine, frames, sums) - np.interp(begins, frames, sums)[token]
    # Break the line at each firing instead of drawing the fall.
    values[1:][np.diff(token) > 0] = np.nan
    return fine * seconds, values


@torch.no_grad()
def firings_of_batch(model: Any, batch: dict[str, Any]) -> list[Firing]:
    """What a model in training does with a batch of known transcripts.

    The weights are shown unscaled; firings are those of the decoding mode, and
    each carries the token that the decoder, told the true tokens before, names there.
    """
    hidden, lengths = model.encode(batch["speech"], batch["speech_lengths"])
    decoder = model.decoder
    weights = decoder.predict_weights(hidden, lengths)
    fired = decoder.fire(hidden, lengths)
    ys_in, _ = model.add_sos_eos(batch["text"], batch["text_lengths"])
    width = max(ys_in.size(1), fired.states.size(1))
    ys_in = torch.nn.functional.pad(ys_in, (0, width - ys_in.size(1)), value=model.eos)
    states = torch.nn.functional.pad(
        fired.states, (0, 0, 0, width - fired.states.size(1))
    )
    best = decoder.forward_tokens(states, ys_in)[0].argmax(-1)
    firings = []
    for row, (frames, count) in enumerate(
        zip(lengths.tolist(), fired.lengths.tolist(), strict=True)
    ):
        firings.append(
            Firing(
                weights[row, :frames].float().cpu().numpy(),
                fired.ends[row, :count].cpu().numpy(),
                [model.token_list[i] for i in best[row, :count].tolist()],
            )
        )
    return firings


def draw_batches(
    model: Any,
    iterator: Iterable[tuple[list[str], dict[str, torch.Tensor]]],
    output_dir: Path | None,
    summary_writer: Any,
    epoch: int,
) -> None:
    """Draw the firings of a model in training, as ESPnet's trainer draws attention.

    Args:
        model: A CIFASRModel.
        iterator: Names and tensors of each batch.
        output_dir: Pictures go to NAME/firing.EPOCHep.png below it; None: to no file.
        summary_writer: TensorBoard's, or None.
        epoch: Number of the epoch.
    """
    model.eval()
    device = next(model.parameters()).device
    for names, batch in iterator:
        tensors = {key: value.to(device) for key, value in batch.items()}
        for name, firing in zip(names, firings_of_batch(model, tensors), strict=True):
            figure = plot_firing(firing, title=name)
            if output_dir is not None:
                path = output_dir / name / f"firing.{epoch}ep.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                figure.savefig(path)
            if summary_writer is not None:
                summary_writer.add_figure(f"firing_{name}", figure, epoch)
