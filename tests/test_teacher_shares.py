"""What a store can teach, on states whose making is known."""

from __future__ import annotations

import numpy as np
import pytest

from espnet_hkd.errors import MissingTeacherError
from espnet_hkd.teacher.build import build_store
from espnet_hkd.teacher.shares import (
    HELD_OUT,
    describe_shares,
    explained,
    read_pieces,
)
from espnet_hkd.teacher.store import Settings, TeacherStore

WIDTH = 20
WORDS = [f"W{number}" for number in range(12)]


def made_store(folder, *, token=0.0, pair=0.0, sentence=0.0, noise=0.0, sink=1.0):
    """A store whose states are a sum of parts with these variances, and its texts."""
    rng = np.random.default_rng(0)
    parts = {}

    def part(*key):
        return parts.setdefault(key, rng.normal(size=WIDTH))

    texts = [" ".join(rng.choice(WORDS, 8)) for _ in range(400)]

    def read(asked):
        for index, text in enumerate(asked):
            spans, states, before, begin = [], [], None, 0
            for word in text.split():
                spans.append((begin, begin + len(word)))
                begin += len(word) + 1
                states.append(
                    token**0.5 * part(word)
                    + pair**0.5 * part(before, word)
                    + sentence**0.5 * part(text, "")
                    + noise**0.5 * rng.normal(size=WIDTH)
                )
                before = word
            states[0] = states[0] * sink
            spans.append((-1, -1))
            states.append(np.zeros(WIDTH))
            yield index, np.array(states, np.float32), np.array(spans, np.int32)

    settings = Settings(plm="made", digest="d", layer=1, width=WIDTH, dtype="float32")
    build_store(texts, read, folder, settings)
    return TeacherStore.open(folder), texts


def shares(folder, **parts):
    store, texts = made_store(folder, **parts)
    pieces = read_pieces(store, texts)
    return explained(pieces, pieces.states)


def test_what_the_token_alone_makes_is_explained_by_it(tmp_path):
    found = shares(tmp_path, token=0.5, noise=0.5)
    assert found.token == pytest.approx(0.5, abs=0.06)
    assert found.pair == pytest.approx(found.token, abs=0.06)
    assert found.sentence < 0.03


def test_what_the_token_before_adds_is_told_apart(tmp_path):
    found = shares(tmp_path, token=0.4, pair=0.4, noise=0.2)
    assert found.token == pytest.approx(0.4, abs=0.08)
    assert found.pair == pytest.approx(0.8, abs=0.08)


def test_what_a_sentence_has_in_common_is_told_apart(tmp_path):
    found = shares(tmp_path, token=0.3, sentence=0.4, noise=0.3)
    assert found.token == pytest.approx(0.3, abs=0.08)
    assert found.sentence == pytest.approx(0.4, abs=0.05)


def test_noise_is_explained_by_nothing(tmp_path):
    found = shares(tmp_path, noise=1.0)
    assert found.token < 0.01 and found.pair < 0.01 and found.sentence < 0.03


def test_an_attention_sink_shows_and_stays_out_of_the_shares(tmp_path):
    store, texts = made_store(tmp_path, token=0.5, noise=0.5, sink=100.0)
    pieces = read_pieces(store, texts)
    assert pieces.first_length == pytest.approx(100, rel=0.1)
    assert explained(pieces, pieces.states).token == pytest.approx(0.5, abs=0.06)
    told = describe_shares(store, texts)
    assert "first pieces are 1e+02 times as long" in told
    assert len(told.splitlines()) == 7


def test_too_few_texts_to_hold_one_out_are_said_to_be(tmp_path):
    store, texts = made_store(tmp_path, noise=1.0)
    told = describe_shares(store, texts[: HELD_OUT - 1])
    assert told.endswith(
        "4 texts are too few to say what is explained; some hundred say it well"
    )
    assert "nan" not in told


def test_texts_that_the_store_lacks_are_named(tmp_path):
    store, _ = made_store(tmp_path, noise=1.0)
    with pytest.raises(MissingTeacherError, match="ELSE"):
        describe_shares(store, ["SOMETHING ELSE"])
