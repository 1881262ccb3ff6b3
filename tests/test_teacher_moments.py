"""What a store records of how its states vary, and standardised states."""

from __future__ import annotations

import json

import numpy as np
import pytest

from espnet_hkd.teacher.moments import Moments
from espnet_hkd.teacher.store import TeacherStore
from tests.teacher_material import TEXTS, build_words


def test_moments_are_those_of_all_arrays_together():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(1000.0, 0.1, (n, 3)).astype(np.float32) for n in (5, 1, 40)]
    whole = np.concatenate(arrays).astype(np.float64)
    moments = Moments.of(arrays)
    np.testing.assert_allclose(moments.mean, whole.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.deviation, whole.std(0), rtol=1e-5)


def test_blocks_change_nothing(monkeypatch):
    states = np.random.default_rng(0).normal(size=(50, 4))
    whole = Moments.of([states])
    monkeypatch.setattr("espnet_hkd.teacher.moments._ROWS", 7)
    blocks = Moments.of([states[:20], states[:0], states[20:]])
    np.testing.assert_allclose(blocks.mean, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(blocks.deviation, whole.deviation, rtol=1e-6)


def test_standardised_states_have_mean_0_and_deviation_1():
    states = np.random.default_rng(0).normal(3.0, [0.01, 100.0], (1000, 2))
    out = Moments.of([states]).standardise(states)
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(0), 1, rtol=1e-5)


def test_a_constant_dimension_becomes_zero_and_not_noise():
    states = np.array([[7.0, 1.0], [7.0, -1.0]])
    out = Moments.of([states]).standardise(states)
    assert out.tolist() == [[0.0, 1.0], [0.0, -1.0]]


def test_the_share_of_the_largest_dimensions():
    moments = Moments(np.zeros(3), np.array([1.0, 3.0, 0.0]))
    assert moments.variance_share(1) == pytest.approx(0.9)
    assert moments.variance_share(3) == pytest.approx(1.0)


def test_a_store_records_the_moments_of_its_states(tmp_path):
    build_words(TEXTS, tmp_path, shards=3)
    store = TeacherStore.open(tmp_path)
    states = np.concatenate([store[text].states for text in TEXTS]).astype(np.float64)
    np.testing.assert_allclose(store.moments.mean, states.mean(0), rtol=1e-6)
    np.testing.assert_allclose(store.moments.deviation, states.std(0), rtol=1e-6)


def test_a_store_of_an_earlier_version_is_measured_when_asked(tmp_path):
    build_words(TEXTS, tmp_path)
    path = tmp_path / "store.json"
    recorded = TeacherStore.open(tmp_path).moments
    record = json.loads(path.read_text())
    del record["mean"], record["deviation"]
    path.write_text(json.dumps(record))
    measured = TeacherStore.open(tmp_path).moments
    np.testing.assert_array_equal(measured.mean, recorded.mean)
    np.testing.assert_array_equal(measured.deviation, recorded.deviation)


def test_of_many_pieces_an_even_sample_is_read(monkeypatch):
    states = np.arange(20.0)[:, None]
    monkeypatch.setattr("espnet_hkd.teacher.moments.SAMPLE", 5)
    moments = Moments.of_sample([states[:8], states[8:]])
    np.testing.assert_allclose(moments.mean, np.mean([0, 4, 8, 12, 16]))
