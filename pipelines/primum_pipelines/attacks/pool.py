"""The records that attacks are tried on.

Scaled like the model's training data, one row per unit, no duplicates.
Exact copies across members and non-members would make members look like non-members; they are
dropped first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from primum_pipelines.models.artifact import scale

if TYPE_CHECKING:
    from primum_pipelines.datasets.table import UnitTable
    from primum_pipelines.models.artifact import ModelSpec


@dataclass(frozen=True, slots=True, repr=False)
class Pool:
    """Records of distinct units.

    Args:
        inputs: float32, scaled to [-1, 1], ``(n, ...)``.
        labels: int64, ``(n,)``.
        members: Whether the unit was in the training split, ``(n,)``.
        duplicates: Rows dropped: further rows of a unit, and exact copies.
        rows: Which rows of the table they are, ``(n,)``; empty where there is no table.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    members: torch.Tensor
    duplicates: int
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def only(self, kept: torch.Tensor) -> Pool:
        """Some of the records, by number or mask."""
        chosen = kept.numpy()
        return Pool(
            inputs=self.inputs[kept],
            labels=self.labels[kept],
            members=self.members[kept],
            duplicates=self.duplicates,
            rows=self.rows[chosen] if len(self.rows) else self.rows,
        )


def pool_of(table: UnitTable, spec: ModelSpec) -> Pool:
    """All records of a table, deduplicated over both splits.

    Args:
        table: The private table.
        spec: Gives the public bounds that inputs are scaled by.
    """
    _, first_of_unit = np.unique(table.units, return_index=True)
    rows = np.sort(first_of_unit)
    scaled = scale(table.features[rows], spec)
    _, first_of_copy = np.unique(scaled.reshape(len(rows), -1), axis=0, return_index=True)
    kept = np.sort(first_of_copy)
    return Pool(
        inputs=torch.from_numpy(np.ascontiguousarray(scaled[kept])),
        labels=torch.from_numpy(table.labels[rows][kept].astype(np.int64)),
        members=torch.from_numpy(table.train[rows][kept].astype(bool)),
        duplicates=len(table.labels) - len(kept),
        rows=rows[kept],
    )


def training_pool(table: UnitTable, spec: ModelSpec) -> Pool:
    """The training units alone."""
    pool = pool_of(table, spec)
    return pool.only(pool.members)
