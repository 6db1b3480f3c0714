"""What audits of a release found, over HTTP: verdicts for everybody, figures as a role reaches."""

from __future__ import annotations

import pytest
from api_platform import bearer, identify, is_problem, make_platform
from fastapi.testclient import TestClient

from primum.adapters.identity import Role
from primum.application import audit_history
from primum.domain.governance.evidence import Evidence, EvidenceKind, Verdict
from primum.domain.study.steps import StepOutcome, StepStatus
from primum.entrypoints.api.app import create_app

PATH = "/v1/releases/oncology/risk/audits"
RESULT = {
    "uid": "audit-uid",
    "generation": 1,
    "run": "again",
    "attack": "LiRA",
    "settings": "sha256:0",
    "causes": ["Schedule"],
    "verdict": "Pass",
    "reason": "AuditsPassed",
    "comparison": "FirstRun",
    "before": "",
    "model": "",
    "seconds": "1",
    "at": "2026-03-01T00:00:00.000000Z",
}


@pytest.fixture
def client():
    platform = make_platform()
    figures = {"advantage": "0.2", "advantageLower": "0.1", "advantageUpper": "0.3"}
    found = Evidence(EvidenceKind.MEMBERSHIP, "LiRA", "audit-uid", 1, "", Verdict.PASS, {}, figures)
    outcome = StepOutcome(
        outcome_id="o",
        step="audit",
        status=StepStatus.SUCCEEDED,
        reason="StepSucceeded",
        message="",
        receipts=(),
        evidence=(found.digest,),
        artifacts=(),
    )
    platform.evidence.record(outcome, [found], study_uid="audit-uid", generation=1)
    subject = audit_history.release_subject("oncology", "risk")
    platform.evidence.put_fact(f"AuditResult {subject}", "audit-uid/1", RESULT)
    with TestClient(create_app(platform, identify)) as made:
        yield made


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.PLATFORM])
def test_who_reads_sees_verdicts_and_stewards_and_auditors_figures(client, role):
    answer = client.get(PATH, headers=bearer(role))
    assert answer.status_code == 200
    (audit,) = answer.json()["audits"]
    assert (audit["auditRun"], audit["verdict"], audit["causes"]) == ("again", "Pass", ["Schedule"])
    assert (audit["figure"] is not None) is (role in (Role.STEWARD, Role.AUDITOR))
    assert answer.json()["missed"] == []


def test_nobody_and_our_own_processes_are_told_nothing(client):
    is_problem(client.get(PATH), 401)
    is_problem(client.get(PATH, headers=bearer(Role.PLATFORM)), 403)


def test_what_was_never_there_is_not_found(client):
    is_problem(client.get("/v1/releases/oncology/none/audits", headers=bearer(Role.SCIENTIST)), 404)
