"""Teachers in GGUF files: converted once, read behind a start token."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from espnet_hkd.errors import PLMError
from espnet_hkd.teacher import gguf as ours
from espnet_hkd.teacher.locate import find_plm
from espnet_hkd.teacher.plm import load_plm

SPECIAL = ["<|endoftext|>", "<|im_end|>"]
WIDTH, HEADS, BLOCKS = 32, 2, 2


def write_gguf(path: Path, *, seed: int = 0) -> Path:
    """An untrained Llama of two layers that reads bytes, weights in Q8_0."""
    from tokenizers.pre_tokenizers import ByteLevel

    path.parent.mkdir(parents=True, exist_ok=True)
    tokens = [*SPECIAL, *sorted(ByteLevel.alphabet()), "GO"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(["G O"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    rng = np.random.default_rng(seed)

    def add(name: str, *shape: int) -> None:
        weights = rng.normal(0, 0.3, shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, 1 + weights)
            return
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quantize(weights, kind), raw_dtype=kind)

    add("token_embd.weight", len(tokens), WIDTH)
    add("output_norm.weight", WIDTH)
    for block in range(BLOCKS):
        add(f"blk.{block}.attn_norm.weight", WIDTH)
        add(f"blk.{block}.ffn_norm.weight", WIDTH)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{block}.{name}.weight", WIDTH, WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            add(f"blk.{block}.{name}.weight", 2 * WIDTH, WIDTH)
        add(f"blk.{block}.ffn_down.weight", WIDTH, 2 * WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


def test_a_folder_with_one_gguf_file_is_a_teacher(model):
    plm = load_plm(str(model.parent))
    assert (plm.width, plm.layer, plm.quantisation) == (WIDTH, BLOCKS, "Q8_0")
    pieces = plm.pieces("GO A")
    # Behind the start token and before the end token, with the characters covered.
    assert pieces.ids[0] == 0 and pieces.ids[-1] == 1
    assert pieces.spans.tolist() == [[0, 2], [3, 3], [3, 4]]
    [(_, states, spans)] = plm.read(["GO A"])
    assert states.shape == (4, WIDTH)
    assert spans[-1].tolist() == [-1, -1]


def test_the_weights_are_those_of_the_file(model):
    plm = load_plm(str(model.parent), layer=0)
    [(_, states, _)] = plm.read(["GO"])
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(model).tensors}
    stored = tensors["token_embd.weight"]
    rows = gguf.dequantize(stored.data, stored.tensor_type)
    number = plm.pieces("GO").ids[1]
    np.testing.assert_allclose(states[0], rows[number], atol=1e-3)


def test_a_file_is_converted_once(model, cache, monkeypatch):
    folder = find_plm(str(model.parent))
    assert json.loads((folder / "gguf.json").read_text())["file"] == "tiny.gguf"
    monkeypatch.setattr(ours, "_convert", None)
    assert find_plm(str(model.parent)) == folder
    assert cache in folder.parents


def test_two_gguf_files_are_named(model, tmp_path):
    for name in ("one.gguf", "two.gguf"):
        (tmp_path / name).write_bytes(model.read_bytes())
    with pytest.raises(PLMError, match=r"one\.gguf, two\.gguf"):
        find_plm(str(tmp_path))


def test_a_damaged_file_is_named_and_leaves_nothing(model, tmp_path, cache):
    before = sorted(cache.rglob("*"))
    (tmp_path / "cut.gguf").write_bytes(model.read_bytes()[:900])
    with pytest.raises(PLMError, match=r"cut\.gguf cannot be read"):
        find_plm(str(tmp_path))
    assert sorted(cache.rglob("*")) == before


def test_missing_packages_are_named_with_the_extra(tmp_path, model, monkeypatch):
    (tmp_path / "other.gguf").write_bytes(model.read_bytes() + b"\0")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PLMError, match=r"espnet_hkd\[gguf\]"):
        find_plm(str(tmp_path))


def test_states_do_not_depend_on_what_else_is_read(model):
    plm = load_plm(str(model.parent), lower=True, layer=1)
    [(_, alone, _)] = plm.read(["GO"])
    beside = dict((i, s) for i, s, _ in plm.read(["GO", "A", "GO GO"]))
    torch.testing.assert_close(alone, beside[0], atol=1e-6, rtol=0)
