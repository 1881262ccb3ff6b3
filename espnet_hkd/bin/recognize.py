"""Transcribe audio files with a trained CIF model.

    espnet-hkd recognize model.zip speech.wav --format ctm

Recordings longer than 30 s are cut at silences. Streaming is not supported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_hkd.bin.command import Parser, Switch

if TYPE_CHECKING:
    from espnet_hkd.recognize import Transcript


def get_parser() -> Parser:
    """The command line, with defaults."""
    parser = Parser("espnet-hkd recognize", __doc__)
    parser.add_argument("model", help="packed model (.zip), folder, or hub name")
    parser.add_argument("audio", nargs="+", help="audio files")
    parser.add_argument("--format", default="text", choices=sorted(FORMATS))
    parser.add_argument("--beam", type=int, default=10, help="1 is greedy")
    parser.add_argument(
        "--ctc_weight", type=float, help="in [0, 1); None: as packed with the model"
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


def _text(name: str, transcript: Transcript) -> str:
    return f"{name} {transcript.text}"


def _json(name: str, transcript: Transcript) -> str:
    record: dict[str, Any] = {"audio": name, **transcript._asdict()}
    record["tokens"] = [token._asdict() for token in transcript.tokens]
    return json.dumps(record, ensure_ascii=False)


def _ctm(name: str, transcript: Transcript) -> str:
    # White space separates the columns.
    recording = "_".join(Path(name).stem.split()) or "audio"
    return "\n".join(
        f"{recording} 1 {t.start:.2f} {t.end - t.start:.2f} {t.symbol} "
        f"{t.confidence:.2f}"
        for t in transcript.tokens
    )


def _srt(name: str, transcript: Transcript) -> str:
    """One caption for about every five seconds of speech."""
    captions, group = [], []
    for token in transcript.tokens:
        if group and token.end - group[0].start > 5.0:
            captions.append(group)
            group = []
        group.append(token)
    captions += [group] if group else []
    return "\n".join(
        f"{number}\n{_clock(group[0].start)} --> {_clock(group[-1].end)}\n"
        f"{_words(group)}\n"
        for number, group in enumerate(captions, 1)
    )


def _words(tokens: Sequence[Any]) -> str:
    """Text of a stretch of tokens, whatever the units are."""
    symbols = [token.symbol for token in tokens]
    if any("\u2581" in symbol for symbol in symbols):
        return "".join(symbols).replace("\u2581", " ").strip()
    single = all(len(symbol) == 1 or symbol == "<space>" for symbol in symbols)
    spoken_without_spaces = single and (
        "<space>" in symbols or any(ord(symbol[0]) > 0x2E80 for symbol in symbols)
    )
    joined = ("" if spoken_without_spaces else " ").join(symbols)
    return joined.replace("<space>", " ")


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02}:{minutes:02}:{whole:02},{milliseconds:03}"


def _save(figure: Any, path: Path) -> None:
    from espnet_hkd.errors import DataError

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


FORMATS: dict[str, Callable[[str, Any], str]] = {
    "ctm": _ctm,
    "json": _json,
    "srt": _srt,
    "text": _text,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    import espnet_hkd

    with parser.report_errors():
        recognizer = espnet_hkd.from_pretrained(
            args.model, device=args.device, allow_download=args.allow_download
        )
        transcripts = recognizer(
            args.audio,
            beam=args.beam,
            ctc_weight=args.ctc_weight,
            tail=args.tail,
            early_eos=args.early_eos,
            batch_seconds=args.batch_seconds,
        )
        for name, transcript in zip(args.audio, transcripts, strict=True):
            print(FORMATS[args.format](name, transcript))
        if args.plot is not None:
            from espnet_hkd.recognize.plots import plot_firing

            firing = recognizer.firing(args.audio[0])
            figure = plot_firing(firing, title=Path(args.audio[0]).stem)
            _save(figure, args.plot)


if __name__ == "__main__":
    main()
