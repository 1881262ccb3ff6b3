"""Models meant to do harm: refused before anything of them is built, by our errors."""

from __future__ import annotations

import io
import re
import shutil
import socket
import tempfile
import time
import zipfile
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from transformers import BertConfig, BertModel

import espnet_hkd
from espnet_hkd.errors import CheckpointError, DataError, HKDError
from espnet_hkd.pretrained.limits import load_yaml
from espnet_hkd.pretrained.packed import describe, open_packed
from espnet_hkd.pretrained.slim import slim
from tests.small_models import SIZE, pack, speech, write_experiment
from tests.soak.packages import BOMB, CONFIG, WEIGHTS, make_package

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.fixture(scope="module")
def members(tmp_path_factory) -> dict[str, bytes]:
    return make_package(tmp_path_factory.mktemp("package"))


@pytest.fixture
def write(members, tmp_path):
    """Write a package with some of its files changed, or values of its config."""

    def write(changes=(), *, name="model.zip", top="", **values) -> Path:
        files = members | dict(changes)
        if values:
            config = yaml.safe_load(members[CONFIG]) | values
            files[CONFIG] = yaml.safe_dump(config).encode()
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in files.items():
                archive.writestr(top + member, content)
        return tmp_path / name

    return write


@pytest.fixture
def unbuilt(monkeypatch):
    """ESPnet's task, which must not be asked for a model with memory."""
    from espnet2.bin import asr_inference

    def refuse(*given, **options):
        raise AssertionError("a model is built")

    monkeypatch.setattr(asr_inference, "Speech2Text", refuse)


def refused(path: Path, **options) -> str:
    with pytest.raises(CheckpointError) as caught:
        espnet_hkd.from_pretrained(str(path), **options)
    return str(caught.value)


def saved(weights: object) -> bytes:
    data = io.BytesIO()
    torch.save(weights, data)
    return data.getvalue()


def weights_of(members: dict[str, bytes]) -> dict[str, torch.Tensor]:
    return torch.load(io.BytesIO(members[WEIGHTS]), weights_only=True)


# What it is in


@pytest.mark.parametrize("name", ["model.ZIP", "model", "model.v2"])
def test_a_package_of_any_name_is_opened(write, name):
    assert "encoder:    conformer" in describe(write(name=name))


def test_a_package_with_a_folder_around_it_is_opened(write):
    assert open_packed(write(top="my_model/")).root.name == "my_model"


def test_a_folder_is_opened_by_any_path_to_it(write, tmp_path, monkeypatch):
    shutil.unpack_archive(write(bpemodel="bpe"), tmp_path / "a" / "folder")
    (tmp_path / "a" / "folder" / "bpe").touch()
    monkeypatch.chdir(tmp_path / "a")
    for path in ("folder", "../a/folder", str(tmp_path / "a" / ".." / "a" / "folder")):
        model = open_packed(path)
        assert model.root == tmp_path / "a" / "folder"
        assert model.read_config()["bpemodel"] == str(model.root / "bpe")


def test_a_pointer_of_git_lfs_is_named(members, write, tmp_path):
    pointer = tmp_path / "pointer.zip"
    pointer.write_bytes(LFS)
    assert "only a pointer of Git LFS" in refused(pointer)
    assert "git lfs pull" in refused(write({WEIGHTS: LFS}))
    assert "git lfs pull" in refused(write({CONFIG: LFS}))


def test_no_room_for_unpacking_is_not_a_damaged_package(write, monkeypatch, tmp_path):
    path = write()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert "TMPDIR" in refused(path)

    def full(*given, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.undo()
    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    message = refused(path)
    assert "No space left" in message
    assert "damaged" not in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({f"{n}": b"" for n in range(1001)}, "files, not at most 1,000"),
        ({"zeros": bytes(65 << 20)}, "it would grow to"),
    ],
    ids=["many files", "a zip bomb"],
)
def test_an_archive_that_would_fill_the_disk_is_not_unpacked(write, changes, said):
    assert said in refused(write(changes))


def test_a_checkpoint_that_would_fill_the_memory_is_not_loaded(write):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(65 << 20))
    assert "it would grow to" in refused(write({WEIGHTS: data.getvalue()}))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Let the hub have a package: links in a folder, as in its client's cache."""

    def upload(package: Path) -> None:
        shutil.unpack_archive(package, tmp_path / "blobs")
        for file in (tmp_path / "blobs").rglob("*.*"):
            link = tmp_path / "snapshot" / file.relative_to(tmp_path / "blobs")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)

    def fetch(repository: str, *, revision: str | None, library_name: str) -> str:
        assert (repository, revision) == ("user/model", "v1")
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    return upload


def test_a_model_of_the_hub_is_opened(write, hub):
    hub(write())
    recognizer = espnet_hkd.from_pretrained("user/model@v1")
    assert recognizer(speech(1.0), sample_rate=16000)


@pytest.mark.parametrize(
    ("member", "content", "said"),
    [
        ("meta.yaml", BOMB.encode(), "more than 500,000 values"),
        (CONFIG, BOMB.encode(), "more than 500,000 values"),
        (WEIGHTS, b"no weights", "is damaged|cannot be loaded"),
        (CONFIG, b"bpemodel: /etc/passwd", "does not hold"),
    ],
    ids=["meta.yaml", "config.yaml", "weights", "a file elsewhere"],
)
def test_a_model_of_the_hub_meets_the_same_limits(write, hub, member, content, said):
    hub(write({member: content}))
    assert re.search(said, refused(Path("user/model@v1")))


# What its YAML says


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(BOMB, "more than 500,000 values", id="aliases"),
        pytest.param("a: &a [*a]", "contains itself", id="a circle"),
        pytest.param("a: " + "[" * 60 + "]" * 60, "nested more than 50", id="nested"),
        pytest.param("[" * 100_000, "too deep|recursion", id="thousands of brackets"),
        pytest.param("a: 2026-99-99", "month must be in", id="an impossible day"),
        pytest.param("[a]: b", "unhashable", id="a list as name"),
        pytest.param("a: " + "1:" * 9000 + "1", "10,000 characters", id="long number"),
        pytest.param("x" * (5 << 20), "characters, not at most", id="megabytes"),
        pytest.param("!!python/object/apply:os.getcwd []", "constructor", id="code"),
        pytest.param("a: 'b", "ScannerError", id="cut off"),
        pytest.param("&a {<<: [*a]}", "contains itself", id="merged with itself"),
    ],
)
def test_yaml_beyond_the_limits_is_refused_at_once(text, said):
    with pytest.raises(ValueError, match=said):
        load_yaml(text)


def test_other_yaml_is_read_as_it_is():
    text = "a: &x {b: [1, 1.5, null, yes]}\nc: *x\nd: {<<: *x, e: 好}\n"
    assert load_yaml(text) == yaml.safe_load(text)
    assert load_yaml("") is None


@pytest.mark.parametrize(
    "values",
    [
        {"encoder": ["a"]},
        {"encoder": {"a": 1}},
        {"token_list": None},
        {"token_list": 7},
        {"token_type": [1]},
        {"frontend_conf": {"fs": 0}},
        {"frontend_conf": {"fs": float("inf")}},
        {"frontend_conf": {"fs": "x"}},
        {"frontend_conf": []},
        {"use_adapter": True},
        {"model_conf": 1},
        {"model_conf": {"ctc_weight": "x"}},
        {"decoder_conf": {"tail": None}},
        {"ctc_conf": {"ctc_type": ["a"]}},
        {"normalize_conf": {"norm_means": [1]}},
        {"espnet_hkd": 1.5},
        {"inference_conf": [1]},
        {"inference_conf": {"ctc_weight": "x"}},
        {"model": "espnet"},
        {"model": None},
    ],
    ids=str,
)
def test_values_of_another_kind_are_our_errors(write, values):
    with pytest.raises(HKDError):
        recognizer = espnet_hkd.from_pretrained(str(write(**values)))
        recognizer(speech(1.0), sample_rate=16000)


def test_facts_are_shown_whatever_they_are(write):
    said = describe(
        write(
            taught_with={"acd_weight": "x"}, inference_conf=[1], token_type="\x1b[31m"
        )
    )
    assert "teacher:    none" in said
    assert "\\x1b[31m" in said
    plm = {"acd_weight": 1.0, "plm": ["a"]}
    assert "not said which" in describe(write(taught_with=plm))


# What it opens, fetches and needs


@pytest.mark.parametrize(
    "values",
    [
        {"bpemodel": "/dev/zero"},
        {"token_list": "/etc/passwd"},
        {"token_list": "../../../../../../../etc/passwd"},
        {"non_linguistic_symbols": "missing.txt"},
        {"bpemodel": "\0"},
        {"normalize": "global_mvn", "normalize_conf": {"stats_file": "/dev/zero"}},
        {"normalize": "global_mvn", "normalize_conf": {"stats_file": "../stats.npz"}},
        {"model_conf": {"lexicon": "/etc/passwd"}},
        {"inference_conf": {"ngram_file": "/etc/passwd"}},
    ],
    ids=str,
)
def test_files_outside_the_package_are_not_opened(write, unbuilt, tmp_path, values):
    (tmp_path / "stats.npz").touch()
    assert "names a file that the package does not hold" in refused(write(**values))
    # Nor by a folder that was unpacked by hand.
    shutil.unpack_archive(tmp_path / "model.zip", tmp_path / "folder")
    assert "does not hold" in refused(tmp_path / "folder")


def test_an_experiment_does_not_read_devices(members, tmp_path):
    config = yaml.safe_load(members[CONFIG]) | {"bpemodel": "/dev/zero"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "train.total_count.ave.pth").write_bytes(members[WEIGHTS])
    assert "bpemodel: /dev/zero" in refused(tmp_path)


@pytest.fixture
def unplugged(monkeypatch) -> list[object]:
    """Addresses that were asked for: none of them can be reached."""
    asked = []

    def refuse(*address: object, **options: object) -> None:
        asked.append(address)
        raise OSError("there is no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    # The hub's client would try for half a minute.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return asked


@pytest.mark.parametrize(
    "values",
    [
        {"frontend": "huggingface", "frontend_conf": {"model": "user/model"}},
        {"frontend": "s3prl", "frontend_conf": {"frontend_conf": {"upstream": "x"}}},
        {"frontend": "whisper"},
        {"postencoder": "hugging_face_transformers"},
        {"encoder": "whisper"},
        {
            "decoder": "hugging_face_transformers",
            "decoder_conf": {"model_name_or_path": "user/model"},
        },
        {"token_type": "hugging_face", "bpemodel": None},
    ],
    ids=lambda values: " ".join(values),
)
def test_what_would_be_downloaded_must_be_allowed(write, unbuilt, unplugged, values):
    path = write(**values)
    message = refused(path)
    assert "wants to download its" in message
    assert "allow_download=True" in message
    assert not unplugged
    # With leave it goes on, to the next check.
    assert "wants to download" not in refused(path, allow_download=True)


PLM = {
    "postencoder": "hugging_face_transformers",
    "postencoder_conf": {"model_name_or_path": "plm"},
}


@pytest.fixture(scope="module")
def plm_files(tmp_path_factory) -> dict[str, bytes]:
    """A tiny untrained BERT: what a package gains by it."""
    folder = tmp_path_factory.mktemp("plm")
    config = BertConfig(
        vocab_size=9,
        hidden_size=SIZE,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=SIZE,
    )
    BertModel(config).save_pretrained(folder)
    return {f"plm/{path.name}": path.read_bytes() for path in folder.iterdir()}


def test_a_download_that_lies_in_the_package_needs_no_leave(
    plm_files, tmp_path, unplugged, monkeypatch
):
    for name, content in plm_files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    exp = tmp_path / "exp" / "asr_hkd"
    with monkeypatch.context() as there:
        there.chdir(tmp_path)
        slim(write_experiment(exp, **PLM))
        path = pack(tmp_path, options=["plm"])
    recognizer = espnet_hkd.from_pretrained(str(path))
    assert recognizer(speech(1.0), sample_rate=16000)
    assert not unplugged


@pytest.mark.parametrize(
    "changes",
    [
        {"plm/adapter_config.json": b'{"base_model_name_or_path": "user/model"}'},
        {"plm/config.json": b'{"auto_map": {"AutoModel": "user/model--code.Model"}}'},
        {"plm/config.json": b"[]"},
        {"plm/model.safetensors.index.json": b'{"weight_map": {"a": "/etc/passwd"}}'},
    ],
    ids=["an adapter", "code", "no configuration", "files elsewhere"],
)
def test_a_folder_that_leads_elsewhere_is_a_download(
    write, plm_files, unbuilt, unplugged, changes
):
    assert "wants to download" in refused(write(plm_files | changes, **PLM))
    assert not unplugged


@pytest.mark.parametrize("place", ["user/model", ".", "", "plm/config.json"])
def test_a_name_that_is_no_folder_of_the_package_is_one_of_the_hub(
    write, plm_files, unbuilt, unplugged, place
):
    conf = {"model_name_or_path": place, "lang_token_id": "plm"}
    path = write(plm_files, **{**PLM, "postencoder_conf": conf})
    assert "wants to download" in refused(path)
    assert not unplugged


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("encoder_conf", {"num_blocks": 100_000}),
        ("encoder_conf", {"output_size": 90_000, "attention_heads": 1}),
        ("encoder_conf", {"linear_units": 90_000}),
        ("decoder_conf", {"num_blocks": 10**9}),
        ("decoder_conf", {"linear_units": 10**12}),
        ("frontend_conf", {"n_fft": 10**9}),
        ("frontend_conf", {"n_mels": 10**5}),
        ("frontend_conf", {"fs": 10**6}),
        ("frontend_conf", {"fs": "1000k"}),
        ("frontend_conf", {"hop_length": 1}),
    ],
    ids=str,
)
def test_sizes_beyond_the_weights_are_refused_without_memory_for_them(
    members, write, unbuilt, section, values
):
    conf = yaml.safe_load(members[CONFIG])[section] | values
    message = refused(write(**{section: conf}))
    assert "beyond what any model has" in message or "other shapes" in message


def with_language_model(members, weights=None, **values) -> dict[str, bytes]:
    """A language model beside a recogniser: what a package gains by it."""
    import argparse

    from espnet2.tasks.lm import LMTask

    config = LMTask.get_default_config() | {
        "token_list": yaml.safe_load(members[CONFIG])["token_list"],
        "lm": "seq_rnn",
        "lm_conf": {"unit": 8, "nlayers": 1},
    }
    if weights is None:
        weights = LMTask.build_model(argparse.Namespace(**config)).state_dict()
    meta = yaml.safe_load(members["meta.yaml"])
    meta["yaml_files"]["lm_train_config"] = "lm.yaml"
    meta["files"]["lm_file"] = "lm.pth"
    return {
        "meta.yaml": yaml.safe_dump(meta).encode(),
        "lm.yaml": yaml.safe_dump(config | values).encode(),
        "lm.pth": saved(weights),
    }


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lm": "transformer_opt"}, "wants to download its lm"),
        ({"bpemodel": "/dev/zero"}, "that the package does not hold"),
        ({"lm_conf": {"unit": 10**9}}, "beyond what any model has"),
        (
            {"lm_conf": {"unit": 80_000, "nlayers": 1}},
            "language model's weights are not",
        ),
        ({"lm": ["a"]}, "wants to download its lm"),
    ],
    ids=str,
)
def test_its_language_model_is_checked_alike(members, write, unbuilt, values, said):
    assert said in refused(write(with_language_model(members, **values)))


def test_a_sound_language_model_passes_the_checks(members, write):
    recognizer = espnet_hkd.from_pretrained(str(write(with_language_model(members))))
    assert recognizer(speech(1.0), sample_rate=16000, lm_weight=0.3)


# Its weights


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value * float("nan"), "NaN or infinity"),
        (lambda value: value.to_sparse(), "sparse"),
        (lambda value: torch.empty(9, 9, device="meta"), "without values"),
        (lambda value: value[:1].expand(10**9), "claims 1,000,000,000 numbers"),
        (lambda value: "words", "is no tensor"),
    ],
    ids=["NaN", "sparse", "without values", "repeated", "no tensor"],
)
def test_weights_that_are_none_are_refused(members, write, unbuilt, change, said):
    weights = weights_of(members)
    weights["ctc.ctc_lo.bias"] = change(weights["ctc.ctc_lo.bias"])
    assert said in refused(write({WEIGHTS: saved(weights)}))


def test_weights_whose_products_overflow_end_in_an_error_of_ours(members, write):
    weights = weights_of(members)
    weights["decoder.linear_in.weight"] *= 1e30
    recognizer = espnet_hkd.from_pretrained(str(write({WEIGHTS: saved(weights)})))
    with pytest.raises(CheckpointError, match="no score for any transcript"):
        recognizer(speech(1.0), sample_rate=16000)


# What it is given


def test_audio_louder_than_any_is_refused(write):
    recognizer = espnet_hkd.from_pretrained(str(write()))
    for loud in (1e30, -1e38):
        with pytest.raises(DataError, match="no scale that audio has"):
            recognizer(np.full(16000, loud, np.float32), sample_rate=16000)
    assert recognizer(speech(1.0) * 30000, sample_rate=16000)
