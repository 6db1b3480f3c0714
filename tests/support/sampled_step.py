"""What one Poisson-sampled Gaussian step tells of a unit, by numerical integration."""

from __future__ import annotations

import numpy as np


def presence(*, noise: float, rate: float) -> dict[bool, tuple[float, float]]:
    """Mean and variance of a step's log-likelihood ratio, by whether the unit is in.

    Args:
        noise: Noise multiplier.
        rate: Poisson rate.
    """
    seen = np.linspace(-10 * noise, 1 + 10 * noise, 100_001)
    absent = np.exp(-((seen / noise) ** 2) / 2)
    ratio = 1 - rate + rate * np.exp((2 * seen - 1) / (2 * noise**2))
    told, found = np.log(ratio), {}
    for inside, weights in ((True, absent * ratio), (False, absent)):
        mean = float(np.average(told, weights=weights))
        found[inside] = mean, float(np.average((told - mean) ** 2, weights=weights))
    return found
