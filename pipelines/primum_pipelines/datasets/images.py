"""Image sets in NumPy archives: MedMNIST's PneumoniaMNIST and any file of the same layout.

Layout: ``train_images``, ``train_labels``, ``test_images``, ``test_labels`` (``val_*`` stays
unopened: it shares exact duplicates with the training images of PneumoniaMNIST), or one ``images``,
``labels`` pair that is split by a hash of the unit. Must never unpickle: archives are read with
``allow_pickle=False``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue, NotFound, Tampered, Unavailable
from primum.domain.quantities import PrivacyUnit
from primum_pipelines.datasets.driver import (
    find_file,
    in_train_split,
    known_options,
    parse_uri,
    require_unit,
)

if TYPE_CHECKING:
    import numpy as np

    from primum_pipelines.datasets.table import UnitTable

PNEUMONIA_URL = "https://zenodo.org/records/10519652/files/pneumoniamnist.npz"
PNEUMONIA_CLASSES = ("normal", "pneumonia")
_PNEUMONIA_NAMES = ("pneumoniamnist.npz", "pneumoniamnist/pneumoniamnist*.npz")
_PNEUMONIA_MD5 = {
    "28209eda62fecd6e6a2d98b1501bb15f": "as published",
    "aa14d682c6993e6287ad625446b94d91": "rebuilt: same images and labels, other training order",
}
_PNEUMONIA_OFFICIAL = "28209eda62fecd6e6a2d98b1501bb15f"
_OPTIONS = ("classes", "positive", "duplicates", "download")
_DOWNLOAD_BYTES_MAX = (
    64 * 2**20
)  # The published file has 4 MB; a wrong address must not fill a disk.
_GRAY_MAX = 255.0
_HASH_BYTES = 12  # 96 bits: no accidental collision among any number of images.
_CLASSES_MIN = 2  # One class is no task.
_GRAY_AXES = 3
_COLOR_AXES = 4
_WHY_IMAGE = "The file does not say which images belong to the same person."


class ArchiveDriver:
    """``npz://<path below a data folder, or absolute>``."""

    scheme = "npz"

    def describe(self, uri: str, options: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Public facts, from the declared options."""
        parse_uri(uri)
        known_options(options, _OPTIONS)
        classes = _declared_classes(options)
        return {
            "classes": list(classes),
            "positive": _positive(options, classes),
            "inputShape": [],
            "featureNames": [],
            "split": "published, or hash of unit, 80/20",
            "unitNames": _unit_names(options),
        }

    def locate(self, uri: str, data_dirs: Sequence[str]) -> str:
        """The archive's path."""
        rest = parse_uri(uri).rest
        if Path(rest).is_absolute():
            if not Path(rest).is_file():
                raise NotFound(f"dataset file {rest} must exist; looked there only.")
            return rest
        remedy = "Put it into one of these folders, or set another data folder."
        return str(find_file((rest,), data_dirs, remedy=remedy))

    def load(
        self,
        uri: str,
        unit: PrivacyUnit,
        options: Mapping[str, JSON],
        data_dirs: Sequence[str],
    ) -> UnitTable:
        """Open the archive."""
        self.describe(uri, options)
        require_unit(unit, (PrivacyUnit.IMAGE,), why=_WHY_IMAGE)
        path = self.locate(uri, data_dirs)
        return _read(path, classes=_declared_classes(options), duplicates=_duplicates(options))


class MedMnistDriver:
    """``medmnist://pneumoniamnist``, as published or rebuilt; checked against known checksums."""

    scheme = "medmnist"

    def describe(self, uri: str, options: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Public facts, from MedMNIST's documentation."""
        known_options(options, _OPTIONS[2:])
        if parse_uri(uri).rest.strip("/") != "pneumoniamnist":
            raise InvalidValue("dataset.uri", "must be medmnist://pneumoniamnist", uri)
        return {
            "classes": list(PNEUMONIA_CLASSES),
            "positive": "pneumonia",
            "inputShape": [1, 28, 28],
            "featureNames": [],
            "split": "published",
            "unitNames": _unit_names(options),
        }

    def locate(self, uri: str, data_dirs: Sequence[str]) -> str:
        """The file's path, with its checksum verified.

        Raises:
            NotFound: If it is nowhere; says how to get it.
            Tampered: If it is neither the published nor the rebuilt file.
        """
        self.describe(uri, {})
        remedy = (
            f"Download {PNEUMONIA_URL} into one of these folders, "
            'or set the option download: "Allow" where there is a network.'
        )
        path = find_file(_PNEUMONIA_NAMES, data_dirs, remedy=remedy)
        _require_checksum(path.read_bytes(), str(path), known=tuple(_PNEUMONIA_MD5))
        return str(path)

    def load(
        self,
        uri: str,
        unit: PrivacyUnit,
        options: Mapping[str, JSON],
        data_dirs: Sequence[str],
    ) -> UnitTable:
        """Open the data set; downloads it first only where the option ``download`` is ``Allow``."""
        self.describe(uri, options)
        require_unit(unit, (PrivacyUnit.IMAGE,), why=_WHY_IMAGE)
        try:
            path = self.locate(uri, data_dirs)
        except NotFound:
            if _switch(options, "download", ("Allow", "Never"), default="Never") != "Allow":
                raise
            path = _download(data_dirs)
        return _read(path, classes=PNEUMONIA_CLASSES, duplicates=_duplicates(options))


def _switch(
    options: Mapping[str, JSON], name: str, allowed: tuple[str, ...], *, default: str
) -> str:
    value = options.get(name, default)
    if not isinstance(value, str) or value not in allowed:
        raise InvalidValue(f"dataset.options.{name}", f"must be one of {', '.join(allowed)}", value)
    return value


def _duplicates(options: Mapping[str, JSON]) -> str:
    """``Drop`` all but the first of each set of exact copies (the default), or ``Keep`` them."""
    return _switch(options, "duplicates", ("Drop", "Keep"), default="Drop")


def _unit_names(options: Mapping[str, JSON]) -> str:
    return "content" if _duplicates(options) == "Drop" else "row"


def _declared_classes(options: Mapping[str, JSON]) -> tuple[str, ...]:
    value = options.get("classes", ["0", "1"])
    if not isinstance(value, list | tuple) or len(value) < _CLASSES_MIN:
        raise InvalidValue("dataset.options.classes", "must list at least two class names", value)
    return tuple(str(item) for item in value)


def _positive(options: Mapping[str, JSON], classes: tuple[str, ...]) -> str:
    return _switch(options, "positive", classes, default=classes[1])


def _require_checksum(data: bytes, place: str, *, known: Sequence[str]) -> None:
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found not in known:
        raise Tampered(
            f"dataset file {place} must have one of the MD5 sums {', '.join(known)}; found {found}."
        )


def _download(data_dirs: Sequence[str]) -> str:
    import urllib.error
    import urllib.request

    if not data_dirs:
        raise NotFound("a data folder must be set to download into; found none.")
    target = Path(data_dirs[0]).expanduser() / "pneumoniamnist.npz"
    try:
        with urllib.request.urlopen(PNEUMONIA_URL, timeout=60) as answer:
            data = answer.read(_DOWNLOAD_BYTES_MAX + 1)
    except (urllib.error.URLError, TimeoutError) as error:
        raise Unavailable(f"{PNEUMONIA_URL} did not answer: {error}.", retry_seconds=60) from error
    _require_checksum(data, PNEUMONIA_URL, known=(_PNEUMONIA_OFFICIAL,))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.write_bytes(data)
    partial.replace(target)  # Atomic: a killed download leaves no half file under the real name.
    return str(target)


def _read(path: str, *, classes: tuple[str, ...], duplicates: str) -> UnitTable:
    import zipfile

    import numpy as np

    from primum_pipelines.datasets.table import UnitTable

    try:
        with np.load(path, allow_pickle=False) as archive:
            parts = _parts(archive)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InvalidValue(
            "dataset file",
            "must be a NumPy archive of numeric arrays",
            f"{path}, {type(error).__name__}",
            "Save it with numpy.savez.",
        ) from None
    images = np.concatenate([part[0] for part in parts])
    labels = np.concatenate([part[1] for part in parts])
    sides = np.concatenate([np.full(len(part[1]), part[2]) for part in parts])
    if duplicates == "Drop":
        units, kept = _content_units(images, labels)
        images, labels, sides = images[kept], labels[kept], sides[kept]
    else:
        units = np.array([f"image-{row}" for row in range(len(labels))])
    hashed = np.array([in_train_split(str(unit)) for unit in units])
    return UnitTable(
        features=_scaled(images),
        labels=labels,
        units=units,
        train=np.where(sides == "hash", hashed, sides == "train"),
        classes=classes,
    )


def _parts(archive: Mapping[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, str]]:
    names = (("train", "train"), ("test", "test")) if "train_images" in archive else (("", "hash"),)
    parts = []
    for prefix, side in names:
        stem = f"{prefix}_" if prefix else ""
        for key in (f"{stem}images", f"{stem}labels"):
            if key not in archive:
                found = ", ".join(sorted(archive))[:80]
                raise InvalidValue("dataset file", f"must have the array {key}", found)
        images, labels = archive[f"{stem}images"], archive[f"{stem}labels"]
        if images.ndim not in (_GRAY_AXES, _COLOR_AXES) or len(images) != len(labels):
            raise InvalidValue(
                f"dataset array {stem}images",
                "must have shape (n, h, w) or (n, h, w, c), and as many labels",
                str(images.shape),
            )
        parts.append((images, labels.reshape(len(labels)).astype("int64"), side))
    return parts


def _content_units(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Names by content, and the rows kept: the first of each set of equal (image, label) pairs.

    Guarantees:
        Adding or removing one row of the file adds or removes at most one kept row: which contents
        are kept is a set of contents. So de-duplication does not raise the sensitivity of what
        follows.
    """
    import numpy as np

    names = np.array(
        [
            _content_name(image.tobytes() + int(label).to_bytes(8, "big", signed=True))
            for image, label in zip(images, labels, strict=True)
        ]
    )
    _, first = np.unique(names, return_index=True)
    kept = np.sort(first)
    return names[kept], kept


def _content_name(content: bytes) -> str:
    return "image-" + hashlib.sha256(content).hexdigest()[: 2 * _HASH_BYTES]


def _scaled(images: np.ndarray) -> np.ndarray:
    """float32 in [0, 1], channels first."""
    import numpy as np

    values = images.astype(np.float32)
    if images.dtype.kind in "ui":
        values /= (
            _GRAY_MAX  # The range of the type: a public constant, not the largest value found.
        )
    return values[:, None] if images.ndim == _GRAY_AXES else np.moveaxis(values, -1, 1)
