"""UnitTable.

A dataset opened inside the steward's zone, one row per example, each with its privacy unit.

Never serialized, logged or sent anywhere; it lives in the memory of a step's worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, repr=False)
class UnitTable:
    """Examples of a dataset.

    Args:
        features: float32, ``(n, d)`` for tables in their raw published units, ``(n, 1, h, w)`` in
            [0, 1] for images.
        labels: int64, ``(n,)``, 0-based class numbers.
        units: The privacy unit of each row, ``(n,)`` of strings.
        train: Boolean mask of the fixed split, ``(n,)``; decided by hash of the unit, or published
            with the data.
        classes: Public class names.
        feature_names: Public column names; empty for images.
        feature_low: Public lower bound of each feature (data dictionary), ``(d,)``; never measured
            on the data.
        feature_high: Public upper bound of each feature, ``(d,)``.
        subgroups: Public group names to group number per row.
        blocks: The block of each row, ``(n,)`` of strings, empty where the layout has none for it;
            ``None`` for a table without blocks.
    """

    features: np.ndarray
    labels: np.ndarray
    units: np.ndarray
    train: np.ndarray
    classes: tuple[str, ...]
    feature_names: tuple[str, ...] = ()
    feature_low: np.ndarray | None = None
    feature_high: np.ndarray | None = None
    subgroups: Mapping[str, np.ndarray] = field(default_factory=dict)
    blocks: np.ndarray | None = None

    def __repr__(self) -> str:
        """Shape only; a table must not print itself into a log."""
        return f"UnitTable({len(self.labels)} rows, {len(self.classes)} classes)"

    def only(self, keep: np.ndarray) -> UnitTable:
        """The rows that a mask ``(n,)`` keeps; everything public stays."""
        return replace(
            self,
            features=self.features[keep],
            labels=self.labels[keep],
            units=self.units[keep],
            train=self.train[keep],
            subgroups={name: groups[keep] for name, groups in self.subgroups.items()},
            blocks=None if self.blocks is None else self.blocks[keep],
        )
