"""Does every driver read what it says, and name what it cannot read without showing a value?"""

from __future__ import annotations

import numpy as np
import pytest

from primum.domain.errors import InvalidValue, NotFound, Tampered
from primum.domain.quantities import PrivacyUnit
from primum_pipelines.datasets import driver, medmnist
from primum_pipelines.datasets.driver import driver_for
from primum_pipelines.datasets.registration import content_digest, register

SECRET = "987.125"


def opened(uri, *, unit=PrivacyUnit.PATIENT, options=None, folders=()):
    return driver_for(uri).load(uri, unit, options or {}, [str(item) for item in folders])


def registered(uri, *, unit="Patient", options=None, folder="", **more):
    payload = {"uri": uri, "unit": unit, "options": options or {}, "dataDirs": [str(folder)]}
    return register(payload | more)


def test_breast_cancer_is_as_published():
    table = opened("sklearn://breast_cancer")
    assert table.features.shape == (569, 30)
    assert table.classes == ("malignant", "benign")
    assert np.bincount(table.labels).tolist() == [212, 357]
    margin = 0.01 * (table.feature_high - table.feature_low)
    assert (table.features >= table.feature_low - margin).all()
    assert (table.features <= table.feature_high + margin).all()


@pytest.mark.parametrize("name", ["breast_cancer", "digits"])
def test_bundled_data_is_what_the_library_loads(name):
    """The files are read without importing scikit-learn; its own loader is the reference."""
    from sklearn import datasets

    unit = PrivacyUnit.PATIENT if name == "breast_cancer" else PrivacyUnit.IMAGE
    table = opened(f"sklearn://{name}", unit=unit)
    expected = getattr(datasets, f"load_{name}")()
    scale = 1 if name == "breast_cancer" else 16
    flat = table.features.reshape(len(table.labels), -1) * scale
    assert np.allclose(flat, expected.data, rtol=1e-6)
    assert (table.labels == expected.target).all()


def test_the_split_is_decided_by_the_unit_alone():
    names = [f"patient-{row}" for row in range(2000)]
    first = [driver.in_train_split(name) for name in names]
    assert first[500:] == [driver.in_train_split(name) for name in names[500:]]
    assert 0.77 < np.mean(first) < 0.83


@pytest.mark.parametrize(
    ("uri", "unit", "named"),
    [
        ("breast_cancer", "Patient", "must have the form scheme://name"),
        ("ftp://x", "Patient", "must start with one of csv, dicom, images, medmnist, nifti"),
        ("sklearn://iris", "Patient", "must be one of sklearn://breast_cancer"),
        ("sklearn://breast_cancer", "Image", "unit must be Patient"),
        ("medmnist://pneumoniamnist", "Patient", "unit must be Image"),
        ("uci-heart://basel", "Patient", "must be one of uci-heart://cleveland"),
    ],
)
def test_a_wrong_address_is_named(uri, unit, named):
    error = registered(uri, unit=unit)["error"]
    assert error["kind"] == "InvalidValue"
    assert named in error["message"]


def test_an_unknown_option_is_named():
    error = registered("sklearn://digits", unit="Image", options={"scale": "1"})["error"]
    assert "dataset.options.scale" in error["message"]


@pytest.mark.parametrize(
    "uri", ["medmnist://pneumoniamnist", "uci-heart://va", "npz://a.npz", "csv://a.csv"]
)
def test_a_missing_file_says_where_it_was_looked_for(uri, tmp_path):
    with pytest.raises(NotFound, match=str(tmp_path)):
        driver_for(uri).locate(uri, [str(tmp_path)])


def test_a_download_needs_permission(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(medmnist, "_downloaded", lambda uri, _: asked.append(uri))
    uri = "medmnist://pneumoniamnist"
    with pytest.raises(NotFound, match="download"):
        opened(uri, unit=PrivacyUnit.IMAGE, folders=[tmp_path])
    assert asked == []


def test_another_file_under_the_name_is_noticed(tmp_path):
    (tmp_path / "pneumoniamnist.npz").write_bytes(b"something else")
    with pytest.raises(Tampered, match="MD5"):
        driver_for("medmnist://pneumoniamnist").locate("medmnist://pneumoniamnist", [str(tmp_path)])


def archive(folder, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return {"unit": PrivacyUnit.IMAGE, "folders": [folder]}


def images_of(count, *, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8), dtype=np.uint8)


def test_a_published_split_is_kept_and_copies_are_dropped(tmp_path):
    train, test = images_of(6), images_of(4, seed=1)
    train[3], test[2] = train[0], train[1]
    labels = np.zeros((6, 1), np.uint8), np.ones((4, 1), np.uint8)
    where = archive(
        tmp_path,
        train_images=train,
        train_labels=labels[0],
        test_images=test,
        test_labels=labels[1],
    )
    table = opened("npz://a.npz", **where)
    assert table.train.tolist() == [True] * 5 + [False] * 4  # the relabeled copy is no exact copy
    assert len(set(table.units)) == 9
    assert table.features.max() <= 1
    kept = opened("npz://a.npz", options={"duplicates": "Keep"}, **where)
    assert len(kept.labels) == 10


def test_dropping_copies_is_stable_under_one_more_row(tmp_path):
    """Adding a row adds at most one content, whether it is new or a copy: sensitivity stays one."""
    rows = images_of(20)
    labels = np.arange(20, dtype=np.uint8) % 2
    before = opened("npz://a.npz", **archive(tmp_path, images=rows, labels=labels))
    for extra in (rows[7], images_of(1, seed=9)[0]):
        more = np.concatenate([extra[None], rows])
        added = np.concatenate([labels[7:8], labels])
        after = opened("npz://a.npz", **archive(tmp_path, images=more, labels=added))
        assert len(set(after.units) ^ set(before.units)) <= 1
        sides = dict(zip(after.units, after.train, strict=True))
        assert all(sides[u] == t for u, t in zip(before.units, before.train, strict=True))


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"pictures": np.zeros(3)}, "must have the array images"),
        ({"images": np.zeros((3, 4)), "labels": np.zeros(3)}, "must have shape"),
        ({"images": np.zeros((3, 4, 4)), "labels": np.zeros(2, int)}, "as many labels"),
        ({"images": np.zeros((3, 4, 4)), "labels": np.zeros(3)}, "must hold class numbers"),
        ({"images": np.array([{}]), "labels": np.zeros(1)}, "numeric arrays"),
    ],
)
def test_a_wrong_archive_is_named(tmp_path, arrays, named):
    where = archive(tmp_path, **arrays)
    with pytest.raises(InvalidValue, match=named):
        opened("npz://a.npz", **where)


CSV = {
    "label": "sick",
    "classes": ["no", "yes"],
    "features": {"age": ["0", "100"], "dose": ["0", "1000"]},
    "unitColumn": "id",
}


def written(folder, *lines, header="id,age,dose,sick"):
    (folder / "a.csv").write_text("\n".join([header, *lines]) + "\n")
    return folder


def lines(count):
    return [f"p{n},{20 + n},{n}.5,{'yes' if n % 3 else 'no'}" for n in range(count)]


def test_a_csv_is_read_as_declared(tmp_path):
    table = opened("csv://a.csv", options=CSV, folders=[written(tmp_path, *lines(40))])
    assert table.feature_names == ("age", "dose")
    assert table.feature_high.tolist() == [100, 1000]
    assert table.units[0] == "patient-p0"
    assert table.labels.tolist()[:3] == [0, 1, 1]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["x,,1.5,no"], "column age must have no missing value"),
        ([f"x,{SECRET}x,1.5,no"], "column age must hold numbers"),
        ([f"x,20,1.5,{SECRET}"], "column sick must hold one of no, yes"),
        (["x,20,1.5,"], "column sick must hold one of no, yes"),
        (["p1,20,1.5,no"], "must be one per privacy unit"),
        ([f"x,20,1.5,no,{SECRET}"], "as many cells per line as columns"),
    ],
)
def test_a_bad_row_is_named_by_its_column_and_never_shown(tmp_path, more, named):
    folder = written(tmp_path, *lines(40), *more)
    error = registered("csv://a.csv", options=CSV, folder=folder)["error"]
    assert named in error["message"]
    assert SECRET not in error["message"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"label": "ill"}, "column ill must be in the file"),
        ({"label": None}, "options.label must name a column"),
        ({"features": None}, "options.features must state the public bounds"),
        ({"features": {"age": ["100", "0"]}}, "must have low below high"),
        ({"features": {"age": [0, 100]}}, "must be a quoted decimal"),
        ({"features": {"weight": ["0", "9"]}}, "column weight must be in the file"),
        ({"classes": ["no"]}, "at least two distinct names"),
        ({"positive": "maybe"}, "positive must be one of no, yes"),
    ],
)
def test_a_wrong_option_is_named(tmp_path, changes, named):
    options = {name: value for name, value in (CSV | changes).items() if value is not None}
    error = registered("csv://a.csv", options=options, folder=written(tmp_path, *lines(40)))[
        "error"
    ]
    assert named in error["message"]


def test_the_digest_knows_a_shuffled_copy(tmp_path):
    rows = lines(40)
    first = opened("csv://a.csv", options=CSV, folders=[written(tmp_path, *rows)])
    second = opened("csv://a.csv", options=CSV, folders=[written(tmp_path, *rows[::-1])])
    changed = opened("csv://a.csv", options=CSV, folders=[written(tmp_path, *rows[1:])])
    assert content_digest(first) == content_digest(second) != content_digest(changed)


def test_a_declared_number_of_units_is_not_counted(tmp_path):
    answer = registered(
        "csv://a.csv", options=CSV, folder=written(tmp_path, *lines(40)), units=1000
    )
    assert (answer["units"], answer["trainUnits"]) == (1000, 800)


@pytest.mark.parametrize(
    ("hospital", "units"),
    [("cleveland", 303), ("hungarian", 294), ("switzerland", 123), ("va", 200)],
)
def test_the_four_hospitals(assets, hospital, units):
    table = opened(f"uci-heart://{hospital}", folders=[assets])
    assert len(table.labels) == units
    assert np.isfinite(table.features).all()
    assert (table.features >= table.feature_low).all()
    assert (table.features <= table.feature_high).all()
    assert set(table.subgroups) == {"sex", "ageBand"}


def test_pneumonia_without_copies(assets):
    table = opened("medmnist://pneumoniamnist", unit=PrivacyUnit.IMAGE, folders=[assets])
    assert table.features.shape[1:] == (1, 28, 28)
    assert (int(table.train.sum()), int((~table.train).sum())) == (4690, 621)
