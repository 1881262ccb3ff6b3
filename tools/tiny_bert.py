#!/usr/bin/env python3
"""Write a tiny untrained BERT for one's own text, to stand in for a real teacher.

    tools/tiny_bert.py --text sentences.txt --out tiny_bert
    ./run.sh --plm "$PWD/tiny_bert" --asr_args "--model_conf teacher_dim=128"

For trials of a recipe where no published model is at hand: it knows nothing. Its
vocabulary is the characters of the text, with a fast tokenizer, as in BERT for Chinese;
it is loaded like any other PLM.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from espnet_hkd.bin.command import Parser
from espnet_hkd.recipes.corpus import read_lines

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CHINESE = "\u2e80"  # from here on, a character is a word


def get_parser() -> Parser:
    """The command line, with defaults."""
    parser = Parser("tiny_bert.py", __doc__)
    parser.add_argument("--text", type=Path, required=True, help="one text a line")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--width", type=int, default=128, help="of the states")
    parser.add_argument("--positions", type=int, default=128, help="longest text")
    return parser


def characters(texts: Iterable[str]) -> list[str]:
    """Each character of the texts; those of words also as their continuation."""
    known = sorted({character for text in texts for character in text} - {" "})
    return [*known, *(f"##{each}" for each in known if each < CHINESE)]


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


def save_bert(folder: Path, tokenizer: Any, *, width: int, positions: int) -> Path:
    """Write an untrained BERT of two layers as transformers' AutoModel reads it."""
    import torch
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=positions,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    with parser.report_errors():
        tokenizer = make_tokenizer(characters(read_lines(args.text)))
        save_bert(args.out, tokenizer, width=args.width, positions=args.positions)
        print(f"{args.out}: {tokenizer.get_vocab_size()} pieces, {args.width} wide")


if __name__ == "__main__":
    main()
