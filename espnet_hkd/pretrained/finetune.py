"""Training that starts from a packed model, whatever the token list of the corpus.

ESPnet's `--init_param FILE` takes a checkpoint whose weights all fit. Here it also
takes what `espnet_hkd.from_pretrained` takes (a zip, a folder, a hub name), and where
the token lists differ each token that both have keeps its row in the embedding, in the
output layer and in CTC. Nothing is left out in silence: the training log says what was
taken and what starts afresh.
"""

from __future__ import annotations

import logging
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from espnet_hkd.errors import CheckpointError
from espnet_hkd.nets.loading import HEADS
from espnet_hkd.pretrained.files import read_weights
from espnet_hkd.pretrained.packed import PackedModel, open_packed

logger = logging.getLogger(__name__)

# One row for each token.
BY_TOKEN = (
    "decoder.embed.weight",
    "decoder.output_layer.weight",
    "ctc.ctc_lo.weight",
    "ctc.ctc_lo.bias",
)


class Transfer(NamedTuple):
    """What a model got from another: names of weights, and tokens.

    `fresh` weights and tokens keep the values the model was made with; `unused` are
    the other model's that this one has no place for.
    """

    whole: list[str]
    by_token: list[str]
    fresh: list[str]
    unused: list[str]
    shared_tokens: list[str]
    fresh_tokens: list[str]
    unused_tokens: list[str]

    def lines(self) -> list[str]:
        """The same in words."""
        parts = Counter(name.split(".")[0] for name in self.whole)
        report = [
            "taken whole: "
            + (
                ", ".join(f"{part} ({n} weights)" for part, n in parts.items())
                or "none"
            )
        ]
        if self.by_token:
            report += [
                f"taken token by token: {', '.join(self.by_token)}: "
                f"{len(self.shared_tokens)} tokens are in both lists",
                f"tokens that start afresh: {_names(self.fresh_tokens)}",
                f"tokens left behind: {_names(self.unused_tokens)}",
            ]
        report.append(f"weights that start afresh: {_names(self.fresh)}")
        report.append(f"weights left behind: {_names(self.unused)}")
        return report


def transfer_weights(
    own: Mapping[str, torch.Tensor],
    own_tokens: Sequence[str],
    weights: Mapping[str, torch.Tensor],
    tokens: Sequence[str],
    *,
    skip: tuple[str, ...] = (),
    ignore_mismatch: bool = False,
) -> tuple[dict[str, torch.Tensor], Transfer]:
    """Join a model's own fresh weights and another model's.

    Args:
        own: The model's weights; those of tokens (V, ...).
        own_tokens: Its V tokens.
        weights: The other model's.
        tokens: The other model's tokens.
        skip: Beginnings of names in `weights` that mean something else there.
        ignore_mismatch: Take what fits where not everything does. Distillation heads
            may always be missing, surplus or of another width, adapters missing.

    Returns:
        Weights named and shaped as in `own`, and what of them was taken.

    Raises:
        CheckpointError: Weights do not fit, and `ignore_mismatch` is false.
    """
    joined = dict(own)
    place = {token: row for row, token in enumerate(tokens)}
    shared = [token for token in own_tokens if token in place]
    whole, by_token, fresh = [], [], []
    for name, value in own.items():
        other = None if name.startswith(skip) else weights.get(name)
        if other is None:
            fresh.append(name)
        elif name in BY_TOKEN and other.shape[1:] == value.shape[1:]:
            rows = [row for row, token in enumerate(own_tokens) if token in place]
            joined[name] = value.clone()
            joined[name][rows] = other[[place[token] for token in shared]].to(value)
            by_token.append(name)
        elif other.shape == value.shape:
            joined[name] = other.to(value)
            whole.append(name)
        else:
            fresh.append(name)
    if list(own_tokens) == list(tokens):
        whole, by_token = whole + by_token, []
    used = {*whole, *by_token}
    transfer = Transfer(
        whole,
        by_token,
        fresh,
        [name for name in weights if name not in used],
        shared,
        [token for token in own_tokens if token not in place],
        [token for token in tokens if token not in set(own_tokens)],
    )
    if not ignore_mismatch:
        _check_all_fits(transfer, own, weights)
    return joined, transfer


def _check_all_fits(
    transfer: Transfer,
    own: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor],
) -> None:
    # Adapters are added to what is taken.
    missing = [
        name
        for name in transfer.fresh
        if not name.startswith(HEADS) and "lora_" not in name and "adapter" not in name
    ]
    surplus = [name for name in transfer.unused if not name.startswith(HEADS)]
    shaped = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in missing
        if name in surplus
    ]
    if missing or surplus:
        raise CheckpointError(
            "the pretrained model does not fit the training configuration",
            got=f"of other shape: {_names(shaped)}; missing: "
            f"{_names([n for n in missing if n not in surplus])}; surplus: "
            f"{_names([n for n in surplus if n not in missing])}",
            wanted="the same frontend, normalisation, encoder and decoder; tokens and "
            "distillation heads may differ",
            remedy="copy these sections from the packed config.yaml; or give "
            "--ignore_init_mismatch true to train afresh what does not fit",
        )


def init_from(
    model: Any, name: str | Path, *, ignore_mismatch: bool = False
) -> Transfer:
    """Set a CIF model's weights to a packed model's, as `transfer_weights` does.

    Args:
        model: A CIFASRModel.
        name: What `espnet_hkd.pretrained.packed.open_packed` takes.
        ignore_mismatch: As for `transfer_weights`.

    Raises:
        CheckpointError: There is no such model, it is damaged, or does not fit.
    """
    packed = open_packed(name)
    config = packed.read_config()
    # A Transformer's embedding and output layer may have our names and shapes.
    skip = () if config.get("decoder") == "hkd_cif_transformer" else ("decoder.",)
    joined, transfer = transfer_weights(
        model.state_dict(),
        model.token_list,
        read_weights(packed.weights),
        _tokens(config, packed),
        skip=skip,
        ignore_mismatch=ignore_mismatch,
    )
    model.load_state_dict(joined)
    for line in transfer.lines():
        logger.info("pretrained model %s: %s", name, line)
    return transfer


def _tokens(config: Mapping[str, Any], packed: PackedModel) -> list[str]:
    tokens = config.get("token_list")
    if not isinstance(tokens, list | tuple) or not tokens:
        raise CheckpointError(
            f"{packed.config} has no token list",
            got=f"token_list: {tokens!r}"[:200],
            wanted="the config.yaml that training wrote",
            remedy="put it beside the checkpoint",
        )
    return list(tokens)


def _names(names: Sequence[str]) -> str:
    return textwrap.shorten(", ".join(names) or "none", 300, placeholder=" ...")
