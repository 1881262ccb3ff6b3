"""Loading weights into a model: what must fit, and a word about what was taken."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from espnet_hkd.errors import CheckpointError, some

logger = logging.getLogger(__name__)

# What only training needs: a checkpoint may lack it, and nothing else.
HEADS = (
    "kd_acd.",
    "kd_lrd.",
    "kd_means.",
    "kd_pseudo.",
    "lexicon_ctc.",
    "training_steps",
)


def check_weights(model: Any, state_dict: Mapping[str, torch.Tensor]) -> None:
    """Check that weights fit a CIF model; only heads of training may be missing.

    Raises:
        CheckpointError: For missing, surplus or differently shaped weights.
    """
    own = model.state_dict()
    missing = [
        key for key in own if key not in state_dict and not key.startswith(HEADS)
    ]
    surplus = [key for key in state_dict if key not in own]
    shaped = [
        f"{key} {tuple(state_dict[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state_dict and state_dict[key].shape != own[key].shape
    ]
    if shaped:
        raise CheckpointError(
            "the checkpoint's weights have other shapes than the configuration's",
            got=some(shaped),
            wanted=f"a checkpoint for {model.vocab_size} tokens and these sizes",
            remedy="use the config.yaml and token list that were written beside "
            "this checkpoint; with --init_param, --ignore_init_mismatch true trains "
            "these weights anew",
        )
    if missing or surplus:
        raise CheckpointError(
            "checkpoint and configuration name different weights",
            got=f"missing: {some(missing)}; surplus: {some(surplus)}",
            wanted="every weight of the configured model, and no other; only "
            "those of heads that only training needs may be missing",
            remedy="use the config.yaml that was written beside this checkpoint"
            + _more_remedies(missing, surplus),
        )


def _more_remedies(missing: list[str], surplus: list[str]) -> str:
    if any("lora_" in key for key in surplus):
        return ", with --use_adapter true"
    if len(missing) > len(surplus):
        return ", trained with --save_strategy all"
    return (
        "; to begin with a part of another model, such as ESPnet's Conformer, name the "
        "part: --init_param FILE:encoder:encoder FILE:ctc:ctc"
    )


def announce_loading(model: torch.nn.Module) -> None:
    """Log from now on which parts of a model, or of one of its parts, are loaded.

    ESPnet's `--init_param FILE:SRC:DST` fills up with the model's own weights what
    the file does not have, says nothing of it, and is content with a SRC that the file
    does not have at all.
    """
    for name, module in (("the model", model), *model.named_children()):
        module.register_load_state_dict_pre_hook(functools.partial(_announce, name))


def _announce(
    name: str,
    module: torch.nn.Module,
    state_dict: Mapping[str, torch.Tensor],
    prefix: str,
    *_: Any,
) -> None:
    if prefix:
        # Loaded as a part of the model, which speaks for it.
        return
    taken, all_ = Counter[str](), Counter[str]()
    for key, value in module.state_dict().items():
        part = key.partition(".")[0]
        all_[part] += 1
        # What ESPnet fills up with is the module's own memory.
        given = state_dict.get(key)
        taken[part] += given is not None and given.data_ptr() != value.data_ptr()
    if not all_:
        return
    if not taken.total():
        logger.warning("nothing of %s was in the checkpoint: it stays as it was", name)
        return
    counts = ", ".join(
        part if taken[part] == all_[part] else f"{part} ({taken[part]} of {count})"
        for part, count in all_.items()
        if taken[part]
    )
    kept = ", ".join(part for part in all_ if not taken[part])
    logger.info(
        "%s takes %d of %d weights from the checkpoint: %s; as they were: %s",
        name,
        taken.total(),
        all_.total(),
        counts,
        kept or "none",
    )
