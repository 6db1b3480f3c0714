"""Studies whose runs go to Kubeflow Pipelines, on a real API server: every one ends, once."""

from __future__ import annotations

import json
import threading
import time

import pytest
from clinic import JOBS, Clinic
from manifests import manifest, path
from simulated.jobs import ATTACK
from simulated_kfp import SimulatedKfp

from primum.adapters.kfp_api import ApiSettings, KfpApi
from primum.adapters.kfp_runs import KfpRunner, KfpSettings
from primum.domain.study.steps import context_from_json

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class KfpClinic(Clinic):
    """A clinic with Kubeflow Pipelines."""

    def __init__(self, plane, namespace):
        super().__init__(plane, namespace)
        self.kfp = self.kubelet = SimulatedKfp(plane.api, self.task)
        self.between = lambda _task: None
        self.told_the_end = []

    def cluster_runner(self, api, clock):
        settings = KfpSettings(ApiSettings(self.kfp.url), (self.namespace,))
        client = KfpApi(settings.api, timeout_seconds=2.0)
        record = self.evidence.put_fact
        return KfpRunner(client, api, jobs=JOBS, settings=settings, clock=clock, record=record)

    def task(self, task):
        """What a task's pod does: its one step; the exit task has nothing to do anything with."""
        if not task.files:
            assert task.name == "notify"
            self.told_the_end.append(task.run["display_name"])
            return True
        (folder,) = task.files
        assert task.inputs["context"].startswith(f"{folder}/")
        text = task.files[folder][task.inputs["context"].removeprefix(f"{folder}/")]
        self.between(task)
        if task.run["state"] not in ("PENDING", "RUNNING", "DELETED"):
            return False  # Its pod was ended.
        return self.container([context_from_json(json.loads(text))])

    def secrets(self):
        found = self.api.get(f"/api/v1/namespaces/{self.namespace}/secrets")["items"]
        return [item for item in found if item["type"] == "primum.dev/steps"]


@pytest.fixture
def clinic(control_plane, namespace):
    return KfpClinic(control_plane, namespace)


def test_a_study_goes_from_apply_to_a_served_release(clinic):
    with clinic.working():
        clinic.budget()
        uid = clinic.study()
        clinic.wait_ended("one")
        clinic.wait(lambda: clinic.shown("Release", "risk", "Ready") == "True Serving")
        clinic.wait(lambda: clinic.secrets() == [])
    assert clinic.shown("Study", "one", "Succeeded") == "True Done"
    assert clinic.states(uid) == ["Charged"]
    assert [name for _, name in clinic.kfp.finished][-1] == "notify"
    assert len(clinic.kfp.runs) == 1
    clinic.audit_everything()


def test_a_study_ends_through_every_answer_that_goes_wrong(clinic):
    kfp = clinic.kfp
    kfp.fail("POST .*/runs$", 503)
    kfp.fail("POST .*/experiments", "lost")
    kfp.fail("POST .*/runs$", "lost")
    kfp.fail("GET .*/runs", 429, after="POST .*/runs$", Retry_After="1")
    kfp.fail("GET .*/runs", "gone page", after="POST .*/runs$")
    kfp.fail("GET .*/runs", "page", after="POST .*/runs$")
    with clinic.working("replica-a", "replica-b"):
        clinic.budget()
        uid = clinic.study()
        clinic.wait_ended("one", seconds=120)
    assert clinic.shown("Study", "one", "Succeeded") == "True Done"
    assert clinic.states(uid) == ["Charged"]
    assert kfp.created == 1
    clinic.audit_everything()


def test_a_run_that_somebody_cancels_is_settled_by_what_its_steps_recorded(clinic):
    """The exit task never ran: nothing is settled by it."""
    reached = threading.Event()

    def cancel(task):
        if task.name == "job":
            clinic.kfp.move(task.run, "CANCELING")
            reached.set()

    clinic.between = cancel
    with clinic.working():
        clinic.budget()
        uid = clinic.study()
        clinic.wait(reached.is_set)
        clinic.wait_ended("one")
    assert clinic.told_the_end == []
    assert clinic.states(uid) == ["Charged"]
    clinic.audit_everything()


def test_a_run_that_is_canceled_before_it_opened_anything_costs_nothing(clinic):
    clinic.kfp.paused.set()
    with clinic.working():
        clinic.budget()
        uid = clinic.study()
        clinic.wait(lambda: clinic.shown("Study", "one", "Launched").startswith("True"))
        clinic.kfp.move(clinic.kfp.runs[0], "CANCELED")
        clinic.wait_ended("one")
    assert clinic.shown("Study", "one", "Succeeded").startswith("False")
    assert clinic.states(uid) == ["Returned"]


@pytest.mark.parametrize("mood", ["fails before", "loses its receipt", "fails midway"])
def test_a_step_that_goes_wrong_is_settled(clinic, mood):
    clinic.moods["job"] = mood
    with clinic.working():
        clinic.budget()
        uid = clinic.study()
        clinic.wait_ended("one")
    assert clinic.shown("Study", "one", "Succeeded").startswith("False")
    assert set(clinic.states(uid)) == {"Charged"}
    clinic.audit_everything()


def test_a_paused_run_is_waited_for(clinic):
    clinic.kfp.paused.set()
    with clinic.working():
        clinic.budget()
        clinic.study()
        clinic.wait(lambda: clinic.kfp.runs)
        clinic.kfp.move(clinic.kfp.runs[0], "PAUSED")
        time.sleep(3)
        assert clinic.shown("Study", "one", "Succeeded")[:5] not in ("True ", "False")
        clinic.kfp.move(clinic.kfp.runs[0], "RUNNING")
        clinic.kfp.paused.clear()
        clinic.wait_ended("one")
    assert clinic.shown("Study", "one", "Succeeded") == "True Done"


def test_a_record_that_was_deleted_in_the_middle_opens_nothing_twice(clinic):
    """Its workflow goes with it; the run is made anew, and its steps meet their earlier selves."""
    vanished = threading.Event()

    def vanish(task):
        if task.name == "job" and not vanished.is_set():
            vanished.set()
            clinic.kfp.vanish(task.run)

    clinic.between = vanish
    with clinic.working():
        clinic.budget()
        uid = clinic.study()
        clinic.wait(vanished.is_set)
        clinic.wait_ended("one")
    assert clinic.states(uid) == ["Charged"]
    assert clinic.kfp.created == 2
    executed = [name for _, name in clinic.kfp.finished]
    assert executed.count("job") <= 2
    assert clinic.ledger.verify() == ()


def test_a_restarted_operator_finds_the_run_as_it_is(clinic):
    clinic.kfp.paused.set()
    kfp = clinic.kfp
    with clinic.working("replica-a"):
        clinic.budget()
        uid = clinic.study()
        clinic.wait(lambda: clinic.shown("Study", "one", "Launched").startswith("True"))
    later = SimulatedKfp(clinic.api, clinic.task)
    later.runs, later.experiments = kfp.runs, kfp.experiments
    clinic.kfp = clinic.kubelet = later
    with clinic.working("replica-b"):
        later._start(later._walk, later.runs[0])
        clinic.wait_ended("one")
    assert clinic.states(uid) == ["Charged"]
    assert later.created == 0
    clinic.audit_everything()


def test_deleting_a_study_terminates_its_run_and_charges_what_was_opened(clinic):
    held = threading.Event()

    def hold(task):
        if task.name == "evaluate":
            held.set()
            clinic.wait(lambda: task.run["state"] == "CANCELING")

    clinic.between = hold
    with clinic.working():
        clinic.budget()
        uid = clinic.study()
        clinic.wait(held.is_set)
        clinic.delete("Study", "one")
        clinic.wait(lambda: clinic.get("Study", "one") is None)
        clinic.wait(lambda: clinic.kfp.alive() == [])
    assert clinic.states(uid) == ["Charged"]
    clinic.audit_everything()


def test_a_run_without_its_study_is_swept(clinic):
    clinic.kfp.paused.set()
    with clinic.working("replica-a"):
        clinic.budget()
        clinic.study()
        clinic.wait(lambda: clinic.shown("Study", "one", "Launched").startswith("True"))
    clinic.api.merge(path("Study", clinic.namespace, "one"), {"metadata": {"finalizers": None}})
    clinic.delete("Study", "one")
    kfp = clinic.kfp
    later = SimulatedKfp(clinic.api)
    later.runs, later.experiments = kfp.runs, kfp.experiments
    clinic.kfp = clinic.kubelet = later
    later.move(later.runs[0], "RUNNING")
    with clinic.working("replica-b"):
        clinic.wait(lambda: later.runs[0]["state"] in ("CANCELING", "CANCELED"))
    assert clinic.secrets() == []


def test_an_audit_of_a_release_is_a_run_of_its_own(clinic):
    with clinic.working():
        clinic.budget()
        clinic.study()
        clinic.wait_ended("one")
        clinic.wait(lambda: clinic.shown("Release", "risk", "Ready") == "True Serving")
        spec = {"release": "risk", "audit": {"kind": "Membership", "attack": ATTACK}}
        clinic.api.post(path("AuditRun", clinic.namespace), manifest("AuditRun", "again", spec))
        clinic.wait(lambda: clinic.shown("AuditRun", "again", "Succeeded") == "True AuditsPassed")
    assert len(clinic.kfp.runs) == 2
    clinic.audit_everything()


def test_what_kubeflow_refuses_is_told_to_who_asks(clinic):
    clinic.kfp.fail("POST .*/runs$", 403, 3)
    events = f"/apis/events.k8s.io/v1/namespaces/{clinic.namespace}/events"

    def told():
        found = clinic.api.get(events)["items"]
        return [e["note"] for e in found if e["reason"] == "NotBroughtOn"]

    with clinic.working():
        clinic.budget()
        clinic.study()
        clinic.wait(told)
        assert "rights over runs" in told()[0]
        clinic.wait_ended("one", seconds=120)
    assert clinic.shown("Study", "one", "Succeeded") == "True Done"
