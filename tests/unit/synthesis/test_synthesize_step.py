"""The job and evaluate steps of Synthesize, with real tokens on small data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from primum import signing
from primum.domain.accounting.events import covers, event_from_json
from primum.domain.errors import InvalidValue, Refused, Tampered
from primum.domain.quantities import PrivacyUnit
from primum.domain.study.spec import AuditSpec
from primum_pipelines import artifacts
from primum_pipelines.kinds.synthesize import step
from primum_pipelines.kinds.synthesize.kind import SynthesizeKind
from primum_pipelines.synthesis import archive

FILTER = {"name": "PixelL2", "deduplicate": "Drop", "charge": "None"}
JOB = {"samples": 60, "iterations": 40, "features": 40}


@pytest.fixture
def plan_of(bench):
    def plan(facts, job=None, **changes):
        study = bench.study("Synthesize", {**JOB, **(job or {})}, [facts], **changes)
        return SynthesizeKind().declare(study, bench.context([facts]))

    return plan


def wisconsin(bench):
    return bench.facts(
        "wisconsin",
        "sklearn://breast_cancer",
        unit=PrivacyUnit.PATIENT,
        units=569,
        train_units=463,
    )


def made(result, kind):
    return next(item for item in result.artifacts if item["kind"] == kind)


def test_images_end_as_a_dataset_with_a_receipt_that_the_plan_covers(bench, plan_of):
    facts = bench.images("xrays")
    plan = plan_of(facts)
    result = step.run(bench.request(plan, "job", [facts]))
    assert result.status == "Succeeded"
    (receipt,) = result.receipts
    assert receipt["access"] == "synthesize@xrays"
    assert receipt["tokenId"] == "token-synthesize@xrays"
    assert covers(plan.accesses[0].event, event_from_json(receipt["event"]))
    assert "keyed by the operating system" in receipt["facts"]["generator"]
    reference = made(result, "Dataset")
    table = archive.from_bytes(artifacts.fetch(reference["uri"], digest=reference["digest"]))
    assert table.features.shape == (60, 1, 8, 8)
    assert np.bincount(table.labels).tolist() == [30, 30]
    assert made(result, "Generator")["digest"].startswith("sha256:")


def test_a_table_comes_back_in_its_own_units(bench, plan_of):
    facts = wisconsin(bench)
    result = step.run(bench.request(plan_of(facts), "job", [facts]))
    reference = made(result, "Dataset")
    table = archive.from_bytes(artifacts.fetch(reference["uri"], digest=reference["digest"]))
    assert table.feature_names[0] == "mean radius"
    assert (table.features >= table.feature_low - 1e-3).all()
    assert (table.features <= table.feature_high * (1 + 1e-5)).all()
    assert table.features[:, 3].max() > 100  # mean area, not something in [0, 1]


def test_canaries_are_left_for_the_audit(bench, plan_of):
    facts = bench.images("xrays")
    audits = [AuditSpec("Membership", "OneRunCanary", {"canaries": 20})]
    result = step.run(bench.request(plan_of(facts, audits=audits), "job", [facts]))
    assert made(result, "Canaries")["uri"].endswith("canaries.json")


def test_without_a_mechanism_nothing_is_charged_and_the_receipt_says_so(bench, plan_of):
    facts = bench.images("xrays")
    plan = plan_of(facts, {"mechanism": "None"}, epsilon=None)
    result = step.run(bench.request(plan, "job", [facts]))
    assert result.status == "Succeeded"
    assert [item["event"] for item in result.receipts] == [{"event": "NoEvent"}]


def test_a_filter_leaves_evidence_whose_figures_are_restricted(bench, plan_of):
    facts = bench.images("xrays")
    plan = plan_of(facts, {"sampleFilter": FILTER})
    result = step.run(bench.request(plan, "job", [facts]))
    (record,) = result.evidence
    assert record["kind"] == "SampleFilter"
    assert set(record["public"]) == {"filter", "charge", "deduplicate"}
    assert {"threshold", "kept", "rejected", "sensitivity", "epsilonForced"} <= set(
        record["restricted"]
    )
    assert record["subject"] == made(result, "Dataset")["digest"]


def test_a_degenerate_filter_is_refused_before_anything_is_released(bench, plan_of):
    facts = bench.images("xrays", duplicates=2)
    plan = plan_of(facts, {"sampleFilter": {**FILTER, "deduplicate": "Keep"}})
    result = step.run(bench.request(plan, "job", [facts]))
    assert result.status == "Failed"
    assert "exact duplicates" in result.message
    assert [item["event"] for item in result.receipts] == [{"event": "NoEvent"}]
    assert result.artifacts == []


def test_without_a_valid_token_nothing_is_opened(bench, plan_of):
    facts = bench.images("xrays")
    request = bench.request(plan_of(facts), "job", [facts])
    with pytest.raises(Refused):
        step.run(replace(request, tokens={}))
    with pytest.raises(Refused):
        step.run(replace(request, public_key=signing.generate()[1]))


def test_a_unit_that_got_a_second_row_since_registration_is_not_released(bench, plan_of):
    """The release is clipped per row: a unit of two rows would have twice the say."""
    options = {"label": "sick", "features": {"age": ["0", "100"]}, "unitColumn": "patient"}
    facts = bench.facts(
        "ward",
        "csv://ward.csv",
        unit=PrivacyUnit.PATIENT,
        units=200,
        train_units=160,
        options=options,
        disclosures=("Utility", "DataRange"),
    )
    rows = [f"p{n},{20 + n % 60},{n % 2}" for n in range(200)]
    again = "p7,44,1"
    (bench.folder / "ward.csv").write_text("\n".join(["patient,age,sick", *rows, again]) + "\n")
    request = bench.request(plan_of(facts), "job", [facts])
    with pytest.raises(InvalidValue, match="must be one per privacy unit"):
        step.run(request)


@pytest.mark.parametrize("disclosures", [("Utility",), ()], ids=["disclosed", "restricted"])
def test_figures_of_the_samples_are_public_only_where_disclosed(bench, plan_of, disclosures):
    facts = replace(bench.images("xrays"), disclosures=disclosures)
    plan = plan_of(facts, {"iterations": 200})
    job = step.run(bench.request(plan, "job", [facts]))
    result = step.evaluate(bench.request(plan, "evaluate", [facts], job=job))
    (record,) = result.evidence
    assert record["kind"] == "Samples"
    assert ("accuracy" in record["public"]) is bool(disclosures)
    figure = record["restricted"]["rocAuc"]
    assert float(figure["lower"]) <= float(figure["estimate"]) <= float(figure["upper"])
    assert "classBalance" not in record["public"]
    assert [item["event"] for item in result.receipts] == [{"event": "NoEvent"}]


def test_samples_that_were_swapped_are_noticed(bench, plan_of):
    facts = bench.images("xrays")
    plan = plan_of(facts)
    job = step.run(bench.request(plan, "job", [facts]))
    (bench.folder / "artifacts" / archive.FILE_NAME).write_bytes(b"other bytes")
    with pytest.raises(Tampered):
        step.evaluate(bench.request(plan, "evaluate", [facts], job=job))
