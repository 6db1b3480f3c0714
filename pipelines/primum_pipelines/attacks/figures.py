"""Figures of merit of reconstructions and membership scores: array arithmetic in float64."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]


def ncc(found: Array, truth: Array) -> Array:
    """Pearson correlation of each row with its true row; 0 where one is constant.

    Args:
        found: Reconstructions, ``(n, d)``.
        truth: Records, ``(n, d)``.

    Returns:
        ``(n,)`` in [-1, 1].
    """
    a = found - found.mean(axis=1, keepdims=True)
    b = truth - truth.mean(axis=1, keepdims=True)
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dot = (a * b).sum(axis=1)
    result: Array = np.divide(dot, scale, out=np.zeros_like(dot), where=scale > 0)
    return result


def psnr(found: Array, truth: Array, *, data_range: float) -> Array:
    """Peak signal-to-noise ratio of each row in dB; at most 200 where a row is exact.

    Args:
        found: Reconstructions, ``(n, d)``.
        truth: Records, ``(n, d)``.
        data_range: Public width of the data's range.
    """
    mse = ((found - truth) ** 2).mean(axis=1)
    result: Array = 10 * np.log10(data_range**2 / np.maximum(mse, data_range**2 * 1e-20))
    return result


def auc(members: Array, non_members: Array) -> float:
    """Area under the ROC curve: P[member scores higher], ties counting half."""
    ordered = np.sort(non_members)
    below = np.searchsorted(ordered, members, side="left")
    not_above = np.searchsorted(ordered, members, side="right")
    return float((below + not_above).mean() / 2 / len(non_members))


def threshold_at(non_members: Array, fpr: float) -> float:
    """The smallest threshold that at most ``fpr`` of the non-members exceed."""
    allowed = int(np.floor(fpr * len(non_members) + 1e-9))
    ordered = np.sort(non_members)[::-1]
    return float(ordered[allowed]) if allowed < len(ordered) else float("-inf")
