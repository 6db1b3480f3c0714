"""Columns of tables in CSV and Parquet files, read from front to back, and only those asked for.

Must never show a cell in a message, and never hold more of a file than the columns asked for.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from primum.domain.errors import InvalidValue
from primum_pipelines.datasets.places import Place

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS_MAX = 50_000_000  # More rows than any hospital has patients; a small bomb unpacks to more.
_LINE_CHARACTERS_MAX = 2**20
_PARQUET_BYTES_MAX = 2**31  # pyarrow wants to seek, so that the packed file is held in memory.
_PACKED = {".gz"}


@dataclass(frozen=True, slots=True, repr=False)
class Columns:
    """Some columns of a table.

    Args:
        rows: Number of rows.
        texts: Cells as text, by column.
    """

    rows: int
    texts: Mapping[str, Sequence[str]]

    def cells(self, name: str) -> Sequence[str]:
        """The cells of a column that was asked for."""
        return self.texts[name]

    def numbers(
        self, name: str, rows: NDArray[np.int64], *, missing: float | None
    ) -> NDArray[np.float32]:
        """A column of numbers for some rows, float32 ``(k,)``.

        Args:
            name: The column.
            rows: Row numbers.
            missing: What an empty cell stands for; NaN where nothing is declared.

        Raises:
            InvalidValue: If a cell is no number.
        """
        empty = float("nan") if missing is None else missing
        held = self.texts[name]
        try:
            found = [float(cell) if (cell := held[row].strip()) else empty for row in rows]
        except ValueError:
            raise InvalidValue(f"dataset column {name}", "must hold numbers", "a text") from None
        return np.array(found, dtype=np.float32)


def read_columns(place: Place, names: Sequence[str]) -> Columns:
    """Some columns of a CSV (also ``.csv.gz``) or Parquet file.

    Args:
        place: The file; its ending says what it is.
        names: The columns to read.

    Raises:
        NotFound: If it is nowhere.
        InvalidValue: If it cannot be read, or lacks a column.
        Unavailable: If its place does not answer.
    """
    wanted = tuple(dict.fromkeys(names))
    return _parquet(place, wanted) if place.suffix == ".parquet" else _csv(place, wanted)


def _csv(place: Place, wanted: Sequence[str]) -> Columns:
    try:
        with place.open() as file:
            unpacked: Any = gzip.GzipFile(fileobj=file) if place.suffix in _PACKED else file
            text = io.TextIOWrapper(unpacked, encoding="utf-8-sig", newline="")
            found = _collected(csv.reader(_lines(text)), wanted)
            text.detach()
            return found
    except (UnicodeDecodeError, csv.Error, gzip.BadGzipFile, EOFError, zlib.error) as error:
        found_kind = type(error).__name__
        raise InvalidValue(place.said, "must be readable as text", found_kind) from None


def _lines(text: IO[str]) -> Iterator[str]:
    """Lines of a bounded length: a packed file of one endless line must not fill memory."""
    while line := text.readline(_LINE_CHARACTERS_MAX):
        if len(line) == _LINE_CHARACTERS_MAX:
            rule = f"must have lines of at most {_LINE_CHARACTERS_MAX} characters"
            raise InvalidValue("dataset file", rule, "a longer one")
        yield line


def _collected(lines: Iterator[list[str]], wanted: Sequence[str]) -> Columns:
    header = [name.strip() for name in next(lines, [])]
    if not header:
        raise InvalidValue("dataset file", "must have a header line", "an empty file")
    _require_columns(header, wanted)
    width, places = len(header), [header.index(name) for name in wanted]
    kept: list[list[str]] = [[] for _ in wanted]
    rows = 0
    for line in lines:
        if not line:
            continue
        if len(line) != width:
            rule = "must have as many cells per line as columns"
            raise InvalidValue("dataset file", rule, "a line that does not")
        _require_rows(rows := rows + 1)
        for cells, place in zip(kept, places, strict=True):
            cells.append(line[place])
    return Columns(rows, dict(zip(wanted, kept, strict=True)))


def _parquet(place: Place, wanted: Sequence[str]) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = place.read(bytes_max=_PARQUET_BYTES_MAX)
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _require_columns(list(file.schema_arrow.names), wanted)
        rows = int(file.metadata.num_rows)
        _require_rows(rows)
        kept: dict[str, list[str]] = {name: [] for name in wanted}
        for batch in file.iter_batches(columns=list(wanted)):
            for name in wanted:
                column = batch.column(batch.schema.get_field_index(name))
                kept[name] += [_text(value) for value in column.to_pylist()]
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        found = type(error).__name__
        raise InvalidValue(place.said, "must be readable as Parquet", found) from None
    return Columns(rows, kept)


def _text(value: object) -> str:
    """A cell as a CSV file would have it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    if isinstance(value, str | int):  # bool is one, and reads True or False.
        return str(value)
    raise InvalidValue("dataset file", "must hold text, numbers and dates", type(value).__name__)


def _require_columns(header: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if header.count(name) != 1:
            found = f"columns {', '.join(header)}" if name not in header else "two of that name"
            raise InvalidValue(
                f"dataset column {name}", "must be in the file", found, "Check dataset.options."
            )


def _require_rows(rows: int) -> None:
    if rows > ROWS_MAX:
        raise InvalidValue("dataset file", f"must have at most {ROWS_MAX} rows", "more")
