"""Write a teacher store in shards; whatever is finished survives a killed process.

Shard i of N holds the texts whose key is i mod N. When a shard is done, `part-i.json`
records it; when all are, `store.json` replaces the parts. Every file is written under a
temporary name, synced, and renamed. A second call keeps what is there: it reads only
the texts that the store lacks, and copies the others.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from espnet_hkd.errors import ConfigError, PLMError, StoreError
from espnet_hkd.teacher.moments import Moments
from espnet_hkd.teacher.shard import (
    Shard,
    ShardRecord,
    TeacherEntry,
    commit,
    damaged,
    file_sha256,
    make_folder,
    shard_name,
    stage,
    stage_shard,
)
from espnet_hkd.teacher.store import (
    FORMAT,
    STORE_JSON,
    Settings,
    TeacherStore,
    read_json,
    shard_of,
)
from espnet_hkd.teacher.text import text_key

logger = logging.getLogger(__name__)

# So many texts are some hundred megabytes: what a killed process loses at most.
TEXTS_PER_SHARD = 4096

Reader = Callable[[Sequence[str]], Iterable[tuple[int, np.ndarray, np.ndarray]]]
"""Texts -> (index of the text, states (S, E) float32, spans (S, 2)), in any order."""


@dataclass(frozen=True)
class Built:
    """What a call did.

    Attributes:
        read: Texts the PLM read.
        kept: Texts that were there before.
        shards: Number of shards of the store.
    """

    read: int
    kept: int
    shards: int


@dataclass(frozen=True)
class _Part:
    """What is known of one shard: from its part-i.json, or from store.json."""

    settings: Settings
    shard: ShardRecord
    replaces: str | None
    example: str | None
    count: int


def build_store(
    texts: Sequence[str],
    read: Reader,
    folder: str | Path,
    settings: Settings,
    *,
    shards: int | None = None,
    only: int | None = None,
) -> Built:
    """Add texts to the store in `folder`, which need not exist.

    Args:
        texts: Canonical texts.
        read: What makes states and spans of texts.
        folder: Where the store is or will be.
        settings: Of the PLM; must be those of a store that is there.
        shards: N; None takes that of the store, or one for each 4,096 texts.
        only: Build this shard only, and leave the rest to other processes and
            `merge_store`.

    Raises:
        StoreError: Another PLM's or another number of shards is there; a damaged shard
            holds texts that are not given; it cannot be written.
        PLMError: States do not fit the store's dtype.
    """
    folder = Path(folder)
    parts = _known_parts(folder)
    count = _shard_count(folder, parts, settings, shards, len(texts))
    groups: list[dict[bytes, str]] = [{} for _ in range(count)]
    for text in texts:
        key = text_key(text)
        groups[shard_of(key, count)][key] = text
    make_folder(folder)
    numbers = range(count) if only is None else [only]
    done = kept = 0
    for index in numbers:
        new, old = _build_shard(
            folder, index, count, groups[index], read, settings, parts.get(index)
        )
        done, kept = done + new, kept + old
    if only is None:
        merge_store(folder)
    return Built(done, kept, count)


def merge_store(folder: str | Path) -> TeacherStore:
    """Make one store of the finished parts: check them, write store.json, verify.

    Raises:
        StoreError: Parts are missing, disagree, or a shard is not what its part says.
    """
    folder = Path(folder)
    parts = _known_parts(folder)
    if not parts:
        read_json(folder / STORE_JSON)
    first = next(iter(parts.values()))
    missing = sorted(set(range(first.count)) - set(parts))
    if missing:
        raise StoreError(
            f"The teacher store {folder} is not finished.",
            got=f"{len(parts)} of {first.count} parts",
            wanted="part " + ", ".join(map(str, missing[:20])),
            remedy=f"run extract_teacher with --shard {missing[0]}/{first.count}",
        )
    for index, part in parts.items():
        different = first.settings.differences(part.settings)
        if different or part.count != first.count:
            raise StoreError(
                f"Parts {min(parts)} and {index} of {folder} do not belong together.",
                got=f"different {', '.join(different) or 'numbers of shards'}",
                wanted="parts made with the same PLM and options",
                remedy="remove the wrong part and run its --shard again",
            )
    records = [parts[index].shard for index in sorted(parts)]
    examples = [part.example for part in parts.values() if part.example]
    store = TeacherStore(folder, first.settings, records, min(examples, default=None))
    store.verify()
    _write_json(
        folder / STORE_JSON,
        {
            "format": FORMAT,
            **first.settings.to_json(),
            "texts": len(store),
            "pieces": store.pieces,
            "example": store.example,
            **Moments.of(store.states()).to_json(),
            "shards": [record.to_json() for record in records],
        },
    )
    for path in _part_files(folder):
        path.unlink()
    return TeacherStore.open(folder)


def _build_shard(
    folder: Path,
    index: int,
    count: int,
    texts: Mapping[bytes, str],
    read: Reader,
    settings: Settings,
    part: _Part | None,
) -> tuple[int, int]:
    """Bring one shard up to date: (texts read, texts that were there)."""
    path = folder / shard_name(index)
    old, recorded = _intact_shard(path, part, settings)
    kept = dict(old.items()) if old is not None else {}
    wanted = [text for key, text in texts.items() if key not in kept]
    if recorded and not wanted:
        return 0, len(kept)
    if part is not None and old is None and len(wanted) < part.shard.texts:
        raise damaged(path, f"only {len(wanted)} of its {part.shard.texts} texts given")
    entries = kept | _read_entries(wanted, read, settings)
    record = stage_shard(path, entries, width=settings.width, dtype=settings.dtype)
    example = min(filter(None, [*wanted, part and part.example]), default=None)
    # Before the shard gets its name, so that it is never without a record. A process
    # killed between the two leaves the old shard, known by `replaces`.
    _write_json(
        folder / f"part-{index}.json",
        {
            "format": FORMAT,
            **settings.to_json(),
            "shard": record.to_json(),
            "part": index,
            "parts": count,
            "replaces": part.shard.sha256 if old is not None and part else None,
            "example": example,
        },
    )
    commit(path)
    return len(wanted), len(kept)


def _read_entries(
    texts: Sequence[str], read: Reader, settings: Settings
) -> dict[bytes, TeacherEntry]:
    entries = {}
    for index, states, spans in read(texts):
        with np.errstate(over="ignore"):
            stored = states.astype(settings.dtype)
        if not np.isfinite(stored).all():
            raise PLMError(
                f"States of {settings.plm} do not fit {settings.dtype}.",
                got=f"{np.abs(states).max()} in {texts[index]!r}",
                wanted=f"numbers up to {np.finfo(settings.dtype).max}",
                remedy="store them with --dtype float32"
                if np.isfinite(states).all()
                else "choose another PLM or layer: this one yields no numbers",
            )
        entries[text_key(texts[index])] = TeacherEntry(stored, spans.astype(np.int32))
    return entries


def _intact_shard(
    path: Path, part: _Part | None, settings: Settings
) -> tuple[Shard | None, bool]:
    """The shard of that name if it is one that was recorded, and whether it is the
    one recorded last; (None, False) if it is to be written."""
    if part is None or not path.is_file():
        return None, False
    digest = file_sha256(path)
    if digest not in (part.shard.sha256, part.replaces):
        logger.warning("%s is damaged and will be written anew", path)
        return None, False
    shard = Shard(path, width=settings.width, dtype=settings.dtype)
    return shard, digest == part.shard.sha256


def _shard_count(
    folder: Path,
    parts: Mapping[int, _Part],
    settings: Settings,
    asked: int | None,
    texts: int,
) -> int:
    for part in parts.values():
        different = part.settings.differences(settings)
        if different:
            there, here = part.settings.to_json(), settings.to_json()
            raise StoreError(
                f"{folder} already holds a teacher store of another PLM or layer, "
                "or made with other options.",
                got=", ".join(f"{name} {there[name]}" for name in ["plm", *different]),
                wanted=", ".join(
                    f"{name} {here[name]}" for name in ["plm", *different]
                ),
                remedy="give another --out, or the options that store was made with: "
                + " ".join(part.settings.options()),
            )
        if asked not in (None, part.count):
            raise StoreError(
                f"The teacher store {folder} has another number of shards.",
                got=f"{part.count} shards",
                wanted=f"{asked}",
                remedy=f"go on with {part.count} shards, or give another --out",
            )
        return part.count
    if asked is not None and asked < 1:
        raise ConfigError(
            "A store has one shard or more.",
            got=asked,
            wanted="a whole number, at least 1",
            remedy="correct --shards",
        )
    return asked or max(1, -(-texts // TEXTS_PER_SHARD))


def _known_parts(folder: Path) -> dict[int, _Part]:
    """The record of each shard, by index: from its part if there is one."""
    parts: dict[int, _Part] = {}
    path = folder / STORE_JSON
    try:
        if path.exists():
            record = read_json(path)
            settings = Settings.from_json(record)
            shards = [ShardRecord.from_json(shard) for shard in record["shards"]]
            example = record.get("example")
            for index, shard in enumerate(shards):
                parts[index] = _Part(settings, shard, None, example, len(shards))
        for path in _part_files(folder):
            record = read_json(path)
            parts[int(record["part"])] = _Part(
                Settings.from_json(record),
                ShardRecord.from_json(record["shard"]),
                record["replaces"],
                record["example"],
                int(record["parts"]),
            )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{path} is not a record of a teacher store.",
            got=f"{type(error).__name__}: {error}",
            wanted=f"the fields of format {FORMAT}",
            remedy=f"remove {path} and run the extract_teacher command again",
        ) from error
    return parts


def _part_files(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.glob("part-*.json")))


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    stage(path, [text.encode()])
    commit(path)
