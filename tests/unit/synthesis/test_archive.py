"""Synthetic datasets keep their shape on the way to a file and back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from primum.domain.errors import InvalidValue
from primum_pipelines.datasets.table import UnitTable
from primum_pipelines.synthesis import archive


def image_table(channels=1):
    return UnitTable(
        features=np.zeros((4, channels, 6, 5), dtype=np.float32),
        labels=np.zeros(4, dtype=np.int64),
        units=np.array(["a", "b", "c", "d"]),
        train=np.ones(4, dtype=bool),
        classes=("normal", "pneumonia"),
        subgroups={"sex": np.zeros(4, dtype=np.int64)},
    )


def measured_table():
    return UnitTable(
        features=np.array([[5.0, 120.0], [7.0, 400.0]], dtype=np.float32),
        labels=np.array([0, 1]),
        units=np.array(["a", "b"]),
        train=np.ones(2, dtype=bool),
        classes=("malignant", "benign"),
        feature_names=("radius", "area"),
        feature_low=np.array([0.0, 100.0], dtype=np.float32),
        feature_high=np.array([10.0, 300.0], dtype=np.float32),
    )


def released(like, rows=20, seed=0):
    generator = np.random.default_rng(seed)
    vectors = generator.random((rows, *like.features.shape[1:])).astype(np.float32)
    table = archive.released_form(vectors, like)
    return replace(table, labels=generator.integers(0, 2, rows))


@pytest.mark.parametrize(
    "like", [image_table(), image_table(3), measured_table()], ids=["gray", "color", "table"]
)
def test_what_is_written_is_read(like):
    table = released(like)
    again = archive.from_bytes(archive.to_bytes(table))
    assert np.array_equal(again.features, table.features)
    assert np.array_equal(again.labels, table.labels)
    assert again.classes == like.classes
    assert again.feature_names == like.feature_names
    assert again.train.sum() == 16
    assert not again.subgroups


def test_images_have_the_layout_of_medmnist(tmp_path):
    path = tmp_path / "dataset.npz"
    path.write_bytes(archive.to_bytes(released(image_table())))
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["train_images"].shape == (16, 6, 5)
        assert arrays["train_images"].dtype == np.uint8
        assert arrays["val_labels"].shape == (2, 1)
        assert arrays["test_images"].shape == (2, 6, 5)


def test_released_images_are_rounded_to_what_the_file_holds():
    features = released(image_table()).features
    assert np.array_equal(np.round(features * 255), (features * 255).round(4))


def test_generated_rows_carry_no_name_or_group_of_a_patient():
    table = released(measured_table())
    assert table.units[0] == "synthetic-0"
    assert not table.subgroups


def test_tables_are_scaled_by_public_bounds_and_clipped():
    scaled = archive.unit_interval(measured_table())
    assert scaled.tolist() == pytest.approx(np.array([[0.5, 0.1], [0.7, 1.0]]))


def test_a_table_without_public_bounds_is_refused():
    with pytest.raises(InvalidValue, match="public bounds"):
        archive.unit_interval(replace(measured_table(), feature_low=None))


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04broken"])
def test_other_bytes_are_refused(data):
    with pytest.raises(InvalidValue, match="written by Synthesize"):
        archive.from_bytes(data)


def test_an_archive_with_missing_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "half.npz", train_images=np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(InvalidValue, match="written by Synthesize"):
        archive.from_bytes((tmp_path / "half.npz").read_bytes())
