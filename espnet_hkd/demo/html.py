"""What the page shows of a transcript: a player, and words that jump to their time."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from espnet_hkd.errors import HKDError

# The system's fonts: none is fetched.
STYLE = """
.hkd audio { width: 100%; margin-bottom: 0.8em; }
/* An hour has thousands of words: they scroll; player, picture and files stay. */
.hkd-words { max-height: 24em; overflow-y: auto; }
.hkd-word { border: 0; border-radius: 0.25em; padding: 0.1em 0.3em; margin: 0.1em;
  font: inherit; font-size: 1.25em; color: inherit; cursor: pointer; }
.hkd-word:hover, .hkd-word:focus-visible { outline: 2px solid #2b6cb0; }
.hkd-word.now { text-decoration: underline; text-decoration-thickness: 0.15em; }
.hkd-note { font-size: 0.85em; opacity: 0.8; }
.hkd-error { border-left: 0.3em solid #c53030; padding: 0.3em 0.8em; }
.hkd-error pre { white-space: pre-wrap; font-family: inherit; margin: 0; }
"""
# Words of one result belong to the player of the same result.
SCRIPT = """
document.addEventListener("click", (event) => {
  const word = event.target.closest(".hkd-word");
  if (!word) return;
  const player = word.closest(".hkd").querySelector("audio");
  player.currentTime = Number(word.dataset.start);
  player.play();
});
document.addEventListener("timeupdate", (event) => {
  const result = event.target.closest(".hkd");
  if (!result) return;
  const now = event.target.currentTime;
  for (const word of result.querySelectorAll(".hkd-word"))
    word.classList.toggle("now", word.dataset.start <= now && now < word.dataset.end);
}, true);
"""


class Word(Protocol):
    """A word with its time in seconds and its confidence in [0, 1]."""

    @property
    def word(self) -> str: ...
    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def confidence(self) -> float: ...


def show(words: Iterable[Word], audio: str, notes: Iterable[str] = ()) -> str:
    """The player and the words of one recording.

    Args:
        words: In order.
        audio: Path of the recording, one that the page's server may serve.
        notes: Sentences below.
    """
    buttons = " ".join(_button(word) for word in words)
    if buttons:
        said = f"<div class='hkd-words'>{buttons}</div>"
        notes = ("A click plays from a word; the darker, the less sure.", *notes)
    else:
        said = "<p class='hkd-words'>No speech was found: no token fired.</p>"
    below = "".join(f"<p class='hkd-note'>{html.escape(note)}</p>" for note in notes)
    source = f"gradio_api/file={quote(audio)}"
    return (
        f"<div class='hkd'><audio controls preload='auto' src='{source}'></audio>"
        f"{said}{below}</div>"
    )


def show_error(error: HKDError, audio: Path) -> str:
    """An error of ours, with the recording by its name: uploads lie in a long path."""
    text = html.escape(str(error).replace(str(audio), audio.name))
    return f"<div class='hkd-error' role='alert'><pre>{text}</pre></div>"


def _button(word: Word) -> str:
    # Sure words have no shade; what the model would not bet on has half of it.
    shade = 0.75 * (1.0 - min(max(word.confidence, 0.0), 1.0))
    color = f"rgba(221, 107, 32, {shade:.2f})"
    times = f"{word.start:.2f} to {word.end:.2f} s"
    return (
        f"<button type='button' class='hkd-word' data-start='{word.start:.3f}' "
        f"data-end='{word.end:.3f}' style='background: {color}' "
        f"title='{times}, confidence {word.confidence:.2f}'>"
        f"{html.escape(word.word)}</button>"
    )
