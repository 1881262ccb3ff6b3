"""Errors are counted, and words aligned, as the real sclite does it."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from espnet_hkd.compare import align
from espnet_hkd.compare.align import Step, align_reference, count_errors
from espnet_hkd.compare.read import read_eval_set
from tests.recipe_material import REPOSITORY

Texts = list[list[str]]


def sclite(folder: Path, *options: str) -> list[list[Step]]:
    """The alignments that sclite makes of ref.trn and hyp.trn, in their order."""
    # Debian keeps it out of PATH.
    path = f"{os.environ['PATH']}:/usr/lib/sctk/bin"
    program = shutil.which("sclite", path=path)
    assert program, "sclite is not installed: make setup"
    files = ["-r", "ref.trn", "trn", "-h", "hyp.trn", "trn"]
    done = subprocess.run(
        [program, *options, *files, "-i", "rm", "-o", "sgml", "stdout"],
        cwd=folder,
        capture_output=True,
        check=True,
    )
    paths = {}
    said = done.stdout.decode()
    for id, path in re.findall(r'<PATH id="\(spk-(\d+)\)"[^>]*>\n(.*)\n', said):
        steps = re.findall(r'[CSDI],("[^"]*")?,("[^"]*")?(?::|$)', path)
        paths[int(id)] = [Step(*(side.strip('"') or None for side in s)) for s in steps]
    return [paths[number] for number in sorted(paths)]


def write_trn(folder: Path, references: Texts, hypotheses: Texts) -> None:
    for name, texts in (("ref", references), ("hyp", hypotheses)):
        lines = [f"{' '.join(text)}\t(spk-{n})\n" for n, text in enumerate(texts)]
        (folder / f"{name}.trn").write_text("".join(lines), encoding="utf-8")


def errors_by_steps(steps: Sequence[Step]) -> dict[str, int]:
    """What an alignment comes to, by plain counting."""
    end = max((n for n, step in enumerate(steps) if step.reference), default=-1)
    last = steps[end] if end >= 0 else Step(None, None)
    replaced = last.hypothesis is not None and last.hypothesis != last.reference
    return {
        "words": sum(s.reference is not None for s in steps),
        "substitutions": sum(
            None not in s and s.reference != s.hypothesis for s in steps
        ),
        "deletions": sum(s.hypothesis is None for s in steps),
        "insertions": sum(s.reference is None for s in steps),
        "last_deleted": int(end >= 0 and last.hypothesis is None),
        "last_substituted": int(replaced),
        "after_end": len(steps) - 1 - end,
        "empty": int(all(s.hypothesis is None for s in steps)),
    }


def garble(text: Sequence[str], words: Sequence[str], chance: random.Random):
    """A hypothesis with errors of every kind, at the ends too."""
    said = []
    for word in text:
        what = chance.random()
        if what < 0.12:
            continue
        said.append(chance.choice(words) if what < 0.3 else word)
        if what > 0.88:
            said.append(chance.choice(words))
    return said


def random_texts(seed: int, vocabulary: Sequence[str]) -> tuple[Texts, Texts]:
    """Few words, so that many alignments cost the same."""
    chance = random.Random(seed)
    lengths = [chance.randint(0, 14) for _ in range(400)]
    references = [[chance.choice(vocabulary) for _ in range(n)] for n in lengths]
    hypotheses = [garble(text, vocabulary, chance) for text in references]
    hypotheses[::5] = [
        [chance.choice(vocabulary) for _ in range(chance.randint(0, 14))]
        for _ in hypotheses[::5]
    ]
    return references, hypotheses


def real_texts() -> tuple[Texts, Texts]:
    """English and Mandarin by words and characters; without HKD_DATA, our own docs."""
    chance = random.Random(5)
    shared = os.environ.get("HKD_DATA")
    files = sorted((Path(shared) / "text").glob("*.txt")) if shared else []
    files = files or [REPOSITORY / "docs" / "method.md"]
    references: Texts = [["É", "cafÉ", "Éclair", "Ж", "a-b", "x'y"]]
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines()
        # What sclite takes for markup.
        lines = [re.sub(r'[^\w\s.,\'-]|"', "", line) for line in lines]
        for line in chance.sample([x for x in lines if x.split()], 60):
            characters = ["<space>" if c == " " else c for c in " ".join(line.split())]
            references += [line.split(), characters]
    words = sorted({word for text in references for word in text})
    return references, [garble(text, words, chance) for text in references]


@pytest.mark.parametrize("vocabulary", ["AB", "ABCDE", "你好吗é"])
def test_random_texts_are_aligned_step_by_step_as_by_sclite(tmp_path, vocabulary):
    references, hypotheses = random_texts(len(vocabulary), vocabulary.lower())
    write_trn(tmp_path, references, hypotheses)

    expected = sclite(tmp_path)

    assert len(expected) == 400
    for reference, hypothesis, steps in zip(
        references, hypotheses, expected, strict=True
    ):
        assert align_reference(reference, hypothesis) == steps


@pytest.mark.parametrize("case_sensitive", [False, True])
def test_real_texts_have_the_errors_that_sclite_counts(tmp_path, case_sensitive):
    references, hypotheses = real_texts()
    # Half of the hypotheses are spelled in another case.
    hypotheses[::2] = [[word.swapcase() for word in text] for text in hypotheses[::2]]
    write_trn(tmp_path, references, hypotheses)
    (tmp_path / "text").write_text(_kaldi(hypotheses), encoding="utf-8")
    (tmp_path / "ref").write_text(_kaldi(references), encoding="utf-8")

    expected = sclite(tmp_path, *(["-s"] if case_sensitive else []))

    read = read_eval_set(
        {"A": tmp_path}, reference=tmp_path / "ref", case_sensitive=case_sensitive
    )
    errors = count_errors(read.references, read.systems[0].hypotheses)
    counted = [errors_by_steps(steps) for steps in expected]
    assert sum(c["substitutions"] for c in counted) > 100
    for name in counted[0]:
        assert getattr(errors, name).tolist() == [c[name] for c in counted], name


def _kaldi(texts: Texts) -> str:
    return "".join(f"{n:06} {' '.join(text)}\n" for n, text in enumerate(texts))


@pytest.mark.parametrize("cells", [1, 900, align.CELLS])
def test_many_at_a_time_are_counted_as_one_by_one(monkeypatch, cells):
    monkeypatch.setattr(align, "CELLS", cells)
    references, hypotheses = random_texts(11, "ABC")
    references[3] = references[17] = hypotheses[17] = []

    errors = count_errors(references, hypotheses)

    for n, (reference, hypothesis) in enumerate(
        zip(references, hypotheses, strict=True)
    ):
        alone = errors_by_steps(align_reference(reference, hypothesis))
        assert {name: getattr(errors, name)[n] for name in alone} == alone
    assert (
        errors.total.tolist()
        == (errors.substitutions + errors.deletions + errors.insertions).tolist()
    )


@pytest.mark.parametrize(
    ("reference", "hypothesis", "ends"),
    [
        ("ONE TWO", "ONE", {"last_deleted": 1}),
        ("ONE TWO", "ONE SIX", {"last_substituted": 1}),
        ("ONE TWO", "ONE TWO SIX SIX", {"after_end": 2}),
        ("ONE TWO", "", {"last_deleted": 1, "empty": 1}),
        ("ONE TWO", "TWO", {}),
        # Which of the two was deleted, or added, sclite decides from the end.
        ("ONE ONE", "ONE", {}),
        ("ONE", "ONE ONE", {}),
    ],
)
def test_errors_at_the_end_are_told_apart(reference, hypothesis, ends):
    errors = count_errors([reference.split()], [hypothesis.split()])

    names = ("last_deleted", "last_substituted", "after_end", "empty")
    counted = {name: int(getattr(errors, name)[0]) for name in names}
    assert {name: count for name, count in counted.items() if count} == ends


def test_a_deletion_and_an_insertion_count_less_than_two_substitutions():
    errors = count_errors([["A", "B"]], [["B", "C"]])

    counts = (errors.substitutions, errors.deletions, errors.insertions)
    assert [n.tolist() for n in counts] == [[0], [1], [1]]


def test_no_utterance_has_no_errors():
    errors = count_errors([], [])

    assert errors.total.shape == (0,)
    assert errors.total.dtype == np.int64
