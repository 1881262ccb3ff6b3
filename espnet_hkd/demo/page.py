"""The page itself: what is where, and what happens on a click."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import soundfile

from espnet_hkd.demo import html
from espnet_hkd.demo.picture import draw
from espnet_hkd.demo.transcribe import (
    Options,
    duration,
    first_piece,
    packed_options,
    transcribe,
)
from espnet_hkd.errors import DataError, HKDError
from espnet_hkd.recognize import Recognizer, Transcript
from espnet_hkd.speech.audio import narrow_band
from espnet_hkd.speech.formats import FORMATS

# Seconds between two looks for old files, and their age when they go: not while an hour
# waits, is recognised, or listened to.
SWEEP_EVERY, KEEP_FOR = 600, 4 * 3600
# Recordings recognised at a time: a short one need not wait for an hour. The others
# wait and see their place.
TOGETHER = 2


class Page:
    """The state behind the page.

    Args:
        models: Opened, by the names in the chooser; the first is chosen.
        minutes: The longest recording taken.
    """

    def __init__(self, models: Mapping[str, Recognizer], *, minutes: float) -> None:
        self.models = dict(models)
        self.minutes = minutes
        self._room = threading.BoundedSemaphore(TOGETHER)
        self._ending = threading.Event()

    def end(self) -> None:
        """Stop what is being recognised at its next step, and wait until it has."""
        self._ending.set()
        for _ in range(TOGETHER):
            self._room.acquire()

    def build(self) -> gr.Blocks:
        """Lay the page out."""
        names = list(self.models)
        with gr.Blocks(
            title="espnet_hkd",
            analytics_enabled=False,
            delete_cache=(SWEEP_EVERY, KEEP_FOR),
        ) as page:
            gr.Markdown("# espnet_hkd\nSpeak, or choose a recording.")
            with gr.Row():
                with gr.Column(scale=2):
                    audio = gr.Audio(
                        sources=["upload", "microphone"],
                        type="filepath",
                        label="Recording",
                        # Neither sharing, which asks another server, nor more.
                        buttons=[],
                        elem_id="recording",
                    )
                    model = gr.Dropdown(
                        names, value=names[0], label="Model", elem_id="model"
                    )
                    with gr.Accordion("How to decode", open=False, elem_id="decode"):
                        options = self._options(names[0])
                    button = gr.Button(
                        "Transcribe", variant="primary", elem_id="transcribe"
                    )
                with gr.Column(scale=3):
                    # High enough for what is shown of the progress.
                    result = gr.HTML(elem_id="result", min_height=120)
                    picture = gr.Plot(show_label=False, elem_id="picture")
                    with gr.Row():
                        files = [
                            gr.DownloadButton(
                                f"{kind.upper()}", visible=False, elem_id=f"as-{kind}"
                            )
                            for kind in ("srt", "json")
                        ]
            button.click(
                self.transcribe,
                [audio, model, *options],
                [result, picture, *files],
                show_progress_on=result,
                concurrency_limit=TOGETHER,
                concurrency_id="model",
                api_visibility="private",
            )
            model.change(
                self.defaults, [model], options, api_visibility="private", queue=False
            )
        page.queue(max_size=32)
        return page

    def defaults(self, name: str) -> list[float]:
        """Beam, CTC weight and tail that a model was packed with."""
        return list(packed_options(self.models[name]))

    def transcribe(
        self,
        audio: str | None,
        name: str,
        beam: int,
        ctc_weight: float,
        tail: float,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> tuple[str, Any, Any, Any]:
        """What a click on the button does."""
        hidden = gr.DownloadButton(visible=False)
        if audio is None:
            return "<p>Record or choose something first.</p>", None, hidden, hidden
        recognizer = self.models[name]
        options = Options(int(beam), float(ctc_weight), float(tail))

        def report(done: float) -> None:
            if self._ending.is_set():
                raise DataError(
                    "the page ends",
                    got=f"{done:.0f} s recognised",
                    wanted="a page that runs",
                    remedy="start it again: espnet-hkd demo",
                )
            # A file may hold no sample at all.
            progress(done / seconds if seconds else 1.0, desc="recognising")

        self._room.acquire()
        try:
            progress(0.0, desc="recognising")
            seconds = duration(Path(audio), minutes=self.minutes)
            transcript = transcribe(
                recognizer,
                Path(audio),
                options,
                report,
            )
            rate = soundfile.info(audio).samplerate
            notes, figure = [narrow_band(rate, recognizer.sample_rate)], None
            if transcript.tokens:
                beginning = first_piece(recognizer, Path(audio))
                figure = draw(recognizer, beginning)
                drawn = len(beginning) / recognizer.sample_rate
                if drawn < seconds - 0.1:
                    notes.append(f"The picture shows the first {drawn:.0f} s.")
        except HKDError as error:
            return html.show_error(error, Path(audio)), None, hidden, hidden
        finally:
            self._room.release()
        shown = html.show(transcript.words, audio, filter(None, notes))
        return shown, figure, *self._files(Path(audio), transcript)

    def _options(self, name: str) -> list[Any]:
        packed = packed_options(self.models[name])
        return [
            gr.Slider(1, 20, packed.beam, step=1, label="Beam", elem_id="beam"),
            gr.Slider(
                0, 0.9, packed.ctc_weight, step=0.05, label="CTC weight", elem_id="ctc"
            ),
            gr.Slider(
                0,
                1,
                packed.tail,
                step=0.05,
                label="Tail: rest of weight above which the end fires once more",
                elem_id="tail",
            ),
        ]

    def _files(self, audio: Path, transcript: Transcript) -> list[Any]:
        """The buttons that download SRT and JSON; they lie with the uploads."""

        folder = Path(tempfile.mkdtemp(dir=audio.parent))
        buttons = []
        for kind in ("srt", "json"):
            path = folder / f"{audio.stem}.{kind}"
            path.write_text(FORMATS[kind](audio.name, transcript), encoding="utf-8")
            buttons.append(gr.DownloadButton(value=path, visible=True))
        return buttons
