"""Figures per subgroup, and what a group gets less than the others.

The arithmetic of Tayebi Arasteh et al. 2024: a group's figure minus the mean of that figure over
all other groups, weighted by their sizes. They call the difference in accuracy statistical parity;
here every difference has its own name. Groups below 30 rows are not measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from primum.domain.canonical import JSON, decimal_text
from primum_pipelines.evaluation.figures import (
    Floats,
    Ints,
    Scored,
    bootstrapped,
    roc_auc_of,
)

GROUP_MIN = 30  # Below it a figure of a group says nothing and may single out people.
_FIGURES = ("accuracy", "positiveRate", "sensitivity", "specificity", "rocAuc")
_DIFFERENCES = {
    "accuracyDifference": "accuracy",
    "statisticalParityDifference": "positiveRate",
    "equalOpportunityDifference": "sensitivity",
    "rocAucDifference": "rocAuc",
}
_MASKED: Mapping[str, JSON] = {"masked": f"fewer than {GROUP_MIN}"}


def fairness(scored: Scored, groups: Mapping[str, Ints]) -> dict[str, JSON]:
    """Figures per group, differences to the others, and the largest gap of each attribute.

    Args:
        scored: Held-out rows.
        groups: Group number of each row, by attribute.

    Returns:
        Per attribute, by group number: ``{"masked": "fewer than 30"}``, or ``rows``,
        ``sampleRatio`` (rows of the others over its own), figures with 95 % intervals, and
        differences with intervals. Under ``gap``: the largest minus the smallest of each figure
        over the groups that were measured. A figure of a group that lacks a class is NaN.
    """
    return {name: _of_attribute(scored, numbers) for name, numbers in groups.items()}


def _of_attribute(scored: Scored, numbers: Ints) -> dict[str, JSON]:
    present, counts = np.unique(numbers, return_counts=True)
    measured = [int(n) for n, count in zip(present, counts, strict=True) if count >= GROUP_MIN]
    report: dict[str, JSON] = {str(int(number)): dict(_MASKED) for number in present}
    if len(measured) < 2:  # noqa: PLR2004 - nothing to compare with
        return report
    sizes = {number: int((numbers == number).sum()) for number in measured}

    def of(rows: Scored, weights: Floats) -> Mapping[str, Floats]:
        return _values(rows, weights, numbers, sizes)

    figures = bootstrapped(scored, of)
    others = sum(sizes.values())
    for number in measured:
        entry: dict[str, JSON] = {
            "rows": sizes[number],
            "sampleRatio": decimal_text((others - sizes[number]) / sizes[number]),
        }
        for name in (*_FIGURES, *_DIFFERENCES):
            entry[name] = figures[f"{number}/{name}"].to_json()
        report[str(number)] = entry
    report["gap"] = {name: figures[f"gap/{name}"].to_json() for name in _FIGURES}
    return report


def _values(
    scored: Scored, weights: Floats, numbers: Ints, sizes: Mapping[int, int]
) -> Mapping[str, Floats]:
    by_group = {}
    for number in sizes:
        inside = numbers == number
        by_group[number] = _rates(scored.where(inside), weights[:, inside])
    found: dict[str, Floats] = {}
    for number, own in by_group.items():
        rest = [other for other in sizes if other != number]
        shares = np.array([sizes[other] for other in rest], dtype=np.float64)
        for name in _FIGURES:
            found[f"{number}/{name}"] = own[name]
        for name, of in _DIFFERENCES.items():
            values = np.stack([by_group[other][of] for other in rest])
            found[f"{number}/{name}"] = own[of] - shares @ values / shares.sum()
    for name in _FIGURES:
        values = np.stack([own[name] for own in by_group.values()])
        found[f"gap/{name}"] = values.max(axis=0) - values.min(axis=0)
    return found


def _rates(scored: Scored, weights: Floats) -> Mapping[str, Floats]:
    predicted = (scored.predictions == scored.positive).astype(np.float64)
    actual = (scored.labels == scored.positive).astype(np.float64)
    right = (scored.predictions == scored.labels).astype(np.float64)
    total = weights.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "accuracy": weights @ right / total,
            "positiveRate": weights @ predicted / total,
            "sensitivity": weights @ (predicted * actual) / (weights @ actual),
            "specificity": weights @ ((1 - predicted) * (1 - actual)) / (weights @ (1 - actual)),
            "rocAuc": roc_auc_of(scored, weights),
        }


def widest_gap(report: Mapping[str, JSON], figure: str) -> float:
    """The largest gap of a figure over all attributes of a report; NaN where none was measured."""
    gaps = []
    for attribute in report.values():
        gap = attribute.get("gap") if isinstance(attribute, Mapping) else None
        entry = gap.get(figure) if isinstance(gap, Mapping) else None
        if isinstance(entry, Mapping):
            gaps.append(float(str(entry["estimate"])))
    known = [gap for gap in gaps if not math.isnan(gap)]
    return max(known, default=math.nan)
