"""Puts a table of units together from the rows of a dataset, the same way for every format.

A format knows how to find its rows, their cells and their features; which rows are read, whose they
are, in which block, group and side of the split, is decided here. Rows of other blocks are never
decoded. Messages name a column, never a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from primum.domain.budget.layout import BlockLayout
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.quantities import PrivacyUnit
from primum_pipelines.datasets.declared import Labels, Subgroup, readers_of, subgroups_of
from primum_pipelines.datasets.driver import in_train_split
from primum_pipelines.datasets.table import LabelTask, UnitTable

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, repr=False)
class Sheet:
    """The rows of a dataset before any is decoded.

    Args:
        rows: How many.
        cells: The cells of a column as text, one per row; raises ``InvalidValue`` for a column
            that is not there.
        features: float32 features of some rows, ``(k, ...)``.
        labels: Labels of some rows, as ``UnitTable`` has them.
        named: What some rows' units are called where no column says it. Asked after ``features``.
        published: Side of the published split, true for training; ``None`` where there is none.
        feature_names: Public names of the features; empty for images.
        feature_low: Public lower bounds.
        feature_high: Public upper bounds.
    """

    rows: int
    cells: Callable[[str], Sequence[str]]
    features: Callable[[NDArray[np.int64]], NDArray[np.float32]]
    labels: Callable[[NDArray[np.int64]], NDArray[np.int64] | NDArray[np.uint8]]
    named: Callable[[NDArray[np.int64]], Sequence[str]]
    published: NDArray[np.bool_] | None = None
    feature_names: tuple[str, ...] = ()
    feature_low: NDArray[np.float32] | None = None
    feature_high: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """Which rows are wanted, and what is declared about them.

    Args:
        unit: The privacy unit.
        options: The dataset's options.
        labels: What is to be predicted.
        layout: How rows are placed in blocks; ``None`` where the dataset is not divided.
        wanted: The blocks to read; ``None`` for every row.
    """

    unit: PrivacyUnit
    options: Mapping[str, JSON]
    labels: Labels
    layout: BlockLayout | None = None
    wanted: Collection[str] | None = None


def assemble(sheet: Sheet, reading: Reading) -> UnitTable:
    """The table of the wanted rows.

    Guarantees:
        Of a row in another block nothing is read but its block and its unit. The side of a unit in
        the split depends on its name alone, or is published.

    Raises:
        InvalidValue: If a column is missing, a unit has no name, or a unit of a wanted block has
            rows in another block.
    """
    rows, blocks = _placed(sheet, reading)
    prefix = f"{reading.unit.value.lower()}-"
    column = reading.options.get("unitColumn")
    if column is not None:
        names = _unit_cells(sheet, str(column))
        _require_one_block(names, rows, reading)
        names = names[rows]
    features, labels = sheet.features(rows), sheet.labels(rows)
    if column is None:
        names = np.array(list(sheet.named(rows)), dtype=str)
    units = np.char.add(prefix, names) if len(names) else names.astype(str)
    groups = {group.column: group for group in subgroups_of(reading.options)}
    return UnitTable(
        features=features,
        labels=labels,
        units=units,
        train=_sides(units) if sheet.published is None else sheet.published[rows],
        classes=reading.labels.classes,
        feature_names=sheet.feature_names,
        feature_low=sheet.feature_low,
        feature_high=sheet.feature_high,
        subgroups={name: _numbers(sheet.cells(name), rows, item) for name, item in groups.items()},
        blocks=blocks,
        task=reading.labels.task,
        subgroup_names={name: item.names for name, item in groups.items()},
        readers={
            name: _said(sheet.cells(name), rows, reading.labels.classes, name)
            for name in readers_of(reading.options, reading.labels)
        },
    )


def class_numbers(cells: Sequence[str], classes: Sequence[str], column: str) -> NDArray[np.int64]:
    """Class numbers of cells, ``(k,)``.

    Raises:
        InvalidValue: If a cell is no class; names the column and the classes.
    """
    known = {name: number for number, name in enumerate(classes)}
    found = [known.get(cell.strip(), -1) for cell in cells]
    if min(found, default=0) < 0:
        listed = ", ".join(classes)
        raise InvalidValue(
            f"dataset column {column}", f"must hold one of {listed}", "another label or none"
        )
    return np.array(found, dtype=np.int64)


def labels_in_cells(
    cells: Callable[[str], Sequence[str]], rows: NDArray[np.int64], labels: Labels
) -> NDArray[np.int64] | NDArray[np.uint8]:
    """Labels out of columns: class numbers, or 0 and 1 for each class.

    Raises:
        InvalidValue: If a cell is no label.
    """

    def of(column: str, classes: Sequence[str]) -> NDArray[np.int64]:
        held = cells(column)
        return class_numbers([held[row] for row in rows], classes, column)

    if labels.task is LabelTask.MULTI_LABEL:
        found = [of(column, ("0", "1")) for column in labels.columns]
        return np.stack(found, axis=1).astype(np.uint8)
    return of(labels.columns[0], labels.classes)


def _placed(sheet: Sheet, reading: Reading) -> tuple[NDArray[np.int64], NDArray[np.str_] | None]:
    """The rows to read, and the block of each."""
    if reading.layout is None:
        return np.arange(sheet.rows), None
    blocks = [reading.layout.block_of(cell) for cell in sheet.cells(reading.layout.column)]
    if reading.wanted is None:
        return np.arange(sheet.rows), np.array(blocks, dtype=str)
    kept = [row for row, block in enumerate(blocks) if block in reading.wanted]
    return np.array(kept, dtype=np.int64), np.array([blocks[row] for row in kept], dtype=str)


def _unit_cells(sheet: Sheet, column: str) -> NDArray[np.str_]:
    names = np.array(list(sheet.cells(column)), dtype=str)
    if any(not name.strip() for name in names):
        rule = "must name the privacy unit of every row"
        raise InvalidValue(f"dataset column {column}", rule, "an empty cell")
    return names


def _require_one_block(names: NDArray[np.str_], rows: NDArray[np.int64], reading: Reading) -> None:
    """A unit in two blocks would be spent in both; registration refuses it, and files change."""
    if reading.layout is None or len(rows) == len(names):
        return
    others = np.ones(len(names), dtype=bool)
    others[rows] = False
    if np.isin(names[others], names[rows]).any():
        raise InvalidValue(
            "dataset blocks",
            "must have each unit in one block",
            "a unit in two",
            "Place a unit by something that all its rows share, such as its first visit.",
        )


def _sides(units: NDArray[np.str_]) -> NDArray[np.bool_]:
    names, owners = np.unique(units, return_inverse=True)
    sides = np.array([in_train_split(str(name)) for name in names], dtype=bool)
    found: NDArray[np.bool_] = sides[owners]
    return found


def _numbers(cells: Sequence[str], rows: NDArray[np.int64], group: Subgroup) -> NDArray[np.int64]:
    other = len(group.names) - 1
    if group.values:
        known = {value: number for number, value in enumerate(group.values)}
        return np.array([known.get(cells[row].strip(), other) for row in rows], dtype=np.int64)
    cuts = [float(cut) for cut in group.cuts]
    found = []
    for row in rows:
        value = _number(cells[row])
        found.append(other if value is None else int(np.searchsorted(cuts, value, side="right")))
    return np.array(found, dtype=np.int64)


def _said(
    cells: Sequence[str], rows: NDArray[np.int64], classes: Sequence[str], column: str
) -> NDArray[np.int64]:
    """What a reader said: class numbers, -1 for nothing. Names come before numbers."""
    known = {str(number): number for number in range(len(classes))}
    known |= {name: number for number, name in enumerate(classes)} | {"": -1, "-1": -1}
    found = [known.get(cells[row].strip()) for row in rows]
    if None in found:
        rule = f"must hold one of {', '.join(classes)}, its number, or nothing"
        raise InvalidValue(f"dataset column {column}", rule, "something else")
    return np.array(found, dtype=np.int64)


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if np.isfinite(value) else None
