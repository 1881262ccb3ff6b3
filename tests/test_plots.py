"""ESPnet's trainer draws the firing of dev utterances."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch

from espnet_hkd.plugin import add_firing_plots
from espnet_hkd.recognize import Firing
from espnet_hkd.recognize.plots import firings_of_batch, plot_firing
from tests.small_models import VOCAB, make_batch, make_model


def test_bars_are_weights_and_lines_are_firings_with_their_tokens():
    firing = Firing(np.array([0.4, 0.8, 0.3, 0.9]), np.array([1.75, 3.9]), ["A", "$"])
    (axis,) = plot_firing(firing, title="one").axes
    assert [bar.get_height() for bar in axis.patches] == firing.weights.tolist()
    lines = [line.get_xdata()[0] for line in axis.lines if len(line.get_xdata()) == 2]
    assert lines == [1.75, 3.9]
    assert [text.get_text() for text in axis.texts] == ["A", r"\$"]


def test_the_grey_line_begins_anew_at_each_firing_wherever_it_is():
    """With `valley` a token may be complete before or behind a whole sum of weights."""
    firing = Firing(np.array([0.5, 0.6, 0.0, 0.8]), np.array([2.5, 4.0]), ["A", "B"])
    (axis,) = plot_firing(firing).axes
    (line,) = (line for line in axis.lines if len(line.get_xdata()) > 2)
    time, value = line.get_data()
    first = value[time < 2.5]
    np.testing.assert_allclose(
        first, np.interp(time[time < 2.5], [0, 1, 2], [0, 0.5, 1.1])
    )
    assert np.isnan(value[time == 2.5]).all()
    second = (time > 2.5) & (time < 4)
    np.testing.assert_allclose(value[second], np.interp(time[second], [3, 4], [0, 0.8]))


@pytest.mark.parametrize("frames", [0, 1])
def test_an_utterance_in_which_nothing_fires_is_drawn(frames):
    figure = plot_firing(Firing(np.full(frames, 0.2), np.zeros(0), []))
    assert len(figure.axes[0].patches) == frames


def test_weights_and_firings_are_those_of_decoding():
    model = make_model()
    batch = make_batch()
    with torch.no_grad():
        hidden, lengths = model.encode(batch["speech"], batch["speech_lengths"])
        fired = model.decoder.fire(hidden, lengths)
    for row, firing in enumerate(firings_of_batch(model, batch)):
        assert len(firing.weights) == lengths[row]
        assert firing.weights.sum() == pytest.approx(float(fired.mass[row]), abs=1e-4)
        assert len(firing.ends) == len(firing.symbols) == fired.lengths[row]
        assert set(firing.symbols) <= set(VOCAB)


class Trainer:
    """What the plots see of ESPnet's trainer."""

    attention: ClassVar[list] = []

    @classmethod
    def plot_attention(
        cls, model, output_dir, summary_writer, iterator, reporter, options
    ):
        cls.attention.append(list(iterator))


class Task:
    """What the plugin sees of an ASR task module."""

    class ASRTask:
        trainer = Trainer


class Reporter:
    @staticmethod
    def get_epoch():
        return 7


def test_the_trainer_draws_cif_models_once_an_epoch_and_others_as_before(tmp_path):
    for _ in range(2):
        add_firing_plots(Task)
    drawn = []

    class Writer:
        @staticmethod
        def add_figure(name, figure, epoch):
            drawn.append((name, epoch))

    batch = (["u1", "u2"], make_batch())
    for model in (make_model(), torch.nn.Linear(1, 1)):
        Trainer.plot_attention(model, tmp_path, Writer, iter([batch]), Reporter, None)
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.png"))
    assert files == ["u1/firing.7ep.png", "u2/firing.7ep.png"]
    assert drawn == [("firing_u1", 7), ("firing_u2", 7)]
    # ESPnet's own plots are for the other model.
    assert [len(batches) for batches in Trainer.attention] == [1]
