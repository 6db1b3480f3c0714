"""Folders of files with a table: images (PNG, JPEG), DICOM and NIfTI.

The table has a row per example, with the path of its file, its labels and whose it is. Every row
must have its file and every file its row. A message names a row of the table by its number, never a
path or a cell, which may be a person's name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from primum.domain.budget.layout import BlockLayout
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.quantities import PrivacyUnit
from primum_pipelines.datasets.declared import (
    LABEL_OPTIONS,
    MASK_CLASSES_MAX,
    ROW_OPTIONS,
    Window,
    column_named,
    columns_of,
    labels_of,
    readers_of,
    shape_of,
    subgroups_of,
    window_of,
)
from primum_pipelines.datasets.driver import choice, known_options, parse_uri, require_unit
from primum_pipelines.datasets.placed import PlacedDriver
from primum_pipelines.datasets.places import place_of
from primum_pipelines.datasets.table import LabelTask

if TYPE_CHECKING:
    from primum_pipelines.datasets.pictures import Decoder
    from primum_pipelines.datasets.table import UnitTable

_FOLDER_OPTIONS = (*LABEL_OPTIONS, *ROW_OPTIONS, "table", "pathColumn", "window", "shape")
_PATH = "path"
_COLORS = {"Gray": 1, "RGB": 3}


class ImageFolderDriver(PlacedDriver):
    """``images://<folder>`` of PNG and JPEG files; those of blocks not wanted are not opened."""

    scheme = "images"
    _options: tuple[str, ...] = (*_FOLDER_OPTIONS, "color")
    _axes: tuple[int, ...] = (2,)
    _units: Mapping[PrivacyUnit, str] = {PrivacyUnit.IMAGE: ""}

    def describe(self, uri: str, options: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Public facts, from the declared options."""
        parse_uri(uri)
        known_options(options, self._options)
        labels, shape = labels_of(options), shape_of(options)
        if shape and len(shape) not in self._axes:
            many = " or ".join(str(axes) for axes in self._axes)
            rule = f"must have {many} sides for {self.scheme}"
            raise InvalidValue("dataset.options.shape", rule, len(shape))
        subgroups_of(options)
        readers_of(options, labels)
        column_named(options, "table", what="the table in the folder")
        column_named(options, "pathColumn", default=_PATH)
        self._require_gray_levels(options)
        if labels.task is LabelTask.SEGMENTATION:
            _require_mask_classes(labels.classes)
        return {
            "classes": list(labels.classes),
            "positive": labels.positive,
            "task": labels.task.value,
            "inputShape": [self._channels(options), *shape] if shape else [],
            "featureNames": [],
            "split": "hash of unit, 80/20",
            "unitNames": self._unit_names(options),
            "units": [unit.value for unit in self._known_units(options)],
        }

    def _decoder(self, unit: PrivacyUnit, options: Mapping[str, JSON]) -> Decoder:  # noqa: ARG002 - DICOM's needs it
        """What reads one file."""
        from primum_pipelines.datasets.pictures import ImageDecoder

        return ImageDecoder(window_of(options), channels=self._channels(options))

    def _require_gray_levels(self, options: Mapping[str, JSON]) -> None:
        window_of(options)
        self._channels(options)

    def _channels(self, options: Mapping[str, JSON]) -> int:
        return _COLORS[choice(options, "color", tuple(_COLORS), default="Gray")]

    def _known_units(self, options: Mapping[str, JSON]) -> tuple[PrivacyUnit, ...]:
        return tuple(PrivacyUnit) if "unitColumn" in options else tuple(self._units)

    def _unit_names(self, options: Mapping[str, JSON]) -> str:
        if "unitColumn" in options:
            return f"column {options['unitColumn']}"
        return f"column {options.get('pathColumn', _PATH)}"

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
        from primum_pipelines.datasets.columns import read_columns
        from primum_pipelines.datasets.pictures import Folder

        self.describe(uri, options)
        why = "The table does not say whose an example is. Declare unitColumn."
        require_unit(unit, self._known_units(options), why=why)
        labels = labels_of(options)
        root = place_of(uri, data_dirs)
        table = root.child(str(options["table"]), said="dataset table")
        path = column_named(options, "pathColumn", default=_PATH)
        blocks = [] if layout is None else [layout.column]
        columns = read_columns(table, [path, *columns_of(options, labels), *blocks])
        folder = Folder(
            root,
            columns,
            path=path,
            labels=labels,
            shape=shape_of(options),
            decoder=self._decoder(unit, options),
        )
        folder.require_complete(besides={str(options["table"])})
        return assemble(folder.sheet(), Reading(unit, options, labels, layout, wanted))


class DicomDriver(ImageFolderDriver):
    """``dicom://<folder>``: a file is an image or a volume of frames, a folder a series of slices.

    Gray levels are those of the modality (such as Hounsfield units), within the declared window.
    Without ``unitColumn`` a unit is named by the tag of its kind.
    """

    scheme = "dicom"
    _options = _FOLDER_OPTIONS
    _axes = (2, 3)
    _units: Mapping[PrivacyUnit, str] = {
        PrivacyUnit.PATIENT: "PatientID",
        PrivacyUnit.IMAGING_STUDY: "StudyInstanceUID",
        PrivacyUnit.SERIES: "SeriesInstanceUID",
        PrivacyUnit.IMAGE: "SOPInstanceUID",
    }

    def _decoder(self, unit: PrivacyUnit, options: Mapping[str, JSON]) -> Decoder:
        from primum_pipelines.datasets.dicom import DicomDecoder

        tag = "" if "unitColumn" in options else self._units[unit]
        return DicomDecoder(_window(options), tag=tag)

    def _require_gray_levels(self, options: Mapping[str, JSON]) -> None:
        _window(options)

    def _unit_names(self, options: Mapping[str, JSON]) -> str:
        named = "unitColumn" in options
        return f"column {options['unitColumn']}" if named else "tag"


class NiftiDriver(ImageFolderDriver):
    """``nifti://<folder>`` of ``.nii`` and ``.nii.gz`` volumes, within the declared window.

    Volumes are turned to the axes of an axial DICOM series: slices from feet to head, rows from
    front to back, columns from the patient's right to left.
    """

    scheme = "nifti"
    _options = _FOLDER_OPTIONS
    _axes = (3,)
    _units: Mapping[PrivacyUnit, str] = {PrivacyUnit.IMAGE: "", PrivacyUnit.SERIES: ""}

    def _decoder(self, unit: PrivacyUnit, options: Mapping[str, JSON]) -> Decoder:  # noqa: ARG002 - as the others
        from primum_pipelines.datasets.nifti import NiftiDecoder

        return NiftiDecoder(_window(options))

    def _require_gray_levels(self, options: Mapping[str, JSON]) -> None:
        _window(options)


def _window(options: Mapping[str, JSON]) -> Window:
    """The window, where pixels have no range of their own."""
    found = window_of(options)
    if found is None:
        raise InvalidValue(
            "dataset.options.window",
            "must be declared, because the pixels have no range of their own",
            "none",
            'For example window: {low: "-160", high: "240"} in Hounsfield units.',
        )
    return found


def _require_mask_classes(classes: Sequence[str]) -> None:
    if len(classes) > MASK_CLASSES_MAX:
        rule = f"must be at most {MASK_CLASSES_MAX} for masks"
        raise InvalidValue("dataset.options.classes", rule, len(classes))
