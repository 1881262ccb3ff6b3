"""One shard of a teacher store: a safetensors file, written whole, read by memory map.

Tensors: `keys` (n, 16) uint8, sorted; `offsets` (n + 1,) int64; `states` (pieces, E)
float16 or float32; `spans` (pieces, 2) int32. Text i owns pieces offsets[i] to
offsets[i + 1]. See design section 4.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from espnet_hkd.errors import StoreError
from espnet_hkd.teacher.text import KEY_BYTES

STATE_DTYPES = {"float16": "F16", "float32": "F32"}
_NUMPY = {"U8": "u1", "I64": "<i8", "I32": "<i4", "F16": "<f2", "F32": "<f4"}
_HEADER_LIMIT = 1 << 20


@dataclass(frozen=True)
class TeacherEntry:
    """What the PLM says of one text.

    Attributes:
        states: (S, E) float16 (or float32), one row a piece, the end token's last.
        spans: (S, 2) int32, begin and end of each piece in the canonical text;
            (-1, -1) for the end token, empty for a piece the PLM does not know.
    """

    states: np.ndarray
    spans: np.ndarray


@dataclass(frozen=True)
class ShardRecord:
    """What store.json knows of a shard: its name, digest and size."""

    file: str
    sha256: str
    bytes: int
    texts: int
    pieces: int

    @classmethod
    def from_json(cls, record: Mapping) -> ShardRecord:
        return cls(
            str(record["file"]),
            str(record["sha256"]),
            int(record["bytes"]),
            int(record["texts"]),
            int(record["pieces"]),
        )

    to_json = asdict


def shard_name(index: int) -> str:
    return f"shard-{index:05d}.safetensors"


class Shard:
    """A shard file under memory map; holds no copy of any tensor.

    Raises:
        StoreError: The file is missing, cut off, or not laid out as format 1 says.
    """

    def __init__(self, path: Path, *, width: int, dtype: str) -> None:
        self.path = path
        try:
            raw = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise damaged(path, f"it cannot be read: {error}") from error
        tensors = _tensors(path, np.asarray(raw))
        wanted = {
            "keys": ("U8", (KEY_BYTES,)),
            "states": (STATE_DTYPES[dtype], (width,)),
            "spans": ("I32", (2,)),
            "offsets": ("I64", ()),
        }
        for name, (kind, row) in wanted.items():
            array = tensors.get(name)
            if array is None or array.dtype != _NUMPY[kind] or array.shape[1:] != row:
                found = (
                    "none" if array is None else f"{array.dtype} of shape {array.shape}"
                )
                raise damaged(path, f"tensor {name}: {found}, not {kind} (n, {row})")
        self.keys = tensors["keys"]
        self.offsets = tensors["offsets"]
        self.states = tensors["states"]
        self.spans = tensors["spans"]
        pieces = len(self.states)
        if not (
            len(self.offsets) == len(self.keys) + 1
            and self.offsets[0] == 0
            and self.offsets[-1] == pieces == len(self.spans)
            and (np.diff(self.offsets) >= 0).all()
        ):
            raise damaged(path, "its tensors do not fit each other")

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, key: bytes) -> int | None:
        """The index of a key, or None. Touches about log2(n) pages."""
        index = bisect.bisect_left(
            range(len(self.keys)), key, key=lambda i: self.keys[i].tobytes()
        )
        if index < len(self.keys) and self.keys[index].tobytes() == key:
            return index
        return None

    def __getitem__(self, index: int) -> TeacherEntry:
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return TeacherEntry(self.states[rows], self.spans[rows])

    def items(self) -> Iterable[tuple[bytes, TeacherEntry]]:
        for index in range(len(self)):
            yield self.keys[index].tobytes(), self[index]


def stage_shard(
    path: Path, entries: Mapping[bytes, TeacherEntry], *, width: int, dtype: str
) -> ShardRecord:
    """Write a shard under its temporary name and sync it; `commit` gives it its name.

    The same entries give the same bytes.

    Raises:
        StoreError: It cannot be written, for example because the disk is full.
    """
    keys = sorted(entries)
    state_type = np.dtype(_NUMPY[STATE_DTYPES[dtype]])
    lengths = [len(entries[key].states) for key in keys]
    pieces = sum(lengths)
    # Wide items first: every tensor is then aligned to its own item size.
    layout = {
        "offsets": ("I64", (len(keys) + 1,)),
        "spans": ("I32", (pieces, 2)),
        "states": (STATE_DTYPES[dtype], (pieces, width)),
        "keys": ("U8", (len(keys), KEY_BYTES)),
    }

    def chunks() -> Iterable[bytes | memoryview]:
        yield _header(layout)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype="<i8")]).astype("<i8")
        yield offsets.tobytes()
        for key in keys:
            yield entries[key].spans.astype("<i4", copy=False).tobytes()
        for key in keys:
            yield entries[key].states.astype(state_type, copy=False).tobytes()
        yield from keys

    digest, size = stage(path, chunks())
    return ShardRecord(path.name, digest, size, len(keys), pieces)


def stage(path: Path, chunks: Iterable[bytes | memoryview]) -> tuple[str, int]:
    """Write chunks to the temporary file of `path`, synced: (sha256, bytes).

    Raises:
        StoreError: Writing failed; nothing of it is left.
    """
    digest, size = hashlib.sha256(), 0
    staged = _staged(path)
    try:
        with staged.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        staged.unlink(missing_ok=True)
        raise unwritable(path, error) from error
    return digest.hexdigest(), size


def commit(path: Path) -> None:
    """Give a staged file its name; after a crash the old file or the new one is there,
    whole.

    Raises:
        StoreError: The file system refused.
    """
    try:
        os.replace(_staged(path), path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise unwritable(path, error) from error


def make_folder(folder: Path) -> None:
    """Make the folder of a store.

    Raises:
        StoreError: There is a file of that name, or one may not write there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unwritable(path: Path, error: OSError) -> StoreError:
    """The error for a place that cannot be written."""
    return StoreError(
        f"The teacher store cannot be written: {path}.",
        got=error.strerror or error,
        wanted="a folder one may write to, with enough room on its disk",
        remedy="make room or give another --out, then run the same command again: "
        "finished shards are kept",
    )


def damaged(path: Path, what: str) -> StoreError:
    """The error for a shard that is not what it was."""
    return StoreError(
        f"The teacher store's {path.name} is damaged: {what}.",
        got=path,
        wanted="the file as extract_teacher wrote it",
        remedy="run the extract_teacher command that made the store again: "
        "it writes damaged shards anew and keeps the others",
    )


def _staged(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def _header(layout: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    fields, begin = {}, 0
    for name, (kind, shape) in layout.items():
        end = begin + np.dtype(_NUMPY[kind]).itemsize * math.prod(shape)
        fields[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    header = json.dumps(fields, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def _tensors(path: Path, raw: np.ndarray) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file as views of its bytes."""
    length = int.from_bytes(raw[:8].tobytes(), "little")
    if not 2 <= length <= min(_HEADER_LIMIT, len(raw) - 8):
        raise damaged(path, f"{len(raw)} bytes without a safetensors header")
    tensors, reached = {}, 0
    try:
        fields = json.loads(raw[8 : 8 + length].tobytes())
        fields.pop("__metadata__", None)
        data = raw[8 + length :]
        for name, field in fields.items():
            begin, end = field["data_offsets"]
            tensors[name] = data[begin:end].view(_NUMPY[field["dtype"]])
            tensors[name] = tensors[name].reshape(field["shape"])
            reached = max(reached, end)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"its header cannot be read: {error}") from error
    if reached != len(data):
        raise damaged(path, f"{len(data)} bytes of tensors instead of {reached}")
    return tensors
