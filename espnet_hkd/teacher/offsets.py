"""Character offsets of a PLM's pieces that leave no character out.

A teacher is found by the characters its pieces cover; one that the tokenizer leaves out
by a fault of its settings would have none, in silence.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from espnet_hkd.errors import PLMError

# Steps after tokenizing that move offsets, with settings of their own.
_TRIMMING = ("ByteLevel", "RobertaProcessing")
_TRIM = {"trim_offsets": True, "add_prefix_space": True}


def with_whole_offsets(tokenizer: Any) -> Any:
    """The same `tokenizers.Tokenizer`, its byte-level offsets right.

    A tokenizer that puts a space before the text (`add_prefix_space`) and moves offsets
    behind that space has to know, where it moves them, that the space is not in the
    text. If it does not, the first piece begins one character late; if it moves none, a
    piece that is this space alone covers the first character. Pieces stay as they are.
    """
    settings = json.loads(tokenizer.to_str())
    if not _nodes(settings["pre_tokenizer"], ("ByteLevel",)):
        return tokenizer
    nodes = _nodes(settings["post_processor"], _TRIMMING)
    if nodes and all(node.items() >= _TRIM.items() for node in nodes):
        return tokenizer
    for node in nodes:
        node.update(_TRIM)
    if not nodes:
        trimming = {"type": "ByteLevel", "use_regex": True, **_TRIM}
        after = [settings["post_processor"]] if settings["post_processor"] else []
        settings["post_processor"] = {
            "type": "Sequence",
            "processors": [trimming, *after],
        }
    return type(tokenizer).from_str(json.dumps(settings))


def _nodes(step: Any, types: tuple[str, ...]) -> list[dict[str, Any]]:
    """The parts of a tokenizer's step that are of some types; steps may be nested."""
    if isinstance(step, list):
        return [node for each in step for node in _nodes(each, types)]
    if not isinstance(step, dict):
        return []
    inner = [node for each in step.values() for node in _nodes(each, types)]
    return [step, *inner] if step.get("type") in types else inner


def extend_over_marks(text: str, spans: np.ndarray) -> None:
    """Let a piece cover the accents behind its last letter, if no other piece does.

    Normalisation joins them to the letter (NFC) or strips them (BERT); the offsets then
    end before them. A span that is empty stays so.

    Args:
        text: What was tokenized.
        spans: (S, 2), changed in place.
    """
    if text.isascii() or not any(map(unicodedata.combining, text)):
        return
    covered = _covered(len(text), spans)
    for span in spans:
        if span[0] < span[1]:
            while (
                span[1] < len(text)
                and not covered[span[1]]
                and unicodedata.combining(text[span[1]])
            ):
                span[1] += 1


def check_coverage(
    name: str, text: str, offsets: Sequence[tuple[int, int]], tokenizer: Any
) -> None:
    """Refuse a tokenizer that passes over characters which it does not normalise away.

    Args:
        name: The PLM.
        text: What was tokenized.
        offsets: Of its pieces, those it does not know included.
        tokenizer: A `tokenizers.Tokenizer`.

    Raises:
        PLMError: No piece covers a character of a text that normalisation leaves as it
            is; white space is not counted.
    """
    covered = _covered(len(text), np.array(offsets, dtype=np.int64).reshape(-1, 2))
    if covered.all():
        return
    left = [i for i in np.flatnonzero(~covered) if not text[i].isspace()]
    normalizer = tokenizer.normalizer
    if left and (normalizer is None or normalizer.normalize_str(text) == text):
        raise PLMError(
            f"The tokenizer of the PLM {name} passes over characters, which would "
            "have no teacher.",
            got=f"{text[left[0]]!r} at character {left[0]} of {text!r}",
            wanted="pieces that cover all of a text but its white space",
            remedy="choose another PLM, or correct the pre_tokenizer and "
            "post_processor of its tokenizer.json",
        )


def _covered(length: int, spans: np.ndarray) -> np.ndarray:
    """Which characters lie in a span: (length,) bool."""
    change = np.zeros(length + 1, dtype=np.int64)
    np.add.at(change, spans[:, 0], 1)
    np.add.at(change, spans[:, 1], -1)
    return change.cumsum()[:-1] > 0
