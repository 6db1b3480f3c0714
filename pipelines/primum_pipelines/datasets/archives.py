"""Images, volumes and k-space in NumPy archives of MedMNIST's layout.

``train_images``, ``train_labels``, ``test_images``, ``test_labels`` (``val_*`` stays unopened: it
shares exact duplicates with the training images of PneumoniaMNIST), or one ``images``, ``labels``
pair that is split by a hash of the unit. Any other array with one entry per image is a column, such
as one that names the patient. Must never unpickle.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from primum.domain.budget.layout import BlockLayout
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.quantities import PrivacyUnit
from primum_pipelines.datasets.declared import (
    LABEL_OPTIONS,
    ROW_OPTIONS,
    Labels,
    Window,
    labels_of,
    readers_of,
    subgroups_of,
    window_of,
)
from primum_pipelines.datasets.driver import choice, known_options, parse_uri, require_unit
from primum_pipelines.datasets.placed import PlacedDriver
from primum_pipelines.datasets.places import place_of
from primum_pipelines.datasets.table import LabelTask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from primum_pipelines.datasets.assembling import Sheet
    from primum_pipelines.datasets.table import UnitTable

_OPTIONS = (*LABEL_OPTIONS, *ROW_OPTIONS, "window", "duplicates")
_LABELS = "labels"
_BYTES_MAX = 2**32  # Of an archive as it lies there; what it unpacks to is bounded by memory.
_HASH_BYTES = 12  # 96 bits: no accidental collision among any number of images.
_GRAY_AXES = 3
_VOLUME_AXES = 4
_COLOR_AXES = 5
_COLORS = (1, 3)
_BYTE_MAX = 255
_UNREADABLE = (OSError, ValueError, zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error)
WHY_IMAGE = "The file does not say which images belong to the same person."


class ArchiveDriver(PlacedDriver):
    """``npz://<path>``."""

    scheme = "npz"

    def describe(self, uri: str, options: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Public facts, from the declared options."""
        parse_uri(uri)
        known_options(options, _OPTIONS)
        labels = labels_of(options, column=_LABELS)
        subgroups_of(options)
        readers_of(options, labels)
        window_of(options)
        return {
            "classes": list(labels.classes),
            "positive": labels.positive,
            "task": labels.task.value,
            "inputShape": [],
            "featureNames": [],
            "split": "published, or hash of unit, 80/20",
            "unitNames": unit_names(options),
            "units": [unit.value for unit in _units(options)],
        }

    def _loaded(
        self,
        uri: str,
        unit: PrivacyUnit,
        options: Mapping[str, JSON],
        data_dirs: Sequence[str],
        *,
        layout: BlockLayout | None,
        wanted: Collection[str] | None,
    ) -> UnitTable:
        from primum_pipelines.datasets.assembling import Reading, assemble

        self.describe(uri, options)
        require_unit(unit, _units(options), why=f"{WHY_IMAGE} Declare unitColumn.")
        data = place_of(uri, data_dirs).read(bytes_max=_BYTES_MAX)
        labels = labels_of(options, column=_LABELS)
        sheet = archive_sheet(data, labels, options)
        return assemble(sheet, Reading(unit, options, labels, layout, wanted))


def _units(options: Mapping[str, JSON]) -> tuple[PrivacyUnit, ...]:
    return tuple(PrivacyUnit) if "unitColumn" in options else (PrivacyUnit.IMAGE,)


def unit_names(options: Mapping[str, JSON]) -> str:
    """What names the units of an archive; see ``DatasetDriver.describe``."""
    if "unitColumn" in options:
        if "duplicates" in options:
            rule = "must be absent with unitColumn, which tells whose copies they are"
            raise InvalidValue("dataset.options.duplicates", rule, options["duplicates"])
        return f"column {options['unitColumn']}"
    return "content" if _duplicates(options) == "Drop" else "row"


def archive_sheet(data: bytes, labels: Labels, options: Mapping[str, JSON]) -> Sheet:
    """The rows of an archive.

    Args:
        data: The archive.
        labels: What is to be predicted.
        options: The dataset's options.

    Raises:
        InvalidValue: If it is no archive of numeric arrays of the layout.
    """
    from primum_pipelines.datasets.assembling import Sheet

    archive = _Archive.of(data)
    images, targets = archive.images(), archive.targets(labels)
    if len(images) != len(targets):
        rule = "must have shape (n, h, w), (n, h, w, c) or (n, d, h, w), and as many labels"
        raise InvalidValue("dataset array images", rule, str(images.shape))
    names, kept = _named(images, targets, how=unit_names(options))
    sides, window = archive.sides(labels), window_of(options)
    return Sheet(
        rows=len(kept),
        cells=lambda name: archive.cells(name, kept),
        features=lambda rows: _features(images[kept[rows]], window),
        labels=lambda rows: targets[kept[rows]],
        named=lambda rows: [names[row] for row in rows],
        published=None if sides is None else sides[kept],
    )


@dataclass(frozen=True, slots=True, repr=False)
class _Archive:
    """A NumPy archive, read array by array.

    Args:
        data: Its bytes.
        stems: What the names of its parts begin with.
        pictures: ``images`` or ``kspace``.
    """

    data: bytes
    stems: tuple[str, ...]
    pictures: str

    @classmethod
    def of(cls, data: bytes) -> _Archive:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as packed:
                names = {name.removesuffix(".npy") for name in packed.namelist()}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise _no_archive(type(error).__name__) from None
        pictures = "kspace" if {"kspace", "train_kspace"} & names else "images"
        stems = ("train_", "test_") if f"train_{pictures}" in names else ("",)
        if f"{stems[0]}{pictures}" not in names:
            found = ", ".join(sorted(names))
            raise InvalidValue("dataset file", f"must have the array {pictures}", found)
        return cls(data, stems, pictures)

    def images(self) -> NDArray[np.generic]:
        """Images ``(n, ...)`` of all parts, as stored; of k-space with an axis of coils."""
        import numpy as np

        from primum_pipelines.datasets.pixels import require_room

        parts = [self._array(f"{stem}{self.pictures}") for stem in self.stems]
        for stem, part in zip(self.stems, parts, strict=True):
            proper = _GRAY_AXES <= part.ndim <= _COLOR_AXES and min(part.shape[1:]) > 0
            if not proper or part.shape[1:] != parts[0].shape[1:] or part.dtype.kind not in "buifc":
                raise InvalidValue(
                    f"dataset array {stem}{self.pictures}",
                    "must have shape (n, h, w), (n, h, w, c) or (n, d, h, w), of numbers",
                    f"{part.shape} of {part.dtype}",
                )
        require_room(sum(len(part) for part in parts), parts[0].shape[1:])
        return np.concatenate(parts)

    def targets(self, labels: Labels) -> NDArray[np.int64] | NDArray[np.uint8]:
        """Labels of all parts, as ``UnitTable`` has them.

        Raises:
            InvalidValue: If their shape is not that of what is declared.
        """
        import numpy as np

        masks = labels.task is LabelTask.SEGMENTATION
        name = labels.columns[0] if masks else _LABELS
        found = self._joined(name)
        if found.dtype.kind not in "bui":
            raise InvalidValue(f"dataset array {name}", "must hold class numbers", found.dtype.name)
        if masks:
            return _bytes(found, name)
        if labels.task is LabelTask.MULTI_LABEL:
            if found.shape[1:] != (len(labels.classes),):
                rule = f"must have shape (n, {len(labels.classes)}), one column per label"
                raise InvalidValue(f"dataset array {name}", rule, str(found.shape))
            return _bytes(found, name)
        if math.prod(found.shape[1:]) != 1:
            raise InvalidValue(f"dataset array {name}", "must have one label per image", "others")
        return found.reshape(len(found)).astype(np.int64)

    def sides(self, labels: Labels) -> NDArray[np.bool_] | None:
        """The published split, true for training; ``None`` without one."""
        import numpy as np

        if len(self.stems) == 1:
            return None
        name = labels.columns[0] if labels.task is LabelTask.SEGMENTATION else _LABELS
        counts = [len(self._array(f"{stem}{name}")) for stem in self.stems]
        return np.repeat(np.array([True, False]), counts)

    def cells(self, name: str, kept: NDArray[np.int64]) -> Sequence[str]:
        """A column as text, for the rows that are kept."""
        found = self._joined(name)
        if (
            found.ndim != 1
            or found.dtype.kind not in "USbuiM"
            or len(found) <= max(kept, default=-1)
        ):
            rule = "must have one text or whole number per image"
            raise InvalidValue(f"dataset array {name}", rule, f"{found.shape} of {found.dtype}")
        held = found[kept]
        if held.dtype.kind == "S":
            return [bytes(cell).decode("utf-8", "replace") for cell in held]
        return [str(cell) for cell in held]

    def _joined(self, name: str) -> NDArray[np.generic]:
        import numpy as np

        parts = [self._array(f"{stem}{name}") for stem in self.stems]
        if any(part.shape[1:] != parts[0].shape[1:] for part in parts):
            raise InvalidValue(f"dataset array {name}", "must have one shape", "several")
        return np.concatenate(parts)

    def _array(self, key: str) -> NDArray[np.generic]:
        """One array; what its header claims must be what lies there."""
        from numpy.lib import format as layout

        try:
            with zipfile.ZipFile(io.BytesIO(self.data)) as packed:
                if f"{key}.npy" not in packed.namelist():
                    found = ", ".join(sorted(n.removesuffix(".npy") for n in packed.namelist()))
                    raise InvalidValue("dataset file", f"must have the array {key}", found)
                with packed.open(f"{key}.npy") as file:
                    _require_honest(file, packed.getinfo(f"{key}.npy").file_size, key)
                with packed.open(f"{key}.npy") as file:
                    array: NDArray[np.generic] = layout.read_array(file, allow_pickle=False)
        except _UNREADABLE as error:
            raise _no_archive(type(error).__name__) from None
        return array


def _require_honest(file: IO[bytes], size: int, key: str) -> None:
    """A header may claim more than there is, to have memory filled before anything is read."""
    from numpy.lib import format as layout

    from primum_pipelines.datasets.pixels import FEATURE_BYTES_MAX

    version = layout.read_magic(file)
    read = layout.read_array_header_1_0 if version == (1, 0) else layout.read_array_header_2_0
    shape, _, dtype = read(file)
    claimed = math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise _no_archive("an array of objects")
    if claimed > size or size > FEATURE_BYTES_MAX:
        raise InvalidValue(f"dataset array {key}", "must be as large as it says", "another size")


def _no_archive(found: str) -> InvalidValue:
    return InvalidValue(
        "dataset file",
        "must be a NumPy archive of numeric arrays",
        found,
        "Save it with numpy.savez.",
    )


def _bytes(found: NDArray[np.generic], name: str) -> NDArray[np.uint8]:
    import numpy as np

    if found.size and (found.min() < 0 or found.max() > _BYTE_MAX):
        raise InvalidValue(f"dataset array {name}", f"must be from 0 to {_BYTE_MAX}", "others")
    return found.astype(np.uint8)


def _named(
    images: NDArray[np.generic], targets: NDArray[np.generic], *, how: str
) -> tuple[Sequence[str], NDArray[np.int64]]:
    """Names of rows, and the rows kept: by content the first of each set of equal ones.

    Guarantees:
        Adding or removing one row of the file adds or removes at most one kept row: which contents
        are kept is a set of contents. So de-duplication does not raise the sensitivity of what
        follows.
    """
    import numpy as np

    if how != "content":
        return [str(row) for row in range(len(images))], np.arange(len(images))
    names = np.array(
        [
            _content_name(image.tobytes() + target.astype(">i8").tobytes())
            for image, target in zip(images, targets, strict=True)
        ],
        dtype=str,
    )
    _, first = np.unique(names, return_index=True)
    kept = np.sort(first)
    return names[kept].tolist(), kept


def _content_name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[: 2 * _HASH_BYTES]


def _features(images: NDArray[np.generic], window: Window | None) -> NDArray[np.float32]:
    """float32 in [0, 1], channels first; a volume has one channel."""
    import numpy as np

    from primum_pipelines.datasets.pixels import complex_pairs, scaled

    if images.dtype.kind == "c":
        coils = images[:, None] if images.ndim == _GRAY_AXES else images
        return complex_pairs(coils.astype(np.complex64), window)
    values = scaled(images, window, said="dataset array images")
    if images.ndim == _GRAY_AXES or (images.ndim == _VOLUME_AXES and not _colored(images)):
        return values[:, None]
    return np.moveaxis(values, -1, 1)


def _colored(images: NDArray[np.generic]) -> bool:
    """Whether the last axis is one of colors: a volume of a width of 3 is none."""
    return images.shape[-1] in _COLORS


def _duplicates(options: Mapping[str, JSON]) -> str:
    """``Drop`` all but the first of each set of exact copies (the default), or ``Keep`` them."""
    return choice(options, "duplicates", ("Drop", "Keep"), default="Drop")
