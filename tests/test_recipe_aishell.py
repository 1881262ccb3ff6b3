"""AISHELL-1: what is not whole is named before ESPnet's preparation begins."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_hkd.errors import DataError
from tests.recipe_material import (
    REPOSITORY,
    SHELL,
    TOOLS,
    load_program,
    make_recipe,
    run,
)

pytestmark = pytest.mark.slow

RECIPE = REPOSITORY / "egs2" / "aishell_hkd" / "asr1"
aishell = load_program(RECIPE / "local" / "check_aishell.py")
small = load_program(TOOLS / "small_corpora.py")
COUNTS = {"train": 4, "dev": 2, "test": 2}


def make_aishell(out: Path) -> Path:
    """Four utterances of two speakers to train on, two each for dev and test."""
    small.make("aishell", out, COUNTS)
    return out / "data_aishell"


def transcripts(data: Path) -> Path:
    return data / "transcript" / "aishell_transcript_v0.8.txt"


def some_wav(data: Path, name: str = "train") -> Path:
    return sorted((data / "wav" / name).rglob("*.wav"))[0]


def test_whole_corpus_passes_and_its_folder_is_named(tmp_path: Path):
    make_aishell(tmp_path / "corpus")
    assert aishell.check(str(tmp_path / "corpus")) == tmp_path / "corpus"


def test_espnet_prepares_the_sets_and_nothing_else_is_left(tmp_path: Path):
    data = make_aishell(tmp_path / "corpus")
    recipe = make_recipe(tmp_path / "recipe", RECIPE)
    assert run(SHELL / "link_recipe.sh", recipe).returncode == 0
    for _ in range(2):
        done = run(
            recipe / "local" / "data.sh", cwd=recipe, AISHELL=str(tmp_path / "corpus")
        )
        assert done.returncode == 0, done.stderr
    text = (recipe / "data" / "train" / "text").read_text().splitlines()
    # In the words of the sentences, but without the spaces between them.
    wanted = dict(
        zip(
            sorted(path.stem for path in data.rglob("train/*/*.wav")),
            [small.MANDARIN[n] for n in (0, 2, 1, 3)],
            strict=True,
        )
    )
    assert dict(line.split() for line in text) == wanted
    wav = (recipe / "data" / "dev" / "wav.scp").read_text().splitlines()
    assert [line.split()[1] for line in wav] == [
        str(path) for path in sorted(data.rglob("dev/*/*.wav"))
    ]
    assert sorted(path.name for path in (recipe / "data").iterdir()) == [
        *("dev", "local", "test", "train")
    ]
    assert list((recipe / "data" / "local").iterdir()) == []
    # What no header tells is found by reading; the sets of before stay.
    path = some_wav(data, "dev")
    soundfile.write(path, np.zeros(8000), 16000)
    done = run(
        recipe / "local" / "data.sh", cwd=recipe, AISHELL=str(tmp_path / "corpus")
    )
    assert done.returncode == 1
    assert f"The audio of {path.stem} is silent" in done.stderr
    assert (recipe / "data" / "dev" / "wav.scp").read_text().splitlines() == wav


def drop_speaker(data: Path) -> None:
    shutil.rmtree(some_wav(data).parent)


def drop_audio(data: Path) -> None:
    some_wav(data).unlink()


def drop_set(data: Path) -> None:
    shutil.rmtree(data / "wav" / "test")


def pack_speaker(data: Path) -> None:
    folder = some_wav(data).parent
    (data / "wav" / f"{folder.name}.tar.gz").touch()
    shutil.rmtree(folder)


def pack_all(data: Path) -> None:
    (data.parent / "data_aishell.tgz").touch()
    shutil.rmtree(data)


def drop_transcript(data: Path) -> None:
    lines = transcripts(data).read_text().splitlines(keepends=True)
    transcripts(data).write_text("".join(lines[1:]))


def drop_transcripts(data: Path) -> None:
    transcripts(data).unlink()


def empty_transcript(data: Path) -> None:
    lines = transcripts(data).read_text().splitlines()
    lines[0] = lines[0].split()[0]
    transcripts(data).write_text("\n".join(lines))


def repeat_transcript(data: Path) -> None:
    text = transcripts(data).read_text()
    transcripts(data).write_text(text + text.splitlines()[0] + "\n")


def empty_audio(data: Path) -> None:
    some_wav(data).write_bytes(b"")


def narrow_band(data: Path) -> None:
    import soundfile

    samples, _ = soundfile.read(some_wav(data))
    soundfile.write(some_wav(data), samples, 8000, "PCM_16")


def flat(data: Path) -> None:
    """The layout of some copies: speakers without the three sets."""
    for name in COUNTS:
        for folder in (data / "wav" / name).iterdir():
            folder.rename(data / "wav" / folder.name)
        (data / "wav" / name).rmdir()


def rename(data: Path) -> None:
    data.rename(data.parent / "aishell2")


def link_set(data: Path) -> None:
    (data / "wav" / "dev").rename(data.parent / "elsewhere")
    (data / "wav" / "dev").symlink_to(data.parent / "elsewhere")


def add_byte_order_mark(data: Path) -> None:
    path = transcripts(data)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def add_carriage_returns(data: Path) -> None:
    path = transcripts(data)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def add_no_break_space(data: Path) -> None:
    path = transcripts(data)
    path.write_text(path.read_text() + "BAC009S9999W0001 \u6211\u00a0\u60f3\n")


def add_parentheses(data: Path) -> None:
    path = some_wav(data)
    path.rename(path.with_stem("BAC009(1)"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_speaker, r"2 of 8 transcripts have no audio.*\n.*the speakers S0001"),
        (drop_audio, r"1 of 8 transcripts have no audio.*\n.*BAC009S0001W0000"),
        (drop_set, r"no recordings of test.*not whole"),
        (pack_speaker, r"1 speakers in .* are not unpacked\n.*S0001(.|\n)*tar -xzf"),
        (pack_all, r"data_aishell\.tgz is not unpacked(.|\n)*tar -xzf"),
        (
            drop_transcript,
            r"1 of 8 recordings have no transcript.*\n.*BAC009S0001W0000",
        ),
        (drop_transcripts, r"The transcripts .* are missing"),
        (empty_transcript, r"has no text of BAC009S0001W0000"),
        (repeat_transcript, r"has two transcripts of BAC009S0001W0000"),
        (empty_audio, r"1 recordings are empty.*\n.*BAC009S0001W0000"),
        (narrow_band, r"does not fit this recipe.*\n.*8000 Hz.*\n.*16000 Hz"),
        (flat, r"no recordings of train, dev, test"),
        (rename, r"is not laid out like AISHELL-1\n  got:    aishell2"),
        (link_set, r"1 folders under .* are links"),
        (add_byte_order_mark, r"of BAC009S0001W0000, holds a byte order mark"),
        (add_carriage_returns, r"of BAC009S0001W0000, holds a carriage return"),
        (add_no_break_space, r"of BAC009S9999W0001 holds .*\n.*U\+00A0 NO-BREAK"),
        (add_parentheses, r"'BAC009\(1\)' cannot be used\n.*U\+0028 LEFT"),
    ],
)
def test_damaged_corpus_is_refused(tmp_path: Path, damage, message: str):
    data = make_aishell(tmp_path / "corpus")
    damage(data)
    with pytest.raises(DataError, match=message):
        aishell.check(str(tmp_path / "corpus"))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", r"AISHELL names no folder(.|\n)*--download true"),
        ("gone", r"AISHELL folder .*gone does not exist"),
        ("corpus/data_aishell", r"not laid out(.|\n)*AISHELL=.*/corpus: the folder"),
        ("my corpus", r"a path with a space"),
        ("wav/training", r"misled by the path of the corpus\n  got:    'wav/train'"),
        ("a.wavs", r"misled by the path of the corpus\n  got:    '\.wav'"),
    ],
)
def test_folder_that_cannot_be_it_is_refused(tmp_path: Path, place: str, message: str):
    for name in ("corpus", "my corpus", "wav/training", "a.wavs"):
        (tmp_path / name / "data_aishell").mkdir(parents=True)
    with pytest.raises(DataError, match=message):
        aishell.check(str(tmp_path / place) if place else "")


def test_few_recordings_without_transcript_pass_as_in_the_published_corpus():
    """325 of 141,925; ESPnet's preparation leaves them out."""
    audio = {
        name: {f"BAC009S0001W{n:04d}": Path("S0001/x.wav") for n in range(first, last)}
        for name, first, last in (
            ("train", 0, 800),
            ("dev", 800, 900),
            ("test", 900, 1000),
        )
    }
    texts = {id: "好" for each in audio.values() for id in each}
    for id in list(texts)[:10]:
        del texts[id]
    aishell.check_pairs(audio, texts)
    del texts["BAC009S0001W0500"]
    with pytest.raises(DataError, match="11 of 1000 recordings have no transcript"):
        aishell.check_pairs(audio, texts)


def test_refused_corpus_leaves_nothing_and_fails_the_stage(tmp_path: Path):
    data = make_aishell(tmp_path / "corpus")
    drop_audio(data)
    recipe = make_recipe(tmp_path / "recipe", RECIPE)
    # The caller's folder counts.
    done = run(
        *(recipe / "run.sh", "--stage", "1", "--stop_stage", "1", "--plm", "none"),
        *("--skip_packing", "true", "--skip_eval", "true"),
        cwd=tmp_path,
        AISHELL="corpus",
    )
    assert done.returncode != 0
    assert "transcripts have no audio" in done.stderr
    assert not (recipe / "data").exists()


def test_small_corpus_of_real_speech_lies_like_aishell(tmp_path: Path):
    """From a Kaldi-style sample, spread over it, both speakers in the training set."""
    sample = tmp_path / "sample"
    for name in COUNTS:
        (sample / name).mkdir(parents=True)
        speakers = ["S0001"] * 5 + ["S0002"] * 4
        rows = [(f"BAC009{s}{name}{n}", s) for n, s in enumerate(speakers)]
        for file, line in (
            ("text", "{} 打开(三号)窗户\n"),
            ("wav.scp", "{} sound.flac\n"),
        ):
            (sample / name / file).write_text(
                "".join(line.format(id) for id, _ in rows)
            )
        lines = [f"{id} {speaker}\n" for id, speaker in rows]
        (sample / name / "utt2spk").write_text("".join(lines))
    small.soundfile.write(sample / "sound.flac", small.tones("好"), small.RATE)
    corpus = small.make("aishell", tmp_path / "out", COUNTS, sample)
    assert {each.speaker for each in corpus["train"]} == {"S0001", "S0002"}
    assert aishell.check(str(tmp_path / "out")) == tmp_path / "out"
    small.soundfile.write(sample / "sound.flac", small.tones("好"), 8000)
    with pytest.raises(DataError, match="8000 Hz"):
        small.make("aishell", tmp_path / "again", COUNTS, sample)
