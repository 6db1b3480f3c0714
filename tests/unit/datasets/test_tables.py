"""Are tables in CSV and Parquet read alike, with categories, missing values and subgroups?"""

from __future__ import annotations

import datetime
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from hospital_files import Ward, write_table

from primum.domain.budget.layout import BlockLayout, Division, Period
from primum.domain.errors import InvalidValue
from primum.domain.quantities import PrivacyUnit
from primum_pipelines.datasets import columns
from primum_pipelines.datasets.driver import driver_for, load_blocks

SECRET = "Zanzibar"
OPTIONS = {
    "label": "sick",
    "classes": ["no", "yes"],
    "features": {
        "age": ["0", "100"],
        "dose": {"low": "0", "high": "10", "missing": "5"},
        "race": {"values": ["a", "b"]},
    },
    "subgroups": [{"column": "race", "values": ["a"]}, {"column": "age", "cuts": ["30", "60"]}],
}
ROWS = [
    {"age": "29", "dose": "1.5", "race": "a", "sick": "no"},
    {"age": "30", "dose": "", "race": "b", "sick": "yes"},
    {"age": "60", "dose": "2", "race": "b", "sick": "no"},
]


def opened(folder, name="a.csv", **options):
    uri = f"{'parquet' if name.endswith('parquet') else 'csv'}://{name}"
    given = {**OPTIONS, **options}
    return driver_for(uri).load(uri, PrivacyUnit.PATIENT, given, [str(folder)])


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.csv.gz"])
def test_features_and_groups_are_as_declared(tmp_path, name):
    write_table(tmp_path / name.removesuffix(".gz"), ROWS)
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    table = opened(tmp_path, name)
    assert table.feature_names == ("age", "dose", "race=a", "race=b")
    assert table.features.tolist() == [[29, 1.5, 1, 0], [30, 5, 0, 1], [60, 2, 0, 1]]
    assert table.feature_high.tolist() == [100, 10, 1, 1]
    assert table.subgroups["race"].tolist() == [0, 1, 1]
    assert table.subgroup_names["race"] == ("a", "other")
    assert table.subgroups["age"].tolist() == [0, 1, 2]
    assert table.subgroup_names["age"] == ("below 30", "30 to 60", "from 60", "other")


def test_a_group_is_called_by_its_name_where_only_one_is(tmp_path):
    write_table(tmp_path / "a.csv", ROWS)
    subgroups = [{"column": "race", "values": ["a", "other"]}]
    clear, unclear = opened(tmp_path), opened(tmp_path, subgroups=subgroups)
    assert clear.group_name("age", 1) == "30 to 60"
    assert [unclear.group_name("race", number) for number in range(3)] == ["a", "1", "2"]
    assert clear.group_name("nothing", 4) == "4"


def test_typed_columns_of_parquet_read_as_their_text(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    day = datetime.date(2026, 1, 31)
    table = pa.table(
        {
            "age": pa.array([1, None, 3]),
            "sick": pa.array([0.0, 1.0, 1.0]),
            "who": pa.array([7, 7, 8]),
            "day": pa.array([day, day, day]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    options = {
        "label": "sick",
        "features": {"age": {"low": "0", "high": "9", "missing": "2"}},
        "unitColumn": "who",
    }
    layout = BlockLayout(
        by=Division.TIME, column="day", period=Period.MONTH, start=datetime.date(2026, 1, 1)
    )
    found = load_blocks(
        "parquet://a.parquet",
        PrivacyUnit.PATIENT,
        options,
        [str(tmp_path)],
        layout=layout,
        wanted=None,
    )
    assert found.features[:, 0].tolist() == [1, 2, 3]
    assert found.labels.tolist() == [0, 1, 1]
    assert found.units.tolist() == ["patient-7", "patient-7", "patient-8"]
    assert set(found.blocks) == {"2026-01"}


@pytest.mark.parametrize(
    ("cells", "named"),
    [
        ({"age": SECRET}, "column age must hold numbers"),
        ({"age": ""}, "column age must have no missing value"),
        ({"age": "nan"}, "column age must have no missing value"),
        ({"race": SECRET}, "column race must hold one of a, b"),
        ({"sick": SECRET}, "column sick must hold one of no, yes"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_bad_cell_is_named_by_its_column(tmp_path, name, cells, named):
    write_table(tmp_path / name, [*ROWS * 10, ROWS[0] | cells])
    uri = f"{'parquet' if name.endswith('parquet') else 'csv'}://{name}"
    message = Ward(tmp_path, uri, OPTIONS).registered()["error"]["message"]
    assert named in message
    assert SECRET not in message


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("a.csv", b"", "must have a header line"),
        ("a.csv", b"\xff\xfe\x00", "must be readable as text"),
        ("a.csv", b"age,age,dose,race,sick\n", "two of that name"),
        ("a.csv.gz", b"no gzip", "must be readable as text"),
        ("a.csv.gz", gzip.compress(b"x" * 100, mtime=0)[:-9], "must be readable as text"),
        ("a.parquet", b"PAR1 no PAR1", "must be readable as Parquet"),
        ("a.parquet", b"", "must be readable as Parquet"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, name, content, named):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidValue, match=named):
        opened(tmp_path, name)


def test_the_scheme_says_what_a_file_is(tmp_path):
    (tmp_path / "a.txt.parquet").write_bytes(b"")
    uri = "csv://a.txt.parquet"
    with pytest.raises(InvalidValue, match="must end in one of"):
        driver_for(uri).load(uri, PrivacyUnit.PATIENT, OPTIONS, [str(tmp_path)])


def test_a_packed_line_without_end_fills_no_memory(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"age," + b"0" * 2**24))
    with pytest.raises(InvalidValue, match="must have lines of at most"):
        opened(tmp_path, "a.csv.gz")


def test_more_rows_than_any_hospital_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "ROWS_MAX", 2)
    for name in ("a.csv", "a.parquet"):
        write_table(tmp_path / name, ROWS)
        with pytest.raises(InvalidValue, match="must have at most 2 rows"):
            opened(tmp_path, name)


def test_other_columns_are_not_held(tmp_path):
    write_table(tmp_path / "a.csv", [{**row, "name": SECRET} for row in ROWS])
    place = driver_for("csv://a.csv").locate("csv://a.csv", [str(tmp_path)])
    found = columns.read_columns(columns.Place(place, "dataset file"), ["age"])
    assert list(found.texts) == ["age"]


def test_patients_with_several_encounters_are_units(tmp_path):
    """The UCI diabetes data: 101,766 encounters of 71,518 patients."""
    assets = os.environ.get("PRIMUM_TEST_ASSETS")
    if not assets:
        pytest.skip("PRIMUM_TEST_ASSETS is not set: the hospital data sets are not bundled")
    options = {
        "label": "readmitted",
        "classes": ["NO", ">30", "<30"],
        "unitColumn": "patient_nbr",
        "maxExamplesPerUnit": 3,
        "features": {
            "time_in_hospital": ["1", "14"],
            "num_medications": ["1", "81"],
            "gender": {"values": ["Female", "Male", "Unknown/Invalid"]},
        },
        "subgroups": [{"column": "race", "values": ["Caucasian", "AfricanAmerican"]}],
    }
    folder = Path(assets) / "data" / "uci-diabetes-130"
    ward = Ward(folder, "csv://diabetic_data.csv.gz", options)
    found = ward.registered(zoneDir=str(tmp_path))
    assert found["units"] == 71_518
    table = ward.opened()
    _, sizes = np.unique(table.units, return_counts=True)
    assert (len(sizes), sizes.max()) == (71_518, 3)
