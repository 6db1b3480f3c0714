"""Which rows of a batch belong to which unit, for sums over a unit's rows. Rows are adjacent."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from primum.domain.errors import InvalidValue


@dataclass(frozen=True, slots=True, repr=False)
class Segments:
    """The units of one batch, in order.

    Args:
        units: Number of units U.
        rows: Number of rows R; rows of one unit are adjacent, units in order.
        owners: Unit of each row, int64 ``(R,)``; ``None`` if every unit has the same number of
            rows, R / U.
    """

    units: int
    rows: int
    owners: torch.Tensor | None = None

    @property
    def rows_each(self) -> int:
        """Rows of every unit; only where all have the same number."""
        return self.rows // max(1, self.units)

    @property
    def rows_max(self) -> int:
        """Rows of the unit that has most."""
        if self.owners is None or not self.rows:
            return self.rows_each
        return int(torch.bincount(self.owners).max())

    def folded(self, slices: int) -> Segments:
        """Every row in ``slices`` adjacent parts."""
        owners = None if self.owners is None else self.owners.repeat_interleave(slices)
        return Segments(self.units, self.rows * slices, owners)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sums over each unit's rows: ``(R, ...)`` to ``(U, ...)``."""
        if self.owners is None:
            if self.rows_each == 1:
                return values
            return values.unflatten(0, (self.units, self.rows_each)).sum(dim=1)
        zeros = values.new_zeros((self.units, *values.shape[1:]))
        return zeros.index_add_(0, self.owners, values)

    def side_by_side(self, values: torch.Tensor) -> torch.Tensor:
        """Positions of all rows of a unit in one axis: ``(R, T, d)`` to ``(U, K T, d)``.

        Units with fewer rows than the largest, K, are filled up with zeros.
        """
        if self.owners is None:
            return values.reshape(self.units, self.rows_each * values.shape[1], values.shape[2])
        counts = torch.bincount(self.owners, minlength=self.units)
        first = counts.cumsum(0) - counts
        place = torch.arange(self.rows, device=values.device) - first[self.owners]
        padded = values.new_zeros((self.units, int(counts.max()), *values.shape[1:]))
        padded[self.owners, place] = values
        return padded.flatten(1, 2)

    def spread(self, factors: torch.Tensor) -> torch.Tensor:
        """Each unit's factor on each of its rows: ``(U,)`` to ``(R,)``."""
        if self.owners is not None:
            return factors[self.owners]
        return factors if self.rows_each == 1 else factors.repeat_interleave(self.rows_each)


def one_row_each(rows: int) -> Segments:
    """Every row is a unit."""
    return Segments(units=rows, rows=rows)


def sized(sizes: torch.Tensor) -> Segments:
    """Units with these numbers of rows.

    Args:
        sizes: int64 ``(U,)``, each at least 1.

    Raises:
        InvalidValue: If a unit has no row.
    """
    if not len(sizes):
        return Segments(units=0, rows=0)
    if int(sizes.min()) < 1:
        raise InvalidValue("unit", "must have at least one row", "none")
    rows = int(sizes.sum())
    if bool((sizes == sizes[0]).all()):
        return Segments(units=len(sizes), rows=rows)
    owners = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
    return Segments(units=len(sizes), rows=rows, owners=owners)
