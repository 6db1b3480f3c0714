"""Figures of masks on held-out units: Dice and intersection over union, with 95 % intervals.

A unit has one value: pixels of all its masks are counted together first, because two slices of a
patient are not two patients. A class that few units have is not shown and does not enter means: it
would tell of one of them. Pure NumPy; knows no Study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from primum.domain.canonical import JSON
from primum_pipelines.evaluation.figures import Floats, Ints, mean_of_defined, over_units
from primum_pipelines.evaluation.subgroups import GROUP_MIN, Measure, in_groups, of_each, people

_FIGURES = ("dice", "iou", "accuracy")
_DIFFERENCES = {
    "diceDifference": "dice",
    "iouDifference": "iou",
    "accuracyDifference": "accuracy",
}


@dataclass(frozen=True, slots=True, repr=False)
class Overlaps:
    """Pixels of held-out masks, counted row by row.

    Args:
        both: ``(n, classes)``: pixels that are of the class and are said to be.
        said: ``(n, classes)``: that are said to be.
        true: ``(n, classes)``: that are.
        units: ``(n,)``, the privacy unit of each row.
    """

    both: Ints
    said: Ints
    true: Ints
    units: NDArray[np.generic]

    def measured(self) -> list[int]:
        """Foreground classes that 30 units have, or all of them where there are fewer."""
        enough = min(GROUP_MIN, len(np.unique(self.units)))
        classes = range(1, self.true.shape[1])
        return [
            number for number in classes if people(self.units, self.true[:, number] > 0) >= enough
        ]


def overlaps(
    said: NDArray[np.uint8], true: NDArray[np.uint8], *, classes: int
) -> tuple[Ints, Ints, Ints]:
    """Counts of some rows, as ``Overlaps`` has them.

    Args:
        said: ``(n, ...)`` class numbers by the model.
        true: ``(n, ...)`` class numbers.
        classes: Number of classes.
    """
    flat = said.reshape(len(said), -1), true.reshape(len(true), -1)
    parts = []
    for number in range(classes):
        left, right = flat[0] == number, flat[1] == number
        parts.append(((left & right).sum(axis=1), left.sum(axis=1), right.sum(axis=1)))
    both, predicted, actual = (np.stack(part, axis=1) for part in zip(*parts, strict=True))
    return both, predicted, actual


def utility(counted: Overlaps, classes: Sequence[str]) -> dict[str, JSON]:
    """Mean Dice and intersection over union of foreground classes, share of right pixels.

    Args:
        counted: The counts.
        classes: Names; the first is the background.

    Returns:
        ``dice``, ``iou`` and ``accuracy``, and ``classes``: the same two by class. A unit without a
        pixel of a class, said or true, has no value for it; the mean of a class is over units that
        have one, and the mean over classes is over those that are measured and have a mean.
    """
    measured = counted.measured()
    every = np.ones(len(counted.units), dtype=bool)
    found = over_units(
        np.zeros(len(counted.units), dtype=np.int64),
        counted.units,
        lambda weights: _values(counted, every, weights, measured),
    )
    report: dict[str, JSON] = {name: found[name].to_json() for name in _FIGURES}
    foreground = {number: name for number, name in enumerate(classes) if number}
    report["classes"] = of_each(found, foreground, ("dice", "iou"), measured)
    return report


def fairness(counted: Overlaps, groups: Mapping[str, Ints]) -> dict[str, JSON]:
    """Dice, intersection over union and right pixels per group; see ``subgroups.in_groups``."""
    measured = counted.measured()
    measure = Measure(
        strata=np.zeros(len(counted.units), dtype=np.int64),
        units=counted.units,
        figures=_FIGURES,
        differences=_DIFFERENCES,
        of=lambda inside, weights: _values(counted, inside, weights, measured),
    )
    return in_groups(measure, groups)


def _values(
    counted: Overlaps, inside: NDArray[np.bool_], weights: Floats, measured: Sequence[int]
) -> Mapping[str, Floats]:
    _, first, owner = np.unique(counted.units[inside], return_index=True, return_inverse=True)

    def by_unit(values: Ints) -> Floats:
        total = np.zeros((len(first), values.shape[1]))
        np.add.at(total, owner, values[inside])
        return total

    both, said, true = (by_unit(part) for part in (counted.both, counted.said, counted.true))
    of_unit = weights[:, first]
    with np.errstate(invalid="ignore", divide="ignore"):
        dice = _means(2 * both / (said + true), of_unit)
        iou = _means(both / (said + true - both), of_unit)
        right = _means((both.sum(axis=1) / true.sum(axis=1))[:, None], of_unit)
    found = {
        "dice": mean_of_defined(dice[:, measured].T),
        "iou": mean_of_defined(iou[:, measured].T),
        "accuracy": right[:, 0],
    }
    for number in measured:
        found[f"{number}/dice"] = dice[:, number]
        found[f"{number}/iou"] = iou[:, number]
    return found


def _means(values: Floats, weights: Floats) -> Floats:
    """Weighted means ``(b, classes)`` over the units that have a value."""
    known = np.isfinite(values)
    found: Floats = weights @ np.where(known, values, 0) / (weights @ known.astype(np.float64))
    return found
