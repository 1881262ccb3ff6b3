"""One training, killed at random moments and out of room again and again.

It lies on a tmpfs of its own, whose room is taken away and given back. ESPnet is
imported once; each start of the training is a fork of this process.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tests.soak import Row
from tests.training_material import make_corpus, train

EPOCHS = 80
UPDATES_AN_EPOCH = 3
KILLS = 20
FULL_DISKS = 5
ROOM = 8  # MiB; two checkpoints, the kept epochs and their averages take half
OPTIONS = ("--max_epoch", str(EPOCHS), "--resume", "true", "--keep_nbest_models", "5")
CRITERIA = "best_model_criterion:\n- [train, total_count, max]\n- [valid, acc, max]\n"


def soak(folder: Path, seed: int) -> list[Row]:
    """Kill and starve one training, then let it end; compare with one left alone."""
    # Before the forks, which would all import it.
    import espnet2.tasks.asr  # noqa: F401

    corpus = make_corpus(folder)
    with (corpus / "train.yaml").open("a") as config:
        config.write(CRITERIA)
    draw = random.Random(seed)
    alone, begun = folder / "alone", time.monotonic()
    ends(start(corpus, alone))
    pace = (time.monotonic() - begun) / EPOCHS
    with small_disk(folder / "disk") as disk:
        exp = disk / "exp"
        attacks = [kill] * KILLS + [fill] * FULL_DISKS
        draw.shuffle(attacks)
        held: Counter[str] = Counter()
        seen: Counter[str] = Counter()
        for attack in attacks:
            what, sound = attack(corpus, exp, draw, pace)
            seen[what] += 1
            held[attack.__name__] += sound
        ended = ends(start(corpus, exp)) == 0
        same, note = compare(exp, alone)
    kills = ", ".join(f"{n} {what}" for what, n in seen.items() if "disk" not in what)
    disks = ", ".join(f"{n} {what}" for what, n in seen.items() if "disk" in what)
    return [
        Row("went on until killed again", KILLS, held["kill"], kills),
        Row("went on when a full disk had room", FULL_DISKS, held["fill"], disks),
        Row("ended as a training left alone", 1, int(ended and same), note),
    ]


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A tmpfs; mounting one needs root."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}m", "tmpfs", str(folder)]
    subprocess.run(command, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def start(corpus: Path, exp: Path, *options: str) -> int:
    """Start the training in a process of its own; its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        log = os.open(corpus / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        train(corpus, exp, *OPTIONS, *options)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ends(child: int) -> int:
    """Wait for a process; its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def epoch(exp: Path) -> int:
    """The last epoch whose weights are saved."""
    return max((int(path.name[:-9]) for path in exp.glob("*epoch.pth")), default=0)


def kill(corpus: Path, exp: Path, draw: random.Random, pace: float) -> tuple[str, bool]:
    """Let the training pass an epoch or two, then kill it: anywhere, or as it writes.

    Writing takes a hundredth of an epoch here, so half of the kills wait for it. `pace`
    is the time that an epoch takes, in seconds.

    Returns:
        Where it was, and whether it ran: what was done to it before had not ended it.
    """
    target, delay = epoch(exp) + draw.randrange(3), draw.uniform(0.0, 1.5 * pace)
    aimed = draw.random() < 0.5
    child = start(corpus, exp)
    wait_until(lambda: epoch(exp) >= target or gone(child))
    time.sleep(delay)
    if aimed:
        wait_until(lambda: writes(exp) or gone(child))
    os.kill(child, signal.SIGKILL)
    ran = ends(child) == -signal.SIGKILL
    return "while writing" if writes(exp) else "between", ran


def fill(corpus: Path, exp: Path, draw: random.Random, pace: float) -> tuple[str, bool]:
    """Take all room but for some, run the training into it, give the room back.

    Returns:
        What came of it, and whether the training passes one more epoch after that.
    """
    filler = exp.parent / "filler"
    free = os.statvfs(exp.parent)
    size = free.f_bavail * free.f_frsize - draw.randrange(600_000)
    filler.write_bytes(bytes(max(size, 0)))
    stopped = ends(start(corpus, exp, "--max_epoch", str(epoch(exp) + 3))) != 0
    filler.unlink()
    before = epoch(exp)
    code = ends(start(corpus, exp, "--max_epoch", str(before + 1)))
    on = code == 0 and epoch(exp) == before + 1
    return f"{'stopped' if stopped else 'not stopped'} by a full disk", on


def writes(exp: Path) -> bool:
    """Whether a checkpoint is being written, or was when the process was killed."""
    return any(exp.glob(".*.pth.*"))


def gone(child: int) -> bool:
    # Not reaped: `kill` waits for it.
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def wait_until(true: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.001)


def compare(exp: Path, alone: Path) -> tuple[bool, str]:
    """Whether two trainings made as many updates and learnt the same."""
    counts, averages = [], []
    for each in (exp, alone):
        point = torch.load(each / "checkpoint.pth", weights_only=True)
        steps = point["optimizers"][0]["state"].values()
        counts.append(max(int(state["step"]) for state in steps))
        average = each / "train.total_count.ave_5best.pth"
        averages.append(torch.load(average, weights_only=True))
    apart = max(
        (averages[0][name] - value).abs().max().item()
        for name, value in averages[1].items()
        if value.is_floating_point()
    )
    wanted = EPOCHS * UPDATES_AN_EPOCH
    note = f"{counts[0]} of {wanted} updates; averages differ by {apart:.1e} at most"
    return counts == [wanted, wanted] and apart < 1e-3, note
