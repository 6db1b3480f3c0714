"""Copies that a sample filter ought to catch: training examples, lightly changed, by family.

Koeken, Ziller, Knolle, Rueckert, *Sensitivity, Specificity, and Consistency* (2025): a filter is
only as good as its worst family. Public arithmetic on rows; must never store what it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

_IMAGE_AXES = 4  # (n, c, h, w)
_GRAY_LEVELS = 16

Perturbation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def families(rows: np.ndarray) -> Mapping[str, Perturbation]:
    """The families that make sense for rows of this shape.

    Args:
        rows: ``(n, d)`` tables or ``(n, c, h, w)`` images, values in [0, 1].

    Returns:
        Name to perturbation; a perturbation keeps shape and range.
    """
    anywhere: dict[str, Perturbation] = {
        "exact": lambda values, _: values,
        "noise-0.02": _noise(0.02),
        "noise-0.05": _noise(0.05),
        "noise-0.1": _noise(0.1),
    }
    if rows.ndim != _IMAGE_AXES:
        return anywhere
    return anywhere | {
        "shift-1": _shift(1),
        "shift-2": _shift(2),
        "flip": lambda values, _: values[..., ::-1].copy(),
        "gamma-1.2": lambda values, _: values**1.2,
        "brightness": lambda values, _: np.clip(values + 0.05, 0.0, 1.0),
        "contrast-0.9": lambda values, _: 0.5 + 0.9 * (values - 0.5),
        "rotation-5": _rotate,
        "blur-0.7": _blur,
        "quantized": lambda values, _: np.round(values * (_GRAY_LEVELS - 1)) / (_GRAY_LEVELS - 1),
    }


def _noise(scale: float) -> Perturbation:
    def perturb(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        noisy = values + generator.normal(0.0, scale, values.shape)
        return np.clip(noisy, 0.0, 1.0).astype(np.float32)

    return perturb


def _shift(pixels: int) -> Perturbation:
    """To the right, the left edge repeated."""

    def perturb(values: np.ndarray, _: np.random.Generator) -> np.ndarray:
        edge = np.repeat(values[..., :1], pixels, axis=-1)
        return np.concatenate([edge, values[..., :-pixels]], axis=-1)

    return perturb


def _rotate(values: np.ndarray, _: np.random.Generator) -> np.ndarray:
    from scipy import ndimage

    rotated = ndimage.rotate(values, 5.0, axes=(2, 3), reshape=False, order=1, mode="nearest")
    clipped: np.ndarray = np.clip(rotated, 0.0, 1.0)
    return clipped


def _blur(values: np.ndarray, _: np.random.Generator) -> np.ndarray:
    from scipy import ndimage

    blurred: np.ndarray = ndimage.gaussian_filter(values, sigma=(0.0, 0.0, 0.7, 0.7))
    return blurred
