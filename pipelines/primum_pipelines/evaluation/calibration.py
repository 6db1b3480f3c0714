"""Whether stated probabilities are shares that come true: ECE, Brier score, reliability, scaling.

A temperature is a parameter that is fitted: on private rows it would be a query. Fit it on public
or released data, or on rows of a charged access; this module cannot know which it was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from primum.domain.errors import InvalidValue
from primum_pipelines.evaluation.figures import Figure, Floats, Ints, Scored, bootstrapped
from primum_pipelines.evaluation.subgroups import people

BINS = 15  # Equal-width bins of the top label's confidence (Guo et al. 2017).
_LOG_TEMPERATURE_MAX = 5.0  # exp(5) = 148: everything is a guess long before.
_GOLDEN = (np.sqrt(5) - 1) / 2
_SEARCH_STEPS = 60


@dataclass(frozen=True, slots=True)
class Reliability:
    """One bin of a reliability diagram.

    Args:
        confidence: Mean stated probability of the top label; NaN for an empty bin.
        accuracy: Share of right answers; NaN for an empty bin.
        rows: How many answers fell in.
        units: Of how many units these are.
    """

    confidence: float
    accuracy: float
    rows: int
    units: int


def calibration(scored: Scored) -> Mapping[str, Figure]:
    """Expected calibration error, its adaptive form, and the Brier score.

    ``ece`` has 15 equal-width bins of the top label's confidence (Guo et al. 2017), ``adaptiveEce``
    15 bins of equally many rows (Nixon et al. 2019); ``brier`` sums over classes (Brier 1950).
    """
    return bootstrapped(scored, _calibration_of)


def reliability(scored: Scored) -> Sequence[Reliability]:
    """The 15 bins behind ``ece``."""
    confidence, right = _top(scored)
    bins = _equal_width(confidence)
    found = []
    for number in range(BINS):
        inside = bins == number
        rows = int(inside.sum())
        found.append(
            Reliability(
                confidence=float(confidence[inside].mean()) if rows else float("nan"),
                accuracy=float(right[inside].mean()) if rows else float("nan"),
                rows=rows,
                units=people(scored.units, inside),
            )
        )
    return found


def scaled(probabilities: Floats, temperature: float) -> Floats:
    """Probabilities after their logits were divided by a temperature (Guo et al. 2017).

    Args:
        probabilities: ``(n, classes)``, rows sum to 1.
        temperature: Above 0; 1 changes nothing, more makes answers less sure. The top label stays.

    Raises:
        InvalidValue: If the temperature is not above 0.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise InvalidValue("temperature", "must be above 0", str(temperature))
    logits = np.log(np.clip(probabilities, np.finfo(np.float64).tiny, 1)) / temperature
    logits -= logits.max(axis=1, keepdims=True)
    weights = np.exp(logits)
    answer: Floats = weights / weights.sum(axis=1, keepdims=True)
    return answer


def fit_temperature(probabilities: Floats, labels: Ints) -> float:
    """The temperature with the least negative log-likelihood, by golden-section search.

    Args:
        probabilities: ``(n, classes)`` of rows that the model was not trained on.
        labels: ``(n,)`` class numbers.

    Returns:
        A number in [exp(-5), exp(5)].

    Raises:
        InvalidValue: If there is no row.
    """
    if not len(labels):
        raise InvalidValue("calibration rows", "must be at least one", "none")

    def loss(log_temperature: float) -> float:
        answers = scaled(probabilities, float(np.exp(log_temperature)))
        right = answers[np.arange(len(labels)), labels]
        return float(-np.log(np.clip(right, np.finfo(np.float64).tiny, 1)).mean())

    low, high = -_LOG_TEMPERATURE_MAX, _LOG_TEMPERATURE_MAX
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    left_loss, right_loss = loss(left), loss(right)
    for _ in range(_SEARCH_STEPS):  # The loss is convex in 1 / temperature: one valley.
        if left_loss <= right_loss:
            high, right, right_loss = right, left, left_loss
            left = high - _GOLDEN * (high - low)
            left_loss = loss(left)
        else:
            low, left, left_loss = left, right, right_loss
            right = low + _GOLDEN * (high - low)
            right_loss = loss(right)
    return float(np.exp((low + high) / 2))


def _top(scored: Scored) -> tuple[Floats, Floats]:
    confidence: Floats = scored.probabilities.max(axis=1)
    return confidence, (scored.predictions == scored.labels).astype(np.float64)


def _equal_width(confidence: Floats) -> Ints:
    """A score on an edge goes to the upper bin, 1.0 to the last."""
    return np.minimum((confidence * BINS).astype(np.int64), BINS - 1)


def _calibration_of(scored: Scored, weights: Floats) -> Mapping[str, Floats]:
    confidence, right = _top(scored)
    by_width = _equal_width(confidence)
    rank = np.argsort(np.argsort(confidence, kind="stable"), kind="stable")
    by_count = rank * BINS // len(rank)
    target = np.eye(scored.probabilities.shape[1])[scored.labels]
    squared = ((scored.probabilities - target) ** 2).sum(axis=1)
    total = weights.sum(axis=1)
    return {
        "ece": _gap(by_width, right - confidence, weights) / total,
        "adaptiveEce": _gap(by_count, right - confidence, weights) / total,
        "brier": weights @ squared / total,
    }


def _gap(bins: Ints, excess: Floats, weights: Floats) -> Floats:
    gaps: Floats = np.abs(weights @ (np.eye(BINS)[bins] * excess[:, None])).sum(axis=1)
    return gaps
