"""Tokens of a training set against its encoder frames, from stage 10's shapes."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import yaml

from espnet_hkd.border.encoders import ENCODERS, INPUT_LAYERS
from espnet_hkd.errors import ConfigError, DataError
from espnet_hkd.files import read_table, replace_file

POOLED = "hkd_pooled_conformer"
DEFAULT_HOP = 128  # samples, ESPnet's default frontend
# The shapes as stage 10 left them, where some utterances have been left out.
ALL = ".all"
SHOWN = 5


BY_HAND = (
    "divide the training set's tokens by your encoder's frames by hand, for "
    "decoder_conf.initial_weight"
)


class Utterance(NamedTuple):
    """Samples of audio (or frames of features) and target tokens, eos included."""

    id: str
    size: int
    tokens: int


class FrameRate(NamedTuple):
    """How an encoder gets its frames from audio.

    Attributes:
        name: What the configuration calls it.
        hop: Samples between feature frames; None: the data are features.
        convolutions: Kernels and strides over time, without padding.
        poolings: Poolings by two after them, the last frame alone if need be.
    """

    name: str
    hop: int | None
    convolutions: tuple[tuple[int, int], ...]
    poolings: int = 0

    def frames(self, size: int) -> int:
        """Encoder frames of so many samples (or feature frames)."""
        frames = size if self.hop is None else size // self.hop + 1
        for kernel, stride in self.convolutions:
            frames = max((frames - kernel) // stride + 1, 0)
        for _ in range(self.poolings):
            frames = (frames + 1) // 2
        return frames


def read_config(path: Path, asr_args: str = "") -> dict:
    """The parts of a training YAML that count here, command line options included.

    Raises:
        ConfigError: It cannot be read, or does not hold names and values.
    """
    from espnet2.utils.nested_dict_action import NestedDictAction

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"the training configuration {path} cannot be read",
            got=error,
            wanted="a YAML file, such as conf/train_asr_cif_hkd.yaml",
            remedy="correct --config (run.sh: --asr_config)",
        ) from error
    if not isinstance(config, dict):
        raise ConfigError(
            f"{path} is no training configuration",
            got=type(config).__name__,
            wanted="names and values, as in conf/train_asr_cif_hkd.yaml",
            remedy="correct --config (run.sh: --asr_config)",
        )
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for part in ("frontend", "encoder", "model"):
        parser.add_argument(f"--{part}", default=config.get(part))
        parser.add_argument(
            f"--{part}_conf",
            action=NestedDictAction,
            default=config.get(f"{part}_conf") or {},
        )
    known, _ = parser.parse_known_args(shlex.split(asr_args))
    return {**config, **vars(known)}


def frame_rate(config: dict, features: bool = False) -> FrameRate:
    """The encoder's frames.

    Args:
        config: The training configuration.
        features: The data are features, not audio.

    Raises:
        ConfigError: They are not known here.
    """
    frontend = config.get("frontend") or "default"
    encoder = config.get("encoder") or "rnn"
    conf = config.get("encoder_conf") or {}
    layer = conf.get("input_layer", "conv2d")
    hop = None
    if not features:
        if frontend != "default":
            raise ConfigError(
                f"the frame rate of frontend {frontend} is not known here",
                got=f"frontend {frontend}",
                wanted="default",
                remedy=BY_HAND,
            )
        hop = (config.get("frontend_conf") or {}).get("hop_length", DEFAULT_HOP)
    if encoder == POOLED:
        return FrameRate(encoder, hop, ((3, 2),), len(conf.get("pool_after", (5, 10))))
    if encoder not in ENCODERS or layer not in INPUT_LAYERS:
        raise ConfigError(
            "the encoder's frame rate is not known here",
            got=f"encoder {encoder}, input_layer {layer}",
            wanted=f"encoder {', '.join(ENCODERS)} with input_layer "
            f"{', '.join(INPUT_LAYERS)}; or encoder {POOLED}",
            remedy=BY_HAND,
        )
    return FrameRate(layer, hop, INPUT_LAYERS[layer])


def original(shapes: Path) -> Path:
    """Where the shapes stand as stage 10 left them."""
    kept = shapes.with_name(shapes.name + ALL)
    return kept if kept.exists() else shapes


def read_shapes(stats: Path) -> tuple[list[Utterance], bool]:
    """The utterances of `train` or `valid`, and whether the data are features."""
    sizes, texts = (
        read_table(original(stats / name), remedy="run stage 10 again")
        for name in ("speech_shape", "text_shape")
    )
    utterances = [
        Utterance(id, int(sizes[id].split(",")[0]), int(text.split(",")[0]) + 1)
        for id, text in texts.items()
    ]
    return utterances, any("," in size for size in sizes.values())


def tokens_per_frame(utterances: list[Utterance], rate: FrameRate) -> float:
    """Target tokens, end of sentence included, over encoder frames."""
    frames = sum(rate.frames(utterance.size) for utterance in utterances)
    return sum(utterance.tokens for utterance in utterances) / max(frames, 1)


def too_long(utterances: list[Utterance], rate: FrameRate) -> list[Utterance]:
    """Those with more tokens than frames."""
    return [u for u in utterances if u.tokens > rate.frames(u.size)]


def describe(utterances: list[Utterance], rate: FrameRate, folder: Path) -> DataError:
    """Say which texts are too long, and what would help."""
    long = too_long(utterances, rate)
    named = [
        f"{u.id} ({u.tokens} tokens, {rate.frames(u.size)} frames)"
        for u in long[:SHOWN]
    ]
    if len(long) > SHOWN:
        named.append(f"and {len(long) - SHOWN} more")
    finer = {}
    for name in ("conv2d6", "conv2d", "conv2d2"):
        other = rate._replace(name=name, convolutions=INPUT_LAYERS[name], poolings=0)
        left = len(too_long(utterances, other))
        if left < len(long):
            finer[name] = left
    helps = ", ".join(f"{left} are left with {name}" for name, left in finer.items())
    return DataError(
        f"{len(long)} of {len(utterances)} utterances in {folder} have more tokens "
        f"(end of sentence included) than {rate.name} gives frames",
        got=", ".join(named),
        wanted="a frame for each token: at recognition a frame ends one at most, and "
        "CTC has no path through fewer",
        remedy="an encoder that subsamples less"
        + (f" (input_layer: {helps})" if helps else "")
        + ", or longer units; --long_texts skip trains without these utterances, "
        "--long_texts keep with them",
    )


def leave_out(stats: Path, ids: set[str]) -> None:
    """Take utterances out of the shape files, by which ESPnet chooses; or none."""
    for shapes in sorted(stats.glob("*_shape*")):
        if shapes.name.endswith(ALL):
            continue
        source = original(shapes)
        if not ids:
            if source != shapes:
                os.replace(source, shapes)
            continue
        kept = [
            f"{id} {shape}\n"
            for id, shape in read_table(source).items()
            if id not in ids
        ]
        if source == shapes:
            replace_file(
                shapes.with_name(shapes.name + ALL),
                lambda part, whole=shapes: shutil.copyfile(whole, part),
            )
        # In the order that there was, by which ESPnet may batch.
        replace_file(shapes, lambda part, kept=kept: part.write_text("".join(kept)))


def check(stats: Path, config: dict, long_texts: str) -> list[str]:
    """Compare tokens and frames, and treat texts that are too long.

    Args:
        stats: Stage 10's folder of the training set.
        config: The training configuration.
        long_texts: What to do about them, "stop", "skip" or "keep".

    Returns:
        What was found and done, line by line.

    Raises:
        ConfigError: The encoder's frames are not known.
        DataError: There are such texts, and `long_texts` is "stop".
    """
    utterances, features = read_shapes(stats)
    rate = frame_rate(config, features)
    used = (config.get("decoder_conf") or {}).get("initial_weight", "its default")
    lines = [
        f"{stats}: {tokens_per_frame(utterances, rate):.3f} tokens per encoder frame; "
        f"initial_weight is {used}"
    ]
    long = too_long(utterances, rate)
    if long and long_texts == "stop":
        raise describe(utterances, rate, stats)
    leave_out(stats, {u.id for u in long} if long_texts == "skip" else set())
    if long:
        done = {"skip": "left out of the training", "keep": "kept"}[long_texts]
        lines += str(describe(utterances, rate, stats)).splitlines()[:2]
        lines.append(f"  {done}: --long_texts {long_texts}")
    return lines
