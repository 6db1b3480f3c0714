"""Rows as CSV and as JSON lines, one at a time. Nothing here may build a whole file in memory."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.alias_generators import to_camel

CSV = "text/csv"
JSON_LINES = "application/x-ndjson"


def described(media_type: str, text: str) -> dict[int | str, dict[str, Any]]:
    """How the OpenAPI document describes a file."""
    content = {media_type: {"schema": {"type": "string"}}}
    return {200: {"description": text, "content": content}}


def csv_lines(model: type[BaseModel], rows: Iterable[BaseModel]) -> Iterator[str]:
    """A header, and a line per row; objects and lists as JSON."""
    columns = list(model.model_fields)
    yield _line([to_camel(name) for name in columns])
    for row in rows:
        yield _line([_cell(getattr(row, name)) for name in columns])


def json_lines(rows: Iterable[BaseModel]) -> Iterator[str]:
    """A JSON object per line."""
    return (row.model_dump_json(by_alias=True) + "\n" for row in rows)


def harmless(cell: str) -> str:
    """A cell that a spreadsheet will not run as a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else cell


def _cell(value: object) -> str:
    if value is None:
        return ""
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else str(value)


def _line(cells: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow([harmless(cell) for cell in cells])
    return buffer.getvalue()
