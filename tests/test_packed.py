"""A packed model wherever it goes: other programs, other machines, other hands."""

from __future__ import annotations

import ast
import inspect
import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

import espnet_hkd
from espnet_hkd.errors import CheckpointError
from espnet_hkd.preprocessor import HKDPreprocessor
from espnet_hkd.pretrained.files import FORMAT
from espnet_hkd.pretrained.packed import open_packed
from espnet_hkd.pretrained.slim import PREPROCESSOR_OPTIONS, slim
from tests.small_models import pack, speech, write_experiment

CONFIG = "exp/asr_hkd/slim/config.yaml"
WEIGHTS = "exp/asr_hkd/slim/train.total_count.ave.pth"
DECODING = {"beam_size": 4, "ctc_weight": 0.3, "maxlenratio": 0.0}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe folder with a packed model that needs a file of its own, and speech."""
    folder = tmp_path_factory.mktemp("recipe")
    stats = folder / "exp" / "asr_stats" / "feats_stats.npz"
    stats.parent.mkdir(parents=True)
    bins = np.linspace(-9.0, -5.0, 80)
    np.savez(stats, count=100, sum=100 * bins, sum_square=100 * (bins**2 + 4.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exp = write_experiment(
            folder / "exp" / "asr_hkd",
            normalize="global_mvn",
            normalize_conf={"stats_file": "exp/asr_stats/feats_stats.npz"},
        )
    (folder / "decode.yaml").write_text(yaml.safe_dump(DECODING))
    slim(exp, inference_config=folder / "decode.yaml")
    pack(folder, options=["exp/asr_stats/feats_stats.npz"])
    for number, seconds in enumerate((0.7, 2.0, 3.1)):
        audio = speech(seconds, seed=number)
        soundfile.write(folder / f"{number}.wav", audio, 16000, subtype="PCM_16")
    return folder


@pytest.fixture(scope="module")
def wavs(recipe: Path) -> list[Path]:
    return sorted(recipe.glob("*.wav"))


@pytest.fixture(scope="module")
def transcripts(recipe: Path, wavs: list[Path]) -> list[tuple[str, float]]:
    """Texts and scores of `espnet_hkd.from_pretrained`, one file at a time."""
    recognizer = espnet_hkd.from_pretrained(recipe / "model.zip")
    found = [recognizer(wav, beam=DECODING["beam_size"])[0] for wav in wavs]
    assert all(len(transcript.text) > 2 for transcript in found)
    return [(transcript.text, transcript.score) for transcript in found]


def test_stock_speech2text_agrees(recipe, wavs, transcripts, monkeypatch):
    from espnet2.bin.asr_inference import Speech2Text

    # ESPnet unpacks local files into the user's cache.
    monkeypatch.setenv("HOME", str(recipe / "home"))
    stock = Speech2Text.from_pretrained(str(recipe / "model.zip"), **DECODING)
    for wav, expected in zip(wavs, transcripts, strict=True):
        text, _, _, hypothesis = stock(soundfile.read(wav, dtype="float32")[0])[0]
        assert (text, float(hypothesis.score)) == (
            expected[0],
            pytest.approx(expected[1], rel=1e-5),
        )


def test_stage_12_agrees(recipe, wavs, transcripts, tmp_path, monkeypatch):
    from espnet2.bin.asr_inference import main

    scp = tmp_path / "wav.scp"
    scp.write_text("".join(f"{wav.stem} {wav}\n" for wav in wavs))
    # As asr.sh: in the recipe's folder, on the experiment itself, heads and all.
    monkeypatch.chdir(recipe)
    options = {
        "asr_train_config": "exp/asr_hkd/config.yaml",
        "asr_model_file": "exp/asr_hkd/train.total_count.ave.pth",
        "config": "decode.yaml",
        "data_path_and_name_and_type": f"{scp},speech,sound",
        "output_dir": tmp_path / "decoded",
        "num_workers": 0,
        "log_level": "ERROR",
    }
    main([part for name in options for part in (f"--{name}", str(options[name]))])

    best = tmp_path / "decoded" / "1best_recog"
    texts = (best / "text").read_text().splitlines()
    scores = (best / "score").read_text().splitlines()
    for wav, text, score, expected in zip(
        wavs, texts, scores, transcripts, strict=True
    ):
        assert text == f"{wav.stem} {expected[0]}"
        assert score == f"{wav.stem} {torch.tensor(expected[1])!s}"


def test_model_zoo_takes_the_zip_without_network(recipe, tmp_path):
    from espnet_model_zoo.downloader import ModelDownloader

    zoo = ModelDownloader(tmp_path / "zoo")
    found = zoo.download_and_unpack(str(recipe / "model.zip"))
    assert sorted(found) == ["asr_model_file", "asr_train_config"]
    config = yaml.safe_load(Path(found["asr_train_config"]).read_text())
    assert Path(config["normalize_conf"]["stats_file"]).is_file()
    weights = torch.load(found["asr_model_file"], weights_only=True)
    packed = torch.load(recipe / WEIGHTS, weights_only=True)
    assert weights.keys() == packed.keys()


@pytest.mark.parametrize("name", ["unpacked", "exp/asr_hkd", WEIGHTS])
def test_folders_and_checkpoints_serve_from_any_present_folder(
    recipe, wavs, transcripts, name
):
    if name == "unpacked":
        with zipfile.ZipFile(recipe / "model.zip") as archive:
            archive.extractall(recipe / name)
    recognizer = espnet_hkd.from_pretrained(recipe / name)
    (found,) = recognizer(wavs[1], beam=4, ctc_weight=DECODING["ctc_weight"])
    assert (found.text, found.score) == transcripts[1]


DECODE = """
import importlib.util, sys
for absent in ("transformers", "tokenizers"):
    assert importlib.util.find_spec(absent) is None
import soundfile
from espnet2.bin.asr_inference import Speech2Text
archive, wav = sys.argv[1:]
stock = Speech2Text.from_pretrained(archive, ctc_weight=0.3, beam_size=4)
text, _, _, hypothesis = stock(soundfile.read(wav, dtype="float32")[0])[0]
print(repr((text, float(hypothesis.score))))
import espnet_hkd
found = espnet_hkd.from_pretrained(archive)(wav, beam=4)[0]
print(repr((found.text, found.score)))
"""


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_new_machine_without_transformers_transcribes(
    kind, new_venv, recipe, wavs, transcripts
):
    venv = new_venv(kind, layered=True, without=("transformers", "tokenizers"))
    archive = shutil.copy(recipe / "model.zip", venv.home)
    done = venv.run("-c", DECODE, archive, str(wavs[1]), HOME=str(venv.home))
    text, score = transcripts[1]
    for line in done.stdout.splitlines()[-2:]:
        assert ast.literal_eval(line) == (text, pytest.approx(score, rel=1e-5))


def changed(recipe: Path, out: Path, **members: bytes | None) -> Path:
    """The packed model with other content in some of its files."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(recipe / "model.zip") as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = members.get(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name in members.keys() - set(old.namelist()):
            new.writestr(name, members[name])
    return out


def saved(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def with_config(recipe: Path, out: Path, **values: object) -> Path:
    config = yaml.safe_load((recipe / CONFIG).read_text()) | values
    return changed(recipe, out, **{CONFIG: yaml.safe_dump(config).encode()})


def refused(archive: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        espnet_hkd.from_pretrained(archive)
    return caught.value


def test_truncated_and_foreign_files_are_named(recipe, tmp_path):
    data = (recipe / "model.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.zip").write_text("not a zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    for name in ("half.zip", "text.zip", "empty.zip"):
        error = refused(tmp_path / name)
        assert f"{name} is not a packed model, or is damaged" in str(error)
        assert "download the file again" in str(error.remedy)
    assert "no model" in str(refused(tmp_path / "missing.zip"))
    (tmp_path / "nothing").mkdir()
    assert "not a model folder" in str(refused(tmp_path / "nothing"))


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_one_flipped_bit_is_found_in_the_zip_and_in_the_checkpoint(recipe, tmp_path):
    data = (recipe / "model.zip").read_bytes()
    weights = torch.load(recipe / WEIGHTS, weights_only=True)
    numbers = weights["decoder.linear_in.weight"].numpy().tobytes()
    place = data.index(numbers) + len(numbers) // 2
    (tmp_path / "flipped.zip").write_bytes(flipped(data, place))
    assert "sum of" in str(refused(tmp_path / "flipped.zip"))

    shutil.copytree((recipe / CONFIG).parent, tmp_path / "folder")
    path = tmp_path / "folder" / Path(WEIGHTS).name
    data = path.read_bytes()
    path.write_bytes(flipped(data, data.index(numbers) + len(numbers) // 2))
    assert "sum of" in str(refused(tmp_path / "folder"))


@pytest.mark.parametrize("number", [FORMAT + 1, "next", None])
def test_another_format_is_refused_and_both_versions_named(recipe, tmp_path, number):
    packed = {"format": number, "version": "9.8"}
    error = refused(with_config(recipe, tmp_path / "new.zip", espnet_hkd=packed))
    assert f"format {number} (espnet_hkd 9.8)" in str(error.got)
    assert f"format {FORMAT} or below" in str(error.wanted)
    assert "--upgrade" in str(error.remedy)


def test_slim_says_what_it_was_written_by(recipe):
    config = yaml.safe_load((recipe / CONFIG).read_text())
    assert config["espnet_hkd"] == {
        "format": FORMAT,
        "version": espnet_hkd.__version__,
    }
    assert config["inference_conf"] == DECODING


def test_slim_leaves_espnets_preprocessor_only_what_it_knows(tmp_path):
    """The keys of `hkd_teacher` would stop `asr_inference`."""
    exp = write_experiment(
        tmp_path / "exp",
        preprocessor="hkd_teacher",
        preprocessor_conf={
            "fs": 16000,
            "store": "data/teacher",
            "pause_prob": 0.25,
            "pause_seconds": [0.3, 4.0],
            "pause_only_prob": 0.03,
            "before_token": True,
            "extra_text": None,
        },
    )
    slim(exp)
    config = yaml.safe_load((exp / "slim" / "config.yaml").read_text())
    assert config["preprocessor"] == "default"
    assert config["preprocessor_conf"] == {"fs": 16000}


def test_a_slim_model_that_is_slimmed_again_keeps_its_teacher(tmp_path):
    """As the mean of two packed models is."""
    exp = write_experiment(tmp_path / "exp")
    once = exp / "slim"
    slim(exp)
    slim(once, out=tmp_path / "twice")
    configs = [
        yaml.safe_load((folder / "config.yaml").read_text())
        for folder in (once, tmp_path / "twice")
    ]
    assert configs[0]["taught_with"]["acd_weight"] > 0
    assert configs[1] == configs[0]


def test_every_option_of_the_preprocessor_is_taken_out_by_slim():
    own = inspect.signature(HKDPreprocessor.__init__).parameters.values()
    named = [p.name for p in own if p.kind is p.KEYWORD_ONLY]
    assert sorted(named) == sorted(PREPROCESSOR_OPTIONS)


def test_missing_weights_are_named_though_espnet_would_guess_them(recipe, tmp_path):
    weights = torch.load(recipe / WEIGHTS, weights_only=True)
    del weights["decoder.linear_in.weight"]
    error = refused(
        changed(recipe, tmp_path / "short.zip", **{WEIGHTS: saved(weights)})
    )
    assert "missing: decoder.linear_in" in str(error.got)

    # ESPnet's own programs come to the same end.
    from espnet2.bin.asr_inference import Speech2Text

    opened = open_packed(tmp_path / "short.zip")
    with pytest.raises(CheckpointError, match=r"missing: decoder\.linear_in"):
        Speech2Text(str(opened.config), str(opened.weights))


def test_no_weights_at_all_are_named(recipe, tmp_path):
    error = refused(changed(recipe, tmp_path / "none.zip", **{WEIGHTS: None}))
    assert WEIGHTS in str(error.got)


@pytest.mark.parametrize("part", ["encoder", "decoder", "model", "frontend"])
def test_unknown_class_is_named_with_those_there_are(recipe, tmp_path, part):
    error = refused(with_config(recipe, tmp_path / "new.zip", **{part: "hkd_next"}))
    assert error.got == f"{part}: hkd_next"
    known = {"encoder": "conformer", "frontend": "default", "model": "hkd_cif"}
    assert known.get(part, "hkd_cif_transformer") in str(error.wanted)
    assert espnet_hkd.__version__ in str(error.remedy)


def test_unknown_option_of_a_class_is_named(recipe, tmp_path):
    conf = yaml.safe_load((recipe / CONFIG).read_text())["encoder_conf"]
    changed_conf = conf | {"depth_of_thought": 3}
    error = refused(
        with_config(recipe, tmp_path / "new.zip", encoder_conf=changed_conf)
    )
    assert "depth_of_thought" in str(error.got)


class Hostile:
    """Opens a file for writing where it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


@pytest.mark.parametrize("allowed", ["0", "1"])
def test_nothing_but_tensors_is_unpickled(recipe, tmp_path, monkeypatch, allowed):
    # What lets ESPnet itself unpickle anything.
    monkeypatch.setenv("ESPNET_ALLOW_UNSAFE_TORCH_LOAD", allowed)
    mark = tmp_path / "mark"
    hostile = saved({"encoder.after_norm.bias": Hostile(mark)})
    error = refused(changed(recipe, tmp_path / "bad.zip", **{WEIGHTS: hostile}))
    assert "nothing of it was run" in error.problem
    assert not mark.exists()
    words = saved({"encoder.after_norm.bias": "words"})
    error = refused(changed(recipe, tmp_path / "words.zip", **{WEIGHTS: words}))
    assert "something else than usable weights" in error.problem


@pytest.mark.parametrize("name", ["../escaped.txt", "/escaped.txt", "a\\..\\..\\b.txt"])
def test_archive_that_would_write_elsewhere_is_refused(recipe, tmp_path, name):
    archive = changed(recipe, tmp_path / "in" / "slip.zip", **{name: b"got out"})
    error = refused(archive)
    assert "outside the folder" in error.problem
    assert str(error.got) == name
    assert not list(tmp_path.glob("**/escaped.txt"))


def test_archive_that_names_files_of_this_machine_is_refused(recipe, tmp_path):
    meta = {
        "yaml_files": {"asr_train_config": str(recipe / CONFIG)},
        "files": {"asr_model_file": WEIGHTS},
    }
    archive = changed(
        recipe, tmp_path / "abs.zip", **{"meta.yaml": yaml.safe_dump(meta).encode()}
    )
    error = refused(archive)
    assert str(recipe / CONFIG) in str(error.got)
