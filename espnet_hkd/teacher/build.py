"""Write a teacher store in shards; whatever is finished survives a killed process.

Shard i of N holds the texts whose key is i mod N. A shard is written under a temporary
name, verified, recorded in `part-i.json`, and renamed; `store.json` replaces the parts
as soon as there is one for every shard. A second call keeps what is there: it reads
only the texts that the store lacks, and writes only the shards they belong to.

Several processes may add to one store at a time. Each reads its texts by itself; the
lock of the store is held while a shard is written, and what another process has written
to that shard meanwhile is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from espnet_hkd.errors import ConfigError, PLMError, StoreError
from espnet_hkd.teacher.lock import store_lock
from espnet_hkd.teacher.parts import Part, intact, known_parts, write_part, write_store
from espnet_hkd.teacher.shard import (
    Shard,
    ShardRecord,
    TeacherEntry,
    damaged,
    shard_name,
    unwritable,
    write_shard,
)
from espnet_hkd.teacher.store import (
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
# Names of what a killed writer may have left under a temporary name.
_TEMPORARY = (".shard-*", ".part-*", ".store.*")

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
class _Plan:
    """What is to be done.

    Attributes:
        count: Number of shards.
        wanted: Texts to read, of each shard that must be written.
        kept: Texts that are there, in the shards looked at.
        lost: Errors for damaged shards with texts that are not given.
    """

    count: int
    wanted: dict[int, list[str]]
    kept: int
    lost: list[StoreError]


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

    Nothing is written where nothing is to be added.

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
            holds texts that are not given; it cannot be written, or another process
            writes all the time.
        PLMError: States do not fit the store's dtype.
    """
    folder = Path(folder)
    plan = _make_plan(folder, texts, settings, shards, only)
    if plan.wanted:
        _make_folder(folder)
    done = 0
    for index, wanted in plan.wanted.items():
        entries = _read_entries(wanted, read, settings)
        part = Part(
            settings=settings,
            shard=ShardRecord(shard_name(index), "", 0, 0, 0),
            replaces=None,
            example=min(wanted, default=None),
            count=plan.count,
        )
        if not _add(folder, index, entries, part, shards, finish=only is None):
            # Another process has begun this store meanwhile, with other shards.
            return build_store(texts, read, folder, settings, shards=shards, only=only)
        done += len(wanted)
    if only is None:
        merge_store(folder)
    return Built(done, plan.kept, plan.count)


def missing_texts(
    texts: Sequence[str],
    folder: str | Path,
    settings: Settings,
    *,
    shards: int | None = None,
    only: int | None = None,
) -> list[str]:
    """Those of the texts that `build_store` with the same arguments would read.

    Raises:
        StoreError: As for `build_store`.
    """
    plan = _make_plan(Path(folder), texts, settings, shards, only)
    return [text for wanted in plan.wanted.values() for text in wanted]


def merge_store(folder: str | Path) -> TeacherStore:
    """Make one store of the finished parts: check them, verify them, write store.json.

    Raises:
        StoreError: Parts are missing, disagree, or a shard is not what its part says.
    """
    folder = Path(folder)
    parts = known_parts(folder)
    if not parts:
        read_json(folder / STORE_JSON)
    elif any(part.since is None for part in parts.values()):
        with store_lock(folder):
            parts = known_parts(folder)
            _check_parts(folder, parts)
            write_store(folder, parts)
    return TeacherStore.open(folder)


def _make_plan(
    folder: Path,
    texts: Sequence[str],
    settings: Settings,
    shards: int | None,
    only: int | None,
) -> _Plan:
    plan = _look(folder, texts, settings, shards, only)
    if plan.lost:
        # Unless another process was about to give that shard its name.
        with store_lock(folder):
            plan = _look(folder, texts, settings, shards, only)
    if plan.lost:
        raise plan.lost[0]
    return plan


def _look(
    folder: Path,
    texts: Sequence[str],
    settings: Settings,
    shards: int | None,
    only: int | None,
) -> _Plan:
    parts = known_parts(folder)
    default = max(1, -(-len(texts) // TEXTS_PER_SHARD))
    count = _shard_count(folder, parts, settings, shards, default)
    groups: list[dict[bytes, str]] = [{} for _ in range(count)]
    for text in texts:
        key = text_key(text)
        groups[shard_of(key, count)][key] = text
    wanted: dict[int, list[str]] = {}
    lost = []
    kept = 0
    for index in range(count) if only is None else [only]:
        part, given = parts.get(index), groups[index]
        shard, digest = _recorded_shard(folder, part)
        there = set(shard.all_keys()) if shard is not None else set()
        new = [text for key, text in given.items() if key not in there]
        if part is None or new or digest != part.shard.sha256:
            wanted[index] = new
        if part is not None and shard is None and len(new) < part.shard.texts:
            lost.append(_too_few(folder, part, len(new)))
        kept += len(there)
    return _Plan(count, wanted, kept, lost)


def _add(
    folder: Path,
    index: int,
    entries: Mapping[bytes, TeacherEntry],
    new: Part,
    shards: int | None,
    *,
    finish: bool,
) -> bool:
    """Add entries to one shard as it is now, whoever has written to it meanwhile.

    Args:
        folder: The store's.
        index: The shard's.
        entries: All of them of this shard.
        new: The shard's part, but for the shard's own record.
        shards: N, where the user has asked for it.
        finish: Write `store.json` if every shard is there.

    Returns:
        False if the store has another number of shards by now; nothing is done then.
    """
    with store_lock(folder):
        _remove_temporaries(folder)
        parts = known_parts(folder)
        if _shard_count(folder, parts, new.settings, shards, new.count) != new.count:
            return False
        part = parts.get(index)
        old, digest = _recorded_shard(folder, part)
        kept = dict(old.items()) if old is not None else {}
        if part is not None and old is None:
            if len(entries) < part.shard.texts:
                raise _too_few(folder, part, len(entries))
            if (folder / part.shard.file).exists():
                logger.warning(
                    "%s is damaged and will be written anew", folder / part.shard.file
                )
        examples = [new.example, part.example if part else None]
        new = replace(
            new, replaces=digest, example=min(filter(None, examples), default=None)
        )

        def announce(record: ShardRecord) -> None:
            parts[index] = replace(new, shard=record)
            write_part(folder, index, parts[index])

        recorded = part is not None and digest == part.shard.sha256
        if not recorded or entries.keys() - kept.keys():
            write_shard(
                folder / shard_name(index),
                {**kept, **entries},
                width=new.settings.width,
                dtype=new.settings.dtype,
                announce=announce,
            )
        whole = len(parts) == new.count
        if finish and whole and not _wrong_shards(folder, parts):
            write_store(folder, parts)
    return True


def _recorded_shard(
    folder: Path, part: Part | None
) -> tuple[Shard, str] | tuple[None, None]:
    """The shard of a part and its sha256; None if it is not one that was recorded."""
    digest = part and intact(folder, part)
    if part is None or digest is None:
        return None, None
    path, settings = folder / part.shard.file, part.settings
    return Shard(path, width=settings.width, dtype=settings.dtype), digest


def _wrong_shards(folder: Path, parts: Mapping[int, Part]) -> list[Part]:
    """The parts whose shard is not the one they record."""
    return [
        part for part in parts.values() if intact(folder, part) != part.shard.sha256
    ]


def _check_parts(folder: Path, parts: Mapping[int, Part]) -> None:
    """Check that parts make one store, and that every shard is what its part says."""
    first = next(iter(parts.values()))
    missing = sorted(set(range(first.count)) - set(parts))
    if missing:
        raise StoreError(
            f"The teacher store {folder} is not finished.",
            got=f"{len(parts)} of {first.count} parts",
            wanted="part " + ", ".join(map(str, missing[:20])),
            remedy=f"run extract-teacher with --shard {missing[0]}/{first.count}",
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
    for part in _wrong_shards(folder, parts):
        raise damaged(folder / part.shard.file, "its sha256 is not what was recorded")


def _read_entries(
    texts: Sequence[str], read: Reader, settings: Settings
) -> dict[bytes, TeacherEntry]:
    entries = {}
    for index, states, spans in read(texts) if texts else ():
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


def _shard_count(
    folder: Path,
    parts: Mapping[int, Part],
    settings: Settings,
    asked: int | None,
    default: int,
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
    for part in parts.values():
        return part.count
    if asked is not None and asked < 1:
        raise ConfigError(
            "A store has one shard or more.",
            got=asked,
            wanted="a whole number, at least 1",
            remedy="correct --shards",
        )
    return asked or default


def _too_few(folder: Path, part: Part, given: int) -> StoreError:
    return damaged(
        folder / part.shard.file, f"only {given} of its {part.shard.texts} texts given"
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def _remove_temporaries(folder: Path) -> None:
    """Remove what killed writers have left; whoever writes now holds the lock."""
    for pattern in _TEMPORARY:
        for path in folder.glob(pattern):
            with suppress(OSError):
                path.unlink()
