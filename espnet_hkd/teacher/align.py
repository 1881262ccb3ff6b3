"""Student tokens <-> PLM pieces, by the characters they share.

Everything is placed on the canonical text (`teacher.text`). A student token's teacher
is the mean of the pieces it overlaps, weighted by shared characters; eos takes the
PLM's end token. `<space>` and non-linguistic symbols overlap nothing, and neither does
a piece the PLM does not know, whose span is empty.

    tokens   H E L L O <space> W O R L D S <eos>
    pieces   [ hello  ]       [ world  ][s] [SEP]
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from espnet_hkd.errors import AlignmentError
from espnet_hkd.teacher.text import canonical_positions, canonical_text

TOKEN_TYPES = ("char", "bpe", "word")
END_SPAN = (-1, -1)


@dataclass(frozen=True)
class Alignment:
    """Which pieces teach which token.

    Attributes:
        weights: (U, S) float32; the row of a taught token sums to 1, others to 0.
            The last row belongs to eos.
        valid: (U,) bool, True where a token has a teacher.
    """

    weights: np.ndarray
    valid: np.ndarray

    def teacher(self, states: np.ndarray) -> np.ndarray:
        """Teacher states (U, E) float32 from piece states (S, E); zero if not valid."""
        return self.weights @ states.astype(np.float32, copy=False)

    def before(self) -> Alignment:
        """Give every token the piece before its own first one.

        There a causal PLM, which reads left to right, holds what it expects to come.
        A token of the first piece has no teacher then.
        """
        first = (self.weights > 0).argmax(axis=1)  # (U,)
        valid = self.valid & (first > 0)
        weights = np.zeros_like(self.weights)
        weights[valid, first[valid] - 1] = 1.0
        return Alignment(weights, valid)


def align(
    token_spans: np.ndarray,
    piece_spans: np.ndarray,
    *,
    unknown: np.ndarray | None = None,
) -> Alignment:
    """Weigh pieces by the characters they share with each token.

    Args:
        token_spans: (U - 1, 2) begin and end of each token, eos not among them.
        piece_spans: (S, 2), the end token with (-1, -1) if the PLM has one.
        unknown: (U - 1,) bool, True where the token is `<unk>` to the student.
    """
    begins = np.maximum(token_spans[:, None, 0], piece_spans[None, :, 0])  # (U-1, S)
    ends = np.minimum(token_spans[:, None, 1], piece_spans[None, :, 1])  # (U-1, S)
    weights = np.zeros((len(token_spans) + 1, len(piece_spans)), dtype=np.float32)
    np.maximum(ends - begins, 0, out=weights[:-1], casting="unsafe")
    weights[-1] = piece_spans[:, 0] == END_SPAN[0]
    if unknown is not None:
        weights[:-1][unknown] = 0
    total = weights.sum(axis=1, keepdims=True)  # (U, 1)
    weights /= np.maximum(total, 1)
    return Alignment(weights, total[:, 0] > 0)


def place_tokens(
    text: str,
    tokens: Sequence[str],
    *,
    symbols: Collection[str] = (),
    space: str = "<space>",
    delimiter: str | None = None,
) -> np.ndarray:
    """Place the tokens of ESPnet's char or word tokenizer.

    Args:
        text: What ESPnet tokenized: cleaned, white space as it was.
        tokens: What came out of it.
        symbols: Non-linguistic symbols, which overlap nothing.
        space: ESPnet's space symbol.
        delimiter: The word tokenizer's, if it is not white space.

    Returns:
        (len(tokens), 2) int64: begin and end in the canonical text.

    Raises:
        AlignmentError: A token is not where it should be, or text is left over.
    """
    spans = np.zeros((len(tokens), 2), dtype=np.int64)
    position = 0
    for index, token in enumerate(tokens):
        literal = (
            " " if token == space and text[position : position + 1] == " " else token
        )
        if not literal.isspace():
            position = _skip(text, position, delimiter)
        end = position + len(literal)
        if text[position:end] != literal:
            raise _misplaced(text, token, index, position)
        if not literal.isspace() and token not in symbols:
            spans[index] = position, end
        position = end
    if _skip(text, position, delimiter) != len(text):
        raise _misplaced(text, None, len(tokens), position)
    return _in_canonical(text, spans)


def place_bpe(
    text: str, tokens: Sequence[str], processor: Any, *, symbols: Collection[str] = ()
) -> np.ndarray:
    """Place sentencepiece's tokens by its own begin and end, for it normalises.

    Args:
        text: What ESPnet tokenized: cleaned, white space as it was.
        tokens: What came out of it.
        processor: The `SentencePieceProcessor` that made them.
        symbols: Non-linguistic symbols, which overlap nothing.

    Returns:
        (len(tokens), 2) int64: begin and end in the canonical text.

    Raises:
        AlignmentError: The processor cuts this text into other tokens.
    """
    proto = processor.encode(text, out_type="immutable_proto")
    spans = np.zeros((len(tokens), 2), dtype=np.int64)
    pieces = list(proto.pieces)
    for index, piece in enumerate(pieces):
        if index >= len(tokens) or piece.piece != tokens[index]:
            token = tokens[index] if index < len(tokens) else None
            raise _misplaced(text, token, index, piece.begin)
        if piece.surface.strip() and piece.piece.lstrip("\u2581") not in symbols:
            spans[index] = piece.begin, piece.end
    if len(pieces) != len(tokens):
        raise _misplaced(text, tokens[len(pieces)], len(pieces), len(text))
    return _in_canonical(text, spans)


def _skip(text: str, position: int, delimiter: str | None) -> int:
    """The first position that is neither white space nor a delimiter."""
    while position < len(text):
        if text[position].isspace():
            position += 1
        elif delimiter and text.startswith(delimiter, position):
            position += len(delimiter)
        else:
            break
    return position


def _in_canonical(text: str, spans: np.ndarray) -> np.ndarray:
    if text == canonical_text(text):
        return spans
    positions = canonical_positions(text)
    moved = positions[spans]
    # The end is where the last character ends, not where the next one begins: white
    # space may lie between the two.
    filled = spans[:, 1] > spans[:, 0]
    moved[filled, 1] = positions[spans[filled, 1] - 1] + 1
    return moved


def _misplaced(
    text: str, token: str | None, index: int, position: int
) -> AlignmentError:
    if token is None:
        problem = f"The student's {index} tokens end before the text {text!r} does."
    else:
        problem = f"Token {index}, {token!r}, cannot be placed on the text {text!r}."
    return AlignmentError(
        problem,
        got=f"{text[position : position + 20]!r} at character {position}",
        wanted=f"tokens that spell the text, of a token type among {TOKEN_TYPES}",
        remedy="check that token type, BPE model, cleaner and non-linguistic symbols "
        "are those the token list was made with",
    )
