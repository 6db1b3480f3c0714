"""NIfTI volumes, turned to the axes of an axial DICOM series. The only door to nibabel.

Convention: ``(d, h, w)`` with slices from feet to head, rows from front to back, columns from the
patient's right to left. A file that does not say how its axes lie is refused: a guess could mirror
a patient.
"""

from __future__ import annotations

import gzip
import io
import logging
import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from primum.domain.errors import InvalidValue
from primum_pipelines.datasets import pixels
from primum_pipelines.datasets.declared import Window
from primum_pipelines.datasets.pictures import FILE_BYTES_MAX, Picture, volume_pixels
from primum_pipelines.datasets.places import Place

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HEADER_BYTES = 2**20  # Header and extensions; the pixels come after.
_VALUE_BYTES_MAX = 16
_AXES = 3
_BROKEN = (OSError, EOFError, ValueError, KeyError, TypeError, struct.error, zlib.error)


class NiftiDecoder:
    """``.nii`` and ``.nii.gz`` files of one volume.

    Args:
        window: The levels that become 0 and 1, after the file's own scaling.
    """

    suffixes = (".nii", ".nii.gz")

    def __init__(self, window: Window) -> None:
        self._window = window

    def decode(self, place: Place, parts: Sequence[Place]) -> Picture:
        """The volume ``(1, d, h, w)``."""
        if parts:
            raise InvalidValue(place.said, "must be a file", "a folder")
        values = _volume(place).astype(np.float32)
        return Picture(pixels.scaled(values, self._window, said=place.said)[None])


def volume_mask(place: Place) -> NDArray[np.uint8]:
    """A mask ``(d, h, w)`` of class numbers.

    Raises:
        InvalidValue: If a voxel is no class number, or the file cannot be read.
    """
    found = _volume(place)
    whole = np.isfinite(found).all() and (found == np.round(found)).all()
    if not whole or found.min(initial=0) < 0 or found.max(initial=0) > np.iinfo(np.uint8).max:
        raise InvalidValue(place.said, "must hold class numbers", "others")
    return found.astype(np.uint8)


def _volume(place: Place) -> NDArray[np.float64]:
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    logging.getLogger("nibabel").setLevel(logging.CRITICAL)  # It may quote a header.
    try:
        data = _unpacked(place)
        image: Any = nib.Nifti1Image.from_bytes(data)
        _require_directions(image, place.said)
        shape = image.shape
        if len(shape) == _AXES + 1 and shape[-1] == 1:
            image = nib.Nifti1Image(image.dataobj[..., 0], image.affine)
        turned: Any = nib.as_closest_canonical(image)
        values: NDArray[np.float64] = np.asarray(turned.dataobj, dtype=np.float64)
    except (*_BROKEN, HeaderDataError, ImageFileError, WrapStructError) as e:
        raise InvalidValue(place.said, "must be a NIfTI volume", type(e).__name__) from None
    # From right, front, up to the order of an axial series: up, back, left.
    return np.ascontiguousarray(values.transpose(2, 1, 0)[:, ::-1, ::-1])


def _unpacked(place: Place) -> bytes:
    """The file's bytes; no more is unpacked than its header says that there is."""
    import nibabel as nib

    with place.open() as file:
        stream: Any = gzip.GzipFile(fileobj=file) if place.suffix == ".gz" else file
        head: bytes = stream.read(_HEADER_BYTES)
        header = nib.Nifti1Header.from_fileobj(io.BytesIO(head))
        shape = header.get_data_shape()
        if not _AXES <= len(shape) <= _AXES + 1 or (len(shape) > _AXES and shape[-1] != 1):
            raise InvalidValue(place.said, "must have one volume", f"{len(shape)} axes")
        kind = np.dtype(header.get_data_dtype())
        if kind.kind not in "buif" or kind.itemsize > _VALUE_BYTES_MAX:
            raise InvalidValue(place.said, "must have real numbers", kind.name)
        size = volume_pixels(shape, said=place.said) * kind.itemsize + int(header.get_data_offset())
        if size > FILE_BYTES_MAX:
            raise InvalidValue(place.said, f"must unpack to {FILE_BYTES_MAX} bytes", "more")
        rest: bytes = stream.read(max(0, size - len(head)))
    if len(head) + len(rest) < size:
        raise InvalidValue(place.said, "must be whole", "a shorter file")
    return head + rest


def _require_directions(image: Any, said: str) -> None:
    """Refuse a file without a coordinate system, or whose axes lie along no axis of the body."""
    import nibabel as nib

    coded = int(image.header["qform_code"]) > 0 or int(image.header["sform_code"]) > 0
    known = coded and np.isfinite(image.affine).all()
    if not known or None in nib.aff2axcodes(image.affine):
        raise InvalidValue(
            said,
            "must say which way its axes lie",
            "no qform and no sform",
            "Write the file again with its affine.",
        )
