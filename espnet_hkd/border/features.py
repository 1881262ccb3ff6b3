"""Features and encoder of an ESPnet model apart, which it has in one method only."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def extract_features(
    model: Any, speech: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Features (B, F, D) of speech (B, samples), not normalised, and their numbers.

    ESPnet's own frontend lets padding change the last two frames of an utterance.
    """
    return model._extract_feats(speech, lengths)


def normalise_features(
    model: Any, feats: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """What a model makes of features (B, F, D) before its preencoder; in place."""
    if model.normalize is None:
        return feats, lengths
    return model.normalize(feats, lengths)


def encode_features(
    model: Any, feats: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Encoder output (B, T, D) of normalised features, and numbers of frames (B,).

    What `ESPnetASRModel.encode` does in evaluation after it has normalised features.
    """
    if model.preencoder is not None:
        feats, lengths = model.preencoder(feats, lengths)
    conditioned = any(
        getattr(model.encoder, name, False)
        for name in ("interctc_use_conditioning", "ctc_trim")
    )
    ctc = {"ctc": model.ctc} if conditioned else {}
    hidden, lengths, _ = model.encoder(feats, lengths, **ctc)
    if isinstance(hidden, tuple):
        hidden = hidden[0]
    if model.postencoder is not None:
        hidden, lengths = model.postencoder(hidden, lengths)
    return hidden, lengths
