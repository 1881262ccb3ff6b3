"""Options of one call of the recogniser, checked and filled in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from espnet_hkd.checks import is_number, is_whole
from espnet_hkd.errors import ConfigError, SearchError
from espnet_hkd.nets.scoring import ScoringOptions
from espnet_hkd.recognize.search import SearchWeights

LANGUAGE_MODELS = {"lm": "a language model", "ngram": "an n-gram model"}
UNLESS_NONE = "or None for the model's"


class Options(NamedTuple):
    """What one call asks for."""

    beam: int
    nbest: int
    weights: SearchWeights
    scoring: ScoringOptions
    batch_seconds: float


def resolve(
    model: Any,
    packed: Mapping[str, Any],
    scorers: Collection[str],
    *,
    beam: Any = 10,
    nbest: Any = 1,
    ctc_weight: Any = None,
    lm_weight: Any = None,
    ngram_weight: Any = None,
    tail: Any = None,
    early_eos: Any = None,
    batch_seconds: Any = 60.0,
) -> Options:
    """Check options, and take those that are None from the model.

    Args:
        model: A `CIFASRModel`.
        packed: The decoding configuration that was packed with it.
        scorers: Names of the language models that were.
        beam: And the following: as `Recognizer.__call__` says.

    Raises:
        ConfigError: One is out of range.
        SearchError: A scorer is asked for that the model does not have.
    """
    if ctc_weight is None:
        ctc_weight = packed.get("ctc_weight", 0.0)
    others = {"lm": lm_weight, "ngram": ngram_weight}
    for name, value in others.items():
        if value is None:
            there = name in scorers
            others[name] = packed.get(f"{name}_weight", 0.0) if there else 0.0
    _check("beam", beam, is_whole(beam) and beam >= 1, "a whole number above 0")
    _check(
        "nbest",
        nbest,
        is_whole(nbest) and 1 <= nbest <= beam,
        f"a whole number from 1 to the beam, {beam}",
    )
    _check(
        "ctc_weight",
        ctc_weight,
        is_number(ctc_weight) and 0 <= ctc_weight < 1,
        f"a number in [0, 1), {UNLESS_NONE}",
    )
    for name, value in others.items():
        _check(
            f"{name}_weight",
            value,
            is_number(value) and 0 <= value < float("inf"),
            f"a number from 0 on, {UNLESS_NONE}",
        )
    _check(
        "tail",
        tail,
        tail is None or (is_number(tail) and 0 <= tail <= 1),
        f"a number in [0, 1], {UNLESS_NONE}",
    )
    _check(
        "early_eos",
        early_eos,
        early_eos is None or isinstance(early_eos, bool),
        f"True, False, {UNLESS_NONE}",
    )
    _check(
        "batch_seconds",
        batch_seconds,
        is_number(batch_seconds) and 0 < batch_seconds < float("inf"),
        "a number above 0",
    )
    if ctc_weight > 0 and model.ctc_weight == 0:
        raise SearchError(
            "CTC scores are asked for and the model has no CTC",
            got=f"ctc_weight {ctc_weight}",
            wanted="ctc_weight 0",
            remedy="call again with ctc_weight=0",
        )
    for name, value in others.items():
        if value > 0 and name not in scorers:
            raise SearchError(
                f"{LANGUAGE_MODELS[name]} is asked for and the model comes without",
                got=f"{name}_weight {value}",
                wanted=f"{name}_weight 0",
                remedy=f"call again with {name}_weight=0, or pack one with the model",
            )
    scoring = model.decoder.options
    if tail is not None:
        scoring = scoring._replace(tail=float(tail))
    if early_eos is not None:
        scoring = scoring._replace(early_eos=early_eos)
    weights = SearchWeights(1.0 - ctc_weight, float(ctc_weight), others)
    beam = min(beam, len(model.token_list))
    return Options(beam, nbest, weights, scoring, float(batch_seconds))


def _check(name: str, value: Any, good: bool, wanted: str) -> None:
    if not good:
        raise ConfigError(
            f"{name} is out of range",
            got=repr(value),
            wanted=wanted,
            remedy=f"call again with another {name}",
        )
