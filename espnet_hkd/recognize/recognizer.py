"""Batched decoding with token times, over a model that ESPnet trained and packed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_hkd.border.quiet import import_attention
from espnet_hkd.checks import is_number
from espnet_hkd.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    HKDError,
    SearchError,
)
from espnet_hkd.pretrained.packed import (
    check_buildable,
    open_packed,
    unbuildable,
)
from espnet_hkd.recognize.encode import Encoded, Encoder
from espnet_hkd.recognize.options import LANGUAGE_MODELS, Options, resolve
from espnet_hkd.recognize.search import Hypothesis, SearchWeights, beam_search
from espnet_hkd.recognize.stream import transcribe
from espnet_hkd.recognize.times import Spoken, Stretch, time_tokens
from espnet_hkd.speech.audio import Piece, check_file, load_audio, read_pieces
from espnet_hkd.speech.loudness import loudness
from espnet_hkd.speech.records import Firing, Transcript
from espnet_hkd.speech.sources import RATES
from espnet_hkd.speech.words import group_words

logger = logging.getLogger(__name__)

LONGEST_PIECE = 30.0  # seconds


class Recognizer:
    """Transcribes audio with a trained CIF model.

    Args:
        config: The experiment's config.yaml.
        weights: A checkpoint beside it.
        device: "cpu", "cuda" or "cuda:N".
        kept: Anything that must live as long as the model's files are needed.
        scorers: Files of language models, by `Speech2Text`'s names for them.

    Example:
        >>> import espnet_hkd
        >>> recognizer = espnet_hkd.from_pretrained("model.zip")
        >>> (transcript,) = recognizer("speech.wav")
        >>> text, times = transcript.text, transcript.tokens
    """

    def __init__(
        self,
        config: Path,
        weights: Path,
        *,
        device: str = "cpu",
        kept: Any = None,
        scorers: Mapping[str, Path] | None = None,
    ) -> None:
        _check_device(device)
        stock = _build(config, weights, device, scorers or {})
        # ESPnet declares every part of its models optional; here all are there.
        self.model: Any = stock.asr_model
        self.device = device
        self._converter = stock.converter
        self._tokenizer = stock.tokenizer
        self._unit = getattr(stock.asr_train_args, "token_type", None)
        self._kept = kept
        self._lock = threading.Lock()
        self._scorers = {
            name: stock.beam_search.full_scorers[name]
            for name in LANGUAGE_MODELS
            if name in stock.beam_search.full_scorers
        }
        self._packed = getattr(stock.asr_train_args, "inference_conf", None) or {}
        try:
            self.sample_rate = _rate(stock)
            self._encode = Encoder(self.model, device, self.sample_rate, self._lock)
        # The model is tried on some seconds of audio.
        except Exception as error:
            raise unbuildable(config, error) from error
        self.frame_seconds = self._encode.frame_seconds

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
        import_attention()
        check_buildable(model, name, allow_download=allow_download)
        return cls(
            model.config,
            model.weights,
            device=device,
            kept=model.kept,
            scorers=model.scorers,
        )

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
        not change a result. May be called from several threads.

        Args:
            audio: A path, the bytes of an audio file, a file object, an array, or a
                list of these.
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

        Raises:
            DataError: A recording cannot be read. Files are looked at before anything
                is decoded.
            ConfigError: An option is out of range.
            SearchError: Scores are asked for that the model cannot give.
        """
        recordings = _as_list(audio)
        found = self.stream(
            recordings,
            sample_rate=sample_rate,
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
                check_file(recording)
        results = []
        for _, result in found:
            if isinstance(result, HKDError):
                raise result
            results.append(result)
        return results

    def stream(
        self,
        recordings: Iterable[Any],
        *,
        sample_rate: int | None = None,
        nbest: int = 1,
        batch_seconds: float = 60.0,
        **options: Any,
    ) -> Iterator[tuple[int, Any]]:
        """Transcribe recordings as they come, each yielded when it is ready.

        A few times `batch_seconds` of audio are in memory at once, however long the
        recordings are and however many.

        Args:
            recordings: Taken one by one, when they are needed.
            sample_rate: Of arrays, in Hz.
            nbest: Transcripts per recording.
            batch_seconds: Audio decoded together.
            options: The others of `__call__`.

        Yields:
            The recording's number from 0, in input order, and what `__call__` gives
            for it, or the HKDError that says why there is nothing.

        Raises:
            ConfigError: An option is out of range; at the call, as the next.
            SearchError: Scores are asked for that the model cannot give.
        """
        resolved = resolve(
            self.model,
            self._packed,
            self._scorers,
            nbest=nbest,
            batch_seconds=batch_seconds,
            **options,
        )
        found = transcribe(
            recordings,
            lambda audio: read_pieces(
                audio, sample_rate, self.sample_rate, LONGEST_PIECE
            ),
            lambda pieces: self._decode(pieces, resolved),
            sample_rate=self.sample_rate,
            batch_seconds=resolved.batch_seconds,
        )
        return (
            (
                number,
                result if isinstance(result, HKDError) or nbest > 1 else result[0],
            )
            for number, result in found
        )

    @torch.no_grad()
    def firing(self, audio: Any, *, sample_rate: int | None = None) -> Firing:
        """Show what the CIF does with one recording, greedily named.

        Raises:
            DataError: It is longer than 30 s or too short to encode.
        """
        samples, encoded = self._encode_whole(audio, sample_rate)
        hidden, decoder = encoded.hidden, self.model.decoder
        lengths = torch.tensor([len(hidden)], device=hidden.device)
        weights = decoder.predict_weights(hidden[None], lengths)[0]
        fired = decoder.fire(hidden[None], lengths)
        count = int(fired.lengths[0])
        # As many names as there are firings.
        scoring = decoder.options._replace(count_search=0)
        options = Options(1, 1, SearchWeights(1.0, 0.0, {}), scoring, 1.0)
        best = self._search([hidden], options)[0][0]
        ids = [*best.tokens, self.model.eos]
        symbols = [self.model.token_list[i] for i in ids]
        feats = self._encode.features(samples)
        assert feats is not None
        blank = None
        if self.model.ctc_weight > 0:
            blank = self.model.ctc.log_softmax(hidden[None])[0, :, self.model.blank_id]
        # By the frames of the audio: what was shortened weighs nothing.
        frame = (encoded.edges / self.frame_seconds + 1e-6).astype(int)
        ends = fired.ends[0, :count].cpu().numpy()
        return Firing(
            _placed(weights, frame),
            encoded.seconds(ends) / self.frame_seconds,
            symbols[:count],
            self.frame_seconds,
            feats.float().cpu().numpy(),
            None if blank is None else _placed(1.0 - blank.exp(), frame),
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
        _, encoded = self._encode_whole(audio, sample_rate)
        ids = self.model.ctc.argmax(encoded.hidden[None])[0].unique_consecutive()
        blank = self.model.blank_id
        return self._text(self._converter.ids2tokens(ids[ids != blank].tolist()))

    @property
    def packed_options(self) -> dict[str, Any]:
        """The decoding configuration that was packed with the model; may be empty."""
        return dict(self._packed)

    def count_tokens(self, text: str) -> int:
        """Target tokens of a transcript, end-of-sentence included."""
        if self._tokenizer is None:
            return len(text.split()) + 1
        return len(self._tokenizer.text2tokens(text)) + 1

    def _encode_whole(
        self, audio: Any, sample_rate: int | None
    ) -> tuple[np.ndarray, Encoded]:
        """Samples and encoder output of a recording that need not be cut."""
        samples = load_audio(audio, sample_rate, self.sample_rate)
        if len(samples) > LONGEST_PIECE * self.sample_rate:
            raise DataError(
                "this is not one utterance",
                got=f"{len(samples) / self.sample_rate:.0f} s of audio",
                wanted=f"at most {LONGEST_PIECE:.0f} s",
                remedy="cut it, or give another recording",
            )
        (encoded,) = self._encode([samples], LONGEST_PIECE)
        if encoded is None:
            raise DataError(
                "the audio is too short to encode",
                got=f"{len(samples)} samples",
                wanted="a few encoder frames, each of "
                f"{self.frame_seconds * self.sample_rate:.0f} samples",
                remedy="give another recording",
            )
        return samples, encoded

    @torch.no_grad()
    def _decode(
        self, pieces: Sequence[Piece], options: Options
    ) -> list[list[Transcript]]:
        """Search all pieces, those of similar length together."""
        encoded = self._encode([p.samples for p in pieces], options.batch_seconds)
        found = [[Transcript("", 0.0, [], [])] for _ in pieces]
        frames = {
            place: len(each.hidden)
            for place, each in enumerate(encoded)
            if each is not None
        }
        for piece, each in zip(pieces, encoded, strict=True):
            if each is None:
                logger.warning(
                    "%d samples are too short to encode: empty text",
                    len(piece.samples),
                )
        todo = sorted(frames, key=lambda place: frames[place], reverse=True)
        most = options.batch_seconds / self.frame_seconds
        while todo:
            batch = todo[: max(1, int(most // frames[todo[0]]))]
            todo = todo[len(batch) :]
            known = [each for place in batch if (each := encoded[place]) is not None]
            ranked = self._search([each.hidden for each in known], options)
            best = [hypotheses[: options.nbest] for hypotheses in ranked]
            spoken = [pieces[place] for place in batch]
            transcripts = self._transcripts(spoken, known, best, options)
            for place, hypotheses in zip(batch, best, strict=True):
                found[place] = [next(transcripts) for _ in hypotheses]
        return found

    def _search(
        self, hidden: list[torch.Tensor], options: Options
    ) -> list[list[Hypothesis]]:
        """Ranked hypotheses of each piece (T, D)."""
        model = self.model
        padded = torch.nn.utils.rnn.pad_sequence(hidden, batch_first=True)
        lengths = torch.tensor([len(h) for h in hidden], device=padded.device)
        ranked = beam_search(
            model.decoder,
            padded,
            lengths,
            sos=model.sos,
            beam=options.beam,
            options=options.scoring,
            weights=options.weights,
            ctc_logp=model.ctc.log_softmax(padded) if options.weights.ctc else None,
            others=self._scorers,
            lock=self._lock,
        )
        if not all(ranked):
            raise CheckpointError(
                "the model has no score for any transcript",
                got="scores that are not numbers",
                wanted="weights whose products are finite",
                remedy="copy the model again, or ask whoever trained it",
            )
        return ranked

    def _transcripts(
        self,
        pieces: Sequence[Piece],
        encoded: Sequence[Encoded],
        ranked: Sequence[Sequence[Hypothesis]],
        options: Options,
    ) -> Iterator[Transcript]:
        """Text, times and confidences of all hypotheses, piece by piece."""
        spoken, scores = [], []
        for piece, each, hypotheses in zip(pieces, encoded, ranked, strict=True):
            stretch = Stretch(
                piece.first / self.sample_rate,
                len(piece.samples) / self.sample_rate,
                loudness(piece.samples, self.sample_rate),
            )
            for tokens, score in hypotheses:
                symbols = self._converter.ids2tokens(tokens)
                spoken.append(Spoken(tokens, symbols, each, stretch))
                scores.append(score)
        timed = time_tokens(self.model, spoken, options.scoring)
        for hypothesis, score, tokens in zip(spoken, scores, timed, strict=True):
            words = group_words(tokens, self._unit)
            yield Transcript(self._text(hypothesis.symbols), score, tokens, words)

    def _text(self, symbols: list[str]) -> str:
        if self._tokenizer is None:
            return " ".join(symbols)
        return self._tokenizer.tokens2text(symbols)


def _placed(values: torch.Tensor, frame: np.ndarray) -> np.ndarray:
    """Values (T,) at the frames of the audio that frame (T + 1,) says, else 0."""
    placed = np.zeros(frame[-1], np.float32)
    placed[frame[:-1]] = values.float().cpu().numpy()
    return placed


def _as_list(audio: Any) -> list[Any]:
    """Recordings; a list of numbers is one recording's samples."""
    several = isinstance(audio, list | tuple) and not any(map(is_number, audio[:1]))
    return list(audio) if several else [audio]


def _build(
    config: Path,
    weights: Path,
    device: str,
    scorers: Mapping[str, Path],
) -> Any:
    """ESPnet's own recogniser, of which the parts are taken.

    Raises:
        CheckpointError: No such model can be built.
        ConfigError: It is none that can be decoded here.
    """
    from espnet2.bin.asr_inference import Speech2Text

    from espnet_hkd.nets.model import CIFASRModel

    files: dict[str, Any] = {name: str(path) for name, path in scorers.items()}
    try:
        stock: Any = Speech2Text(
            str(config), str(weights), device=device, ctc_weight=0.0, **files
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
    if stock.asr_model.frontend is None:
        raise ConfigError(
            f"{config} describes a model of features, not of audio",
            got="no frontend: it was trained with `--feats_type` of features",
            wanted="a model that makes its own features, as of `--feats_type raw`",
            remedy="decode its features with espnet2.bin.asr_inference",
        )
    return stock


def _rate(stock: Any) -> int:
    """The sampling rate the frontend was configured for, in Hz."""
    import humanfriendly

    conf = getattr(stock.asr_train_args, "frontend_conf", None) or {}
    rate = getattr(stock.asr_model.frontend, "fs", None) or conf.get("fs", 16000)
    # "16k" in configurations.
    rate = int(humanfriendly.parse_size(str(rate)))
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"a sampling rate of {rate} Hz")
    return rate


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
