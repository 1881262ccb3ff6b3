"""`espnet-hkd extract-teacher` and `inspect-teacher`, as a user meets them."""

from __future__ import annotations

import io
import re
import shlex

import pytest

from espnet_hkd.bin import extract_teacher, inspect_teacher
from espnet_hkd.errors import MissingTeacherError
from espnet_hkd.teacher.store import TeacherStore
from tests.teacher_material import MINILM, files, flip, save_bert, train_bpe


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    pieces = [*"设定二十九度开关", "HEL", "##LO", "YOU", "hel", "##lo", "you"]
    return str(save_bert(tmp_path_factory.mktemp("bert"), pieces, positions=12))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text"
    path.write_text(
        "u1 设定二十度\nu2 HELLO  YOU\nu3\nu4 HELLO YOU\n", encoding="utf-8"
    )
    return str(path)


def extract(*options: str) -> None:
    extract_teacher.main([str(option) for option in options])


def test_a_store_is_made_continued_and_shown(bert, text, tmp_path, capsys):
    out = tmp_path / "store"
    extract("--text", text, "--plm", bert, "--out", out)
    said = capsys.readouterr().out
    assert "4 utterances, 2 texts differ" in said
    assert "1 without text get no teacher: u3" in said
    assert re.search(r"teacher: 2 of 2 texts, [\d,]+ a second", said)
    assert "2 texts, 10 pieces" in said
    before = files(out)
    extract("--text", text, "--plm", bert, "--out", out)
    assert "0 texts read, 2 were there" in capsys.readouterr().out
    assert files(out) == before

    inspect_teacher.main([str(out), "--text", "HELLO YOU", "--token-type", "char"])
    said = capsys.readouterr().out
    for fact in (f"PLM:       {bert}", "layer:     2", "width (E): 8", "texts:     2"):
        assert fact in said
    assert "verified" in said
    table = said[said.index("\nH ") :].strip().splitlines()
    assert [line.split() for line in table] == [
        *([letter, "HEL", "1.00"] for letter in "HEL"),
        *([letter, "LO", "1.00"] for letter in "LO"),
        ["<space>", "(no", "teacher)"],
        *([letter, "YOU", "1.00"] for letter in "YOU"),
        ["<eos>", "<end>", "1.00"],
        ["9", "of", "10", "tokens", "have", "a", "teacher"],
    ]


def test_without_a_sentence_inspection_shows_one_of_the_stores_own(
    bert, text, tmp_path, capsys
):
    extract("--text", text, "--plm", bert, "--out", tmp_path / "store")
    capsys.readouterr()
    inspect_teacher.main([str(tmp_path / "store")])
    said = capsys.readouterr().out
    assert re.search(r"^HELLO +HEL 0.60 +LO 0.40$", said, re.MULTILINE)
    assert "3 of 3 tokens have a teacher" in said


def test_mandarin_is_shown_by_characters(bert, text, tmp_path, capsys):
    extract("--text", text, "--plm", bert, "--out", tmp_path / "store")
    inspect_teacher.main([str(tmp_path / "store"), "--text", "设定二十度"])
    assert re.search(r"^定 +定 1.00$", capsys.readouterr().out, re.MULTILINE)


def test_bpe_tokens_unknown_ones_and_symbols_are_shown(bert, tmp_path, capsys):
    (tmp_path / "text").write_text("<noise> HELLO YOU")
    out = tmp_path / "store"
    extract("--plain", "--text", tmp_path / "text", "--plm", bert, "--out", out)
    model = train_bpe(tmp_path, ["HELLO YOU", "HELLO", "YOU"], size=20)
    (tmp_path / "tokens").write_text("<unk>\n\u2581HELLO\n")
    (tmp_path / "nlsyms").write_text("<noise>\n")
    options = ["--token-type", "bpe", "--bpemodel", model, "--nlsyms"]
    options += [tmp_path / "nlsyms", "--token-list", tmp_path / "tokens"]
    inspect_teacher.main([str(word) for word in [out, *options]])
    said = capsys.readouterr().out
    assert re.search(r"^\u2581HELLO +HEL 0.60 +LO 0.40$", said, re.MULTILINE)
    assert re.search(r"<noise> +\(no teacher\)$", said, re.MULTILINE)
    assert re.search(r"^\u2581?YOU +\(no teacher\)$", said, re.MULTILINE)


def test_shards_of_several_processes_are_merged(bert, text, tmp_path, capsys):
    extract("--text", text, "--plm", bert, "--out", tmp_path / "one", "--shards", "2")
    for shard in ("1/2", "0/2"):
        extract(
            "--text", text, "--plm", bert, "--out", tmp_path / "parts", "--shard", shard
        )
    extract("--merge", "--out", tmp_path / "parts")
    assert "2 texts, 10 pieces" in capsys.readouterr().out
    assert files(tmp_path / "parts") == files(tmp_path / "one")


def test_the_command_that_an_error_names_mends_the_store(
    bert, text, tmp_path, monkeypatch
):
    out = tmp_path / "store"
    extract("--text", text, "--plm", bert, "--out", out, "--layer", 1, "--lower")
    with pytest.raises(MissingTeacherError) as caught:
        TeacherStore.open(out)["YOU'D HELLO"]
    echo, command = str(caught.value.remedy).splitlines()[0].split(" | ")
    assert shlex.split(echo) == ["echo", "YOU'D HELLO"]
    words = shlex.split(command)
    assert words[:2] == ["espnet-hkd", "extract-teacher"]
    monkeypatch.setattr("sys.stdin", io.StringIO("YOU'D HELLO\n"))
    extract(*words[2:])
    store = TeacherStore.open(out)
    assert "YOU'D HELLO" in store
    assert "HELLO YOU" in store


def test_the_package_that_carries_minilm_is_found(tmp_path, capsys):
    (tmp_path / "text").write_text("u1 HELLO YOU\n")
    extract("--text", tmp_path / "text", "--plm", MINILM, "--out", tmp_path / "store")
    assert f"{MINILM}: layer 6, width 384" in capsys.readouterr().out
    store = TeacherStore.open(tmp_path / "store", plm=MINILM, layer=6)
    assert store["HELLO YOU"].states.shape == (3, 384)


def test_a_transcript_longer_than_the_plm_takes_is_stored_whole(bert, tmp_path):
    long = "设定二十九度开关" * 5
    (tmp_path / "text").write_text(f"u1 {long}\n", encoding="utf-8")
    extract("--text", tmp_path / "text", "--plm", bert, "--out", tmp_path / "store")
    entry = TeacherStore.open(tmp_path / "store")[long]
    assert entry.spans[:-1].tolist() == [[n, n + 1] for n in range(40)]


def test_a_store_of_another_layer_is_left_alone(bert, text, tmp_path):
    out = tmp_path / "store"
    extract("--text", text, "--plm", bert, "--out", out)
    before = files(out)
    with pytest.raises(SystemExit, match=r"another PLM or layer(.|\n)*--layer 2"):
        extract("--text", text, "--plm", bert, "--out", out, "--layer", "0")
    assert files(out) == before


def test_a_damaged_store_is_named_by_inspection_and_mended_by_extraction(
    bert, text, tmp_path, capsys
):
    out = tmp_path / "store"
    extract("--text", text, "--plm", bert, "--out", out)
    flip(out / "shard-00000.safetensors", 400)
    with pytest.raises(SystemExit, match=r"shard-00000.safetensors is damaged: sha256"):
        inspect_teacher.main([str(out)])
    extract("--text", text, "--plm", bert, "--out", out)
    inspect_teacher.main([str(out)])
    assert "verified" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--text", "none", "--plm", "./x"], "text file none cannot be read"),
        (["--text", "TEXT", "--plm", "./x"], r"no PLM folder './x'"),
        (["--text", "TEXT", "--plm", "./x", "--cleaner", "soap"], "cleaner 'soap'"),
        (["--merge"], "no teacher store"),
    ],
    ids=["text missing", "PLM missing", "unknown cleaner", "nothing to merge"],
)
def test_a_users_mistake_is_one_message_without_traceback(
    text, tmp_path, options, said
):
    options = [text if option == "TEXT" else option for option in options]
    with pytest.raises(SystemExit, match=rf"^espnet-hkd extract-teacher: .*{said}"):
        extract(*options, "--out", tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--text", "x"],
        ["--plm", "x"],
        ["--text", "x", "--plm", "y", "--merge"],
        ["--text", "x", "--plm", "y", "--shard", "2/2"],
        ["--text", "x", "--plm", "y", "--shard", "1"],
        ["--text", "x", "--plm", "y", "--shard", "0/2", "--shards", "3"],
        ["--text", "x", "--plm", "y", "--batch-size", "0"],
    ],
    ids=" ".join,
)
def test_options_that_make_no_sense_are_refused(tmp_path, options):
    with pytest.raises(SystemExit) as caught:
        extract(*options, "--out", tmp_path)
    assert caught.value.code == 2


def test_a_plm_of_another_language_is_refused_and_nothing_written(bert, tmp_path):
    (tmp_path / "text").write_text("u1 GUTEN TAG\n")
    with pytest.raises(SystemExit, match="it knows 0 of 8 characters"):
        extract("--text", tmp_path / "text", "--plm", bert, "--out", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_characters_the_plm_lacks_are_told(bert, tmp_path, capsys):
    (tmp_path / "text").write_text("u1 设定三十度\n")
    extract("--text", tmp_path / "text", "--plm", bert, "--out", tmp_path / "store")
    assert "1 of 5 characters (20.00 %) are unknown" in capsys.readouterr().out
