"""Which rows belong to which privacy unit, and how many of them a unit may contribute.

A unit is clipped, sampled, split and withdrawn as a whole, so its rows lie side by side in every
table that is opened. What a unit may contribute is a declared public number; which of its rows are
kept depends on this unit alone. Must never look at one unit to decide about another, and must never
show a name or a count.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from primum.domain.errors import InvalidValue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from primum_pipelines.datasets.table import UnitTable

_DOMAIN = b"primum-contribution-v1\x1f"
_SEPARATOR = b"\x1f"


@dataclass(frozen=True, slots=True, repr=False)
class UnitRows:
    """Which rows belong to which unit.

    Args:
        offsets: int64 ``(units + 1,)``; rows ``offsets[u]`` to ``offsets[u + 1]`` are those of unit
            ``u``. Begins with 0, rises strictly, ends with the number of rows.
    """

    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        rising = len(self.offsets) > 0 and self.offsets[0] == 0 and (self.sizes > 0).all()
        if not rising:
            raise InvalidValue("offsets", "must begin with 0 and rise strictly", "others")

    def __repr__(self) -> str:
        """Nothing about any unit."""
        return "UnitRows()"

    @property
    def count(self) -> int:
        """Number of units."""
        return len(self.offsets) - 1

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.offsets[-1])

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows of each unit, int64 ``(units,)``, each at least 1."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> NDArray[np.int64]:
        """Unit number of each row, int64 ``(rows,)``, rising."""
        return np.repeat(np.arange(self.count), self.sizes)

    def rows_of(self, units: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row numbers of some units, unit by unit in the order given.

        Args:
            units: Unit numbers from 0 to ``count - 1``.
        """
        starts, sizes = self.offsets[:-1][units], self.sizes[units]
        before = np.cumsum(sizes) - sizes
        numbers: NDArray[np.int64] = np.arange(int(sizes.sum())) + np.repeat(starts - before, sizes)
        return numbers

    def with_singles(self, count: int) -> UnitRows:
        """The same with more units of one row each at the end, such as canaries.

        Args:
            count: How many.
        """
        more = self.rows + np.arange(1, count + 1)
        return UnitRows(np.concatenate([self.offsets, more]))


def one_row_each(rows: int) -> UnitRows:
    """As many units as rows."""
    return UnitRows(np.arange(rows + 1, dtype=np.int64))


def unit_rows(units: NDArray[np.str_]) -> UnitRows:
    """The rows of each unit, in a table whose units lie side by side.

    Args:
        units: Name of each row's unit, ``(n,)``.

    Raises:
        InvalidValue: If the rows of a unit do not lie side by side.
    """
    begins = np.ones(len(units), dtype=bool)
    begins[1:] = units[1:] != units[:-1]
    if len(np.unique(units)) != begins.sum():
        raise InvalidValue("dataset rows", "must lie side by side for each unit", "others")
    return UnitRows(np.append(np.flatnonzero(begins), len(units)).astype(np.int64))


def by_unit(table: UnitTable, *, examples_max: int | None) -> UnitTable:
    """A table with the rows of each unit side by side, and no more of them than declared.

    Guarantees:
        Which rows of a unit are kept is decided by a hash of the unit's name and of each row's
        content. It does not depend on any other unit or on the order of the file, so adding or
        removing a unit changes the rows of no other one, and the choice costs no epsilon.

    Args:
        table: As a driver loaded it.
        examples_max: The declared number of rows that a unit may contribute; ``None`` where none
            is declared, and then no unit may have several.

    Raises:
        InvalidValue: If a unit has several rows and nothing is declared, or a unit is on both sides
            of the split or in two blocks.
    """
    names, first, owners = np.unique(table.units, return_index=True, return_inverse=True)
    if len(names) == len(table.units):
        return table
    if examples_max is None:
        raise InvalidValue(
            "dataset rows",
            "must be one per privacy unit",
            "a unit with several rows",
            "Declare dataset.options.maxExamplesPerUnit, aggregate the rows of each unit, or state "
            "the finer unit.",
        )
    _require_whole(table, owners, first)
    # Units in the order in which they first appear, rows of a unit in the order of the file.
    place = np.argsort(np.argsort(first))
    order = np.argsort(place[owners], kind="stable")
    sizes = np.bincount(owners)
    if sizes.max() <= examples_max:
        return table.only(order)
    crowded = sizes[owners] > examples_max
    kept = ~crowded
    kept[_chosen(table, owners, np.flatnonzero(crowded), examples_max=examples_max)] = True
    return table.only(order[kept[order]])


def _require_whole(table: UnitTable, owners: NDArray[np.int64], first: NDArray[np.int64]) -> None:
    if (table.train != table.train[first][owners]).any():
        raise InvalidValue(
            "dataset split",
            "must have each unit on one side",
            "a unit on both",
            "Use a split by unit, or a file without a split.",
        )
    if table.blocks is not None and (table.blocks != table.blocks[first][owners]).any():
        raise InvalidValue(
            "dataset blocks",
            "must have each unit in one block",
            "a unit in two",
            "Place a unit by something that all its rows share, such as its first visit.",
        )


def _chosen(
    table: UnitTable,
    owners: NDArray[np.int64],
    crowded: NDArray[np.int64],
    *,
    examples_max: int,
) -> NDArray[np.int64]:
    """Of the rows of crowded units, those with the smallest hashes."""
    keys = [_key(table, int(row)) for row in crowded]
    taken: dict[int, int] = {}
    chosen = []
    for _, row in sorted(zip(keys, crowded.tolist(), strict=True)):
        unit = int(owners[row])
        taken[unit] = taken.get(unit, 0) + 1
        if taken[unit] <= examples_max:
            chosen.append(row)
    return np.array(chosen, dtype=np.int64)


def _key(table: UnitTable, row: int) -> bytes:
    name = str(table.units[row]).encode()
    return hashlib.sha256(_DOMAIN + name + _SEPARATOR + table.row_digest(row)).digest()
