"""Batched decoding with token times, over a model that ESPnet trained and packed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from espnet_hkd.checks import is_number, is_whole
from espnet_hkd.errors import ConfigError, DataError, HKDError, SearchError
from espnet_hkd.nets.scoring import ScoringOptions
from espnet_hkd.pretrained.packed import check_buildable, open_packed, unbuildable
from espnet_hkd.recognize.search import Hypothesis, SearchWeights, beam_search
from espnet_hkd.recognize.times import Stretch, time_tokens
from espnet_hkd.speech.audio import check_file, cut_at_silences, load_audio
from espnet_hkd.speech.loudness import loudness
from espnet_hkd.speech.records import Firing, Transcript
from espnet_hkd.speech.sources import RATES

logger = logging.getLogger(__name__)

LONGEST_PIECE = 30.0  # seconds
LANGUAGE_MODELS = {"lm": "a language model", "ngram": "an n-gram model"}


class _Piece(NamedTuple):
    """A stretch of one recording; encoder output (T, D), None if too short."""

    recording: int
    offset: float
    samples: int
    hidden: Any
    power: np.ndarray


class _Options(NamedTuple):
    """What one call asks for, checked and filled in."""

    beam: int
    nbest: int
    weights: SearchWeights
    scoring: ScoringOptions
    batch_seconds: float


class Recognizer:
    """Transcribes audio with a trained CIF model.

    Args:
        config: The experiment's config.yaml.
        weights: A checkpoint beside it.
        device: "cpu", "cuda" or "cuda:N".
        kept: Anything that must live as long as the model's files are needed.

    Example:
        >>> import espnet_hkd
        >>> recognizer = espnet_hkd.from_pretrained("model.zip")
        >>> (transcript,) = recognizer("speech.wav")
        >>> text, times = transcript.text, transcript.tokens
    """

    def __init__(
        self, config: Path, weights: Path, *, device: str = "cpu", kept: Any = None
    ) -> None:
        _check_device(device)
        from espnet2.bin.asr_inference import Speech2Text

        from espnet_hkd.nets.model import CIFASRModel

        try:
            stock = Speech2Text(
                str(config), str(weights), device=device, ctc_weight=0.0
            )
        except HKDError:
            raise
        # Whatever ESPnet raises for a part that is not set up as its class wants it.
        except Exception as error:
            raise unbuildable(config, error) from error
        if not isinstance(stock.asr_model, CIFASRModel):
            raise ConfigError(
                f"{config} does not describe a CIF model",
                got=f"model {type(stock.asr_model).__name__}",
                wanted="`model: hkd_cif`",
                remedy="decode other models with espnet2.bin.asr_inference",
            )
        # ESPnet declares every part of its models optional; here all are there.
        self.model: Any = stock.asr_model
        self.device = device
        self._converter = stock.converter
        self._tokenizer = stock.tokenizer
        self._kept = kept
        self._lock = threading.Lock()
        self._lms: dict[str, Any] = {}
        self._inference_conf = (
            getattr(stock.asr_train_args, "inference_conf", None) or {}
        )
        try:
            self.sample_rate = int(
                getattr(self.model.frontend, "fs", None) or _rate(stock)
            )
            if not RATES[0] <= self.sample_rate <= RATES[1]:
                raise ValueError(f"a sampling rate of {self.sample_rate} Hz")
            self.frame_seconds = self._measure_frame()
        # The model is tried on a second of audio.
        except Exception as error:
            raise unbuildable(config, error) from error

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, device: str = "cpu", allow_download: bool = False
    ) -> Recognizer:
        """Open a packed model (zip), a folder, or a model of the Hugging Face hub.

        Args:
            name: What `espnet_hkd.pretrained.packed.open_packed` takes.
            device: As for torch.
            allow_download: Allow a model with parts that download what they are made
                of, such as ESPnet's frontend `huggingface`.

        Raises:
            CheckpointError: Nothing of the kind is there, it is damaged, of a later
                version, short of weights, no CIF model, asks for a class that is not
                known or for more than its weights say, or would download something.
            ConfigError: The device cannot be used.
        """
        model = open_packed(name)
        check_buildable(model, name, allow_download=allow_download)
        return cls(model.config, model.weights, device=device, kept=model.kept)

    @torch.no_grad()
    def __call__(
        self,
        audio: Any,
        *,
        sample_rate: int | None = None,
        beam: int = 10,
        nbest: int = 1,
        ctc_weight: float | None = None,
        lm_weight: float | None = None,
        ngram_weight: float | None = None,
        tail: float | None = None,
        early_eos: bool | None = None,
        batch_seconds: float = 60.0,
    ) -> list[Any]:
        """Transcribe one recording or a list of them.

        Recordings longer than 30 s are cut where they are quietest. Batch mates do
        not change a result: each piece is encoded alone, and only the search, which
        does not look at padding, runs over several at once.

        Args:
            audio: A path, an array, or a list of these.
            sample_rate: Of arrays, in Hz.
            beam: Hypotheses kept; 1 is greedy.
            nbest: Transcripts per recording.
            ctc_weight: Share of the CTC scores, in [0, 1); None: what was packed
                with the model, else 0.
            lm_weight: Weight of the packed language model's scores; None: what was
                packed, 0 where no language model was.
            ngram_weight: The same for a packed n-gram model.
            tail: Residual weight above which the end fires once more; None: the
                model's.
            early_eos: Allow end-of-sentence before the last firing; None: the model's.
            batch_seconds: Audio decoded together.

        Returns:
            A Transcript for each recording, in input order; with nbest above 1 a list
            of up to nbest Transcripts for each, best first.
        """
        recordings = list(audio) if isinstance(audio, list | tuple) else [audio]
        options = self._options(
            beam=beam,
            nbest=nbest,
            ctc_weight=ctc_weight,
            lm_weight=lm_weight,
            ngram_weight=ngram_weight,
            tail=tail,
            early_eos=early_eos,
            batch_seconds=batch_seconds,
        )
        # Before an hour's work on those that come first.
        for recording in recordings:
            if isinstance(recording, str | Path):
                check_file(Path(recording))
        pieces = [
            piece
            for number, recording in enumerate(recordings)
            for piece in self._encode(number, recording, sample_rate)
        ]
        found = self._decode(pieces, options)
        results = [
            _join([found[i] for i, p in enumerate(pieces) if p.recording == number])
            for number in range(len(recordings))
        ]
        return [r[:nbest] for r in results] if nbest > 1 else [r[0] for r in results]

    @torch.no_grad()
    def firing(self, audio: Any, *, sample_rate: int | None = None) -> Firing:
        """Show what the CIF does with one recording, greedily named.

        Raises:
            DataError: It is longer than 30 s or too short to encode.
        """
        samples, hidden = self._encode_whole(audio, sample_rate)
        decoder = self.model.decoder
        lengths = torch.tensor([len(hidden)], device=hidden.device)
        weights = decoder.predict_weights(hidden[None], lengths)[0]
        fired = decoder.fire(hidden[None], lengths)
        count = int(fired.lengths[0])
        # As many names as there are firings.
        scoring = decoder.options._replace(count_search=0)
        options = _Options(1, 1, SearchWeights(1.0, 0.0, {}), scoring, 1.0)
        best = self._search([hidden], options)[0][0]
        ids = [*best.tokens, self.model.eos]
        symbols = [self.model.token_list[i] for i in ids]
        feats, _ = self._features(samples)
        return Firing(
            weights.float().cpu().numpy(),
            fired.ends[0, :count].cpu().numpy(),
            symbols[:count],
            self.frame_seconds,
            feats[0].float().cpu().numpy(),
        )

    @torch.no_grad()
    def read_ctc(self, audio: Any, *, sample_rate: int | None = None) -> str:
        """Read the model's own CTC greedily, without CIF and decoder, for comparison.

        The best token of each frame, repetitions and blanks left out.

        Raises:
            DataError: It is longer than 30 s or too short to encode.
            SearchError: The model has no CTC.
        """
        if self.model.ctc_weight == 0:
            raise SearchError(
                "there is no CTC to read",
                got="a model trained with `ctc_weight: 0`",
                wanted="a model with a CTC head",
                remedy="train with model_conf.ctc_weight above 0",
            )
        _, hidden = self._encode_whole(audio, sample_rate)
        ids = self.model.ctc.argmax(hidden[None])[0].unique_consecutive()
        blank = self.model.blank_id
        return self._text(self._converter.ids2tokens(ids[ids != blank].tolist()))

    def count_tokens(self, text: str) -> int:
        """Target tokens of a transcript, end-of-sentence included."""
        if self._tokenizer is None:
            return len(text.split()) + 1
        return len(self._tokenizer.text2tokens(text)) + 1

    def _options(
        self,
        *,
        beam: Any,
        nbest: Any,
        ctc_weight: Any,
        lm_weight: Any,
        ngram_weight: Any,
        tail: Any,
        early_eos: Any,
        batch_seconds: Any,
    ) -> _Options:
        """Check the options of a call and fill in those that were packed."""
        packed = self._inference_conf
        if ctc_weight is None:
            ctc_weight = packed.get("ctc_weight", 0.0)
        others = {"lm": lm_weight, "ngram": ngram_weight}
        for name, value in others.items():
            if value is None:
                value = packed.get(f"{name}_weight", 0.0) if name in self._lms else 0.0
                others[name] = value
        for name, value, good, wanted in (
            ("beam", beam, is_whole(beam) and beam >= 1, "a whole number above 0"),
            (
                "nbest",
                nbest,
                is_whole(nbest) and is_whole(beam) and 1 <= nbest <= beam,
                f"a whole number from 1 to the beam, {beam}",
            ),
            (
                "ctc_weight",
                ctc_weight,
                is_number(ctc_weight) and 0 <= ctc_weight < 1,
                "a number in [0, 1)",
            ),
            *(
                (
                    f"{name}_weight",
                    value,
                    is_number(value) and 0 <= value < float("inf"),
                    "a number from 0 on, or None for the packed one",
                )
                for name, value in others.items()
            ),
            (
                "tail",
                tail,
                tail is None or (is_number(tail) and 0 <= tail <= 1),
                "a number in [0, 1], or None for the model's",
            ),
            (
                "early_eos",
                early_eos,
                early_eos is None or isinstance(early_eos, bool),
                "true, false, or None for the model's",
            ),
            (
                "batch_seconds",
                batch_seconds,
                is_number(batch_seconds) and 0 < batch_seconds < float("inf"),
                "a number above 0",
            ),
        ):
            if not good:
                raise ConfigError(
                    f"{name} is out of range",
                    got=repr(value),
                    wanted=wanted,
                    remedy=f"call again with another {name}",
                )
        self._check_scorers(ctc_weight, others)
        scoring = self.model.decoder.options
        if tail is not None:
            scoring = scoring._replace(tail=float(tail))
        if early_eos is not None:
            scoring = scoring._replace(early_eos=early_eos)
        weights = SearchWeights(1.0 - ctc_weight, float(ctc_weight), others)
        beam = min(beam, len(self.model.token_list))
        return _Options(beam, nbest, weights, scoring, float(batch_seconds))

    def _check_scorers(self, ctc_weight: float, others: dict[str, float]) -> None:
        if ctc_weight > 0 and self.model.ctc_weight == 0:
            raise SearchError(
                "CTC scores are asked for and the model has no CTC",
                got=f"ctc_weight {ctc_weight}",
                wanted="ctc_weight 0",
                remedy="call again with ctc_weight=0",
            )
        for name, value in others.items():
            if value > 0 and name not in self._lms:
                raise SearchError(
                    f"{LANGUAGE_MODELS[name]} is asked for and none is packed with the "
                    "model",
                    got=f"{name}_weight {value}",
                    wanted=f"{name}_weight 0",
                    remedy="pack it beside the acoustic model, or call again with "
                    f"{name}_weight=0",
                )

    def _encode(
        self, number: int, audio: Any, sample_rate: int | None
    ) -> Iterator[_Piece]:
        samples = load_audio(audio, sample_rate, self.sample_rate)
        for first, last in cut_at_silences(samples, self.sample_rate, LONGEST_PIECE):
            piece = samples[first:last]
            hidden = self._encode_samples(piece)
            if hidden is None:
                logger.warning(
                    "recording %d: %d samples are too short to encode: empty text",
                    number,
                    last - first,
                )
            yield _Piece(
                number,
                first / self.sample_rate,
                last - first,
                hidden,
                loudness(piece, self.sample_rate),
            )

    def _encode_whole(
        self, audio: Any, sample_rate: int | None
    ) -> tuple[np.ndarray, torch.Tensor]:
        """Samples and encoder output (T, D) of a recording that need not be cut."""
        samples = load_audio(audio, sample_rate, self.sample_rate)
        if len(samples) > LONGEST_PIECE * self.sample_rate:
            raise DataError(
                "this is not one utterance",
                got=f"{len(samples) / self.sample_rate:.0f} s of audio",
                wanted=f"at most {LONGEST_PIECE:.0f} s",
                remedy="cut it, or give another recording",
            )
        hidden = self._encode_samples(samples)
        if hidden is None:
            raise DataError(
                "the audio is too short to encode",
                got=f"{len(samples)} samples",
                wanted="a few encoder frames, each of "
                f"{self.frame_seconds * self.sample_rate:.0f} samples",
                remedy="give another recording",
            )
        return samples, hidden

    def _encode_samples(self, samples: np.ndarray) -> torch.Tensor | None:
        """Encoder output (T, D), or None for what is shorter than a frame."""
        from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import (
            TooShortUttError,
        )

        if len(samples) < self._shortest():
            return None
        speech = torch.from_numpy(samples).to(self.device)[None]
        lengths = torch.tensor([len(samples)], device=self.device)
        try:
            # ESPnet's modules keep values in themselves while they compute.
            with self._lock:
                hidden, hidden_lengths = self.model.encode(speech, lengths)
        except TooShortUttError:
            return None
        return hidden[0, : int(hidden_lengths[0])] if len(hidden[0]) else None

    def _shortest(self) -> int:
        """Samples below which the short-time Fourier transform has nothing to pad."""
        return int(getattr(self.model.frontend, "n_fft", 512)) // 2 + 1

    def _features(self, samples: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        speech = torch.from_numpy(samples).to(self.device)[None]
        lengths = torch.tensor([len(samples)], device=self.device)
        with self._lock:
            return self.model._extract_feats(speech, lengths)

    @torch.no_grad()
    def _measure_frame(self) -> float:
        """Seconds per encoder frame, measured: any ESPnet encoder may be inside."""
        samples = np.zeros(10 * self.sample_rate, dtype=np.float32)
        hidden = self._encode_samples(samples)
        feats, _ = self._features(samples)
        assert hidden is not None
        factor = round(feats.size(1) / len(hidden))
        return factor * 10.0 / (feats.size(1) - 1)

    def _decode(
        self, pieces: list[_Piece], options: _Options
    ) -> list[list[Transcript]]:
        """Search all pieces, those of similar length together."""
        found: list[list[Transcript]] = [[Transcript("", 0.0, [])] for _ in pieces]
        todo = [i for i, piece in enumerate(pieces) if piece.hidden is not None]
        todo.sort(key=lambda i: len(pieces[i].hidden), reverse=True)
        most = options.batch_seconds / self.frame_seconds
        while todo:
            longest = len(pieces[todo[0]].hidden)
            batch = todo[: max(1, int(most // longest))]
            todo = todo[len(batch) :]
            hypotheses = self._search([pieces[i].hidden for i in batch], options)
            for i, ranked in zip(batch, hypotheses, strict=True):
                found[i] = [
                    self._transcript(pieces[i], hypothesis, options)
                    for hypothesis in ranked[: options.nbest]
                ]
        return found

    def _search(
        self, hidden: list[torch.Tensor], options: _Options
    ) -> list[list[Hypothesis]]:
        """Ranked hypotheses of each piece (T, D)."""
        model = self.model
        padded = torch.nn.utils.rnn.pad_sequence(hidden, batch_first=True)
        lengths = torch.tensor([len(h) for h in hidden], device=padded.device)
        return beam_search(
            model.decoder,
            padded,
            lengths,
            sos=model.sos,
            beam=options.beam,
            options=options.scoring,
            weights=options.weights,
            ctc_logp=model.ctc.log_softmax(padded) if options.weights.ctc else None,
            others=self._lms,
            lock=self._lock,
        )

    def _transcript(
        self, piece: _Piece, hypothesis: Hypothesis, options: _Options
    ) -> Transcript:
        """Text, times and confidences of a piece's hypothesis."""
        ids = hypothesis.tokens
        symbols = self._converter.ids2tokens(ids)
        stretch = Stretch(
            piece.offset,
            piece.samples / self.sample_rate,
            self.frame_seconds,
            piece.power,
        )
        tokens = time_tokens(
            self.model, piece.hidden, ids, symbols, stretch, options.scoring
        )
        return Transcript(self._text(symbols), hypothesis.score, tokens)

    def _text(self, symbols: list[str]) -> str:
        if self._tokenizer is None:
            return " ".join(symbols)
        return self._tokenizer.tokens2text(symbols)


def _join(pieces: list[list[Transcript]]) -> list[Transcript]:
    """Join the pieces of a recording, rank by rank."""
    ranks = min(len(piece) for piece in pieces)
    return [
        Transcript(
            " ".join(piece[rank].text for piece in pieces if piece[rank].text),
            sum(piece[rank].score for piece in pieces),
            [token for piece in pieces for token in piece[rank].tokens],
        )
        for rank in range(ranks)
    ]


def _rate(stock: Any) -> int:
    """The sampling rate the frontend was configured for, in Hz."""
    import humanfriendly

    conf = getattr(stock.asr_train_args, "frontend_conf", None) or {}
    return humanfriendly.parse_size(str(conf.get("fs", 16000)))


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(
            f"device {device!r} cannot be used",
            got=str(error).splitlines()[0],
            wanted='"cpu", or "cuda" where PyTorch finds a GPU',
            remedy='set device="cpu", or install a PyTorch that fits the GPU\'s driver',
        ) from error
