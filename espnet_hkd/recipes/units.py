"""Tokens against encoder frames for several units, before anything is trained."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from espnet_hkd.errors import ConfigError, DataError
from espnet_hkd.files import read_table
from espnet_hkd.recipes.corpus import read_lines
from espnet_hkd.recipes.lengths import (
    FrameRate,
    Utterance,
    frame_rate,
    tokens_per_frame,
)
from espnet_hkd.recipes.lengths import too_long as find_too_long

SAMPLE_RATE = 16000
# Input layers of ESPnet's encoders, by the audio frames that make an encoder frame.
LAYERS = {"4x": "conv2d", "6x": "conv2d6", "8x": "conv2d8"}


class Sentence(NamedTuple):
    """An utterance before it is cut into units: its samples at 16 kHz, its text."""

    id: str
    size: int
    text: str


class Row(NamedTuple):
    """What one unit gives: tokens in all, and too long utterances by frame rate."""

    unit: str
    tokens: int
    per_frame: dict[str, float]
    too_long: dict[str, int]


def find_audio(audio: str, folder: Path) -> Path:
    """A path of wav.scp: as it is, or from the folder that holds the set."""
    for path in (Path(audio), folder.parent / audio, folder / audio):
        if path.is_file():
            return path
    raise DataError(
        f"The length of {audio} in {folder} cannot be had",
        got="no such file",
        wanted="an audio file, or utt2num_samples in the set (stage 3 writes it)",
        remedy="give the set in dump/raw",
    )


def read_set(folder: Path) -> list[Sentence]:
    """The utterances of a set; lengths are from utt2num_samples or audio headers.

    Raises:
        DataError: Text or lengths are missing.
    """
    texts = read_table(folder / "text")
    if (folder / "utt2num_samples").is_file():
        counts = read_table(folder / "utt2num_samples")
        sizes = {id: int(count) for id, count in counts.items()}
    else:
        import soundfile

        sizes = {}
        for id, audio in read_table(folder / "wav.scp").items():
            info = soundfile.info(str(find_audio(audio, folder)))
            sizes[id] = info.frames * SAMPLE_RATE // info.samplerate
    if absent := sorted(texts.keys() - sizes.keys()):
        raise DataError(
            f"{len(absent)} texts of {folder} have no audio",
            got=absent[0],
            wanted="audio for each text",
            remedy="give a whole set",
        )
    return [Sentence(id, sizes[id], text) for id, text in texts.items()]


def read_sentences(path: Path) -> list[str]:
    """The texts of a set, or the lines of a text."""
    if path.is_dir():
        return list(read_table(path / "text").values())
    return read_lines(path)


def train_pieces(sentences: list[str], size: int, mode: str, model: Path) -> None:
    """Train a sentencepiece model with the options of asr.sh's stage 5."""
    from sentencepiece import SentencePieceTrainer

    source = model.with_suffix(".txt")
    source.write_text("\n".join(sentences), encoding="utf-8")
    try:
        SentencePieceTrainer.Train(
            input=str(source),
            model_prefix=str(model.with_suffix("")),
            vocab_size=size,
            model_type=mode,
            character_coverage=1.0,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ConfigError(
            f"No {size} pieces can be trained on {len(sentences)} sentences",
            got=str(error).strip().splitlines()[-1],
            wanted="a number of pieces that the text can fill",
            remedy="another number, or more text for --train",
        ) from error


def cutter(unit: str, model: Path | None = None) -> Callable[[str], Sequence[str]]:
    """ESPnet's tokenizer of a unit.

    Raises:
        ConfigError: There is no such unit.
    """
    from espnet2.text.build_tokenizer import build_tokenizer

    if unit in ("char", "word"):
        return build_tokenizer(unit).text2tokens
    model = model or Path(unit)
    if not model.is_file():
        raise ConfigError(
            f"{unit} is no unit",
            got="no such file",
            wanted="a sentencepiece model, a number of pieces, char or word",
            remedy="correct --units",
        )
    return build_tokenizer("bpe", bpemodel=str(model)).text2tokens


def count(
    sentences: list[Sentence],
    unit: str,
    cut: Callable[[str], Sequence[str]],
    rates: dict[str, FrameRate],
    speed: float = 1.0,
) -> Row:
    """Compare tokens, end of sentence included, with frames."""
    utterances = [
        Utterance(each.id, round(each.size / speed), len(cut(each.text)) + 1)
        for each in sentences
    ]
    return Row(
        unit,
        sum(each.tokens for each in utterances),
        {name: tokens_per_frame(utterances, rate) for name, rate in rates.items()},
        {name: len(find_too_long(utterances, rate)) for name, rate in rates.items()},
    )


def layer_rates(hop: int) -> dict[str, FrameRate]:
    return {
        name: frame_rate(
            {
                "encoder": "conformer",
                "encoder_conf": {"input_layer": layer},
                "frontend_conf": {"hop_length": hop},
            }
        )
        for name, layer in LAYERS.items()
    }


def table(rows: list[Row], sentences: list[Sentence], speed: float = 1.0) -> str:
    """A Markdown table: tokens per second, and for each rate tokens per frame."""
    seconds = sum(each.size for each in sentences) / SAMPLE_RATE / speed
    names = list(LAYERS)
    lines = [
        f"{len(sentences):,} utterances, {seconds / 3600:.2f} hours",
        "",
        "| unit | tokens per second | tokens per frame "
        + f"{', '.join(names)} | too many tokens at {' | at '.join(names)} |",
        "|---" * (3 + len(names)) + "|",
    ]
    for row in rows:
        means = ", ".join(f"{row.per_frame[name]:.2f}" for name in names)
        shares = [
            f"{row.too_long[name]:,} ({row.too_long[name] / len(sentences):.1%})"
            for name in names
        ]
        rate = row.tokens / seconds
        lines.append(f"| {row.unit} | {rate:.1f} | {means} | {' | '.join(shares)} |")
    return "\n".join(lines)


def compare(
    sets: Sequence[Path],
    units: Sequence[str],
    *,
    train: Sequence[Path] = (),
    mode: str = "unigram",
    hop: int = 160,
    speed: float = 1.0,
) -> str:
    """A Markdown table with a row for each unit.

    Args:
        sets: Kaldi-style sets.
        units: A sentencepiece model, a number of pieces, "char" or "word" each.
        train: What numbers of pieces are trained on: sets, or texts with a sentence a
            line.
        mode: Of the pieces, "unigram" or "bpe".
        hop: Samples at 16 kHz between two feature frames.
        speed: As if spoken so much faster.

    Raises:
        ConfigError: There is no such unit, or its pieces cannot be trained.
        DataError: A set is not whole.
    """
    sentences = [each for folder in sets for each in read_set(folder)]
    rates, rows = layer_rates(hop), []
    with tempfile.TemporaryDirectory() as work:
        for unit in units:
            model = None
            if unit.isdigit():
                if not train:
                    raise ConfigError(
                        f"{unit} pieces have to be trained",
                        got="no text to train on",
                        wanted="--train SET...",
                        remedy="give the training set, or a trained model in --units",
                    )
                material = [text for path in train for text in read_sentences(path)]
                model = Path(work) / f"{mode}{unit}.model"
                train_pieces(material, int(unit), mode, model)
            name = model.stem if model else unit
            rows.append(count(sentences, name, cutter(unit, model), rates, speed))
    return table(rows, sentences, speed)
