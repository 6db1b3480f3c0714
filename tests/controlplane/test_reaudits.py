"""A release is audited again by itself on a real API server: once, owned by it, and forgotten."""

from __future__ import annotations

import pytest
from clinic import Clinic
from manifests import path

from primum.application.access import WITHDRAWAL

# Connections that a dying API server cut are closed by nobody.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def clinic(control_plane, namespace):
    return Clinic(control_plane, namespace)


def audits(clinic):
    return clinic.api.get(path("AuditRun", clinic.namespace))["items"]


def withdraw(clinic, mark):
    (account,) = clinic.ledger.accounts()
    fact = {"account": account.account_id, "mark": mark}
    clinic.evidence.put_fact(WITHDRAWAL, mark, fact)


def test_a_withdrawn_consent_has_the_release_attacked_again(clinic):
    with clinic.working():
        clinic.budget()
        clinic.study()
        clinic.wait_ended("one")
        clinic.wait(lambda: clinic.shown("Release", "risk", "Ready") == "True Serving")
        policy = {"triggers": ["ConsentWithdrawal"], "historyLimit": 1}
        where = path("Release", clinic.namespace, "risk")
        clinic.api.merge(where, {"spec": {"auditPolicy": policy}})
        clinic.wait(lambda: clinic.shown("Release", "risk", "Audited") == "Unknown Pending")
        withdraw(clinic, "first")
        clinic.wait(lambda: clinic.shown("Release", "risk", "Audited") == "True AuditsPassed")
        (run,) = audits(clinic)
        assert run["spec"]["causes"] == ["ConsentWithdrawal"]
        assert run["spec"]["activeDeadlineSeconds"] == 21600
        assert run["status"]["verdict"] == "Pass"
        assert [o["name"] for o in run["metadata"]["ownerReferences"]] == ["risk"]
        withdraw(clinic, "second")
        clinic.wait(
            lambda: (
                len(audits(clinic)) == 1
                and audits(clinic)[0]["metadata"]["name"] != run["metadata"]["name"]
            )
        )
        clinic.wait(lambda: clinic.shown("Release", "risk", "Audited") == "True AuditsPassed")
    clinic.audit_everything()
