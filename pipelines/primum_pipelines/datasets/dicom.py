"""DICOM images and series, in the units of their modality. The only door to pydicom.

Nothing of a file but its pixels, its geometry and, where a budget names units by it, one
identifier is looked at; nothing of it is shown. What pydicom would say about a damaged file may
quote a patient, and is kept quiet.
"""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from primum.domain.errors import InvalidValue
from primum_pipelines.datasets import pixels
from primum_pipelines.datasets.declared import Window
from primum_pipelines.datasets.pictures import FILE_BYTES_MAX, Picture
from primum_pipelines.datasets.places import Place

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom import FileDataset

# Inflated by the library whole and without a bound, before a size can be seen.
_DEFLATED = (b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.8.1")
_GRAY = ("MONOCHROME1", "MONOCHROME2")
_SLICES_MAX = 4096
_SPACING_ERROR = 0.5  # Of the least distance between slices: a missing one doubles it.
_COSINES = 6
_AXIS_NAMES = ("x", "y", "z")
_ONE_SERIES = ("SeriesInstanceUID", "Rows", "Columns")
_BROKEN = (
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    struct.error,
    TypeError,
    ValueError,
    zlib.error,
)


class DicomDecoder:
    """One image, one volume of frames, or a series of slices sorted by their place in the body.

    Args:
        window: The levels that become 0 and 1, after the file's own rescaling; MONOCHROME1 is
            inverted after that.
        tag: The tag that names the unit; empty where a column does.
    """

    suffixes = (".dcm", ".dicom")

    def __init__(self, window: Window, *, tag: str) -> None:
        self._window = window
        self._tag = tag

    def decode(self, place: Place, parts: Sequence[Place]) -> Picture:
        """The picture; a series is a volume ``(1, d, h, w)``."""
        if len(parts) > _SLICES_MAX:
            raise InvalidValue(place.said, f"must have at most {_SLICES_MAX} slices", "more")
        try:
            if not parts:
                file = _read(place)
                values = self._levels(file, place.said)
                named = self._unit([file], place.said)
                return Picture(values[None], named, "" if values.ndim == 2 else _plane(file))  # noqa: PLR2004 - an image has two axes
            if self._tag == "SOPInstanceUID":
                raise InvalidValue(
                    place.said, "must be a file where the unit is Image", "a series of images"
                )
            return self._series([_read(part) for part in parts], place.said)
        except _BROKEN as error:
            raise InvalidValue(
                place.said, "must be a DICOM file with pixels", type(error).__name__
            ) from None

    def _series(self, files: Sequence[FileDataset], said: str) -> Picture:
        for tag in _ONE_SERIES:
            if len({str(file[tag].value) for file in files}) != 1:
                raise InvalidValue(said, f"must have one {tag} in all slices", "several")
        planes = {_plane(file) for file in files}
        if len(planes) != 1 or "" in planes:
            raise InvalidValue(said, "must have slices of one known orientation", "others")
        ordered = _ordered(files, said)
        pixels.require_size((len(files), int(files[0].Rows), int(files[0].Columns)), said=said)
        volume = np.stack([self._levels(file, said) for file in ordered])
        if volume.ndim != 3:  # noqa: PLR2004 - a series of images is a volume
            raise InvalidValue(said, "must have one frame per slice", "several")
        return Picture(volume[None], self._unit(files, said), planes.pop())

    def _levels(self, file: FileDataset, said: str) -> NDArray[np.float32]:
        """Levels in [0, 1], ``(h, w)`` or ``(d, h, w)``."""
        from pydicom.pixels.processing import apply_modality_lut

        if "PixelData" not in file:
            raise InvalidValue(said, "must have pixels", "none")
        kind = str(file.PhotometricInterpretation)
        if kind not in _GRAY:
            rule = f"must be one of {', '.join(_GRAY)}"
            raise InvalidValue(f"{said}, PhotometricInterpretation", rule, "another one")
        if "PerFrameFunctionalGroupsSequence" in file:
            rule = "must have one rescaling for all frames"
            raise InvalidValue(
                said, rule, "an enhanced multi-frame file", "Convert it to a series."
            )
        frames = int(file.get("NumberOfFrames") or 1)
        pixels.require_size((frames, int(file.Rows), int(file.Columns)), said=said)
        values = np.asarray(apply_modality_lut(file.pixel_array, file))
        levels = pixels.scaled(values, self._window, said=said)
        return 1 - levels if kind == "MONOCHROME1" else levels

    def _unit(self, files: Sequence[FileDataset], said: str) -> str:
        if not self._tag:
            return ""
        names = {str(file.get(self._tag) or "").strip() for file in files}
        if len(names) != 1 or "" in names:
            rule = f"must have one {self._tag}, which names the privacy unit"
            raise InvalidValue(said, rule, "several" if len(names) > 1 else "none")
        return names.pop()


def _read(place: Place) -> FileDataset:
    import pydicom
    from pydicom import config

    config.settings.reading_validation_mode = config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    data = place.read(bytes_max=FILE_BYTES_MAX)
    if any(syntax in data for syntax in _DEFLATED):
        raise InvalidValue(place.said, "must not be deflated", "a deflated transfer syntax")
    return pydicom.dcmread(io.BytesIO(data))


def _plane(file: FileDataset) -> str:
    """Which axes of the body columns and rows run along, with their signs; empty if unknown."""
    cosines = file.get("ImageOrientationPatient")
    if cosines is None or len(cosines) != _COSINES:
        return ""
    numbers = [float(cosine) for cosine in cosines]
    return "".join(_axis(numbers[start : start + 3]) for start in (0, 3))


def _axis(direction: Sequence[float]) -> str:
    most = int(np.argmax(np.abs(direction)))
    return ("+" if direction[most] > 0 else "-") + _AXIS_NAMES[most]


def _ordered(files: Sequence[FileDataset], said: str) -> list[FileDataset]:
    """Slices along the normal of their plane, evenly spaced."""
    cosines = [float(cosine) for cosine in files[0].ImageOrientationPatient]
    normal = np.cross(cosines[:3], cosines[3:])
    places = np.array(
        [np.dot([float(v) for v in file.ImagePositionPatient], normal) for file in files]
    )
    order = np.argsort(places)
    steps = np.diff(places[order])
    least = float(steps.min(initial=np.inf))
    if least <= 0 or (steps > (1 + _SPACING_ERROR) * least).any():
        rule = "must have slices at even distances"
        raise InvalidValue(said, rule, "others", "A slice may be missing or there twice.")
    return [files[number] for number in order]
