"""Tables in CSV and Parquet files with declared columns.

A missing cell is filled with a declared public constant or refused, never with a mean of the data
at hand. Must never show a cell in a message: only column names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from primum.domain.budget.layout import BlockLayout
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.quantities import PrivacyUnit
from primum_pipelines.datasets.declared import (
    LABEL_OPTIONS,
    ROW_OPTIONS,
    Feature,
    columns_of,
    features_of,
    labels_of,
    readers_of,
    subgroups_of,
)
from primum_pipelines.datasets.driver import known_options, parse_uri
from primum_pipelines.datasets.placed import PlacedDriver
from primum_pipelines.datasets.places import place_of
from primum_pipelines.datasets.table import LabelTask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from primum_pipelines.datasets.columns import Columns
    from primum_pipelines.datasets.table import UnitTable


class CsvDriver(PlacedDriver):
    """``csv://<path>``, also packed as ``.csv.gz``. A row is an example.

    The option ``features`` has each column that is used with its public range; no other is read.
    """

    scheme = "csv"
    endings: tuple[str, ...] = (".csv", ".gz", ".txt", ".data")
    _OPTIONS = (*LABEL_OPTIONS, *ROW_OPTIONS, "features")

    def describe(self, uri: str, options: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Public facts, from the declared options."""
        parse_uri(uri)
        known_options(options, self._OPTIONS)
        labels, features = labels_of(options), features_of(options)
        if labels.task is LabelTask.SEGMENTATION:
            raise InvalidValue("dataset.options.mask", "must be absent for a table", "mask")
        subgroups_of(options)
        readers_of(options, labels)
        names = [name for feature in features for name in feature.names]
        return {
            "classes": list(labels.classes),
            "positive": labels.positive,
            "task": labels.task.value,
            "inputShape": [len(names)],
            "featureNames": names,
            "split": "hash of unit, 80/20",
            "unitNames": f"column {options['unitColumn']}" if "unitColumn" in options else "row",
        }

    def _loaded(
        self,
        uri: str,
        unit: PrivacyUnit,
        options: Mapping[str, JSON],
        data_dirs: Sequence[str],
        *,
        layout: BlockLayout | None,
        wanted: Collection[str] | None,
    ) -> UnitTable:
        import numpy as np

        from primum_pipelines.datasets.assembling import Reading, Sheet, assemble, labels_in_cells
        from primum_pipelines.datasets.columns import read_columns

        self.describe(uri, options)
        labels, features = labels_of(options), features_of(options)
        place = place_of(uri, data_dirs)
        if (place.suffix == ".parquet") != (self.scheme == "parquet"):
            rule = f"must end in one of {', '.join(self.endings)} for {self.scheme}"
            raise InvalidValue("dataset file", rule, place.suffix or "no ending")
        blocks = [] if layout is None else [layout.column]
        read = [*(item.column for item in features), *columns_of(options, labels), *blocks]
        columns = read_columns(place, read)
        bounds = [(item.low, item.high) for item in features for _ in item.names]
        sheet = Sheet(
            rows=columns.rows,
            cells=columns.cells,
            features=lambda rows: _features(columns, features, rows),
            labels=lambda rows: labels_in_cells(columns.cells, rows, labels),
            named=lambda rows: [str(row) for row in rows],
            feature_names=tuple(name for item in features for name in item.names),
            feature_low=np.array([low for low, _ in bounds], np.float32),
            feature_high=np.array([high for _, high in bounds], np.float32),
        )
        return assemble(sheet, Reading(unit, options, labels, layout, wanted))


class ParquetDriver(CsvDriver):
    """``parquet://<path>``: the same with a Parquet file."""

    scheme = "parquet"
    endings = (".parquet",)


def _features(
    columns: Columns, features: Sequence[Feature], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Feature matrix float32 ``(k, d)`` in raw units; categories as 0 and 1."""
    import numpy as np

    from primum_pipelines.datasets.assembling import class_numbers

    parts = []
    for item in features:
        if item.values:
            held = columns.cells(item.column)
            numbers = class_numbers([held[row] for row in rows], item.values, item.column)
            parts.append(np.eye(len(item.values), dtype=np.float32)[numbers])
        else:
            parts.append(columns.numbers(item.column, rows, missing=item.missing)[:, None])
    return np.concatenate(parts, axis=1)
