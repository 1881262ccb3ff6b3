"""Mandarin students and PLMs that cut characters in ways of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from espnet_hkd.errors import PLMError
from espnet_hkd.teacher.align import align, place_tokens
from espnet_hkd.teacher.coverage import coverage
from espnet_hkd.teacher.plm import PLM, load_plm
from tests.teacher_material import save_bert, save_gpt

KNOWN = ["打", "开", "的", "年", "零", "W", "##I", "##F", "20", "##08"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> PLM:
    folder = tmp_path_factory.mktemp("bert")
    return load_plm(str(save_bert(folder, dict.fromkeys(KNOWN))))


def teachers(plm: PLM, text: str) -> list[set[str] | None]:
    """For each character and the end, the pieces it learns from; None for nothing."""
    (_, states, spans) = next(iter(plm.read([text])))
    alignment = align(place_tokens(text, list(text)), spans)
    assert len(alignment.valid) == len(text) + 1
    taught: list[set[str] | None] = []
    for weights, valid in zip(alignment.weights, alignment.valid, strict=True):
        pieces = {text[b:e] for b, e in spans[np.flatnonzero(weights)] if b >= 0}
        taught.append(pieces if valid else None)
    assert np.isfinite(alignment.teacher(states)).all()
    return taught


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        pytest.param("打开", [{"打"}, {"开"}], id="a piece for each character"),
        pytest.param("2008年", [{"20"}] * 2 + [{"08"}] * 2 + [{"年"}], id="digits"),
        pytest.param("开WIFI", [{"开"}, {"W"}, {"I"}, {"F"}, {"I"}], id="letters"),
        # Nothing is normalised: to BERT they are one unknown word.
        pytest.param("\uff37\uff29的", [None, None, {"的"}], id="full-width letters"),
        pytest.param("\U00020bb7零", [None, {"零"}], id="a rare character"),
        pytest.param("打龘开", [{"打"}, None, {"开"}], id="a character it lacks"),
        pytest.param("打开(年)", [{"打"}, {"开"}, None, {"年"}, None], id="brackets"),
    ],
)
def test_each_character_learns_from_the_piece_it_lies_in(bert, text, wanted):
    assert teachers(bert, text) == [*wanted, set()]


def test_bytes_of_a_character_teach_it_together(tmp_path: Path):
    """GPT-2 cuts characters into bytes; each piece covers the whole character."""
    plm = load_plm(str(save_gpt(tmp_path, "hello")))
    text = "打2开\uff37"
    (_, _, spans) = next(iter(plm.read([text])))
    assert len(spans) > len(text)
    assert teachers(plm, text)[:4] == [{character} for character in text]


def test_unknown_characters_are_counted(bert):
    found = coverage(bert, ["打开\uff37 的", "打龘开", "打龘年"])
    assert (found.characters, found.unknown) == (10, {"龘": 2, "\uff37": 1})
    assert str(found) == (
        "3 of 10 characters (30.00 %) are unknown to the PLM and have no teacher: "
        "龘 \uff37"
    )


def test_a_plm_of_another_language_is_refused(bert):
    with pytest.raises(PLMError, match=r"knows 2 of 12 characters(.|\n)*--plm"):
        coverage(bert, ["设定打三十一度", "高温开声音"])


def test_a_text_of_spaces_is_no_reason_to_refuse(bert):
    assert coverage(bert, [""]).characters == 0
