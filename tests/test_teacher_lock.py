"""Two writers of one teacher store: neither destroys what the other has written."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
from pathlib import Path

import pytest

from espnet_hkd.errors import StoreError
from espnet_hkd.teacher import lock as lock_module
from espnet_hkd.teacher.build import build_store
from espnet_hkd.teacher.lock import LOCK, store_lock
from espnet_hkd.teacher.store import TeacherStore
from tests.soak.stores import check, race
from tests.teacher_material import SETTINGS, TEXTS, build_words, files, read_words


def leave_lock(folder: Path, **changes) -> dict:
    """The lock of a process that was killed while it held it."""
    (folder / "other").mkdir()
    with store_lock(folder / "other"):
        record = json.loads((folder / "other" / LOCK).read_text())
    (folder / "other").rmdir()
    record |= changes
    (folder / LOCK).write_text(json.dumps(record))
    return record


def ended_process() -> int:
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()
    assert process.pid is not None
    return process.pid


@pytest.mark.parametrize("with_kill", [False, True], ids=["both end", "one is killed"])
def test_the_union_of_two_extractions_at_once_is_whole(tmp_path, with_kill):
    draw = random.Random(1)
    for number in range(2):
        assert race(tmp_path / f"{number}", draw, with_kill=with_kill)[0] == ""


def test_what_another_process_adds_while_the_plm_reads_is_kept(tmp_path):
    build_words(TEXTS[:4], tmp_path, shards=2)

    def read(texts):
        build_words([f"MEANWHILE {text}" for text in texts], tmp_path)
        return read_words(texts)

    build_store(TEXTS, read, tmp_path, SETTINGS)
    assert check(tmp_path, [*TEXTS, *(f"MEANWHILE {text}" for text in TEXTS[4:])]) == ""


def test_a_store_that_another_process_began_with_other_shards_is_continued(tmp_path):
    begun = []

    def read(texts):
        if not begun:
            begun.append(build_words(["FIRST"], tmp_path, shards=3))
        return read_words(texts)

    assert build_store(TEXTS, read, tmp_path, SETTINGS).shards == 3
    assert check(tmp_path, ["FIRST", *TEXTS]) == ""


def test_a_second_writer_waits_and_then_names_the_first_and_the_remedy(tmp_path):
    with store_lock(tmp_path):
        with pytest.raises(StoreError) as caught, store_lock(tmp_path, wait=0.1):
            pass
        assert (tmp_path / LOCK).exists()
    message = str(caught.value)
    assert f"Another extraction is writing to the teacher store {tmp_path}" in message
    assert f"process {os.getpid()} on" in message
    assert f"rm -f {tmp_path / LOCK}" in message
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_process_that_has_ended_is_removed(tmp_path, caplog):
    leave_lock(tmp_path, process=ended_process())
    with store_lock(tmp_path, wait=0.0):
        pass
    assert "was left by process" in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [{"machine": "another"}, {"process": "x"}, {"process": 1 << 80}],
    ids=["of another machine", "without a number", "with no possible number"],
)
def test_a_lock_that_may_be_in_use_is_left_alone(tmp_path, changes):
    record = leave_lock(tmp_path, **{"process": ended_process(), **changes})
    with pytest.raises(StoreError, match="Another"), store_lock(tmp_path, wait=0.0):
        pass
    assert json.loads((tmp_path / LOCK).read_text()) == record


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000])
def test_a_lock_that_says_nothing_is_in_use(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with (
        pytest.raises(StoreError, match="does not say whose it is"),
        store_lock(tmp_path, wait=0.0),
    ):
        pass


def test_a_lock_that_the_user_removed_may_be_anothers_by_then(tmp_path):
    with store_lock(tmp_path):
        (tmp_path / LOCK).unlink()
        record = leave_lock(tmp_path, machine="another")
    assert json.loads((tmp_path / LOCK).read_text()) == record


def test_without_hard_links_the_lock_is_made_by_creation(tmp_path, monkeypatch):
    def refuse(*paths):
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    with store_lock(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
        with pytest.raises(StoreError, match="Another"), store_lock(tmp_path, wait=0):
            pass


def test_opening_waits_for_a_writer_between_a_shard_and_its_record(
    tmp_path, monkeypatch
):
    build_words(TEXTS, tmp_path, shards=1)
    whole = files(tmp_path)
    shard = tmp_path / "shard-00000.safetensors"
    shard.write_bytes(b"another")
    (tmp_path / LOCK).touch()

    def finish(seconds):
        shard.write_bytes(whole[shard.name])
        (tmp_path / LOCK).unlink()

    monkeypatch.setattr(lock_module.time, "sleep", finish)
    assert len(TeacherStore.open(tmp_path)) == len(TEXTS)
