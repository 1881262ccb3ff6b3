"""Models in GGUF files as teachers: converted once into what transformers reads.

GGUF is llama.cpp's format: one file with configuration, tokenizer and weights, these
often in four bits. The file is read by transformers, with the packages gguf and
accelerate; what comes out (configuration, safetensors in float16, tokenizer) lies in
the cache and is found there by the file's digest.

A decoder-only model makes of its first token a sink of attention, whose state is a
hundred times as long as any other and says nothing. So the converted tokenizer reads
every text behind a start token, and before an end token, for the end of sentence.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from espnet_hkd.errors import PLMError
from espnet_hkd.teacher.shard import file_sha256

RECORD = "gguf.json"
# What a converted folder must be made anew for when this file changes what it makes.
VERSION = 1
# Document separators, from which a language model begins to write.
_STARTS = ("<|endoftext|>", "<|begin_of_text|>", "<s>", "<bos>")


def find_gguf(folder: Path) -> Path | None:
    """The one GGUF file of a folder, or None.

    Raises:
        PLMError: There are several.
    """
    found = sorted(folder.glob("*.gguf"))
    if len(found) > 1:
        raise PLMError(
            f"The folder {folder} holds several GGUF files.",
            got=", ".join(path.name for path in found),
            wanted="one",
            remedy="put the one to use into a folder of its own and give that as --plm",
        )
    return found[0] if found else None


def converted(file: Path) -> Path:
    """The folder with the model of a GGUF file as transformers reads it.

    The first call converts, into $XDG_CACHE_HOME/espnet_hkd/gguf, which takes a minute
    and, for each million weights, two megabytes.

    Raises:
        PLMError: gguf or accelerate is missing, the file is damaged or of a model that
            transformers does not know, or the cache cannot be written.
    """
    digest = file_sha256(file)
    folder = cache_folder() / f"{file.stem}-{digest[:16]}-{VERSION}"
    if (folder / RECORD).is_file():
        return folder
    _check_modules()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            made = Path(work) / "made"
            made.mkdir()
            _convert(file, made)
            record = {"file": file.name, "sha256": digest, **_facts(file)}
            text = json.dumps(record, indent=2) + "\n"
            (made / RECORD).write_text(text, encoding="utf-8")
            # Another process may have been as fast: then its folder is as good.
            if not folder.exists():
                os.replace(made, folder)
    except OSError as error:
        raise PLMError(
            f"The converted model of {file.name} cannot be written.",
            got=error,
            wanted=f"room for it in {folder.parent}",
            remedy="make room, or set XDG_CACHE_HOME to a folder with room",
        ) from error
    return folder


def cache_folder() -> Path:
    """Where converted models are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "espnet_hkd" / "gguf"


def quantisation(folder: Path) -> str | None:
    """How the weights of a converted folder were stored, such as Q4_1; else None."""
    record = folder / RECORD
    if not record.is_file():
        return None
    return str(json.loads(record.read_text(encoding="utf-8"))["quantisation"])


def _check_modules() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise PLMError(
            "Reading a GGUF file needs packages that are not installed.",
            got=f"no {' and no '.join(missing)}",
            wanted="espnet_hkd with its extra `gguf`",
            remedy='pip install "espnet_hkd[gguf]"',
        )


def _convert(file: Path, folder: Path) -> None:
    """Write configuration, weights and tokenizer of a GGUF file into a folder."""
    import torch
    import transformers

    options: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **options)
        read = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=torch.float32, **options
        )
    # Whatever a damaged file makes the libraries raise.
    except Exception as error:
        raise PLMError(
            f"The GGUF file {file} cannot be read.",
            got=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
            wanted="a GGUF file of a model that this version of transformers converts",
            remedy="fetch it again, update transformers, or choose another model",
        ) from error
    # A model read from GGUF refuses to be saved as such: its weights go into one that
    # was not.
    whole = transformers.AutoModelForCausalLM.from_config(read.config)
    whole.load_state_dict(read.state_dict())
    whole.base_model.half().save_pretrained(folder)
    _frame(tokenizer)
    tokenizer.save_pretrained(folder)
    # transformers would read the file again if the configuration named it.
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _frame(tokenizer: Any) -> None:
    """Let a tokenizer set every text between a start and an end token."""
    from tokenizers.processors import TemplateProcessing

    backend = tokenizer.backend_tokenizer
    if backend.encode("a").special_tokens_mask[-1]:
        return
    end = tokenizer.eos_token
    known = [name for name in _STARTS if backend.token_to_id(name) is not None]
    start = next(iter(known), tokenizer.bos_token or end)
    if end is None or start is None:
        raise PLMError(
            "The tokenizer of the GGUF file names no end token.",
            got=f"bos {tokenizer.bos_token}, eos {end}",
            wanted="both",
            remedy="choose another model",
        )
    backend.post_processor = TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(name, backend.token_to_id(name)) for name in {start, end}],
    )


def _facts(file: Path) -> dict[str, str]:
    """What GGUF says of itself: how most of its weights are stored."""
    from collections import Counter

    from gguf import GGUFReader

    kinds: Counter[str] = Counter()
    for tensor in GGUFReader(file).tensors:
        kinds[tensor.tensor_type.name] += int(tensor.n_elements)
    return {"quantisation": kinds.most_common(1)[0][0]}
