"""What every opened dataset must satisfy before it is used. Messages must never show a value."""

from __future__ import annotations

import numpy as np

from primum.domain.errors import InvalidValue
from primum_pipelines.datasets.table import LabelTask, UnitTable
from primum_pipelines.datasets.units import unit_rows


def require_sound(table: UnitTable) -> None:
    """Refuse a table whose training would have no stated guarantee or no meaning.

    Raises:
        InvalidValue: If a feature or label is missing, a label is outside the classes, or the rows
            of a unit do not lie side by side; names the column, never a value and never a count.
    """
    if len(table.labels) == 0:
        raise InvalidValue("dataset", "must have at least one row", "none")
    _require_finite(table)
    _require_known_labels(table)
    unit_rows(table.units)
    for side, mask in (("training", table.train), ("held-out", ~table.train)):
        if not mask.any():
            raise InvalidValue(
                f"dataset {side} split", "must have at least one row", "none", "Use more units."
            )


def require_classified(table: UnitTable, *, job: str) -> None:
    """Refuse what a job cannot use that clips row by row and knows one class per row.

    Args:
        table: The opened table.
        job: Name of the job kind, for the message.

    Raises:
        InvalidValue: If a unit has several rows, or the labels are not one class per row.
    """
    if len(np.unique(table.units)) != len(table.units):
        raise InvalidValue(
            "dataset rows",
            f"must be one per privacy unit for {job}",
            "a unit with several rows",
            "Declare dataset.options.maxExamplesPerUnit: 1.",
        )
    if table.task is not LabelTask.MULTI_CLASS:
        raise InvalidValue("dataset labels", f"must be one class per row for {job}", table.task)


def _require_finite(table: UnitTable) -> None:
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


def _require_known_labels(table: UnitTable) -> None:
    if table.task is LabelTask.MULTI_LABEL:
        allowed, rule = 2, "must be 0 or 1 for each class"
    else:
        allowed, rule = len(table.classes), f"must be one of {', '.join(table.classes)}"
    if table.labels.min() < 0 or table.labels.max() >= allowed:
        raise InvalidValue("dataset label", rule, "another label")
