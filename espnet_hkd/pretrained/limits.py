"""What a model on disk may ask of this machine: files, memory, time and network.

A packed model may come from anybody. Nothing here depends on what is in it by chance:
each limit is far above what models need and far below what harms a machine.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import yaml

from espnet_hkd.border.settings import PARTS
from espnet_hkd.errors import CheckpointError, PLMError
from espnet_hkd.teacher.locate import check_references, read_json

# Bytes of a YAML file; a token list of 100,000 words has 2 MB.
YAML_BYTES = 4 << 20
# Values of a YAML file, each counted as often as an alias repeats it.
YAML_VALUES = 500_000
YAML_DEPTH = 50
# Characters of one value.
YAML_VALUE = 10_000
# Files of an archive.
MEMBERS = 1000
# What an archive may grow to: so many times its size, or so many bytes. Weights hardly
# shrink; a page of text shrinks to a third.
GROWTH = 20
GROWN_BYTES = 64 << 20
# Largest whole number among a part's options. Sampling rates are larger.
LARGEST = 100_000
LARGEST_RATE = 1_000_000
# Mel bins and channels, which are multiplied by the size of the window.
LARGEST_BINS = 1024
# Attention takes memory by the square of the frames; models have 100 a second, or 200.
FRAMES_A_SECOND = 500

# Classes of ESPnet that neither download anything nor open foreign checkpoints. Ours do
# not either.
_LOCAL = {
    "frontend": ("default", "sliding_window", "wav2vec_cnn"),
    "preencoder": ("sinc", "linear"),
    "encoder": (
        "conformer",
        "transformer",
        "transformer_multispkr",
        "contextual_block_transformer",
        "contextual_block_conformer",
        "vgg_rnn",
        "rnn",
        "longformer",
        "branchformer",
        "e_branchformer",
        "multiconv_conformer",
    ),
    "postencoder": ("length_adaptor",),
    "decoder": (
        "transformer",
        "lightweight_conv",
        "lightweight_conv2d",
        "dynamic_conv",
        "dynamic_conv2d",
        "rnn",
        "transducer",
        "mlm",
        "s4",
        "linear_decoder",
    ),
    "lm": ("seq_rnn", "transformer"),
    "token_type": ("char", "bpe", "word"),
}
# The option by which a class of ESPnet names a folder of a model, or one on the hub.
FOLDER_OPTIONS = {
    "huggingface": "model",
    "hugging_face_transformers": "model_name_or_path",
}
# Where a configuration holds the options of what is built.
SECTIONS = (*(f"{part}_conf" for part in PARTS), "ctc_conf", "lm_conf")
_ALLOW = (
    "give allow_download=True (espnet-hkd recognize --allow_download) if you trust "
    "who made the model"
)


def load_yaml(text: str) -> Any:
    """Read YAML that may be meant to do harm.

    Raises:
        ValueError: It is no YAML, or beyond the limits; says which.
    """
    if len(text) > YAML_BYTES:
        raise ValueError(f"{len(text):,} characters, not at most {YAML_BYTES:,}")
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node)
        return loader.construct_document(node)
    # Its constructors raise whatever a value leads to: 2026-99-99 is a ValueError, a
    # list as a name a TypeError, brackets within brackets a RecursionError.
    except Exception as error:
        said = " ".join(str(error).split()) or "nested too deeply"
        raise ValueError(f"{type(error).__name__}: {said[:300]}") from error
    finally:
        loader.dispose()


def _count_values(root: yaml.Node) -> None:
    """Check depth, size and number of values before any of them is made."""
    sizes: dict[int, int] = {}
    open_: set[int] = set()

    def size(node: yaml.Node, depth: int) -> int:
        if id(node) in open_:
            raise ValueError("a value that contains itself")
        if depth > YAML_DEPTH:
            raise ValueError(f"values nested more than {YAML_DEPTH} deep")
        if id(node) not in sizes:
            open_.add(id(node))
            total = 1 + sum(size(child, depth + 1) for child in _children(node))
            open_.discard(id(node))
            if total > YAML_VALUES:
                raise ValueError(f"more than {YAML_VALUES:,} values")
            sizes[id(node)] = total
        return sizes[id(node)]

    size(root, 0)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif len(node.value) > YAML_VALUE:
        raise ValueError(f"a value of more than {YAML_VALUE:,} characters")


def check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """Check how much an archive of `size` bytes holds, where, and its sums.

    Raises:
        ValueError: Too many or too large files, or one outside its folder.
        zipfile.BadZipFile: A sum is wrong.
    """
    members = archive.infolist()
    if len(members) > MEMBERS:
        raise ValueError(f"{len(members):,} files, not at most {MEMBERS:,}")
    grown = sum(member.file_size for member in members)
    most = max(GROWN_BYTES, GROWTH * size)
    if grown > most:
        raise ValueError(f"it would grow to {grown:,} bytes, not at most {most:,}")
    damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the sum of {damaged} is wrong")


def leaves(name: str) -> bool:
    """Whether a path in a package leads out of it."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in name


def check_options(config: Mapping[str, Any], name: str | Path, *, layers: int) -> None:
    """Check that no option asks for sizes that no model has.

    Args:
        config: The configuration.
        name: For the errors.
        layers: Most layers a part may have: each has at least one tensor.

    Raises:
        CheckpointError: One does, or a section is not of its kind.
    """
    for section in SECTIONS:
        values = config.get(section)
        if values is None:
            continue
        if not isinstance(values, dict):
            raise CheckpointError(
                f"{section} of {name} is no section",
                got=f"{values!r}"[:200],
                wanted="names and values",
                remedy="use the config.yaml that training wrote",
            )
        for key, value in _numbers(values):
            most = LARGEST_RATE if key in ("fs", "sample_rate") else LARGEST
            most = LARGEST_BINS if re.search("mels|channel", key) else most
            most = layers if re.search("blocks|layers", key) else most
            if not math.isfinite(value) or (abs(value) > most and value == int(value)):
                raise CheckpointError(
                    f"{section}.{key} of {name} is beyond what any model has",
                    got=value,
                    wanted=f"at most {most:,}",
                    remedy="do not use it; ask whoever packed it",
                )
    _check_frames(config.get("frontend_conf") or {}, name)


def _check_frames(frontend: Mapping[str, Any], name: str | Path) -> None:
    """Check how many frames a second a frontend makes, where its options say so."""
    import humanfriendly

    try:
        # "16k" in configurations; ESPnet's defaults where nothing is said.
        rate = humanfriendly.parse_size(str(frontend.get("fs") or 16000))
        frames = rate / int(frontend.get("hop_length", 128))
    # What is no number, or zero, is found where the frontend is built.
    except (humanfriendly.InvalidSize, ArithmeticError, TypeError, ValueError):
        return
    if frames > FRAMES_A_SECOND:
        raise CheckpointError(
            f"the frontend of {name} is beyond what any model has",
            got=f"{frames:,.0f} frames a second",
            wanted=f"at most {FRAMES_A_SECOND}",
            remedy="do not use it; ask whoever packed it",
        )


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """All numbers in a section, with their names."""
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from _numbers(item, str(inner))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item, key)
    elif isinstance(value, int | float):
        yield key, value


def check_downloads(config: Mapping[str, Any], root: Path, name: str | Path) -> None:
    """Refuse parts that fetch weights or code of others where they are built.

    A part whose folder lies in the package has what it needs there.

    Args:
        config: The configuration, with paths as ESPnet will open them.
        root: The package's folder.
        name: For the errors.

    Raises:
        CheckpointError: There is such a part; says how to allow it.
    """
    for part, local in _LOCAL.items():
        chosen = config.get(part)
        ours = isinstance(chosen, str) and chosen.startswith("hkd_")
        if chosen is None or ours or chosen in local:
            continue
        if not _has_folder(config, part, root):
            raise CheckpointError(
                f"{name} wants to download its {part} when it is built",
                got=f"{part}: {chosen}"[:200],
                wanted=f"a {part} that comes with the model: {', '.join(local)}",
                remedy=_ALLOW,
            )


def _has_folder(config: Mapping[str, Any], part: str, root: Path) -> bool:
    """Whether a part reads a folder of the package, with weights and without code."""
    options, key = config.get(f"{part}_conf"), FOLDER_OPTIONS.get(str(config[part]))
    if not isinstance(options, dict) or key is None:
        return False
    folder = Path(str(options.get(key)))
    # A name that is not a path to a folder here would be looked up on the hub.
    if not (folder.is_absolute() and folder.is_relative_to(root) and folder.is_dir()):
        return False
    try:
        check_references(folder.name, folder)
        records = [read_json(folder.name, path) for path in folder.glob("*.json")]
    except PLMError:
        return False
    coded = any("auto_map" in record for record in records)
    return not coded and any(folder.glob("*.safetensors"))


def strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts in a section, with their names."""
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from strings(item, str(inner))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item, key)
    elif isinstance(value, str) and value:
        yield key, value


def check_tensors(weights: Mapping[str, Any]) -> None:
    """Check that weights are plain tensors whose memory is there, of finite numbers.

    Raises:
        ValueError: One is not; says which.
    """
    for name, value in weights.items():
        if not torch.is_tensor(value):
            raise ValueError(f"{name} is no tensor")
        plain = (
            value.layout is torch.strided
            and value.device.type == "cpu"
            and not value.is_quantized
        )
        if not plain:
            raise ValueError(f"{name} is sparse, quantised or without values")
        # A stride of zero makes one number as many as one likes.
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise ValueError(
                f"{name} claims {value.numel():,} numbers it does not have"
            )
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} holds NaN or infinity")
