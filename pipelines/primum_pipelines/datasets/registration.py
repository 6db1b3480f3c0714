"""Registers a dataset inside the steward's zone: its digest, its units, and whether it is sound.

A heavy function for a compute worker. What it returns may leave the zone: a digest over everything,
two counts that the steward declares public by registering, and messages that name columns but never
a value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue, NotFound, Tampered, Unavailable
from primum.domain.quantities import PrivacyUnit

if TYPE_CHECKING:
    from primum_pipelines.datasets.table import UnitTable


def register(payload: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """Open a dataset once, check it, and say who it is.

    Args:
        payload: ``{"uri", "unit", "options", "dataDirs"}``, and ``units`` where a number of units
            is
            declared: then nothing is counted that a published split does not say.

    Returns:
        ``{"digest", "units", "trainUnits", "message"}``, or ``{"error": {"kind", "message"}}`` with
        kind ``NotFound``, ``InvalidValue``, ``Tampered`` or ``Unavailable``.
    """
    try:
        return _register(payload)
    except (NotFound, InvalidValue, Tampered, Unavailable) as error:
        return {"error": {"kind": type(error).__name__, "message": str(error)}}


def _register(payload: Mapping[str, JSON]) -> Mapping[str, JSON]:
    from primum_pipelines.datasets.checks import require_sound
    from primum_pipelines.datasets.driver import TRAIN_SHARE, driver_for

    uri, folders = str(payload["uri"]), payload.get("dataDirs")
    given = payload.get("options")
    options = given if isinstance(given, Mapping) else {}
    driver = driver_for(uri)
    table = driver.load(
        uri,
        PrivacyUnit(str(payload["unit"])),
        options,
        [str(item) for item in folders] if isinstance(folders, list | tuple) else [],
    )
    require_sound(table)
    units, train_units = len(table.units), int(table.train.sum())
    declared = payload.get("units")
    if isinstance(declared, int):
        units = declared
        if str(driver.describe(uri, options)["split"]).startswith("hash"):
            train_units = int(TRAIN_SHARE * declared)
    return {
        "digest": content_digest(table),
        "units": units,
        "trainUnits": train_units,
        "message": f"{units} units, {train_units} of them for training",
    }


def content_digest(table: UnitTable) -> str:
    """A digest of what a table holds, as ``sha256:<64 hex digits>``.

    Guarantees:
        The same for any order of the rows, any compression of the file, and with or without exact
        duplicates, so that a copied or shuffled file meets the account of the original.
    """
    import numpy as np

    flat = np.ascontiguousarray(table.features.reshape(len(table.labels), -1), dtype="<f4")
    labels = np.ascontiguousarray(table.labels, dtype="<i8")
    rows = {
        hashlib.sha256(row.tobytes() + label.tobytes()).digest()
        for row, label in zip(flat, labels, strict=True)
    }
    total = hashlib.sha256(b"primum-table-v1\x1f" + str(flat.shape[1]).encode() + b"\x1f")
    for digest in sorted(rows):
        total.update(digest)
    return "sha256:" + total.hexdigest()
