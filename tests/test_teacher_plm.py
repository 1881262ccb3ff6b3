"""Pre-trained language models as teachers: what they say, and which are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from espnet_hkd.teacher.locate import find_plm
from espnet_hkd.teacher.plm import load_plm, lower
from espnet_hkd.teacher.windows import windows
from tests.teacher_material import MINILM, copy_files, save_bert, save_gpt

ENGLISH = [
    "HELLO WORLD",
    "ERASE ZYGNP EIGHT HUNDRED",
    "YES",
    "NO",
    "PHILIP STEELS ET CETERA",
    "THE DANGER TRAIL",
]


@pytest.fixture(scope="module")
def minilm():
    return load_plm(MINILM)


@pytest.fixture(scope="module")
def mandarin_folder(tmp_path_factory):
    return save_bert(tmp_path_factory.mktemp("bert"), "设定二十九度开关", positions=12)


@pytest.fixture(scope="module")
def mandarin(mandarin_folder):
    return load_plm(str(mandarin_folder))


@pytest.fixture(scope="module")
def gpt(tmp_path_factory):
    text = "hello world the cat sat on the mat"
    return load_plm(str(save_gpt(tmp_path_factory.mktemp("gpt"), text)))


def read_one(plm, text):
    ((_, states, spans),) = plm.read([text])
    return states, spans


def read_all(plm, texts, **options):
    read = {
        index: (states, spans) for index, states, spans in plm.read(texts, **options)
    }
    return [read[index] for index in range(len(texts))]


def covered(text, spans):
    return [text[begin:end] for begin, end in spans if begin >= 0]


# English: MiniLM


def test_states_are_those_of_the_model(minilm):
    from transformers import AutoModel, AutoTokenizer

    folder = find_plm(MINILM)
    model = AutoModel.from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(ENGLISH[1], return_tensors="pt")
    with torch.inference_mode():
        wanted = model(**inputs).last_hidden_state[0].numpy()
    states, spans = read_one(minilm, ENGLISH[1])
    assert (minilm.width, minilm.layer, minilm.limit) == (384, 6, 512)
    # [CLS] is not kept, [SEP] is the end token.
    np.testing.assert_allclose(states, wanted[1:], atol=1e-5)
    assert tuple(spans[-1]) == (-1, -1)


def test_pieces_cover_the_words(minilm):
    _, spans = read_one(minilm, "ERASE ZYGNP")
    pieces = covered("ERASE ZYGNP", spans)
    assert pieces[0] == "ERASE"
    assert "".join(pieces[1:]) == "ZYGNP"
    assert len(pieces) > 2


def test_an_uncased_plm_says_the_same_of_either_case(minilm):
    for text in ENGLISH:
        capitals, small = read_one(minilm, text), read_one(minilm, text.lower())
        np.testing.assert_array_equal(capitals[0], small[0])
        np.testing.assert_array_equal(capitals[1], small[1])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_states_do_not_depend_on_the_batch_or_the_threads(
    minilm, monkeypatch, batch_size, threads
):
    texts = [*ENGLISH, *("HELLO CAT", "HELLO DOG", "HELLO ME", "HELLO YOU")] * 2
    wanted = [read_one(minilm, text) for text in texts]
    before = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = read_all(minilm, texts[::-1], batch_size=batch_size)[::-1]
    monkeypatch.undo()
    torch.set_num_threads(before)
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_few_pieces_are_read_in_vain(minilm, monkeypatch):
    read = []
    run = minilm._run

    def count(ids, types):
        read.append(sum(map(len, ids)))
        return run(ids, types)

    monkeypatch.setattr(minilm, "_run", count)
    texts = [" ".join(["WORD"] * (1 + n % 30)) for n in range(300)]
    read_all(minilm, texts)
    wanted = sum(len(minilm.pieces(text).ids) for text in texts)
    assert wanted <= sum(read) <= 1.1 * wanted


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        pytest.param("so 😀 what", ["so", "", "what"], id="emoji it does not know"),
        pytest.param("cafe\u0301", ["cafe"], id="combining mark it drops"),
        pytest.param("İs", ["İs"], id="dotted capital I"),
        pytest.param("ß", ["ß"], id="sharp s"),
        pytest.param("\u200b", [], id="nothing it sees"),
        pytest.param(
            "[MASK] [SEP]", ["[", "MASK", "]", "[", "SEP", "]"], id="its own words"
        ),
    ],
)
def test_spans_fit_the_text_whatever_is_in_it(minilm, text, pieces):
    states, spans = read_one(minilm, text)
    found = [piece for piece in covered(text, spans)]
    assert "".join(found).replace("\u0301", "") == "".join(pieces)
    assert len(found) == len(pieces) or text == "İs"
    assert tuple(spans[-1]) == (-1, -1)
    assert np.isfinite(states).all()


@pytest.mark.parametrize("layer", [0, 3, -2])
def test_a_layer_may_be_chosen(minilm, layer):
    from transformers import AutoModel

    chosen = load_plm(MINILM, layer=layer)
    assert chosen.layer == (5 if layer == -2 else layer)
    assert chosen.digest == minilm.digest
    model = AutoModel.from_pretrained(find_plm(MINILM)).eval()
    ids = torch.from_numpy(chosen.pieces("HELLO").ids)[None]
    with torch.inference_mode():
        wanted = model(ids, output_hidden_states=True).hidden_states[layer][0].numpy()
    np.testing.assert_allclose(read_one(chosen, "HELLO")[0], wanted[1:], atol=1e-5)


# Mandarin: a BERT of characters


def test_each_mandarin_character_is_a_piece(mandarin):
    states, spans = read_one(mandarin, "设定二十")
    assert covered("设定二十", spans) == list("设定二十")
    assert states.shape == (5, 8)
    assert states.dtype == np.float32


def test_an_unknown_piece_has_a_row_and_an_empty_span(mandarin):
    states, spans = read_one(mandarin, "设猫度")
    assert spans.tolist() == [[0, 1], [1, 1], [2, 3], [-1, -1]]
    assert len(states) == 4


def test_a_text_longer_than_the_plm_takes_is_read_in_windows(mandarin):
    text = "设定二十九度开关" * 4
    assert (mandarin.limit, len(text)) == (12, 32)
    states, spans = read_one(mandarin, text)
    assert covered(text, spans) == list(text)
    # Of each window, with its own [CLS] and [SEP], the kept states are the model's.
    pieces = mandarin.pieces(text)
    parts = list(windows(pieces.spans, 10))
    assert [part.keep_begin for part in parts][1:] == [p.keep_end for p in parts][:-1]
    for part in parts:
        alone, _ = read_one(mandarin, text[part.begin : part.end])
        kept = slice(part.keep_begin - part.begin, part.keep_end - part.begin)
        np.testing.assert_allclose(
            states[part.keep_begin : part.keep_end], alone[kept], atol=1e-5
        )
    np.testing.assert_allclose(states[-1], alone[-1], atol=1e-5)


def test_texts_of_any_length_keep_their_order_in_one_call(mandarin):
    texts = ["设" * length for length in (30, 1, 10, 11, 12, 29, 3)]
    for text, (states, spans) in zip(texts, read_all(mandarin, texts), strict=True):
        assert spans[:-1].tolist() == [[n, n + 1] for n in range(len(text))]
        assert len(states) == len(text) + 1


def test_positions_that_are_counted_from_behind_the_padding_index_are_fewer(
    mandarin_folder, tmp_path
):
    from transformers import RobertaConfig, RobertaModel

    copy_files(mandarin_folder, tmp_path, "tokenizer.json", "tokenizer_config.json")
    config = RobertaConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=20,
        pad_token_id=0,
    )
    RobertaModel(config).save_pretrained(tmp_path)
    roberta = load_plm(str(tmp_path))
    assert roberta.limit == 19
    for length in (17, 18, 40):
        assert len(read_one(roberta, "设" * length)[0]) == length + 1


# A decoder with byte-level pieces


def test_a_tokenizer_without_end_token_yields_no_end_row(gpt):
    states, spans = read_one(gpt, "the cat")
    assert covered("the cat", spans) == ["the", "cat"]
    assert len(states) == len(spans) == 2
    assert (spans >= 0).all()


def test_bytes_of_one_character_share_its_span(gpt):
    text = "hello 你😀"
    _, spans = read_one(gpt, text)
    pieces = covered(text, spans)
    # The piece of the space alone covers nothing.
    assert pieces == ["hello", "", *["你"] * 3, *["😀"] * 4]


def test_a_decoder_does_not_see_what_follows(gpt):
    early, _ = read_one(gpt, "hello")
    late, _ = read_one(gpt, "hello world")
    np.testing.assert_allclose(early[0], late[0], atol=1e-5)
    assert np.abs(late[1] - late[0]).max() > 1e-3


def test_the_last_layer_has_the_final_norm(gpt):
    states, _ = read_one(gpt, "hello world the cat")
    np.testing.assert_allclose(states.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(states.std(1), 1, atol=0.05)


def test_texts_without_pieces_have_no_rows(gpt):
    states, spans = read_one(gpt, "")
    assert states.shape == (0, 8)
    assert spans.shape == (0, 2)


def test_a_cased_plm_may_read_lower_case(gpt, tmp_path):
    lowering = load_plm(str(save_gpt(tmp_path, "hello world")), lower=True)
    text = "HELLO WORLD"
    states, spans = read_one(lowering, text)
    assert covered(text, spans) == ["HELLO", "WORLD"]
    np.testing.assert_array_equal(states, read_one(lowering, text.lower())[0])


@pytest.mark.parametrize(
    "text", ["", "HELLO", "İSTANBUL İ", "ΟΔΟΣ", "STRASSE ẞ", "你好 \uff21", "ǅ DŽ"]
)
def test_lower_case_is_mapped_back_character_by_character(text):
    lowered, owners = lower(text)
    assert lowered == text.lower()
    assert sorted(set(owners)) == list(range(len(text)))
    for character, owner in zip(lowered, owners, strict=True):
        # The Greek final sigma is the only letter whose form depends on its place.
        assert character in text[owner].lower().replace("\u03c3", "\u03c3\u03c2")
