"""A comparison as Markdown tables, and as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from espnet_hkd.compare.bootstrap import CONFIDENCE, Interval
from espnet_hkd.compare.comparison import Comparison, Result
from espnet_hkd.errors import ConfigError
from espnet_hkd.files import replace_file

RATES = {"word": "WER", "char": "CER"}
NAMES = {"word": "words", "char": "characters"}
NONE = "-"

RATE_COLOR = "#2b6cb0"
CHANGE_COLOR = "#c53030"


def markdown(comparison: Comparison) -> str:
    """Tables (errors, ends, lengths, frequencies) and what they depend on."""
    parts = [
        _caption(comparison),
        _errors(comparison),
        _ends(comparison),
        _lengths(comparison),
        *([] if comparison.frequencies is None else [_frequencies(comparison)]),
        "\n".join(f"- {_cell(r.name)}: `{r.folder}`" for r in comparison.results),
    ]
    return "\n\n".join(parts) + "\n"


def _caption(c: Comparison) -> str:
    speakers = "not known" if c.speakers is None else c.speakers
    sclite = "sclite -s" if c.case_sensitive else "sclite"
    first = _cell(c.results[0].name)
    compared = (
        f" Changes are relative to {first}; `better` is the share of resamples with "
        f"fewer errors than {first}."
    )
    pooled = f", trainings of each system, pooled: {c.trainings}"
    speakers = f"{speakers}{pooled if c.trainings > 1 else ''}"
    return (
        f"Utterances: {c.utterances}, {NAMES[c.unit]}: {c.words}, speakers: "
        f"{speakers}. Errors are counted as by {sclite}. Intervals hold "
        f"{CONFIDENCE:.0f} % of {c.resamples} paired resamples of {c.group}s, seed "
        f"{c.seed}.{compared if len(c.results) > 1 else ''}"
    )


def _errors(c: Comparison) -> str:
    head = ["system", f"{RATES[c.unit]} %", "interval", "sub", "del", "ins", "wrong %"]
    compared = len(c.results) > 1
    if compared:
        head += ["change %", "interval", "better %"]
    rows = []
    for r in c.results:
        e = r.errors
        row = [
            _cell(r.name),
            _percent(r.rate),
            _between(r.rate_interval),
            *(str(n.sum()) for n in (e.substitutions, e.deletions, e.insertions)),
            _percent(r.wrong / (c.utterances * c.trainings), 1),
        ]
        if compared:
            row += [
                _percent(r.change, 1, sign=True),
                _between(r.change_interval, 1, sign=True),
                _percent(r.fewer, 1),
            ]
        rows.append(row)
    return _table(head, rows)


def _ends(c: Comparison) -> str:
    unit = NAMES[c.unit].removesuffix("s")
    head = ["system", f"last {unit} deleted", f"last {unit} wrong"]
    head += [f"{NAMES[c.unit]} after the end", "empty hypotheses"]
    rows = []
    for r in c.results:
        e = r.errors
        counts = (e.last_deleted, e.last_substituted, e.after_end, e.empty)
        rows.append([_cell(r.name), *(str(n.sum()) for n in counts)])
    return _table(head, rows)


def _lengths(c: Comparison) -> str:
    head = [f"{RATES[c.unit]} % by {NAMES[c.unit]}", *(b.name for b in c.bins)]
    rows = [
        [_cell(r.name), *(_percent(b.rates[n]) for b in c.bins)]
        for n, r in enumerate(c.results)
    ]
    rows.append(["(utterances)", *(str(b.utterances) for b in c.bins)])
    rows.append([f"({NAMES[c.unit]})", *(str(b.words) for b in c.bins)])
    return _table(head, rows)


def _frequencies(c: Comparison) -> str:
    assert c.frequencies is not None
    head = [f"{NAMES[c.unit]} wrong %, by their number in training", *c.frequencies]
    rows = [
        [
            _cell(r.name),
            *(
                _percent(wrong[n] / count if count else None)
                for count, wrong in c.frequencies.values()
            ),
        ]
        for n, r in enumerate(c.results)
    ]
    counts = [str(count // c.trainings) for count, _ in c.frequencies.values()]
    return _table(head, [*rows, [f"({NAMES[c.unit]})", *counts]])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _percent(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    if value is None:
        return NONE
    # A rounded nothing has no sign.
    value = round(100 * value, digits) + 0.0
    return f"{value:{'+' if sign and value else ''}.{digits}f}"


def _between(value: Interval | None, digits: int = 2, *, sign: bool = False) -> str:
    if value is None:
        return NONE
    return " to ".join(_percent(end, digits, sign=sign) for end in value)


def plot(comparison: Comparison) -> Any:
    """Error rates and their relative changes, each with its interval.

    Returns:
        A matplotlib Figure.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "A plot needs matplotlib.",
            got=error,
            wanted="matplotlib, which the extra `demo` brings",
            remedy="pip install matplotlib, or leave --plot out",
        ) from error
    results = comparison.results
    compared = results[1:]
    columns = 2 if compared else 1
    figure = Figure(figsize=(5.0 * columns, 1.4 + 0.4 * len(results)))
    axes = figure.subplots(1, columns, squeeze=False)[0]
    _bars(axes[0], results, [(r.rate, r.rate_interval) for r in results], RATE_COLOR)
    axes[0].set_xlim(left=0)
    axes[0].set_xlabel(f"{RATES[comparison.unit]} %, {CONFIDENCE:.0f} % interval")
    if compared:
        values = [(r.change, r.change_interval) for r in compared]
        _bars(axes[1], compared, values, CHANGE_COLOR)
        axes[1].axvline(0, color="#718096", linewidth=0.9)
        name = results[0].name.replace("$", r"\$")
        axes[1].set_xlabel(f"change against {name}, %, paired")
    figure.tight_layout()
    return figure


def _bars(
    axis: Any,
    results: Sequence[Result],
    values: Sequence[tuple[float | None, Interval | None]],
    color: str,
) -> None:
    """One point a row, the first on top, with its interval where there is one."""
    for row, (value, between) in enumerate(values):
        if between is not None:
            axis.plot(100 * np.array(between), [row, row], color=color, linewidth=2)
        if value is not None:
            axis.plot([100 * value], [row], "o", color=color)
    # A dollar sign would start a formula.
    names = [r.name.replace("$", r"\$") for r in results]
    axis.set_yticks(range(len(results)), names)
    axis.set_ylim(len(results) - 0.5, -0.5)
    axis.grid(axis="x", color="#e2e8f0")
    axis.set_axisbelow(True)


def save_plot(comparison: Comparison, path: Path) -> None:
    """Write `plot` as PNG, the same bytes each time."""
    figure = plot(comparison)
    _save(
        path,
        lambda file: figure.savefig(
            file, dpi=120, format="png", metadata={"Software": None}
        ),
    )


def save_text(text: str, path: Path) -> None:
    """Write UTF-8 text."""
    _save(path, lambda file: file.write_text(text, encoding="utf-8"))


def _save(path: Path, write: Any) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, write)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written.",
            got=error.strerror,
            wanted="a file in a folder one may write to",
            remedy="make room, or give another path",
        ) from error
