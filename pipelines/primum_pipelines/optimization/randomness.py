"""Where the randomness of a mechanism comes from: the operating system, or a seed for tests.

torch's CPU generator keeps 32 bits of its seed, so whoever holds a released model could try all
seeds and strip the noise. Released mechanisms therefore draw every sampling coin and every noise
value from the operating system's generator; a seed is for self-tests on toy data and must never be
used on private data.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WORD_BYTES = 8
_MANTISSA_BITS = 53
_SUMMANDS = 4  # Holohan and Braghin 2021, section 5.1: n = 2, that is 2n summands over sqrt(2n).


class RandomSource(Protocol):
    """Draws the coins and the noise of a mechanism."""

    name: str

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Independent uniform values in [0, 1), shape ``(count,)``."""

    def normal(self, count: int) -> NDArray[np.float64]:
        """Independent standard normal values, shape ``(count,)``."""


class OperatingSystemSource:
    """Every value from ``os.urandom``.

    Normal values are sums of four Box-Muller values, halved, in float64: the number of float
    patterns that could explain an observed sum grows so much that Mironov's attack on
    floating-point noise has nothing to enumerate (Holohan and Braghin, *Secure Random Sampling in
    DP*, 2021).
    """

    name = "operating system (os.urandom), sum of four normals"

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Multiples of 2^-53 in [0, 1)."""
        words = np.frombuffer(os.urandom(_WORD_BYTES * count), dtype=np.uint64)
        return (words >> np.uint64(64 - _MANTISSA_BITS)).astype(np.float64) * 2.0**-_MANTISSA_BITS

    def normal(self, count: int) -> NDArray[np.float64]:
        """Box-Muller on OS randomness; 1 - u keeps the logarithm away from zero."""
        pairs = (count * _SUMMANDS + 1) // 2
        radius = np.sqrt(-2.0 * np.log(1.0 - self.uniform(pairs)))
        angle = (2.0 * math.pi) * self.uniform(pairs)
        values = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        summands = values[: count * _SUMMANDS].reshape(_SUMMANDS, count)
        total: NDArray[np.float64] = summands.sum(axis=0) / math.sqrt(_SUMMANDS)
        return total


class SeededSource:
    """Reproducible values for self-tests and tests; never for private data.

    Args:
        seed: Any whole number from 0.
    """

    def __init__(self, seed: int) -> None:
        self.name = "numpy PCG64 with a given seed (not private)"
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Values of the seeded generator."""
        return self._generator.random(count)

    def normal(self, count: int) -> NDArray[np.float64]:
        """Values of the seeded generator."""
        return self._generator.standard_normal(count)


def random_source(seed: int | None) -> RandomSource:
    """The operating system's generator, or a seeded one.

    Args:
        seed: ``None`` for anything that touches private data.
    """
    return OperatingSystemSource() if seed is None else SeededSource(seed)


def normal_like(source: RandomSource, reference: torch.Tensor, *, std: float) -> torch.Tensor:
    """Normal noise with the shape, type and device of a tensor.

    Args:
        source: What draws it.
        reference: Gives shape, type and device.
        std: Standard deviation.
    """
    values = source.normal(reference.numel()) * std
    noise = torch.from_numpy(values).to(device=reference.device, dtype=reference.dtype)
    return noise.view(reference.shape)


def poisson_sample(source: RandomSource, *, rows: int, rate: float) -> torch.Tensor:
    """Row numbers of one Poisson sample: each row independently with probability ``rate``.

    Returns:
        int64 ``(k,)``, ascending; k varies and may be 0.
    """
    return torch.from_numpy(np.flatnonzero(source.uniform(rows) < rate))


def coins(source: RandomSource, count: int) -> Sequence[bool]:
    """Independent fair coins."""
    return [bool(value < 1 / 2) for value in source.uniform(count)]
