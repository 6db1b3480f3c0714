"""UnitTable.

A dataset opened inside the steward's zone, one row per example, each with its privacy unit.

Never serialized, logged or sent anywhere; it lives in the memory of a step's worker.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IMAGE_AXES = 4  # (n, channels, h, w), and (n, channels, d, h, w) above; a table has two.


class LabelTask(enum.StrEnum):
    """What the labels of a table say of a row."""

    MULTI_CLASS = "MultiClass"  # one class
    MULTI_LABEL = "MultiLabel"  # each class, or not
    SEGMENTATION = "Segmentation"  # one class per pixel or voxel


@dataclass(frozen=True, slots=True, repr=False)
class UnitTable:
    """Examples of a dataset.

    Args:
        features: float32, ``(n, d)`` for tables in their raw published units; ``(n, c, h, w)`` for
            images and ``(n, c, d, h, w)`` for volumes in [0, 1].
        labels: 0-based class numbers, int64 ``(n,)``; of several labels 0 or 1 for each class,
            uint8 ``(n, classes)``; of masks class numbers, uint8 ``(n, h, w)`` or
            ``(n, d, h, w)``.
        units: The privacy unit of each row, ``(n,)`` of strings. A unit has several rows only where
            the steward declares how many it may contribute; then they lie side by side.
        train: Boolean mask of the fixed split, ``(n,)``; decided by hash of the unit, or published
            with the data. A unit is on one side.
        classes: Public class names.
        feature_names: Public column names; empty for images.
        feature_low: Public lower bound of each feature (data dictionary), ``(d,)``; never measured
            on the data.
        feature_high: Public upper bound of each feature, ``(d,)``.
        subgroups: Public group names to group number per row.
        blocks: The block of each row, ``(n,)`` of strings, empty where the layout has none for it;
            ``None`` for a table without blocks.
        task: What the labels say.
        subgroup_names: Public names of the groups by their numbers, for each of ``subgroups``;
            absent where the numbers speak for themselves.
        readers: Names of columns to the class number that somebody said of each row, ``(n,)``
            int64; -1 where nobody did.
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
    task: LabelTask = LabelTask.MULTI_CLASS
    subgroup_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    readers: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Shape only; a table must not print itself into a log."""
        return f"UnitTable({len(self.labels)} rows, {len(self.classes)} classes)"

    @property
    def pictures(self) -> bool:
        """Whether rows are images or volumes; else they are lines of a table."""
        return self.features.ndim >= IMAGE_AXES

    def group_name(self, attribute: str, number: int) -> str:
        """What a subgroup is called: its public name, or its number where that is not one name."""
        names = self.subgroup_names.get(attribute, ())
        if number >= len(names) or names.count(names[number]) > 1:
            return str(number)
        return names[number]

    def named_groups(self, attribute: str) -> NDArray[np.str_]:
        """What each row's subgroup is called, ``(n,)``."""
        import numpy as np

        numbers, at = np.unique(self.subgroups[attribute], return_inverse=True)
        names = np.array([self.group_name(attribute, int(number)) for number in numbers])
        found: NDArray[np.str_] = names[at]
        return found

    def only(self, keep: np.ndarray) -> UnitTable:
        """The rows that a mask ``(n,)`` keeps, or those of these numbers in this order."""
        return replace(
            self,
            features=self.features[keep],
            labels=self.labels[keep],
            units=self.units[keep],
            train=self.train[keep],
            subgroups={name: groups[keep] for name, groups in self.subgroups.items()},
            readers={name: said[keep] for name, said in self.readers.items()},
            blocks=None if self.blocks is None else self.blocks[keep],
        )

    def row_digest(self, row: int) -> bytes:
        """SHA-256 over the content of one row, features and labels, without its unit."""
        features = self.features[row].astype("<f4").tobytes()
        return hashlib.sha256(features + self.labels[row].astype("<i8").tobytes()).digest()
