"""What a model's own CTC recognises, greedily, as Kaldi-style text."""

from __future__ import annotations

from pathlib import Path

from espnet_hkd.errors import DataError
from espnet_hkd.files import read_table, write_table


def read_set(model: str, data: Path, text: Path) -> None:
    """Write a line `ID HYPOTHESIS` for each utterance of a Kaldi-style set.

    Args:
        model: As `espnet_hkd.from_pretrained` takes it.
        data: A folder with `wav.scp`, whose values are files.
        text: The file to write; folders that are missing are made.

    Raises:
        HKDError: The set or the model cannot be read, the model has no CTC, or the
            text cannot be written.
    """
    import espnet_hkd

    audio = read_table(data / "wav.scp")
    recognizer = espnet_hkd.from_pretrained(model)
    texts = {id: recognizer.read_ctc(path) for id, path in audio.items()}
    try:
        text.parent.mkdir(parents=True, exist_ok=True)
        write_table(text, texts)
    except OSError as error:
        raise DataError(
            f"{text} cannot be written",
            got=error.strerror,
            wanted="a file in a folder one may write to, with room on its disk",
            remedy="give another --text",
        ) from error
