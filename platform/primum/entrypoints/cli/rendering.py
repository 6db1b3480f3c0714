"""Rendering for people and for scripts: aligned columns, JSON or YAML.

Prints values as they are; decides nothing.
"""

from __future__ import annotations

import datetime
import enum
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any


class Output(enum.StrEnum):
    """How to print."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def structured(value: Any, output: Output) -> None:
    """Print a value as JSON or YAML."""
    if output is Output.YAML:
        import yaml

        sys.stdout.write(yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True))
        return
    print(json.dumps(plain(value), indent=2, ensure_ascii=False))


def plain(value: Any) -> Any:
    """Mappings and sequences as dict and list, everything else as it is."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns under upper-case headers; says so where there is nothing."""
    if not rows:
        print("nothing found")
        return
    cells = [[header.upper() for header in headers], *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    for row in cells:
        print(
            "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def age(created: str, now: datetime.datetime | None = None) -> str:
    """How long ago, as ``kubectl`` says it: 12s, 5m, 3h, 2d."""
    moment = datetime.datetime.fromisoformat(created)
    seconds = int(((now or datetime.datetime.now(datetime.UTC)) - moment).total_seconds())
    for limit, divisor, letter in ((120, 1, "s"), (7200, 60, "m"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{max(seconds, 0) // divisor}{letter}"
    return f"{seconds // 86400}d"


def document(stored: Any) -> dict[str, Any]:
    """A stored resource as the Kubernetes object people know."""
    metadata: dict[str, Any] = {
        "name": stored.key.name,
        "namespace": stored.key.namespace,
        "uid": stored.uid,
        "generation": stored.generation,
        "resourceVersion": str(stored.resource_version),
        "creationTimestamp": stored.created,
    }
    if stored.labels:
        metadata["labels"] = dict(stored.labels)
    if stored.deleting:
        metadata["deletionTimestamp"] = stored.deleting
    return {
        "apiVersion": "primum.dev/v1alpha1",
        "kind": stored.key.kind,
        "metadata": metadata,
        "spec": plain(stored.spec),
        "status": plain(stored.status),
    }
