"""One writer at a time in a teacher store, on one machine or on several.

The lock is a file that exists while somebody writes. Giving a file a name that must not
exist is atomic, over NFS too, where locks of the operating system are not reliable. It
is held while a shard is written, for seconds, and not while the PLM reads.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import random
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from espnet_hkd.errors import StoreError
from espnet_hkd.teacher.shard import unwritable

logger = logging.getLogger(__name__)

LOCK = "store.lock"
# Seconds. Other writers hold the lock for as long as one shard takes to write.
WAIT = 600.0


@contextmanager
def store_lock(folder: Path, *, wait: float = WAIT) -> Iterator[None]:
    """Be the only writer in a store's folder.

    A lock whose process has ended on this machine is removed. One of another machine
    may be in use, so the user is told what to remove.

    Args:
        folder: The store's folder, which exists.
        wait: Seconds to wait for another writer.

    Raises:
        StoreError: Another writer holds the lock all the time, or the folder cannot be
            written to.
    """
    path = folder / LOCK
    own = {
        "machine": _machine(),
        "host": platform.node(),
        "process": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        # A process has several threads; the lock is of one of them.
        "token": secrets.token_hex(8),
    }
    _acquire(path, own, wait)
    try:
        yield
    finally:
        # It is another's if the user removed ours, believing that we had ended.
        if _read(path) == own:
            path.unlink(missing_ok=True)
        else:
            logger.warning("%s was removed while this process wrote", path)


def locked(folder: Path) -> bool:
    """Whether somebody writes in a store's folder at this moment."""
    return (folder / LOCK).exists()


def _acquire(path: Path, own: Mapping[str, Any], wait: float) -> None:
    begin, reported = time.monotonic(), False
    while not _create(path, own):
        holder = _read(path)
        if holder is not None and _has_ended(holder):
            _remove_stale(path, holder, own)
        elif time.monotonic() - begin > wait:
            raise StoreError(
                f"Another extraction is writing to the teacher store {path.parent}.",
                got=_describe(holder),
                wanted="one writer at a time",
                remedy="wait until it has ended, then run the same command again. "
                "If it ended without removing its lock (its machine was switched "
                f"off): rm -f {path} {_guard(path)}",
            )
        elif not reported and time.monotonic() - begin > 1:
            logger.warning("%s: waiting for %s", path, _describe(holder))
            reported = True
        # Random, so that waiting processes do not ask at the same moments.
        time.sleep(random.uniform(0.02, 0.1))


def _remove_stale(
    path: Path, holder: Mapping[str, Any], own: Mapping[str, Any]
) -> None:
    """Remove the lock of a process that has ended, unless it is another's by now.

    Of several processes that see it, one at a time may look again and remove it.
    """
    if _create(_guard(path), own):
        if _read(path) == holder:
            logger.warning("%s was left by %s", path, _describe(holder))
            path.unlink(missing_ok=True)
        _guard(path).unlink(missing_ok=True)


def _guard(path: Path) -> Path:
    return path.with_name(path.name + ".removing")


def _create(path: Path, content: Mapping[str, Any]) -> bool:
    """Create a file if there is none of that name: whether there was none.

    It has its content from the beginning, so that a process that is killed here leaves
    no lock that does not say whose it was.
    """
    text = json.dumps(content)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        temporary.write_text(text, encoding="utf-8")
        try:
            os.link(temporary, path)
        # The holder of the lock tidies up.
        except (FileExistsError, FileNotFoundError):
            return False
        # A file system without hard links.
        except OSError:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError:
        return False
    except OSError as error:
        raise unwritable(path, error) from error
    return True


def _read(path: Path) -> dict[str, Any] | None:
    """What a lock says; None if it is gone, or its writing has just begun."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _describe(holder: Mapping[str, Any] | None) -> str:
    if holder is None:
        return "a lock that does not say whose it is"
    return (
        f"process {holder.get('process')} on {holder.get('host')}, "
        f"since {holder.get('since')}"
    )


def _has_ended(holder: Mapping[str, Any]) -> bool:
    """Whether a lock is of a process of this machine that is no more."""
    process = holder.get("process")
    if holder.get("machine") != _machine() or not isinstance(process, int):
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    # It is another user's, or no process number at all.
    except (OSError, OverflowError):
        return False
    return False


def _machine() -> str:
    """What tells where a process number means something: host, boot and container."""
    parts = [platform.node()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    # Only Linux has these.
    except OSError:
        pass
    return " ".join(parts)
