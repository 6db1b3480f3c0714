"""What every opened dataset must satisfy before it is used. Messages must never show a value."""

from __future__ import annotations

import numpy as np

from primum.domain.errors import InvalidValue
from primum_pipelines.datasets.table import UnitTable


def require_sound(table: UnitTable) -> None:
    """Refuse a table whose training would have no stated guarantee or no meaning.

    Raises:
        InvalidValue: If a feature or label is missing, a label is outside the classes, or a unit
            has several rows; names the column, never a value and never a count.
    """
    flat = table.features.reshape(len(table.labels), -1)
    bad = ~np.isfinite(flat).all(axis=0)
    if bad.any():
        column = int(np.argmax(bad))
        name = table.feature_names[column] if table.feature_names else "pixels"
        raise InvalidValue(
            f"dataset column {name}",
            "must have no missing value",
            "NaN or infinity",
            "Impute it with a public constant before registering the dataset.",
        )
    if len(table.labels) == 0:
        raise InvalidValue("dataset", "must have at least one row", "none")
    if table.labels.min() < 0 or table.labels.max() >= len(table.classes):
        raise InvalidValue(
            "dataset label", f"must be one of {', '.join(table.classes)}", "another label"
        )
    if len(np.unique(table.units)) != len(table.units):
        raise InvalidValue(
            "dataset rows",
            "must be one per privacy unit",
            "a unit with several rows",
            "Aggregate the rows of each unit, or state the finer unit.",
        )
    for side, mask in (("training", table.train), ("held-out", ~table.train)):
        if not mask.any():
            raise InvalidValue(
                f"dataset {side} split", "must have at least one row", "none", "Use more units."
            )
