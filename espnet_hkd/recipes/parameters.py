"""Parameters of a training configuration beside those of the published model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from espnet_hkd.errors import ConfigError

# What the published sizes come to.
PUBLISHED_TOKENS = 4234
PLACEHOLDER = "token{}"
PUBLISHED_WIDTH = 256
PUBLISHED_HEAD = 256 * 768 + 768


class Part(NamedTuple):
    """One row: its name, the prefixes of its parameters, their published number."""

    name: str
    prefixes: tuple[str, ...]
    published: int | None = None


PUBLISHED = (
    Part(
        "encoder: convolution and two linear layers",
        ("encoder.front.", "encoder.linear_front.", "encoder.linear_scaled."),
        1_345_280,
    ),
    Part("encoder: Conformer layers", ("encoder.layers.",), 15 * 2_634_496),
    Part("CTC", ("ctc.",), 1_088_138),
    Part("CIF: convolution", ("decoder.weight_predictor.conv.",), 196_864),
    Part("CIF: weight", ("decoder.weight_predictor.linear.",), 257),
    Part("decoder: embedding", ("decoder.embed.",), 1_083_904),
    Part("decoder: input of token and CIF vector", ("decoder.linear_in.",), 131_072),
    Part("decoder: self-attention layers", ("decoder.layers.",), 2 * 1_315_072),
    Part("decoder: final norm", ("decoder.norm_out.",), 512),
    Part("decoder: merge of state and CIF vector", ("decoder.linear_merge.",), 131_072),
    Part("decoder: vocabulary", ("decoder.output_layer.",), 1_083_904),
)
HEADS = (
    Part("acoustic distillation", ("kd_acd.",), PUBLISHED_HEAD),
    Part("linguistic distillation", ("kd_lrd.",), PUBLISHED_HEAD),
)
# Parts with one row or column, and one bias in CTC, for each token.
OF_TOKENS = {"CTC": 257, "decoder: embedding": 256, "decoder: vocabulary": 256}


def read_tokens(given: str) -> list[str]:
    """A token list of that many tokens, or that of a file."""
    if given.isdigit() and int(given) >= 3:
        names = [PLACEHOLDER.format(number) for number in range(int(given) - 3)]
        return ["<blank>", "<unk>", *names, "<sos/eos>"]
    if not Path(given).is_file():
        raise ConfigError(
            "--tokens is neither a number nor a file",
            got=given,
            wanted="a whole number, at least 3, or data/*/token_list/*/tokens.txt",
            remedy="correct --tokens, or run the recipe's stage 5 first",
        )
    # Not splitlines(), which also cuts at characters that a token may be.
    return Path(given).read_text(encoding="utf-8").rstrip("\n").split("\n")


def build_model(config: str, tokens: list[str]) -> Any:
    """The model as espnet2.bin.asr_train would build it, weights at random."""
    from espnet2.tasks.asr import ASRTask

    import espnet_hkd

    espnet_hkd.register()
    if not Path(config).is_file():
        raise ConfigError(
            "there is no such configuration",
            got=config,
            wanted="a training configuration, conf/train_asr_*.yaml",
            remedy="correct the path",
        )
    args = ASRTask.get_parser().parse_args(["--config", config])
    args.token_list = tokens
    if PLACEHOLDER.format(0) in tokens:
        # Tokens without a name have no pronunciation.
        args.model_conf = {**args.model_conf, "lexicon": None}
    # It has no parameters, and asr.sh's choice would ask for stage 10's statistics.
    args.normalize = None
    return ASRTask.build_model(args)


def count(model: Any) -> dict[str, int]:
    """Numbers of every parameter, by name."""
    return {name: p.numel() for name, p in model.named_parameters()}


def table(model: Any) -> list[str]:
    """The rows, their sum, and what differs from the published model."""
    counted = count(model)
    published = type(model.encoder).__name__ == "PooledConformerEncoder"
    parts = [*PUBLISHED, *(part for part in HEADS if _sum(counted, part))]
    known = {
        name for part in parts for name in counted if name.startswith(part.prefixes)
    }
    others = sorted(
        {".".join(name.split(".")[:2]) for name in counted if name not in known}
    )
    rows = [Part(name, (f"{name}.",)) for name in others]
    rows += [part for part in parts if published or _sum(counted, part)]
    total = sum(_sum(counted, part) for part in rows)
    assert total == sum(counted.values()), "a parameter is in two rows or in none"

    lines = [f"{'part':<44}{'here':>12}" + f"{'published':>12}" * published]
    notes = []
    for part in rows:
        here = _sum(counted, part)
        line = f"{part.name:<44}{here:>12,}"
        if published and part.published is not None:
            line += f"{part.published:>12,}"
            if here != part.published:
                notes.append(_explain(part, here, model))
        lines.append(line)
    line = f"{'all':<44}{total:>12,}"
    if published:
        theirs = sum(part.published or 0 for part in rows)
        line += f"{theirs:>12,}"
        if any(part in HEADS for part in rows):
            without = sum(part.published or 0 for part in PUBLISHED)
            notes.append(
                f"distillation: published are three heads, {without:,} + 3 x "
                f"{PUBLISHED_HEAD:,} in all; the third is in no loss and left out here"
            )
    return [*lines, line, *(f"differs: {note}" for note in notes)]


def _sum(counted: dict[str, int], part: Part) -> int:
    return sum(n for name, n in counted.items() if name.startswith(part.prefixes))


def _explain(part: Part, here: int, model: Any) -> str:
    """Why a part is larger or smaller than published."""
    assert part.published is not None
    difference = f"{part.name} ({here - part.published:+,})"
    tokens = model.vocab_size
    width = model.encoder.output_size()
    by_tokens = (tokens - PUBLISHED_TOKENS) * OF_TOKENS.get(part.name, 0)
    if here == 0:
        return f"{difference}: the configuration has none"
    if by_tokens and here - part.published == by_tokens:
        return f"{difference}: {tokens:,} tokens, published {PUBLISHED_TOKENS:,}"
    if width != PUBLISHED_WIDTH:
        return f"{difference}: width {width}, published {PUBLISHED_WIDTH}"
    if part in HEADS:
        return f"{difference}: teacher_dim {model.teacher_dim}, published 768"
    return f"{difference}: the configuration's sizes are not the published ones"
