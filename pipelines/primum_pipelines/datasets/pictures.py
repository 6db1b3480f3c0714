"""Reads the files that a table names: each once, each bounded, several at a time.

What a decoder gives is one channel-first picture in [0, 1]. All pictures of a dataset have one
shape, by nature or because a shape is declared. Errors name the row of the table.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from primum.domain.errors import InvalidValue, NotFound
from primum_pipelines.datasets import pixels
from primum_pipelines.datasets.assembling import Sheet, labels_in_cells
from primum_pipelines.datasets.columns import Columns
from primum_pipelines.datasets.declared import Labels, Window
from primum_pipelines.datasets.places import Place
from primum_pipelines.datasets.table import LabelTask

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILE_BYTES_MAX = 2**31  # Of one file as it lies there; what it unpacks to is bounded by its header.
_READERS = 8  # Decoders wait for files and let go of the interpreter while they unpack.
_CHUNK = 64
_MASK_AXES = {".png": 2, ".nii": 3, ".gz": 3}


@dataclass(frozen=True, slots=True, repr=False)
class Picture:
    """One decoded example.

    Args:
        values: float32 in [0, 1], ``(c, h, w)`` or ``(c, d, h, w)``.
        unit: What its unit is called, where the file itself says so; empty otherwise.
        orientation: What its axes point to; empty where that is not known. One dataset has one.
    """

    values: NDArray[np.float32]
    unit: str = ""
    orientation: str = ""


class Decoder(Protocol):
    """Reads one kind of file."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of its files, lower case."""

    def decode(self, place: Place, parts: Sequence[Place]) -> Picture:
        """One example.

        Args:
            place: The file.
            parts: The files in it, where the row names a folder; else empty.

        Raises:
            InvalidValue: If it cannot be read, or is no picture of the kind.
        """


@dataclass(frozen=True, slots=True, repr=False)
class Folder:
    """A folder with the table of its files.

    Args:
        root: The folder.
        columns: The table.
        path: The column of paths.
        labels: What is to be predicted.
        shape: The declared shape; empty where all pictures have one.
        decoder: Reads one file.
    """

    root: Place
    columns: Columns
    path: str
    labels: Labels
    shape: tuple[int, ...]
    decoder: Decoder
    _names: list[frozenset[str] | None] = field(default_factory=list)
    _seen: dict[int, tuple[tuple[int, ...], str]] = field(default_factory=dict)

    def sheet(self) -> Sheet:
        """The rows of the table, their files not opened yet."""
        return Sheet(
            rows=self.columns.rows,
            cells=self.columns.cells,
            features=self._features,
            labels=self._labels,
            named=self._named,
        )

    def require_complete(self, *, besides: Collection[str]) -> None:
        """Refuse a file without a row, and a row whose file another row has.

        Args:
            besides: Names of files that need no row.

        Raises:
            InvalidValue: If there is one. That a row has its file shows when it is read.
        """
        paths = [cell.strip() for cell in self.columns.cells(self.path)]
        if len(set(paths)) != len(paths):
            rule = "must name each file once"
            raise InvalidValue(f"dataset column {self.path}", rule, "a file in two rows")
        listed = self._listed()
        if listed is None:
            return
        masks: Sequence[str] = ()
        if self.labels.task is LabelTask.SEGMENTATION:
            masks = [cell.strip() for cell in self.columns.cells(self.labels.columns[0])]
        known = {*paths, *masks, *besides}
        for name in listed:
            parents = name.split("/")
            above = ("/".join(parents[:depth]) for depth in range(1, len(parents) + 1))
            if name.lower().endswith(self.decoder.suffixes) and known.isdisjoint(above):
                raise InvalidValue(
                    "dataset folder",
                    "must have a row of the table for every file",
                    "a file without one",
                    "Add its row, or move the file out of the folder.",
                )

    def _listed(self) -> frozenset[str] | None:
        if not self._names:
            self._names.append(self.root.names())
        return self._names[0]

    def _features(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        if not len(rows):
            return np.zeros((0, 1, *(self.shape or (1, 1))), dtype=np.float32)
        with _quiet():
            first = self._picture(int(rows[0]))
        pixels.require_room(len(rows), first.values.shape)
        found = np.empty((len(rows), *first.values.shape), dtype=np.float32)

        def keep(number: int, picture: Picture) -> None:
            said = f"dataset file of row {rows[number] + 1}"
            if picture.values.shape != first.values.shape:
                rule, remedy = "must have the shape of the others", "Declare options.shape."
                raise InvalidValue(said, rule, "another one", remedy)
            if picture.orientation != first.orientation:
                rule, remedy = "must lie as the others do", "Convert all of them to one plane."
                raise InvalidValue(said, rule, "another orientation", remedy)
            found[number] = picture.values

        keep(0, first)
        _read_all(lambda row: keep(int(np.searchsorted(rows, row)), self._picture(row)), rows[1:])
        return found

    def _picture(self, row: int) -> Picture:
        said = f"dataset file of row {row + 1}"
        name = self.columns.cells(self.path)[row].strip()
        place = self.root.child(name, said=said)
        picture = self.decoder.decode(place, self._parts(name, said))
        spatial = picture.values.shape[1:]
        self._seen[row] = (spatial, picture.unit)
        if not self.shape:
            return picture
        pixels.require_axes(spatial, self.shape, said=said)
        values = pixels.resized(picture.values, self.shape)
        return Picture(values, picture.unit, picture.orientation)

    def _parts(self, name: str, said: str) -> list[Place]:
        """Files of a folder that a row names; none where it names a file."""
        if name.lower().endswith(self.decoder.suffixes):
            return []
        listed = self._listed()
        if listed is None:
            rule = "must be a file, because this place lists no folders"
            raise InvalidValue(said, rule, "something else")
        inside = sorted(item for item in listed if item.rpartition("/")[0] == name.rstrip("/"))
        if not inside:
            if name in listed:
                rule = f"must end in one of {', '.join(self.decoder.suffixes)}, or be a folder"
                raise InvalidValue(said, rule, "another ending")
            raise NotFound(f"{said} must exist; found nothing there.")
        return [self.root.child(item, said=said) for item in inside]

    def _labels(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | NDArray[np.uint8]:
        if self.labels.task is not LabelTask.SEGMENTATION:
            return labels_in_cells(self.columns.cells, rows, self.labels)
        if not len(rows):
            return np.zeros((0, *(self.shape or (1, 1))), dtype=np.uint8)
        with _quiet():
            first = self._mask(int(rows[0]))
        found = np.empty((len(rows), *first.shape), dtype=np.uint8)
        found[0] = first

        def keep(row: int) -> None:
            found[np.searchsorted(rows, row)] = self._mask(row)

        _read_all(keep, rows[1:])
        return found

    def _mask(self, row: int) -> NDArray[np.uint8]:
        said = f"dataset mask of row {row + 1}"
        name = self.columns.cells(self.labels.columns[0])[row].strip()
        place = self.root.child(name, said=said)
        if place.suffix not in _MASK_AXES:
            raise InvalidValue(said, "must end in .png, .nii or .nii.gz", place.suffix)
        if _MASK_AXES[place.suffix] == _MASK_AXES[".png"]:
            found = image_mask(place)
        else:
            from primum_pipelines.datasets.nifti import volume_mask

            found = volume_mask(place)
        if found.shape != self._seen[row][0]:
            raise InvalidValue(said, "must have the shape of its picture", "another one")
        if int(found.max(initial=0)) >= len(self.labels.classes):
            rule = f"must hold class numbers below {len(self.labels.classes)}"
            raise InvalidValue(said, rule, "a greater one", "Declare every class.")
        return pixels.resized_mask(found.astype(np.uint8), self.shape or found.shape)

    def _named(self, rows: NDArray[np.int64]) -> list[str]:
        paths = self.columns.cells(self.path)
        return [self._seen[row][1] or paths[row].strip() for row in rows.tolist()]


class ImageDecoder:
    """PNG and JPEG files, gray or in color, as declared; rotation marks of cameras are not obeyed.

    Args:
        window: The gray levels that become 0 and 1; ``None`` for the range of the file's type.
        channels: 1 for gray, 3 for red, green and blue; a file of the other kind is converted.
    """

    suffixes = (".png", ".jpg", ".jpeg")

    def __init__(self, window: Window | None, *, channels: int) -> None:
        self._window = window
        self._mode = "L" if channels == 1 else "RGB"

    def decode(self, place: Place, parts: Sequence[Place]) -> Picture:  # noqa: ARG002 - the protocol
        """The image, channels first."""
        values = _read_image(place, mode=self._mode)
        scaled = pixels.scaled(values, self._window, said=place.said)
        return Picture(scaled[None] if scaled.ndim == _GRAY_AXES else np.moveaxis(scaled, -1, 0))


_GRAY_AXES = 2


def image_mask(place: Place) -> NDArray[np.uint8]:
    """A mask ``(h, w)`` of class numbers from a PNG file without colors.

    Raises:
        InvalidValue: If it has colors or cannot be read.
    """
    return _read_image(place, mode="").astype(np.uint8)


def _read_image(place: Place, *, mode: str) -> NDArray[np.generic]:
    """Pixels in a mode; of a mask, in no mode: its numbers as they are."""
    from PIL import Image

    data = place.read(bytes_max=FILE_BYTES_MAX)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            pixels.require_size(image.size, said=place.said)
            if getattr(image, "n_frames", 1) != 1:
                raise InvalidValue(place.said, "must have one frame", "several")
            if not mode:
                if image.mode not in ("1", "L", "P"):
                    raise InvalidValue(place.said, "must have 8 bits and no colors", image.mode)
                return np.asarray(image)
            if image.mode.startswith("I"):
                return _deep(image, mode=mode, said=place.said)
            return np.asarray(image if image.mode == mode else image.convert(mode))
    except (*_BROKEN_IMAGE, Image.DecompressionBombError) as error:
        raise InvalidValue(place.said, "must be a PNG or JPEG file", type(error).__name__) from None


def _deep(image: object, *, mode: str, said: str) -> NDArray[np.uint16]:
    """16-bit gray, which Pillow would cut down to 8 bits when it converts."""
    if mode != "L":
        raise InvalidValue(said, "must have 8 bits per color", "16 bits")
    values = np.asarray(image)
    if values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
        raise InvalidValue(said, "must have 8 or 16 bits", "more")
    return values.astype(np.uint16)


_BROKEN_IMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError)


def _read_all(read: Callable[[int], None], rows: NDArray[np.int64]) -> None:
    """Read rows, several at a time."""
    numbers = rows.tolist()
    with _quiet(), ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(numbers), _CHUNK):
            for _ in pool.map(read, numbers[start : start + _CHUNK]):
                pass


@contextmanager
def _quiet() -> Iterator[None]:
    """What a library warns about a file may quote it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def volume_pixels(shape: Sequence[int], *, said: str) -> int:
    """Number of voxels of a header's shape.

    Raises:
        InvalidValue: If it is no volume, or more than anybody's memory.
    """
    pixels.require_size(shape, said=said)
    return math.prod(shape)
