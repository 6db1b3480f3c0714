"""Where the randomness of a mechanism comes from: a cryptographic stream, or a seed for tests.

torch's CPU generator keeps 32 bits of its seed, so whoever holds a released model could try all
seeds and strip the noise. Released mechanisms therefore draw every sampling coin and every noise
value from AES-256 in counter mode under a key of the operating system, made anew in every process;
a seed is for self-tests on toy data and must never be used on private data.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WORD_BYTES = 8
_MANTISSA_BITS = 53
_KEY_BYTES, _COUNTER_BYTES = 32, 16
_AT_ONCE = 1 << 14  # Words: what a core's cache holds while logarithms are taken.
_GRID_BITS = 24  # Released sums are multiples of about the noise's deviation times 2^-24.


class RandomSource(Protocol):
    """Draws the coins and the noise of a mechanism."""

    name: str

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Independent uniform values in [0, 1), shape ``(count,)``."""

    def normal(self, count: int) -> NDArray[np.float64]:
        """Independent standard normal values, shape ``(count,)``."""


class OperatingSystemSource:
    """Every value from AES-256 in counter mode, keyed by the operating system.

    The key lives in this object alone. A process that was forked off gets a key of its own, so that
    no two ever draw the same values.
    """

    name = "AES-256 counter mode keyed by the operating system; Box-Muller, sums rounded to a grid"

    def __init__(self) -> None:
        self._zeros = memoryview(bytes(_WORD_BYTES * _AT_ONCE))
        self._drawn = bytearray(_WORD_BYTES * _AT_ONCE)
        self._process = -1
        self._rekey()

    def __repr__(self) -> str:
        """Nothing of the key."""
        return "OperatingSystemSource()"

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Multiples of 2^-53 in [0, 1)."""
        values = np.empty(count)
        for start in range(0, count, _AT_ONCE):
            part = values[start : start + _AT_ONCE]
            np.multiply(self._words(len(part)), 2.0**-_MANTISSA_BITS, out=part)
        return values

    def normal(self, count: int) -> NDArray[np.float64]:
        """Box-Muller values."""
        values = np.empty(count + count % 2)
        for start in range(0, len(values), _AT_ONCE):
            part = torch.from_numpy(values[start : start + _AT_ONCE])
            half = len(part) // 2
            drawn = torch.from_numpy(self._words(len(part)).view(np.int64)).to(torch.float64)
            radius, angle = drawn[:half], drawn[half:]
            # From 1 to 2^53 over 2^53: never zero, so that the logarithm is finite.
            radius.add_(1.0).mul_(2.0**-_MANTISSA_BITS).log_().mul_(-2.0).sqrt_()
            angle.mul_(2.0 * math.pi * 2.0**-_MANTISSA_BITS)
            torch.cos(angle, out=part[:half]).mul_(radius)
            torch.sin(angle, out=part[half:]).mul_(radius)
        return values[:count]

    def _words(self, count: int) -> NDArray[np.uint64]:
        """Whole numbers below 2^53, valid until the next call."""
        if self._process != os.getpid():
            self._rekey()
        self._stream.update_into(self._zeros[: _WORD_BYTES * count], self._drawn)
        words = np.frombuffer(self._drawn, dtype=np.uint64, count=count)
        words >>= np.uint64(64 - _MANTISSA_BITS)
        return words

    def _rekey(self) -> None:
        key, counter = os.urandom(_KEY_BYTES), os.urandom(_COUNTER_BYTES)
        self._stream = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
        self._process = os.getpid()


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


def add_noise(source: RandomSource, value: torch.Tensor, *, std: float) -> None:
    """Add normal noise in place, rounded to a grid that does not depend on the value.

    The low bits of a floating-point sum can tell what was added to what (Mironov, *On Significance
    of the Least Significant Bits for Differential Privacy*, 2012). The sum is formed in float64 and
    rounded to multiples of a power of two near std x 2^-24, each of which very many float64 values
    of the noise lead to; conversion to the value's own type is post-processing.

    Args:
        source: What draws the noise.
        value: What is released; contiguous.
        std: Standard deviation, above 0.
    """
    grid = 2.0 ** (math.floor(math.log2(std)) - _GRID_BITS)
    flat = value.view(-1)
    # In pieces that stay in the cache; a GPU gets everything at once.
    at_once = _AT_ONCE if value.device.type == "cpu" else max(1, len(flat))
    for piece in flat.split(at_once):
        noise = torch.from_numpy(source.normal(len(piece))).to(piece.device)
        piece.copy_(noise.mul_(std / grid).add_(piece, alpha=1 / grid).round_())
    value.mul_(grid)  # Exact: a power of two.


def poisson_sample(source: RandomSource, *, rows: int, rate: float) -> torch.Tensor:
    """Row numbers of one Poisson sample: each row independently with probability ``rate``.

    Returns:
        int64 ``(k,)``, ascending; k varies and may be 0.
    """
    return torch.from_numpy(np.flatnonzero(source.uniform(rows) < rate))


def coins(source: RandomSource, count: int) -> Sequence[bool]:
    """Independent fair coins."""
    return [bool(value < 1 / 2) for value in source.uniform(count)]
