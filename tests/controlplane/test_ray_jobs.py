"""A heavy step in a RayJob on a real API server: made once, followed whatever happens, let go.

KubeRay is simulated; its CRD is the released one. What counts is what the step recorded.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
import time

import pytest
from clinic import JOBS
from manifests import STUDY, manifest, path
from simulated_kuberay import BEGINNING, DRIVE, FINALIZER, HANG, VANISH, SimulatedKubeRay

from primum import signing
from primum.adapters import memory
from primum.adapters.kube import rayjobs
from primum.adapters.kube.pods import secret
from primum.adapters.kube.rayjobs import RayJobs, RayJobSettings, settings_from_text
from primum.adapters.kube_manifests import names
from primum.adapters.memory import MemorySigner
from primum.application.access import Gatekeeper
from primum.application.step_services import DirectStepServices
from primum.domain.canonical import canonical_json
from primum.domain.errors import InvalidValue, Refused
from primum.domain.study.steps import (
    StepContext,
    StepOutcome,
    StepStatus,
)
from primum.entrypoints import in_ray_job
from primum.entrypoints import settings as platform_settings

RUN = "5d1c7f0e-0000-5000-8000-000000000001"
RESERVATION = "0a4b3c2d-0000-4000-8000-000000000001"
IMAGE = "registry.example.org/primum/worker@sha256:" + "0" * 64
RAY = RayJobSettings(
    image=IMAGE, artifacts_claim="primum-artifacts", data_claim="primum-dataset-files"
)
# Connections that a dying API server cut are closed by nobody.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.xdist_group("kuberay"),  # Its CRD takes a control plane many seconds, once.
]


def ticket(reservation=RESERVATION):
    claims = json.dumps({"reservationId": reservation}).encode()
    return signing.encode_token(MemorySigner().sign(signing.TICKET_TYPE, claims))


def make_context(namespace, uid):
    return StepContext(
        step="job",
        entry="package.module:function",
        study={
            "namespace": namespace,
            "name": "malignancy",
            "uid": uid,
            "generation": 1,
            "kind": "Train",
        },
        run_id=RUN,
        outcome_id="outcome-job",
        plan={"accesses": [{"name": "a", "step": "job", "treatment": "Charged"}]},
        datasets={},
        synthetic={},
        expectations=(),
        audits=(),
        tickets={"a": ticket()},
        upstream={},
        owner={"kind": "Study", "name": "malignancy"},
        resources={"workers": 2, "gpusPerWorker": 1},
    )


class Ward:
    """One step of one run, whose services are in memory."""

    def __init__(self, api, namespace, kubeconfig, folder):
        made = api.post(path("Study", namespace), manifest("Study", "malignancy", STUDY))
        self.api, self.namespace = api, namespace
        self.context = make_context(namespace, made["metadata"]["uid"])
        self.evidence = memory.MemoryEvidenceStore()
        clock = memory.ManualClock()
        ledger = memory.MemoryLedgerStore(clock=clock)
        self.services = DirectStepServices(
            context=self.context,
            keeper=Gatekeeper(ledger, MemorySigner(), clock, 60.0, self.evidence),
            ledger=ledger,
            store=self.evidence,
            worker=memory.MemoryCompute({}),
            signer=MemorySigner(),
            lineage_sink=memory.MemoryLineage(),
            artifacts="file:///artifacts",
            folders=(),
        )
        (folder / "001-job.json").write_bytes(canonical_json(self.context.to_json()))
        first = dataclasses.replace(self.context, step="validate")
        body = secret(RUN, "run", [first, self.context], JOBS)
        api.post(f"/api/v1/namespaces/{namespace}/secrets", body)
        self.settings = platform_settings.from_environment(
            {
                "PRIMUM_COMPUTE": "rayjob",
                "PRIMUM_LEDGER_URL": "https://primum-api.primum-system.svc:8399",
                "PRIMUM_RAY_JOB": RAY.to_text(),
                "PRIMUM_KUBECONFIG": kubeconfig,
                "PRIMUM_STEPS": str(folder),
            }
        )
        self.lost = []

    def record(self, driver=None, *, status=StepStatus.SUCCEEDED):
        """What the driver of the RayJob does at its end."""
        if driver is not None:
            told = driver.files["/etc/primum/step/context.json"]
            assert told.encode() == canonical_json(self.context.to_json())
        outcome = StepOutcome(
            outcome_id=self.context.outcome_id,
            step="job",
            status=status,
            reason="StepSucceeded",
            message="",
            receipts=(),
            evidence=(),
            artifacts=(),
        )
        self.evidence.record(outcome, (), study_uid=str(self.context.study["uid"]), generation=1)
        return status is StepStatus.SUCCEEDED

    def run(self, **changes):
        """The step's process, up to its outcome."""
        services = changes.get("services", self.services)
        settings = changes.get("settings", self.settings)
        return in_ray_job.outcome_of(self.context, services, self._execute, settings=settings)

    def _execute(self, context, _services):
        self.lost.append(context.step)
        raise Refused("lost")

    def manifest(self):
        return in_ray_job.manifest_of_step(self.context, self.settings)

    def exists(self):
        return self.api.get(f"/apis/ray.io/v1/namespaces/{self.namespace}/rayjobs")["items"]


@pytest.fixture
def ward(control_plane, ray_definitions, api, namespace, tmp_path):
    return Ward(api, namespace, control_plane.kubeconfig, tmp_path)


@pytest.fixture
def kuberay(api, namespace, ward):
    with SimulatedKubeRay(api, ward.record, namespace=namespace) as simulated:
        yield simulated
    assert simulated.faults == [], simulated.faults


@pytest.fixture
def often(monkeypatch):
    """A step that asks its ledger every second."""
    monkeypatch.setattr(rayjobs, "WATCH_SECONDS", 1)


def wait(holds, seconds=120):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.1)


def test_a_step_runs_in_a_ray_job_of_its_study(ward, kuberay):
    assert ward.run().status is StepStatus.SUCCEEDED
    (job,) = ward.exists()
    metadata = job["metadata"]
    assert kuberay.driven == [metadata["name"]]
    assert len(metadata["name"]) <= 47
    assert metadata["labels"][names.RUN] == RUN
    assert metadata["labels"][names.OWNER] == ward.context.study["uid"]
    assert metadata["ownerReferences"][0]["uid"] == ward.context.study["uid"]
    assert metadata["annotations"][names.RESERVATIONS] == RESERVATION
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 2, 2)
    assert group["template"]["metadata"]["labels"][names.RESERVATION] == RESERVATION
    assert ward.context.tickets["a"] not in json.dumps(job)
    assert ward.run().status is StepStatus.SUCCEEDED
    assert len(kuberay.driven) == 1


def test_a_driver_is_told_where_it_runs_and_what_it_may_ask(ward, api, namespace):
    seen = []

    def run(driver):
        seen.append(driver)
        return ward.record(driver)

    with SimulatedKubeRay(api, run, namespace=namespace):
        ward.run()
    (driver,) = seen
    assert driver.command == "python -m primum.entrypoints.step /etc/primum/step/context.json"
    own = {k: v for k, v in driver.environment.items() if k.startswith("PRIMUM_")}
    found = platform_settings.from_environment(own)
    assert (found.compute.value, found.ledger_url) == ("ray", ward.settings.ledger_url)
    assert set(driver.files) == {"/etc/primum/step/context.json"}


def test_a_step_that_failed_is_told_as_it_recorded_it(ward, api, namespace):
    fail = lambda driver: ward.record(driver, status=StepStatus.FAILED)  # noqa: E731
    with SimulatedKubeRay(api, fail, namespace=namespace):
        assert ward.run().status is StepStatus.FAILED


UGLY = {
    "succeeded without an outcome": ((*BEGINNING, ("Complete", "SUCCEEDED")), "SUCCEEDED"),
    "failed": ((*BEGINNING, ("Complete", "FAILED", "AppFailed")), "AppFailed"),
    "stopped": ((*BEGINNING, ("Complete", "STOPPED")), "STOPPED"),
    "canceled, which is no word of Ray's": ((("Complete", "CANCELED"),), "CANCELED"),
    "never had a Ray job": ((("Initializing", ""), ("Failed", "", "SubmissionFailed")), "Submiss"),
    "ran out of time": ((*BEGINNING, ("Failed", "RUNNING", "DeadlineExceeded")), "DeadlineExc"),
    "did not validate": ((("ValidationFailed", "", "ValidationFailed"),), "ValidationFailed"),
    "tries again": ((*BEGINNING, ("Retrying", "")), "Retrying"),
    "vanishes": ((*BEGINNING, VANISH), "Vanished"),
    "says a new word, and ends": (
        (("Hibernating", "DOZING"), ("Running", "Perhaps"), ("Failed", "")),
        "Failed",
    ),
}


@pytest.mark.parametrize("name", UGLY)
def test_a_ray_job_that_ends_without_an_outcome_fails_its_step(ward, kuberay, name):
    script, reason = UGLY[name]
    kuberay.scripts["job"] = script
    with pytest.raises(Refused, match=f"left no outcome \\({reason}"):
        ward.run()
    if name == "tries again":
        wait(lambda: ward.exists() == [])
    assert kuberay.driven == []


@pytest.mark.parametrize(
    "after",
    [("Failed", "", "JobStatusCheckTimeoutExceeded"), ("Complete", "FAILED"), VANISH, HANG],
    ids=str,
)
def test_what_the_step_recorded_counts_whatever_the_ray_job_says(ward, kuberay, often, after):
    ward_record, recorded = ward.record, threading.Event()

    def wait_and_record():
        ward_record()
        recorded.set()

    threading.Timer(1.5, wait_and_record).start()
    kuberay.scripts["job"] = (*BEGINNING, *[("Running", "RUNNING")] * 18, after)
    assert ward.run().status is StepStatus.SUCCEEDED
    assert recorded.is_set()


def test_a_ray_job_may_wait_in_its_queue_and_be_preempted(ward, kuberay, api):
    queued = dataclasses.replace(RAY, queue="imaging-gpu", priority="research")
    settings = dataclasses.replace(ward.settings, ray_job=queued.to_text())
    kuberay.scripts["job"] = (("Suspending", ""), ("Suspended", ""), *BEGINNING, DRIVE)

    def admit():
        wait(ward.exists)
        (job,) = ward.exists()
        assert job["metadata"]["labels"][names.QUEUE] == "imaging-gpu"
        assert job["metadata"]["labels"][names.PRIORITY] == "research"
        wait(lambda: ward.exists()[0].get("status", {}).get("jobDeploymentStatus") == "Suspended")
        assert kuberay.driven == []
        api.merge(f"{kuberay.path}/{job['metadata']['name']}", {"spec": {"suspend": False}})

    kueue = threading.Thread(target=admit)
    kueue.start()
    assert ward.run(settings=settings).status is StepStatus.SUCCEEDED
    kueue.join()
    assert len(kuberay.driven) == 1


def test_two_processes_of_one_step_make_one_ray_job(ward, kuberay):
    found = []
    threads = [threading.Thread(target=lambda: found.append(ward.run())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.status for outcome in found] == [StepStatus.SUCCEEDED] * 4
    assert len(kuberay.driven) == 1
    assert len(ward.exists()) == 1


def test_a_ray_job_is_adopted_by_the_process_that_comes_after(
    ward, kuberay, connect, control_plane
):
    RayJobs(connect(control_plane.kubeconfig)).create(ward.manifest())
    assert ward.run().status is StepStatus.SUCCEEDED
    assert len(kuberay.driven) == 1


def test_a_ray_job_that_is_being_deleted_is_waited_for(ward, kuberay, api, connect, control_plane):
    """Its cluster may still run the step; nothing was exposed, so the step may run again then."""
    kuberay.paused.set()
    made = RayJobs(connect(control_plane.kubeconfig)).create(ward.manifest())
    where = f"{kuberay.path}/{made['metadata']['name']}"
    api.merge(where, {"metadata": {"finalizers": [FINALIZER]}})
    api.delete(where)
    threading.Timer(2.0, kuberay.paused.clear).start()
    assert ward.run().status is StepStatus.SUCCEEDED
    (job,) = ward.exists()
    assert job["metadata"]["uid"] != made["metadata"]["uid"]
    assert len(kuberay.driven) == 1


@pytest.mark.parametrize("change", ["digest", "run", "owner"])
def test_a_strangers_ray_job_of_that_name_is_not_taken_over(ward, api, change):
    manifest = ward.manifest()
    metadata = manifest["metadata"]
    if change == "digest":
        metadata["annotations"][names.SPEC_DIGEST] = "sha256:" + "e" * 64
    if change == "run":
        metadata["labels"][names.RUN] = RUN[::-1]
    if change == "owner":
        del metadata["ownerReferences"]
    api.post(f"/apis/ray.io/v1/namespaces/{ward.namespace}/rayjobs", manifest)
    with pytest.raises(Refused, match="RayJob malignancy-job-"):
        ward.run()
    assert len(ward.exists()) == 1


def test_a_step_that_was_exposed_and_lost_is_not_run_again(ward, kuberay):
    """Its RayJob is gone, deleted by hand; what may have been released is charged in full."""

    class Exposed(DirectStepServices):
        def begun(self, outcome_id):
            return "Exposed"

    parts = {f.name: getattr(ward.services, f.name) for f in dataclasses.fields(ward.services)}
    with pytest.raises(Refused, match="lost"):
        ward.run(services=Exposed(**parts))
    assert ward.lost == ["job"]
    assert ward.exists() == []


def test_what_ends_the_process_ends_its_ray_job(ward, kuberay, often):
    kuberay.scripts["job"] = (*BEGINNING, HANG)
    services = ward.services

    class Ended:
        """Its process gets SIGTERM while it asks."""

        def __getattr__(self, name):
            return getattr(services, name)

        def outcome(self, outcome_id):
            if kuberay._drivers:
                raise SystemExit(143)
            return services.outcome(outcome_id)

    with pytest.raises(SystemExit):
        ward.run(services=Ended())
    wait(lambda: ward.exists() == [])


def test_the_deadline_ends_it(ward, kuberay):
    kuberay.scripts["job"] = (*BEGINNING, HANG)
    hurried = dataclasses.replace(RAY, deadline_seconds=3)
    settings = dataclasses.replace(ward.settings, ray_job=hurried.to_text())
    with pytest.raises(Refused, match="DeadlineExceeded"):
        ward.run(settings=settings)
    wait(lambda: ward.exists() == [])


def test_deleting_it_by_hand_fails_its_step(ward, kuberay, api):
    kuberay.scripts["job"] = (*BEGINNING, HANG)

    def delete():
        wait(lambda: kuberay._drivers)
        (job,) = ward.exists()
        api.delete(f"{kuberay.path}/{job['metadata']['name']}")

    by_hand = threading.Thread(target=delete)
    by_hand.start()
    with pytest.raises(Refused, match="Vanished"):
        ward.run()
    by_hand.join()
    assert ward.exists() == []


@pytest.mark.timeout(240)
def test_an_api_server_that_is_killed_and_comes_back_changes_nothing(
    ward, api, namespace, control_plane, often
):
    going, back = threading.Event(), threading.Event()

    def run(driver):
        going.set()
        assert back.wait(120)
        return ward.record(driver)

    def restart():
        assert going.wait(120)
        control_plane.end("kube-apiserver", signal.SIGKILL)
        time.sleep(2)
        control_plane.start_api()
        back.set()

    outage = threading.Thread(target=restart)
    with SimulatedKubeRay(api, run, namespace=namespace) as kuberay:
        outage.start()
        assert ward.run().status is StepStatus.SUCCEEDED
    outage.join()
    assert len(kuberay.driven) == 1
    assert kuberay.faults == []


def test_only_ray_jobs_that_have_not_ended_are_looked_at_for_orphans(
    ward, kuberay, connect, control_plane
):
    jobs = RayJobs(connect(control_plane.kubeconfig), namespaces=(ward.namespace,))
    kuberay.paused.set()
    jobs.create(ward.manifest())
    (running,) = jobs.running()
    assert (running.run_id, running.owner) == (RUN, ward.context.study["uid"])
    kuberay.paused.clear()
    assert ward.run().status is StepStatus.SUCCEEDED
    assert list(jobs.running()) == []
    everywhere = RayJobs(connect(control_plane.kubeconfig)).running()
    assert ward.namespace not in {item.namespace for item in everywhere}


def test_settings_travel_as_text():
    text = dataclasses.replace(RAY, deadline_seconds=7).to_text()
    assert settings_from_text(text) == dataclasses.replace(RAY, deadline_seconds=7)
    for wrong in ("", "[]", "{}", text.replace("image", "picture")):
        with pytest.raises(InvalidValue, match="PRIMUM_RAY_JOB"):
            settings_from_text(wrong)
