"""Show a teacher store's facts, verify it, and print one sentence aligned.

    espnet-hkd inspect-teacher data/teacher --token_type bpe \
        --bpemodel data/token_list/bpe_unigram30/bpe.model --text "HELLO WORLD"

Each line of the table is a student token with the pieces that teach it, shown by the
characters they cover, and their weights.

With --texts, the training set's text, it says what the store can teach: how much of the
states' variance the piece itself explains (which cross entropy teaches already), what
the piece before it adds, and what is common to a sentence.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_hkd.bin.command import Parser, Switch

if TYPE_CHECKING:
    import numpy as np

    from espnet_hkd.errors import DataError
    from espnet_hkd.teacher.store import TeacherStore


def get_parser() -> Parser:
    """The command line, with defaults."""
    parser = Parser("espnet-hkd inspect-teacher", __doc__)
    parser.add_argument("store", help="folder of the store")
    parser.add_argument(
        "--texts", nargs="+", help="Kaldi text files in the store: what it can teach"
    )
    parser.add_argument(
        "--most", type=int, default=4000, help="texts of --texts that are looked at"
    )
    parser.add_argument("--text", help="a transcript; None: one the store names")
    parser.add_argument(
        "--token_type",
        choices=["char", "bpe", "word"],
        help="None: word where the text has spaces, else char",
    )
    parser.add_argument("--bpemodel", help="sentencepiece model, for bpe")
    parser.add_argument("--nlsyms", help="file of non-linguistic symbols")
    parser.add_argument("--token_list", help="tokens.txt, to know what is <unk>")
    parser.add_argument(
        "--verify",
        action=Switch,
        default=True,
        help="read all of it and compare digests",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    if args.token_type == "bpe" and not args.bpemodel:
        parser.error("--token_type bpe needs --bpemodel")
    from espnet_hkd.teacher.show import describe
    from espnet_hkd.teacher.store import TeacherStore

    with parser.report_errors():
        store = TeacherStore.open(args.store)
        print(describe(store))
        if args.verify:
            store.verify()
            print("verified:  every shard is as it was written")
        if args.texts:
            print()
            print(_shares(store, args))
        text = args.text if args.text is not None else store.example
        if text:
            print()
            print(_aligned(store, text, args))


def _shares(store: TeacherStore, args: argparse.Namespace) -> str:
    from espnet_hkd.teacher.shares import describe_shares
    from espnet_hkd.teacher.text import read_transcripts

    texts = read_transcripts(args.texts, cleaner=store.settings.cleaner).texts
    return describe_shares(store, texts[: args.most])


def _aligned(store: TeacherStore, text: str, args: argparse.Namespace) -> str:
    from espnet_hkd.errors import printable
    from espnet_hkd.teacher.align import align
    from espnet_hkd.teacher.show import alignment_table
    from espnet_hkd.teacher.text import build_cleaner, canonical_text

    text = canonical_text(build_cleaner(store.settings.cleaner)(text))
    entry = store[text]
    token_type = args.token_type or ("word" if " " in text else "char")
    tokens, spans, unknown = _tokens(text, token_type, args)
    alignment = align(spans, entry.spans, unknown=unknown)
    return (
        f"{printable(text)}\n\n{alignment_table(text, tokens, entry.spans, alignment)}"
    )


def _tokens(
    text: str, token_type: str, args: argparse.Namespace
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Student tokens (U - 1), their spans, and which of them are `<unk>`."""
    import numpy as np

    from espnet_hkd.teacher.align import place_bpe, place_tokens

    symbols = _lines(args.nlsyms)
    if token_type == "bpe":
        import sentencepiece

        # Its methods are made at run time, out of sight of a type checker.
        processor: Any = sentencepiece.SentencePieceProcessor()
        try:
            processor.load(args.bpemodel)
        except (OSError, RuntimeError) as error:
            raise _unreadable("BPE model", args.bpemodel, error) from error
        tokens = processor.encode(text, out_type=str)
        spans = place_bpe(text, tokens, processor, symbols=symbols)
    else:
        from espnet2.text.char_tokenizer import CharTokenizer

        tokens = (
            text.split(" ")
            if token_type == "word"
            else CharTokenizer(non_linguistic_symbols=symbols).text2tokens(text)
        )
        spans = place_tokens(text, tokens, symbols=symbols)
    known = set(_lines(args.token_list))
    unknown = [bool(known) and token not in known for token in tokens]
    return tokens, spans, np.array(unknown, dtype=bool)


def _lines(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable("list of symbols", path, error) from error


def _unreadable(what: str, path: str, error: Exception) -> DataError:
    from espnet_hkd.errors import DataError

    return DataError(
        f"The {what} {path} cannot be read.",
        got=str(error).splitlines()[0],
        wanted="a file of the recipe, in data/token_list or data/nlsyms.txt",
        remedy="run the recipe's stage 5 first, or correct the path",
    )


if __name__ == "__main__":
    main()
