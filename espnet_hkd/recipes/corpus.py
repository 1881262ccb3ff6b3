"""What the recipes' data preparations check alike: transcripts, audio, file names."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from espnet_hkd.errors import DataError


def some(names: Collection[str]) -> str:
    """The first few of many names."""
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped."""
    try:
        # Not splitlines(), which also cuts at characters that a transcript may hold.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read",
            got=error,
            wanted="a text file in UTF-8",
            remedy="fetch the corpus again",
        ) from error
    return [line.strip() for line in lines if line.strip()]


def read_table(path: Path) -> dict[str, str]:
    """A Kaldi-style table: the first word of a line, and what follows it."""
    rows = (line.partition(" ") for line in read_lines(path))
    return {id: value.strip() for id, _, value in rows}


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
    """Refuse an audio file that would fail, or do harm unseen, many stages later.

    Args:
        id: The utterance.
        audio: Its file; only the header is read.
        fs: The recipe's sampling rate in Hz, which the file must have or exceed.
    """
    import soundfile

    check_path(audio)
    try:
        info = soundfile.info(audio)
    except (OSError, RuntimeError) as error:
        size = Path(audio).stat().st_size if Path(audio).is_file() else None
        raise DataError(
            f"The audio of {id} cannot be read: {audio}",
            got={None: "no such file", 0: "an empty file"}.get(size, error),
            wanted="an uncompressed .sph, .wav or .flac file",
            remedy="fetch the corpus again",
        ) from error
    if info.frames == 0:
        raise DataError(
            f"The audio of {id} holds no samples: {audio}",
            got="0 samples",
            wanted="speech",
            remedy="fetch the corpus again",
        )
    if info.samplerate < fs or info.channels != 1:
        raise DataError(
            f"The audio of {id} does not fit this recipe: {audio}",
            got=f"{info.samplerate} Hz, {info.channels} channel(s)",
            wanted=f"{fs} Hz or more, one channel",
            remedy="give another corpus; for narrow-band speech train with "
            '--fs 8k --local_data_opts "--fs 8000"',
        )
