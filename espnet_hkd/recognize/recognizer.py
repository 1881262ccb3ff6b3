"""Batched decoding with token times, over a model that ESPnet trained and packed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from espnet_hkd.checks import is_number, is_whole
from espnet_hkd.cif import FiredTokens
from espnet_hkd.errors import CheckpointError, ConfigError, DataError, SearchError
from espnet_hkd.pretrained.packed import check_classes, open_packed
from espnet_hkd.speech.audio import check_file, cut_at_silences, load_audio
from espnet_hkd.speech.records import Firing, TokenTime, Transcript

logger = logging.getLogger(__name__)

LONGEST_PIECE = 30.0  # seconds
# A hypothesis with a forbidden step (decoder.FORBIDDEN) is no hypothesis: ESPnet's
# search fills its beam with such when fewer are possible.
IMPOSSIBLE = -1.0e8


class _Piece(NamedTuple):
    """A stretch of one recording; encoder output (T, D), None if too short."""

    recording: int
    offset: float
    samples: int
    hidden: Any


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
        # What ESPnet raises for a part that is not set up as its class wants it.
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"no model can be built as {config} says",
                got=f"{type(error).__name__}: {error}",
                wanted="the config.yaml that was written beside the checkpoint",
                remedy="use the ESPnet and espnet_hkd that the model was packed with",
            ) from error
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
        self._inference_conf = (
            getattr(stock.asr_train_args, "inference_conf", None) or {}
        )
        self.sample_rate = int(getattr(self.model.frontend, "fs", None) or _rate(stock))
        self.frame_seconds = self._measure_frame()

    @classmethod
    def from_pretrained(cls, name: str | Path, *, device: str = "cpu") -> Recognizer:
        """Open a packed model (zip), a folder, or a model of the Hugging Face hub.

        Args:
            name: What `espnet_hkd.pretrained.packed.open_packed` takes.
            device: As for torch.

        Raises:
            CheckpointError: Nothing of the kind is there, it is damaged, of a later
                version, short of weights, or asks for a class that is not known.
            ConfigError: The device cannot be used.
        """
        model = open_packed(name)
        check_classes(model.read_config(), name)
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
            tail: Residual weight above which the end fires once more; None: the
                model's.
            early_eos: Allow end-of-sentence before the last firing; None: the model's.
            batch_seconds: Audio decoded together.

        Returns:
            A Transcript for each recording, in input order; with nbest above 1 a list
            of up to nbest Transcripts for each, best first.
        """
        recordings = list(audio) if isinstance(audio, list | tuple) else [audio]
        ctc_weight = self._options(beam, nbest, ctc_weight, tail, batch_seconds)
        # Before an hour's work on those that come first.
        for recording in recordings:
            if isinstance(recording, str | Path):
                check_file(Path(recording))
        search = self._search(beam, ctc_weight)
        pieces = [
            piece
            for number, recording in enumerate(recordings)
            for piece in self._encode(number, recording, sample_rate)
        ]
        with self._override(tail=tail, early_eos=early_eos):
            found = self._decode(pieces, search, nbest, batch_seconds)
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
        weights = decoder.weight_predictor(hidden[None], lengths)[0]
        fired = decoder.fire(hidden[None], lengths)
        search = self._search(1, 0.0)
        # As many names as there are firings.
        with self._override(count_search=0):
            hypothesis = search(x=hidden, maxlenratio=-(len(hidden) + 2.0))[0]
        count = int(fired.lengths[0])
        symbols = [self.model.token_list[i] for i in hypothesis.yseq[1:].tolist()]
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
        if self.model.ctc is None:
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
        beam: Any,
        nbest: Any,
        ctc_weight: Any,
        tail: Any,
        batch_seconds: Any,
    ) -> float:
        """Check the options of a call and fill in the packed CTC weight."""
        if ctc_weight is None:
            ctc_weight = self._inference_conf.get("ctc_weight", 0.0)
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
            (
                "tail",
                tail,
                tail is None or (is_number(tail) and 0 <= tail <= 1),
                "a number in [0, 1], or None for the model's",
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
        if ctc_weight > 0 and self.model.ctc_weight == 0:
            raise SearchError(
                "CTC scores are asked for and the model has no CTC",
                got=f"ctc_weight {ctc_weight}",
                wanted="ctc_weight 0",
                remedy="call again with ctc_weight=0",
            )
        return float(ctc_weight)

    def _search(self, beam: int, ctc_weight: float) -> Any:
        from espnet2.legacy.nets.batch_beam_search import BatchBeamSearch
        from espnet2.legacy.nets.scorers.ctc import CTCPrefixScorer

        model = self.model
        scorers = {"decoder": model.decoder}
        if ctc_weight > 0:
            scorers["ctc"] = CTCPrefixScorer(ctc=model.ctc, eos=model.eos)
        search = BatchBeamSearch(
            beam_size=min(beam, len(model.token_list)),
            weights={"decoder": 1.0 - ctc_weight, "ctc": ctc_weight},
            scorers=scorers,
            sos=model.sos,
            eos=model.eos,
            vocab_size=len(model.token_list),
            # ESPnet would log every hypothesis.
            token_list=None,  # type: ignore[arg-type]
            pre_beam_score_key="full",
        )
        return search.to(device=self.device).eval()

    @contextmanager
    def _override(self, **options: Any) -> Iterator[None]:
        """Set the decoder's options for one call; None: as they are."""
        decoder = self.model.decoder
        before = {name: getattr(decoder, name) for name in options}
        for name, value in options.items():
            setattr(decoder, name, before[name] if value is None else value)
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(decoder, name, value)

    def _encode(
        self, number: int, audio: Any, sample_rate: int | None
    ) -> Iterator[_Piece]:
        samples = load_audio(audio, sample_rate, self.sample_rate)
        for first, last in cut_at_silences(samples, self.sample_rate, LONGEST_PIECE):
            hidden = self._encode_samples(samples[first:last])
            if hidden is None:
                logger.warning(
                    "recording %d: %d samples are too short to encode: empty text",
                    number,
                    last - first,
                )
            yield _Piece(number, first / self.sample_rate, last - first, hidden)

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
        self, pieces: list[_Piece], search: Any, nbest: int, batch_seconds: float
    ) -> list[list[Transcript]]:
        """Search all pieces, those of similar length together."""
        found: list[list[Transcript]] = [[Transcript("", 0.0, [])] for _ in pieces]
        todo = [i for i, piece in enumerate(pieces) if piece.hidden is not None]
        todo.sort(key=lambda i: len(pieces[i].hidden), reverse=True)
        most = batch_seconds / self.frame_seconds
        while todo:
            longest = len(pieces[todo[0]].hidden)
            batch = todo[: max(1, int(most // longest))]
            todo = todo[len(batch) :]
            hypotheses = self._search_batch([pieces[i].hidden for i in batch], search)
            for i, ranked in zip(batch, hypotheses, strict=True):
                found[i] = self._transcripts(pieces[i], ranked[:nbest])
        return found

    @staticmethod
    def _search_batch(hidden: list[torch.Tensor], search: Any) -> list[list[Any]]:
        """Ranked hypotheses of each piece (T, D), without impossible ones."""
        padded = torch.nn.utils.rnn.pad_sequence(hidden, batch_first=True)
        lengths = torch.tensor([len(h) for h in hidden], device=padded.device)
        # Two steps more than any utterance can need: at ESPnet's own limit of T
        # steps a second end-of-sentence would be appended.
        limit = -(padded.size(1) + 3.0)
        if len(hidden) == 1:
            ranked = [search(x=hidden[0], maxlenratio=limit)]
        else:
            ranked = search(x=padded, x_lengths=lengths, maxlenratio=limit)
        return [[h for h in hyps if h.score > IMPOSSIBLE] for hyps in ranked]

    def _transcripts(self, piece: _Piece, ranked: list[Any]) -> list[Transcript]:
        """Text, times and confidences of a piece's hypotheses."""
        searched = self.model.decoder.count_search > 0
        transcripts = []
        for hypothesis in ranked:
            ids = hypothesis.yseq[1:-1].tolist()
            symbols = self._converter.ids2tokens(ids)
            text = self._text(symbols)
            # Where counts are searched, the count that names the tokens with their end.
            fired = self._fire(piece.hidden, len(ids) + 1 if searched else None)
            times = self._times(fired, piece)
            confidences = self._confidences(fired.states[:, : len(ids)], ids)
            starts = [piece.offset, *times]
            tokens = [
                TokenTime(*token)
                for token in zip(symbols, starts, times, confidences, strict=False)
            ]
            transcripts.append(Transcript(text, float(hypothesis.score), tokens))
        return transcripts

    def _text(self, symbols: list[str]) -> str:
        if self._tokenizer is None:
            return " ".join(symbols)
        return self._tokenizer.tokens2text(symbols)

    def _fire(self, hidden: torch.Tensor, count: int | None = None) -> FiredTokens:
        """Fire what the weights say, or this count, from hidden (T, D)."""
        targets = None if count is None else torch.tensor([count], device=hidden.device)
        length = torch.tensor([len(hidden)], device=hidden.device)
        return self.model.decoder.fire(hidden[None], length, targets=targets)

    def _times(self, fired: FiredTokens, piece: _Piece) -> list[float]:
        """Ends of the tokens in the recording, in seconds."""
        last = piece.samples / self.sample_rate
        ends = fired.ends[0, : int(fired.lengths[0])].tolist()
        return [min(end * self.frame_seconds, last) + piece.offset for end in ends]

    def _confidences(self, states: torch.Tensor, ids: list[int]) -> list[float]:
        if not ids:
            return []
        ys = torch.tensor([[self.model.sos, *ids]], device=states.device)
        logits, _ = self.model.decoder.name_tokens(states, ys[:, :-1])
        probability = logits[0].float().softmax(-1).gather(1, ys[0, 1:, None])
        return probability[:, 0].tolist()


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
