"""DP-MERF's arithmetic that the planner needs: how many random features the noise leaves room for.

Light: no torch. Everything is decided from public constants (units, classes, noise), never from
    data.
"""

from __future__ import annotations

from decimal import Decimal

FEATURES_MIN = 20  # Fewer tell classes apart by little more than their size.
FEATURES_MAX = 1000  # Beyond it the generator's target gets finer than 28 x 28 images can use.
NOISE_RATIO_MAX = Decimal(
    "0.01"
)  # Noise norm over the largest possible norm of the embedding's features.
COUNT_WEIGHT = (
    0.1  # Share of a unit's norm that carries its class count; 0.995 is left to the features.
)


def noise_ratio(*, noise_multiplier: Decimal, features: int, classes: int, units: int) -> Decimal:
    """Expected norm of the embedding's noise over the largest norm that the embedding can have.

    Harder, Adamczewski, Park (2021), section 4: sigma sqrt(D K) / n, in the add-or-remove
    convention.

    Args:
        noise_multiplier: Standard deviation of the noise on the sum over its sensitivity of 1.
        features: Number of random features D.
        classes: Number of classes K.
        units: Declared number of units n.

    Returns:
        At 1 or above the noise drowns everything; 0.01 leaves a usable target.
    """
    return noise_multiplier * Decimal(features * classes).sqrt() / units


def features_for(*, noise_multiplier: Decimal, classes: int, units: int) -> int:
    """The most random features, an even number, whose noise ratio is within ``NOISE_RATIO_MAX``.

    Args:
        noise_multiplier: Planned noise, 0 for a generator without a mechanism.
        classes: Number of classes.
        units: Declared number of units.

    Returns:
        From ``FEATURES_MIN`` to ``FEATURES_MAX``.
    """
    if noise_multiplier == 0:
        return FEATURES_MAX
    most = (NOISE_RATIO_MAX * units / noise_multiplier) ** 2 / classes
    return max(FEATURES_MIN, min(FEATURES_MAX, int(most) // 2 * 2))
