"""The four UCI heart-disease hospitals, whose files have neither header nor patient numbers.

Missing cells are filled with public constants of the data dictionary, never with a mean of the data
at hand. Must never show a cell in a message.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.quantities import PrivacyUnit
from primum_pipelines.datasets.driver import (
    find_file,
    in_train_split,
    known_options,
    parse_uri,
    require_unit,
)

if TYPE_CHECKING:
    from primum_pipelines.datasets.table import UnitTable

_HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
_HEART_COLUMNS = 14
_HEART_LABEL = 13
_HEART_CLASSES = ("absent", "present")


@dataclass(frozen=True, slots=True)
class _Column:
    """A feature: its place in the file, its public range, and what stands in for a missing cell."""

    name: str
    index: int
    low: float
    high: float
    missing: float
    zero_is_missing: bool = False


# Ranges are clinical plausibility limits and code books (heart-disease.names), not this data's
# extremes. Constants for missing cells are textbook normal values: 130 mm Hg, 240 mg/dl, 150 beats
# per minute.
_HEART = (
    _Column("age", 0, 0.0, 100.0, 50.0),
    _Column("sex", 1, 0.0, 1.0, 0.0),
    _Column("cp", 2, 1.0, 4.0, 4.0),
    _Column("trestbps", 3, 60.0, 220.0, 130.0, zero_is_missing=True),
    _Column("chol", 4, 80.0, 620.0, 240.0, zero_is_missing=True),
    _Column("fbs", 5, 0.0, 1.0, 0.0),
    _Column("restecg", 6, 0.0, 2.0, 0.0),
    _Column("thalach", 7, 50.0, 220.0, 150.0, zero_is_missing=True),
    _Column("exang", 8, 0.0, 1.0, 0.0),
    _Column("oldpeak", 9, -4.0, 8.0, 0.0),
)
_AGE_BANDS = (50.0, 60.0)


class HeartDriver:
    """``uci-heart://cleveland``, ``hungarian``, ``switzerland`` or ``va``."""

    scheme = "uci-heart"

    def describe(self, uri: str, options: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Public facts, from the data set's code book."""
        known_options(options, ())
        _hospital(uri)
        return {
            "classes": list(_HEART_CLASSES),
            "positive": _HEART_CLASSES[1],
            "inputShape": [len(_HEART)],
            "featureNames": [column.name for column in _HEART],
            "split": "hash of unit, 80/20",
            "units": [PrivacyUnit.PATIENT.value],
        }

    def locate(self, uri: str, data_dirs: Sequence[str]) -> str:
        """The hospital's file."""
        name = f"processed.{_hospital(uri)}.data"
        remedy = "It is part of UCI data set 45, doi 10.24432/C52P4X."
        names = (name, f"uci-heart-disease/{name}", f"heart-disease/{name}")
        return str(find_file(names, data_dirs, remedy=remedy))

    def load(
        self,
        uri: str,
        unit: PrivacyUnit,
        options: Mapping[str, JSON],
        data_dirs: Sequence[str],
    ) -> UnitTable:
        """Open a hospital's table: one row per patient, label present for ``num`` above 0."""
        import numpy as np

        from primum_pipelines.datasets.table import UnitTable

        self.describe(uri, options)
        require_unit(unit, (PrivacyUnit.PATIENT,), why="The files have one row per patient.")
        rows = _rows(self.locate(uri, data_dirs))
        if any(len(row) != _HEART_COLUMNS for row in rows):
            raise InvalidValue(
                "dataset file", f"must have {_HEART_COLUMNS} columns", "another number"
            )
        features = np.array([[_cell(row, column) for column in _HEART] for row in rows], np.float32)
        grades = [_number(row[_HEART_LABEL], "num") for row in rows]
        units = np.array([f"{_hospital(uri)}-{line}" for line in range(len(rows))])
        age, sex = features[:, 0], features[:, 1].astype(np.int64)
        bands = np.digitize(age, _AGE_BANDS)
        return UnitTable(
            features=features,
            labels=np.array([int(grade > 0) for grade in grades], dtype=np.int64),
            units=units,
            train=np.array([in_train_split(str(name)) for name in units]),
            classes=_HEART_CLASSES,
            feature_names=tuple(column.name for column in _HEART),
            feature_low=np.array([column.low for column in _HEART], np.float32),
            feature_high=np.array([column.high for column in _HEART], np.float32),
            subgroups={"sex": sex, "ageBand": bands},
            subgroup_names={
                "sex": ("female", "male"),
                "ageBand": ("below 50", "50 to 60", "from 60"),
            },
        )


def _hospital(uri: str) -> str:
    name = parse_uri(uri).rest.strip("/")
    if name not in _HOSPITALS:
        known = ", ".join(f"uci-heart://{item}" for item in _HOSPITALS)
        raise InvalidValue("dataset.uri", f"must be one of {known}", uri)
    return name


def _rows(path: str) -> list[list[str]]:
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            return [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        found = f"{path}, {type(error).__name__}"
        raise InvalidValue("dataset file", "must be readable as text", found) from None


def _cell(row: Sequence[str], column: _Column) -> float:
    text = row[column.index].strip()
    if text == "?":
        return column.missing
    value = _number(text, column.name)
    return column.missing if column.zero_is_missing and value == 0 else value


def _number(text: str, column: str) -> float:
    text = text.strip()
    if not text:
        return float("nan")
    try:
        return float(text)
    except ValueError:
        raise InvalidValue(f"dataset column {column}", "must hold numbers", "a text") from None
