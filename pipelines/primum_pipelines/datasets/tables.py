"""Tables in text files: the four UCI heart-disease hospitals, and CSV files with declared columns.

Missing cells are filled with public constants of the data dictionary, never with a mean of the data
at hand. Must never show a cell in a message: only column names, line counts stay inside.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from primum.domain.budget.layout import BlockLayout
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue, NotFound
from primum.domain.quantities import PrivacyUnit, parse_decimal
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
_BOUNDS = 2
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
        )


class CsvDriver:
    """``csv://<path>``. Options ``label``, ``classes``, ``positive``, ``features``, ``unitColumn``.

    ``features`` maps each column that is used to its public ``["low", "high"]``; no other is read.
    """

    scheme = "csv"
    _OPTIONS = ("label", "classes", "positive", "features", "unitColumn")

    def describe(self, uri: str, options: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Public facts, from the declared options."""
        parse_uri(uri)
        known_options(options, self._OPTIONS)
        classes = _classes(options)
        bounds = _bounds(options)
        positive = options.get("positive", classes[-1])
        if positive not in classes:
            listed = ", ".join(classes)
            raise InvalidValue("dataset.options.positive", f"must be one of {listed}", positive)
        _column_option(options, "label")
        return {
            "classes": list(classes),
            "positive": str(positive),
            "inputShape": [len(bounds)],
            "featureNames": list(bounds),
            "split": "hash of unit, 80/20",
            "unitNames": f"column {options['unitColumn']}" if "unitColumn" in options else "row",
        }

    def locate(self, uri: str, data_dirs: Sequence[str]) -> str:
        """The file's path."""
        rest = parse_uri(uri).rest
        if Path(rest).is_absolute():
            if not Path(rest).is_file():
                raise NotFound(f"dataset file {rest} must exist; looked there only.")
            return rest
        remedy = "Put it into one of these folders, or set another data folder."
        return str(find_file((rest,), data_dirs, remedy=remedy))

    def load(
        self,
        uri: str,
        unit: PrivacyUnit,
        options: Mapping[str, JSON],
        data_dirs: Sequence[str],
    ) -> UnitTable:
        """Open the table. An empty cell is NaN, which registration and validation refuse."""
        rows, header = self._lines(uri, options, data_dirs)
        named = [str(number) for number in range(len(rows))]
        return self._table(header, rows, named, unit, options)

    def load_blocks(
        self,
        uri: str,
        unit: PrivacyUnit,
        options: Mapping[str, JSON],
        data_dirs: Sequence[str],
        *,
        layout: BlockLayout,
        wanted: Collection[str] | None,
    ) -> UnitTable:
        """Open the wanted blocks of the table.

        Guarantees:
            Of a row in another block nothing but its place is read. Where a column names the units,
            the table of a block is the same whatever the other blocks hold.
        """
        import numpy as np

        rows, header = self._lines(uri, options, data_dirs, layout.column)
        place = header.index(layout.column)
        placed = [
            (number, block, row)
            for number, row in enumerate(rows)
            if _wanted(block := layout.block_of(row[place]), wanted)
        ]
        named = [str(number) for number, _, _ in placed]
        table = self._table(header, [row for _, _, row in placed], named, unit, options)
        return replace(table, blocks=np.array([block for _, block, _ in placed], dtype=str))

    def _lines(
        self,
        uri: str,
        options: Mapping[str, JSON],
        data_dirs: Sequence[str],
        *columns: str,
    ) -> tuple[list[list[str]], list[str]]:
        """Rows and header of the file, once every column that is needed is seen to be there."""
        self.describe(uri, options)
        header, rows = _table(self.locate(uri, data_dirs))
        wanted = [*_bounds(options), _column_option(options, "label"), *columns]
        for name in [*wanted, *([str(options["unitColumn"])] if "unitColumn" in options else [])]:
            if name not in header:
                raise InvalidValue(
                    f"dataset column {name}",
                    "must be in the file",
                    f"columns {', '.join(header)}",
                    "Check dataset.options.",
                )
        return rows, header

    def _table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        named: Sequence[str],
        unit: PrivacyUnit,
        options: Mapping[str, JSON],
    ) -> UnitTable:
        """The table of these rows; ``named`` are their units where no column names them."""
        import numpy as np

        from primum_pipelines.datasets.table import UnitTable

        bounds, classes = _bounds(options), _classes(options)
        label = _column_option(options, "label")
        places = {name: header.index(name) for name in [*bounds, label]}
        if "unitColumn" in options:
            place = header.index(str(options["unitColumn"]))
            named = [row[place] for row in rows]
        units = np.array([f"{unit.value.lower()}-{name}" for name in named], dtype=str)
        features = [[_number(row[places[name]], name) for name in bounds] for row in rows]
        return UnitTable(
            features=np.array(features, dtype=np.float32).reshape(len(rows), len(bounds)),
            labels=np.array(
                [_class_number(row[places[label]], classes, label) for row in rows], np.int64
            ),
            units=units,
            train=np.array([in_train_split(str(name)) for name in units], dtype=bool),
            classes=classes,
            feature_names=tuple(bounds),
            feature_low=np.array([low for low, _ in bounds.values()], np.float32),
            feature_high=np.array([high for _, high in bounds.values()], np.float32),
        )


def _wanted(block: str, wanted: Collection[str] | None) -> bool:
    return wanted is None or block in wanted


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


def _table(path: str) -> tuple[list[str], list[list[str]]]:
    rows = _rows(path)
    if not rows:
        raise InvalidValue("dataset file", "must have a header line", "an empty file")
    header = [name.strip() for name in rows[0]]
    if any(len(row) != len(header) for row in rows[1:]):
        raise InvalidValue(
            "dataset file", "must have as many cells per line as columns", "a line that does not"
        )
    return header, rows[1:]


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


def _class_number(text: str, classes: Sequence[str], column: str) -> int:
    if text.strip() not in classes:
        listed = ", ".join(classes)
        raise InvalidValue(
            f"dataset column {column}", f"must hold one of {listed}", "another label or none"
        )
    return list(classes).index(text.strip())


def _column_option(options: Mapping[str, JSON], name: str) -> str:
    value = options.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidValue(f"dataset.options.{name}", "must name a column", value)
    return value


def _classes(options: Mapping[str, JSON]) -> tuple[str, ...]:
    value = options.get("classes", ["0", "1"])
    names = tuple(str(item) for item in _items("classes", value))
    if len(names) < 2 or len(set(names)) != len(names):  # noqa: PLR2004 - one class is no task
        raise InvalidValue(
            "dataset.options.classes", "must list at least two distinct names", names
        )
    return names


def _bounds(options: Mapping[str, JSON]) -> dict[str, tuple[float, float]]:
    """Public bounds of each feature column that is read, in order."""
    field, value = "dataset.options.features", options.get("features")
    if not isinstance(value, Mapping) or not value:
        raise InvalidValue(
            field,
            "must state the public bounds of each column",
            "none",
            'For example features: [{name: age, low: "0", high: "100"}].',
        )
    bounds: dict[str, tuple[float, float]] = {}
    for name, pair in value.items():
        parts = list(_items(f"features.{name}", pair))
        if len(parts) != _BOUNDS:
            raise InvalidValue(f"{field}.{name}", "must have a low and a high bound", pair)
        low, high = (parse_decimal(f"{field}.{name}", part) for part in parts)
        if low >= high:
            raise InvalidValue(f"{field}.{name}", "must have low below high", f"{low}, {high}")
        bounds[str(name)] = (float(low), float(high))
    return bounds


def _items(name: str, value: JSON) -> Iterable[JSON]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise InvalidValue(f"dataset.options.{name}", "must be a list", value)
    return value
