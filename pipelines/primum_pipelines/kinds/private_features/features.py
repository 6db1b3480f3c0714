"""Between records and the released table: features of units, and both sides in one form. Heavy.

Tables of private units' features live in a worker's memory and never leave it; only what
``mechanism.release`` gives back may be stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from primum.domain.canonical import JSON
from primum_pipelines.datasets.units import unit_rows
from primum_pipelines.kinds.private_features.mechanism import (
    Array,
    ReleasedTable,
    TableMechanism,
    clipped,
)
from primum_pipelines.kinds.training import number, whole
from primum_pipelines.models.artifact import from_bytes
from primum_pipelines.models.extractor import FrozenExtractor

if TYPE_CHECKING:
    from primum_pipelines.datasets.table import UnitTable

_DEVIATIONS = 4.0  # Of the noise; public bounds that nearly all of it is within.


def planned_mechanism(parameters: Mapping[str, JSON]) -> TableMechanism:
    """The mechanism that the plan charges."""
    return TableMechanism(
        rows=whole(parameters, "rows"),
        clip=number(parameters, "clip"),
        label_share=number(parameters, "labelShare"),
        noise_multiplier=number(parameters, "noiseMultiplier"),
    )


def extractor_from_bytes(data: bytes) -> FrozenExtractor:
    """The extractor that a PrivateFeatures Study left beside its table.

    Raises:
        InvalidValue: If it is no model file of ours.
    """
    model = from_bytes(data)
    return FrozenExtractor(model.module, model.spec)


def of_units(extractor: FrozenExtractor, table: UnitTable) -> tuple[Array, Array]:
    """One vector per unit: the mean over its rows of features, and of one-hot labels.

    Args:
        extractor: Frozen.
        table: Rows of a unit lie side by side.

    Returns:
        Features ``(units, d)`` and label shares ``(units, K)``, not clipped, in the table's order.
    """
    units = unit_rows(table.units)
    marks = np.eye(len(table.classes))[table.labels]
    starts, sizes = units.offsets[:-1], units.sizes[:, None]
    features = np.add.reduceat(extractor.features(table.features), starts, axis=0) / sizes
    return features, np.add.reduceat(marks, starts, axis=0) / sizes


def in_released_form(
    extractor: FrozenExtractor,
    table: UnitTable,
    mechanism: TableMechanism,
    *,
    released: UnitTable,
) -> UnitTable:
    """A private table as the released one would be without noise: for evaluation and audits.

    Args:
        extractor: Frozen.
        table: The private table.
        mechanism: As planned; says how features are cut.
        released: What was released; gives the public bounds.

    Returns:
        One row per unit, with its most frequent label; never to leave the worker.
    """
    features, labels = of_units(extractor, table)
    first = unit_rows(table.units).offsets[:-1]
    kept = clipped(np.nan_to_num(features, posinf=0.0, neginf=0.0), bound=mechanism.feature_bound)
    formed = _formed(kept, labels.argmax(axis=1), table.only(first), mechanism)
    return replace(formed, feature_low=released.feature_low, feature_high=released.feature_high)


def as_dataset(released: ReleasedTable, like: UnitTable, mechanism: TableMechanism) -> UnitTable:
    """The released table as later Studies read it: labels are the largest number of noisy codes.

    Args:
        released: What the mechanism gave.
        like: Gives the public class names.
        mechanism: As planned.
    """
    count = len(released.features)
    rows = replace(
        like,
        features=np.zeros((count, 0), dtype=np.float32),
        labels=np.zeros(count, dtype=np.int64),
        units=np.array([f"row-{row}" for row in range(count)]),
        train=np.ones(count, dtype=bool),
        subgroups={},
        readers={},
        blocks=None,
    )
    return _formed(released.features, released.codes.argmax(axis=1), rows, mechanism)


def inverse_penalty(released: UnitTable, mechanism: TableMechanism) -> float:
    """Of a classifier on the released range: as for d features of C over the root of d each."""
    width = int(released.features.shape[1])
    return float(width) * (2 * _bound(mechanism) / mechanism.clip) ** 2


def _bound(mechanism: TableMechanism) -> float:
    return mechanism.feature_bound + _DEVIATIONS * mechanism.noise_std


def _formed(
    features: Array, labels: np.ndarray, rows: UnitTable, mechanism: TableMechanism
) -> UnitTable:
    width = features.shape[1]
    bound = np.float32(_bound(mechanism))
    return replace(
        rows,
        features=features.astype(np.float32),
        labels=labels.astype(np.int64),
        feature_names=tuple(f"feature {column}" for column in range(width)),
        feature_low=np.full(width, -bound),
        feature_high=np.full(width, bound),
    )
