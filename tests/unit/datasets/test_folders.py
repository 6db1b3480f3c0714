"""Does a folder of files open as declared, and is what cannot be read named by its row alone?"""

from __future__ import annotations

import functools
import http.server
import os
import struct
import threading
import warnings
import zlib
from typing import ClassVar

import fsspec
import numpy as np
import pytest
from hospital_files import Ward, write_dicom, write_nifti, write_png, write_table

from primum.domain.errors import InvalidValue, NotFound, Unavailable
from primum.domain.quantities import PrivacyUnit
from primum_pipelines.datasets import pixels
from primum_pipelines.datasets.driver import driver_for

NAME = "Maria-Schmidt"
OPTIONS = {"table": "table.csv", "label": "finding", "classes": ["no", "yes"]}
WINDOW = {"window": {"low": "0", "high": "255"}}
GRAY = np.arange(64, dtype=np.uint8).reshape(8, 8)


def opened(uri, folder, *, unit=PrivacyUnit.IMAGE, **options):
    return driver_for(uri).load(uri, unit, {**OPTIONS, **options}, [str(folder)])


def written(folder, images, *, rows=None, suffix=".png"):
    """Image n as f<n>.png, with a table that labels them in turn."""
    paths = [f"f{n}{suffix}" for n in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        write_png(folder / "set" / path, image)
    labels = [{"path": path, "finding": ("no", "yes")[n % 2]} for n, path in enumerate(paths)]
    write_table(folder / "set" / "table.csv", labels if rows is None else rows)
    return folder


def message_of(call, *arguments, kind=InvalidValue, **options):
    with pytest.raises(kind) as refusal:
        call(*arguments, **options)
    assert NAME not in str(refusal.value)
    return str(refusal.value)


def test_gray_images_are_scaled_by_their_type(tmp_path):
    deep = (GRAY.astype(np.uint16) * 1000).astype(np.uint16)
    table = opened("images://set", written(tmp_path, [GRAY, deep]))
    assert table.features.shape == (2, 1, 8, 8)
    assert np.allclose(table.features[0, 0], GRAY / 255)
    assert np.allclose(table.features[1, 0], deep / 65535)
    assert table.units.tolist() == ["image-f0.png", "image-f1.png"]


def test_colors_are_read_as_declared(tmp_path):
    color = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    folder = written(tmp_path, [color, GRAY])
    assert opened("images://set", folder, color="RGB").features.shape == (2, 3, 8, 8)
    assert opened("images://set", folder).features.shape == (2, 1, 8, 8)


def test_jpeg_is_read(tmp_path):
    table = opened("images://set", written(tmp_path, [GRAY, GRAY], suffix=".jpg"))
    assert np.abs(table.features[0, 0] - GRAY / 255).max() < 0.1


def test_images_of_several_sizes_need_a_shape(tmp_path):
    folder = written(tmp_path, [GRAY, np.zeros((16, 12), np.uint8)])
    message = message_of(opened, "images://set", folder)
    assert message.startswith("dataset file of row 2 must have the shape of the others")
    table = opened("images://set", folder, shape=[4, 4])
    assert table.features.shape == (2, 1, 4, 4)
    assert abs(table.features[0].mean() - GRAY.mean() / 255) < 0.01


def test_masks_are_labels_per_pixel(tmp_path):
    mask = (GRAY % 3).astype(np.uint8)
    for n in range(2):
        write_png(tmp_path / "set" / f"mask{n}.png", mask)
    rows = [{"path": f"f{n}.png", "mask": f"mask{n}.png"} for n in range(2)]
    options = {"mask": "mask", "classes": ["background", "lung", "heart"]}
    folder = written(tmp_path, [GRAY, GRAY], rows=rows)
    driver = driver_for("images://set")
    given = {"table": "table.csv", **options}
    table = driver.load("images://set", PrivacyUnit.IMAGE, given, [str(folder)])
    assert table.task == "Segmentation"
    assert np.array_equal(table.labels[0], mask)
    small = driver.load("images://set", PrivacyUnit.IMAGE, given | {"shape": [4, 4]}, [str(folder)])
    assert small.labels.shape == (2, 4, 4)
    assert set(np.unique(small.labels)) <= {0, 1, 2}
    fewer = given | {"classes": ["background", "lung"]}
    message = message_of(driver.load, "images://set", PrivacyUnit.IMAGE, fewer, [str(folder)])
    assert message.startswith("dataset mask of row 1 must hold class numbers below 2")
    write_png(tmp_path / "set" / "mask1.png", mask[:4])
    message = message_of(driver.load, "images://set", PrivacyUnit.IMAGE, given, [str(folder)])
    assert message.startswith("dataset mask of row 2 must have the shape of its picture")


def test_several_labels_may_hold(tmp_path):
    rows = [
        {"path": "f0.png", "edema": "1", "mass": "0"},
        {"path": "f1.png", "edema": "1", "mass": "1"},
    ]
    folder = written(tmp_path, [GRAY, GRAY], rows=rows)
    given = {"table": "table.csv", "labels": ["edema", "mass"]}
    table = driver_for("images://set").load("images://set", PrivacyUnit.IMAGE, given, [str(folder)])
    assert table.task == "MultiLabel"
    assert table.labels.tolist() == [[1, 0], [1, 1]]
    assert table.classes == ("edema", "mass")


def truncated(folder):
    path = folder / "set" / "f1.png"
    path.write_bytes(path.read_bytes()[:50])


def text(folder):
    (folder / "set" / "f1.png").write_text(NAME)


def bomb(folder):
    """A PNG that says it has 2^31 pixels a side."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))
    (folder / "set" / "f1.png").write_bytes(data)


def wide(folder):
    """Small in bytes, beyond our limit and below the library's own."""
    write_png(folder / "set" / "f1.png", np.zeros((300, 300), np.uint8))


def pipe(folder):
    (folder / "set" / "f1.png").unlink()
    os.mkfifo(folder / "set" / "f1.png")


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (truncated, "must be a PNG or JPEG file"),
        (text, "must be a PNG or JPEG file"),
        (bomb, "must "),
        (wide, "must "),
        (pipe, "must be an ordinary file"),
    ],
)
def test_a_damaged_image_is_named_by_its_row(tmp_path, damage, rule, monkeypatch):
    monkeypatch.setattr(pixels, "PIXELS_MAX", 2**16)
    folder = written(tmp_path, [GRAY, GRAY])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        damage(folder)
    message = message_of(opened, "images://set", folder)
    assert message.startswith(f"dataset file of row 2 {rule}")


@pytest.mark.parametrize(
    "path",
    [
        "../outside.png",
        "/etc/hostname.png",
        "a/../../outside.png",
        "link.png",
        "",
        "a\\b.png",
        "\u202egnp.0f",
        "simplecache::http://127.0.0.1/x.png",
    ],
)
def test_a_row_leads_to_no_file_outside_the_folder(tmp_path, path):
    write_png(tmp_path / "outside.png", GRAY)
    rows = [{"path": "f0.png", "finding": "no"}, {"path": path, "finding": "yes"}]
    folder = written(tmp_path, [GRAY], rows=rows)
    (folder / "set" / "link.png").symlink_to(tmp_path / "outside.png")
    message = message_of(opened, "images://set", folder)
    assert message.startswith(("dataset file of row 2 must", "dataset folder must have a row"))
    assert "outside" not in message


def test_a_row_without_a_file_and_a_file_without_a_row_are_refused(tmp_path):
    rows = [{"path": "f0.png", "finding": "no"}, {"path": f"{NAME}.png", "finding": "yes"}]
    message = message_of(
        opened, "images://set", written(tmp_path, [GRAY], rows=rows), kind=NotFound
    )
    assert message.startswith("dataset file of row 2 must exist")
    write_png(tmp_path / "set" / f"{NAME}.png", GRAY)
    write_png(tmp_path / "set" / f"{NAME}-2.png", GRAY)
    message = message_of(opened, "images://set", tmp_path)
    assert message.startswith("dataset folder must have a row of the table for every file")


def test_a_file_in_two_rows_is_refused(tmp_path):
    rows = [{"path": "f0.png", "finding": "no"}, {"path": "f0.png", "finding": "yes"}]
    message = message_of(opened, "images://set", written(tmp_path, [GRAY], rows=rows))
    assert "a file in two rows" in message


def test_more_than_a_step_can_hold_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "FEATURE_BYTES_MAX", 4 * 8 * 8 * 2)
    message = message_of(opened, "images://set", written(tmp_path, [GRAY] * 3))
    assert message.startswith("dataset must have features of at most")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"table": None}, "options.table must name the table in the folder"),
        ({"shape": [8]}, "options.shape must be height and width"),
        ({"shape": [8, 8, 8]}, "options.shape must have 2 sides"),
        ({"shape": [0, 8]}, "options.shape must be height and width"),
        ({"color": "CMYK"}, "options.color must be one of Gray, RGB"),
        ({"window": {"low": "9", "high": "1"}}, "must have low below high"),
        ({"mask": "mask"}, "must have one of label, labels and mask"),
        ({"subgroups": [{"column": "sex"}]}, "must have either values or cuts"),
        ({"subgroups": [{"column": "age", "cuts": ["9", "1"]}]}, "must rise"),
        ({"features": {"age": ["0", "1"]}}, "features must be one of"),
    ],
)
def test_a_wrong_option_is_named(tmp_path, options, named):
    assert named in message_of(opened, "images://set", tmp_path, **options)


def test_whose_an_image_is_must_be_declared(tmp_path):
    folder = written(tmp_path, [GRAY])
    message = message_of(opened, "images://set", folder, unit=PrivacyUnit.PATIENT)
    assert "Declare unitColumn" in message


class Counting(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and notes what was asked for."""

    asked: ClassVar[list[str]] = []

    def log_message(self, *_):
        """Quiet."""

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()


@pytest.fixture
def server(tmp_path):
    Counting.asked = []
    handler = functools.partial(Counting, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()
        thread.join()


def test_a_folder_behind_http_is_read_file_by_file_and_each_once(tmp_path, server):
    written(tmp_path, [GRAY] * 5)
    here = opened("images://set", tmp_path)
    there = opened(f"images+http://{server}/set", tmp_path)
    assert np.array_equal(here.features, there.features)
    assert np.array_equal(here.units, there.units)
    assert sorted(Counting.asked) == sorted(
        ["/set/table.csv", *(f"/set/f{n}.png" for n in range(5))]
    )


def test_what_is_not_served_is_named_by_its_row(tmp_path, server):
    rows = [{"path": "f0.png", "finding": "no"}, {"path": f"{NAME}.png", "finding": "yes"}]
    written(tmp_path, [GRAY], rows=rows)
    message = message_of(opened, f"images+http://{server}/set", tmp_path, kind=NotFound)
    assert message.startswith("dataset file of row 2 must exist")


def test_a_place_that_does_not_answer_is_unavailable(tmp_path):
    message = message_of(opened, "images+http://127.0.0.1:9/set", tmp_path, kind=Unavailable)
    assert message.startswith("dataset table must be readable")


@pytest.mark.parametrize("rest", ["127.0.0.1/set?sig=Maria-Schmidt", "127.0.0.1/a::file:///etc"])
def test_an_address_is_plain(tmp_path, rest):
    assert "plain address" in message_of(opened, f"images+http://{rest}", tmp_path)


def test_an_unknown_transport_is_refused(tmp_path):
    assert "of which there are" in message_of(opened, "images+gopher://x/set", tmp_path)


def test_every_format_reads_from_memory(tmp_path):
    """One place for all: what fsspec knows, a dataset may lie in."""
    folder = written(tmp_path, [GRAY, GRAY])
    memory = fsspec.filesystem("memory")
    try:
        for path in (folder / "set").iterdir():
            memory.pipe(f"/ward/{path.name}", path.read_bytes())
        table = opened("images+memory://ward", tmp_path)
        assert np.array_equal(table.features, opened("images://set", folder).features)
    finally:
        memory.rm("/ward", recursive=True)


def test_each_file_is_opened_once_when_a_dataset_is_registered(tmp_path, server):
    """One pass gives digest and counts."""
    rows = [
        {"path": f"f{n}.png", "finding": ("no", "yes")[n % 2], "patient": f"p{n // 2}"}
        for n in range(40)
    ]
    written(tmp_path, [GRAY + n for n in range(40)], rows=rows)
    options = {**OPTIONS, "unitColumn": "patient", "maxExamplesPerUnit": 2}
    found = Ward(tmp_path, f"images+http://{server}/set", options).registered()
    assert found["units"] == 20
    assert len(Counting.asked) == len(set(Counting.asked)) == 41


# DICOM


def dicom(folder, images, *, tags=None, **options):
    for n, image in enumerate(images):
        write_dicom(folder / "set" / f"f{n}.dcm", image, patient=f"{NAME}-{n}", **(tags or {}))
    rows = [{"path": f"f{n}.dcm", "finding": ("no", "yes")[n % 2]} for n in range(len(images))]
    write_table(folder / "set" / "table.csv", rows)
    return opened("dicom://set", folder, **{"unit": PrivacyUnit.PATIENT, **WINDOW, **options})


def test_dicom_is_rescaled_windowed_and_named_by_its_tag(tmp_path):
    raw = GRAY.astype(np.int16)
    window = {"low": "-100", "high": "26"}
    tags = {"RescaleSlope": "2", "RescaleIntercept": "-100"}
    table = dicom(tmp_path, [raw, raw], tags=tags, window=window)
    assert np.allclose(table.features[0, 0], np.clip((2.0 * GRAY) / 126, 0, 1), atol=1e-6)
    assert table.units.tolist() == [f"patient-{NAME}-0", f"patient-{NAME}-1"]


def test_monochrome1_is_inverted(tmp_path):
    tags = {"PhotometricInterpretation": "MONOCHROME1"}
    table = dicom(tmp_path, [GRAY, GRAY], tags=tags)
    assert np.allclose(table.features[0, 0], 1 - GRAY / 255, atol=1e-6)


def test_frames_of_a_file_are_a_volume(tmp_path):
    table = dicom(tmp_path, [np.stack([GRAY] * 3)] * 2, tags={"NumberOfFrames": 3, **AXIAL})
    assert table.features.shape == (2, 1, 3, 8, 8)


AXIAL = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}


def series(folder, name, places, *, tags=None, **per_slice):
    """A folder of axial slices at these heights, the slice at height z filled with 10 + z."""
    for n, z in enumerate(places):
        image = np.full((8, 8), 10 + z, dtype=np.uint8)
        own = {key: values[n] for key, values in per_slice.items()}
        given = {**AXIAL, "ImagePositionPatient": [0, 0, z], "SeriesInstanceUID": "1.2.3"}
        write_dicom(
            folder / name / f"s{n}.dcm", image, patient=name, **(given | (tags or {}) | own)
        )


def test_a_series_is_a_volume_in_the_order_of_the_body(tmp_path):
    for name in ("a", "b"):
        series(tmp_path / "set", name, [4, 0, 2])
    write_table(
        tmp_path / "set" / "table.csv",
        [{"path": name, "finding": f} for name, f in (("a", "no"), ("b", "yes"))],
    )
    table = opened("dicom://set", tmp_path, unit=PrivacyUnit.PATIENT, **WINDOW)
    assert table.features.shape == (2, 1, 3, 8, 8)
    assert np.allclose(table.features[0, 0, :, 0, 0] * 255, [10, 12, 14], atol=1e-4)
    assert table.units.tolist() == ["patient-a", "patient-b"]
    message = message_of(opened, "dicom://set", tmp_path, **WINDOW)
    assert "must be a file where the unit is Image" in message


@pytest.mark.parametrize(
    ("places", "changes", "rule"),
    [
        ([0, 2, 6], {}, "even distances"),
        ([0, 2, 2], {}, "even distances"),
        ([0, 2, 4], {"SeriesInstanceUID": ["1.2", "1.2", "1.3"]}, "one SeriesInstanceUID"),
        ([0, 2, 4], {"PatientID": ["p", "p", "q"]}, "one PatientID"),
        (
            [0, 2, 4],
            {"ImageOrientationPatient": [[1, 0, 0, 0, 1, 0]] * 2 + [[0, 1, 0, 0, 0, -1]]},
            "one known orientation",
        ),
        ([0, 2, 4], {"ImageOrientationPatient": [None] * 3}, "one known orientation"),
        ([0, 2, 4], {"ImagePositionPatient": [None] * 3}, "must be a DICOM file with pixels"),
    ],
)
def test_a_series_that_is_none_is_refused(tmp_path, places, changes, rule):
    series(tmp_path / "set", NAME, places, **changes)
    write_table(tmp_path / "set" / "table.csv", [{"path": NAME, "finding": "no"}])
    options = {"unit": PrivacyUnit.PATIENT, **WINDOW}
    assert rule in message_of(opened, "dicom://set", tmp_path, **options)


@pytest.mark.parametrize(
    ("tags", "rule"),
    [
        ({"PixelData": None}, "must have pixels"),
        ({"Rows": 60_000, "Columns": 60_000}, "must have 1 to"),
        ({"Rows": 9}, "must be a DICOM file with pixels"),
        ({"Rows": None}, "must be a DICOM file with pixels"),
        ({"PhotometricInterpretation": "RGB"}, "must be one of MONOCHROME1, MONOCHROME2"),
        ({"PatientID": ""}, "must have one PatientID"),
        ({"BitsAllocated": 7}, "must be a DICOM file with pixels"),
    ],
)
def test_a_dicom_file_without_what_it_needs_is_refused(tmp_path, tags, rule):
    message = message_of(dicom, tmp_path, [GRAY], tags=tags)
    assert message.startswith("dataset file of row 1")
    assert rule in message


def test_a_deflated_file_is_refused_before_it_is_inflated(tmp_path):
    dicom(tmp_path, [GRAY])
    path = tmp_path / "set" / "f0.dcm"
    given = path.read_bytes()
    path.write_bytes(given.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99\0\0")[:-3])
    options = {"unit": PrivacyUnit.PATIENT, **WINDOW}
    assert "must not be deflated" in message_of(opened, "dicom://set", tmp_path, **options)


def test_files_that_come_with_pydicom_are_read(tmp_path):
    """What scanners and other libraries wrote: explicit, run-length encoded, JPEG 2000."""
    from pydicom.data import get_testdata_file

    names = {"CT_small.dcm": (1, 128, 128), "MR_small_RLE.dcm": (1, 64, 64), "JPEG2000.dcm": None}
    for name, shape in names.items():
        folder = tmp_path / name
        (folder / "set").mkdir(parents=True)
        with open(get_testdata_file(name, download=False), "rb") as file:
            (folder / "set" / "x.dcm").write_bytes(file.read())
        write_table(folder / "set" / "table.csv", [{"path": "x.dcm", "finding": "no"}])
        window = {"low": "-1024", "high": "4095"}
        table = opened("dicom://set", folder, unit=PrivacyUnit.PATIENT, window=window)
        assert shape is None or table.features.shape[1:] == shape
        assert np.isfinite(table.features).all()


def test_no_dicom_value_is_printed_or_logged(tmp_path, capfd, caplog):
    message_of(dicom, tmp_path, [GRAY], tags={"StudyDate": f"{NAME}", "Rows": 9})
    said = capfd.readouterr()
    assert NAME not in said.out + said.err + caplog.text


def test_a_window_is_needed_where_pixels_have_no_range(tmp_path):
    for scheme in ("dicom", "nifti"):
        message = message_of(opened, f"{scheme}://set", tmp_path)
        assert message.startswith("dataset.options.window must be declared")


# NIfTI

VOLUME = np.random.default_rng(1).integers(0, 200, (5, 6, 7)).astype(np.int16)  # x, y, z


def nifti(folder, volumes, *, affine=None, suffix=".nii.gz", rows=None, **options):
    for n, volume in enumerate(volumes):
        write_nifti(folder / "set" / f"f{n}{suffix}", volume, affine=affine)
    found = [{"path": f"f{n}{suffix}", "finding": "no"} for n in range(len(volumes))]
    write_table(folder / "set" / "table.csv", found if rows is None else rows)
    return opened("nifti://set", folder, **{**WINDOW, **options})


def test_a_volume_has_the_axes_of_an_axial_series(tmp_path):
    """Right, front, up in the file; feet to head, front to back, right to left when opened."""
    table = nifti(tmp_path, [VOLUME])
    assert table.features.shape == (1, 1, 7, 6, 5)
    found = np.round(table.features[0, 0] * 255).astype(int)
    assert found[0, 0, 0] == VOLUME[-1, -1, 0]  # lowest slice, frontmost row, patient's right
    assert np.array_equal(found, VOLUME.transpose(2, 1, 0)[:, ::-1, ::-1])


@pytest.mark.parametrize("signs", [(-1, -1, 1), (1, -1, -1)])
def test_the_order_in_the_file_does_not_matter(tmp_path, signs):
    turned = VOLUME[tuple(slice(None, None, sign) for sign in signs)]
    one = nifti(tmp_path / "one", [VOLUME])
    other = nifti(tmp_path / "other", [turned], affine=np.diag([*signs, 1.0]), suffix=".nii")
    assert np.array_equal(one.features, other.features)


def test_a_volume_that_does_not_say_how_it_lies_is_refused(tmp_path):
    import nibabel as nib

    write_table(tmp_path / "set" / "table.csv", [{"path": "x.nii", "finding": "no"}])
    image = nib.Nifti1Image(VOLUME, None)
    nib.save(image, tmp_path / "set" / "x.nii")
    message = message_of(opened, "nifti://set", tmp_path, **WINDOW)
    assert "must say which way its axes lie" in message


def test_volumes_are_brought_to_a_shape_with_their_masks(tmp_path):
    masks = (VOLUME > 100).astype(np.uint8)
    for n in range(2):
        write_nifti(tmp_path / "set" / f"m{n}.nii.gz", masks)
    rows = [{"path": f"f{n}.nii.gz", "mask": f"m{n}.nii.gz"} for n in range(2)]
    for n in range(2):
        write_nifti(tmp_path / "set" / f"f{n}.nii.gz", VOLUME)
    write_table(tmp_path / "set" / "table.csv", rows)
    given = {"table": "table.csv", "mask": "mask", **WINDOW}
    driver = driver_for("nifti://set")
    whole = driver.load("nifti://set", PrivacyUnit.SERIES, given, [str(tmp_path)])
    assert np.array_equal(whole.labels[0] == 1, whole.features[0, 0] * 255 > 100.5)
    small = driver.load(
        "nifti://set", PrivacyUnit.SERIES, given | {"shape": [4, 4, 4]}, [str(tmp_path)]
    )
    assert small.features.shape == (2, 1, 4, 4, 4)
    assert small.labels.shape == (2, 4, 4, 4)


def test_a_damaged_volume_is_named_by_its_row(tmp_path):
    nifti(tmp_path, [VOLUME, VOLUME])
    path = tmp_path / "set" / "f1.nii.gz"
    whole = path.read_bytes()
    for damage in (whole[:-40], whole[:100], b"", NAME.encode() * 40):
        path.write_bytes(damage)
        message = message_of(opened, "nifti://set", tmp_path, **WINDOW)
        assert message.startswith("dataset file of row 2 must be")


def test_a_volume_that_claims_more_than_it_has_fills_no_memory(tmp_path):
    import gzip

    nifti(tmp_path, [VOLUME])
    path = tmp_path / "set" / "f0.nii.gz"
    header = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<8h", header, 40, 3, 32767, 32767, 32767, 1, 1, 1, 1)
    path.write_bytes(gzip.compress(bytes(header)))
    assert "must have 1 to" in message_of(opened, "nifti://set", tmp_path, **WINDOW)
    struct.pack_into("<8h", header, 40, 3, 600, 600, 600, 1, 1, 1, 1)
    path.write_bytes(gzip.compress(bytes(header)))
    assert "must be whole" in message_of(opened, "nifti://set", tmp_path, **WINDOW)


def test_several_volumes_in_a_file_are_refused(tmp_path):
    message = message_of(nifti, tmp_path, [np.zeros((4, 4, 4, 2), np.int16)])
    assert "must have one volume" in message


def test_a_missing_voxel_is_refused_when_registered(tmp_path):
    volume = VOLUME.astype(np.float32)
    volume[0, 0, 0] = np.nan
    rows = [{"path": f"f{n}.nii.gz", "finding": ("no", "yes")[n % 2]} for n in range(8)]
    nifti(tmp_path, [volume] * 8, rows=rows)
    found = Ward(tmp_path, "nifti://set", {**OPTIONS, **WINDOW}, unit="Series").registered()
    assert found["error"]["message"].startswith("dataset column pixels must have no missing value")
