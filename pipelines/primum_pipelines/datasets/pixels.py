"""From stored gray levels to features in [0, 1], by public rules alone.

The range comes from a declared window or from the type of the pixels, never from the data. Must not
normalize an image by its own extremes across images: what is done to one is a function of that one
and of what is declared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from primum.domain.errors import InvalidValue
from primum_pipelines.datasets.declared import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIXELS_MAX = 2**28  # Of one image or volume: a CT of 1024 slices of 512 x 512; a bomb has more.
FEATURE_BYTES_MAX = 2**35  # Of a whole table: 32 GiB, which a step holds in memory.
_PLAIN = {"uint8": 255.0, "uint16": 65535.0, "bool": 1.0}
_REMEDY = 'For example window: {low: "-160", high: "240"}, in the units of the pixels.'
_SPATIAL_2D = 2


def scaled(values: NDArray[np.generic], window: Window | None, *, said: str) -> NDArray[np.float32]:
    """Gray levels as float32 in [0, 1], shape kept.

    Args:
        values: Pixels or voxels; NaN stays, and whatever checks the table refuses it.
        window: The levels that become 0 and 1; ``None`` for the range of an unsigned type of 8 or
            16 bits, and for floats that lie in [0, 1] already.
        said: What it is, for messages.

    Raises:
        InvalidValue: If a window is needed and none is declared.
    """
    if window is not None:
        found: NDArray[np.float32] = values.astype(np.float32)
        found -= np.float32(window.low)
        found /= np.float32(window.high - window.low)
        return np.clip(found, 0.0, 1.0, out=found)
    most = _PLAIN.get(values.dtype.name)
    if most is not None:
        return values.astype(np.float32) / np.float32(most)
    found = values.astype(np.float32)
    outside = values.dtype.kind != "f" or (found < 0).any() or (found > 1).any()
    if outside:
        raise InvalidValue(
            said,
            "must have 8 or 16 unsigned bits or lie in [0, 1], unless a window is declared",
            values.dtype.name,
            _REMEDY,
        )
    return found


def complex_pairs(
    values: NDArray[np.complexfloating], window: Window | None
) -> NDArray[np.float32]:
    """k-space ``(n, coils, h, w)`` as float32 ``(n, 2 coils, h, w)`` in [0, 1].

    Channels 2k and 2k + 1 are the real and the imaginary part of coil k; 0 becomes 1/2.

    Raises:
        InvalidValue: If no window around 0 is declared.
    """
    if window is None or window.low != -window.high:
        raise InvalidValue(
            "dataset.options.window",
            "must lie around 0 for complex values",
            "none" if window is None else f"{window.low}, {window.high}",
            'For example window: {low: "-1", high: "1"}.',
        )
    parts = np.stack([values.real, values.imag], axis=2)
    count, coils = values.shape[:2]
    flat = parts.reshape(count, 2 * coils, *values.shape[2:])
    return scaled(flat, window, said="dataset array kspace")


def resized(values: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    """An image ``(c, h, w)`` or a volume ``(c, d, h, w)`` at another size, linear, antialiased.

    Args:
        values: float32.
        shape: ``(h, w)`` or ``(d, h, w)``.
    """
    if tuple(values.shape[1:]) == tuple(shape):
        return values
    return np.stack([_resized(channel, tuple(shape), "BILINEAR") for channel in values])


def resized_mask(mask: NDArray[np.uint8], shape: Sequence[int]) -> NDArray[np.uint8]:
    """A mask ``(h, w)`` or ``(d, h, w)`` at another size; every pixel is one that was there."""
    if mask.shape == tuple(shape):
        return mask
    return _resized(mask.astype(np.float32), tuple(shape), "NEAREST").astype(np.uint8)


def require_axes(spatial: Sequence[int], shape: Sequence[int], *, said: str) -> None:
    """Refuse an image where volumes are declared, and the other way round.

    Raises:
        InvalidValue: If the number of axes differs.
    """
    if shape and len(spatial) != len(shape):
        raise InvalidValue(said, f"must have {len(shape)} axes, as shape declares", len(spatial))


def require_size(sides: Sequence[int], *, said: str) -> None:
    """Refuse an image or volume that would unpack to more than anybody's memory.

    Args:
        sides: As its header states them, before a pixel is unpacked.
        said: What it is, for messages.

    Raises:
        InvalidValue: If a side is not positive, or there are more than 2^28 values.
    """
    if any(side < 1 for side in sides) or math.prod(sides) > PIXELS_MAX:
        raise InvalidValue(said, f"must have 1 to {PIXELS_MAX} pixels", "another number")


def require_room(rows: int, shape: Sequence[int]) -> None:
    """Refuse a table that no step can hold in memory.

    Raises:
        InvalidValue: If it has more than 32 GiB.
    """
    if rows * math.prod(shape) * 4 > FEATURE_BYTES_MAX:
        rule = f"must have features of at most {FEATURE_BYTES_MAX // 2**30} GiB"
        raise InvalidValue("dataset", rule, "more", "Declare a smaller shape, or divide it.")


def _resized(values: NDArray[np.float32], shape: tuple[int, ...], how: str) -> NDArray[np.float32]:
    """Resize the last two axes slice by slice, then the axis of slices."""
    from PIL import Image

    filter_ = Image.Resampling[how]

    def plane(flat: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
        picture = Image.fromarray(np.ascontiguousarray(flat))
        return np.asarray(picture.resize((width, height), filter_), dtype=np.float32)

    if values.ndim == _SPATIAL_2D:
        return plane(values, shape[0], shape[1])
    planes = np.stack([plane(piece, shape[1], shape[2]) for piece in values])
    flat = planes.reshape(len(planes), -1)
    return plane(flat, shape[0], flat.shape[1]).reshape(shape)
