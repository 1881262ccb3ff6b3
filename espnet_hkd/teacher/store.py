"""Read a teacher store: what the PLM says of every training text, keyed by the text.

    store = TeacherStore.open("data/teacher")
    entry = store["HELLO WORLD"]    # entry.states (S, E), entry.spans (S, 2)

`store.json` names the PLM and the shards (see `teacher.shard`); `teacher.build` writes
them. One page cache serves all data-loading workers, and nothing is ever unpickled.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from espnet_hkd.errors import MissingTeacherError, StoreError
from espnet_hkd.teacher.lock import locked
from espnet_hkd.teacher.moments import Moments
from espnet_hkd.teacher.shard import (
    STATE_DTYPES,
    Shard,
    ShardRecord,
    TeacherEntry,
    damaged,
    file_sha256,
)
from espnet_hkd.teacher.text import canonical_text, text_key

FORMAT = 1
STORE_JSON = "store.json"
# Bytes. A record has about 200 for each shard of 4,096 texts.
_RECORD_LIMIT = 1 << 24
# Seconds. How long opening waits for somebody who writes to the store.
_PATIENCE = 30.0
# What reading a record raises where a value is missing or is not of its kind.
NOT_A_RECORD = (AttributeError, KeyError, OverflowError, TypeError, ValueError)


@dataclass(frozen=True)
class Settings:
    """What all shards of a store have in common.

    Attributes:
        plm: Name or folder of the PLM, as it was given.
        digest: sha256 over the PLM's files.
        layer: Layer whose output the states are, 0 for the embeddings.
        width: E.
        dtype: float16 or float32.
        lower: Whether the PLM read the texts in lower case.
        cleaner: ESPnet's text cleaner, or None.
        quantisation: How the PLM's weights were stored in GGUF, or None.
    """

    plm: str
    digest: str
    layer: int
    width: int
    dtype: str = "float16"
    lower: bool = False
    cleaner: str | None = None
    quantisation: str | None = None

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Settings:
        """Raises one of `NOT_A_RECORD` where a field is missing or cannot be."""
        settings = cls(
            plm=str(record["plm"]),
            digest=str(record["digest"]),
            layer=int(record["layer"]),
            width=int(record["width"]),
            dtype=str(record["dtype"]),
            lower=bool(record["lower"]),
            cleaner=record["cleaner"],
            quantisation=record.get("quantisation"),
        )
        if settings.dtype not in STATE_DTYPES:
            raise ValueError(f"dtype {settings.dtype!r}, not one of {[*STATE_DTYPES]}")
        if not isinstance(settings.cleaner, str | None):
            raise TypeError(f"cleaner {settings.cleaner!r}, not a name")
        return settings

    to_json = asdict

    def options(self) -> list[str]:
        """The options of `espnet-hkd extract-teacher` that make such a store."""
        options = ["--plm", self.plm, "--layer", str(self.layer)]
        options += ["--dtype", self.dtype]
        options += ["--lower"] if self.lower else []
        options += ["--cleaner", self.cleaner] if self.cleaner else []
        return options

    def differences(self, other: Settings) -> list[str]:
        """Names of the fields in which the two differ; a PLM is known by its files."""
        here, there = replace(self, plm=""), replace(other, plm="")
        return [
            name
            for name, value in here.to_json().items()
            if there.to_json()[name] != value
        ]


class TeacherStore:
    """A finished store, opened for reading; a mapping from text to `TeacherEntry`.

    Shards are mapped when they are first needed, in each process for itself: an opened
    store may be pickled or forked. White space in a text asked for is not told apart.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        shards: list[ShardRecord],
        example: str | None = None,
        moments: Moments | None = None,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.shards = shards
        self.example = example
        self._moments = moments
        self._open: dict[int, Shard] = {}

    @classmethod
    def open(
        cls, folder: str | Path, *, plm: str | None = None, layer: int | None = None
    ) -> TeacherStore:
        """Open a store after checking format, PLM, shapes and sizes.

        Args:
            folder: The store's folder.
            plm: Name or digest of the PLM it must be of; None takes any.
            layer: Layer it must be of; None takes any.

        Raises:
            StoreError: Missing, unfinished, damaged, of a later format, or of another
                PLM or layer than was asked for.
        """
        folder = Path(folder)
        begin = time.monotonic()
        while True:
            try:
                store = cls._open_once(folder)
                break
            except StoreError:
                # Between a shard and its record the two do not fit each other.
                if not locked(folder) or time.monotonic() - begin > _PATIENCE:
                    raise
                time.sleep(0.05)
        store._check_asked(plm, layer)
        return store

    @classmethod
    def _open_once(cls, folder: Path) -> TeacherStore:
        record = read_json(folder / STORE_JSON)
        try:
            settings = Settings.from_json(record)
            shards = [
                ShardRecord.from_json(shard, index)
                for index, shard in enumerate(record["shards"])
            ]
            texts, example = int(record["texts"]), example_of(record)
            moments = Moments.from_json(record) if "mean" in record else None
        except NOT_A_RECORD as error:
            raise StoreError(
                f"{folder / STORE_JSON} is not the record of a teacher store.",
                got=f"{type(error).__name__}: {error}",
                wanted=f"the fields of format {FORMAT}",
                remedy=_make_command(folder),
            ) from error
        store = cls(folder, settings, shards, example, moments)
        for index in range(len(shards)):
            store._shard(index)
        if len(store) != texts or not shards:
            raise damaged(folder / STORE_JSON, f"{len(store)} texts, not {texts}")
        return store

    def __len__(self) -> int:
        return sum(shard.texts for shard in self.shards)

    def __contains__(self, text: object) -> bool:
        return isinstance(text, str) and self._find(canonical_text(text)) is not None

    def __getitem__(self, text: str) -> TeacherEntry:
        """The entry of a text, states and spans as read-only views of the file.

        Raises:
            MissingTeacherError: The store lacks it; says which command adds it.
        """
        text = canonical_text(text)
        if not text:
            raise MissingTeacherError(
                f"An empty transcript has no entry in teacher store {self.folder}.",
                got="an empty transcript",
                wanted="text that a PLM can read",
                remedy="leave such utterances out, as stage 4 of asr.sh does",
            )
        found = self._find(text)
        if found is None:
            raise MissingTeacherError(
                f"The teacher store {self.folder} lacks the transcript {text!r}.",
                got=f"{len(self)} texts of {self.settings.plm}",
                wanted="every transcript of the training and the dev set",
                remedy=self.mend_command(text)
                + "\n          or, for a whole set, with --text DIR/text in place of "
                "--plain --text -; what is there is kept",
            )
        shard, index = found
        return shard[index]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    @property
    def pieces(self) -> int:
        """Number of pieces of all texts, end tokens included."""
        return sum(shard.pieces for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def moments(self) -> Moments:
        """Mean and deviation of the states, as recorded; else (earlier stores) now."""
        if self._moments is None:
            self._moments = Moments.of_sample(list(self.states()))
        return self._moments

    def states(self) -> Iterator[np.ndarray]:
        """States (pieces, E) of each shard, as read-only views of the files."""
        for index in range(len(self.shards)):
            yield self._shard(index).states

    def verify(self) -> None:
        """Read every shard and compare its sha256 with what was written.

        Raises:
            StoreError: Names the first shard that differs.
        """
        for record in self.shards:
            path = self.folder / record.file
            digest = file_sha256(path)
            if digest != record.sha256:
                raise damaged(path, f"sha256 {digest}, not {record.sha256}")

    def mend_command(self, text: str) -> str:
        """The command that adds a canonical text to this store."""
        words = ["espnet-hkd", "extract-teacher", "--plain"]
        words += ["--text", "-", "--out", str(self.folder), *self.settings.options()]
        return f"echo {shlex.quote(text)} | {shlex.join(words)}"

    def _find(self, text: str) -> tuple[Shard, int] | None:
        key = text_key(text)
        shard = self._shard(shard_of(key, len(self.shards)))
        index = shard.find(key)
        return None if index is None else (shard, index)

    def _shard(self, index: int) -> Shard:
        if index not in self._open:
            record = self.shards[index]
            path = self.folder / record.file
            if path.is_file() and path.stat().st_size != record.bytes:
                size = path.stat().st_size
                raise damaged(path, f"{size} bytes instead of {record.bytes}")
            shard = Shard(path, width=self.settings.width, dtype=self.settings.dtype)
            if len(shard) != record.texts or len(shard.states) != record.pieces:
                raise damaged(path, f"{len(shard)} texts instead of {record.texts}")
            self._open[index] = shard
        return self._open[index]

    def _check_asked(self, plm: str | None, layer: int | None) -> None:
        have = self.settings
        if plm not in (None, have.plm, have.digest) or layer not in (None, have.layer):
            raise StoreError(
                f"The teacher store {self.folder} is of another PLM or layer.",
                got=f"{have.plm}, layer {have.layer}",
                wanted=f"{plm or have.plm}, "
                f"layer {have.layer if layer is None else layer}",
                remedy="give the store made with that PLM, or make one in another "
                "folder: " + _make_command("NEW_DIR", plm or have.plm, layer),
            )


def shard_of(key: bytes, shards: int) -> int:
    """The shard a key belongs to: key mod N, the key read as a big-endian number."""
    return int.from_bytes(key, "big") % shards


def example_of(record: Mapping[str, Any]) -> str | None:
    """A text that a record names; raises TypeError where it is none."""
    example = record.get("example")
    if not isinstance(example, str | None):
        raise TypeError(f"example {example!r}, not a text")
    return example


def read_json(path: Path) -> dict[str, Any]:
    """Read a record of format 1.

    Raises:
        StoreError: Missing, not JSON, or of a later format.
    """
    folder = path.parent
    try:
        if path.stat().st_size > _RECORD_LIMIT or not path.is_file():
            raise ValueError(f"not a file of at most {_RECORD_LIMIT:,} bytes")
        record = json.loads(path.read_bytes())
        number = record["format"]
    except FileNotFoundError as error:
        started = any(folder.glob("part-*.json"))
        raise StoreError(
            f"The teacher store {folder} is not finished."
            if started
            else f"There is no teacher store in {folder}.",
            got="parts that are not merged" if started else f"no {path.name}",
            wanted=f"a folder with {STORE_JSON} and shards, made by extract-teacher",
            remedy="run the same extract-teacher command again (or --merge, if every "
            "--shard has ended): finished shards are kept"
            if started
            else _make_command(folder),
        ) from error
    # Brackets within brackets, thousands deep, are a RecursionError.
    except (OSError, RecursionError, *NOT_A_RECORD) as error:
        raise StoreError(
            f"{path} cannot be read.",
            got=f"{type(error).__name__}: {error}",
            wanted=f"JSON with a field format: {FORMAT}",
            remedy=f"remove {path} and run the extract-teacher command again",
        ) from error
    if number != FORMAT:
        raise StoreError(
            f"The teacher store {folder} is of a format this version does not know.",
            got=f"format {number}",
            wanted=f"format {FORMAT}",
            remedy="update espnet_hkd (pip install -U espnet_hkd), "
            "or make the store again with this version in another folder",
        )
    return record


def _make_command(
    folder: Path | str, plm: str = "NAME_OR_DIR", layer: int | None = None
) -> str:
    words = ["espnet-hkd extract-teacher --text FILE..."]
    words += ["--plm", shlex.quote(plm), "--out", shlex.quote(str(folder))]
    words += [] if layer is None else ["--layer", str(layer)]
    return " ".join(words)
