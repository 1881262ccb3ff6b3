"""compare_systems: tables, pictures, and what a user can do wrong."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from espnet_hkd.bin import compare_systems
from espnet_hkd.compare import compare, markdown, read_eval_set
from espnet_hkd.errors import DataError
from tests.recipe_material import REPOSITORY, run

# ESPnet's ids: speakers and utterances with dashes, one Mandarin text.
REFERENCE = {
    "ann-b-01": "GO HOME",
    "ann-b-02": "ONE TWO THREE FOUR FIVE SIX",
    "bo-01": "STOP",
    "bo-02": "SET THE CLOCK",
    "cy-01": "打开 空调",
}
SPEAKERS = {id: id.rpartition("-")[0] for id in REFERENCE}
GOOD = REFERENCE | {"ann-b-01": "go", "cy-01": "打开 空 调"}
# Errors: 1 del; 1 sub, 1 ins after the end; 1 del; none; 1 sub, 1 ins.
BAD = GOOD | {"ann-b-02": "ONE TWO THREE FOUR SEX SIX NINE", "bo-01": ""}


def write_text(path: Path, texts: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{id} {text}".strip() + "\n" for id, text in texts.items()]
    path.write_text("".join(lines), encoding="utf-8")


def characters(text: str) -> str:
    return " ".join("<space>" if c == " " else c for c in text)


def write_scores(
    folder: Path, texts: dict[str, str], reference: dict[str, str] = REFERENCE
) -> None:
    """score_wer and score_cer as stage 13 writes them."""
    for score, tokens in (("score_wer", str), ("score_cer", characters)):
        (folder / score).mkdir(parents=True)
        for name, each in (("ref", reference), ("hyp", texts)):
            lines = [f"{tokens(t)}\t({SPEAKERS[id]}-{id})\n" for id, t in each.items()]
            path = folder / score / f"{name}.trn"
            path.write_text("".join(lines), encoding="utf-8")


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Two systems' decoding folders and a Kaldi set, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name, texts in (("good", GOOD), ("bad", BAD)):
        write_text(tmp_path / name / "text", texts)
        write_scores(tmp_path / name, texts)
    write_text(tmp_path / "data" / "text", REFERENCE)
    write_text(tmp_path / "data" / "utt2spk", SPEAKERS)
    return tmp_path


def say(capsys, *options: str) -> str:
    compare_systems.main([*options, "--resamples", "200"])
    return capsys.readouterr().out


def rows(text: str) -> list[list[str]]:
    """The cells of all tables, without their rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in re.split(r"(?<!\\)\|", x)[1:-1]] for x in lines]
    return [row for row in cells if row[0] != "---"]


BOTH = ("BAD=bad", "GOOD=good")


def test_words_their_errors_ends_and_lengths_are_told(work, capsys):
    said = say(capsys, *BOTH)

    assert "Utterances: 5, words: 14, speakers: 3" in said
    assert "200 paired resamples of speakers, seed 0" in said
    table = rows(said)
    assert [cell for n, cell in enumerate(table[1]) if n != 2] == [
        *("BAD", "42.86", "2", "2", "2", "80.0", "-", "-", "-")
    ]
    assert table[2][:2] == ["GOOD", "21.43"]
    assert table[2][3:8] == ["1", "1", "1", "40.0", "-50.0"]
    ends = ["last word deleted", "last word wrong", "words after the end"]
    assert table[3] == ["system", *ends, "empty hypotheses"]
    assert table[4:6] == [["BAD", "2", "1", "1", "1"], ["GOOD", "1", "1", "0", "0"]]
    assert table[6:] == [
        ["WER % by words", "1-2", "3-5", "6-10"],
        ["BAD", "80.00", "0.00", "33.33"],
        ["GOOD", "60.00", "0.00", "0.00"],
        ["(utterances)", "3", "1", "1"],
        ["(words)", "5", "3", "6"],
    ]
    assert said.endswith("- BAD: `bad`\n- GOOD: `good`\n")


@pytest.mark.parametrize("unit", ["word", "char"])
def test_text_with_reference_counts_as_score_folders_do(work, capsys, unit):
    scores = say(capsys, *BOTH, "--unit", unit)

    assert say(capsys, *BOTH, "--unit", unit, "--ref", "data/text") == scores
    (work / "data" / "utt2spk").rename(work / "speakers")
    read = ["--unit", unit, "--ref", "data/text", "--utt2spk", "speakers"]
    assert say(capsys, *BOTH, *read) == scores
    name = {"word": "score_wer", "char": "score_cer"}[unit]
    own = [f"BAD=bad/{name}", f"GOOD=good/{name}", "--unit", unit]
    assert say(capsys, *own).replace(f"/{name}", "") == scores


def test_characters_have_spaces_between_words(work, capsys):
    said = say(capsys, *BOTH, "--unit", "char")

    assert f"characters: {sum(map(len, REFERENCE.values()))}," in said
    # "go" for "GO HOME", and a space too many in the Mandarin one.
    assert rows(said)[2][3:6] == ["0", "5", "1"]


def test_case_counts_only_where_it_is_asked_for(work, capsys):
    said = say(capsys, *BOTH, "--case-sensitive")

    assert "counted as by sclite -s." in said
    assert rows(said)[2][3:6] == ["2", "1", "1"]


def test_ids_in_trn_give_speakers_unless_utt2spk_does(work, capsys):
    # sclite takes what stands before the first dash.
    first = read_eval_set({"A": "bad"}).speakers
    write_text(work / "utt2spk", SPEAKERS)
    second = read_eval_set({"A": "bad"}, utt2spk="utt2spk").speakers

    assert first == ["ann", "ann", "bo", "bo", "cy"]
    assert second == ["ann-b", "ann-b", "bo", "bo", "cy"]


def test_utterances_are_drawn_where_speakers_are_not_known(work, capsys):
    (work / "data" / "utt2spk").unlink()

    said = say(capsys, *BOTH, "--ref", "data/text")

    assert "speakers: not known" in said
    assert "resamples of utterances" in said


def test_the_order_of_lines_does_not_matter(work, capsys):
    before = say(capsys, *BOTH)
    for path in work.glob("*/score_wer/hyp.trn"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text(";; sclite's\n\n" + "".join(lines[::-1]), encoding="utf-8")

    assert say(capsys, *BOTH) == before


def test_one_system_and_one_without_errors_need_no_change(work, capsys):
    write_scores(work / "right", REFERENCE)

    alone = rows(say(capsys, "GOOD=good"))
    perfect = rows(say(capsys, "RIGHT=right", "GOOD=good"))

    assert alone[0][-1] == "wrong %"
    assert perfect[1][1:3] == ["0.00", "0.00 to 0.00"]
    assert perfect[2][-3:] == ["-", "-", "0.0"]


def test_bins_may_be_chosen_and_bars_stand_in_names(work, capsys):
    said = say(capsys, "a|b=bad", "--bins", "1,2")

    assert rows(said)[-4][1:] == ["1", "2", "over 2"]
    assert rows(said)[1][0] == r"a\|b"


def test_files_hold_what_is_printed_the_same_each_time(work, capsys):
    for turn in ("one", "two"):
        files = ["--out", f"{turn}/errors.md", "--plot", f"{turn}/errors.png"]
        said = say(capsys, "BAD=bad", "$x=good", *files)

    assert (work / "one" / "errors.md").read_text(encoding="utf-8") == said
    first, second = (work / turn / "errors.png" for turn in ("one", "two"))
    assert first.read_bytes().startswith(b"\x89PNG")
    assert first.read_bytes() == second.read_bytes()
    names = {path.name for path in (work / "one").iterdir()}
    assert names == {"errors.md", "errors.png"}


def test_trainings_of_a_system_are_pooled(work, capsys):
    """6 errors and 3 in twice 14 words."""
    said = say(capsys, "A=good,bad", "B=bad,bad", "--ref", "data/text", "--bins", "2")

    assert "Utterances: 5, words: 14, speakers: 3" in said
    assert ", trainings of each system, pooled: 2." in said
    table = rows(said)
    assert table[1][:2] + table[1][3:7] == ["A", "32.14", "3", "3", "3", "60.0"]
    assert table[2][:2] + table[2][3:7] == ["B", "42.86", "4", "4", "4", "80.0"]
    assert table[-2:] == [["(utterances)", "3", "2"], ["(words)", "5", "9"]]
    assert "- A: `good, bad`" in said


def test_an_utterance_is_drawn_with_all_its_trainings(work):
    """Trainings that agree say no more than one: the interval is as wide."""
    one, two = (
        compare(read_eval_set({"A": folders}, reference="data/text"), group="utterance")
        for folders in ("bad", ["bad", "bad"])
    )
    assert one.results[0].rate_interval == two.results[0].rate_interval


def test_words_are_told_by_how_often_they_stand_in_the_training_text(work, capsys):
    write_text(
        work / "train" / "text",
        {"a": "go home", "b": "ONE ONE", "c": "ONE ONE FIVE", "d": "SIX"},
    )
    read = ["--ref", "data/text", "--train_text", "train/text"]
    table = rows(say(capsys, "A=bad", *read))

    # Never: TWO THREE FOUR STOP SET THE CLOCK and the Mandarin text, of which STOP and
    # the second Mandarin word are wrong; 1 to 3: GO HOME FIVE SIX, of which HOME and
    # FIVE; more: ONE.
    assert table[-3][1:] == ["never", "1-3 times", "over 3 times"]
    assert table[-2] == ["A", "22.22", "50.00", "0.00"]
    assert table[-1] == ["(words)", "9", "4", "1"]


def test_the_plot_shows_each_rate_change_and_interval(work):
    from espnet_hkd.compare import plot

    comparison = compare(read_eval_set({"BAD": "bad", "GOOD": "good"}), resamples=50)
    rates, changes = plot(comparison).axes

    points = [line for line in rates.lines if line.get_marker() == "o"]
    spans = [line for line in rates.lines if line.get_marker() != "o"]
    for result, point, span in zip(comparison.results, points, spans, strict=True):
        assert point.get_xdata() == [pytest.approx(100 * result.rate)]
        assert span.get_xdata() == pytest.approx(100 * np.array(result.rate_interval))
    assert [t.get_text() for t in rates.get_yticklabels()] == ["BAD", "GOOD"]
    assert [t.get_text() for t in changes.get_yticklabels()] == ["GOOD"]
    assert changes.lines[1].get_xdata() == [pytest.approx(-50)]


def test_the_page_on_comparing_shows_what_its_example_prints(tmp_path):
    page = (REPOSITORY / "docs" / "comparing.md").read_text(encoding="utf-8")
    example = re.search(r"```bash\n(mkdir.*?)```\n\nprints\n\n(.*?)\n##", page, re.S)
    assert example is not None

    done = run("bash", "-euc", example[1].replace("python ", "python3 "), cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stdout == example[2]


def spoil(work: Path, what: str) -> None:
    """Make one mistake in the files of `work`."""
    hyp, ref = (work / "good" / "score_wer" / f"{name}.trn" for name in ("hyp", "ref"))
    lines = hyp.read_text(encoding="utf-8").splitlines(keepends=True)
    changes = {
        "one missing": lines[1:],
        "one more": [*lines, "SO\t(cy-cy-09)\n"],
        "one twice": [*lines, lines[2]],
        "no id": [*lines, "SO\n"],
        "no speaker": [*lines, "SO\t(cy)\n"],
    }
    if what in changes:
        hyp.write_text("".join(changes[what]), encoding="utf-8")
        if what == "no speaker":
            extra = ref.read_text(encoding="utf-8") + "SO\t(cy)\n"
            ref.write_text(extra, encoding="utf-8")
    elif what == "not UTF-8":
        hyp.write_bytes("設\t(cy-cy-01)\n".encode("big5"))
    elif what == "other reference":
        text = ref.read_text(encoding="utf-8").replace("CLOCK", "CLOCKS")
        ref.write_text(text, encoding="utf-8")
    elif what == "no ref.trn":
        ref.unlink()
    elif what == "text only":
        hyp.unlink()
    elif what == "nothing":
        hyp.unlink()
        (work / "good" / "text").unlink()
    elif what == "nothing to say":
        write_text(work / "data" / "text", REFERENCE | {"bo-01": ""})
    elif what == "reference without lines":
        write_text(work / "data" / "text", {})
    elif what == "text twice":
        with (work / "good" / "text").open("a", encoding="utf-8") as file:
            file.write("bo-01 STOP\n")
    elif what == "a speaker missing":
        write_text(work / "data" / "utt2spk", {"bo-01": "bo"})
    elif what == "one speaker":
        write_text(work / "data" / "utt2spk", dict.fromkeys(REFERENCE, "ann"))


REF = ("--ref", "data/text")


@pytest.mark.parametrize(
    ("what", "options", "said"),
    [
        ("nothing", [], r"good has no hyp.trn(.|\n)*neither that nor a text"),
        ("text only", [], r"good has no hyp.trn(.|\n)*no --ref(.|\n)*give --ref"),
        ("no ref.trn", [], r"text file good/score_wer/ref.trn cannot be read"),
        ("nothing", REF, r"text file good/text cannot be read"),
        ("", ["--ref", "none"], r"text file none cannot be read"),
        ("", ["C=none"], r"no folder none, which system 'C'"),
        ("one missing", [], r"other utterances(.|\n)*missing: ann-b-ann-b-01$"),
        ("one more", [], r"not in the reference: cy-cy-09$"),
        ("one twice", [], r"bo-bo-01 comes twice(.|\n)*lines 3 and 6"),
        ("no id", [], r"Line 6 of good/score_wer/hyp.trn has no id"),
        ("no speaker", ["GOOD=good"], r"id cy in good/score_wer/ref.trn names no"),
        ("not UTF-8", [], r"good/score_wer/hyp.trn is not UTF-8"),
        ("other reference", [], r"other texts than bad(.|\n)*got: +bo-bo-02$"),
        ("nothing to say", REF, r"data/text has utterances without text(.|\n)*bo-01$"),
        ("reference without lines", REF, r"reference data/text is empty"),
        ("text twice", REF, r"bo-01 comes twice in good/text(.|\n)*lines 3 and 6"),
        ("a speaker missing", REF, r"data/utt2spk does not name(.|\n)*ann-b-01"),
        ("one speaker", [*REF, "--group", "speaker"], r"(.|\n)*got: +one speaker"),
        ("", ["C=bad/score_cer"], r"does not hold what --unit word counts"),
        ("", ["C=bad/score_wer", "--unit", "char"], r"not hold what --unit char"),
        ("", ["--utt2spk", "none"], r"text file none cannot be read"),
        ("", ["GOOD=bad"], r"Two systems are called 'GOOD'"),
        ("", ["bad"], r"no name or no folder(.|\n)*CIF=bad"),
        ("", ["C=bad,good"], r"different numbers of trainings(.|\n)*C: 2$"),
        ("", ["C=bad,none"], r"no folder none, which system 'C'"),
        ("", ["--train_text", "none"], r"text file none cannot be read"),
        ("", ["--resamples", "0"], r"needs resamples"),
        ("", ["--bins", "3,3"], r"do not rise(.|\n)*3,3"),
        ("", ["--out", "data/text/x"], r"data/text/x cannot be written"),
    ],
)
def test_a_users_mistake_is_one_message(work, capsys, what, options, said):
    spoil(work, what)
    systems = list(BOTH) if options != ["GOOD=good"] else []

    with pytest.raises(SystemExit) as caught:
        compare_systems.main([*systems, *options])

    message = str(caught.value)
    assert message.startswith("espnet-hkd compare: ")
    assert re.search(said, message, re.MULTILINE), message
    assert "remedy: " in message
    assert capsys.readouterr().out == ""


def test_many_missing_utterances_are_named_in_part(tmp_path):
    ids = [f"u{n}" for n in range(12)]
    write_text(tmp_path / "ref", dict.fromkeys(ids, "GO"))
    write_text(tmp_path / "A" / "text", {"u0": "GO"})

    with pytest.raises(DataError, match="u1, u2, u3, u4, u5 and 6 more"):
        read_eval_set({"A": tmp_path / "A"}, reference=tmp_path / "ref")


def test_a_spoiled_plot_leaves_the_old_one(work, capsys, monkeypatch):
    from matplotlib.figure import Figure

    def full(self, file, **options):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    (work / "errors.png").write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", full)

    with pytest.raises(
        SystemExit, match=r"errors.png cannot be written(.|\n)*No space"
    ):
        compare_systems.main([*BOTH, "--plot", "errors.png"])

    assert (work / "errors.png").read_bytes() == b"old"
    assert not list(work.glob(".errors*"))


def test_a_missing_matplotlib_is_named(work, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(SystemExit, match=r"needs matplotlib"):
        compare_systems.main([*BOTH, "--plot", "errors.png"])


def test_the_library_gives_the_same_tables_as_the_command(work, capsys):
    read = read_eval_set({"BAD": "bad", "GOOD": "good"})

    assert markdown(compare(read, resamples=200)) == say(capsys, *BOTH)


@pytest.mark.parametrize(
    "options", [["--unit", "bpe", "a=b"], ["--bins", "a,b", "a=b"], []], ids=" ".join
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(SystemExit) as caught:
        compare_systems.main(options)
    assert caught.value.code == 2


def test_the_library_needs_neither_torch_nor_espnet_before_it_is_used():
    code = (
        "import sys, espnet_hkd.compare\n"
        "print([m for m in ('torch', 'espnet2', 'matplotlib') if m in sys.modules])"
    )
    light = run("python3", "-c", code)
    assert light.stdout == "[]\n", light.stderr
