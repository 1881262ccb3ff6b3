"""What a step of training costs on this machine's CPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from espnet_hkd.errors import ConfigError
from espnet_hkd.recipes.parameters import build_model, read_tokens

RATE = 16000


class Work(NamedTuple):
    """What is timed.

    Attributes:
        utterances: Per batch.
        seconds: Of speech in each utterance.
        length: Tokens of each utterance.
        steps: Timed steps; one more, the first, is not timed.
        threads: Of PyTorch.
    """

    utterances: int = 8
    seconds: float = 4.5
    length: int = 14
    steps: int = 3
    threads: int = 1


def measure(config: str, tokens: str, work: Work) -> list[float]:
    """CPU seconds per second of speech, in each timed step.

    Args:
        config: A training YAML.
        tokens: How many there are, or the path of a token list.
        work: What is timed.

    Raises:
        ConfigError: There is nothing to measure, or no such file.
    """
    for name, value in work._asdict().items():
        if value <= 0:
            raise ConfigError(
                f"--{name} leaves nothing to measure",
                got=value,
                wanted="more than 0",
                remedy=f"correct --{name}, or leave it out",
            )
    model = build_model(config, read_tokens(tokens))
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(work.threads)
    samples = int(work.seconds * RATE)
    batch = make_batch(model, work.utterances, samples, work.length)
    timed = steps(model, batch)
    # The first one also allocates.
    next(timed)
    speech = work.utterances * work.seconds
    return [next(timed) / speech for _ in range(work.steps)]


def make_batch(model: Any, utterances: int, samples: int, length: int) -> dict:
    """Noise (B, samples), random labels (B, length), a random teacher if wanted."""
    import torch

    batch = {
        "speech": 0.1 * torch.randn(utterances, samples),
        "speech_lengths": torch.full((utterances,), samples),
        "text": torch.randint(2, model.vocab_size - 1, (utterances, length)),
        "text_lengths": torch.full((utterances,), length),
    }
    if model.teacher_dim is not None:
        # The end of sentence has a teacher, too.
        lengths = torch.full((utterances,), length + 1)
        batch |= {
            "teacher": torch.randn(utterances, length + 1, model.teacher_dim),
            "teacher_lengths": lengths,
            "teacher_mask": torch.ones(utterances, length + 1, dtype=torch.long),
            "teacher_mask_lengths": lengths,
        }
    return batch


def steps(model: Any, batch: dict) -> Iterator[float]:
    """Train without end; the CPU time of each step in seconds."""
    import torch

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    while True:
        started = time.process_time()
        optimizer.zero_grad()
        loss, _, _ = model(**batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield time.process_time() - started
