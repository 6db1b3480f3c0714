"""Is a cohort the same in every format: its units, its split, its blocks, its withdrawals?"""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hospital_files import FORMATS, PATIENTS, Ward, cohort

from primum.domain.errors import InvalidValue
from primum_pipelines.datasets.driver import in_train_split
from primum_pipelines.datasets.units import unit_rows

BOUND = {"maxExamplesPerUnit": 2}
BY_WARD = {"by": "Cohort", "column": "ward", "values": ["icu", "surgery"]}
SECRET = "Zanzibar"


@pytest.fixture(params=FORMATS)
def kind(request):
    return FORMATS[request.param]


@pytest.fixture
def ward(kind, tmp_path):
    def make(examples=None, *, layout=None, **options):
        shutil.rmtree(tmp_path / "cohort", ignore_errors=True)
        kind.write(tmp_path, cohort() if examples is None else examples)
        return Ward(tmp_path, kind.uri, {**kind.options, **BOUND, **options}, layout or {})

    return make


def names(table):
    return set(table.units.tolist())


def test_units_labels_and_groups_are_those_of_the_cohort(ward):
    table = ward(maxExamplesPerUnit=3).opened()
    examples = cohort()
    assert len(table.labels) == len(examples)
    by_patient = {example.patient: example for example in examples}
    for unit, label, sex in zip(table.units, table.labels, table.subgroups["sex"], strict=True):
        example = by_patient[unit.removeprefix("patient-")]
        assert table.classes[label] == example.finding
        assert table.subgroup_names["sex"][sex] == {"f": "f", "m": "m", "x": "other"}[example.sex]


def test_rows_of_a_unit_lie_side_by_side_and_are_bounded(ward):
    table = ward().opened()
    rows = unit_rows(table.units)
    assert rows.count == PATIENTS
    assert rows.sizes.max() == 2
    wanted = sum(min(2, 1 + n % 3) for n in range(PATIENTS))
    assert rows.rows == wanted


def test_a_unit_is_on_one_side_of_the_split_by_its_name(ward):
    table = ward().opened()
    assert [in_train_split(str(unit)) for unit in table.units] == table.train.tolist()
    assert 0 < table.train.sum() < len(table.train)


def test_several_rows_of_a_unit_need_a_declared_bound(ward):
    one = ward()
    one.options.pop("maxExamplesPerUnit")
    with pytest.raises(InvalidValue, match="maxExamplesPerUnit"):
        one.opened()
    assert "maxExamplesPerUnit" in one.registered()["error"]["message"]


def test_registration_counts_units_and_knows_the_content(ward):
    first = ward().registered()
    assert first["units"] == PATIENTS
    assert first["trainUnits"] == sum(in_train_split(f"patient-p{n}") for n in range(PATIENTS))
    shuffled = cohort()[::-1]
    assert ward(shuffled).registered()["digest"] == first["digest"]
    assert ward(maxExamplesPerUnit=1).registered()["digest"] == first["digest"]
    assert ward(cohort()[:-1]).registered()["digest"] != first["digest"]


def test_what_a_unit_contributes_does_not_depend_on_others_or_on_the_order(ward):
    def kept(table):
        return {
            (str(unit), row.tobytes())
            for unit, row in zip(table.units, table.features, strict=True)
        }

    before = kept(ward().opened())
    assert kept(ward(cohort()[::-1]).opened()) == before
    fewer = kept(ward([e for e in cohort() if e.patient != "p5"]).opened())
    assert fewer == {item for item in before if item[0] != "patient-p5"}


def test_blocks_are_read_alone(ward):
    one = ward(layout=BY_WARD)
    sizes = one.registered()["blocks"]
    assert {name: count for name, (count, _) in sizes.items()} == {
        "icu": PATIENTS // 2,
        "surgery": PATIENTS // 2,
    }
    table = one.opened(blocks=["icu"])
    assert names(table) == {f"patient-p{n}" for n in range(0, PATIENTS, 2)}
    assert set(table.blocks) == {"icu"}


def test_a_unit_in_two_blocks_is_refused_when_registered_and_when_opened(ward):
    examples = cohort()
    moved = [
        type(e)(e.patient, e.number, e.finding, "surgery", e.sex, e.gray)
        if (e.patient, e.number) == ("p2", 1)
        else e
        for e in examples
    ]
    one = ward(moved, layout=BY_WARD)
    assert "must have each unit in one block" in one.registered()["error"]["message"]
    with pytest.raises(InvalidValue, match="must have each unit in one block"):
        one.opened(blocks=["icu"])


def test_a_withdrawn_unit_is_gone_with_all_its_rows(ward):
    one = ward()
    before = one.opened()
    assert len(one.withdraw("p2")["named"]) == 1
    after = one.opened(withdrawn=1)
    assert names(after) == names(before) - {"patient-p2"}
    stays = before.only(before.units != "patient-p2")
    assert np.array_equal(after.features, stays.features)
    assert one.registered()["units"] == PATIENTS  # Nobody can count who withdrew.


def test_a_withdrawn_unit_is_gone_from_its_block(ward):
    one = ward(layout=BY_WARD)
    assert one.withdraw("p2")["named"][0]["block"] == "icu"
    assert "patient-p2" not in names(one.opened(blocks=["icu"], withdrawn=1))


@pytest.mark.parametrize("column", ["patient", "finding"])
def test_an_empty_cell_is_named_by_its_column_alone(ward, kind, column):
    if kind.name == "npz" and column == "finding":
        pytest.skip("labels of an archive are numbers")
    examples = cohort()
    e = examples[3]
    cells = {"patient": e.patient, "finding": e.finding} | {column: ""}
    examples[3] = type(e)(cells["patient"], 9, cells["finding"], e.ward, e.sex, e.gray)
    message = ward(examples).registered()["error"]["message"]
    assert f"column {column}" in message
    assert e.stem not in message


def test_a_label_that_is_no_class_is_never_shown(ward, kind):
    if kind.name == "npz":
        pytest.skip("labels of an archive are numbers")
    examples = cohort()
    e = examples[3]
    examples[3] = type(e)(e.patient, 9, SECRET, e.ward, e.sex, e.gray)
    message = ward(examples).registered()["error"]["message"]
    assert message.startswith("dataset column finding must hold one of no, yes")
    assert SECRET not in message


def test_a_missing_column_is_named(ward, kind):
    one = ward(unitColumn="mrn")
    what = "must have the array mrn" if kind.name == "npz" else "column mrn must be in the file"
    assert what in one.registered()["error"]["message"]
