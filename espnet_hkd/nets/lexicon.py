"""Pronunciations under the tokens: a CTC loss inside the encoder, for training only.

Letters: B utterances, T encoder frames, U tokens, D encoder width, P symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from espnet_hkd.errors import ConfigError

# Stands for a token without pronunciation, such as <unk>.
SILENT = -1


class LexiconCTC(torch.nn.Module):
    """CTC of the symbols that the tokens are pronounced with, on an inner layer.

    Few words are frequent enough to be learnt as wholes; their sounds are. A finer
    unit below a coarser one speeds training up and corrects counts, as several levels
    of CIF do in M-CIF (arXiv 2510.22172). Decoding does not use it.

    Args:
        lexicon: File of lines "TOKEN SYMBOL SYMBOL ...".
        token_list: All tokens of the model. Those in angle brackets need no line.
        size: D.
        dropout_rate: Dropout before the linear layer.

    Raises:
        ConfigError: The file cannot be read, has a line without symbols or two for a
            token, or lacks a token.
    """

    table: torch.Tensor

    def __init__(
        self,
        lexicon: str | Path,
        token_list: Sequence[str],
        size: int,
        *,
        dropout_rate: float = 0.1,
    ) -> None:
        super().__init__()
        pronounced = read_lexicon(lexicon)
        missing = [
            token
            for token in token_list
            if token not in pronounced and not token.startswith("<")
        ]
        if missing:
            shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
            raise ConfigError(
                f"the lexicon {lexicon} lacks tokens of the model",
                got=f"no line for {len(missing)} of {len(token_list)}: {shown}",
                wanted="a line TOKEN SYMBOL SYMBOL ... for each token of the list",
                remedy="add the lines, or set `lexicon: null` in model_conf",
            )
        pronunciations = [pronounced.get(token, []) for token in token_list]
        self.symbols = sorted({symbol for word in pronunciations for symbol in word})
        number = {symbol: at for at, symbol in enumerate(self.symbols, start=1)}
        longest = max(map(len, pronunciations), default=0)
        table = torch.full((len(pronunciations), max(longest, 1)), SILENT)
        for row, word in zip(table, pronunciations, strict=True):
            row[: len(word)] = torch.tensor([number[symbol] for symbol in word])
        # Made from the file, so not a weight.
        self.register_buffer("table", table, persistent=False)
        self.dropout = torch.nn.Dropout(dropout_rate)
        self.linear = torch.nn.Linear(size, len(self.symbols) + 1)

    def forward(
        self, hidden: torch.Tensor, lengths: torch.Tensor, text: torch.Tensor
    ) -> torch.Tensor:
        """Sum of the CTC losses of a batch.

        Utterances with an unpronounced token, or with more symbols than frames, add
        nothing.

        Args:
            hidden: (B, T, D) frames of an inner layer.
            lengths: (B,) valid frames.
            text: (B, U) token numbers, padded with -1.
        """
        symbols = self.table[text.clamp(min=0)]  # (B, U, longest)
        symbols = symbols.masked_fill((text < 0)[..., None], SILENT)
        known = ((symbols != SILENT).any(-1) | (text < 0)).all(-1)  # (B,)
        valid = symbols.flatten(1) != SILENT  # (B, U * longest)
        valid = valid & known[:, None]
        # Gaps go to the end of each row: to leave them out is to wait for their number.
        order = (~valid).long().argsort(dim=1, stable=True)
        labels = symbols.flatten(1).clamp(min=0).gather(1, order)
        logits = self.linear(self.dropout(hidden))
        with torch.autocast(hidden.device.type, enabled=False):
            losses = torch.nn.functional.ctc_loss(
                logits.float().log_softmax(-1).transpose(0, 1),  # (T, B, P + 1)
                labels,
                lengths.to(labels.device),
                valid.sum(-1),
                reduction="none",
                zero_infinity=True,
            )
        return losses.masked_fill(~known, 0.0).sum()


def read_lexicon(path: str | Path) -> dict[str, list[str]]:
    """Read lines "TOKEN SYMBOL SYMBOL ..."; empty lines are passed over.

    Raises:
        ConfigError: The file cannot be read, or a line says nothing or contradicts an
            earlier one.
    """
    try:
        # Not splitlines(), which also cuts at characters that a token may be.
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the lexicon {path}",
            got=f"{type(error).__name__}: {error}",
            wanted="a UTF-8 text with lines TOKEN SYMBOL SYMBOL ...",
            remedy="correct model_conf.lexicon, or set it to null",
        ) from error
    pronounced: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        token, *symbols = line.split() or [""]
        if not token:
            continue
        if not symbols or pronounced.setdefault(token, symbols) != symbols:
            raise ConfigError(
                f"line {number} of the lexicon {path} cannot be used",
                got=line.strip(),
                wanted="TOKEN SYMBOL SYMBOL ..., one pronunciation for each token",
                remedy="keep the commonest pronunciation of the token",
            )
    return pronounced
