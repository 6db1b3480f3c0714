"""The records that attacks are tried on.

Scaled like the model's training data, one row per unit, no duplicates.
Exact copies across members and non-members would make members look like non-members; they are
dropped first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from primum.domain.errors import InvalidValue
from primum_pipelines.models.artifact import scale

if TYPE_CHECKING:
    from primum_pipelines.datasets.table import UnitTable
    from primum_pipelines.models.artifact import ModelSpec

_SHARED_MAX = 0.1  # Share of held-out records; small tables have equal rows by chance.


@dataclass(frozen=True, slots=True, repr=False)
class Contributions:
    """All rows of the units of a pool, where some have several.

    Args:
        inputs: As those of the pool, ``(rows, ...)``.
        labels: ``(rows,)``.
        owners: Which record of the pool each row's unit is, ``(rows,)``, rising.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    owners: torch.Tensor

    def of(self, kept: torch.Tensor) -> Contributions:
        """The rows of some units, by mask of the pool's records; owners are counted anew."""
        rows = kept[self.owners]
        numbers = kept.cumsum(dim=0) - 1
        return Contributions(self.inputs[rows], self.labels[rows], numbers[self.owners[rows]])


@dataclass(frozen=True, slots=True, repr=False)
class Pool:
    """Records of distinct units.

    Args:
        inputs: float32, scaled to [-1, 1], ``(n, ...)``.
        labels: int64, ``(n,)``.
        members: Whether the unit was in the training split, ``(n,)``.
        duplicates: Rows dropped: further rows of a unit, and exact copies.
        rows: Which rows of the table they are, ``(n,)``; empty where there is no table.
        contributions: All rows of the units, for training; ``None`` where each has this one alone.
        sites: Of a federation the number of each record's site, int64 ``(n,)``: 0 for the one that
            is attacked, the others are trained on alone. ``None`` where there is one.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    members: torch.Tensor
    duplicates: int
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    contributions: Contributions | None = None
    sites: torch.Tensor | None = None

    @property
    def attacked(self) -> torch.Tensor:
        """Which records are attacked: all, or those of the attacked site; booleans ``(n,)``."""
        if self.sites is None:
            return torch.ones(len(self.labels), dtype=torch.bool)
        return self.sites == 0

    def to(self, device: torch.device) -> Pool:
        """The same with all tensors on a device."""
        if self.inputs.device == device:
            return self
        rows = self.contributions
        if rows is not None:
            rows = Contributions(*(v.to(device) for v in (rows.inputs, rows.labels, rows.owners)))
        return replace(
            self,
            inputs=self.inputs.to(device),
            labels=self.labels.to(device),
            members=self.members.to(device),
            contributions=rows,
        )

    def only(self, kept: torch.Tensor) -> Pool:
        """Some of the records, by number, rising, or by mask."""
        chosen = kept.numpy()
        mask = torch.zeros(len(self.labels), dtype=torch.bool)
        mask[kept] = True
        return Pool(
            inputs=self.inputs[kept],
            labels=self.labels[kept],
            members=self.members[kept],
            duplicates=self.duplicates,
            rows=self.rows[chosen] if len(self.rows) else self.rows,
            contributions=None if self.contributions is None else self.contributions.of(mask),
            sites=None if self.sites is None else self.sites[kept],
        )


def pool_of(table: UnitTable, spec: ModelSpec) -> Pool:
    """All records of a table, deduplicated over both splits.

    Args:
        table: The private table.
        spec: Gives the public bounds that inputs are scaled by.

    Raises:
        InvalidValue: If the model is of another task than the table, or members and non-members
            overlap: a unit on both sides, or more than one held-out record in ten a copy of a
            training record.
    """
    require_task(table, spec)
    require_sides(table.units, table.train)
    _, first_of_unit = np.unique(table.units, return_index=True)
    rows = np.sort(first_of_unit)
    scaled = scale(table.features[rows], spec)
    kept = _without_copies(scaled.reshape(len(rows), -1), table.train[rows].astype(bool))
    return Pool(
        inputs=torch.from_numpy(np.ascontiguousarray(scaled[kept])),
        labels=torch.from_numpy(table.labels[rows][kept].astype(np.int64)),
        members=torch.from_numpy(table.train[rows][kept].astype(bool)),
        duplicates=len(table.labels) - len(kept),
        rows=rows[kept],
        contributions=_contributions(table, spec, rows[kept]),
    )


def pool_of_sites(tables: Sequence[UnitTable], spec: ModelSpec) -> Pool:
    """All records of a federation, deduplicated over splits and sites.

    Args:
        tables: The sites' private tables, the attacked one first; one row per unit.
        spec: Gives the public bounds that inputs are scaled by.

    Raises:
        InvalidValue: As ``pool_of``, for any of them; or if too many held-out records of one site
            are copies of records that another one trained on.
    """
    parts = [pool_of(table, spec) for table in tables]
    if any(part.contributions is not None for part in parts):
        raise InvalidValue("audit data", "must have one row per unit at every site", "several")
    numbers = [torch.full((len(part.labels),), at) for at, part in enumerate(parts)]
    pool = Pool(
        inputs=torch.cat([part.inputs for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        members=torch.cat([part.members for part in parts]),
        duplicates=sum(part.duplicates for part in parts),
        rows=np.concatenate([part.rows for part in parts]),
        sites=torch.cat(numbers),
    )
    kept = _without_copies(pool.inputs.flatten(1).numpy(), pool.members.numpy())
    dropped = len(pool.labels) - len(kept)
    return replace(pool.only(torch.from_numpy(kept)), duplicates=pool.duplicates + dropped)


def require_task(table: UnitTable, spec: ModelSpec) -> None:
    """Refuse a model that does not answer for such records.

    Raises:
        InvalidValue: If it takes another shape or other classes.
    """
    shape = tuple(table.features.shape[1:])
    if shape != tuple(spec.input_shape) or tuple(table.classes) != tuple(spec.classes):
        rule = "must be of the audited data's task: same shape of records, same classes"
        raise InvalidValue("model", rule, f"{tuple(spec.input_shape)} on {shape}")


def require_sides(units: np.ndarray, train: np.ndarray) -> None:
    """Refuse members and non-members that overlap.

    Raises:
        InvalidValue: If a unit is on both sides.
    """
    both = np.intersect1d(units[train.astype(bool)], units[~train.astype(bool)])
    if len(both):
        rule = "must have every unit on one side: members and non-members overlap"
        raise InvalidValue("audit data", rule, f"{len(both)} units on both")


def _without_copies(flat: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Numbers of the rows that are kept, rising: of exact copies one, a member before others.

    A held-out copy of a training record was trained on, whatever its unit is called.

    Raises:
        InvalidValue: If so many held-out rows are copies that they are no non-members.
    """
    order = np.argsort(~member, kind="stable")
    _, first = np.unique(flat[order], axis=0, return_index=True)
    kept: np.ndarray = np.sort(order[first])
    known = {row.tobytes() for row in flat[member]}
    shared = sum(row.tobytes() in known for row in flat[~member])
    if shared > _SHARED_MAX * int((~member).sum()):
        rule = "must have non-members that were not trained on: members and non-members overlap"
        raise InvalidValue("audit data", rule, f"{shared} copies")
    return kept


def _contributions(table: UnitTable, spec: ModelSpec, first: np.ndarray) -> Contributions | None:
    """All rows of the units whose first rows these are; ``None`` where they have no other."""
    _, numbers = np.unique(table.units, return_inverse=True)
    place = np.full(int(numbers.max(initial=-1)) + 1, -1)
    place[numbers[first]] = np.arange(len(first))
    owners = place[numbers]
    rows = np.flatnonzero(owners >= 0)
    if len(rows) == len(first):
        return None
    rows = rows[np.argsort(owners[rows], kind="stable")]
    return Contributions(
        inputs=torch.from_numpy(np.ascontiguousarray(scale(table.features[rows], spec))),
        labels=torch.from_numpy(table.labels[rows].astype(np.int64)),
        owners=torch.from_numpy(owners[rows]),
    )


def training_pool(table: UnitTable, spec: ModelSpec) -> Pool:
    """The training units alone."""
    pool = pool_of(table, spec)
    return pool.only(pool.members)
