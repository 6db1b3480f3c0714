"""The published components at work in somebody's own pipeline, with the rights of a submitter."""

from __future__ import annotations

import json
import threading

import pytest
from clinic import Clinic
from manifests import manifest
from simulated.jobs import ATTACK, KIND

from primum.domain.errors import InvalidValue, Refused, Unavailable
from primum.entrypoints import pipeline_task

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
RBAC = "/apis/rbac.authorization.k8s.io/v1"


@pytest.fixture
def clinic(control_plane, namespace):
    return Clinic(control_plane, namespace)


@pytest.fixture
def submitter(control_plane, api, chart, namespace, monkeypatch):
    """This process is a task's pod, under a service account with the role primum-submitter."""
    assert chart
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "pipeline"}}
    api.post(f"/api/v1/namespaces/{namespace}/serviceaccounts", account)
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "pipeline"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "primum-submitter",
        },
        "subjects": [{"kind": "ServiceAccount", "name": "pipeline", "namespace": namespace}],
    }
    api.post(f"{RBAC}/namespaces/{namespace}/rolebindings", binding)
    user = f"system:serviceaccount:{namespace}:pipeline"
    api.wait_for_right(namespace, user, api.get(f"{RBAC}/clusterroles/primum-submitter"))
    config = control_plane.kubeconfig_of("pipeline", control_plane.token(namespace, "pipeline"))
    monkeypatch.setenv("KUBECONFIG", config)
    monkeypatch.delenv("PRIMUM_HOME", raising=False)
    monkeypatch.setattr(pipeline_task, "_POLL_SECONDS", 0.2)
    monkeypatch.setattr(pipeline_task._ClusterPlace, "poll_seconds", 0.2)
    return namespace


def study(name="one", **changes):
    spec = {
        "purpose": "Try everything",
        "data": [{"role": "Private", "budget": "scans"}],
        "privacy": {"epsilon": "2.0", "delta": "1e-5"},
        "job": {"kind": KIND, "parameters": {"steps": "10", "noise": "4"}},
        "audits": [{"kind": "Membership", "attack": ATTACK}],
        "release": {"endpoint": "risk"},
        **changes,
    }
    return json.dumps(manifest("Study", name, spec))


def test_a_pipeline_declares_a_study_reads_its_release_and_audits_it(clinic, submitter):
    with clinic.working():
        clinic.budget()
        name, where, release, spent, certificate = pipeline_task.run_study(study(), submitter, 90)
        assert (name, where, release) == ("one", submitter, "risk")
        assert float(spent) > 0
        assert certificate.startswith("sha256:")
        artifact, digest, claim, same = pipeline_task.read_release("risk", submitter, 60)
        assert artifact
        assert claim.startswith("epsilon ")
        assert digest.startswith("sha256:")
        assert same == certificate
        audit = {"release": "risk", "audit": {"kind": "Membership", "attack": ATTACK}}
        declared = json.dumps(manifest("AuditRun", "again", audit))
        assert pipeline_task.run_audit(declared, submitter, 60) == ("Pass", "AuditsPassed")
    clinic.audit_everything()


def test_a_task_that_is_run_again_meets_the_study_of_the_first_time(clinic, submitter):
    with clinic.working():
        clinic.budget()
        first = pipeline_task.run_study(study(), submitter, 90)
        assert pipeline_task.run_study(study(), submitter, 10) == first
        with pytest.raises(InvalidValue, match="another specification"):
            pipeline_task.run_study(study(purpose="Something else"), submitter, 10)
    assert len(clinic.kubelet.started) == 1
    clinic.audit_everything()


def test_two_tasks_at_once_declare_one_study(clinic, submitter):
    found = []
    with clinic.working():
        clinic.budget()
        threads = [
            threading.Thread(
                target=lambda: found.append(pipeline_task.run_study(study(), submitter, 90))
            )
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert len(found) == 3
    assert len(set(found)) == 1
    clinic.audit_everything()


def test_a_study_that_is_denied_fails_the_task_with_the_reason(clinic, submitter):
    job = {"kind": KIND, "parameters": {"steps": "4000", "noise": "4"}}
    with clinic.working():
        clinic.budget()
        with pytest.raises(Refused, match="Denied"):
            pipeline_task.run_study(study(job=job), submitter, 90)
    assert clinic.kubelet.started == []


def test_a_study_that_takes_longer_goes_on(clinic, submitter):
    clinic.kubelet.paused.set()
    with clinic.working():
        clinic.budget()
        with pytest.raises(Unavailable, match="run this task again"):
            pipeline_task.run_study(study(), submitter, 1)
        clinic.kubelet.paused.clear()
        assert pipeline_task.run_study(study(), submitter, 90)[0] == "one"


def test_a_release_that_is_not_there_is_waited_for_and_then_told(submitter):
    with pytest.raises(Unavailable, match="is not there"):
        pipeline_task.read_release("none", submitter, 1)


@pytest.mark.parametrize(
    "text", [study() + "\n---\n" + study("two"), json.dumps(manifest("GatePolicy", "g", {}))]
)
def test_a_manifest_is_one_study(submitter, text):
    with pytest.raises(InvalidValue):
        pipeline_task.run_study(text, submitter, 1)


def test_a_pipeline_may_not_declare_a_budget(submitter, clinic):
    """Its rights are the role's: what it may not do, no component does for it."""
    with pytest.raises(Refused):
        pipeline_task._ClusterPlace().create(
            manifest("PrivacyBudget", "mine", {})
            | {"metadata": {"name": "m", "namespace": submitter}}
        )
