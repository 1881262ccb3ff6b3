"""What is known of each shard of a store that is being made or extended.

`store.json` records the shards of a finished store, `part-i.json` shard i since then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_hkd.errors import StoreError
from espnet_hkd.files import replace_file
from espnet_hkd.teacher.moments import Moments
from espnet_hkd.teacher.shard import Shard, ShardRecord, file_sha256, unwritable
from espnet_hkd.teacher.store import (
    FORMAT,
    NOT_A_RECORD,
    STORE_JSON,
    Settings,
    example_of,
    read_json,
)

# More shards than any store has; a record that says more is not one of ours.
_MOST_SHARDS = 100_000


@dataclass(frozen=True)
class Part:
    """What is known of one shard.

    Attributes:
        settings: Of its store.
        shard: The shard as it was written last.
        replaces: sha256 of the shard before that one, which is still there if the
            process was killed before the new one got its name.
        example: A text of the shard or of its store.
        count: Number of shards of the store.
        since: When `store.json` recorded it, in nanoseconds; None if a part did.
    """

    settings: Settings
    shard: ShardRecord
    replaces: str | None
    example: str | None
    count: int
    since: int | None = None


def known_parts(folder: Path) -> dict[int, Part]:
    """The record of each shard, by index: from its part if there is one.

    Raises:
        StoreError: A record cannot be read.
    """
    parts: dict[int, Part] = {}
    path = folder / STORE_JSON
    try:
        if path.exists():
            record = read_json(path)
            settings = Settings.from_json(record)
            example = example_of(record)
            int(record["texts"])
            since = path.stat().st_mtime_ns
            count = len(record["shards"])
            for index, shard in enumerate(record["shards"]):
                shard = ShardRecord.from_json(shard, index)
                parts[index] = Part(settings, shard, None, example, count, since)
        for path in _part_files(folder):
            record = read_json(path)
            index, count = int(record["part"]), int(record["parts"])
            if not 0 <= index < count <= _MOST_SHARDS:
                raise ValueError(f"part {index} of {count}")
            parts[index] = Part(
                Settings.from_json(record),
                ShardRecord.from_json(record["shard"], index),
                record["replaces"],
                example_of(record),
                count,
            )
    except (OSError, *NOT_A_RECORD) as error:
        raise StoreError(
            f"{path} is not a record of a teacher store.",
            got=f"{type(error).__name__}: {error}",
            wanted=f"the fields of format {FORMAT}",
            remedy=f"remove {path} and run the extract-teacher command again",
        ) from error
    return parts


def intact(folder: Path, part: Part) -> str | None:
    """The sha256 of a shard's file if it is one that was recorded, else None.

    A file that was there before `store.json`, with the recorded size, is what
    `store.json` says: it was verified then. Every other file is read.
    """
    path = folder / part.shard.file
    try:
        found = path.stat()
        unchanged = (
            part.since is not None
            and found.st_size == part.shard.bytes
            and found.st_mtime_ns < part.since
        )
        digest = part.shard.sha256 if unchanged else file_sha256(path)
    except OSError:
        return None
    return digest if digest in (part.shard.sha256, part.replaces) else None


def write_part(folder: Path, index: int, part: Part) -> None:
    """Record a shard that is about to get its name."""
    _write_json(
        folder / f"part-{index}.json",
        {
            "format": FORMAT,
            **part.settings.to_json(),
            "shard": part.shard.to_json(),
            "part": index,
            "parts": part.count,
            "replaces": part.replaces,
            "example": part.example,
        },
    )


def write_store(folder: Path, parts: Mapping[int, Part]) -> None:
    """Record a finished store, of which every shard is as its part says."""
    shards = [parts[index].shard for index in sorted(parts)]
    settings = parts[0].settings
    states = [
        Shard(folder / shard.file, width=settings.width, dtype=settings.dtype).states
        for shard in shards
    ]
    examples = [part.example for part in parts.values() if part.example]
    _write_json(
        folder / STORE_JSON,
        {
            "format": FORMAT,
            **settings.to_json(),
            "texts": sum(shard.texts for shard in shards),
            "pieces": sum(shard.pieces for shard in shards),
            "example": min(examples, default=None),
            **Moments.of_sample(states).to_json(),
            "shards": [shard.to_json() for shard in shards],
        },
    )
    try:
        for path in _part_files(folder):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def _part_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.json"))


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    try:
        replace_file(path, lambda temporary: temporary.write_bytes(text.encode()))
    except OSError as error:
        raise unwritable(path, error) from error
