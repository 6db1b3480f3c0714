"""Figures of a model that says of each label whether it applies, with 95 % intervals by unit.

As in chest radiographs, where a patient has any of several findings. Figures of a label with fewer
than 30 units on one side are not shown and do not enter means: they say nothing and may single out
people. Pure NumPy; knows no Study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from primum.domain.canonical import JSON
from primum_pipelines.evaluation.calibration import BINS
from primum_pipelines.evaluation.figures import (
    Floats,
    Ints,
    average_precision,
    mean_of_defined,
    over_units,
    roc_auc,
)
from primum_pipelines.evaluation.subgroups import GROUP_MIN, Measure, in_groups, of_each, people

_THRESHOLD = 0.5
_OF_LABEL = ("rocAuc", "averagePrecision", "sensitivity", "specificity")
_OF_CALIBRATION = ("ece", "brier")
_FIGURES = ("accuracy", "exactMatch", "rocAuc", "weightedRocAuc", "averagePrecision")
_GROUP_FIGURES = ("accuracy", "rocAuc", "sensitivity", "specificity")
_DIFFERENCES = {
    "accuracyDifference": "accuracy",
    "rocAucDifference": "rocAuc",
    "equalOpportunityDifference": "sensitivity",
}


@dataclass(frozen=True, slots=True, repr=False)
class Answers:
    """Held-out rows as a model sees them.

    Args:
        labels: ``(n, labels)`` of 0 and 1.
        probabilities: ``(n, labels)``, each by itself.
        units: ``(n,)``, the privacy unit of each row.
    """

    labels: NDArray[np.uint8]
    probabilities: Floats
    units: NDArray[np.generic]

    def measured(self) -> list[int]:
        """Numbers of the labels with enough units on both sides."""
        sides = ((self.labels == 1).T, (self.labels == 0).T)
        return [
            number
            for number, both in enumerate(zip(*sides, strict=True))
            if min(people(self.units, side) for side in both) >= GROUP_MIN
        ]


def utility(answers: Answers, names: Sequence[str]) -> dict[str, JSON]:
    """Figures over labels and of each.

    Args:
        answers: Held-out rows.
        names: Names of the labels.

    Returns:
        ``accuracy`` (share of labels said rightly), ``exactMatch`` (share of rows with all right),
        ``rocAuc`` and ``averagePrecision`` (means over the measured labels), ``weightedRocAuc``
        (weighted by how many rows have the label), and ``labels``: ROC-AUC, average precision,
        sensitivity and specificity of each at a probability of one half.
    """
    measured = answers.measured()
    every = np.ones(len(answers.labels), dtype=bool)
    found = over_units(
        np.zeros(len(answers.labels), dtype=np.int64),
        answers.units,
        lambda weights: _values(answers, every, weights, measured),
    )
    report: dict[str, JSON] = {name: found[name].to_json() for name in _FIGURES}
    report["labels"] = of_each(found, dict(enumerate(names)), _OF_LABEL, measured)
    return report


def calibration(answers: Answers, names: Sequence[str]) -> dict[str, JSON]:
    """Expected calibration error in 15 equal-width bins and Brier score, means over labels.

    Args:
        answers: Held-out rows.
        names: Names of the labels.

    Returns:
        ``ece`` and ``brier`` over the measured labels, and ``labels``: the two of each. The bins
        are of the stated probability of the label, not of the more probable side.
    """
    measured = answers.measured()
    found = over_units(
        np.zeros(len(answers.labels), dtype=np.int64),
        answers.units,
        lambda weights: _calibration_of(answers, weights, measured),
    )
    report: dict[str, JSON] = {name: found[name].to_json() for name in _OF_CALIBRATION}
    report["labels"] = of_each(found, dict(enumerate(names)), _OF_CALIBRATION, measured)
    return report


def fairness(answers: Answers, groups: Mapping[str, Ints]) -> dict[str, JSON]:
    """Means over labels per group; see ``subgroups.in_groups``."""
    measured = answers.measured()
    measure = Measure(
        strata=np.zeros(len(answers.labels), dtype=np.int64),
        units=answers.units,
        figures=_GROUP_FIGURES,
        differences=_DIFFERENCES,
        of=lambda inside, weights: _values(answers, inside, weights, measured),
    )
    return in_groups(measure, groups)


def _values(
    answers: Answers, inside: NDArray[np.bool_], weights: Floats, measured: Sequence[int]
) -> Mapping[str, Floats]:
    true, scores = answers.labels[inside] == 1, answers.probabilities[inside]
    said = scores >= _THRESHOLD
    total = weights.sum(axis=1)
    found: dict[str, Floats] = {
        "accuracy": weights @ (said == true).mean(axis=1) / total,
        "exactMatch": weights @ (said == true).all(axis=1).astype(np.float64) / total,
    }
    for number in measured:
        actual = true[:, number]
        right = (said[:, number] == actual).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            found[f"{number}/sensitivity"] = weights @ (right * actual) / (weights @ actual)
            found[f"{number}/specificity"] = weights @ (right * ~actual) / (weights @ ~actual)
        found[f"{number}/rocAuc"] = roc_auc(actual, scores[:, number], weights)
        found[f"{number}/averagePrecision"] = average_precision(actual, scores[:, number], weights)
    for name in _OF_LABEL:
        found[name] = _mean(found, name, measured, weights)
    frequency = [weights @ true[:, number] for number in measured]
    found["weightedRocAuc"] = _mean(found, "rocAuc", measured, weights, shares=frequency)
    return found


def _mean(
    found: Mapping[str, Floats],
    name: str,
    measured: Sequence[int],
    weights: Floats,
    *,
    shares: Sequence[Floats] = (),
) -> Floats:
    """The mean over labels that have the figure, ``(b,)``; NaN where none has."""
    if not measured:
        return np.full(len(weights), np.nan)
    values = np.stack([found[f"{number}/{name}"] for number in measured])
    return mean_of_defined(values, np.stack(shares) if shares else 1.0)


def _calibration_of(
    answers: Answers, weights: Floats, measured: Sequence[int]
) -> Mapping[str, Floats]:
    found: dict[str, Floats] = {}
    total = weights.sum(axis=1)
    for number in measured:
        stated = answers.probabilities[:, number]
        apart = answers.labels[:, number] - stated
        bins = np.minimum((stated * BINS).astype(np.int64), BINS - 1)
        inside = np.eye(BINS)[bins] * apart[:, None]
        found[f"{number}/ece"] = np.abs(weights @ inside).sum(axis=1) / total
        found[f"{number}/brier"] = weights @ apart**2 / total
    for name in _OF_CALIBRATION:
        found[name] = _mean(found, name, measured, weights)
    return found
