"""One shard of a teacher store: a safetensors file, written whole, read by memory map.

Tensors: `keys` (n, 16) uint8, sorted; `offsets` (n + 1,) int64; `states` (pieces, E)
float16 or float32; `spans` (pieces, 2) int32. Text i owns pieces offsets[i] to
offsets[i + 1]. See design section 4.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from espnet_hkd.errors import StoreError
from espnet_hkd.files import replace_file
from espnet_hkd.teacher.text import KEY_BYTES

STATE_DTYPES = ("float16", "float32")


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
    def from_json(cls, record: Mapping, index: int) -> ShardRecord:
        """Of shard `index`.

        Raises:
            KeyError, OverflowError, TypeError, ValueError: It is no such record.
        """
        # A name of another form could lead out of the store's folder.
        if record["file"] != shard_name(index):
            raise ValueError(f"file {record['file']!r}, not {shard_name(index)!r}")
        return cls(
            shard_name(index),
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
        tensors = _map_tensors(path)
        wanted = {
            "keys": ("uint8", (KEY_BYTES,)),
            "states": (dtype, (width,)),
            "spans": ("int32", (2,)),
            "offsets": ("int64", ()),
        }
        for name, (kind, row) in wanted.items():
            array = tensors.get(name)
            if array is None or array.dtype != kind or array.shape[1:] != row:
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

    def all_keys(self) -> list[bytes]:
        """The keys in their order."""
        return self.keys.view(f"V{KEY_BYTES}")[:, 0].tolist()

    def __getitem__(self, index: int) -> TeacherEntry:
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return TeacherEntry(self.states[rows], self.spans[rows])

    def items(self) -> Iterable[tuple[bytes, TeacherEntry]]:
        for index, key in enumerate(self.all_keys()):
            yield key, self[index]


def write_shard(
    path: Path,
    entries: Mapping[bytes, TeacherEntry],
    *,
    width: int,
    dtype: str,
    announce: Callable[[ShardRecord], None],
) -> None:
    """Write a shard; the file of before stays until the new one is whole and verified.

    The same entries give the same bytes.

    Args:
        path: The shard's file.
        entries: Of each key.
        width: E.
        dtype: Of the states.
        announce: Called with the shard's record before the shard gets its name.

    Raises:
        StoreError: It cannot be written, for example because the disk is full, or what
            is read back is not what was written.
    """
    keys = sorted(entries)
    lengths = [len(entries[key].states) for key in keys]
    # The empty arrays give shape and type where there are no texts.
    states = [np.zeros((0, width), dtype), *(entries[key].states for key in keys)]
    spans = [np.zeros((0, 2), np.int32), *(entries[key].spans for key in keys)]
    data = safetensors.numpy.save(
        {
            "keys": np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES),
            "offsets": np.cumsum([0, *lengths], dtype=np.int64),
            "states": np.concatenate(states, dtype=dtype),
            "spans": np.concatenate(spans, dtype=np.int32),
        }
    )
    record = ShardRecord(
        file=path.name,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        texts=len(keys),
        pieces=sum(lengths),
    )

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)
        digest = file_sha256(temporary)
        if digest != record.sha256:
            raise damaged(path, f"sha256 {digest} was read back, not {record.sha256}")
        announce(record)

    try:
        replace_file(path, write)
    except OSError as error:
        raise unwritable(path, error) from error


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
        wanted="the file as extract-teacher wrote it",
        remedy="run the extract-teacher command that made the store again: "
        "it writes damaged shards anew and keeps the others",
    )


def _map_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file as read-only views of its bytes."""
    tensors = {}
    try:
        # The library's NumPy form copies; PyTorch's is a view of the mapped file.
        with safetensors.safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no dictionary)
                tensors[name] = file.get_tensor(name).numpy()
                tensors[name].flags.writeable = False
    # PyTorch has RuntimeError for what it cannot map, TypeError for types of its own.
    except (OSError, safetensors.SafetensorError, RuntimeError, TypeError) as error:
        raise damaged(path, f"it cannot be read: {error}") from error
    return tensors
