"""Exact nearest neighbors by blocked matrix products, re-checked in float64.

``|a|^2 - 2ab + |b|^2`` in float32 cancels: exact duplicates come out at about 0.01 instead of 0. So
the product only shortlists, and the distance that decides is taken from the difference in float64.
"""

from __future__ import annotations

import enum
import math

import numpy as np

from primum_pipelines.sample_filters.filter import Scores

_BLOCK_ROWS = 1024  # 1024 x 4708 float32 distances are 19 MB.
_SHORTLIST = 8
_CENTER = 0.5  # Of [0, 1]; smaller norms, less cancellation. A public constant.


class SelfMatch(enum.Enum):
    """Whether row i of the candidates may match row i of the reference."""

    ALLOWED = "Allowed"
    EXCLUDED = "Excluded"  # the candidates are the reference itself


def nearest(
    candidates: np.ndarray, reference: np.ndarray, *, self_match: SelfMatch = SelfMatch.ALLOWED
) -> Scores:
    """The nearest reference row of each candidate in L2.

    Guarantees:
        The distance is exact in float64 for the row it names. The row is the nearest one unless
        more than eight rows lie within float32 error of each other.

    Args:
        candidates: ``(n, ...)``, values in [0, 1].
        reference: ``(m, ...)`` of the same row shape.
        self_match: Set to excluded when searching a set within itself.

    Returns:
        Distances and indices, ``(n,)`` each.
    """
    left, right = _flat(candidates), _flat(reference)
    right_norms = np.einsum("ij,ij->i", right, right)
    distances = np.empty(len(left), dtype=np.float64)
    indices = np.empty(len(left), dtype=np.int64)
    for start in range(0, len(left), _BLOCK_ROWS):
        block = left[start : start + _BLOCK_ROWS]
        squared = right_norms[None, :] - 2.0 * (block @ right.T)  # |a|^2 moves no minimum.
        if self_match is SelfMatch.EXCLUDED:
            rows = np.arange(len(block))
            squared[rows, start + rows] = np.inf
        stop = start + len(block)
        distances[start:stop], indices[start:stop] = _rechecked(block, right, squared)
    return Scores(distances, indices)


def _rechecked(
    block: np.ndarray, reference: np.ndarray, squared: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    count = min(_SHORTLIST, squared.shape[1])
    shortlist = np.argpartition(squared, count - 1, axis=1)[:, :count]
    exact = np.empty(shortlist.shape, dtype=np.float64)
    for column in range(count):
        difference = block.astype(np.float64) - reference[shortlist[:, column]].astype(np.float64)
        exact[:, column] = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    excluded = np.isinf(np.take_along_axis(squared, shortlist, axis=1))
    exact[excluded] = np.inf
    best = np.argmin(exact, axis=1)
    rows = np.arange(len(block))
    return exact[rows, best], shortlist[rows, best]


def _flat(rows: np.ndarray) -> np.ndarray:
    width = math.prod(rows.shape[1:])
    flat = rows.reshape(len(rows), width).astype(np.float32) - np.float32(_CENTER)
    return np.ascontiguousarray(flat)
