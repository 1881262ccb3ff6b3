"""Encoder output of stretches of audio, several at once where that changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from espnet_hkd.border.encoders import ignores_padding
from espnet_hkd.border.features import (
    encode_features,
    extract_features,
    normalise_features,
)

# Below so many frames of features ESPnet's encoders may refuse an utterance.
SHORT = 64


class Encoded(NamedTuple):
    """Encoder output, and the audio that it stands for.

    Attributes:
        hidden: (T, D).
        edges: (T + 1,) seconds: frame t is of the audio from edges[t] to edges[t + 1].
            The frames follow one another, but where a pause was shortened.
    """

    hidden: Tensor
    edges: np.ndarray

    def seconds(self, frames: np.ndarray) -> np.ndarray:
        """When something was that the CIF places at fractional frames."""
        return np.interp(frames, np.arange(len(self.edges)), self.edges)


class Encoder:
    """The encoder of a model, with what comes before it.

    Features are extracted for each stretch alone. Those of one number of frames are
    encoded together; those of several, too, by encoders that padding does not touch.
    So batch mates change nothing beyond rounding.

    Args:
        model: A `CIFASRModel`.
        device: Where it is.
        sample_rate: In Hz.
        lock: Held while the model computes: ESPnet's modules keep values in
            themselves meanwhile.
    """

    def __init__(
        self, model: Any, device: str, sample_rate: int, lock: threading.Lock
    ) -> None:
        from espnet_hkd.nets.encoder import PooledConformerEncoder
        from espnet_hkd.nets.short_pauses import ShortPauses

        self._model = model
        self._device = device
        self._sample_rate = sample_rate
        self._lock = lock
        encoder = model.encoder
        blind = isinstance(encoder, PooledConformerEncoder) or ignores_padding(encoder)
        self._shortens = isinstance(model.preencoder, ShortPauses)
        alone = self._shortens or model.preencoder is None
        self._pads = blind and alone and model.postencoder is None
        # A short-time Fourier transform has nothing to pad with below that.
        self._shortest = int(getattr(model.frontend, "n_fft", 512)) // 2 + 1
        self.frame_seconds = self._measure_frame()

    @torch.no_grad()
    def __call__(
        self, stretches: Sequence[np.ndarray], batch_seconds: float
    ) -> list[Encoded | None]:
        """Encoder output of each, None of what is shorter than a frame."""
        feats = [self.features(samples) for samples in stretches]
        found: list[Encoded | None] = [None] * len(stretches)
        most = batch_seconds / self._feature_seconds
        for batch in self._batches(feats, most):
            together = [each for place in batch if (each := feats[place]) is not None]
            for place, encoded in zip(batch, self._encode(together), strict=True):
                if encoded is not None:
                    found[place] = Encoded(encoded[0], self._edges(*encoded))
        return found

    @torch.no_grad()
    def features(self, samples: np.ndarray) -> Tensor | None:
        """Features (F, D), not normalised; None of what is too short for one."""
        if len(samples) < self._shortest:
            return None
        speech = torch.from_numpy(samples).to(self._device)[None]
        lengths = torch.tensor([len(samples)], device=self._device)
        with self._lock:
            feats, _ = extract_features(self._model, speech, lengths)
        return feats[0]

    def _batches(
        self, feats: Sequence[Tensor | None], most: float
    ) -> Iterator[list[int]]:
        """Places of what is encoded together: with padding, so many frames at most."""
        order = [place for place, each in enumerate(feats) if each is not None]
        frames = [0 if each is None else len(each) for each in feats]
        order.sort(key=lambda place: frames[place], reverse=True)
        batch: list[int] = []
        for place in order:
            longest = frames[batch[0]] if batch else 0
            fits = (len(batch) + 1) * longest <= most
            alike = frames[place] == longest or self._pads
            if batch and not (fits and alike and frames[place] >= SHORT):
                yield batch
                batch = []
            batch.append(place)
        if batch:
            yield batch

    def _encode(self, feats: list[Tensor]) -> list[tuple[Tensor, np.ndarray] | None]:
        """Encoder output (T, D) of each, and the numbers of the features encoded."""
        from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import (
            TooShortUttError,
        )

        # Normalisation works in place.
        padded = torch.nn.utils.rnn.pad_sequence(feats, batch_first=True).clone()
        lengths = torch.tensor([len(each) for each in feats], device=padded.device)
        try:
            with self._lock:
                padded, lengths = normalise_features(self._model, padded, lengths)
                kept = self._kept(padded, lengths)
                hidden, lengths = encode_features(self._model, padded, lengths)
        except TooShortUttError:
            return [None] * len(feats)
        return [
            (each[:length], numbers) if length else None
            for each, numbers, length in zip(
                hidden, kept, lengths.tolist(), strict=True
            )
        ]

    def _kept(self, feats: Tensor, lengths: Tensor) -> list[np.ndarray]:
        """Numbers of the features of each that the encoder will see, rising."""
        if not self._shortens:
            return [np.arange(length) for length in lengths.tolist()]
        kept = self._model.preencoder.kept(feats, lengths).cpu().numpy()
        return [np.flatnonzero(each) for each in kept]

    def _edges(self, hidden: Tensor, kept: np.ndarray) -> np.ndarray:
        """The seconds between which each frame of encoder output (T, D) lies."""
        first = np.arange(len(hidden) + 1) * self._features_a_frame
        # Past the last feature they go on as before it.
        beyond = np.maximum(first - (len(kept) - 1), 0)
        return (kept[first - beyond] + beyond) * self._feature_seconds

    def _measure_frame(self) -> float:
        """Seconds per encoder frame, measured: any ESPnet encoder may be inside."""
        # Bursts: a pause might be shortened.
        samples = np.random.default_rng(0).standard_normal(10 * self._sample_rate)
        samples *= np.arange(len(samples)) % self._sample_rate < self._sample_rate // 2
        feats = self.features(samples.astype(np.float32))
        assert feats is not None
        self._feature_seconds = 10.0 / (len(feats) - 1)
        encoded = self._encode([feats])[0]
        assert encoded is not None
        hidden, kept = encoded
        self._features_a_frame = round(len(kept) / len(hidden))
        return self._features_a_frame * self._feature_seconds
