"""Figures of a classifier on held-out units, with 95 % intervals. Pure NumPy; knows no Study.

Accuracy, sensitivity and specificity have Wilson intervals where every row is a unit; everything
else a stratified percentile bootstrap over units, vectorized: a resample is a vector of weights,
and every figure is a function of weighted sums. Rows of one unit are drawn together: two images of
a patient are not two patients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from primum.domain.canonical import JSON, decimal_text

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RESAMPLES = 2000
_Z = 1.959963984540054  # Two-sided 95 %.
_CHUNK = 50  # Resamples at a time, so that large held-out sets fit in memory.
_SEED = 20211  # The bootstrap is reproducible; its randomness protects nobody.


@dataclass(frozen=True, slots=True)
class Figure:
    """An estimate with its 95 % interval; NaN where it is undefined."""

    estimate: float
    lower: float
    upper: float

    def to_json(self) -> dict[str, JSON]:
        """Decimal strings; an undefined figure says so."""
        return {
            "estimate": decimal_text(self.estimate),
            "lower": decimal_text(self.lower),
            "upper": decimal_text(self.upper),
        }


@dataclass(frozen=True, slots=True, repr=False)
class Scored:
    """Held-out rows as a model sees them.

    Args:
        labels: ``(n,)`` class numbers.
        probabilities: ``(n, classes)``, rows sum to 1.
        positive: Class number that binary figures are about.
        units: ``(n,)``, the privacy unit of each row; ``None`` where every row is one.
    """

    labels: Ints
    probabilities: Floats
    positive: int
    units: NDArray[np.generic] | None = None

    @property
    def predictions(self) -> Ints:
        """The most probable class of each row."""
        found: Ints = self.probabilities.argmax(axis=1)
        return found

    def where(self, mask: NDArray[np.bool_]) -> Scored:
        """The rows of a mask."""
        units = None if self.units is None else self.units[mask]
        return Scored(self.labels[mask], self.probabilities[mask], self.positive, units)


def utility(scored: Scored) -> Mapping[str, Figure]:
    """Accuracy, balanced accuracy, sensitivity, specificity, ROC-AUC, average precision and MCC.

    ROC-AUC is of the positive class for two classes, else one-vs-rest weighted by class frequency.
    Sensitivity, specificity and average precision are of the positive class, one-vs-rest.
    """
    return {
        "accuracy": share_of(scored, scored.predictions == scored.labels, scored.labels >= 0),
        **one_against_the_rest(scored, scored.positive),
        **bootstrapped(scored, _utility_of),
    }


def one_against_the_rest(scored: Scored, number: int) -> Mapping[str, Figure]:
    """Sensitivity and specificity of one class; NaN where no row is on their side."""
    said, true = scored.predictions == number, scored.labels == number
    return {
        "sensitivity": share_of(scored, said, true),
        "specificity": share_of(scored, ~said, ~true),
    }


def share_of(scored: Scored, hit: NDArray[np.bool_], among: NDArray[np.bool_]) -> Figure:
    """The share of some rows that are hit, with its interval over the units that have such rows.

    A bootstrap that meets nothing but hits, or none, would say that it is certain: there Wilson's
    interval for so many units is taken.

    Args:
        scored: Held-out rows.
        hit: ``(n,)``.
        among: ``(n,)``, the rows that the share is of.
    """
    hits = hit[among]
    units = None if scored.units is None else scored.units[among]
    people = len(hits) if units is None else len(np.unique(units))
    if people == len(hits):
        return wilson(int(hits.sum()), people)
    if hits.all() or not hits.any():
        return wilson(people if hits.all() else 0, people)
    value = hits.astype(np.float64)
    strata = np.zeros(len(hits), dtype=np.int64)
    return over_units(strata, units, lambda w: {"share": w @ value / w.sum(axis=1)})["share"]


def wilson(successes: int, trials: int) -> Figure:
    """A share with Wilson's 95 % score interval (Wilson 1927); NaN without trials."""
    if trials == 0:
        return Figure(math.nan, math.nan, math.nan)
    share, spread = successes / trials, _Z**2 / trials
    center = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    # Exactly 0 and 1 at the ends, where rounding would leave a trace.
    lower = max(0.0, center - half) if successes else 0.0
    return Figure(share, lower, min(1.0, center + half) if successes < trials else 1.0)


def roc_auc(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Weighted ROC-AUC (Mann-Whitney, ties count half) for each row of weights.

    Args:
        positive: ``(n,)``.
        scores: ``(n,)``.
        weights: ``(b, n)``, at least 0.

    Returns:
        ``(b,)``; NaN where a class has no weight.
    """
    order = np.argsort(scores, kind="stable")
    ranked, starts = scores[order], [0]
    starts += list(np.flatnonzero(np.diff(ranked)) + 1)
    sign = positive[order]
    up = np.add.reduceat(weights[:, order] * sign, starts, axis=1)
    down = np.add.reduceat(weights[:, order] * ~sign, starts, axis=1)
    below = np.cumsum(down, axis=1) - down
    with np.errstate(invalid="ignore", divide="ignore"):
        area: Floats = (up * (below + down / 2)).sum(axis=1) / (up.sum(axis=1) * down.sum(axis=1))
    return area


def mean_of_defined(values: Floats, shares: Floats | float = 1.0) -> Floats:
    """The mean of figures over those that are defined, for each resample.

    Args:
        values: ``(k, b)``.
        shares: Weights of the figures, ``(k, b)`` or one for all.

    Returns:
        ``(b,)``; NaN where none is defined.
    """
    known = np.isfinite(values)
    share = np.where(known, shares, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = (np.where(known, values, 0) * share).sum(axis=0) / share.sum(axis=0)
    return found


def average_precision(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Weighted area under the precision-recall curve, as a step function; ties are one step."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    found = np.cumsum(weights[:, order] * positive[order], axis=1)[:, ends]
    taken = np.cumsum(weights[:, order], axis=1)[:, ends]
    gained = np.diff(found, axis=1, prepend=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(taken > 0, found / taken, 0)
        area: Floats = (gained * precision).sum(axis=1) / found[:, -1]
    return area


def bootstrapped(
    scored: Scored, of: Callable[[Scored, Floats], Mapping[str, Floats]]
) -> Mapping[str, Figure]:
    """Figures with 95 % percentile intervals over units, every class keeping its number of units.

    Args:
        scored: Held-out rows.
        of: Gives ``(b,)`` values by name for ``(b, n)`` weights of the rows.
    """
    return over_units(scored.labels, scored.units, lambda weights: of(scored, weights))


def over_units(
    strata: Ints, units: NDArray[np.generic] | None, of: Callable[[Floats], Mapping[str, Floats]]
) -> Mapping[str, Figure]:
    """Figures with 95 % percentile intervals over units, every stratum keeping its number of units.

    Args:
        strata: ``(n,)`` number of each row; zeros for one stratum.
        units: ``(n,)``, the privacy unit of each row; ``None`` where every row is one.
        of: Gives ``(b,)`` values by name for ``(b, n)`` weights of the rows.
    """
    ones = np.ones((1, len(strata)))
    estimates = {name: float(values[0]) for name, values in of(ones).items()}
    drawn: dict[str, list[Floats]] = {name: [] for name in estimates}
    generator = np.random.Generator(np.random.PCG64(_SEED))
    for start in range(0, RESAMPLES, _CHUNK):
        weights = _resamples(strata, units, min(_CHUNK, RESAMPLES - start), generator)
        for name, values in of(weights).items():
            drawn[name].append(values)
    return {
        name: _interval(estimate, np.concatenate(drawn[name]))
        for name, estimate in estimates.items()
    }


def _interval(estimate: float, values: Floats) -> Figure:
    values = values[np.isfinite(values)]
    if not math.isfinite(estimate) or not len(values):
        return Figure(math.nan, math.nan, math.nan)
    lower, upper = np.quantile(values, (0.025, 0.975))
    return Figure(estimate, float(lower), float(upper))


def _resamples(
    strata: Ints, units: NDArray[np.generic] | None, count: int, generator: np.random.Generator
) -> Floats:
    """How often each row is drawn, ``(count, n)``; a unit is of the stratum of its first row."""
    if units is None:
        first, of_row = np.arange(len(strata)), np.arange(len(strata))
    else:
        _, first, of_row = np.unique(units, return_index=True, return_inverse=True)
    classes = strata[first]
    weights = np.zeros((count, len(first)))
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        shares = np.full(len(members), 1 / len(members))
        weights[:, members] = generator.multinomial(len(members), shares, size=count)
    return weights if units is None else weights[:, of_row]


def _confusion(scored: Scored, weights: Floats) -> Floats:
    """Weighted counts ``(b, actual, predicted)``."""
    classes = scored.probabilities.shape[1]
    cell = scored.labels * classes + scored.predictions
    counts: Floats = weights @ np.eye(classes * classes)[cell]
    return counts.reshape(-1, classes, classes)


def _utility_of(scored: Scored, weights: Floats) -> Mapping[str, Floats]:
    table = _confusion(scored, weights)
    total, actual, predicted = table.sum(axis=(1, 2)), table.sum(axis=2), table.sum(axis=1)
    hits = np.diagonal(table, axis1=1, axis2=2)
    k = scored.positive
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / actual
        return {
            "balancedAccuracy": np.nanmean(np.where(actual > 0, recall, np.nan), axis=1),
            "rocAuc": roc_auc_of(scored, weights),
            "averagePrecision": average_precision(
                scored.labels == k, scored.probabilities[:, k], weights
            ),
            "mcc": _mcc(total, hits.sum(axis=1), actual, predicted),
        }


def roc_auc_of(scored: Scored, weights: Floats) -> Floats:
    """ROC-AUC of the positive class for two classes, else one-vs-rest weighted by frequency."""
    classes = scored.probabilities.shape[1]
    if classes == 2:  # noqa: PLR2004 - the binary figure is of the positive class
        k = scored.positive
        return roc_auc(scored.labels == k, scored.probabilities[:, k], weights)
    parts, shares = [], []
    for k in range(classes):
        positive = scored.labels == k
        if positive.any() and not positive.all():
            parts.append(roc_auc(positive, scored.probabilities[:, k], weights))
            shares.append(weights[:, positive].sum(axis=1))
    if not parts:
        return np.full(len(weights), np.nan)
    average: Floats = (np.stack(parts) * np.stack(shares)).sum(axis=0) / np.stack(shares).sum(
        axis=0
    )
    return average


def _mcc(total: Floats, right: Floats, actual: Floats, predicted: Floats) -> Floats:
    """The multi-class R_K (Gorodkin 2004); 0 where a marginal is constant."""
    top = right * total - (actual * predicted).sum(axis=1)
    left = total**2 - (predicted**2).sum(axis=1)
    other = total**2 - (actual**2).sum(axis=1)
    scale = np.sqrt(left * other)
    values: Floats = np.divide(top, scale, out=np.zeros_like(top), where=scale > 0)
    return values
