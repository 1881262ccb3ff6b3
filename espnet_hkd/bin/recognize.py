"""Transcribe audio files with a trained CIF model.

    espnet-hkd recognize model.zip speech.wav --format ctm
    espnet-hkd recognize model.zip recordings/ --format srt --out captions/
    find /archive -name '*.flac' | espnet-hkd recognize model.zip -

AUDIO is a file, a folder (the audio files in and below it), a Kaldi `wav.scp`, or `-`
for a list of files on standard input, one a line. Transcripts come out in order as they
are ready. A file that cannot be read is named on standard error, the rest goes on, and
the exit status is 1 at the end. Recordings longer than 30 s are cut at silences.
Streaming is not supported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from espnet_hkd.bin.command import Parser, Switch
from espnet_hkd.errors import DataError, HKDError
from espnet_hkd.files import read_table
from espnet_hkd.speech.formats import (
    FORMATS,
    NAMED,
    SUFFIXES,
    distinct_names,
    file_stem,
    numbered,
)

# What libsndfile reads, by the endings in use, and what it does not: in a folder these
# are named with the way to convert them.
ENDINGS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au")
ENDINGS += (".caf", ".sph", ".w64", ".snd", ".m4a", ".aac", ".wma", ".amr", ".webm")


class Input(NamedTuple):
    """A recording to transcribe.

    Attributes:
        path: Of its file.
        name: What stands before its text.
        short: What it is called in CTM, and its output files.
    """

    path: str
    name: str
    short: str


def get_parser() -> Parser:
    """The command line, with defaults."""
    parser = Parser("espnet-hkd recognize", __doc__)
    parser.add_argument("model", help="packed model (.zip), folder, or hub name")
    parser.add_argument(
        "audio", nargs="+", help="files, folders, wav.scp, or - for a list of files"
    )
    parser.add_argument("--format", default="text", choices=sorted(FORMATS))
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="a file for each recording, there"
    )
    parser.add_argument("--beam", type=int, default=10, help="1 is greedy")
    parser.add_argument(
        "--ctc_weight", type=float, help="in [0, 1); None: as packed with the model"
    )
    parser.add_argument(
        "--lm_weight", type=float, help="of a packed language model; None: as packed"
    )
    parser.add_argument(
        "--ngram_weight", type=float, help="of a packed n-gram; None: as packed"
    )
    parser.add_argument("--tail", type=float, help="in [0, 1]; None: the model's")
    parser.add_argument(
        "--early_eos",
        action=Switch,
        help="end-of-sentence before the last firing; None: the model's",
    )
    parser.add_argument(
        "--batch_seconds", type=float, default=60.0, help="audio decoded together"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument(
        "--allow_download",
        action="store_true",
        help="allow a model whose parts download what they are made of",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="PNG", help="draw the first file's firing"
    )
    return parser


def find_inputs(given: Sequence[str]) -> Iterable[Input]:
    """The recordings that arguments name; those of `-` are read as they are needed.

    Raises:
        DataError: A folder has none, a wav.scp cannot be read, or `-` is not alone.
    """
    from espnet_hkd.speech.sources import name_of

    if "-" in given:
        if len(given) > 1:
            raise DataError(
                "the list on standard input stands beside other files",
                got=" ".join(given),
                wanted="- alone, or files, folders and tables",
                remedy="add the others to the list",
            )
        return _listed(sys.stdin.buffer)
    found: list[tuple[str, str | None]] = []
    for argument in given:
        path = Path(argument)
        if path.is_dir():
            found += [(each, None) for each in _in_folder(path)]
        elif path.suffix == ".scp":
            found += [(value, id) for id, value in read_table(path).items()]
        else:
            found.append((argument, None))
    names = iter(distinct_names([name_of(path) for path, id in found if id is None]))
    shorts = numbered(next(names) if id is None else id for _, id in found)
    return [
        Input(path, name_of(path) if id is None else short, short)
        for (path, id), short in zip(found, shorts, strict=True)
    ]


def _in_folder(folder: Path) -> list[str]:
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS)
    if not paths:
        raise DataError(
            f"there is no audio in {folder}",
            got="no file with an ending such as .wav or .flac",
            wanted="audio files in the folder or below",
            remedy="give another folder, or the files by their names",
        )
    return [str(path) for path in paths]


def _listed(lines: Iterable[bytes]) -> Iterator[Input]:
    from espnet_hkd.speech.sources import name_of

    empty = True
    for number, line in enumerate(lines, 1):
        path = os.fsdecode(line.rstrip(b"\r\n"))
        if path:
            empty = False
            yield Input(path, name_of(path), f"{number:06}-{Path(name_of(path)).stem}")
    if empty:
        raise DataError(
            "there is no file in the list on standard input",
            got="nothing but empty lines",
            wanted="a file on each line",
            remedy="look at what makes the list",
        )


def _writer(form: str, out: Path | None, several: bool) -> Callable[[Input, Any], None]:
    """What is done with each transcript."""
    write = FORMATS[form]

    def show(source: Input, transcript: Any) -> None:
        from tqdm import tqdm

        name = source.short if form == "ctm" else source.name
        lines = write(name, transcript)
        if several and form not in NAMED:
            lines = f"==> {source.name} <==\n{lines}"
        # Around the progress bar, if there is one.
        tqdm.write(lines, file=sys.stdout)
        sys.stdout.flush()

    def save(source: Input, transcript: Any) -> None:
        assert out is not None
        path = out / (file_stem(source.short) + SUFFIXES[form])
        lines = write(source.short, transcript)
        try:
            out.mkdir(parents=True, exist_ok=True)
            path.write_text(lines.rstrip("\n") + "\n", encoding="utf-8")
        except OSError as error:
            raise DataError(
                f"{path} cannot be written",
                got=error.strerror,
                wanted="a folder one may write to, with room on its disk",
                remedy="give another --out",
            ) from error

    return show if out is None else save


def _save(figure: Any, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    # matplotlib has ValueError for a format it does not know.
    except (OSError, ValueError) as error:
        raise DataError(
            f"the plot {path} cannot be written",
            got=error,
            wanted="a .png, .pdf or .svg in a folder one may write to",
            remedy="give another --plot",
        ) from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    with parser.report_errors():
        bad = _run(args)
    if bad:
        sys.exit(1)


def _run(args: Any) -> int:
    """Transcribe; the number of files without a transcript."""
    import espnet_hkd

    inputs = find_inputs(args.audio)
    recognizer = espnet_hkd.from_pretrained(
        args.model, device=args.device, allow_download=args.allow_download
    )
    from tqdm import tqdm

    total = len(inputs) if isinstance(inputs, list) else None
    write = _writer(args.format, args.out, total != 1)
    # Those that were handed over and have not come out yet.
    pending: list[Input] = []

    def paths() -> Iterator[str]:
        for source in inputs:
            pending.append(source)
            yield source.path

    found = recognizer.stream(
        paths(),
        beam=args.beam,
        ctc_weight=args.ctc_weight,
        lm_weight=args.lm_weight,
        ngram_weight=args.ngram_weight,
        tail=args.tail,
        early_eos=args.early_eos,
        batch_seconds=args.batch_seconds,
    )
    bad, first = 0, None
    # Without a terminal there is no bar.
    with tqdm(total=total, unit="file", disable=None) as bar:
        for _, result in found:
            source = pending.pop(0)
            first = first or source
            bar.update()
            if isinstance(result, HKDError):
                bad += 1
                tqdm.write(f"espnet-hkd recognize: {result}", file=sys.stderr)
            else:
                write(source, result)
    if args.plot is not None and first is not None:
        from espnet_hkd.recognize.plots import plot_firing

        figure = plot_firing(recognizer.firing(first.path), title=first.short)
        _save(figure, args.plot)
    return bad


if __name__ == "__main__":
    main()
