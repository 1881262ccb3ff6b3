"""How often a model fires as many tokens as there are, on a Kaldi-style set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from espnet_hkd.errors import DataError
from espnet_hkd.files import read_table


def count_differences(
    model: str, data: Path, hypotheses: Path | None = None
) -> dict[str, int]:
    """Tokens fired, or recognised, minus those of the transcript, by utterance."""
    import espnet_hkd

    recognizer = espnet_hkd.from_pretrained(model)
    audio, texts = read_table(data / "wav.scp"), read_table(data / "text")
    if hypotheses is not None:
        found = read_table(hypotheses)
        missing = sorted(texts.keys() - found.keys())
        if missing:
            raise DataError(
                f"{hypotheses} lacks utterances of {data}",
                got=f"{len(missing)} missing, such as {missing[0]}",
                wanted="a hypothesis for each, empty ones too",
                remedy="decode the whole set (stage 12)",
            )
        return {
            id: recognizer.count_tokens(found[id]) - recognizer.count_tokens(text)
            for id, text in texts.items()
        }
    differences = {}
    for id, text in texts.items():
        if id not in audio:
            raise DataError(
                f"{id} of {data} has no audio",
                got="a transcript only",
                wanted="the same utterances in text and wav.scp",
                remedy="give a whole set",
            )
        fired = recognizer.firing(audio[id])
        differences[id] = len(fired.symbols) - recognizer.count_tokens(text)
    return differences


def report(differences: Mapping[str, int], worst: int = 5) -> list[str]:
    """The count error, how often each difference occurs, and the worst utterances."""
    size = len(differences)
    error = sum(map(abs, differences.values())) / max(size, 1)
    exact = sum(value == 0 for value in differences.values())
    lines = [f"count error {error:.3f}, exact in {exact} of {size} utterances"]
    for value, times in sorted(Counter(differences.values()).items()):
        lines.append(f"  {value:+d}: {times}")
    largest = sorted(differences.items(), key=lambda item: -abs(item[1]))[:worst]
    return lines + [f"  {id}: {value:+d}" for id, value in largest if value]
