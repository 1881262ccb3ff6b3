"""LibriSpeech: what is not whole is named, then ESPnet makes the sets."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

import pytest

from espnet_hkd.errors import DataError
from tests.recipe_material import (
    REPOSITORY,
    SHELL,
    load_program,
    make_recipe,
    run,
    write_audio,
)
from tools import small_corpora

pytestmark = pytest.mark.slow

RECIPE = REPOSITORY / "egs2" / "librispeech_hkd" / "asr1"
librispeech = load_program(RECIPE / "local" / "check_librispeech.py")
number_lines = load_program(RECIPE / "local" / "number_lines.py")
PARTS = list(librispeech.PARTS)
CHAPTER = Path("LibriSpeech") / "train-clean-100" / "100" / "1100"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two readers a part, a chapter each, one utterance or two in each chapter."""
    corpus = tmp_path_factory.mktemp("corpus")
    small_corpora.make("librispeech", corpus, {"train": 4, "dev": 4, "test": 4})
    return corpus


@pytest.fixture
def corpus(whole: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "corpus"))


def test_whole_corpus_is_taken(whole: Path):
    assert librispeech.check(str(whole), PARTS) == whole


def drop_part(corpus: Path) -> None:
    shutil.rmtree(corpus / "LibriSpeech" / "dev-other")


def drop_reader(corpus: Path) -> None:
    shutil.rmtree(corpus / CHAPTER.parents[0])


def drop_readers(corpus: Path) -> None:
    for path in (corpus / CHAPTER.parents[1]).iterdir():
        shutil.rmtree(path)


def drop_chapter(corpus: Path) -> None:
    shutil.rmtree(corpus / CHAPTER)


def drop_audio(corpus: Path) -> None:
    (corpus / CHAPTER / "100-1100-0001.flac").unlink()


def convert_audio(corpus: Path) -> None:
    for path in (corpus / CHAPTER).glob("*.flac"):
        path.rename(path.with_suffix(".wav"))


def drop_line(corpus: Path) -> None:
    path = corpus / CHAPTER / "100-1100.trans.txt"
    path.write_text(path.read_text().splitlines(keepends=True)[0])


def drop_transcripts(corpus: Path) -> None:
    (corpus / CHAPTER / "100-1100.trans.txt").unlink()


def empty_transcripts(corpus: Path) -> None:
    (corpus / CHAPTER / "100-1100.trans.txt").write_text("\n")


def break_line(corpus: Path) -> None:
    path = corpus / CHAPTER / "100-1100.trans.txt"
    path.write_text("100-1100-0000\n")


def empty_audio(corpus: Path) -> None:
    (corpus / CHAPTER / "100-1100-0001.flac").write_bytes(b"")


def add_carriage_returns(corpus: Path) -> None:
    path = corpus / CHAPTER / "100-1100.trans.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def narrow_band(corpus: Path) -> None:
    write_audio(corpus / CHAPTER / "100-1100-0000.flac", rate=8000)


def drop_speakers(corpus: Path) -> None:
    (corpus / "LibriSpeech" / "SPEAKERS.TXT").unlink()


def break_speakers(corpus: Path) -> None:
    path = corpus / "LibriSpeech" / "SPEAKERS.TXT"
    path.write_text(path.read_text() + "506 female\n")


def add_folder(corpus: Path) -> None:
    (corpus / CHAPTER.parents[1] / "wav16").mkdir()


def other_layout(corpus: Path) -> None:
    (corpus / "LibriSpeech").rename(corpus / "data")


def no_folder_of_its_own(corpus: Path) -> None:
    for path in (corpus / "LibriSpeech").iterdir():
        path.rename(corpus / path.name)
    (corpus / "LibriSpeech").rmdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_part, r"has no dev-other\n(.*\n)+.*unpack dev-other\.tar\.gz"),
        (drop_reader, r"lacks 1 of its 2 readers.*half\n.*nothing of 100\n"),
        (drop_readers, r"lacks 2 of its 2 readers.*half\n.*nothing of 100, 101\n"),
        (drop_chapter, r"reader .*/train-clean-100/100 has no chapter"),
        (drop_audio, r"1 transcripts of train-clean-100 .*\n.*100-1100-0001\n"),
        (convert_audio, r"2 transcripts .* no audio.*\n.*\n.*-0000\.wav"),
        (drop_line, r"1 recordings of train-clean-100 .*\n.*100-1100-0001\n"),
        (drop_transcripts, r"1100 has no transcripts\n.*-0000\.flac"),
        (empty_transcripts, r"100-1100\.trans\.txt is empty"),
        (break_line, r"a line that cannot be used\n.*'100-1100-0000'"),
        (empty_audio, r"1 recordings .* are empty files.*\n.*100-1100-0001\n"),
        (add_carriage_returns, r"of 100-1100-0000, holds a carriage return"),
        (narrow_band, r"does not fit this recipe.*\n.*8000 Hz.*\n.*16000 Hz"),
        (drop_speakers, r"SPEAKERS\.TXT is missing"),
        (break_speakers, r"describes no reader\n.*'506 female'"),
        (add_folder, r"folders that SPEAKERS\.TXT does not list there\n.*wav16"),
        (other_layout, r"not laid out like LibriSpeech\n  got:    data\n"),
        (no_folder_of_its_own, r"not laid out(.*\n)+.*ln -s \S+ LibriSpeech"),
    ],
)
def test_damaged_corpus_is_refused(corpus: Path, damage, message: str):
    damage(corpus)
    with pytest.raises(DataError, match=message):
        librispeech.check(str(corpus), PARTS)


def test_folder_inside_is_answered_with_the_right_one(whole: Path):
    with pytest.raises(DataError, match=f"LIBRISPEECH={whole}: the folder that holds"):
        librispeech.check(str(whole / "LibriSpeech"), PARTS)


def test_all_hours_want_parts_that_a_hundred_do_not(whole: Path):
    parts = [*PARTS, "train-clean-360", "train-other-500"]
    with pytest.raises(
        DataError, match=r"has no train-clean-360, train-other-500"
    ) as e:
        librispeech.check(str(whole), parts)
    assert "--data 100" in str(e.value)


def test_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(SystemExit) as end:
        librispeech.main([str(tmp_path / "gone")])
    message = str(end.value)
    assert f"{tmp_path / 'gone'} does not exist" in message
    assert "LibriSpeech/PART/READER/CHAPTER/*.flac" in message
    with pytest.raises(SystemExit, match="--download true"):
        librispeech.main([""])


def prepare(work: Path, *options: str, **changes: str | None):
    """Stage 1 of local/data.sh in a work folder of the recipe."""
    make_recipe(work, RECIPE)
    assert run(SHELL / "link_recipe.sh", work).returncode == 0
    return run(work / "local" / "data.sh", *options, cwd=work, **changes)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_espnet_makes_the_sets_and_the_text_gets_ids(whole: Path, tmp_path: Path):
    text = tmp_path / "more.txt"
    text.write_text("MORE  WORDS\n\nTHAN SPOKEN\n")
    work = tmp_path / "work"
    done = prepare(work, "--lm_text", str(text), LIBRISPEECH=str(whole))
    assert done.returncode == 0, done.stdout + done.stderr
    data = work / "data"
    made = {path.parent.name for path in data.glob("*/wav.scp")}
    parts = {part.replace("-", "_") for part in PARTS}
    assert made == {"dev", *parts}
    assert lines(data / "train_clean_100" / "text") == [
        "100-1100-0000 THE RIVER IS COLD",
        "100-1100-0001 WE CAME BACK LATE",
        "101-1101-0000 OPEN A WINDOW",
        "101-1101-0001 NOBODY ANSWERED",
    ]
    for line in lines(data / "dev" / "wav.scp"):
        assert Path(line.split()[1]).resolve().is_relative_to(whole)
    clean, other = (lines(data / f"dev_{name}" / "text") for name in ("clean", "other"))
    assert lines(data / "dev" / "text") == sorted(clean + other)
    assert lines(data / "local" / "other_text" / "text") == [
        "lm-text-00000001 MORE WORDS",
        "lm-text-00000002 THAN SPOKEN",
    ]


def test_half_a_recording_stops_the_stage_and_is_named(corpus: Path, tmp_path: Path):
    """Its header is whole; ESPnet's preparation takes it."""
    path = corpus / CHAPTER / "100-1100-0001.flac"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = prepare(tmp_path / "work", LIBRISPEECH=str(corpus))
    assert done.returncode == 1
    assert "The audio of 100-1100-0001 cannot be read" in done.stderr
    assert not list((tmp_path / "work" / "data").glob("*/wav.scp"))


def test_nothing_is_written_for_a_corpus_that_is_not_whole(whole: Path, tmp_path: Path):
    work = tmp_path / "work"
    done = prepare(work, "--data", "960", LIBRISPEECH=str(whole))
    assert done.returncode != 0
    assert "has no train-clean-360, train-other-500" in done.stderr
    assert not (work / "data").exists()


def test_download_asks_for_each_part(whole: Path, tmp_path: Path):
    """ESPnet's script, with a wget that notes what it is asked for."""
    programs = tmp_path / "bin"
    programs.mkdir()
    wget = programs / "wget"
    wget.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\nexit 1\n')
    wget.chmod(0o755)
    corpus = tmp_path / "corpus"
    for part in PARTS[1:]:
        folder = corpus / "LibriSpeech" / part
        folder.mkdir(parents=True)
        (folder / ".complete").touch()
    work = tmp_path / "work"
    # The recipe's path.sh keeps what comes first in PATH, but for its own programs.
    make_recipe(work, RECIPE)
    run(SHELL / "link_recipe.sh", work)
    script = f"PATH={programs}:$PATH local/data.sh --download true"
    done = run("bash", "-c", script, cwd=work, LIBRISPEECH=str(corpus))
    assert done.returncode != 0
    assert "dev-clean.tar.gz" in (tmp_path / "asked").read_text()
    assert len(lines(tmp_path / "asked")) == 1


class TestTextForTheLanguageModel:
    def test_compressed_text_is_read(self, tmp_path: Path):
        path = tmp_path / "text.gz"
        path.write_bytes(gzip.compress(b"A BANK CHECK\n"))
        assert number_lines.number_lines(path, tmp_path / "out") == 1
        assert lines(tmp_path / "out") == ["lm-text-00000001 A BANK CHECK"]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("t.gz", gzip.compress(b"WORDS " * 9999)[:-20], "cannot be read"),
            ("t.gz", b"NO ARCHIVE\n", "cannot be read"),
            ("t.txt", b"FINE\nSmall letters\n", "Line 2 .* not in capitals"),
            ("t.txt", "CAFÉ\n".encode("latin-1"), "cannot be read"),
            ("t.txt", b"\n \n", "is empty"),
        ],
    )
    def test_unfit_text_leaves_the_old_one(
        self, tmp_path: Path, name: str, content: bytes, message: str
    ):
        path, out = tmp_path / name, tmp_path / "out"
        path.write_bytes(content)
        out.write_text("old\n")
        with pytest.raises(DataError, match=message):
            number_lines.number_lines(path, out)
        assert lines(out) == ["old"]
        assert sorted(each.name for each in tmp_path.iterdir()) == ["out", name]

    def test_missing_text_is_named(self, tmp_path: Path):
        with pytest.raises(SystemExit, match="correct --lm_text"):
            number_lines.main([str(tmp_path / "gone"), str(tmp_path / "out")])


def recipe_options(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What run.sh hands to asr.sh, which only says it here."""
    work = make_recipe(tmp_path / "work", RECIPE)
    asr = work / "asr.sh"
    asr.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    asr.chmod(0o755)
    return run(work / "run.sh", *options, "--stop_stage", "1", "--plm", "none")


def last(done: subprocess.CompletedProcess[str], name: str) -> str:
    given = done.stdout.splitlines()
    return given[len(given) - given[::-1].index(f"--{name}")]


def test_hundred_hours_without_language_model_are_the_default(tmp_path: Path):
    done = recipe_options(tmp_path, "--local_data_opts", "--fs 8k")
    assert done.returncode == 0, done.stderr
    assert last(done, "train_set") == "train_clean_100"
    assert last(done, "asr_config") == "conf/train_asr_cif_hkd.yaml"
    assert last(done, "use_lm") == "false"
    assert last(done, "inference_config") == "conf/decode_asr.yaml"
    assert last(done, "local_data_opts").split() == ["--data", "100", "--fs", "8k"]


def test_all_hours_and_text_for_the_language_model(tmp_path: Path):
    done = recipe_options(tmp_path, "--data", "960", "--lm_text", "/x/lm.gz")
    assert done.returncode == 0, done.stderr
    assert last(done, "train_set") == "train_960"
    assert last(done, "asr_config") == "conf/tuning/train_asr_cif_hkd_960.yaml"
    assert last(done, "use_lm") == "true"
    assert last(done, "inference_config") == "conf/decode_asr_lm.yaml"
    assert last(done, "lm_train_text").split() == [
        "data/train_960/text",
        "data/local/other_text/text",
    ]
    options = last(done, "local_data_opts").split()
    assert options == ["--data", "960", "--lm_text", "/x/lm.gz"]
    assert "--lm_text" not in done.stdout.splitlines()


def test_other_hours_are_refused(tmp_path: Path):
    done = recipe_options(tmp_path, "--data", "360")
    assert done.returncode != 0
    assert "wanted: 100 (train-clean-100) or 960" in done.stderr
