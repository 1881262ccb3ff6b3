"""No character of a transcript is left without teacher by a tokenizer's settings."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import (
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from espnet_hkd.errors import PLMError
from espnet_hkd.teacher.align import align, place_bpe, place_tokens
from espnet_hkd.teacher.offsets import (
    check_coverage,
    extend_over_marks,
    with_whole_offsets,
)
from espnet_hkd.teacher.plm import load_plm
from espnet_hkd.teacher.text import canonical_text
from tests.teacher_material import save_bert, save_gpt, train_bpe

# "\u0120" is a space among the byte-level signs.
VOCABULARY = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<s>", "</s>"]
VOCABULARY += ["GO", "\u0120GO"]
NUMBERS = {token: number for number, token in enumerate(VOCABULARY)}
ENDS = (("</s>", NUMBERS["</s>"]), ("<s>", NUMBERS["<s>"]))
TEMPLATE = processors.TemplateProcessing(single="$A </s>", special_tokens=[ENDS[0]])
POST = {"none": None, "template": TEMPLATE}
for trim in (True, False):
    for prefix in (True, False):
        options = {"trim_offsets": trim, "add_prefix_space": prefix}
        kind = f"trim {trim}, prefix {prefix}"
        byte_level = processors.ByteLevel(**options)
        POST[f"ByteLevel, {kind}"] = byte_level
        POST[f"Roberta, {kind}"] = processors.RobertaProcessing(*ENDS, **options)
        POST[f"sequence, {kind}"] = processors.Sequence([byte_level, TEMPLATE])


def byte_level(prefix: bool, post) -> Tokenizer:
    merges = [("G", "O"), ("\u0120", "GO")]
    tokenizer = Tokenizer(models.BPE(vocab=NUMBERS, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    if post is not None:
        tokenizer.post_processor = post
    return tokenizer


@pytest.mark.parametrize("post", POST)
@pytest.mark.parametrize("prefix", [True, False], ids=["prefix space", "no prefix"])
@pytest.mark.parametrize("text", ["GO A GO", "A", "\u597d GO"])
def test_byte_level_pieces_cover_the_text_whatever_the_settings(prefix, post, text):
    original = byte_level(prefix, POST[post])
    tokenizer = with_whole_offsets(original)
    encoding = tokenizer.encode(text)
    assert encoding.tokens == original.encode(text).tokens
    check_coverage("x", text, encoding.offsets, tokenizer)
    for token, (first, last) in zip(encoding.tokens, encoding.offsets, strict=True):
        # A space that is not in the text has no place in it.
        if token in ("\u0120", "</s>", "<s>"):
            assert first == last
        elif token.lstrip("\u0120").isascii():
            assert text[first:last] == token.lstrip("\u0120")


def test_settings_that_are_right_are_left_alone():
    right = byte_level(True, processors.ByteLevel(trim_offsets=True))
    assert with_whole_offsets(right) is right
    other = Tokenizer(models.WordPiece(vocab={"[UNK]": 0}, unk_token="[UNK]"))
    assert with_whole_offsets(other) is other


def test_every_character_has_a_teacher_from_a_tokenizer_that_once_lost_the_first(
    tmp_path,
):
    """RoBERTa's kind: a space before the text, of which the last step knows nothing."""
    save_gpt(tmp_path, "GO HOME NOW")
    path = tmp_path / "tokenizer.json"
    settings = json.loads(path.read_text())
    settings["pre_tokenizer"]["add_prefix_space"] = True
    settings["post_processor"] |= {"trim_offsets": True, "add_prefix_space": False}
    path.write_text(json.dumps(settings))
    plm = load_plm(str(tmp_path))
    text = "A GO"
    characters = ["A", "<space>", "G", "O"]
    spans = place_tokens(text, characters)
    assert align(spans, plm.pieces(text).spans).valid[:4].tolist() == [
        True,
        False,
        True,
        True,
    ]


def test_character_that_is_passed_over_is_an_error():
    tokenizer = Tokenizer(
        models.WordPiece(vocab={"[UNK]": 0, "GO": 1, "HOME": 2}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.CharDelimiterSplit("-")
    text = "GO-HOME"
    with pytest.raises(PLMError, match=r"(?s)passes over.*'-' at character 2"):
        check_coverage("x", text, tokenizer.encode(text).offsets, tokenizer)
    # What normalisation takes away is no fault of the offsets.
    tokenizer.normalizer = normalizers.Replace("-", " ")
    check_coverage("x", text, tokenizer.encode(text).offsets, tokenizer)


def test_accents_belong_to_the_letter_before_them():
    spans = np.array([(0, 4), (6, 7), (8, 8)], dtype=np.int32)
    #                  0123 4     5 67 8
    extend_over_marks("cafe\u0301 go\u0301", spans)
    assert spans.tolist() == [[0, 5], [6, 7], [8, 8]]
    spans = np.array([(0, 1), (1, 2)], dtype=np.int32)
    extend_over_marks("e\u0301", spans)
    assert spans.tolist() == [[0, 1], [1, 2]]


FORMS = {
    "letters and accents apart": "cafe\u0301 go",
    "full-width": "\uff27\uff2f go",
    "without width": "g\u200bo \u597d\u200b",
    "Mandarin, full-width": "\u6211\uff0c\u60f3\uff11",
    "Hangul apart": "\u1112\u1161\u11ab go",
}
# What neither teacher has a piece for.
MUTE = {"\u200b", " "}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["byte-level", "BERT"])
@pytest.mark.parametrize("unit", ["char", "bpe"])
def test_teacher_aligns_with_every_form_of_writing(tmp_path, form, kind, unit):
    text = FORMS[form]
    if kind == "BERT":
        # Its normaliser drops what has no width.
        pieces = sorted(set("".join(FORMS.values())) - MUTE)
        save_bert(tmp_path, [*pieces, *(f"##{piece}" for piece in pieces)])
    else:
        save_gpt(tmp_path, text)
    plm = load_plm(str(tmp_path))
    assert canonical_text(text) == text
    if unit == "char":
        tokens = ["<space>" if c == " " else c for c in text]
        spans = place_tokens(text, tokens)
    else:
        from sentencepiece import SentencePieceProcessor

        model = train_bpe(tmp_path, [*FORMS.values(), "cafe go home"])
        processor = SentencePieceProcessor(model_file=str(model))
        tokens = processor.encode(text, out_type=str)
        spans = place_bpe(text, tokens, processor)
    ((_, states, pieces),) = plm.read([text])
    alignment = align(spans, pieces)
    assert np.isfinite(alignment.teacher(states)).all()
    for (first, last), valid in zip(spans, alignment.valid[:-1], strict=True):
        shown = set(text[first:last]) - MUTE
        assert valid or not shown, (first, last)
