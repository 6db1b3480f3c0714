"""Made-up pictures that show nobody: overlapping disks, for a prior where no public set is named.

Dead leaves have the edges and the scaling of natural images (Lee, Mumford & Huang 2001), and
networks learn from them what they would from photographs (Baradad et al., *Learning to See by
Looking at Noise*, 2021).
"""

from __future__ import annotations

import numpy as np

_RADII_POWER = 3.0  # Sizes fall with the third power, which makes the pictures scale invariant.
_LEAVES_MIN, _LEAVES_MAX = 4, 40
_RADIUS_MIN, _RADIUS_MAX = 0.06, 0.6  # Shares of the picture's longest side.


def dead_leaves(count: int, *, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Pictures or volumes of disks or balls on a plain ground.

    Args:
        count: How many.
        shape: Of one, channels first.
        seed: The same seed gives the same pictures.

    Returns:
        float32 ``(count, *shape)`` in [-1, 1].
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    sides = shape[1:]
    longest = max(sides)
    grids = np.meshgrid(*(np.arange(side, dtype=np.float32) for side in sides), indexing="ij")
    found = np.empty((count, *shape), dtype=np.float32)
    for number in range(count):
        picture = found[number]  # A view: what is painted on it stays.
        picture[:] = generator.uniform(-1, 1, (shape[0], *(1,) * len(sides)))
        for _ in range(int(generator.integers(_LEAVES_MIN, _LEAVES_MAX + 1))):
            radius = longest * _radius(generator.random())
            center = [generator.uniform(0, side) for side in sides]
            far = sum((grid - at) ** 2 for grid, at in zip(grids, center, strict=True))
            # One pixel from inside to outside, as a lens would show it.
            covered = np.clip(radius - np.sqrt(far) + 0.5, 0, 1)
            color = generator.uniform(-1, 1, (shape[0], *(1,) * len(sides)))
            picture += covered * (color - picture)
    return found


def _radius(share: float) -> float:
    """A radius by inverse transform of the density r^-3 between the limits."""
    power = 1 - _RADII_POWER
    low, high = _RADIUS_MIN**power, _RADIUS_MAX**power
    return float((low + share * (high - low)) ** (1 / power))
