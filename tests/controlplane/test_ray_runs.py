"""Studies whose heavy steps run in RayJobs, from apply to Release, on a real API server.

Operator and steps have the rights that the chart gives them and no others; KubeRay is simulated.
"""

from __future__ import annotations

import signal
import threading
import time

import pytest
from manifests import manifest, path
from ray_clinic import RayClinic
from simulated.jobs import ATTACK
from simulated_kuberay import BEGINNING, HANG

from primum.adapters.kube_manifests import names
from primum.domain.errors import Unavailable
from primum_operators import upkeep

# Connections that a dying API server cut are closed by nobody.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.xdist_group("kuberay"),  # Its CRD takes a control plane many seconds, once.
]


@pytest.fixture
def clinic(control_plane, ray_definitions, chart_with, namespace):
    chart_with("--api-versions", "ray.io/v1", "--set", "integrations.kuberay.enabled=true")
    token = control_plane.token(namespace, names.LAUNCHER_ACCOUNT)
    return RayClinic(
        control_plane, namespace, control_plane.kubeconfig_of(f"launcher-{namespace}", token)
    )


@pytest.fixture
def operator_config(clinic, operators_kubeconfig):
    """The operator's own rights, which the clinic's chart gave."""
    return operators_kubeconfig()


def spent(clinic):
    """Epsilon that the budget shows as spent."""
    return clinic.get("PrivacyBudget", "scans").get("status", {}).get("epsilonSpent", "")


def steps_of(clinic):
    return [job["metadata"]["labels"][names.STEP] for job in clinic.kuberay.jobs()]


def test_a_study_goes_from_apply_to_a_release_through_ray_jobs(clinic, operator_config):
    clinic.operator_config = operator_config
    with clinic.working():
        clinic.budget()
        uid = clinic.study()
        clinic.wait_ended("one")
        clinic.wait(lambda: clinic.shown("Release", "risk", "Ready") == "True Serving")
        assert clinic.shown("Study", "one", "Succeeded") == "True Done", clinic.said
    assert clinic.states(uid) == ["Charged"]
    assert sorted(steps_of(clinic)) == ["audit", "job"]
    assert len(clinic.kuberay.driven) == len(set(clinic.kuberay.driven)) == 2
    assert clinic.said == []
    clinic.audit_everything()


@pytest.mark.timeout(300)
def test_an_api_server_killed_in_the_middle_changes_nothing(clinic, control_plane):
    reached, back = threading.Event(), threading.Event()
    driven = clinic.driven

    def late(context, driver):
        if context.step == "job":
            reached.set()
            assert back.wait(120)
        return driven(context, driver)

    clinic.driven = late
    with clinic.working():
        clinic.budget()
        uid = clinic.study()
        assert reached.wait(120)
        control_plane.end("kube-apiserver", signal.SIGKILL)
        time.sleep(2)
        control_plane.start_api()
        back.set()
        clinic.wait_ended("one", seconds=120)
        assert clinic.shown("Study", "one", "Succeeded") == "True Done", clinic.said
    assert clinic.states(uid) == ["Charged"]
    assert len(clinic.kuberay.driven) == len(set(clinic.kuberay.driven)) == 2
    clinic.audit_everything()


def test_a_driver_that_dies_after_it_opened_data_is_charged_in_full(clinic):
    clinic.driven = lambda context, _driver: clinic.opened(context)
    with clinic.working():
        clinic.budget()
        uid = clinic.study()
        clinic.wait_ended("one")
        clinic.wait(lambda: float(spent(clinic)) > 0)
    assert clinic.shown("Study", "one", "Succeeded").startswith("False")
    assert clinic.states(uid) == ["Charged"]
    assert any("left no outcome" in text for text in clinic.said)
    clinic.audit_everything()


def test_a_ray_job_that_never_ran_gives_its_budget_back(clinic):
    clinic.kuberay.scripts["job"] = (("ValidationFailed", "", "ValidationFailed"),)
    with clinic.working():
        clinic.budget()
        uid = clinic.study()
        clinic.wait_ended("one")
        clinic.wait(lambda: spent(clinic) == "0")
    assert clinic.shown("Study", "one", "Succeeded").startswith("False")
    assert clinic.states(uid) == ["Charged"]  # At what was done, which is nothing but a look.
    assert steps_of(clinic) == ["job"]
    clinic.audit_everything()


def test_deleting_the_study_ends_its_ray_job_and_charges_what_was_opened(clinic):
    reached = threading.Event()

    def stuck(context, driver):
        clinic.opened(context)
        reached.set()
        driver.stopped.wait(120)
        return False

    clinic.driven = stuck
    with clinic.working():
        clinic.budget()
        uid = clinic.study()
        assert reached.wait(120)
        clinic.delete("Study", "one")
        clinic.wait(lambda: clinic.get("Study", "one") is None)
        clinic.wait(lambda: clinic.kuberay.jobs() == [])
    assert clinic.states(uid) == ["Charged"]
    clinic.audit_everything()


def killed_in(clinic, step):
    """Steps of that name are killed when their RayJob is on its way: nobody follows it."""
    walked = clinic.walked

    def walk(context, folder):
        if context.step != step:
            return walked(context, folder)
        clinic.make(context, folder)
        clinic.wait(clinic.kuberay.driving)
        return False

    clinic.walked = walk


def test_a_ray_job_whose_step_was_killed_is_swept(clinic, monkeypatch):
    monkeypatch.setattr(upkeep, "SWEEP_SECONDS", 1.0)
    clinic.kuberay.scripts["job"] = (*BEGINNING, HANG)
    killed_in(clinic, "job")
    with clinic.working() as (operator,):
        clinic.budget()
        uid = clinic.study()
        clinic.wait_ended("one")
        clinic.wait(lambda: clinic.kuberay.jobs() == [])
        metrics = operator._metrics.exposition().decode()
        assert "primum_operator_orphans_removed_total 1.0" in metrics
        clinic.wait(lambda: spent(clinic) == "0")
    assert clinic.states(uid) == ["Charged"]
    clinic.audit_everything()


def test_a_ray_job_is_left_alone_while_nobody_says_that_its_run_ended(clinic, monkeypatch):
    monkeypatch.setattr(upkeep, "SWEEP_SECONDS", 1.0)
    reached, asked, left = (threading.Event() for _ in range(3))
    driven = clinic.driven

    def late(context, driver):
        if context.step == "audit":
            reached.set()
            clinic.wait(left.is_set)
        return driven(context, driver)

    def away(_run_id):
        asked.set()
        raise Unavailable("no answer")

    clinic.driven = late
    with clinic.working() as (operator,):
        clinic.budget()
        clinic.study()
        assert reached.wait(120)
        monkeypatch.setattr(operator._upkeep._cluster.runner, "status", away)
        clinic.wait(asked.is_set)
        time.sleep(2)
        assert len(clinic.kuberay.jobs()) == 2  # Of the job, which has ended, and of the audit.
        assert clinic.kuberay.deleted == []
        monkeypatch.undo()
        left.set()
        clinic.wait_ended("one")
    assert clinic.shown("Study", "one", "Succeeded") == "True Done", clinic.said


def test_an_audit_run_makes_its_own_ray_job(clinic, namespace):
    with clinic.working():
        clinic.budget()
        clinic.study()
        clinic.wait(lambda: clinic.shown("Release", "risk", "Ready") == "True Serving")
        spec = {"release": "risk", "audit": {"kind": "Membership", "attack": ATTACK}}
        made = clinic.api.post(path("AuditRun", namespace), manifest("AuditRun", "again", spec))
        ended = ("True", "False")
        clinic.wait(lambda: clinic.shown("AuditRun", "again", "Succeeded").split(" ")[0] in ended)
        assert clinic.shown("AuditRun", "again", "Succeeded") == "True AuditsPassed", clinic.said
    uid = made["metadata"]["uid"]
    (job,) = [j for j in clinic.kuberay.jobs() if j["metadata"]["labels"][names.OWNER] == uid]
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("AuditRun", "again")
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    run = job["metadata"]["labels"][names.RUN]
    assert group["template"]["metadata"]["labels"][names.INSPECTION] == run
    jobs = clinic.api.get(f"/apis/batch/v1/namespaces/{namespace}/jobs")["items"]
    (own,) = [item for item in jobs if item["metadata"]["labels"][names.OWNER] == uid]
    assert own["spec"]["template"]["metadata"]["labels"][names.INSPECTION] == run
    clinic.audit_everything()


@pytest.mark.parametrize(
    ("verb", "group", "resource", "where", "may"),
    [
        ("create", "ray.io", "rayjobs", "", True),
        ("delete", "ray.io", "rayjobs", "", True),
        ("watch", "ray.io", "rayjobs", "", True),
        ("patch", "ray.io", "rayjobs", "", False),
        ("deletecollection", "ray.io", "rayjobs", "", False),
        ("create", "ray.io", "rayclusters", "", False),
        ("create", "ray.io", "rayjobs", "default", False),
        ("get", "", "secrets", "", False),
        ("create", "", "pods", "", False),
        ("get", "primum.dev", "studies", "", False),
    ],
)
def test_the_launcher_makes_ray_jobs_and_nothing_else(
    clinic, api, namespace, verb, group, resource, where, may
):
    account = f"system:serviceaccount:{namespace}:{names.LAUNCHER_ACCOUNT}"
    attributes = {"namespace": where or namespace, "verb": verb}
    attributes |= {"group": group, "resource": resource}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": account, "resourceAttributes": attributes},
    }
    found = api.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    assert found["status"].get("allowed", False) is may
