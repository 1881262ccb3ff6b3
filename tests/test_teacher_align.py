"""Student tokens and PLM pieces meet where they share characters."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from espnet_hkd.errors import AlignmentError
from espnet_hkd.teacher.align import align, place_bpe, place_tokens
from espnet_hkd.teacher.text import canonical_text
from tests.teacher_material import train_bpe

END = (-1, -1)


def spans(*pairs: tuple[int, int]) -> np.ndarray:
    return np.array(pairs, dtype=np.int32).reshape(-1, 2)


def characters(text: str) -> list[str]:
    return ["<space>" if character == " " else character for character in text]


def align_by_loops(tokens, pieces, unknown):
    """The definition: shared characters, normalised; eos takes the end token."""
    weights = np.zeros((len(tokens) + 1, len(pieces)))
    for u, token in enumerate(tokens):
        for s, piece in enumerate(pieces):
            shared = set(range(*token)) & set(range(*piece))
            weights[u, s] = 0 if unknown[u] else len(shared)
    for s, piece in enumerate(pieces):
        weights[-1, s] = tuple(piece) == END
    sums = weights.sum(1, keepdims=True)
    return np.divide(weights, sums, out=np.zeros_like(weights), where=sums > 0)


def test_a_token_is_the_mean_of_its_pieces_by_shared_characters():
    alignment = align(spans((0, 4), (4, 6)), spans((0, 1), (1, 5), (5, 6), END))
    np.testing.assert_allclose(
        alignment.weights,
        [[1 / 4, 3 / 4, 0, 0], [0, 1 / 2, 1 / 2, 0], [0, 0, 0, 1]],
    )
    states = np.array([[1.0], [2.0], [4.0], [8.0]], dtype=np.float16)
    teacher = alignment.teacher(states)
    assert teacher.dtype == np.float32
    np.testing.assert_allclose(teacher, [[1.75], [3.0], [8.0]])
    assert alignment.valid.all()


def test_random_spans_agree_with_the_definition():
    draw = np.random.default_rng(0)
    for _ in range(100):
        tokens = np.sort(draw.integers(0, 20, (draw.integers(0, 9), 2)), axis=1)
        pieces = np.sort(draw.integers(0, 20, (draw.integers(0, 9), 2)), axis=1)
        if draw.random() < 0.7:
            pieces = np.concatenate([pieces, [END]])
        unknown = draw.random(len(tokens)) < 0.2
        alignment = align(tokens, pieces.astype(np.int32), unknown=unknown)
        wanted = align_by_loops(tokens, pieces, unknown)
        np.testing.assert_allclose(alignment.weights, wanted, atol=1e-6)
        np.testing.assert_array_equal(alignment.valid, wanted.sum(1) > 0)
        assert alignment.weights.dtype == np.float32


def test_an_unknown_piece_teaches_nobody_and_a_known_neighbour_still_does():
    # Token 0 lies on the unknown piece alone, token 1 on it and on a known one.
    alignment = align(spans((0, 1), (1, 4)), spans((0, 0), (2, 4), END))
    assert alignment.valid.tolist() == [False, True, True]
    np.testing.assert_allclose(alignment.weights[1], [0, 1, 0])


def test_eos_has_no_teacher_where_the_plm_has_no_end_token():
    assert align(spans((0, 1)), spans((0, 1))).valid.tolist() == [True, False]


def test_a_text_the_plm_sees_nothing_of_leaves_everything_out():
    alignment = align(spans((0, 1)), spans())
    assert alignment.valid.tolist() == [False, False]
    assert alignment.teacher(np.zeros((0, 3), np.float16)).shape == (2, 3)


UNICODE = [
    pytest.param("HELLO YOU", id="English capitals"),
    pytest.param("hello you", id="English small letters"),
    pytest.param("设定二十九度", id="Mandarin"),
    pytest.param("打开 WIFI 吧", id="Mandarin with English"),
    pytest.param("a😀 👩\u200d👩\u200d👧 b", id="emoji, joined ones too"),
    pytest.param("e\u0301 a\u0308o", id="combining marks"),
    pytest.param("\uff21\uff22 \uff11\uff12", id="full width"),
    pytest.param("İSTANBUL Straße ﬁn", id="letters that grow in lower case"),
]


@pytest.mark.parametrize("text", UNICODE)
def test_characters_lie_where_they_are(text):
    placed = place_tokens(text, characters(text))
    for (begin, end), token in zip(placed, characters(text), strict=True):
        assert text[begin:end] == ("" if token == "<space>" else token)


@pytest.mark.parametrize("text", UNICODE)
def test_words_lie_where_they_are(text):
    words = text.split()
    assert [text[b:e] for b, e in place_tokens(text, words)] == words


@pytest.mark.parametrize("text", UNICODE)
def test_bpe_tokens_cover_every_letter_once(text, bpe):
    tokens = bpe.encode(text, out_type=str)
    covered = "".join(text[b:e] for b, e in place_bpe(text, tokens, bpe))
    assert covered.replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("text", ["  A\u3000 BC ", "A\t BC", " A BC"])
def test_white_space_as_it_came_leads_to_the_canonical_text(text, bpe):
    canonical = canonical_text(text)
    assert canonical == "A BC"
    by_words = place_tokens(text, text.split())
    assert [canonical[b:e] for b, e in by_words] == ["A", "BC"]
    by_characters = [canonical[b:e] for b, e in place_tokens(text, characters(text))]
    assert "".join(by_characters) == "ABC"
    by_bpe = [canonical[b:e] for b, e in place_bpe(text, _bpe(bpe, text), bpe)]
    assert "".join(by_bpe).replace(" ", "") == "ABC"


def test_symbols_and_spaces_overlap_nothing(bpe):
    text = "<noise> A"
    tokens = ["<noise>", "<space>", "A"]
    placed = place_tokens(text, tokens, symbols={"<noise>"})
    assert [text[b:e] for b, e in placed] == ["", "", "A"]
    tokens = _bpe(bpe, text)
    by_bpe = place_bpe(text, tokens, bpe, symbols={"<noise>"})
    assert "<noise>" in {token.lstrip("\u2581") for token in tokens}
    assert "".join(text[b:e] for b, e in by_bpe).strip() == "A"


def test_another_delimiter_separates_words():
    text = "A B|C"
    assert [text[b:e] for b, e in place_tokens(text, ["A B", "C"], delimiter="|")] == [
        "A B",
        "C",
    ]


@pytest.mark.parametrize(
    ("tokens", "named"),
    [
        pytest.param(["H", "A"], r"Token 1, 'A'.*'HI'", id="another token"),
        pytest.param(["H"], r"1 tokens end before the text 'HI'", id="too few"),
        pytest.param(["H", "I", "I"], r"Token 2, 'I'.*'HI'", id="too many"),
    ],
)
def test_tokens_that_do_not_spell_the_text_are_named(tokens, named, bpe):
    with pytest.raises(AlignmentError, match=named):
        place_tokens("HI", tokens)
    with pytest.raises(AlignmentError, match="'HI'"):
        place_bpe("HI", tokens[:1] + tokens, bpe)


def test_aligning_takes_calls_in_proportion_to_the_tokens():
    def calls(words: int) -> int:
        text = " ".join(["ABCDEFGHI"] * words)
        tokens = characters(text)
        pieces = spans(*((10 * n, 10 * n + 9) for n in range(words)), END)
        states = np.zeros((words + 1, 8), dtype=np.float16)
        counted = 0

        def count(frame, event, argument):
            nonlocal counted
            counted += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            align(place_tokens(text, tokens), pieces).teacher(states)
        finally:
            sys.setprofile(None)
        return counted

    # Five words are fifty tokens.
    assert calls(50) < 11 * calls(5)


def _bpe(processor, text):
    return processor.encode(text, out_type=str)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    import sentencepiece

    lines = ["HELLO YOU", "hello you", "STREET BC A", "设定二十九度", "HI"]
    model = train_bpe(tmp_path_factory.mktemp("bpe"), lines, size=60)
    processor = sentencepiece.SentencePieceProcessor()
    processor.load(str(model))
    return processor
