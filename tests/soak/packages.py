"""Packed models, teacher stores and texts that were tampered with at random.

Whatever is in them, the answer is a model that works, or one of our errors, soon and
without much memory. Each case runs in a process of its own, forked from this one.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import resource
import socket
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from espnet_hkd.errors import HKDError
from espnet_hkd.files import table_rows
from espnet_hkd.pretrained.packed import describe
from espnet_hkd.pretrained.slim import slim
from espnet_hkd.recognize import Recognizer
from espnet_hkd.teacher.align import align, place_tokens
from espnet_hkd.teacher.show import alignment_table
from espnet_hkd.teacher.show import describe as describe_store
from espnet_hkd.teacher.store import TeacherStore
from espnet_hkd.teacher.text import read_transcripts
from tests.small_models import pack, speech, write_experiment
from tests.soak import Row
from tests.teacher_material import TEXTS, build_words

PACKAGES = 1000
STORES = 500
TEXT_FILES = 500
# Of a processor; and of the clock, on a machine that does other things too.
SECONDS, PATIENCE = 30, 300
# Bytes beyond what the process has when the case begins.
MEMORY = 4 << 30
FINE = ("works", "refused")
CONFIG = "exp/asr_hkd/slim/config.yaml"
WEIGHTS = "exp/asr_hkd/slim/train.total_count.ave.pth"
# What a hostile value may be, in YAML.
VALUES = (
    "null", "true", "[]", "{}", "[a]", "{a: b}", "x", "''", "-1", "0", "0.5", "1e999",
    ".nan", ".inf", "-.inf", "99999999999", "1000000", "50000", "2026-99-99", "~", "no",
    "/dev/zero", "/etc/passwd", "../../../../../../etc/passwd", "user/model", "s3prl",
    "huggingface", "hugging_face_transformers", "whisper", "hugging_face",
    '"\\e[31mred"', '"\\0"', "[1, [2, [3, [4]]]]", "&a [*a]",
    "!!python/object/apply:os.system [id]",
)  # fmt: skip
BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
)


def soak(folder: Path, seed: int) -> list[Row]:
    """Tamper, and look what happens."""
    draw = random.Random(seed)
    members = make_package(folder)
    audio = speech(1.0)
    # What is imported late would be imported in every process anew.
    use_package(folder / "model.zip", audio)

    def package(case: random.Random, path: Path) -> None:
        path.write_bytes(tampered_package(case, members, path))
        use_package(path, audio)

    kinds = (
        ("packed models", package, PACKAGES),
        ("teacher stores", tampered_store, STORES),
        ("text files", tampered_text, TEXT_FILES),
    )
    return [
        attack(name, run, count, folder / name.replace(" ", "-"), draw)
        for name, run, count in kinds
    ]


Attack = Callable[[random.Random, Path], None]


def attack(
    name: str, run: Attack, count: int, folder: Path, draw: random.Random
) -> Row:
    """One row: so many cases, and those that ended as they should."""
    folder.mkdir()
    ends = Counter[str]()
    other = []
    for number in range(count):
        end = attempt(run, random.Random(draw.random()), folder / f"{number}")
        if (folder / f"{number}.ran").exists():
            end = "code was run"
        ends[end] += 1
        if end not in FINE:
            other.append(f"case {number} {end}")
    fine = sum(ends[end] for end in FINE)
    note = "; ".join([f"{ends['works']} worked, {ends['refused']} refused", *other])
    return Row(f"{name} tampered with: work or are refused", count, fine, note)


def attempt(run: Attack, case: random.Random, path: Path) -> str:
    """How a case ended: one of FINE, or what went wrong."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(run, case, path, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(PATIENCE) else f"hung for {PATIENCE} s"
    except EOFError:
        process.join()
        return f"ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()


class _Network(BaseException):
    """Somebody asked for the network; nothing that catches errors catches this."""


def _run(run: Attack, case: random.Random, path: Path, answers: Any) -> None:
    def refuse(*given: object, **options: object) -> None:
        raise _Network

    socket.socket.connect = refuse  # pyright: ignore
    socket.getaddrinfo = refuse  # pyright: ignore
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    cpu = int(sum(os.times()[:2])) + SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    # What ESPnet logs of a thousand models helps nobody.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        run(case, path)
        answers.send("works")
    except HKDError as error:
        answers.send(_of_memory(error) or _of_terminal(error) or "refused")
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        answers.send(f"{type(error).__name__} at {place.name}:{place.lineno}")


def _of_memory(error: BaseException | None) -> str:
    """Whether an error of ours hides one of memory."""
    while error is not None:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            return "asked for too much memory"
        error = error.__cause__
    return ""


def _of_terminal(error: HKDError) -> str:
    return "escape codes in a message" if "\x1b" in str(error) else ""


# Packed models


def make_package(folder: Path) -> dict[str, bytes]:
    """A small packed model in a folder, and its files."""
    slim(write_experiment(folder / "exp" / "asr_hkd"))
    with zipfile.ZipFile(pack(folder)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def use_package(path: Path, audio: np.ndarray) -> None:
    """All that a user does with a model."""
    assert "\x1b" not in describe(path)
    recognizer = Recognizer.from_pretrained(path)
    (transcript,) = recognizer(audio, sample_rate=16000, beam=2)
    assert isinstance(transcript.text, str)


def tampered_package(
    case: random.Random, members: dict[str, bytes], path: Path
) -> bytes:
    """A zip in which something is not as it was."""
    members = dict(members)
    how = case.choices(
        ["config", "yaml", "weights", "meta", "members", "bytes"], [8, 1, 3, 1, 1, 2]
    )[0]
    if how == "config":
        members[CONFIG] = tampered_config(case, members[CONFIG])
    elif how == "yaml":
        name = case.choice([CONFIG, "meta.yaml"])
        deep = "a: " + "[" * case.choice([100, 2000, 50_000])
        line = case.choice([BOMB, deep, "a: &a [*a]", "a: " + "1:" * 40_000 + "1"])
        members[name] += b"\n" + line.encode() + b"\n"
    elif how == "weights":
        members[WEIGHTS] = tampered_weights(case, members[WEIGHTS], path)
    elif how == "meta":
        meta = yaml.safe_load(members["meta.yaml"])
        section = case.choice(["files", "yaml_files"])
        key = case.choice(sorted(meta[section]))
        meta[section][key] = yaml.safe_load(case.choice(["1", "[a]", "/dev/zero", "x"]))
        members["meta.yaml"] = yaml.safe_dump(meta).encode()
    elif how == "members":
        members |= case.choice(
            [
                {"../out": b"x"},
                {"/out": b"x"},
                {"zeros": bytes(200 << 20)},
                {f"{number}": b"" for number in range(3000)},
                {"x" * 300: b"x"},
            ]
        )
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return tampered_bytes(case, data.getvalue()) if how == "bytes" else data.getvalue()


def tampered_config(case: random.Random, text: bytes) -> bytes:
    """Up to three values anywhere in a configuration replaced."""
    config = yaml.safe_load(text)
    chosen = []
    for number in range(case.randint(1, 3)):
        place: Any = config
        key = case.choice(sorted(place))
        # Options of the model's parts are what matters most.
        if case.random() < 0.7:
            key = case.choice([name for name in place if name.endswith("_conf")])
            if isinstance(place[key], dict) and place[key]:
                place = place[key]
                key = case.choice(sorted(place))
        place[key] = f"@{number}@"
        chosen.append(case.choice(VALUES))
    dumped = yaml.safe_dump(config, allow_unicode=True)
    for number, value in enumerate(chosen):
        dumped = dumped.replace(f"'@{number}@'", value)
    return dumped.encode()


class Hostile:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def tampered_weights(case: random.Random, data: bytes, path: Path) -> bytes:
    """One tensor of a checkpoint changed."""
    weights = torch.load(io.BytesIO(data), weights_only=True)
    name = case.choice(sorted(weights))
    value = weights[name]
    number = value.reshape(-1)[:1].clone()
    changes: list[Callable[[], Any]] = [
        lambda: value.float() * float("nan"),
        lambda: value.float() * 1e30,
        lambda: value.float().to_sparse(),
        lambda: value[None],
        lambda: value.half(),
        lambda: value.to(torch.int8),
        lambda: value.to(torch.complex64),
        lambda: number.expand(10**6, 10**6),
        lambda: torch.empty(10**6, 10**6, device="meta"),
        lambda: torch.zeros(0),
        lambda: "words",
        lambda: {"a": [value]},
        lambda: Hostile(path.with_name(path.name + ".ran")),
    ]
    if case.random() < 0.2:
        del weights[name]
    else:
        weights[name] = case.choice(changes)()
    data_out = io.BytesIO()
    torch.save(weights, data_out)
    return data_out.getvalue()


def tampered_bytes(case: random.Random, data: bytes) -> bytes:
    """Some bytes changed, or the end cut off."""
    if case.random() < 0.3:
        return data[: case.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(case.choice([1, 1, 5, 100])):
        changed[case.randrange(len(changed))] = case.randrange(256)
    return bytes(changed)


# Teacher stores


def tampered_store(case: random.Random, folder: Path) -> None:
    """Change a file of a store, then read it and add to it."""
    build_words(TEXTS, folder, shards=2)
    path = case.choice(sorted(folder.iterdir()))
    if path.suffix == ".json" and case.random() < 0.8:
        text = path.read_text()
        record = yaml.safe_load(text)
        place = case.choice([record, *record["shards"]])
        key = case.choice(sorted(place))
        place[key] = "@0@"
        text = yaml.safe_dump(record).replace("'@0@'", case.choice(VALUES))
        try:
            path.write_text(_json(yaml.safe_load(text)))
        # Not all that YAML can say can be said in JSON.
        except (TypeError, ValueError, yaml.YAMLError):
            path.write_text(case.choice(["[" * 100_000, "{", "null", text]))
    elif case.random() < 0.2:
        path.unlink()
    else:
        path.write_bytes(tampered_bytes(case, path.read_bytes()))
    store = TeacherStore.open(folder)
    assert "\x1b" not in describe_store(store)
    for text in TEXTS:
        if text in store:
            _show(text, store)
    build_words([*TEXTS, "ANOTHER ONE"], folder)
    assert "ANOTHER ONE" in TeacherStore.open(folder)


def _json(record: Any) -> str:
    import json

    return json.dumps(record)


def _show(text: str, store: TeacherStore) -> None:
    entry = store[text]
    tokens = ["<space>" if c == " " else c for c in text]
    alignment = align(place_tokens(text, tokens), entry.spans)
    assert "\x1b" not in alignment_table(text, tokens, entry.spans, alignment)


# Texts

CHARACTERS = (
    "A", "B", " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2028", "\u0085", "\ufeff",
    "\u200b", "e\u0301", "\uff21", "你", "好", "\x1b[31m", "\0", "\u202e", "😀", "(",
    "'", "<unk>", "<space>", "[SEP]", "İ",
)  # fmt: skip


def tampered_text(case: random.Random, path: Path) -> None:
    """Write a Kaldi table of whatever comes, read it, store it, align it."""
    lines = []
    for number in range(case.randint(0, 5)):
        text = "".join(case.choices(CHARACTERS, k=case.randint(0, 30)))
        lines.append(f"u{number} {text}")
    data = "\n".join(lines).encode()
    if case.random() < 0.2 and data:
        data = tampered_bytes(case, data)
    path.write_bytes(data)
    rows = list(table_rows(path, wanted="a table", remedy="none"))
    assert all(row.id for row in rows)
    texts = read_transcripts([path]).texts
    build_words(texts, path.with_name(path.name + ".store"))
    store = TeacherStore.open(path.with_name(path.name + ".store"))
    for text in texts:
        _show(text, store)
