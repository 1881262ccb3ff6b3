#!/usr/bin/env python3
"""Train a tiny BERT by masking on one's own text, to stand in for a real teacher.

    tools/tiny_bert.py --text sentences.txt --out tiny_bert
    ./run.sh --plm "$PWD/tiny_bert" --asr_args "--model_conf teacher_dim=128"

For trials of a recipe where no published model is at hand: it takes minutes on one
core and knows no more than the text. Its vocabulary is the characters of the text, with
a fast tokenizer, as in BERT for Chinese; it is loaded like any other PLM.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from espnet_hkd.errors import ConfigError, HKDError
from espnet_hkd.recipes.corpus import read_lines

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CHINESE = "\u2e80"  # from here on, a character is a word
MASKED = 0.15  # share of the characters to guess, as in BERT


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--text", type=Path, required=True, help="one text a line")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=2000, help="updates")
    parser.add_argument("--batch-size", type=int, default=64, help="texts an update")
    parser.add_argument("--width", type=int, default=128, help="of the states")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--positions", type=int, default=128, help="longest text")
    parser.add_argument("--lr", type=float, default=1e-3, help="at the first update")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def make_tokenizer(pieces: Iterable[str]) -> Any:
    """A fast tokenizer of `tokenizers` that cuts words into these pieces.

    Chinese characters are words of their own, and case is kept, as in BERT for Chinese.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {piece: n for n, piece in enumerate([*SPECIALS, *pieces])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write it as transformers' AutoTokenizer reads it."""
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)


def characters(texts: Iterable[str]) -> list[str]:
    """Each character of the texts; those of words also as their continuation."""
    known = sorted({character for text in texts for character in text} - {" "})
    return [*known, *(f"##{each}" for each in known if each < CHINESE)]


def make_model(vocabulary: int, *, width: int, layers: int, positions: int) -> Any:
    """An untrained masked language model."""
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=4 * width,
            max_position_embeddings=positions,
        )
    )


def mask(
    ids: torch.Tensor, vocabulary: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model sees, and where it has to guess what was there; (B, L) each.

    As in BERT: of the characters to guess, 80 % are masked, 10 % are random ones, and
    10 % stay as they are.
    """
    chance = torch.rand(ids.shape, generator=generator)
    guessed = (chance < MASKED) & (ids >= len(SPECIALS))
    seen = ids.clone()
    seen[guessed & (chance < 0.8 * MASKED)] = SPECIALS.index("[MASK]")
    other = guessed & (chance >= 0.9 * MASKED)
    random = torch.randint(len(SPECIALS), vocabulary, ids.shape, generator=generator)
    seen[other] = random[other]
    return seen, guessed


def guess(
    model: Any, ids: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, V) and characters (N,) at the places that are masked in ids (B, L)."""
    seen, guessed = mask(ids, model.config.vocab_size, generator)
    states = model.bert(seen, attention_mask=(ids > 0).long()).last_hidden_state
    # Only there: the vocabulary is what takes the time.
    return model.cls(states[guessed]), ids[guessed]


def batches(
    rows: Sequence[Sequence[int]], size: int, steps: int, generator: torch.Generator
) -> Iterable[torch.Tensor]:
    """Random rows (B, L), padded with 0."""
    for _ in range(steps):
        chosen = torch.randint(len(rows), (size,), generator=generator).tolist()
        tensors = [torch.tensor(rows[index]) for index in chosen]
        yield torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)


@torch.inference_mode()
def accuracy(model: Any, rows: Sequence[Sequence[int]]) -> float:
    """Share of the masked characters of up to 512 rows that the model guesses."""
    tensors = [torch.tensor(row) for row in rows[:512]]
    ids = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
    logits, wanted = guess(model.eval(), ids, torch.Generator().manual_seed(0))
    return (logits.argmax(-1) == wanted).sum().item() / max(len(wanted), 1)


def train(
    texts: Sequence[str],
    out: Path,
    *,
    steps: int = 2000,
    batch_size: int = 64,
    width: int = 128,
    layers: int = 2,
    positions: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
) -> float:
    """Train on the texts and write the model.

    Returns:
        The share of masked characters it guesses in texts that were held out: one of
        twenty, and longer ones than it has positions for are left out altogether.

    Raises:
        ConfigError: There are fewer than twenty texts that fit.
    """
    tokenizer = make_tokenizer(characters(texts))
    rows = [row.ids for row in tokenizer.encode_batch(list(texts))]
    rows = [row for row in rows if 3 <= len(row) <= positions]
    if len(rows) < 20:
        raise ConfigError(
            "A language model needs more text",
            got=f"{len(rows)} texts",
            wanted="20",
            remedy="give a longer --text",
        )
    held_out, rows = rows[::20], [row for n, row in enumerate(rows) if n % 20]
    vocabulary = tokenizer.get_vocab_size()
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = make_model(vocabulary, width=width, layers=layers, positions=positions)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    model.train()
    for ids in batches(rows, batch_size, steps, generator):
        logits, wanted = guess(model, ids, generator)
        if not len(wanted):
            continue
        loss = torch.nn.functional.cross_entropy(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    from transformers.utils import logging

    logging.disable_progress_bar()
    save_tokenizer(tokenizer, out)
    # The encoder alone: what a teacher is asked for.
    model.bert.save_pretrained(out)
    return accuracy(model, held_out)


def main(argv: list[str] | None = None) -> int:
    options = vars(get_parser().parse_args(argv))
    started = time.monotonic()
    out = options.pop("out")
    try:
        guessed = train(read_lines(options.pop("text")), out, **options)
    except HKDError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 1
    print(
        f"{out}: guesses {guessed:.1%} of the masked characters of texts it was not "
        f"trained on, after {time.monotonic() - started:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
