"""Two models, or a model and a reader, on the same rows: is the difference more than chance?

Tests assume independent rows: give one row per unit (for several images of a patient, their mean).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from primum.domain.errors import InvalidValue
from primum_pipelines.evaluation.figures import Figure, Floats, Ints

_EXACT_BELOW = 25  # Discordant pairs: below, the chi-square approximation is not to be trusted.
_Z = 1.959963984540054  # Two-sided 95 %.
_PAIRS_MIN = 4  # Fisher's z needs more than three pairs.


@dataclass(frozen=True, slots=True)
class McNemar:
    """McNemar's test of two classifiers (McNemar 1947).

    Args:
        first_only: Rows that only the first got right.
        second_only: Rows that only the second got right.
        p_value: Two-sided; 1 where no row tells them apart.
    """

    first_only: int
    second_only: int
    p_value: float


def mcnemar(first_right: NDArray[np.bool_], second_right: NDArray[np.bool_]) -> McNemar:
    """Whether two classifiers are right equally often on the same rows.

    Exact binomial for fewer than 25 discordant rows, else chi-square with continuity correction
    (Edwards 1948).

    Args:
        first_right: ``(n,)``, whether the first was right.
        second_right: ``(n,)``, the same of the second.
    """
    _same_rows(first_right, second_right)
    first = int((first_right & ~second_right).sum())
    second = int((~first_right & second_right).sum())
    discordant = first + second
    if discordant == 0:
        return McNemar(first, second, 1.0)
    if discordant < _EXACT_BELOW:
        tail = float(special.bdtr(min(first, second), discordant, 0.5))
        return McNemar(first, second, min(1.0, 2 * tail))
    statistic = max(0.0, abs(first - second) - 1) ** 2 / discordant
    return McNemar(first, second, float(special.chdtrc(1, statistic)))


class Agreement(enum.StrEnum):
    """How far apart two different labels are."""

    UNWEIGHTED = "Unweighted"  # every difference counts the same
    QUADRATIC = "Quadratic"  # for ordered classes: the square of the distance


def cohen_kappa(
    first: Ints, second: Ints, *, classes: int, agreement: Agreement = Agreement.UNWEIGHTED
) -> Figure:
    """Agreement beyond chance of two raters (Cohen 1960; 1968 for weights).

    The interval is the normal one with the large-sample variance of Fleiss, Cohen and Everitt
    (1969).

    Args:
        first: ``(n,)`` class numbers by the first rater.
        second: ``(n,)`` by the second.
        classes: Number of classes.
        agreement: How differences are weighed.

    Returns:
        In [-1, 1]; NaN where both always say the same one class.
    """
    _same_rows(first, second)
    table = np.zeros((classes, classes))
    np.add.at(table, (first, second), 1)
    share = table / max(1, len(first))
    rows, columns = share.sum(axis=1), share.sum(axis=0)
    number = np.arange(classes)
    distance = np.abs(number[:, None] - number[None, :])
    weight = (
        (distance == 0).astype(float)
        if agreement is Agreement.UNWEIGHTED
        else 1 - (distance / max(1, classes - 1)) ** 2
    )
    observed, expected = float((weight * share).sum()), float(rows @ weight @ columns)
    if math.isclose(expected, 1.0, abs_tol=1e-12):
        return Figure(math.nan, math.nan, math.nan)
    kappa = (observed - expected) / (1 - expected)
    mean = (weight @ columns)[:, None] + (rows @ weight)[None, :]
    spread = (share * (weight - mean * (1 - kappa)) ** 2).sum()
    variance = (spread - (kappa - expected * (1 - kappa)) ** 2) / (len(first) * (1 - expected) ** 2)
    half = _Z * math.sqrt(max(0.0, float(variance)))
    return Figure(kappa, max(-1.0, kappa - half), min(1.0, kappa + half))


@dataclass(frozen=True, slots=True)
class AreaDifference:
    """Two ROC-AUCs on the same rows (DeLong et al. 1988).

    Args:
        difference: First minus second, with a 95 % interval.
        p_value: Two-sided, of no difference; NaN where a class is missing.
    """

    difference: Figure
    p_value: float


def delong(positive: NDArray[np.bool_], first: Floats, second: Floats) -> AreaDifference:
    """Whether two scores rank the same rows equally well.

    Args:
        positive: ``(n,)``, whether a row is of the positive class.
        first: ``(n,)`` scores.
        second: ``(n,)`` scores.
    """
    _same_rows(first, second)
    cases, controls = int(positive.sum()), int((~positive).sum())
    nothing = Figure(math.nan, math.nan, math.nan)
    if min(cases, controls) < 2:  # noqa: PLR2004 - a variance needs two
        return AreaDifference(nothing, math.nan)
    parts = [_placements(positive, scores) for scores in (first, second)]
    areas = [float(of_cases.mean()) for of_cases, _ in parts]
    over_cases = np.cov(np.stack([of_cases for of_cases, _ in parts]))
    over_controls = np.cov(np.stack([of_controls for _, of_controls in parts]))
    contrast = np.array([1.0, -1.0])
    variance = float(contrast @ (over_cases / cases + over_controls / controls) @ contrast)
    gap = areas[0] - areas[1]
    deviation = math.sqrt(max(0.0, variance))
    if deviation == 0:
        return AreaDifference(Figure(gap, gap, gap), 1.0 if gap == 0 else 0.0)
    p_value = float(2 * special.ndtr(-abs(gap) / deviation))
    return AreaDifference(Figure(gap, gap - _Z * deviation, gap + _Z * deviation), p_value)


def holm(p_values: Mapping[str, float]) -> Mapping[str, float]:
    """P-values adjusted for their number (Holm 1979); undefined ones stay so and do not count."""
    known = sorted((p, name) for name, p in p_values.items() if not math.isnan(p))
    adjusted = dict(p_values)
    largest = 0.0
    for rank, (p_value, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p_value))
        adjusted[name] = largest
    return adjusted


def pearson(first: Sequence[float], second: Sequence[float]) -> Figure:
    """Pearson's r with Fisher's 95 % interval; NaN for fewer than two pairs or a constant.

    With two or three pairs there is an estimate and no interval.
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    _same_rows(x, y)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:  # noqa: PLR2004 - a line needs two
        return Figure(math.nan, math.nan, math.nan)
    r = float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))
    if len(x) < _PAIRS_MIN:
        return Figure(r, math.nan, math.nan)
    if abs(r) == 1:
        return Figure(r, r, r)
    half = _Z / math.sqrt(len(x) - 3)
    center = math.atanh(r)
    return Figure(r, math.tanh(center - half), math.tanh(center + half))


def _placements(positive: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats]:
    """For each case the share of controls below it, and for each control that of cases above."""
    cases, controls = np.sort(scores[positive]), np.sort(scores[~positive])
    of_cases = (
        np.searchsorted(controls, scores[positive], "left")
        + np.searchsorted(controls, scores[positive], "right")
    ) / (2 * len(controls))
    of_controls = 1 - (
        np.searchsorted(cases, scores[~positive], "left")
        + np.searchsorted(cases, scores[~positive], "right")
    ) / (2 * len(cases))
    return of_cases, of_controls


def _same_rows(first: NDArray[np.generic], second: NDArray[np.generic]) -> None:
    if first.shape != second.shape:
        found = f"{len(first)} and {len(second)}"
        raise InvalidValue("compared rows", "must be the same for both", found)
