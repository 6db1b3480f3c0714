"""The same small cohort in every format that a hospital has: who is who, and one token to open it.

Eighteen patients with one to three examples each, a ward per patient, a sex, a finding. A folder
of a format is written by the format's own library: what our readers see is not our own idea.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from primum import signing
from primum.domain.canonical import canonical_json
from primum.domain.study.steps import WorkRequest

PATIENTS = 18
SIDE = 8
WARDS = ("icu", "surgery")
ACCOUNT = "00000000-0000-5000-8000-00000000000a"
AT = "2026-11-22T06:00:00.000000Z"
LABELED = {"label": "finding", "classes": ["no", "yes"], "unitColumn": "patient"}
SEXES = {"subgroups": [{"column": "sex", "values": ["f", "m"]}]}


@dataclass(frozen=True)
class Example:
    """One image of one patient."""

    patient: str
    number: int
    finding: str
    ward: str
    sex: str
    gray: int

    @property
    def stem(self) -> str:
        return f"{self.patient}-{self.number}"

    @property
    def image(self) -> np.ndarray:
        """uint8 (SIDE, SIDE), different for every example."""
        noise = np.random.default_rng(self.gray).integers(0, 200, (SIDE, SIDE), dtype=np.uint8)
        noise[0, 0] = self.gray
        return noise

    def cells(self, path: str) -> dict[str, str]:
        return {
            "path": path,
            "patient": self.patient,
            "finding": self.finding,
            "ward": self.ward,
            "sex": self.sex,
            "gray": str(self.gray),
        }


def cohort(patients: int = PATIENTS, *, each: Callable[[int], int] = lambda n: 1 + n % 3):
    """Examples of patients p0, p1, ..., a patient's rows not side by side."""
    found = []
    for number in range(3):
        for n in range(patients):
            if number < each(n):
                finding, ward, sex = ("no", "yes")[n % 2], WARDS[n % 2], "fmx"[n % 3]
                gray = (3 * n + number) % 251
                found.append(Example(f"p{n}", number, finding, ward, sex, gray))
    return found


def write_table(path: Path, rows: Sequence[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        return
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_png(path: Path, image: np.ndarray) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def write_dicom(path: Path, image: np.ndarray, *, patient: str = "", **tags: Any) -> None:
    """One slice; ``tags`` may replace or (with ``None``) remove any attribute."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    path.parent.mkdir(parents=True, exist_ok=True)
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    values = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "PatientID": patient,
        "SeriesInstanceUID": generate_uid(entropy_srcs=[patient or str(path)]),
        "Rows": image.shape[-2],
        "Columns": image.shape[-1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 8 * image.dtype.itemsize,
        "BitsStored": 8 * image.dtype.itemsize,
        "HighBit": 8 * image.dtype.itemsize - 1,
        "PixelRepresentation": int(image.dtype.kind == "i"),
        "PixelData": image.tobytes(),
    }
    file = pydicom.Dataset()
    file.file_meta = meta
    for name, value in (values | tags).items():
        if value is not None:
            setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)


def write_nifti(path: Path, volume: np.ndarray, *, affine: np.ndarray | None = None) -> None:
    import nibabel as nib

    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume, np.eye(4) if affine is None else affine), path)


@dataclass(frozen=True)
class Format:
    """How a cohort is written, and how a budget declares it."""

    name: str
    uri: str
    options: dict[str, Any]
    write: Callable[[Path, Sequence[Example]], None]


def _images(folder: Path, examples: Sequence[Example]) -> None:
    rows = []
    for example in examples:
        name = f"png/{example.stem}.png"
        write_png(folder / "cohort" / name, example.image)
        rows.append(example.cells(name))
    write_table(folder / "cohort" / "table.csv", rows)


def _dicom(folder: Path, examples: Sequence[Example]) -> None:
    rows = []
    for example in examples:
        name = f"{example.stem}.dcm"
        write_dicom(folder / "cohort" / name, example.image, patient=example.patient)
        rows.append(example.cells(name))
    write_table(folder / "cohort" / "table.parquet", rows)


def _nifti(folder: Path, examples: Sequence[Example]) -> None:
    rows = []
    for example in examples:
        name = f"{example.stem}.nii.gz"
        volume = np.stack([example.image, example.image], axis=2)
        write_nifti(folder / "cohort" / name, volume)
        rows.append(example.cells(name))
    write_table(folder / "cohort" / "table.csv", rows)


def _npz(folder: Path, examples: Sequence[Example]) -> None:
    columns = {
        name: np.array([e.cells("")[name] for e in examples]) for name in ("patient", "ward", "sex")
    }
    np.savez(
        folder / "cohort.npz",
        images=np.stack([example.image for example in examples]),
        labels=np.array([("no", "yes").index(e.finding) for e in examples], dtype=np.uint8),
        **columns,
    )


def _table(name: str) -> Callable[[Path, Sequence[Example]], None]:
    def write(folder: Path, examples: Sequence[Example]) -> None:
        rows = [example.cells("") for example in examples]
        write_table(folder / name, [{k: v for k, v in r.items() if k != "path"} for r in rows])

    return write


_GRAY = {"features": {"gray": ["0", "255"]}}
_NPZ = {key: value for key, value in LABELED.items() if key != "label"}
_WINDOW = {"window": {"low": "0", "high": "255"}}
FORMATS = {
    item.name: item
    for item in (
        Format("images", "images://cohort", {**LABELED, **SEXES, "table": "table.csv"}, _images),
        Format(
            "dicom",
            "dicom://cohort",
            {**LABELED, **SEXES, **_WINDOW, "table": "table.parquet"},
            _dicom,
        ),
        Format(
            "nifti",
            "nifti://cohort",
            {**LABELED, **SEXES, **_WINDOW, "table": "table.csv"},
            _nifti,
        ),
        Format("npz", "npz://cohort.npz", {**_NPZ, **SEXES}, _npz),
        Format("csv", "csv://cohort.csv", {**LABELED, **SEXES, **_GRAY}, _table("cohort.csv")),
        Format(
            "parquet",
            "parquet://cohort.parquet",
            {**LABELED, **SEXES, **_GRAY},
            _table("cohort.parquet"),
        ),
    )
}


@dataclass
class Ward:
    """A steward's zone with one dataset, and what a worker asks of it."""

    folder: Path
    uri: str
    options: dict[str, Any]
    layout: dict[str, Any] = field(default_factory=dict)
    unit: str = "Patient"

    def __post_init__(self) -> None:
        self.private, self.public = signing.generate()

    @property
    def dataset(self) -> dict[str, Any]:
        return {"uri": self.uri, "unit": self.unit, "options": self.options}

    def payload(self, **changes: Any) -> dict[str, Any]:
        given = {
            "account": ACCOUNT,
            "at": AT,
            "dataDirs": [str(self.folder)],
            "layout": self.layout or None,
            "zoneDir": str(self.folder / "zone"),
        }
        return self.dataset | given | changes

    def request(self, *, blocks: Sequence[str] = (), withdrawn: int = 0) -> WorkRequest:
        told = self.dataset | {"layout": self.layout, "blocks": list(blocks)}
        token = told | {
            "id": "t",
            "access": "train",
            "budget": "ward",
            "accountId": ACCOUNT,
            "withdrawn": withdrawn,
            "studyUid": "u",
            "generation": 1,
            "expires": "2999-01-01T00:00:00.000000Z",
        }
        envelope = signing.sign(self.private, signing.DATA_TOKEN_TYPE, canonical_json(token))
        context = {
            "study": {"uid": "u", "generation": 1},
            "plan": {
                "accesses": [{"name": "train", "budget": "ward"}],
                "blocks": {"ward": list(blocks)} if blocks else {},
            },
            "datasets": {"ward": told},
        }
        return WorkRequest(
            context=context,
            tokens={"train": signing.encode_token(envelope)},
            public_key=self.public,
            artifacts_uri="",
            data_dirs=[str(self.folder)],
            inputs={},
            zone_dir=str(self.folder / "zone"),
        )

    def opened(self, **changes: Any):
        from primum_pipelines.datasets.access import open_private

        return open_private(self.request(**changes), "train")

    def registered(self, **changes: Any):
        from primum_pipelines.datasets.registration import register

        return register(self.payload(**changes))

    def withdraw(self, *names: str):
        from primum_pipelines.datasets.withdrawal import withdraw

        return withdraw(self.payload(names=list(names)))
