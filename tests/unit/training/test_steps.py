"""Do validate and evaluate judge rightly and let nothing out that must stay?"""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from primum.domain.errors import InvalidValue, NotFound, Tampered
from primum.domain.governance.evidence import EvidenceKind, Verdict, evidence_from_json
from primum.domain.quantities import PrivacyUnit
from primum.domain.study.spec import DatasetSpec
from primum_pipelines.datasets.table import UnitTable
from primum_pipelines.kinds.train.step import train
from primum_pipelines.steps import evaluate, validate

SECRET = 73.25  # A value that must never show up anywhere.


def table(**changes):
    made = UnitTable(
        features=np.array([[20.0, 1.0], [30.0, 0.0], [40.0, 1.0]], np.float32),
        labels=np.array([0, 1, 1]),
        units=np.array(["a", "b", "c"]),
        train=np.array([True, True, False]),
        classes=("no", "yes"),
        feature_names=("age", "sex"),
        feature_low=np.array([0.0, 0.0], np.float32),
        feature_high=np.array([60.0, 1.0], np.float32),
    )
    return replace(made, **changes)


def held(checks):
    return {(check.type, check.column): check.held for check in checks}


def test_a_sound_table_meets_the_standing_expectations():
    assert all(held(validate.check_table(table(), ())).values())


def test_missing_and_foreign_values_fail():
    features = np.array([[np.nan, 1.0], [30.0, 0.0], [SECRET, 1.0]], np.float32)
    found = held(validate.check_table(table(features=features, labels=np.array([0, 5, 1])), ()))
    assert found == {
        ("ExpectColumnValuesToNotBeNull", "label"): False,
        ("ExpectColumnValuesToBeInSet", "label"): True,
        ("ExpectColumnValuesToNotBeNull", "age"): False,
        ("ExpectColumnValuesToBeBetween", "age"): False,
        ("ExpectColumnValuesToNotBeNull", "sex"): True,
        ("ExpectColumnValuesToBeBetween", "sex"): True,
    }


def test_images_are_looked_at_by_mean_and_spread():
    images = np.full((3, 1, 8, 8), 0.5, np.float32)
    images[1] = 2.0
    plain = table(features=images, feature_names=(), feature_low=None, feature_high=None)
    found = held(validate.check_table(plain, ()))
    assert found["ExpectColumnValuesToBeBetween", "mean"] is False
    assert found["ExpectColumnValuesToBeBetween", "std"] is True


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"type": "ExpectColumnValuesToBeBetween", "column": "age", "max": "35"}, False),
        (
            {
                "type": "ExpectColumnValuesToBeBetween",
                "column": "age",
                "max": "35",
                "mostly": "0.6",
            },
            True,
        ),
        ({"type": "ExpectColumnValuesToBeInSet", "column": "sex", "values": ["0", "1"]}, True),
        ({"type": "ExpectColumnValuesToBeInSet", "column": "label", "values": ["no"]}, False),
        ({"type": "ExpectTableRowCountToBeBetween", "min": "2"}, True),
        ({"type": "ExpectTableRowCountToBeBetween", "min": "4"}, False),
        ({"type": "ExpectColumnToExist", "column": "absent"}, False),
        ({"type": "ExpectColumnValuesToNotBeNull", "column": "absent"}, False),
    ],
)
def test_a_studys_own_expectations_count(asked, expected):
    assert validate.check_table(table(), [asked])[-1].held is expected


@pytest.mark.parametrize(
    "asked",
    [
        {"type": "ExpectMiracles"},
        {"type": "get_context"},
        {"type": "ExpectColumnValuesToNotBeNull", "column": "age", "min": "3"},
        {"type": "ExpectColumnValuesToNotBeNull"},
    ],
)
def test_an_expectation_that_does_not_exist_is_an_error(asked):
    with pytest.raises(InvalidValue, match=r"spec\.expectations"):
        validate.check_table(table(), [asked])


def csv_zone(make_zone, study, facts, rows):
    options = {"label": "sick", "features": {"age": ["0", "60"]}, "classes": ["no", "yes"]}
    dataset = DatasetSpec("csv://patients.csv", PrivacyUnit.PATIENT, options=options)
    job = {**study().job, "batchSize": 2}
    zone = make_zone(study=study(job=job), facts=facts(dataset=dataset, units=50, train_units=40))
    (zone.folder / "patients.csv").write_text("age,sick\n" + "\n".join(rows) + "\n")
    return zone


def test_a_failed_validation_says_which_expectation_and_nothing_else(make_zone, study, facts):
    rows = [f"{20 + n},{'yes' if n % 2 else 'no'}" for n in range(49)] + [f"{SECRET},no"]
    result = validate.run(csv_zone(make_zone, study, facts, rows).request("validate"))
    assert (result.status, result.reason) == ("Failed", "ExpectationsFailed")
    assert "ExpectColumnValuesToBeBetween on age of budget wisconsin" in result.message
    (record,) = [evidence_from_json(item) for item in result.evidence]
    assert record.verdict is Verdict.FAIL
    assert str(SECRET) not in json.dumps(record.to_json()) + result.message
    assert "count" not in json.dumps(dict(record.public))
    assert result.receipts[0]["event"] == {"event": "NoEvent"}


def test_a_warning_does_not_fail(make_zone, study, facts):
    warning = {
        "type": "ExpectColumnValuesToBeBetween",
        "column": "age",
        "max": "30",
        "severity": "Warning",
    }
    rows = [f"{20 + n % 30},{'yes' if n % 2 else 'no'}" for n in range(50)]
    zone = csv_zone(make_zone, study, facts, rows)
    zone.study = replace(zone.study, expectations=(warning,))
    result = validate.run(zone.request("validate"))
    assert (result.status, result.reason) == ("Succeeded", "ExpectationsMet")
    (record,) = [evidence_from_json(item) for item in result.evidence]
    assert record.verdict is Verdict.PASS
    assert record.public["assertions"][-1]["success"] is False


def evaluated(zone):
    job = train(zone.request("job"))
    result = evaluate.run(zone.request("evaluate", inputs={"job": {"artifacts": job.artifacts}}))
    return {record.kind: record for record in map(evidence_from_json, result.evidence)}


def test_disclosed_figures_are_public_and_others_are_not(zone):
    found = evaluated(zone)
    utility, calibration = found[EvidenceKind.UTILITY], found[EvidenceKind.CALIBRATION]
    accuracy = {name: Decimal(text) for name, text in utility.public["accuracy"].items()}
    assert accuracy["lower"] < accuracy["estimate"] < accuracy["upper"]
    assert utility.restricted == {}
    assert set(calibration.public) == {"data", "positive"}
    assert {"ece", "adaptiveEce", "brier", "reliability", "pictures"} == set(calibration.restricted)


def test_nothing_is_public_without_a_disclosure(make_zone, facts):
    utility = evaluated(make_zone(facts=facts(disclosures=())))[EvidenceKind.UTILITY]
    assert set(utility.public) == {"data", "positive"}
    assert "accuracy" in utility.restricted


def test_a_swapped_model_is_noticed(zone):
    job = train(zone.request("job"))
    (zone.folder / "model.safetensors").write_bytes(b"another model")
    with pytest.raises(Tampered):
        evaluate.run(zone.request("evaluate", inputs={"job": {"artifacts": job.artifacts}}))


def test_evaluation_needs_a_model(zone):
    with pytest.raises(NotFound, match="kind Model"):
        evaluate.run(zone.request("evaluate", inputs={}))
