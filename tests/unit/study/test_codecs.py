"""Plans, contexts, requests, results and outcomes travel as JSON.

Back they come the same, or not at all.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from decimal import Decimal

import pytest

from primum.domain.canonical import canonical_json
from primum.domain.study import plan as plans
from primum.domain.study import steps
from primum.domain.study.plan import plan_from_json
from primum.domain.study.steps import (
    ArtifactRef,
    StepContext,
    StepOutcome,
    StepStatus,
    WorkRequest,
    WorkResult,
    context_from_json,
    outcome_from_json,
    receipt_from_json,
    work_request_from_json,
    work_result_from_json,
)


def travelled(value):
    return json.loads(canonical_json(value))


@pytest.fixture
def outcome(make):
    artifact = ArtifactRef("Model", "file:///m", "sha256:" + "0" * 64)
    receipts = (make.receipt(),)
    return StepOutcome(
        "o", "job", StepStatus.SUCCEEDED, "StepSucceeded", "", receipts, ("d",), (artifact,), "1.5"
    )


CONTEXT = StepContext(
    step="job",
    entry="package.module:run",
    study={"uid": "u", "generation": 1},
    run_id="r",
    outcome_id="o",
    plan={"accesses": []},
    datasets={"wisconsin": {"uri": "sklearn://breast_cancer"}},
    synthetic={},
    expectations=[{"type": "ExpectColumnToExist"}],
    audits=[{"kind": "Membership"}],
    tickets={"train": "t"},
    upstream={"validate": "o-1"},
)
REQUEST = WorkRequest(
    {"step": "job"}, {"train": "token"}, "pem", "file:///a", ("/d",), {"validate": {}}
)
RESULT = WorkResult("Succeeded", "StepSucceeded", "", [{"access": "train"}], [{}], [{}], "1")


@pytest.mark.parametrize("certifiable", [None, Decimal("3.5")])
def test_a_plan_comes_back_the_same(make, certifiable):
    plan = make.plan(max_certifiable=certifiable, void_edges=("one",))
    assert plan_from_json(travelled(plan.to_json())) == plan
    assert plan_from_json(travelled(plan.to_json())).digest == plan.digest


def test_a_plan_of_another_content_has_another_digest(make):
    assert make.plan().digest != make.plan(epsilon=Decimal("2.999")).digest


@pytest.mark.parametrize(
    ("field", "value"), [("mechanism", "text"), ("steps", "text"), ("accesses", [1])]
)
def test_a_damaged_plan_is_refused(make, field, value):
    with pytest.raises(TypeError, match="expected a JSON"):
        plan_from_json(make.plan().to_json() | {field: value})


def test_a_context_comes_back_the_same():
    assert context_from_json(travelled(CONTEXT.to_json())) == CONTEXT


def test_a_damaged_context_is_refused():
    with pytest.raises(TypeError, match="plan must be a JSON object"):
        context_from_json({**CONTEXT.to_json(), "plan": "all of it"})


def test_an_outcome_comes_back_the_same(outcome):
    assert outcome_from_json(travelled(outcome.to_json())) == outcome


@pytest.mark.parametrize("receipts", ["none", [1]])
def test_a_damaged_outcome_is_refused(outcome, receipts):
    with pytest.raises(TypeError, match="array"):
        outcome_from_json({**outcome.to_json(), "receipts": receipts})


@pytest.mark.parametrize(("field", "value"), [("event", "Gaussian"), ("facts", [])])
def test_a_damaged_receipt_is_refused_and_so_charged_in_full(make, field, value):
    with pytest.raises(TypeError, match="receipt must have an event and facts"):
        receipt_from_json({**make.receipt().to_json(), field: value})


def test_requests_and_results_come_back_the_same():
    assert work_request_from_json(travelled(REQUEST.to_json())) == REQUEST
    back = work_result_from_json(travelled(RESULT.to_json()))
    assert back == replace(RESULT, receipts=list(RESULT.receipts))


@pytest.mark.parametrize(
    ("field", "value"), [("context", "x"), ("tokens", []), ("data_dirs", "/d")]
)
def test_a_damaged_request_is_refused(field, value):
    with pytest.raises(TypeError, match=r"must be a JSON object|expected a JSON array"):
        work_request_from_json({**REQUEST.to_json(), field: value})


@pytest.mark.parametrize("kind", [StepContext, WorkRequest, WorkResult, StepOutcome])
def test_every_field_travels(kind, outcome):
    """A field that is added and forgotten in to_json would be lost on the way to a step."""
    example = {
        StepContext: CONTEXT,
        WorkRequest: REQUEST,
        WorkResult: RESULT,
        StepOutcome: outcome,
    }[kind]
    assert len(example.to_json()) == len(fields(kind))


def test_the_modules_have_no_other_readers():
    """Every reader of this wire format is tested above."""
    readers = {
        name for module in (plans, steps) for name in vars(module) if name.endswith("_from_json")
    }
    assert readers == {
        "context_from_json",
        "event_from_json",
        "outcome_from_json",
        "plan_from_json",
        "receipt_from_json",
        "work_request_from_json",
        "work_result_from_json",
    }
