"""Mean and deviation of a store's states, dimension by dimension.

In the inner layers of a language model a few dimensions hold nearly all of the variance
(in SmolLM2's layer 15 three of 576 hold 98 %). A squared error or a cosine of the raw
states sees these alone; standardised states give every dimension the same say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Rows in float64 at a time.
_ROWS = 1 << 15
# Pieces that are enough to know mean and deviation to a percent; of larger stores so
# many are read, evenly spread, so that a text can be added in seconds.
SAMPLE = 1 << 16
# Below this share of the mean deviation a dimension is constant but for rounding.
_CONSTANT = 1e-4


@dataclass(frozen=True)
class Moments:
    """Mean (E,) and standard deviation (E,) over pieces, end tokens included."""

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, states: Iterable[np.ndarray]) -> Moments:
        """Of arrays (S, E) of any dtype, in float64; one array at least.

        Two passes over each block, so that a mean far from zero costs no digits
        (Chan et al., Updating formulae for sample variances, 1979).
        """
        count, mean, squares = 0, np.zeros(()), np.zeros(())
        for array in states:
            mean, squares = mean + np.zeros(array.shape[1]), squares + 0.0
            for first in range(0, len(array), _ROWS):
                block = np.asarray(array[first : first + _ROWS], dtype=np.float64)
                own = block.mean(axis=0)
                apart = own - mean
                share = len(block) / (count + len(block))
                squares = squares + ((block - own) ** 2).sum(axis=0)
                squares = squares + apart**2 * count * share
                mean = mean + apart * share
                count += len(block)
        deviation = np.sqrt(squares / max(count, 1)) + 0.0 * mean
        return cls(mean.astype(np.float32), deviation.astype(np.float32))

    @classmethod
    def of_sample(cls, states: Sequence[np.ndarray]) -> Moments:
        """Of arrays (S, E), of every n-th row where they have more than `SAMPLE`."""
        total = sum(len(array) for array in states)
        step = max(1, -(-total // SAMPLE))
        return cls.of(array[::step] for array in states)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Moments:
        return cls(
            np.array(record["mean"], dtype=np.float32),
            np.array(record["deviation"], dtype=np.float32),
        )

    def to_json(self) -> dict[str, list[float]]:
        # Nine digits are a float32 to the last bit.
        return {
            "mean": [float(f"{value:.9g}") for value in self.mean],
            "deviation": [float(f"{value:.9g}") for value in self.deviation],
        }

    def standardise(self, states: np.ndarray) -> np.ndarray:
        """States (..., E) with mean 0 and deviation 1; constant dimensions become 0."""
        constant = self.deviation <= _CONSTANT * self.deviation.mean()
        scale = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, self.deviation))
        return ((states - self.mean) * scale).astype(np.float32)

    def variance_share(self, dimensions: int) -> float:
        """Share of the variance that so many dimensions hold, the largest first."""
        variance = np.sort(self.deviation.astype(np.float64) ** 2)[::-1]
        return float(variance[:dimensions].sum() / max(variance.sum(), 1e-30))
