"""The operator at work on a real API server: every Study ends, nothing happens twice."""

from __future__ import annotations

import signal
import threading
import time
import urllib.request

import pytest
from clinic import Clinic
from manifests import manifest, path
from simulated.jobs import ATTACK

from primum.adapters.kube.api import Verb
from primum.adapters.kube_manifests.names import RUN
from primum.application.access import RUN_ENDED

WRITES = (Verb.CREATE, Verb.UPDATE, Verb.PATCH, Verb.DELETE)
# Connections that a dying API server cut are closed by nobody.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
# Start to end, with its Release and what its budget then shows, where each stage is seen by itself.
# Of a quick run several are one write, and `make bench` holds that to its target.
WRITES_PER_STUDY_MAX = 30


@pytest.fixture
def clinic(control_plane, namespace):
    return Clinic(control_plane, namespace)


def writes(clinic):
    return [seen for seen in clinic.requests if seen[0] in WRITES]


def page(operator, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{operator.probe_port}/{name}") as answer:
        return answer.read().decode()


def test_a_study_goes_from_apply_to_a_served_release(clinic):
    with clinic.working() as (operator,):
        clinic.budget()
        uid = clinic.study()
        clinic.wait_ended("one")
        clinic.wait(lambda: clinic.shown("Release", "risk", "Ready") == "True Serving")
        spent = "status", "epsilonSpent"
        clinic.wait(lambda: clinic.get("PrivacyBudget", "scans")[spent[0]][spent[1]] != "0")
        assert clinic.shown("Study", "one", "Succeeded") == "True Done"
        assert page(operator, "healthz") == page(operator, "readyz") == "ok"
        metrics = page(operator, "metrics")
        assert "primum_operator_leading 1.0" in metrics
        assert 'primum_operator_reconciles_total{kind="Study",result="ok"}' in metrics
        assert "primum_ledger_entries_total" in metrics
    assert clinic.states(uid) == ["Charged"]
    release = clinic.get("Release", "risk")
    assert release["metadata"]["ownerReferences"][0]["uid"] == uid
    clinic.audit_everything()


def test_a_study_costs_few_writes_and_a_quiet_cluster_none(clinic):
    with clinic.working():
        clinic.budget()
        clinic.wait(lambda: clinic.shown("PrivacyBudget", "scans", "Ready").startswith("True"))
        clinic.requests.clear()
        clinic.study()
        clinic.wait_ended("one")
        clinic.wait(lambda: clinic.shown("Release", "risk", "Ready") == "True Serving")
        time.sleep(2)
        written = [verb for verb, _ in writes(clinic) if verb is not Verb.UPDATE]
        assert len(written) <= WRITES_PER_STUDY_MAX  # Updates are the Lease's alone.
        clinic.wait_quiet()


def test_each_transition_is_one_event(clinic):
    with clinic.working("replica-a", "replica-b"):
        clinic.budget()
        uid = clinic.study()
        clinic.wait_ended("one")
        time.sleep(1)
    found = clinic.api.get(f"/apis/events.k8s.io/v1/namespaces/{clinic.namespace}/events")
    told = [e["action"] for e in found["items"] if e["regarding"]["uid"] == uid]
    assert len(told) == len(set(told))
    assert {"Planned", "BudgetReserved", "Launched", "Succeeded"} <= set(told)


def test_what_is_refused_is_told_and_costs_nothing(clinic):
    with clinic.working():
        clinic.budget()
        uid = clinic.study(steps="4000")
        clinic.wait_ended("one")
    assert clinic.shown("Study", "one", "Succeeded") == "False Denied"
    assert clinic.states(uid) == ["Denied"]
    assert clinic.kubelet.started == []


def test_a_study_may_come_before_its_budget(clinic):
    with clinic.working():
        clinic.study()
        clinic.wait(lambda: clinic.shown("Study", "one", "Planned") == "False BudgetNotFound")
        clinic.budget()
        clinic.wait_ended("one")
    assert clinic.shown("Study", "one", "Succeeded") == "True Done"


@pytest.mark.parametrize("mood", ["fails before", "loses its receipt", "fails midway"])
def test_a_run_that_goes_wrong_is_settled(clinic, mood):
    clinic.moods["job"] = mood
    with clinic.working():
        clinic.budget()
        uid = clinic.study()
        clinic.wait_ended("one")
    assert clinic.shown("Study", "one", "Succeeded").startswith("False")
    assert set(clinic.states(uid)) == {"Charged"}
    clinic.audit_everything()


def test_deleting_before_the_run_returns_what_was_held(clinic):
    clinic.kubelet.paused.set()
    with clinic.working():
        clinic.budget()
        uid = clinic.study()
        clinic.wait(lambda: clinic.shown("Study", "one", "Launched").startswith("True"))
        clinic.delete("Study", "one")
        clinic.wait(lambda: clinic.get("Study", "one") is None)
    assert clinic.states(uid) == ["Returned"]
    clinic.audit_everything()


def test_deleting_in_the_middle_of_the_run_charges_it(clinic):
    clinic.moods["job"] = "well"
    held = []

    def container(steps):
        clinic._step.now = "validate"
        clinic._execute(steps[0])
        clinic._step.now = "job"
        clinic._execute(steps[1])
        held.append(steps)
        time.sleep(2)
        return True

    clinic.kubelet._body = container
    with clinic.working():
        clinic.budget()
        uid = clinic.study()
        clinic.wait(lambda: held)
        clinic.delete("Study", "one")
        clinic.wait(lambda: clinic.get("Study", "one") is None)
    assert clinic.states(uid) == ["Charged"]
    clinic.audit_everything()


def test_deleting_afterwards_takes_the_release_with_it(clinic):
    with clinic.working():
        clinic.budget()
        uid = clinic.study()
        clinic.wait_ended("one")
        clinic.wait(lambda: clinic.shown("Release", "risk", "Ready") == "True Serving")
        clinic.delete("Study", "one")
        clinic.wait(lambda: clinic.get("Study", "one") is None)
        if clinic.plane.manages:
            clinic.wait(lambda: clinic.get("Release", "risk") is None)
            assert clinic.publisher.published == {}
        clinic.delete("PrivacyBudget", "scans")
        clinic.wait(lambda: clinic.get("PrivacyBudget", "scans") is None)
    assert clinic.states(uid) == ["Charged"]
    clinic.audit_everything()


def test_the_api_server_may_go_away_in_the_middle(clinic):
    """While a pod runs: a Job controller that loses it between Job and pod waits for minutes."""
    back = threading.Event()

    def container(steps):
        assert back.wait(120)
        return clinic.container(steps)

    clinic.kubelet._body = container
    with clinic.working():
        clinic.budget()
        clinic.study()
        clinic.wait(lambda: clinic.kubelet.started)
        clinic.plane.end("kube-apiserver", signal.SIGKILL)
        time.sleep(1)
        back.set()
        clinic.plane.start_api()
        clinic.wait_ended("one", seconds=120)
        clinic.study("two", endpoint="")
        clinic.wait_ended("two", seconds=120)
    assert clinic.shown("Study", "one", "Succeeded") == "True Done"
    clinic.audit_everything()


def test_another_replica_takes_over(clinic):
    with clinic.working("replica-a", "replica-b") as replicas:
        clinic.budget()
        clinic.study("one", endpoint="")
        clinic.wait(lambda: clinic.shown("Study", "one", "Launched").startswith("True"))
        leading = next(r for r in replicas if r._parts.lease.held)
        assert [r._parts.lease.held for r in replicas].count(True) == 1
        leading.stop()
        clinic.study("two", endpoint="")
        clinic.wait_ended("one", "two")
        assert [r._parts.lease.held for r in replicas if r is not leading] == [True]
    clinic.audit_everything()


def test_a_restarted_operator_finds_everything_as_it_is(clinic):
    clinic.kubelet.paused.set()
    with clinic.working("replica-a"):
        clinic.budget()
        uid = clinic.study()
        clinic.wait(lambda: clinic.shown("Study", "one", "Launched").startswith("True"))
    clinic.kubelet = type(clinic.kubelet)(
        clinic.api, clinic.container, namespace=clinic.namespace, manages=clinic.plane.manages
    )
    with clinic.working("replica-b"):
        clinic.wait_ended("one")
    assert clinic.states(uid) == ["Charged"]
    clinic.audit_everything()


def test_one_bad_object_blocks_nobody_and_is_told(clinic):
    with clinic.working():
        clinic.budget()
        bad = manifest("GatePolicy", "bad", {"rules": []})
        bad["spec"] = {"extends": "clinical-default"}
        bad["metadata"]["annotations"] = {f"a{n}": "v" for n in range(65)}
        clinic.api.post(path("GatePolicy", clinic.namespace), bad)
        clinic.study()
        clinic.wait_ended("one")
        clinic.wait(lambda: clinic.shown("GatePolicy", "bad", "Ready") == "False InvalidSpec")
        clinic.delete("GatePolicy", "bad")
        clinic.wait(lambda: clinic.get("GatePolicy", "bad") is None)
    assert clinic.shown("Study", "one", "Succeeded") == "True Done"


def test_an_audit_of_a_release_runs_as_a_job_of_its_own(clinic):
    with clinic.working():
        clinic.budget()
        clinic.study()
        clinic.wait_ended("one")
        clinic.wait(lambda: clinic.shown("Release", "risk", "Ready") == "True Serving")
        spec = {"release": "risk", "audit": {"kind": "Membership", "attack": ATTACK}}
        where = path("AuditRun", clinic.namespace)
        uid = clinic.api.post(where, manifest("AuditRun", "again", spec))["metadata"]["uid"]
        clinic.wait(lambda: clinic.shown("AuditRun", "again", "Succeeded") == "True AuditsPassed")
        jobs = clinic.api.get(f"/apis/batch/v1/namespaces/{clinic.namespace}/jobs")["items"]
        owners = [job["metadata"]["ownerReferences"][0] for job in jobs]
        assert {(o["kind"], o["name"]) for o in owners} == {("Study", "one"), ("AuditRun", "again")}
        assert clinic.states(uid) == []
        clinic.delete("AuditRun", "again")
        clinic.wait(lambda: clinic.get("AuditRun", "again") is None)
    clinic.audit_everything()


def test_a_contradicted_claim_freezes_the_budget_and_takes_the_release_back(clinic):
    with clinic.working():
        clinic.budget()
        clinic.study()
        clinic.wait_ended("one")
        clinic.wait(lambda: clinic.shown("Release", "risk", "Ready") == "True Serving")
        clinic.moods["audit"] = "fools itself"
        spec = {"release": "risk", "audit": {"kind": "Membership", "attack": ATTACK}}
        clinic.api.post(path("AuditRun", clinic.namespace), manifest("AuditRun", "again", spec))
        clinic.wait(lambda: clinic.shown("AuditRun", "again", "Succeeded").startswith("False"))
        clinic.wait(lambda: clinic.shown("Release", "risk", "Ready") == "False Revoked")
        clinic.wait(lambda: clinic.shown("PrivacyBudget", "scans", "Ready") == "False BudgetFrozen")
        assert clinic.publisher.published == {}


def test_what_the_api_server_refuses_is_told_to_who_asks(clinic):
    """As an admission policy would refuse the Job: here a quota does."""
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {"count/jobs.batch": "0"}},
    }
    quotas = f"/api/v1/namespaces/{clinic.namespace}/resourcequotas"
    clinic.api.post(quotas, quota)
    status = {"status": {"hard": {"count/jobs.batch": "0"}, "used": {"count/jobs.batch": "0"}}}
    clinic.api.merge(f"{quotas}/none/status", status)
    events = f"/apis/events.k8s.io/v1/namespaces/{clinic.namespace}/events"

    def told():
        found = clinic.api.get(events)["items"]
        return [e["note"] for e in found if e["reason"] == "NotBroughtOn"]

    with clinic.working():
        clinic.budget()
        clinic.study()
        clinic.wait(told)
        assert "exceeded quota" in told()[0]
        clinic.api.delete(f"{quotas}/none")
        clinic.wait_ended("one")
        assert len(told()) == 1
    assert clinic.shown("Study", "one", "Succeeded") == "True Done"
    clinic.audit_everything()


def test_a_run_without_its_study_is_swept(clinic):
    """Somebody took the finalizer off and kept the Job on purpose."""
    jobs = f"/apis/batch/v1/namespaces/{clinic.namespace}/jobs"
    clinic.kubelet.paused.set()
    with clinic.working("replica-a"):
        clinic.budget()
        clinic.study()
        clinic.wait(lambda: clinic.shown("Study", "one", "Launched").startswith("True"))
    (job,) = clinic.api.get(jobs)["items"]
    clinic.api.merge(f"{jobs}/{job['metadata']['name']}", {"metadata": {"ownerReferences": None}})
    one = path("Study", clinic.namespace, "one")
    clinic.api.merge(one, {"metadata": {"finalizers": None}})
    clinic.delete("Study", "one")
    with clinic.working("replica-b") as (operator,):
        clinic.wait(lambda: clinic.api.get(jobs)["items"] == [])
        clinic.wait(
            lambda: "primum_operator_orphans_removed_total 1.0" in page(operator, "metrics")
        )
    run = job["metadata"]["labels"][RUN]
    assert clinic.evidence.fact(RUN_ENDED, run) is not None, "its credentials are still good"
    secret = f"/api/v1/namespaces/{clinic.namespace}/secrets/{job['metadata']['name']}"
    assert clinic.api.get(secret) is None
