"""A model's answers on held-out rows, kept in the zone so that models can be compared row by row.

Restricted, always: it says something about every held-out unit. Rows are known by marks that do not
show a unit's name; whoever knows a name can find its row, so a file of them never leaves.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from primum.domain.errors import InvalidValue
from primum_pipelines.evaluation.figures import Floats, Ints, Scored

ARTIFACT_KIND = "Predictions"
_MARK_BYTES = 16


@dataclass(frozen=True, slots=True, repr=False)
class Predictions:
    """Answers of one model on held-out rows.

    Args:
        marks: ``(n,)`` of 16 bytes, different for every row.
        owners: ``(n,)``, number of the unit of each row.
        labels: ``(n,)`` class numbers.
        probabilities: ``(n, classes)``.
        positive: Class number that binary figures are about.
        readers: What readers said of each row, see ``UnitTable.readers``.
    """

    marks: NDArray[np.bytes_]
    owners: Ints
    labels: Ints
    probabilities: Floats
    positive: int
    readers: Mapping[str, Ints] = field(default_factory=dict)

    def scored(self, rows: Ints) -> Scored:
        """Some rows as figures are made of them."""
        return Scored(self.labels[rows], self.probabilities[rows], self.positive, self.owners[rows])


def of(scored: Scored, *, dataset: str, readers: Mapping[str, Ints] | None = None) -> Predictions:
    """The answers of a model, each row under a mark of its dataset, its unit and its place there.

    Args:
        scored: Held-out rows.
        dataset: What tells this dataset from others: the same for every Study of it.
        readers: What readers said of each row.

    Raises:
        InvalidValue: If the rows have no units.
    """
    if scored.units is None:
        raise InvalidValue("predictions", "must be of rows with units", "none")
    _, owners = np.unique(scored.units, return_inverse=True)
    seen: dict[int, int] = {}
    marks = []
    for unit, owner in zip(scored.units, owners, strict=True):
        place = seen[int(owner)] = seen.get(int(owner), -1) + 1
        text = f"{dataset}\0{unit}\0{place}".encode()
        marks.append(hashlib.sha256(text).digest()[:_MARK_BYTES])
    return Predictions(
        np.frombuffer(b"".join(marks), dtype=f"V{_MARK_BYTES}"),
        owners.astype(np.int64),
        scored.labels,
        scored.probabilities,
        scored.positive,
        dict(readers or {}),
    )


def to_bytes(found: Predictions) -> bytes:
    """An archive without pickles."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        marks=found.marks.view(np.uint8).reshape(len(found.labels), _MARK_BYTES),
        owners=found.owners,
        labels=found.labels,
        probabilities=found.probabilities,
        positive=np.array(found.positive),
        readerNames=np.array(list(found.readers), dtype=str),
        readers=np.array(list(found.readers.values()), dtype=np.int64),
    )
    return buffer.getvalue()


def from_bytes(data: bytes) -> Predictions:
    """Read an archive.

    Raises:
        InvalidValue: If it is not one of ours.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            marks = np.ascontiguousarray(archive["marks"])
            names = archive["readerNames"].tolist() if "readerNames" in archive else []
            return Predictions(
                marks.view(f"V{_MARK_BYTES}").reshape(-1),
                archive["owners"],
                archive["labels"],
                archive["probabilities"],
                int(archive["positive"]),
                dict(zip(names, archive["readers"], strict=True)) if names else {},
            )
    except (KeyError, ValueError, OSError) as error:
        raise InvalidValue(
            "predictions", "must be an archive written by Primum", type(error).__name__
        ) from None


def aligned(first: Predictions, second: Predictions) -> tuple[Ints, Ints]:
    """Row numbers of the rows that both answered, in one order.

    Returns:
        ``(n,)`` into the first and ``(n,)`` into the second; empty where they share no row.
    """
    rows = [item.marks.view(np.uint8).reshape(-1, _MARK_BYTES) for item in (first, second)]
    keys = [[row.tobytes() for row in part] for part in rows]
    where = {key: number for number, key in enumerate(keys[1])}
    pairs = [(number, where[key]) for number, key in enumerate(keys[0]) if key in where]
    if not pairs:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    left, right = np.array(pairs, dtype=np.int64).T
    return left, right
