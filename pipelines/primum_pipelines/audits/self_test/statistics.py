"""Tests of hypotheses about a mechanism's noise, sampling and clipping, from its observed updates.

Every function takes arrays in units of the clipping bound and returns a p-value under "the
mechanism is as planned": small means that it is not. Exact distributions where there are any; each
docstring says where one is an approximation. No randomness in here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, stats

Array: TypeAlias = NDArray[np.float64]
BoundAt: TypeAlias = Callable[[float], float]
_PROJECTIONS = 16  # Enough to see noise that is shared between coordinates; cheap.


@dataclass(frozen=True, slots=True)
class Check:
    """One hypothesis test.

    Args:
        name: What was tested.
        p_value: Probability of so extreme a figure if the mechanism is as planned.
    """

    name: str
    p_value: float


def chi_square_two_sided(total: Array, degrees: float) -> Array:
    """Two-sided p-values of sums of squares of ``degrees`` standard normals."""
    below = stats.chi2.cdf(total, degrees)
    above = stats.chi2.sf(total, degrees)
    result: Array = np.minimum(1.0, 2 * np.minimum(below, above))
    return result


def least_of(p_values: Array) -> float:
    """The least of several p-values, corrected for their number (Bonferroni)."""
    return float(min(1.0, p_values.min() * p_values.size))


def noise_scale(noise: Array) -> float:
    """Whether all noise together has the planned standard deviation (exact).

    Args:
        noise: Noise over its planned standard deviation, ``(vectors, coordinates)``.
    """
    return float(chi_square_two_sided(np.asarray((noise**2).sum()), noise.size))


def noise_everywhere(noise: Array) -> float:
    """Whether every coordinate has noise of the planned scale (exact, Bonferroni)."""
    return least_of(chi_square_two_sided((noise**2).sum(axis=0), noise.shape[0]))


def noise_every_step(noise: Array) -> float:
    """Whether every step has noise of the planned scale (exact, Bonferroni)."""
    return least_of(chi_square_two_sided((noise**2).sum(axis=1), noise.shape[1]))


def noise_independent(noise: Array) -> float:
    """Whether coordinates are independent: energy in directions that mix all of them (exact).

    Args:
        noise: As before; the number of coordinates is a power of two (Hadamard directions).
    """
    directions = linalg.hadamard(noise.shape[1])[:_PROJECTIONS] / np.sqrt(noise.shape[1])
    energy = ((noise @ directions.T) ** 2).sum(axis=0)
    return least_of(chi_square_two_sided(energy, noise.shape[0]))


def fresh(vectors: Array) -> float:
    """Whether no two steps or runs share randomness: the largest correlation of any pair.

    For independent Gaussian vectors of d coordinates the squared cosine is Beta(1/2, (d-1)/2)
    (exact for noise; for batch counts it holds where the counts are large).

    Args:
        vectors: One row per step of every run, zero mean, ``(vectors, d)``.
    """
    norms = np.linalg.norm(vectors, axis=1)
    if (norms == 0).any():
        return 0.0
    unit = vectors / norms[:, None]
    rows, columns = np.triu_indices(len(unit), k=1)
    cosine_squared = np.clip((unit @ unit.T)[rows, columns] ** 2, 0.0, 1.0)
    degrees = vectors.shape[1]
    return least_of(stats.beta.sf(cosine_squared, 0.5, (degrees - 1) / 2))


def mean_is(values: Array, *, mean: float, variance: float) -> float:
    """Whether the sum of many independent values is as planned (normal approximation, many values).

    Args:
        values: Observed values.
        mean: Planned mean of each.
        variance: Planned variance of each.
    """
    score = (values.sum() - mean * values.size) / np.sqrt(variance * values.size)
    return float(2 * stats.norm.sf(abs(score)))


def variance_is(values: Array, *, mean: float, variance: float) -> float:
    """Whether the spread of values is as planned: neither constant batches nor batches in blocks.

    Chi-square with one degree per value; counts are large enough to be treated as normal.
    """
    return float(
        chi_square_two_sided(np.asarray((((values - mean) ** 2) / variance).sum()), values.size)
    )


def constant_is_visible(*, sampling: float, noise: float, degrees: int, level: float) -> bool:
    """Whether sampling without its variance would be caught: the power of ``variance_is``.

    Args:
        sampling: Variance that the sampling adds.
        noise: Variance that the noise adds.
        degrees: Number of values.
        level: Level of the test.
    """
    ratio = noise / (sampling + noise)
    expected = chi_square_two_sided(np.asarray(ratio * degrees), degrees)
    return float(expected) < level / 10


def above_curve(
    present: Array, absent: Array, *, threshold: float, bound_at: BoundAt, level: float
) -> bool:
    """Whether a threshold tells present from absent units better than the trade-off curve allows.

    One-sided Clopper-Pearson limits at ``level`` / 2 each; the threshold must be fixed beforehand.

    Args:
        present: Statistics of units that are in the data, independent trials.
        absent: Statistics where the unit is not.
        threshold: Above it, "present" is said.
        bound_at: The largest TPR at an FPR.
        level: Accepted false-alarm rate.

    Returns:
        True if the lower limit of the TPR is above the curve at the upper limit of the FPR.
    """
    hits, alarms = int((present > threshold).sum()), int((absent > threshold).sum())
    n, m = present.size, absent.size
    tail = level / 2
    tpr_lower = float(stats.beta.ppf(tail, hits, n - hits + 1)) if hits else 0.0
    fpr_upper = float(stats.beta.ppf(1 - tail, alarms + 1, m - alarms)) if alarms < m else 1.0
    return tpr_lower > bound_at(fpr_upper)
