"""Encoder output of stretches of audio, several at once where that changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from espnet_hkd.border.encoders import ignores_padding
from espnet_hkd.border.features import encode_features, extract_features

# Below so many frames of features ESPnet's encoders may refuse an utterance.
SHORT = 64


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

        self._model = model
        self._device = device
        self._sample_rate = sample_rate
        self._lock = lock
        encoder = model.encoder
        blind = isinstance(encoder, PooledConformerEncoder) or ignores_padding(encoder)
        self._pads = blind and model.preencoder is None and model.postencoder is None
        # A short-time Fourier transform has nothing to pad with below that.
        self._shortest = int(getattr(model.frontend, "n_fft", 512)) // 2 + 1
        self.frame_seconds = self._measure_frame()

    @torch.no_grad()
    def __call__(
        self, stretches: Sequence[np.ndarray], batch_seconds: float
    ) -> list[Tensor | None]:
        """Encoder output (T, D) of each, None of what is shorter than a frame."""
        feats = [self.features(samples) for samples in stretches]
        found: list[Tensor | None] = [None] * len(stretches)
        most = batch_seconds / self._feature_seconds
        for batch in self._batches(feats, most):
            together = [each for place in batch if (each := feats[place]) is not None]
            for place, hidden in zip(batch, self._encode(together), strict=True):
                found[place] = hidden
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

    def _encode(self, feats: list[Tensor]) -> list[Tensor | None]:
        from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import (
            TooShortUttError,
        )

        # Normalisation works in place.
        padded = torch.nn.utils.rnn.pad_sequence(feats, batch_first=True).clone()
        lengths = torch.tensor([len(each) for each in feats], device=padded.device)
        try:
            with self._lock:
                hidden, lengths = encode_features(self._model, padded, lengths)
        except TooShortUttError:
            return [None] * len(feats)
        return [
            each[:length] if length else None
            for each, length in zip(hidden, lengths.tolist(), strict=True)
        ]

    def _measure_frame(self) -> float:
        """Seconds per encoder frame, measured: any ESPnet encoder may be inside."""
        feats = self.features(np.zeros(10 * self._sample_rate, dtype=np.float32))
        assert feats is not None
        self._feature_seconds = 10.0 / (len(feats) - 1)
        hidden = self._encode([feats])[0]
        assert hidden is not None
        return round(len(feats) / len(hidden)) * self._feature_seconds
