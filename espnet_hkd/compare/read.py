"""Hypotheses and references as ESPnet leaves them: `text`, or `hyp.trn` and `ref.trn`.

ESPnet's stage 12 writes `text` (an utterance's id, then its hypothesis) into the
decoding folder; stage 13 writes `score_wer` and `score_cer` below it, with `ref.trn`
and `hyp.trn`: tokens, then ``(SPEAKER-UTTERANCE)``. Characters are counted as in
`score_cer`, the space between two words being one.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from espnet_hkd.errors import ConfigError, DataError, some
from espnet_hkd.files import read_table, text_lines

UNITS = ("word", "char")
SPACE = "<space>"
SCORES = {"word": "score_wer", "char": "score_cer"}

# sclite compares bytes and lowers those of ASCII: an accented letter keeps its case.
_TO_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


@dataclass(frozen=True)
class System:
    """One system's hypotheses, in the order of the test set's utterances.

    Those of several trainings stand one after the other.
    """

    name: str
    folder: str
    hypotheses: list[list[str]]


@dataclass(frozen=True)
class EvalSet:
    """What was to be recognised, and what each system made of it.

    Attributes:
        unit: "word" or "char".
        case_sensitive: Whether the tokens have kept their case.
        utterances: Their ids, sorted; all of them again for each further training.
        speakers: The speaker of each utterance; None where nothing tells.
        references: The tokens of each utterance, never none.
        systems: In the order they were given.
        trainings: Trainings of each system.
    """

    unit: str
    case_sensitive: bool
    utterances: list[str]
    speakers: list[str] | None
    references: list[list[str]]
    systems: list[System]
    trainings: int = 1


def read_eval_set(
    folders: Mapping[str, str | Path | Sequence[str | Path]],
    *,
    unit: str = "word",
    reference: str | Path | None = None,
    utt2spk: str | Path | None = None,
    case_sensitive: bool = False,
) -> EvalSet:
    """Read what several systems made of one test set.

    Args:
        folders: A folder for each system's name, or one for each of its trainings, as
            many for every system. Without `reference` it holds `hyp.trn` and `ref.trn`,
            itself or in its `score_wer` or `score_cer`.
        unit: "word" or "char".
        reference: A Kaldi text file; then each folder's `text` is read.
        utt2spk: Speakers of the utterances; None: the file of this name beside
            `reference`, if there is one, or the ids in `ref.trn`.
        case_sensitive: As sclite's -s; otherwise ASCII letters are lowered.

    Raises:
        ConfigError: An unknown unit, no system at all, or systems with more trainings
            than others.
        DataError: A folder or file is missing, utterances differ between the systems or
            from the reference, an id comes twice, a reference is empty.
    """
    if unit not in UNITS:
        raise ConfigError(
            f"There is no unit {unit!r}.",
            got=unit,
            wanted=" or ".join(UNITS),
            remedy="give --unit word or --unit char",
        )
    if not folders:
        raise ConfigError(
            "There is no system to compare.",
            got="no NAME=DIR",
            wanted="at least one NAME=DIR",
            remedy="name the decoding folders of stage 12 or the score folders of 13",
        )
    read: dict[str, list[Path]] = {}
    for name, given in folders.items():
        several = [given] if isinstance(given, str | Path) else given
        read[name] = [_existing(name, Path(folder)) for folder in several]
    numbers = {name: len(each) for name, each in read.items()}
    if len(set(numbers.values())) > 1 or 0 in numbers.values():
        raise ConfigError(
            "The systems have different numbers of trainings.",
            got=", ".join(f"{name}: {number}" for name, number in numbers.items()),
            wanted="as many folders for every system",
            remedy="give each system's folders of the same seeds",
        )
    # Each training is read like a system of its own; no name of a user's has a tab.
    apart = {
        f"{name}\t{number}": folder
        for name, each in read.items()
        for number, folder in enumerate(each)
    }
    if reference is not None:
        found = _from_text(apart, unit, Path(reference), utt2spk, case_sensitive)
    else:
        found = _from_trn(apart, unit, utt2spk, case_sensitive)
    return _pooled(found, list(read), numbers[next(iter(read))])


def _existing(name: str, folder: Path) -> Path:
    if folder.is_dir():
        return folder
    raise DataError(
        f"There is no folder {folder}, which system {name!r} was to be in.",
        got="a file" if folder.exists() else "no such folder",
        wanted="a decoding folder, such as exp/asr_hkd/decode_asr_model/test",
        remedy="run the recipe's stages 12 and 13, or correct the path",
    )


def _pooled(apart: EvalSet, names: Sequence[str], trainings: int) -> EvalSet:
    """Put the trainings of each system, which stand apart and in order, together."""
    systems = []
    for number, name in enumerate(names):
        own = apart.systems[number * trainings : (number + 1) * trainings]
        systems.append(
            System(
                name,
                ", ".join(each.folder for each in own),
                [hypothesis for each in own for hypothesis in each.hypotheses],
            )
        )
    return replace(
        apart,
        utterances=apart.utterances * trainings,
        speakers=None if apart.speakers is None else apart.speakers * trainings,
        references=apart.references * trainings,
        systems=systems,
        trainings=trainings,
    )


def read_tokens(
    path: Path, unit: str, *, case_sensitive: bool = False
) -> dict[str, list[str]]:
    """Tokens of each utterance of a Kaldi text file.

    Raises:
        DataError: The file is missing, or an id comes twice.
    """
    texts = _table(path)
    return {id: _tokens(texts[id], unit, case_sensitive) for id in texts}


def _from_text(
    folders: Mapping[str, Path],
    unit: str,
    reference: Path,
    utt2spk: str | Path | None,
    case_sensitive: bool,
) -> EvalSet:
    references = read_tokens(reference, unit, case_sensitive=case_sensitive)
    utterances = _utterances(references, reference)
    systems = []
    for name, folder in folders.items():
        path = folder / "text"
        hypotheses = read_tokens(path, unit, case_sensitive=case_sensitive)
        _same_utterances(path, hypotheses, reference, references)
        systems.append(System(name, str(folder), [hypotheses[u] for u in utterances]))
    beside = reference.parent / "utt2spk"
    if utt2spk is None and beside.is_file():
        utt2spk = beside
    speakers = None if utt2spk is None else _speakers(Path(utt2spk), utterances)
    return EvalSet(
        unit,
        case_sensitive,
        utterances,
        speakers,
        [references[u] for u in utterances],
        systems,
    )


def _from_trn(
    folders: Mapping[str, Path],
    unit: str,
    utt2spk: str | Path | None,
    case_sensitive: bool,
) -> EvalSet:
    def tokens(path: Path) -> dict[str, list[str]]:
        texts = _unique(_trn(path), path)
        _of_unit(path, texts, unit)
        return {id: _folded(texts[id], case_sensitive).split() for id in texts}

    first: Path | None = None
    references: dict[str, list[str]] = {}
    utterances: list[str] = []
    systems = []
    for name, folder in folders.items():
        scores = _score_folder(folder, unit)
        own = tokens(scores / "ref.trn")
        if first is None:
            first, references = scores / "ref.trn", own
            utterances = _utterances(references, first)
        else:
            _same_references(scores / "ref.trn", own, first, references)
        path = scores / "hyp.trn"
        hypotheses = tokens(path)
        _same_utterances(path, hypotheses, scores / "ref.trn", references)
        systems.append(System(name, str(folder), [hypotheses[u] for u in utterances]))
    if utt2spk is None:
        assert first is not None
        speakers = [_speaker_of(utterance, first) for utterance in utterances]
    else:
        speakers = _speakers(Path(utt2spk), utterances, with_speaker=True)
    return EvalSet(
        unit,
        case_sensitive,
        utterances,
        speakers,
        [references[u] for u in utterances],
        systems,
    )


def _table(path: Path) -> dict[str, str]:
    return read_table(
        path,
        wanted="lines of an utterance id, a space and a text",
        remedy="run the recipe's stages up to 12 first, or correct the path",
    )


def _trn(path: Path) -> Iterator[tuple[int, str, str]]:
    """Lines of a trn file: number, id, and what stands before it."""
    lines = text_lines(
        path,
        wanted="lines of tokens and an id in parentheses, as stage 13 writes them",
        remedy="run the recipe's stage 13 first, or correct the path",
    )
    for number, line in lines:
        line = line.strip()
        # sclite's comments.
        if not line or line.startswith(";;"):
            continue
        text, parenthesis, id = line.rpartition("(")
        if not (parenthesis and id.endswith(")") and id[:-1].strip()):
            raise DataError(
                f"Line {number} of {path} has no id.",
                got=line,
                wanted="tokens, then (SPEAKER-UTTERANCE) at the end",
                remedy="run the recipe's stage 13 again",
            )
        yield number, id[:-1].strip(), text


def _unique(lines: Iterable[tuple[int, str, str]], path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for number, id, text in lines:
        if id in texts:
            raise DataError(
                f"Utterance {id} comes twice in {path}.",
                got=f"lines {numbers[id]} and {number}",
                wanted="every utterance once",
                remedy="take one of the lines out, or write the file again",
            )
        texts[id], numbers[id] = text, number
    return texts


def _folded(text: str, case_sensitive: bool) -> str:
    return text if case_sensitive else text.translate(_TO_LOWER)


def _tokens(text: str, unit: str, case_sensitive: bool) -> list[str]:
    words = _folded(text, case_sensitive).split()
    if unit == "word":
        return words
    return [SPACE if c == " " else c for c in " ".join(words)]


def _score_folder(folder: Path, unit: str) -> Path:
    """Where `hyp.trn` and `ref.trn` of this unit are."""
    for place in (folder, folder / SCORES[unit]):
        if (place / "hyp.trn").is_file():
            return place
    has_text = (folder / "text").is_file()
    raise DataError(
        f"{folder} has no hyp.trn, nor has its {SCORES[unit]}.",
        got="a text file, but no --ref" if has_text else "neither that nor a text file",
        wanted="hyp.trn and ref.trn of stage 13, or text of stage 12 and --ref FILE",
        remedy="give --ref dump/raw/<set>/text"
        if has_text
        else "run the recipe's stages 12 and 13, or correct the path",
    )


def _of_unit(path: Path, texts: Mapping[str, str], unit: str) -> None:
    """Refuse words where characters were asked for, and the other way round."""
    other = SCORES["char" if unit == "word" else "word"]
    wrong = path.parent.name == other
    for text in texts.values():
        tokens = text.lower().split()
        if unit == "word":
            wrong = wrong or SPACE in tokens
        else:
            wrong = wrong or any(len(t) > 1 and t != SPACE for t in tokens)
    if wrong:
        raise DataError(
            f"{path} does not hold what --unit {unit} counts.",
            got="characters" if unit == "word" else "words",
            wanted="words" if unit == "word" else f"single characters and {SPACE}",
            remedy=f"give the {SCORES[unit]} of the same decoding, or another --unit",
        )


def _utterances(references: Mapping[str, Sequence[str]], path: Path) -> list[str]:
    """The ids in order, once it is sure that each has something to recognise."""
    empty = [id for id, tokens in references.items() if not tokens]
    if not references or empty:
        raise DataError(
            f"The reference {path} has utterances without text."
            if empty
            else f"The reference {path} is empty.",
            got=some(empty) if empty else "no utterance",
            wanted="at least one token for every utterance",
            remedy="take them out of the reference and of the hypotheses"
            if empty
            else "run the recipe's data stages again, or correct the path",
        )
    return sorted(references)


def _same_utterances(
    path: Path,
    found: Mapping[str, object],
    reference_path: Path,
    references: Mapping[str, object],
) -> None:
    missing = [id for id in references if id not in found]
    surplus = [id for id in found if id not in references]
    if missing or surplus:
        got = [f"missing: {some(missing)}"] if missing else []
        got += [f"not in the reference: {some(surplus)}"] if surplus else []
        raise DataError(
            f"{path} has other utterances than {reference_path}.",
            got="; ".join(got),
            wanted=f"the {len(references)} utterances of the reference, each once",
            remedy="decode the whole set (an empty hypothesis is a line with the id "
            "only), or give the reference of this set",
        )


def _same_references(
    path: Path,
    found: Mapping[str, Sequence[str]],
    first_path: Path,
    first: Mapping[str, Sequence[str]],
) -> None:
    _same_utterances(path, found, first_path, first)
    differ = [id for id in first if found[id] != first[id]]
    if differ:
        raise DataError(
            f"{path} has other texts than {first_path}.",
            got=some(differ),
            wanted="one reference for all systems",
            remedy="score all systems against the same text, with the same cleaner",
        )


def _speaker_of(id: str, path: Path) -> str:
    """The speaker in ``SPEAKER-UTTERANCE``, as sclite's ``-i rm`` finds it."""
    for separator in "-_":
        speaker, found, _ = id.partition(separator)
        if found:
            return speaker
    raise DataError(
        f"The id {id} in {path} names no speaker.",
        got=id,
        wanted="SPEAKER-UTTERANCE, as stage 13 writes it",
        remedy="run stage 13 again, or give --utt2spk FILE",
    )


def _speakers(
    path: Path, utterances: Sequence[str], *, with_speaker: bool = False
) -> list[str]:
    """Speakers by a Kaldi file; `with_speaker`: the ids are ``SPEAKER-UTTERANCE``."""
    speakers = {}
    for id, speaker in _table(path).items():
        speakers[f"{speaker}-{id}" if with_speaker else id] = speaker
    missing = [id for id in utterances if not speakers.get(id)]
    if missing:
        raise DataError(
            f"{path} does not name everyone's speaker.",
            got=f"nothing for {some(missing)}",
            wanted="lines of an utterance id, a space and its speaker",
            remedy="give the utt2spk of this set with --utt2spk",
        )
    return [speakers[id] for id in utterances]
