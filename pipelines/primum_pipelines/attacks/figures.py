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


def roc(members: Array, non_members: Array) -> tuple[Array, Array]:
    """The ROC curve over all thresholds: false and true positive rates, both increasing.

    Returns:
        ``(fpr, tpr)`` with a point for every distinct score and ``(0, 0)`` first.
    """
    thresholds = np.unique(np.concatenate([members, non_members]))[::-1]
    present, absent = np.sort(members), np.sort(non_members)
    tpr = 1 - np.searchsorted(present, thresholds, side="left") / len(members)
    fpr = 1 - np.searchsorted(absent, thresholds, side="left") / len(non_members)
    return np.append(0.0, fpr), np.append(0.0, tpr)


def threshold_at(non_members: Array, fpr: float) -> float:
    """The smallest threshold that at most ``fpr`` of the non-members exceed."""
    allowed = int(np.floor(fpr * len(non_members) + 1e-9))
    ordered = np.sort(non_members)[::-1]
    return float(ordered[allowed]) if allowed < len(ordered) else float("-inf")


def ssim(found: Array, truth: Array, *, shape: tuple[int, ...], data_range: float) -> Array:
    """Structural similarity of images or volumes (Wang et al. 2004), Gaussian window of 1.5.

    Args:
        found: Reconstructions, ``(n, d)``.
        truth: Records, ``(n, d)``.
        shape: Of one record, channels first; every side at least 2.
        data_range: Public width of the data's range.

    Returns:
        ``(n,)``, mean over channels; at most 1.
    """
    from scipy.ndimage import gaussian_filter

    sigma = (0.0, 0.0, *(1.5,) * (len(shape) - 1))

    def smooth(values: Array) -> Array:
        result: Array = gaussian_filter(values, sigma, truncate=3.5)
        return result

    a, b = found.reshape(-1, *shape), truth.reshape(-1, *shape)
    mean_a, mean_b = smooth(a), smooth(b)
    spread_a, spread_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    together = smooth(a * b) - mean_a * mean_b
    low, high = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    top = (2 * mean_a * mean_b + low) * (2 * together + high)
    bottom = (mean_a**2 + mean_b**2 + low) * (spread_a + spread_b + high)
    result: Array = (top / bottom).reshape(len(a), -1).mean(axis=1)
    return result
