"""AN4's sets from its layouts, and a clear word where the corpus is not whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from espnet_hkd.errors import CheckpointError, DataError
from tests.recipe_material import (
    RECIPE,
    load_program,
    make_cmu_an4,
    make_kaldi_an4,
    run,
    write_audio,
)

an4 = load_program(RECIPE / "local" / "prepare_an4.py")
SETS = ("train_nodev", "train_dev", "test")


def prepare(corpus: Path, out: Path, **options):
    return an4.prepare(corpus, out, **{"sets": list(SETS), "ndev": 1} | options)


def table(path: Path) -> list[str]:
    return path.read_text().splitlines()


@pytest.mark.parametrize("suffix", [".sph", ".wav", ".flac"])
def test_cmu_layout_gives_espnet_sets(tmp_path: Path, suffix: str):
    corpus = make_cmu_an4(tmp_path / "an4", suffix)
    prepare(corpus, tmp_path / "data")
    assert table(tmp_path / "data" / "train_dev" / "text") == ["spka-an1-b GO A"]
    assert table(tmp_path / "data" / "train_nodev" / "text") == [
        "spka-an2-b GO A",
        "spkb-cen1-b GO C",
        "spkb-cen2-b GO C",
    ]
    assert table(tmp_path / "data" / "train_nodev" / "spk2utt") == [
        "spka spka-an2-b",
        "spkb spkb-cen1-b spkb-cen2-b",
    ]
    assert table(tmp_path / "data" / "test" / "wav.scp") == [
        f"spkc-an9-b {corpus}/wav/an4test_clstk/spkc/an9-spkc-b{suffix}"
    ]


def test_cmu_layout_is_found_one_folder_down(tmp_path: Path):
    make_cmu_an4(tmp_path / "downloads" / "an4")
    sets = prepare(tmp_path / "downloads", tmp_path / "data")
    assert {name: len(found) for name, found in sets.items()} == {
        "train_nodev": 3,
        "train_dev": 1,
        "test": 1,
    }


def test_kaldi_paths_are_relative_to_the_corpus(tmp_path: Path):
    corpus = make_kaldi_an4(tmp_path / "corpus", SETS)
    prepare(corpus, tmp_path / "data")
    assert table(tmp_path / "data" / "test" / "wav.scp") == [
        f"spk-test-1 {corpus}/audio/spk-test-1.flac",
        f"spk-test-2 {corpus}/audio/spk-test-2.flac",
    ]
    assert table(tmp_path / "data" / "test" / "utt2spk") == [
        "spk-test-1 spk",
        "spk-test-2 spk",
    ]


def test_kaldi_pipes_stay_as_they_are(tmp_path: Path):
    corpus = make_kaldi_an4(tmp_path / "corpus", SETS)
    pipe = f"cat {corpus}/audio/spk-test-1.flac |"
    (corpus / "test" / "wav.scp").write_text(f"spk-test-1 {pipe}\nspk-test-2 {pipe}\n")
    prepare(corpus, tmp_path / "data")
    assert table(tmp_path / "data" / "test" / "wav.scp")[0] == f"spk-test-1 {pipe}"


def test_whole_an4_gives_the_sets_of_its_kaldi_lists(tmp_path: Path):
    """On the corpus itself where it is at hand, else on a small one."""
    shared = os.environ.get("HKD_DATA")
    if shared:
        corpus, ndev = Path(shared) / "an4", 100
    else:
        corpus, ndev = make_cmu_an4(tmp_path / "an4", ".flac"), 1
        prepare(corpus, corpus)
    prepare(corpus, tmp_path / "data", ndev=ndev)
    for name in SETS:
        for file in ("text", "utt2spk", "spk2utt"):
            expected = (corpus / name / file).read_text()
            assert (tmp_path / "data" / name / file).read_text() == expected


def test_words_that_training_lacks_are_named(tmp_path: Path, capsys):
    corpus = make_cmu_an4(tmp_path / "an4")
    transcripts = corpus / "etc" / "an4_test.transcription"
    transcripts.write_text("GO NOVEMBER (an9-spkc-b)\n")
    an4.main([str(corpus), str(tmp_path / "data"), "--ndev", "1"])
    assert "test has words that training never shows" in capsys.readouterr().out
    text = table(tmp_path / "data" / "test" / "text")
    assert text == ["spkc-an9-b GO NOVEMBER"]


def drop_audio(corpus: Path) -> None:
    (corpus / "wav" / "an4_clstk" / "spkb" / "cen2-spkb-b.sph").unlink()


def drop_transcript(corpus: Path) -> None:
    path = corpus / "etc" / "an4_train.transcription"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def break_line(corpus: Path) -> None:
    (corpus / "etc" / "an4_test.transcription").write_text("<s> GO </s>\n")


def empty_transcript(corpus: Path) -> None:
    (corpus / "etc" / "an4_test.transcription").write_text("<s>   </s> (an9-spkc-b)\n")


def empty_audio(corpus: Path) -> None:
    (corpus / "wav" / "an4test_clstk" / "spkc" / "an9-spkc-b.sph").write_bytes(b"")


def no_samples(corpus: Path) -> None:
    path = corpus / "wav" / "an4test_clstk" / "spkc" / "an9-spkc-b.sph"
    write_audio(path, seconds=0.0)


def narrow_band(corpus: Path) -> None:
    path = corpus / "wav" / "an4test_clstk" / "spkc" / "an9-spkc-b.sph"
    write_audio(path, rate=8000)


def nothing(corpus: Path) -> None:
    for path in corpus.rglob("*.transcription"):
        path.rename(path.with_suffix(".bak"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_audio, r"1 transcripts of .* have no audio.*\n.*cen2-spkb-b"),
        (drop_transcript, r"1 audio files .* have no transcript.*\n.*cen2-spkb-b"),
        (break_line, r"no AN4 transcript\n.*'<s> GO </s>'"),
        (empty_transcript, r"The transcript of spkc-an9-b is empty"),
        (empty_audio, r"spkc-an9-b cannot be read.*\n.*an empty file"),
        (no_samples, r"spkc-an9-b (holds no samples|cannot be read)"),
        (narrow_band, r"does not fit this recipe.*\n.*8000 Hz.*\n.*16000 Hz"),
        (nothing, r"is not laid out like AN4\n  got:    etc, wav"),
    ],
)
def test_damaged_corpus_is_refused_before_anything_is_written(
    tmp_path: Path, damage, message: str
):
    corpus = make_cmu_an4(tmp_path / "an4")
    damage(corpus)
    with pytest.raises(DataError, match=message):
        prepare(corpus, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_missing_folder_is_named_with_both_layouts(tmp_path: Path):
    with pytest.raises(SystemExit) as end:
        an4.main([str(tmp_path / "gone"), str(tmp_path / "data")])
    message = str(end.value)
    assert message.startswith("prepare_an4.py: ")
    assert f"{tmp_path / 'gone'} does not exist" in message
    assert "etc/an4_train.transcription" in message
    assert "train_nodev" in message


def test_kaldi_set_with_a_missing_row_is_refused(tmp_path: Path):
    corpus = make_kaldi_an4(tmp_path / "corpus", SETS)
    (corpus / "test" / "wav.scp").write_text("spk-test-1 audio/spk-test-1.flac\n")
    with pytest.raises(DataError, match=r"text and wav\.scp .*\n.*spk-test-2"):
        prepare(corpus, tmp_path / "data")


def test_kaldi_audio_that_is_gone_is_named(tmp_path: Path):
    corpus = make_kaldi_an4(tmp_path / "corpus", SETS)
    (corpus / "audio" / "spk-test-2.flac").unlink()
    with pytest.raises(DataError, match=r"spk-test-2 cannot be read.*\n.*no such file"):
        prepare(corpus, tmp_path / "data")


def test_path_with_a_space_is_refused(tmp_path: Path):
    corpus = make_kaldi_an4(tmp_path / "my corpus", SETS)
    with pytest.raises(DataError, match="cannot hold a path with a space"):
        prepare(corpus, tmp_path / "data")


def test_narrow_band_passes_where_the_recipe_asks_for_it(tmp_path: Path):
    corpus = make_cmu_an4(tmp_path / "an4")
    narrow_band(corpus)
    assert prepare(corpus, tmp_path / "data", fs=8000)["test"][0].id == "spkc-an9-b"


def test_spoken_corpus_holds_out_sentences_and_voices():
    speak = load_program(RECIPE / "local" / "speak_an4.py")
    counts = {"train_nodev": 60, "train_dev": 5, "test_spoken": 20}
    sets = speak.plan(counts, seed=3)
    assert sets == speak.plan(counts, seed=3)
    assert {name: len(each) for name, each in sets.items()} == counts
    trained = {text for _, text, _ in sets["train_nodev"]}
    tested = {text for _, text, _ in sets["test_spoken"] if " " in text}
    assert trained.isdisjoint(tested)
    voices = {how.name for _, _, how in sets["train_nodev"]}
    assert sum(how.name not in voices for _, _, how in sets["test_spoken"]) >= 10


def test_spoken_corpus_has_the_real_utterances_and_their_test_set_apart(tmp_path: Path):
    real = tmp_path / "real"
    prepare(make_cmu_an4(tmp_path / "an4"), real)
    out = tmp_path / "spoken"
    options = ["--train", "3", "--dev", "1", "--test", "1", "--real", str(real)]
    done = run("python3", RECIPE / "local" / "speak_an4.py", out, *options)
    assert done.returncode == 0, done.stderr
    sets = prepare(
        out,
        tmp_path / "data",
        sets=["train_nodev", "train_dev", "test_spoken", "test_real"],
    )
    assert {name: len(found) for name, found in sets.items()} == {
        "train_nodev": 6,
        "train_dev": 2,
        "test_spoken": 1,
        "test_real": 1,
    }


def test_the_weights_of_trainings_are_averaged(tmp_path: Path):
    average = load_program(RECIPE / "local" / "average.py")
    for name, value in (("one", 1.0), ("other", 2.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"max_epoch: {value:.0f}\n")
        weights = {
            "w": torch.full((2,), value, dtype=torch.float16),
            "batches": torch.tensor(int(value)),
        }
        torch.save(weights, tmp_path / name / "ave.pth")
    files = [str(tmp_path / name / "ave.pth") for name in ("one", "other")]
    average.main([*files, "--out", str(tmp_path / "mean" / "ave.pth")])
    mean = torch.load(tmp_path / "mean" / "ave.pth", weights_only=True)
    assert mean["w"].tolist() == [1.5, 1.5]
    assert mean["w"].dtype == torch.float16
    assert mean["batches"] == 2
    assert (tmp_path / "mean" / "config.yaml").read_text() == "max_epoch: 2\n"


def test_trainings_of_different_models_are_not_averaged(tmp_path: Path):
    average = load_program(RECIPE / "local" / "average.py")
    for name, size in (("one", 2), ("other", 3)):
        torch.save({"w": torch.zeros(size)}, tmp_path / f"{name}.pth")
    with pytest.raises(CheckpointError, match="1 weights that differ, such as w"):
        average.average([tmp_path / "one.pth", tmp_path / "other.pth"])
