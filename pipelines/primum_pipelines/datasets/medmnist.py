"""MedMNIST's published sets by name, checked against known checksums.

A download happens only where a steward allows it, and only of the published file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue, NotFound, Tampered
from primum.domain.quantities import PrivacyUnit
from primum_pipelines.datasets.archives import WHY_IMAGE, archive_sheet, unit_names
from primum_pipelines.datasets.declared import Labels, labels_of
from primum_pipelines.datasets.driver import (
    choice,
    find_file,
    known_options,
    parse_uri,
    require_unit,
)
from primum_pipelines.datasets.places import Place

if TYPE_CHECKING:
    from primum_pipelines.datasets.table import UnitTable

_ADDRESS = "https://zenodo.org/records/10519652/files"
_OPTIONS = ("duplicates", "download")
_BYTES_MAX = (
    64 * 2**20
)  # The largest published file here has 4 MB; a wrong one must not fill a disk.


@dataclass(frozen=True, slots=True)
class _Published:
    """A set as its authors describe it.

    Args:
        classes: In the order of their numbers.
        shape: Of one example, channels first.
        official: MD5 of the published file.
        rebuilt: MD5 of files with the same images and labels in another training order.
        names: File names to look for.
    """

    classes: tuple[str, ...]
    shape: tuple[int, ...]
    official: str
    names: tuple[str, ...]
    rebuilt: tuple[str, ...] = ()


_KNOWN = {
    "pneumoniamnist": _Published(
        classes=("normal", "pneumonia"),
        shape=(1, 28, 28),
        official="28209eda62fecd6e6a2d98b1501bb15f",
        rebuilt=("aa14d682c6993e6287ad625446b94d91",),
        names=("pneumoniamnist.npz", "pneumoniamnist/pneumoniamnist*.npz"),
    ),
    "adrenalmnist3d": _Published(
        classes=("normal", "hyperplasia"),
        shape=(1, 28, 28, 28),
        official="bbd3c5a5576322bc4cdfea780653b1ce",
        names=("adrenalmnist3d.npz", "adrenalmnist3d/adrenalmnist3d.npz"),
    ),
}


class MedMnistDriver:
    """``medmnist://pneumoniamnist`` and ``medmnist://adrenalmnist3d``."""

    scheme = "medmnist"
    published = True

    def describe(self, uri: str, options: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Public facts, from MedMNIST's documentation."""
        known_options(options, _OPTIONS)
        published = _published(uri)
        return {
            "classes": list(published.classes),
            "positive": published.classes[1],
            "inputShape": list(published.shape),
            "featureNames": [],
            "split": "published",
            "unitNames": unit_names(options),
            "units": [PrivacyUnit.IMAGE.value],
        }

    def locate(self, uri: str, data_dirs: Sequence[str]) -> str:
        """The file's path, with its checksum verified.

        Raises:
            NotFound: If it is nowhere; says how to get it.
            Tampered: If it is neither the published nor a rebuilt file.
        """
        return _read(uri, data_dirs)[0]

    def load(
        self,
        uri: str,
        unit: PrivacyUnit,
        options: Mapping[str, JSON],
        data_dirs: Sequence[str],
    ) -> UnitTable:
        """Open the data set; downloads it first only where the option ``download`` is ``Allow``."""
        from primum_pipelines.datasets.assembling import Reading, assemble

        self.describe(uri, options)
        require_unit(unit, (PrivacyUnit.IMAGE,), why=WHY_IMAGE)
        try:
            data = _read(uri, data_dirs)[1]
        except NotFound:
            if choice(options, "download", ("Allow", "Never"), default="Never") != "Allow":
                raise
            data = _downloaded(uri, data_dirs)
        labels = _labels(_published(uri))
        sheet = archive_sheet(data, labels, options)
        return assemble(sheet, Reading(unit, options, labels))


def _labels(published: _Published) -> Labels:
    return labels_of({"classes": list(published.classes)}, column="labels")


def _published(uri: str) -> _Published:
    name = parse_uri(uri).rest.strip("/")
    if name not in _KNOWN:
        known = ", ".join(f"medmnist://{item}" for item in _KNOWN)
        raise InvalidValue("dataset.uri", f"must be one of {known}", uri)
    return _KNOWN[name]


def _address(uri: str) -> str:
    return f"{_ADDRESS}/{parse_uri(uri).rest.strip('/')}.npz"


def _read(uri: str, data_dirs: Sequence[str]) -> tuple[str, bytes]:
    """Path and bytes of the file, which is read once for its checksum and its content."""
    published = _published(uri)
    remedy = (
        f"Download {_address(uri)} into one of these folders, "
        'or set the option download: "Allow" where there is a network.'
    )
    path = find_file(published.names, data_dirs, remedy=remedy)
    data = path.read_bytes()
    _require_checksum(data, str(path), known=(published.official, *published.rebuilt))
    return str(path), data


def _require_checksum(data: bytes, place: str, *, known: Sequence[str]) -> None:
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found not in known:
        raise Tampered(
            f"dataset file {place} must have one of the MD5 sums {', '.join(known)}; found {found}."
        )


def _downloaded(uri: str, data_dirs: Sequence[str]) -> bytes:
    if not data_dirs:
        raise NotFound("a data folder must be set to download into; found none.")
    published, address = _published(uri), _address(uri)
    target = Path(data_dirs[0]).expanduser() / published.names[0]
    data = Place(address, address).read(bytes_max=_BYTES_MAX)
    _require_checksum(data, address, known=(published.official,))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.write_bytes(data)
    partial.replace(target)  # Atomic: a killed download leaves no half file under the real name.
    return data
