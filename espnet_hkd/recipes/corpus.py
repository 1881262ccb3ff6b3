"""What the recipes' data preparations check alike: transcripts, ids, speakers, audio.

All that stages 3 to 13 would choke on, or take for something else in silence, is
refused in stage 1, and the utterance is named.
"""

from __future__ import annotations

import io
import itertools
import re
import subprocess
import unicodedata
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_hkd.errors import DataError, some
from espnet_hkd.files import text_lines

# asr.sh's --min_wav_duration: stage 4 would take shorter ones out of training.
SHORTEST = 0.1  # seconds
# One step of 16 bits, up and down: less than this is no sound.
SILENT = 2 / 2**15
# A WAV that was written into a pipe names a length of about this, or none.
UNKNOWN_LENGTH = 2**31 - 2**16  # bytes
MEND_TEXT = "correct the transcript, or remove the utterance"
FETCH = "fetch the corpus again, or remove the utterance"


@dataclass(frozen=True)
class Utterance:
    """One recording: its id, speaker, transcript and audio (a path or a pipe)."""

    id: str
    speaker: str
    text: str
    audio: str


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped.

    Raises:
        DataError: The file cannot be read or is not UTF-8.
    """
    lines = text_lines(
        path, wanted="a text file in UTF-8", remedy="fetch the corpus again"
    )
    return [line.strip() for _, line in lines if line.strip()]


def check_form(path: Path) -> None:
    """Refuse a table that Kaldi's and ESPnet's scripts would read differently.

    They take a byte order mark and a carriage return for part of an id or a text, and
    agree on no white space but the space and the tab.

    Raises:
        DataError: There is such a character; the line's id is named.
    """
    try:
        content = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read",
            got=error,
            wanted="a table in UTF-8",
            remedy="fetch the corpus again",
        ) from error
    for number, line in enumerate(content.split("\n"), 1):
        for odd, name, remedy in (
            ("\ufeff", "a byte order mark", f"sed -i 's/\\xef\\xbb\\xbf//' {path}"),
            ("\r", "a carriage return", f"sed -i 's/\\r$//' {path}"),
        ):
            if odd in line:
                id = line.replace(odd, "").partition(" ")[0]
                raise DataError(
                    f"Line {number} of {path}, of {id}, holds {name}",
                    got=repr(line[:60]),
                    wanted="UTF-8 without mark, lines that end with a line feed",
                    remedy=remedy,
                )
        check_text(line.partition(" ")[0], line, f"line {number} in {path}")


def check_id(id: str) -> None:
    """Refuse an id that a later stage would take apart.

    Raises:
        DataError: It has parentheses (sclite takes what follows for words), white
            space, or a slash (stage 3 names files by it).
    """
    odd = {c for c in id if c in "()/" or c.isspace() or not c.isprintable()}
    if odd:
        raise DataError(
            f"The id {id!r} cannot be used",
            got=_named(odd),
            wanted="an id without parentheses, which sclite reads as its end, without "
            "white space and without slash",
            remedy="rename the utterance in every table",
        )


def check_text(id: str, text: str, where: str = "transcript") -> None:
    """Refuse white space that is none for all programs, and control characters.

    Raises:
        DataError: There is such a character, for example a no-break space.
    """
    odd = {
        c
        for c in text
        if c not in " \t" and (c.isspace() or unicodedata.category(c) == "Cc")
    }
    if odd:
        raise DataError(
            f"The {where} of {id} holds a character that stages 3 to 13 read in "
            "different ways",
            got=_named(odd),
            wanted="spaces (U+0020) between words, and no control characters",
            remedy=f"replace it by a space; or {MEND_TEXT}",
        )


def check_speakers(utterances: Iterable[Utterance]) -> None:
    """Refuse speakers that Kaldi's scripts cannot sort together with the ids.

    Raises:
        DataError: Sorted by id (bytewise), the speakers are not in order.
    """
    by_id = sorted(utterances, key=lambda each: each.id.encode())
    for one, other in itertools.pairwise(by_id):
        if one.speaker.encode() > other.speaker.encode():
            raise DataError(
                f"Sorted by id, the speakers of {one.id} and {other.id} are not in "
                "order",
                got=f"{one.speaker} before {other.speaker}",
                wanted="the same order of ids and speakers, as Kaldi's "
                "validate_data_dir.sh asks: ids that begin with their speaker and a "
                "hyphen, SPEAKER-UTTERANCE, speakers of the same length",
                remedy="rename the utterances, or the speakers, in every table",
            )


def check_path(audio: str) -> None:
    """Refuse a path that a Kaldi-style table cannot hold."""
    if any(character.isspace() for character in audio):
        raise DataError(
            "Kaldi's wav.scp cannot hold a path with a space",
            got=repr(audio),
            wanted="a path without white space",
            remedy="move the corpus, or give it by a link without spaces",
        )


def check_audio(id: str, audio: str, fs: int) -> None:
    """Refuse an audio file whose header says that it does not fit.

    Args:
        id: The utterance.
        audio: Its file; only the header is read.
        fs: The recipe's sampling rate in Hz, which the file must have or exceed.

    Raises:
        DataError: It would fail, or do harm unseen, many stages later.
    """
    import soundfile

    check_path(audio)
    try:
        info: Any = soundfile.info(audio)
    except (OSError, RuntimeError) as error:
        raise _unreadable(id, audio, error) from error
    _check_header(id, audio, info.frames, info.samplerate, info.channels, fs)


def check_recording(id: str, audio: str, fs: int) -> None:
    """Refuse a recording, read to its end, that would fail many stages later.

    Args:
        id: The utterance.
        audio: Its file, or a pipe, which is run as stage 3 will run it: in the folder
            of the recipe.
        fs: The recipe's sampling rate in Hz, which it must have or exceed.

    Raises:
        DataError: It ends too early, has samples that are no numbers, is silent or
            too short, or its pipe fails.
    """
    import soundfile

    pipe = audio.endswith("|")
    if not pipe:
        check_path(audio)
    source = io.BytesIO(_run_pipe(id, audio)) if pipe else audio
    least, most, frames = float("inf"), float("-inf"), 0
    try:
        with soundfile.SoundFile(source) as sound:
            _check_header(id, audio, sound.frames, sound.samplerate, sound.channels, fs)
            if not pipe:
                _check_declared(id, audio, sound.extra_info)
            for block in sound.blocks(2**16, dtype="float32"):
                least = min(least, block.min())
                most = max(most, block.max())
                frames += len(block)
            seconds = frames / sound.samplerate
    except (OSError, RuntimeError) as error:
        raise _unreadable(id, audio, error) from error
    problem = None
    # A sample that is no number is neither less nor more than another.
    if not -float("inf") < least <= most < float("inf"):
        problem = "has samples that are no numbers", "NaN or infinite samples"
    elif seconds < SHORTEST:
        problem = "is too short", f"{seconds:.3f} s"
    elif most - least < SILENT:
        problem = "is silent", f"{seconds:.2f} s of the value {most:g}"
    if problem:
        raise DataError(
            f"The audio of {id} {problem[0]}: {audio}",
            got=problem[1],
            wanted=f"speech, at least {SHORTEST} s",
            remedy=FETCH,
        )


def check_recordings(recordings: Sequence[tuple[str, str]], fs: int) -> None:
    """`check_recording` for (id, audio) pairs, as many at once as there are cores."""
    # libsndfile and the pipes work outside Python's lock.
    with ThreadPoolExecutor() as pool:
        # By the thousand, so that the first fault ends it soon.
        for first in range(0, len(recordings), 1000):
            block = recordings[first : first + 1000]
            list(pool.map(lambda each: check_recording(each[0], each[1], fs), block))


def check_tables(utterances: Sequence[Utterance]) -> list[str]:
    """Check all of a set but its audio; notes on its transcripts, line by line.

    Raises:
        DataError: Something would fail, or do harm unseen, many stages later.
    """
    for each in utterances:
        check_id(each.id)
        if not each.text.strip():
            raise DataError(
                f"The transcript of {each.id} is empty",
                got=repr(each.text),
                wanted="words",
                remedy="write down what is said, or remove the utterance",
            )
        check_text(each.id, each.text)
    check_speakers(utterances)
    return describe_forms({each.id: each.text for each in utterances})


def describe_forms(texts: dict[str, str]) -> list[str]:
    """Say which transcripts write characters in ways that make tokens of their own.

    They are left as they are: what is right depends on the corpus.
    """
    kinds = {
        "letters and accents apart (not in Unicode's form NFC)": lambda text: (
            unicodedata.normalize("NFC", text) != text
        ),
        "full-width letters, digits or punctuation": lambda text: any(
            "\uff01" <= c <= "\uff5e" for c in text
        ),
        "characters without width": lambda text: any(
            unicodedata.category(c) == "Cf" for c in text
        ),
    }
    notes = []
    for kind, holds in kinds.items():
        ids = [id for id, text in texts.items() if holds(text)]
        if ids:
            notes.append(
                f"{len(ids)} of {len(texts)} transcripts have {kind}, which are left "
                f"as they are and make tokens of their own: {some(ids)}"
            )
    return notes


def _named(characters: Iterable[str]) -> str:
    """Characters as Unicode calls them."""
    return ", ".join(
        f"U+{ord(c):04X} {unicodedata.name(c, 'control character')}"
        for c in sorted(characters)
    )


def _run_pipe(id: str, pipe: str) -> bytes:
    done = subprocess.run(
        pipe[:-1], shell=True, stdin=subprocess.DEVNULL, capture_output=True
    )
    if done.returncode or not done.stdout:
        complaint = done.stderr.decode(errors="replace").strip() or "no output"
        raise DataError(
            f"The pipe that makes the audio of {id} fails: {pipe}",
            got=f"{complaint[-300:]} (exit status {done.returncode})",
            wanted=f"audio, when the pipe is run in {Path.cwd()}",
            remedy="give absolute paths in wav.scp, and install the programs it calls",
        )
    return done.stdout


def _unreadable(id: str, audio: str, error: Exception) -> DataError:
    size = Path(audio).stat().st_size if Path(audio).is_file() else None
    got: object = {None: "no such file", 0: "an empty file"}.get(size, error)
    return DataError(
        f"The audio of {id} cannot be read: {audio}",
        got=error if audio.endswith("|") else got,
        wanted="a whole, uncompressed .sph, .wav or .flac file",
        remedy="fetch the corpus again",
    )


def _check_header(
    id: str, audio: str, frames: int, rate: int, channels: int, fs: int
) -> None:
    if frames == 0:
        raise DataError(
            f"The audio of {id} holds no samples: {audio}",
            got="0 samples",
            wanted="speech",
            remedy="fetch the corpus again",
        )
    if rate < fs or channels != 1:
        raise DataError(
            f"The audio of {id} does not fit this recipe: {audio}",
            got=f"{rate} Hz, {channels} channel(s)",
            wanted=f"{fs} Hz or more, one channel",
            remedy="give another corpus; for narrow-band speech train with "
            '--fs 8k --local_data_opts "--fs 8000"',
        )


def _check_declared(id: str, audio: str, log: str) -> None:
    """Refuse a WAV file with fewer samples than it declares, which libsndfile reads."""
    found = re.search(r"^data : (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    if found and int(found[2]) < int(found[1]) < UNKNOWN_LENGTH:
        raise DataError(
            f"The audio of {id} ends too early: {audio}",
            got=f"{int(found[2]):,} bytes of samples",
            wanted=f"{int(found[1]):,} bytes, as its header says",
            remedy="fetch the corpus again",
        )
