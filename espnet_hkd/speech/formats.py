"""Transcripts as other programs read them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import Any

from espnet_hkd.speech.records import Transcript, WordTime
from espnet_hkd.speech.words import join_words

# What fits on a screen and can be read, as broadcasters have it.
LINE = 42
LINES = 2
CAPTION_SECONDS = 7.0
# A gap between words that ends a caption.
PAUSE_SECONDS = 1.0


def as_text(name: str, transcript: Transcript) -> str:
    """The name and the text on one line, as in Kaldi's `text`."""
    return f"{name} {transcript.text}".rstrip()


def as_json(name: str, transcript: Transcript) -> str:
    """Everything, on one line."""
    record: dict[str, Any] = {"audio": name, **transcript._asdict()}
    record["tokens"] = [token._asdict() for token in transcript.tokens]
    record["words"] = [word._asdict() for word in transcript.words]
    return json.dumps(record, ensure_ascii=False)


def as_ctm(name: str, transcript: Transcript) -> str:
    """A line for each word: recording, channel, start, duration, word, confidence.

    Words do not overlap, also after rounding to hundredths of a second.
    """
    recording = _one_word(name)
    lines, last = [], 0
    for word in transcript.words:
        start = max(round(100 * word.start), last)
        last = max(round(100 * word.end), start)
        lines.append(
            f"{recording} 1 {start / 100:.2f} {(last - start) / 100:.2f} "
            f"{word.word} {word.confidence:.2f}"
        )
    return "\n".join(lines)


def as_srt(name: str, transcript: Transcript) -> str:
    """SubRip captions."""
    return "\n".join(
        f"{number}\n{_clocks(words, ',')}\n{_wrap(words)}\n"
        for number, words in enumerate(captions(transcript.words), 1)
    )


def as_vtt(name: str, transcript: Transcript) -> str:
    """WebVTT captions."""
    cues = (
        f"\n{_clocks(words, '.')}\n{_escape(_wrap(words))}\n"
        for words in captions(transcript.words)
    )
    return "WEBVTT\n" + "".join(cues)


def as_textgrid(name: str, transcript: Transcript) -> str:
    """A Praat TextGrid with a tier of words and one of tokens; pauses are empty."""
    tiers = {
        "words": [(w.start, w.end, w.word) for w in transcript.words],
        "tokens": [(t.start, t.end, t.symbol) for t in transcript.tokens],
    }
    last = max((end for tier in tiers.values() for _, end, _ in tier), default=0.0)
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {last:.3f}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (tier, stretches) in enumerate(tiers.items(), 1):
        intervals = _without_gaps(stretches, last)
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{tier}"',
            "        xmin = 0",
            f"        xmax = {last:.3f}",
            f"        intervals: size = {len(intervals)}",
        ]
        for place, (start, end, label) in enumerate(intervals, 1):
            quoted = label.replace('"', '""')
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {start:.3f}",
                f"            xmax = {end:.3f}",
                f'            text = "{quoted}"',
            ]
    return "\n".join(lines) + "\n"


FORMATS: dict[str, Callable[[str, Transcript], str]] = {
    "ctm": as_ctm,
    "json": as_json,
    "srt": as_srt,
    "text": as_text,
    "textgrid": as_textgrid,
    "vtt": as_vtt,
}
SUFFIXES = {name: f".{name}" for name in FORMATS} | {
    "text": ".txt",
    "textgrid": ".TextGrid",
}
# Lines that say themselves whose they are.
NAMED = ("ctm", "json", "text")


def captions(words: Sequence[WordTime]) -> list[list[WordTime]]:
    """Group words into captions that fit on a screen and end at pauses."""
    groups: list[list[WordTime]] = []
    for word in words:
        if groups:
            group = [*groups[-1], word]
            paused = word.start - groups[-1][-1].end >= PAUSE_SECONDS
            long = word.end - group[0].start > CAPTION_SECONDS
            if not paused and not long and len(_lines(group)) <= LINES:
                groups[-1].append(word)
                continue
        groups.append([word])
    return groups


def distinct_names(paths: Sequence[str]) -> list[str]:
    """Short names that tell recordings apart.

    The file's name without its ending; where two would be the same, with as many
    folders before it as tell them apart, and with the ending where that does.

    Example:
        >>> distinct_names(["a/rec.wav", "b/rec.wav", "one.wav"])
        ['a/rec', 'b/rec', 'one']
    """
    parts = [PurePath(path).parts or (path,) for path in paths]
    depth = [1] * len(paths)
    while True:
        names = [
            PurePath(*part[-deep:]).with_suffix("").as_posix() if part else ""
            for part, deep in zip(parts, depth, strict=True)
        ]
        again = {name for name, times in Counter(names).items() if times > 1}
        grown = [
            min(deep + 1, len(part)) if name in again else deep
            for name, part, deep in zip(names, parts, depth, strict=True)
        ]
        if grown == depth:
            break
        depth = grown
    # The same file twice, or the same name with two endings.
    return numbered(
        PurePath(path).as_posix() if name in again else name
        for path, name in zip(paths, names, strict=True)
    )


def numbered(names: Iterable[str]) -> list[str]:
    """The names, with a number where one in CTM or as a file's would be as another.

    Example:
        >>> numbered(["a/rec", "b/rec", "a_rec", "b/rec"])
        ['a/rec', 'b/rec', 'a_rec#2', 'b/rec#2']
    """
    numbers: Counter[str] = Counter()
    taken: set[str] = set()
    found = []
    for name in names:
        new = name
        while (shown := _one_word(file_stem(new))) in taken:
            numbers[name] += 1
            new = f"{name}#{numbers[name] + 1}"
        taken.add(shown)
        found.append(new)
    return found


def file_stem(name: str) -> str:
    """A recording's name as that of a file."""
    return name.replace("/", "_").lstrip("_")


def _one_word(name: str) -> str:
    """Without white space, which separates the columns of CTM."""
    return "_".join(name.split()) or "audio"


def _lines(words: Sequence[WordTime]) -> list[str]:
    """The words in lines of at most `LINE` characters, a longer word alone."""
    lines: list[str] = []
    for word in words:
        joined = join_words([lines[-1], word.word]) if lines else word.word
        if lines and len(joined) <= LINE:
            lines[-1] = joined
        else:
            lines.append(word.word)
    return lines


def _wrap(words: Sequence[WordTime]) -> str:
    """A caption, broken into two lines of about the same length where it must be."""
    said = [word.word for word in words]
    if len(text := join_words(said)) <= LINE:
        return text
    pairs = [
        (join_words(said[:place]), join_words(said[place:]))
        for place in range(1, len(said))
    ]
    fitting = [pair for pair in pairs if max(map(len, pair)) <= LINE]
    if not fitting:
        return "\n".join(_lines(words))
    return "\n".join(min(fitting, key=lambda pair: abs(len(pair[0]) - len(pair[1]))))


def _clocks(words: Sequence[WordTime], point: str) -> str:
    """When a caption is shown: as long as its words last, a very long word less."""
    start = words[0].start
    end = min(words[-1].end, start + CAPTION_SECONDS)
    return f"{_clock(start, point)} --> {_clock(end, point)}"


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02}:{minutes:02}:{whole:02}{point}{milliseconds:03}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _without_gaps(
    stretches: Sequence[tuple[float, float, str]], last: float
) -> list[tuple[float, float, str]]:
    """The stretches, and empty ones between them; Praat wants every moment named."""
    intervals, reached = [], 0.0
    for start, end, label in stretches:
        start, end = max(start, reached), max(end, reached)
        if round(start, 3) > round(reached, 3):
            intervals.append((reached, start, ""))
        else:
            start = reached
        if round(end, 3) > round(start, 3):
            intervals.append((start, end, label))
            reached = end
    if round(last, 3) > round(reached, 3) or not intervals:
        intervals.append((reached, last, ""))
    return intervals
