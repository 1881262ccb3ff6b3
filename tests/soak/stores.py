"""Two extractions into one teacher store, again and again, some of them killed.

Each round, two processes add different texts to a store that has texts already, at the
same time. In every second round one of the two is killed at a random moment and started
again. At the end of a round every text of all three sets must be there, whole.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from pathlib import Path

import numpy as np

from espnet_hkd.errors import HKDError
from espnet_hkd.teacher.store import TeacherStore
from tests.soak import Row
from tests.teacher_material import build_words, read_words

ROUNDS = 20
TEXTS = 300


def soak(folder: Path, seed: int) -> list[Row]:
    """Race, and kill in every second round."""
    draw = random.Random(seed)
    held = {False: 0, True: 0}
    killed = 0
    notes = []
    for number in range(ROUNDS):
        with_kill = number % 2 == 1
        whole, died = race(folder / f"{number}", draw, with_kill=with_kill)
        held[with_kill] += not whole
        killed += died
        notes += [whole] if whole else []
    return [
        Row("two extractions at once, union whole", ROUNDS // 2, held[False]),
        Row(
            "the same, one killed and started again",
            ROUNDS // 2,
            held[True],
            "; ".join([f"{killed} killed before they ended", *notes[:3]]),
        ),
    ]


def race(folder: Path, draw: random.Random, *, with_kill: bool) -> tuple[str, bool]:
    """One round: what was wrong ("" if nothing), and whether one was killed."""
    sets = [[f"{name} {n} OF {folder.name}" for n in range(TEXTS)] for name in "ABC"]
    # In some rounds the two begin the store together.
    if draw.random() < 0.5:
        build_words(sets[0], folder, shards=draw.randrange(1, 8))
    else:
        sets[1] += sets.pop(0)
    # A fork has all modules; starting Python anew would take longer than the race.
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=build_words, args=(texts, folder)) for texts in sets[-2:]
    ]
    for process in processes:
        process.start()
    died = False
    if with_kill:
        processes[0].join(draw.uniform(0.0, 0.05))
        if processes[0].is_alive() and processes[0].pid:
            os.kill(processes[0].pid, signal.SIGKILL)
            died = True
    for process in processes:
        process.join()
    if died:
        build_words(sets[-2], folder)
    elif any(process.exitcode for process in processes):
        return "a process ended with an error", died
    return check(folder, [text for texts in sets for text in texts]), died


def check(folder: Path, texts: list[str], *, dtype: str = "float16") -> str:
    """What is wrong with a store that should hold these texts; "" if nothing."""
    try:
        store = TeacherStore.open(folder)
        store.verify()
    except HKDError as error:
        return error.problem
    missing = sum(text not in store for text in texts)
    if missing:
        return f"{missing} of {len(texts)} texts are missing"
    for index, states, _ in read_words(texts):
        if not np.array_equal(store[texts[index]].states, states.astype(dtype)):
            return f"the states of {texts[index]!r} are not its own"
    left = {path.suffix for path in folder.iterdir()} - {".json", ".safetensors"}
    return f"left behind: {left}" if left else ""
