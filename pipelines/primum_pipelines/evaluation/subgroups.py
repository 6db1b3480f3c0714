"""Figures per subgroup, and what a group gets less than the others.

The arithmetic of Tayebi Arasteh et al. 2024: a group's figure minus the mean of that figure over
all other groups, weighted by their sizes. They call the difference in accuracy statistical parity;
here every difference has its own name. Groups below 30 units are not measured: thirty slices of one
patient are that patient.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from primum.domain.canonical import JSON, decimal_text
from primum_pipelines.evaluation.figures import (
    Figure,
    Floats,
    Ints,
    Scored,
    one_against_the_rest,
    over_units,
    roc_auc_of,
    share_of,
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
_ALONE: Mapping[str, JSON] = {"masked": f"no other group has {GROUP_MIN}"}


@dataclass(frozen=True, slots=True, repr=False)
class Measure:
    """What is measured in each group.

    Args:
        strata: ``(n,)``, see ``figures.over_units``.
        units: ``(n,)``, the unit of each row; ``None`` where every row is one.
        figures: Names of the figures.
        differences: Name of a difference to the others, to the figure that it is of.
        of: The figures ``(b,)`` of the rows of a mask ``(n,)``, for their weights ``(b, rows)``.
    """

    strata: Ints
    units: NDArray[np.generic] | None
    figures: tuple[str, ...]
    differences: Mapping[str, str]
    of: Callable[[NDArray[np.bool_], Floats], Mapping[str, Floats]]


def fairness(scored: Scored, groups: Mapping[str, Ints]) -> dict[str, JSON]:
    """Figures of a classifier per group; see ``in_groups``."""

    def of(inside: NDArray[np.bool_], weights: Floats) -> Mapping[str, Floats]:
        return _rates(scored.where(inside), weights)

    measure = Measure(scored.labels, scored.units, _FIGURES, _DIFFERENCES, of)
    report = in_groups(measure, groups)
    for attribute, numbers in groups.items():
        entries = report[attribute]
        for key, entry in entries.items() if isinstance(entries, dict) else ():
            if isinstance(entry, dict) and "rows" in entry:
                entry.update(_shares(scored, numbers == int(key)))
    return report


def _shares(scored: Scored, inside: NDArray[np.bool_]) -> dict[str, JSON]:
    """Shares of one group, with intervals as they are for everybody."""
    said, true = scored.predictions == scored.positive, scored.labels == scored.positive
    found = {
        "accuracy": share_of(scored, scored.predictions == scored.labels, inside),
        "positiveRate": share_of(scored, said, inside),
        "sensitivity": share_of(scored, said, inside & true),
        "specificity": share_of(scored, ~said, inside & ~true),
    }
    return {name: figure.to_json() for name, figure in found.items()}


def in_groups(measure: Measure, groups: Mapping[str, Ints]) -> dict[str, JSON]:
    """Figures per group, differences to the others, and the largest gap of each attribute.

    Args:
        measure: What is measured on held-out rows.
        groups: Group number of each row, by attribute.

    Returns:
        Per attribute, by group number: ``{"masked": "fewer than 30"}`` (or, where one group alone
        has as many, that no other has), or ``rows``,
        ``sampleRatio`` (rows of the others over its own), figures with 95 % intervals, and
        differences with intervals. Under ``gap``: the largest minus the smallest of each figure
        over the groups that were measured. A figure of a group that lacks a class is NaN.
    """
    return {name: _of_attribute(measure, numbers) for name, numbers in groups.items()}


def of_each(
    found: Mapping[str, Figure],
    names: Mapping[int, str],
    figures: Sequence[str],
    measured: Collection[int],
) -> dict[str, JSON]:
    """Figures of each class or label by its name; those that few units have are masked.

    Args:
        found: Figures under ``{number}/{figure}``.
        names: Names of what is shown, by number.
        figures: Names of the figures.
        measured: Numbers of those that enough units have.
    """
    return {
        name: {figure: found[f"{number}/{figure}"].to_json() for figure in figures}
        if number in measured
        else dict(_MASKED)
        for number, name in names.items()
    }


def each_class(scored: Scored, names: Sequence[str]) -> dict[str, JSON]:
    """Sensitivity and specificity of every class against the rest, where there are more than two.

    Args:
        scored: Held-out rows.
        names: Names of the classes.

    Returns:
        ``classes``: the two of each class by its name; a class that fewer than 30 units have, or
        lack, is masked. Nothing for two classes, whose figures are those of the positive one.
    """
    if len(names) <= 2:  # noqa: PLR2004 - the other class is the rest
        return {}
    found: dict[str, Figure] = {}
    measured = []
    for number in range(len(names)):
        inside = scored.labels == number
        if min(people(scored.units, inside), people(scored.units, ~inside)) >= GROUP_MIN:
            measured.append(number)
            of = one_against_the_rest(scored, number)
            found |= {f"{number}/{name}": figure for name, figure in of.items()}
    shown = of_each(found, dict(enumerate(names)), ("sensitivity", "specificity"), measured)
    return {"classes": shown}


def people(units: NDArray[np.generic] | None, inside: NDArray[np.bool_]) -> int:
    """How many units have a row in a mask ``(n,)``."""
    return int(inside.sum()) if units is None else len(np.unique(units[inside]))


def _of_attribute(measure: Measure, numbers: Ints) -> dict[str, JSON]:
    present = np.unique(numbers)
    measured = [int(n) for n in present if people(measure.units, numbers == n) >= GROUP_MIN]
    report: dict[str, JSON] = {str(int(number)): dict(_MASKED) for number in present}
    if len(measured) < 2:  # noqa: PLR2004 - nothing to compare with
        # Beside the figures of everybody, those of the one group would give the others away.
        return report | {str(number): dict(_ALONE) for number in measured}
    sizes = {number: int((numbers == number).sum()) for number in measured}
    figures = over_units(
        measure.strata, measure.units, lambda weights: _values(measure, weights, numbers, sizes)
    )
    others = sum(sizes.values())
    for number in measured:
        entry: dict[str, JSON] = {
            "rows": sizes[number],
            "sampleRatio": decimal_text((others - sizes[number]) / sizes[number]),
        }
        for name in (*measure.figures, *measure.differences):
            entry[name] = figures[f"{number}/{name}"].to_json()
        report[str(number)] = entry
    report["gap"] = {name: figures[f"gap/{name}"].to_json() for name in measure.figures}
    return report


def _values(
    measure: Measure, weights: Floats, numbers: Ints, sizes: Mapping[int, int]
) -> Mapping[str, Floats]:
    by_group = {}
    for number in sizes:
        inside = numbers == number
        by_group[number] = measure.of(inside, weights[:, inside])
    found: dict[str, Floats] = {}
    for number, own in by_group.items():
        rest = [other for other in sizes if other != number]
        shares = np.array([sizes[other] for other in rest], dtype=np.float64)
        for name in measure.figures:
            found[f"{number}/{name}"] = own[name]
        for name, of in measure.differences.items():
            values = np.stack([by_group[other][of] for other in rest])
            found[f"{number}/{name}"] = own[of] - shares @ values / shares.sum()
    for name in measure.figures:
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
