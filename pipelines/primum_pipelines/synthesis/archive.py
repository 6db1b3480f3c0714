"""Synthetic datasets as NumPy archives: written by Synthesize, read by later Studies.

Images have MedMNIST's layout (``train_images`` uint8 ``(n, h, w)`` or ``(n, h, w, c)``,
``train_labels`` ``(n, 1)``, the same for val and test). Tables have ``train_features`` float32
``(n, d)`` in raw units instead, with column names and public bounds. Class names ride along. Must
never unpickle.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from primum.domain.errors import InvalidValue
from primum_pipelines.datasets.table import UnitTable

FILE_NAME = "dataset.npz"
GRAY_MAX = 255
_SPLITS = (("train", 0.8), ("val", 0.1), ("test", 0.1))
_IMAGE_AXES = 4
_GRAY_AXES = 3


def unit_interval(table: UnitTable) -> np.ndarray:
    """Features in [0, 1], shape kept: images as they are, tables by their public bounds, clipped.

    Args:
        table: Any opened table.

    Returns:
        float32.

    Raises:
        InvalidValue: If a table comes without public bounds.
    """
    if table.features.ndim == _IMAGE_AXES:
        images: np.ndarray = np.clip(table.features, 0.0, 1.0)
        return images
    if table.feature_low is None or table.feature_high is None:
        raise InvalidValue("dataset", "must have public bounds of its features", "none")
    scaled = (table.features - table.feature_low) / (table.feature_high - table.feature_low)
    clipped: np.ndarray = np.clip(scaled, 0.0, 1.0).astype(np.float32)
    return clipped


def released_form(generated: np.ndarray, like: UnitTable) -> UnitTable:
    """Generated vectors as a table of the same public shape, exactly as an archive will hold them.

    Args:
        generated: float32 ``(n, ...)`` in [0, 1], already of the row shape of ``like``.
        like: Gives classes, names and bounds: public facts only.

    Returns:
        A table without labels yet; images rounded to 8 bits.
    """
    if generated.ndim == _IMAGE_AXES:
        features = (np.round(generated * GRAY_MAX) / GRAY_MAX).astype(np.float32)
    elif like.feature_low is None or like.feature_high is None:
        raise InvalidValue("dataset", "must have public bounds of its features", "none")
    else:
        features = like.feature_low + generated * (like.feature_high - like.feature_low)
    count = len(generated)
    return replace(
        like,
        features=features.astype(np.float32),
        labels=np.zeros(count, dtype=np.int64),
        units=np.array([f"synthetic-{row}" for row in range(count)]),
        train=np.ones(count, dtype=bool),
        subgroups={},
    )


def to_bytes(table: UnitTable) -> bytes:
    """The archive of a synthetic table; rows are split 80/10/10 in order.

    Args:
        table: As ``released_form`` gives it, with labels.
    """
    count = len(table.labels)
    stops = np.round(np.cumsum([share for _, share in _SPLITS]) * count).astype(int)
    arrays: dict[str, np.ndarray] = {"classes": np.array(table.classes)}
    name, values = "features", table.features
    if table.features.ndim == _IMAGE_AXES:
        levels = np.round(table.features * GRAY_MAX).astype(np.uint8)
        name, values = (
            "images",
            levels[:, 0] if levels.shape[1] == 1 else np.moveaxis(levels, 1, -1),
        )
    elif table.feature_low is not None and table.feature_high is not None:
        arrays["feature_names"] = np.array(table.feature_names)
        arrays["feature_low"], arrays["feature_high"] = table.feature_low, table.feature_high
    start = 0
    for (split, _), stop in zip(_SPLITS, stops, strict=True):
        arrays[f"{split}_{name}"] = values[start:stop]
        arrays[f"{split}_labels"] = table.labels[start:stop, None].astype(np.uint8)
        start = stop
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def from_bytes(data: bytes) -> UnitTable:
    """The table that an archive holds; ``train`` marks its training split.

    Raises:
        InvalidValue: If it is not an archive that Synthesize wrote.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return _table(arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        rule = "must be a NumPy archive written by Synthesize"
        raise InvalidValue("synthetic dataset", rule, type(error).__name__) from None


def _table(arrays: Mapping[str, np.ndarray]) -> UnitTable:
    images = "train_images" in arrays
    name = "images" if images else "features"
    values = np.concatenate([arrays[f"{split}_{name}"] for split, _ in _SPLITS])
    labels = np.concatenate([arrays[f"{split}_labels"].ravel() for split, _ in _SPLITS])
    features = values.astype(np.float32)
    if images:
        features /= GRAY_MAX
        gray = values.ndim == _GRAY_AXES
        features = features[:, None] if gray else np.moveaxis(features, -1, 1)
    count = len(labels)
    return UnitTable(
        features=features,
        labels=labels.astype(np.int64),
        units=np.array([f"synthetic-{row}" for row in range(count)]),
        train=np.arange(count) < len(arrays["train_labels"]),
        classes=tuple(str(item) for item in arrays["classes"]),
        feature_names=() if images else tuple(str(item) for item in arrays["feature_names"]),
        feature_low=None if images else arrays["feature_low"].astype(np.float32),
        feature_high=None if images else arrays["feature_high"].astype(np.float32),
    )
