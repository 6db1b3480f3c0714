"""Kueue's budget check on a real API server: no workload starts before its reservation stands."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
import time

import helm
import pytest
import simulated_kueue
from clinic import JOBS, Clinic
from control_plane import Api
from kube_schemas import problems
from simulated_kueue import BASE, LOCAL_QUEUE, QUEUE_LABEL, JobKind, SimulatedKueue

from primum.adapters.kube.jobs import KubeJobRunner
from primum.adapters.kube.workloads import KueueWorkloads
from primum.adapters.system import SystemClock
from primum.domain.budget.entries import ReserveRequest
from primum.domain.names import derived_uuid

# Connections that a dying API server cut are closed by nobody.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
STUDY, RESERVATIONS = "primum.dev/study", "primum.dev/reservations"
TRAIN_JOB = JobKind("trainer.test/v1", "TrainJob", "trainjobs", lambda spec: [spec["podTemplate"]])
TEMPLATE = {
    "spec": {
        "restartPolicy": "Never",
        "containers": [{"name": "main", "image": "registry.example.org/tune@sha256:" + "0" * 64}],
    }
}


class QueuedClinic(Clinic):
    """A clinic whose Jobs wait in a queue of Kueue."""

    kueue: SimulatedKueue

    def cluster_runner(self, api, clock):
        jobs = dataclasses.replace(JOBS, queue=LOCAL_QUEUE)
        return KubeJobRunner(api, jobs, clock=clock, namespaces=(self.namespace,))

    def integrations(self, api):
        now = SystemClock().now
        return {"workloads": KueueWorkloads(api, now=now, governed=(self.namespace,))}

    def job(self, name, annotations=None, *, kind=None, labels=None):
        """Somebody's own job, in the queue."""
        where = kind.path(self.namespace) if kind else simulated_kueue.JOB.path(self.namespace)
        body = {
            "apiVersion": kind.api_version if kind else "batch/v1",
            "kind": kind.kind if kind else "Job",
            "metadata": {
                "name": name,
                "labels": {QUEUE_LABEL: LOCAL_QUEUE, **(labels or {})},
                "annotations": annotations or {},
            },
            "spec": {"suspend": True, "podTemplate" if kind else "template": TEMPLATE},
        }
        return self.api.post(where, body)

    def word(self, job):
        """State of our check on the Workload of a job."""
        return self.kueue.check(job)[0]

    def told(self, job):
        """Reasons of the Events about the Workload of a job."""
        uid = self.kueue.workload(job)["metadata"]["uid"]
        found = self.api.get(f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events")["items"]
        return [event["reason"] for event in found if event["regarding"]["uid"] == uid]

    def started(self, name="one"):
        """Wait until a Study's run exists."""
        self.wait(lambda: self.shown("Study", name, "Launched").startswith("True"))


@pytest.fixture(scope="module")
def kueue_definitions(control_plane):
    control_plane.install(simulated_kueue.definitions())


@pytest.fixture(scope="module")
def train_jobs(control_plane):
    """A kind of job that nobody of ours has ever heard of."""
    opened = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": opened, "status": opened}}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
    }
    names = {"kind": "TrainJob", "plural": "trainjobs", "singular": "trainjob"}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "trainjobs.trainer.test"},
        "spec": {
            "group": "trainer.test",
            "scope": "Namespaced",
            "names": names,
            "versions": [version],
        },
    }
    control_plane.install([definition])


@pytest.fixture
def clinic(control_plane, namespace, kueue_definitions):
    found = QueuedClinic(control_plane, namespace)
    with SimulatedKueue(found.api, namespace, kinds=(simulated_kueue.JOB,)) as found.kueue:
        found.kubelet.admits = found.kueue.admits
        yield found
    assert found.kueue.faults == []


def test_a_study_waits_in_its_queue_until_its_reservation_is_seen(clinic):
    clinic.kueue.paused.set()
    with clinic.working() as (operator,):
        clinic.budget()
        uid = clinic.study()
        clinic.started()
        time.sleep(0.5)
        assert clinic.kubelet.started == []
        clinic.kueue.paused.clear()
        clinic.wait_ended("one")
        metrics = operator._metrics.exposition().decode()
    (job,) = clinic.api.get(simulated_kueue.JOB.path(clinic.namespace))["items"]
    name = job["metadata"]["name"]
    assert clinic.shown("Study", "one", "Succeeded") == "True Done"
    assert clinic.states(uid) == ["Charged"]
    assert clinic.kueue.check(name) == ("Ready", "Study one holds its reservation.")
    assert clinic.kueue.seen == [(name, "Admitted")]
    assert clinic.told(name) == ["ReservationStands"]
    assert 'primum_operator_workloads_checked_total{state="Ready"} 1.0' in metrics
    assert problems(clinic.kueue.workload(name)) == []
    clinic.audit_everything()


def test_jobs_made_by_hand_start_under_a_standing_reservation_of_their_own_study_alone(clinic):
    clinic.kubelet.paused.set()
    with clinic.working():
        clinic.budget()
        uid = clinic.study(endpoint="")
        clinic.started()
        (held,) = clinic.ledger.reservations(study_uid=uid)
        stranger = derived_uuid("somebody", clinic.namespace)
        wanted = ReserveRequest(
            reservation_id=stranger,
            account_id=held.account_id,
            study_uid="elsewhere",
            generation=1,
            study="elsewhere/one",
            purpose="Another ward",
            requester="somebody",
            event=held.event,
        )
        clinic.ledger.reserve([wanted], lease_seconds=900.0, actor="test")
        expected = {
            "named": ({STUDY: "one"}, "Ready"),
            "exact": ({STUDY: "one", RESERVATIONS: held.reservation_id}, "Ready"),
            "stolen": ({STUDY: "one", RESERVATIONS: stranger}, "Rejected"),
            "unknown": ({STUDY: "one", RESERVATIONS: derived_uuid("nothing")}, "Rejected"),
            "bare": ({RESERVATIONS: held.reservation_id}, "Rejected"),
            "nothing": ({}, "Rejected"),
            "outdated": ({STUDY: "one", "primum.dev/generation": "7"}, "Rejected"),
            "double": ({STUDY: "one", "primum.dev/reservation": stranger}, "Rejected"),
        }
        for name, (annotations, _) in expected.items():
            clinic.job(name, annotations)
        # Rejected once, a workload is deactivated, and Kueue sets its check back.
        clinic.wait(
            lambda: (
                {
                    name: next((said for job, said in clinic.kueue.seen if job == name), "")
                    for name in expected
                }
                == {n: "Admitted" if s == "Ready" else s for n, (_, s) in expected.items()}
            ),
            message=f"{clinic.kueue.seen}",
        )
        for name, (_, state) in expected.items():
            workload = clinic.kueue.workload(name)
            assert workload["spec"]["active"] is (state == "Ready")
            assert problems(workload) == []
        foreign = clinic.told("stolen"), clinic.told("unknown")
        assert foreign == (["ReservationMissing"],) * 2
        # What is put right is judged anew.
        where = f"{simulated_kueue.JOB.path(clinic.namespace)}/nothing"
        clinic.api.merge(where, {"metadata": {"annotations": {STUDY: "one"}}})
        clinic.wait(lambda: clinic.kueue.condition("nothing", "Evicted") == "True")
        clinic.kueue.activate("nothing")
        clinic.wait(lambda: clinic.kueue.condition("nothing", "Admitted") == "True")
    assert clinic.states(uid) == ["Reserved"]


def test_a_workload_comes_again_until_its_study_is_there_and_not_after_its_end(clinic):
    with clinic.working():
        clinic.job("early", {STUDY: "one"})
        clinic.wait(lambda: ("early", "Retry") in clinic.kueue.seen)
        assert clinic.kueue.condition("early", "Admitted") != "True"
        clinic.kubelet.paused.set()
        clinic.budget()
        clinic.study(endpoint="")
        clinic.wait(lambda: clinic.kueue.condition("early", "Admitted") == "True")
        clinic.kueue.preempt("early")
        clinic.wait(lambda: clinic.kueue.seen.count(("early", "Admitted")) == 2)
        clinic.kubelet.paused.clear()
        clinic.wait_ended("one")
        clinic.kueue.preempt("early")
        clinic.wait(lambda: ("early", "Rejected") in clinic.kueue.seen)
        clinic.job("late", {STUDY: "one"})
        clinic.wait(lambda: ("late", "Rejected") in clinic.kueue.seen)
    retried = clinic.kueue.seen.index(("early", "Retry"))
    assert retried < clinic.kueue.seen.index(("early", "Admitted"))
    assert clinic.shown("Study", "one", "Succeeded") == "True Done"


def test_a_run_that_was_preempted_before_it_began_is_judged_anew_and_runs_once(clinic):
    clinic.kubelet.paused.set()
    with clinic.working():
        clinic.budget()
        uid = clinic.study()
        clinic.started()
        (job,) = clinic.api.get(simulated_kueue.JOB.path(clinic.namespace))["items"]
        name = job["metadata"]["name"]
        clinic.wait(lambda: (name, "Admitted") in clinic.kueue.seen)
        clinic.kueue.preempt(name)
        # Until its first pod is gone, that one could begin after all.
        clinic.wait(lambda: clinic.kueue.seen.count((name, "Admitted")) == 2)
        clinic.kubelet.paused.clear()
        clinic.wait_ended("one")
    assert clinic.kueue.seen.count((name, "Admitted")) == 2
    assert clinic.states(uid) == ["Charged"]
    clinic.audit_everything()


@pytest.mark.parametrize("left", ["an outcome", "nothing"])
def test_a_run_that_was_preempted_in_the_middle_is_charged_once(clinic, left):
    """What its steps recorded stands; a step that was exposed and left nothing ends the Study."""
    attempts = []
    gone = threading.Event()

    def container(steps):
        attempts.append(steps)
        if len(attempts) > 1:
            return clinic.container(steps)
        clinic._step.now = "validate"
        clinic._execute(steps[0])
        if left == "nothing":
            clinic.moods["job"] = "loses its receipt"
        clinic._step.now = "job"
        clinic._execute(steps[1])
        clinic.moods.clear()
        gone.wait(120)
        return False  # Nobody hears it: the pod is gone.

    clinic.kubelet._body = container
    with clinic.working():
        clinic.budget()
        uid = clinic.study()
        clinic.wait(lambda: attempts and clinic.states(uid) == ["Exposed"])
        (job,) = clinic.api.get(simulated_kueue.JOB.path(clinic.namespace))["items"]
        name = job["metadata"]["name"]
        clinic.kueue.preempt(name)
        clinic.wait_ended("one", seconds=90)
        gone.set()
    ended = clinic.shown("Study", "one", "Succeeded")
    assert ended.startswith("True" if left == "an outcome" else "False")
    assert clinic.states(uid) == ["Charged"]
    assert clinic.ledger.verify() == ()


def test_the_api_server_may_go_away_while_workloads_wait(clinic):
    with clinic.working():
        clinic.budget()
        clinic.kubelet.paused.set()
        clinic.study(endpoint="")
        clinic.started()
        clinic.kueue.paused.set()
        for number in range(5):
            clinic.job(f"mine-{number}", {STUDY: "one"})
        clinic.plane.end("kube-apiserver", signal.SIGKILL)
        clinic.kueue.paused.clear()
        time.sleep(1)
        clinic.plane.start_api()
        for number in range(5):
            clinic.wait(
                lambda n=number: clinic.kueue.condition(f"mine-{n}", "Admitted") == "True",
                seconds=120,
            )
        clinic.kubelet.paused.clear()
        clinic.wait_ended("one", seconds=120)
    assert clinic.shown("Study", "one", "Succeeded") == "True Done"
    clinic.audit_everything()


def test_two_replicas_in_a_storm_of_conflicts_say_each_word_once(clinic):
    clinic.kueue.storm.set()
    with clinic.working("replica-a", "replica-b") as replicas:
        clinic.budget()
        clinic.kubelet.paused.set()
        clinic.study(endpoint="")
        clinic.started()
        jobs = [f"mine-{number}" for number in range(6)]
        for name in jobs:
            clinic.job(name, {STUDY: "one"})
        clinic.job("stray")
        leading = next(replica for replica in replicas if replica._parts.lease.held)
        leading.stop()  # Another one takes over in the middle.
        for name in jobs:
            clinic.wait(lambda n=name: (n, "Admitted") in clinic.kueue.seen, seconds=90)
        clinic.wait(lambda: ("stray", "Rejected") in clinic.kueue.seen, seconds=90)
        clinic.kueue.storm.clear()
        assert all(clinic.told(name) == ["ReservationStands"] for name in jobs)
        assert clinic.told("stray") == ["ReservationMissing"]
        said = [
            line
            for replica in replicas
            for line in replica._metrics.exposition().decode().splitlines()
            if line.startswith("primum_operator_workloads_checked_total{")
        ]
        ready = [float(line.split()[-1]) for line in said if 'state="Ready"' in line]
        assert sum(ready) == len(jobs) + 1  # The Study's own run is one of them.


def test_a_kind_that_nobody_heard_of_waits_for_its_reservation_too(clinic, train_jobs):
    clinic.kueue._kinds = (simulated_kueue.JOB, TRAIN_JOB)
    with clinic.working():
        clinic.budget()
        clinic.kubelet.paused.set()
        clinic.study(endpoint="")
        clinic.started()
        clinic.job("tune", {STUDY: "one"}, kind=TRAIN_JOB)
        clinic.job("stray", kind=TRAIN_JOB)
        clinic.wait(lambda: ("tune", "Admitted") in clinic.kueue.seen)
        clinic.wait(lambda: ("stray", "Rejected") in clinic.kueue.seen)
        where = f"{TRAIN_JOB.path(clinic.namespace)}/tune"
        clinic.wait(lambda: clinic.api.get(where)["spec"]["suspend"] is False)


def test_where_nothing_private_may_lie_nothing_is_asked(clinic):
    """The namespace is not among those that are looked after, and has no label."""
    other = f"{clinic.namespace}-free"
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}}
    clinic.api.post("/api/v1/namespaces", space)
    with clinic.working(), SimulatedKueue(clinic.api, other) as kueue:
        elsewhere = QueuedClinic(clinic.plane, other)
        elsewhere.job("free")
        clinic.wait(lambda: ("free", "Admitted") in kueue.seen)
        clinic.api.merge(
            f"/api/v1/namespaces/{other}", {"metadata": {"labels": {"primum.dev/governed": "true"}}}
        )
        elsewhere.job("governed")
        clinic.wait(lambda: ("governed", "Rejected") in kueue.seen)


def test_only_checks_of_ours_are_answered(clinic):
    where = f"{BASE}/admissionchecks"
    specs = {
        f"theirs-{clinic.namespace}": {"controllerName": "somebody.else/check"},
        f"wrong-{clinic.namespace}": {
            "controllerName": "primum.dev/budget",
            "parameters": {"apiGroup": "primum.dev", "kind": "GatePolicy", "name": "default"},
        },
        f"right-{clinic.namespace}": {"controllerName": "primum.dev/budget"},
    }
    for name, spec in specs.items():
        clinic.api.post(where, simulated_kueue._object("AdmissionCheck", name, spec))

    def said():
        found = [clinic.api.get(f"{where}/{name}") for name in specs]
        listed = [(item.get("status") or {}).get("conditions") or [{}] for item in found]
        return [conditions[0].get("status") for conditions in listed]

    with clinic.working():
        clinic.wait(lambda: said() == [None, "False", "True"])
        clinic.wait_quiet()
    for name in specs:
        if found := clinic.api.get(f"{where}/{name}").get("status"):
            assert problems(clinic.api.get(f"{where}/{name}")) == [], found
        clinic.api.delete(f"{where}/{name}")


@pytest.fixture
def operators_rights(namespace, control_plane, chart_with):
    """The rights that the chart gives the operator where there is Kueue: a kubeconfig, a token."""
    frameworks = [{"apiGroup": "trainer.test", "resources": ["trainjobs"]}]
    chart_with(
        *("--set", "integrations.kueue.enabled=true"),
        *("--set-json", f"integrations.kueue.frameworks={json.dumps(frameworks)}"),
        *("--api-versions", "kueue.x-k8s.io/v1beta2"),
    )
    token = control_plane.token(helm.NAMESPACE, "primum-operator")
    return control_plane.kubeconfig_of(f"operator-{namespace}", token), token


def test_the_charts_rights_are_enough_and_a_kind_without_them_is_told(
    clinic, train_jobs, operators_rights, connect
):
    config, token = operators_rights
    clinic.kueue._kinds = (simulated_kueue.JOB, TRAIN_JOB)
    limited = Api(clinic.plane.url, clinic.api.ca, token=token)
    clinic.wait(lambda: limited.request("GET", f"{BASE}/workloads")[0] == 200)
    operator = clinic.replica("replica-a", config)
    check = operator._check
    with clinic.working():
        clinic.budget()
        clinic.kubelet.paused.set()
        clinic.study(endpoint="")
        clinic.started()
    clinic.job("mine", {STUDY: "one"})
    clinic.job("tune", {STUDY: "one"}, kind=TRAIN_JOB)
    for name in ("mine", "tune"):
        clinic.wait(lambda n=name: clinic.kueue.condition(n, "QuotaReserved") == "True")
    check.check_served()
    asked = []
    check.resync(asked.append)
    for key in asked:
        if key.kind == "AdmissionCheck" or key.namespace == clinic.namespace:
            check.look(key)
    clinic.wait(lambda: ("mine", "Admitted") in clinic.kueue.seen)
    clinic.wait(lambda: ("tune", "Admitted") in clinic.kueue.seen)
    role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/primum-operator-governed"
    rules = clinic.api.get(role)["rules"]
    kept = [rule for rule in rules if "trainer.test" not in rule["apiGroups"]]
    clinic.api.merge(role, {"rules": kept})
    trains = TRAIN_JOB.path(clinic.namespace)
    clinic.wait(lambda: limited.request("GET", f"{trains}/tune")[0] == 403)
    clinic.job("blind", {STUDY: "one"}, kind=TRAIN_JOB)
    clinic.wait(lambda: clinic.kueue.condition("blind", "QuotaReserved") == "True")
    clinic.kueue.paused.set()
    workload = clinic.kueue.workload("blind")["metadata"]["name"]
    check.look(next(k for k in _waiting(check) if k.name == workload))
    state, message = clinic.kueue.check("blind")
    assert state == "Retry"
    assert "must be allowed to read TrainJob of trainer.test/v1" in message
    operator._parts.api.close()
    operator._probes.close()


def _waiting(check):
    found = []
    check.resync(found.append)
    return found
