"""How much noise a Langevin step asks for, beside what the mechanism has brought already.

Stochastic gradient Langevin dynamics (Welling & Teh 2011, equation 4) sample from the posterior of
N units by ``w += h/2 (grad log prior + N/n sum grad log likelihood) + Normal(0, h)``. A step of
DP-SGD with learning rate r, expected batch B, clipping bound C and noise multiplier s,
``w -= r (1/B (sum of clipped gradients + Normal(0, (s C)^2)) + decay w)``, is that step with
``h = 2 r / N`` and the prior ``Normal(0, 1 / (N decay))``, as long as its noise, of variance
``(r s C / B)^2``, is that of temperature T: ``2 T r / N`` (as in Knolle et al. 2021). Where it is
less, the difference is added; where it is more, the samples are those of a higher temperature,
which is stated. Light: a plan is made without torch. Must never lower a mechanism's noise.
"""

from __future__ import annotations

import math


def missing_std(
    *, learning_rate: float, units: int, temperature: float, gradient_std: float
) -> float:
    """Deviation of the noise to add to each coordinate of a noisy mean gradient.

    Guarantees:
        The mechanism's noise stays as it is and more comes on top, drawn without a look at the
        data: post-processing of what was released, covered by the same charge.

    Args:
        learning_rate: Of this step, above 0.
        units: Public number N of units that the posterior is of.
        temperature: T, above 0; 1 is the posterior itself.
        gradient_std: Of the mechanism's noise on each coordinate of the mean gradient: s C / B.
    """
    wanted = 2 * temperature / (learning_rate * units)
    return math.sqrt(max(0.0, wanted - gradient_std**2))


def reached_temperature(
    *, learning_rate: float, units: int, temperature: float, gradient_std: float
) -> float:
    """The temperature that a step has: the one asked for, or more where privacy needs more noise.

    Args:
        learning_rate: Of this step, above 0.
        units: Public number of units.
        temperature: What was asked for.
        gradient_std: Of the mechanism's noise on each coordinate of the mean gradient.
    """
    return max(temperature, learning_rate * units * gradient_std**2 / 2)
