"""Pre-trained language models as teachers: what they say, and which are refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from espnet_hkd.errors import PLMError
from espnet_hkd.teacher.locate import find_plm, plm_digest
from espnet_hkd.teacher.plm import load_plm, lower, windows
from tests.teacher_material import MINILM, save_bert, save_gpt

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


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_what_is_stored_does_not_depend_on_the_batch(minilm, batch_size):
    texts = [*ENGLISH, *("HELLO CAT", "HELLO DOG", "HELLO ME", "HELLO YOU")]
    wanted = [read_one(minilm, text) for text in texts]
    for one, other in zip(
        wanted, read_all(minilm, texts, batch_size=batch_size), strict=True
    ):
        np.testing.assert_array_equal(
            one[0].astype(np.float16), other[0].astype(np.float16)
        )
        np.testing.assert_array_equal(one[1], other[1])


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


@pytest.mark.parametrize("room", [2, 3, 10, 17])
def test_windows_cover_all_and_end_at_words(room):
    # Words of one to three pieces, a space between words.
    spans, begin = [], 0
    for word in range(40):
        for _ in range(word % 3 + 1):
            spans.append((begin, begin + 2))
            begin += 2
        begin += 1
    spans = np.array(spans)
    parts = list(windows(spans, room))
    assert (parts[0].begin, parts[-1].end) == (0, len(spans))
    kept = [n for part in parts for n in range(part.keep_begin, part.keep_end)]
    assert kept == list(range(len(spans)))
    for part in parts:
        assert part.begin <= part.keep_begin < part.keep_end <= part.end
        assert part.end - part.begin <= room
    if room >= 10:
        starts = {0, *(np.flatnonzero(spans[1:, 0] > spans[:-1, 1]) + 1).tolist()}
        assert {part.begin for part in parts} <= starts
        assert {part.end for part in parts} <= starts | {len(spans)}


def test_what_shares_characters_is_not_torn_apart_where_it_can_be_helped():
    spans = np.repeat([[n, n + 1] for n in range(20)], 3, axis=0)  # three bytes each
    for part in windows(spans, 12):
        assert part.begin % 3 == 0
        assert part.end % 3 == 0


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


# Refused


def test_a_missing_folder_is_named():
    with pytest.raises(PLMError, match=r"no PLM folder './none'(.|\n)*no such folder"):
        load_plm("./none")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model").touch()
    with pytest.raises(PLMError, match=r"no PLM folder(.|\n)*a file"):
        load_plm(str(tmp_path / "model"))


def test_a_name_that_is_nowhere_says_so_without_network(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(PLMError, match=r"neither here nor(.|\n)*hf download no/such"):
        load_plm("no/such")


def test_a_hub_name_is_taken_from_the_cache(monkeypatch, mandarin_folder, mandarin):
    import huggingface_hub

    asked = []

    def cached(name, **options):
        asked.append((name, options["local_files_only"]))
        return str(mandarin_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    assert load_plm("owner/model").digest == mandarin.digest
    assert asked == [("owner/model", True)]


def test_a_package_without_a_model_is_named():
    with pytest.raises(PLMError, match=r"package numpy does not carry"):
        load_plm("numpy")


def test_a_folder_without_tokenizer_is_refused(mandarin_folder, tmp_path):
    copy_files(mandarin_folder, tmp_path, "config.json", "model.safetensors")
    with pytest.raises(PLMError, match="has no tokenizer"):
        load_plm(str(tmp_path))


def test_a_folder_without_weights_is_refused(mandarin_folder, tmp_path):
    copy_files(mandarin_folder, tmp_path, "config.json", "tokenizer.json")
    with pytest.raises(PLMError, match="has no weights in safetensors"):
        load_plm(str(tmp_path))


def test_pickled_weights_are_not_read(mandarin_folder, tmp_path):
    copy_files(mandarin_folder, tmp_path, "config.json", "tokenizer.json")
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(PLMError, match=r"pickled weights \(pytorch_model.bin\)"):
        load_plm(str(tmp_path))


def test_a_slow_tokenizer_is_refused(mandarin_folder, tmp_path):
    from transformers import CanineConfig, CanineModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    CanineModel(CanineConfig(**sizes, intermediate_size=8)).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("a")
    with pytest.raises(PLMError, match=r"no fast tokenizer(.|\n)*CanineTokenizer"):
        load_plm(str(tmp_path))


def test_weights_that_are_not_all_there_are_refused(mandarin_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    copy_files(mandarin_folder, tmp_path, "config.json", "tokenizer.json")
    weights = load_file(mandarin_folder / "model.safetensors")
    pooled = {key: value for key, value in weights.items() if "pooler" not in key}
    save_file(pooled, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert load_plm(str(tmp_path)).width == 8
    del pooled["encoder.layer.1.output.dense.weight"]
    save_file(pooled, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PLMError, match=r"lacks weights(.|\n)*layer.1.output.dense"):
        load_plm(str(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_damaged_file_is_a_clear_error(mandarin_folder, tmp_path, name):
    files = ["config.json", "tokenizer.json", "model.safetensors"]
    copy_files(mandarin_folder, tmp_path, *files)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(PLMError, match="cannot be read"):
        load_plm(str(tmp_path))


def test_an_encoder_with_a_decoder_is_refused(mandarin_folder, tmp_path):
    from transformers import BartConfig, BartModel

    config = BartConfig(
        vocab_size=16, d_model=8, encoder_layers=1, decoder_layers=1, pad_token_id=0,
        encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=8, decoder_ffn_dim=8, bos_token_id=2, eos_token_id=3,
        decoder_start_token_id=3, forced_eos_token_id=3,
    )  # fmt: skip
    BartModel(config).save_pretrained(tmp_path)
    copy_files(mandarin_folder, tmp_path, "tokenizer.json", "tokenizer_config.json")
    with pytest.raises(PLMError, match="an encoder with a decoder"):
        load_plm(str(tmp_path))


@pytest.mark.parametrize("layer", [3, -4])
def test_a_layer_that_is_not_there_is_named_with_those_that_are(mandarin_folder, layer):
    with pytest.raises(PLMError, match=rf"no layer {layer}(.|\n)*0 .* to 2"):
        load_plm(str(mandarin_folder), layer=layer)


def test_a_device_that_is_not_there_is_named(mandarin_folder):
    with pytest.raises(PLMError, match=r"cannot run on 'cuda:99'"):
        load_plm(str(mandarin_folder), device="cuda:99")


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(PLMError, match=r'pip install "espnet_hkd\[teacher\]"'):
        load_plm(MINILM)


def test_code_that_comes_with_a_model_is_not_run(mandarin_folder, tmp_path):
    copy_files(mandarin_folder, tmp_path, "tokenizer.json", "model.safetensors")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (tmp_path / "config.json").write_text(
        '{"model_type": "evil", "auto_map": {"AutoConfig": "evil.A", '
        '"AutoModel": "evil.B", "AutoTokenizer": ["evil.C", "evil.D"]}}'
    )
    with pytest.raises(PLMError, match="cannot be read"):
        load_plm(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_the_digest_follows_the_weights_and_the_tokenizer(mandarin_folder, tmp_path):
    names = ["config.json", "tokenizer.json", "model.safetensors"]
    copy_files(mandarin_folder, tmp_path, *names)
    digests = {plm_digest(tmp_path)}
    (tmp_path / "README.md").write_text("not the model")
    assert plm_digest(tmp_path) in digests
    for name in names:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b" ")
        digests.add(plm_digest(tmp_path))
    assert len(digests) == 4


def copy_files(source, target, *names):
    for name in names:
        (target / name).write_bytes((source / name).read_bytes())
