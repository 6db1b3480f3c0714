"""Registers a dataset inside the steward's zone: its digest, its units, and whether it is sound.

A heavy function for a compute worker. What it returns may leave the zone: a digest over everything,
counts, of the whole and of each block, that the steward declares public by registering, and
messages that name columns but never a value.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from primum.domain.budget.layout import BlockLayout, Division, layout_from_json
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue, NotFound, Refused, Tampered, Unavailable
from primum.domain.quantities import PrivacyUnit

if TYPE_CHECKING:
    import numpy as np

    from primum_pipelines.datasets.table import UnitTable


def register(payload: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """Open a dataset once, check it, and say who it is.

    Args:
        payload: ``{"uri", "unit", "options", "dataDirs", "zoneDir"}``, and ``units`` where a
            number of units is declared: then nothing is counted that a published split does not
            say. ``layout`` where the dataset is divided: by time, it ends with the last block that
            exists.

    Returns:
        ``{"digest", "units", "trainUnits", "message"}``, and ``blocks`` where it is divided: units
        and training units of each block that has any. Or ``{"error": {"kind", "message"}}`` with
        kind ``NotFound``, ``InvalidValue``, ``Refused``, ``Tampered`` or ``Unavailable``.
    """
    try:
        return _register(payload)
    except (NotFound, InvalidValue, Refused, Tampered, Unavailable) as error:
        return {"error": {"kind": type(error).__name__, "message": str(error)}}


def _register(payload: Mapping[str, JSON]) -> Mapping[str, JSON]:
    import numpy as np

    from primum_pipelines.datasets import consent
    from primum_pipelines.datasets.checks import require_sound
    from primum_pipelines.datasets.driver import (
        TRAIN_SHARE,
        driver_for,
        examples_max,
        load_blocks,
    )
    from primum_pipelines.datasets.units import by_unit

    uri, folders = str(payload["uri"]), payload.get("dataDirs")
    given = payload.get("options")
    options = given if isinstance(given, Mapping) else {}
    driver = driver_for(uri)
    unit = PrivacyUnit(str(payload["unit"]))
    places = [str(item) for item in folders] if isinstance(folders, list | tuple) else []
    divided, column = payload.get("layout"), ""
    if isinstance(divided, Mapping):
        layout = layout_from_json(divided)
        table = load_blocks(uri, unit, options, places, layout=layout, wanted=None)
        column = layout.column
    else:
        table, layout = driver.load(uri, unit, options, places), None
    # Identity and declared size are those of the whole file, so that a withdrawal neither makes a
    # new account nor shows in a public number (docs/decisions/0012), and another bound on what a
    # unit contributes meets the same account.
    digest = content_digest(table)
    source = consent.Opened(
        zone_dir=str(payload.get("zoneDir", "")),
        uri=uri,
        naming=consent.naming_of(driver, uri, options, column=column),
        digest=digest,
    )
    standing = consent.standing(table, source)
    require_sound(by_unit(standing, examples_max=examples_max(options)))
    first = np.unique(table.units, return_index=True)[1]
    counts: dict[str, JSON] = {}
    if layout is not None:
        counts = {"blocks": _block_sizes(table, layout, first)}
    units, train_units = len(first), int(table.train[first].sum())
    declared = payload.get("units")
    if isinstance(declared, int):
        units = declared
        if str(driver.describe(uri, options)["split"]).startswith("hash"):
            train_units = int(TRAIN_SHARE * declared)
    return {
        "digest": digest,
        "units": units,
        "trainUnits": train_units,
        "message": f"{units} units, {train_units} of them for training",
        **counts,
    }


def _block_sizes(table: UnitTable, layout: BlockLayout, first: np.ndarray) -> dict[str, JSON]:
    """Units and training units of each block that has any; ``first`` is one row of each unit.

    Raises:
        InvalidValue: If the layout has no block for a unit; names the column, never a value.
    """
    import numpy as np

    placed = table.blocks
    if placed is None or (placed == "").any():
        if layout.by is Division.TIME:
            rule = f"must hold an ISO 8601 date in a block from {layout.start} until today"
            remedy = (
                "Correct the dates, declare an earlier start in another budget, or move end on."
            )
        else:
            rule = "must hold one of spec.blocks.values"
            remedy = "Correct the data, or add the missing value to spec.blocks.values."
        raise InvalidValue(f"dataset column {layout.column}", rule, "another or none", remedy)
    names, numbers, units = np.unique(placed[first], return_inverse=True, return_counts=True)
    train = np.bincount(numbers, weights=table.train[first], minlength=len(names)).astype(int)
    return {
        str(name): [int(count), int(trained)]
        for name, count, trained in zip(names, units, train, strict=True)
    }


def content_digest(table: UnitTable) -> str:
    """A digest of what a table holds, as ``sha256:<64 hex digits>``.

    Guarantees:
        The same for any order of the rows, any compression of the file, and with or without exact
        duplicates, so that a copied or shuffled file meets the account of the original.
    """
    rows = {table.row_digest(row) for row in range(len(table.labels))}
    width = math.prod(table.features.shape[1:])
    total = hashlib.sha256(b"primum-table-v1\x1f" + str(width).encode() + b"\x1f")
    for digest in sorted(rows):
        total.update(digest)
    return "sha256:" + total.hexdigest()
