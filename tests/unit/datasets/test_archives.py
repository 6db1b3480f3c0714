"""Are NumPy archives read as declared: volumes, colors, k-space, several labels, masks, units?"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hospital_files import Ward

from primum.domain.errors import InvalidValue
from primum.domain.quantities import PrivacyUnit
from primum_pipelines.datasets import pixels
from primum_pipelines.datasets.driver import driver_for

PAIR = {"classes": ["no", "yes"]}


def opened(folder, *, unit=PrivacyUnit.IMAGE, **options):
    return driver_for("npz://a.npz").load("npz://a.npz", unit, options, [str(folder)])


def written(folder, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return folder


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


LABELS = np.arange(6, dtype=np.uint8) % 2


@pytest.mark.parametrize(
    ("shape", "features"),
    [
        ((6, 4, 5), (6, 1, 4, 5)),
        ((6, 4, 5, 3), (6, 3, 4, 5)),
        ((6, 3, 4, 5), (6, 1, 3, 4, 5)),
        ((6, 3, 4, 5, 1), (6, 1, 3, 4, 5)),
    ],
)
def test_axes_are_told_by_the_shape_alone(tmp_path, shape, features):
    table = opened(written(tmp_path, images=noise(*shape), labels=LABELS))
    assert table.features.shape == features
    assert table.features.max() <= 1


def test_gray_levels_follow_the_type_or_the_window(tmp_path):
    deep = noise(6, 4, 4).astype(np.uint16) * 257
    assert np.allclose(
        opened(written(tmp_path, images=deep, labels=LABELS)).features[:, 0], deep / 65535
    )
    signed = deep.astype(np.int16)
    folder = written(tmp_path, images=signed, labels=LABELS)
    with pytest.raises(InvalidValue, match="unless a window is declared"):
        opened(folder)
    table = opened(folder, window={"low": "-100", "high": "100"})
    assert np.allclose(table.features[:, 0], np.clip((signed + 100.0) / 200, 0, 1), atol=1e-6)
    floats = written(tmp_path, images=noise(6, 4, 4) / 255.0 * 2, labels=LABELS)
    with pytest.raises(InvalidValue, match=r"lie in \[0, 1\]"):
        opened(floats)


def test_kspace_is_kept_as_pairs_of_real_and_imaginary_parts(tmp_path):
    rng = np.random.default_rng(0)
    kspace = (rng.normal(size=(6, 2, 4, 4)) + 1j * rng.normal(size=(6, 2, 4, 4))) / 10
    folder = written(tmp_path, kspace=kspace.astype(np.complex64), labels=LABELS)
    table = opened(folder, window={"low": "-1", "high": "1"})
    assert table.features.shape == (6, 4, 4, 4)
    back = 2 * table.features - 1
    assert np.allclose(back[:, 0::2] + 1j * back[:, 1::2], kspace, atol=1e-6)
    for window in ({}, {"window": {"low": "0", "high": "1"}}):
        with pytest.raises(InvalidValue, match="must lie around 0 for complex values"):
            opened(folder, **window)


def test_several_labels_and_masks(tmp_path):
    both = np.stack([LABELS, 1 - LABELS], axis=1)
    table = opened(written(tmp_path, images=noise(6, 4, 4), labels=both), labels=["edema", "mass"])
    assert table.labels.tolist() == both.tolist()
    masks = noise(6, 4, 4) % 3
    folder = written(tmp_path, images=noise(6, 4, 4), masks=masks)
    table = opened(folder, mask="masks", classes=["none", "lung", "heart"])
    assert np.array_equal(table.labels, masks)
    message = Ward(tmp_path, "npz://a.npz", {"mask": "masks", **PAIR}, unit="Image").registered()
    assert "dataset label must be one of no, yes" in message["error"]["message"]


def test_a_published_split_must_keep_units_whole(tmp_path):
    arrays = {
        "train_images": noise(4, 4, 4),
        "train_labels": LABELS[:4],
        "train_patient": np.array([1, 1, 2, 2]),
        "test_images": noise(2, 4, 4, seed=1),
        "test_labels": LABELS[:2],
        "test_patient": np.array([2, 3]),
    }
    options = {"unitColumn": "patient", "maxExamplesPerUnit": 4, **PAIR}
    one = Ward(written(tmp_path, **arrays), "npz://a.npz", options)
    assert "each unit on one side" in one.registered()["error"]["message"]
    arrays["test_patient"] = np.array([3, 3])
    one = Ward(written(tmp_path, **arrays), "npz://a.npz", options)
    found = one.registered()
    assert (found["units"], found["trainUnits"]) == (3, 2)
    table = one.opened()
    assert table.units.tolist() == [f"patient-{n}" for n in (1, 1, 2, 2, 3, 3)]


def crafted(folder, name, header, payload=b"", *, method=zipfile.ZIP_DEFLATED):
    """An archive with one array whose header says what we like."""
    body = io.BytesIO()
    np.lib.format.write_array_header_1_0(body, header)
    with zipfile.ZipFile(folder / "a.npz", "w", method) as packed:
        packed.writestr(f"{name}.npy", body.getvalue() + payload)
        held = io.BytesIO()
        np.save(held, LABELS)
        packed.writestr("labels.npy", held.getvalue())


def test_a_header_that_claims_more_than_there_is_fills_no_memory(tmp_path):
    shape = (2**31, 2**10, 2**10)
    crafted(tmp_path, "images", {"descr": "|u1", "fortran_order": False, "shape": shape}, b"x")
    with pytest.raises(InvalidValue, match="must be as large as it says"):
        opened(tmp_path)


def test_a_bomb_is_refused_by_its_stated_size(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "FEATURE_BYTES_MAX", 2**20)
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((6, 600, 600), np.uint8), labels=LABELS)
    with pytest.raises(InvalidValue, match="must be as large as it says"):
        opened(tmp_path)


def test_objects_are_not_unpickled(tmp_path):
    folder = written(tmp_path, images=noise(6, 4, 4), labels=np.array([{}] * 6))
    with pytest.raises(InvalidValue, match="numeric arrays"):
        opened(folder)


@pytest.mark.parametrize(
    ("arrays", "options", "named"),
    [
        ({"labels": LABELS[:, None, None] * np.ones((1, 2, 2), np.uint8)}, {}, "one label per"),
        ({"labels": LABELS}, {"labels": ["a", "b"]}, r"must have shape \(n, 2\)"),
        ({"labels": LABELS}, {"label": "labels"}, "options.label must be absent"),
        ({"labels": LABELS}, {"unitColumn": "patient"}, "must have the array patient"),
        (
            {"labels": LABELS, "patient": np.ones((6, 2))},
            {"unitColumn": "patient"},
            "must have one text or whole number per image",
        ),
        (
            {"labels": LABELS, "patient": LABELS},
            {"unitColumn": "patient", "duplicates": "Drop"},
            "duplicates must be absent with unitColumn",
        ),
        ({"labels": LABELS, "patient": LABELS[:3]}, {"unitColumn": "patient"}, "per image"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, arrays, options, named):
    folder = written(tmp_path, images=noise(6, 4, 4), **arrays)
    with pytest.raises(InvalidValue, match=named):
        opened(folder, unit=PrivacyUnit.IMAGE, **options)


@pytest.fixture
def assets():
    folder = os.environ.get("PRIMUM_TEST_ASSETS")
    if not folder:
        pytest.skip("PRIMUM_TEST_ASSETS is not set: the hospital data sets are not bundled")
    return Path(folder) / "data"


def test_published_volumes_are_recognized_and_read(assets):
    driver = driver_for("medmnist://adrenalmnist3d")
    uri = "medmnist://adrenalmnist3d"
    table = driver.load(uri, PrivacyUnit.IMAGE, {}, [str(assets)])
    assert table.features.shape == (1188 + 298, 1, 28, 28, 28)
    assert np.bincount(table.labels[table.train]).tolist() == [929, 259]
    assert list(table.features.shape[1:]) == driver.describe(uri, {})["inputShape"]


def test_published_radiographs_lose_their_copies(assets):
    uri = "medmnist://pneumoniamnist"
    table = driver_for(uri).load(uri, PrivacyUnit.IMAGE, {}, [str(assets)])
    assert len(table.labels) == 4708 + 624 - 18 - 3
