"""Which words are wrong, by how often they stand in the text that was trained on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from espnet_hkd.compare.align import align_reference
from espnet_hkd.compare.read import EvalSet

# Least and most occurrences.
FREQUENCIES: dict[str, tuple[float, float]] = {
    "never": (0, 0),
    "1-3 times": (1, 3),
    "over 3 times": (4, math.inf),
}


def wrong_by_frequency(
    eval_set: EvalSet, training: Iterable[Iterable[str]]
) -> dict[str, tuple[int, list[int]]]:
    """Count wrong tokens of the references by their frequency in training.

    A token is wrong where another stands for it or none. Insertions belong to no token
    of a reference and are not counted.

    Args:
        eval_set: From `read_eval_set`.
        training: Tokens of each training utterance, in the same unit and case.

    Returns:
        For each of `FREQUENCIES` how many tokens the references have of it, and how
        many of them each system has wrong.
    """
    seen = Counter(token for utterance in training for token in utterance)
    tokens = Counter(token for words in eval_set.references for token in words)
    wrong = [Counter[str]() for _ in eval_set.systems]
    for system, counter in zip(eval_set.systems, wrong, strict=True):
        for pair in zip(eval_set.references, system.hypotheses, strict=True):
            counter.update(
                step.reference
                for step in align_reference(*pair)
                if step.reference is not None and step.reference != step.hypothesis
            )
    found = {}
    for name, (least, most) in FREQUENCIES.items():
        members = [token for token in tokens if least <= seen[token] <= most]
        found[name] = (
            sum(tokens[token] for token in members),
            [sum(counter[token] for token in members) for counter in wrong],
        )
    return found
