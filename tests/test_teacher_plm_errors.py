"""PLMs that cannot be teachers: each is refused with what was wanted."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from espnet_hkd.errors import PLMError
from espnet_hkd.teacher.locate import plm_digest
from espnet_hkd.teacher.plm import load_plm
from tests.teacher_material import MINILM, copy_files, save_bert


@pytest.fixture(scope="module")
def mandarin_folder(tmp_path_factory):
    return save_bert(tmp_path_factory.mktemp("bert"), "设定二十九度开关", positions=12)


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


def test_a_hub_name_is_taken_from_the_cache(monkeypatch, mandarin_folder):
    import huggingface_hub

    asked = []

    def cached(name, **options):
        asked.append((name, options["local_files_only"]))
        return str(mandarin_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    assert load_plm("owner/model").digest == plm_digest(mandarin_folder)
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


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def folder(mandarin_folder, tmp_path) -> Path:
    """A PLM that may be changed."""
    shutil.copytree(mandarin_folder, tmp_path / "plm")
    return tmp_path / "plm"


@pytest.mark.parametrize(
    "file",
    ["pytorch_model.bin", "../model.safetensors", "/dev/zero", "none.safetensors"],
)
def test_an_index_that_names_other_files_is_refused(folder, tmp_path, file):
    copy_files(folder, tmp_path, "model.safetensors")
    (folder / "pytorch_model.bin").touch()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(PLMError, match=r"names a file that is not read") as caught:
        load_plm(str(folder))
    assert caught.value.got == file


@pytest.mark.parametrize("content", ["[]", "{", "[" * 100_000, '{"weight_map": 1}'])
def test_an_index_that_is_none_is_named(folder, content):
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(PLMError, match=r"cannot be read: model\.safetensors\.index"):
        load_plm(str(folder))


def test_a_tokenizer_that_reads_files_elsewhere_is_refused(folder):
    change_json(folder / "tokenizer_config.json", vocab_file="/etc/passwd")
    with pytest.raises(PLMError, match=r"names a file(.|\n)*/etc/passwd"):
        load_plm(str(folder))


def test_an_adapter_to_another_model_is_refused(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "x/y"}')
    with pytest.raises(PLMError, match="is an adapter to another model"):
        load_plm(str(folder))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_attention_that_the_hub_has_is_refused(folder, key):
    change_json(folder / "config.json", **{"inner": [{key: "owner/kernel"}]})
    with pytest.raises(
        PLMError, match=r"names a file(.|\n)*owner/kernel(.|\n)*no code"
    ):
        load_plm(str(folder))


def test_the_attention_is_always_the_same(folder):
    wanted = list(load_plm(str(folder)).read(["设定"]))
    change_json(folder / "config.json", attn_implementation="sdpa")
    ((_, states, _),) = load_plm(str(folder)).read(["设定"])
    np.testing.assert_array_equal(states, wanted[0][1])


@pytest.mark.parametrize("length", ["x", 0, -3, None, [5], True])
def test_a_length_that_is_none_is_named(folder, length):
    change_json(folder / "tokenizer_config.json", model_max_length=length)
    try:
        load_plm(str(folder))
    except PLMError:
        return
    # The library has a default for what it takes for no value.
    assert length in (None, 0)


def test_a_tokenizer_of_another_model_is_named(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["设"] = 5000
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    plm = load_plm(str(folder))
    assert list(plm.read(["定"]))
    with pytest.raises(
        PLMError, match=r"belongs to another model(.|\n)*5000 in '设定'"
    ):
        list(plm.read(["设定"]))
