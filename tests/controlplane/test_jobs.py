"""Runs as Jobs on a real API server: made once, restricted, told truly, ended for good."""

from __future__ import annotations

import base64
import dataclasses
import json
import time

import pytest
from clinic import JOBS
from manifests import STUDY, manifest, path

from primum import signing
from primum.adapters.kube.jobs import KubeJobRunner, run_status
from primum.adapters.kube.pods import JobSettings
from primum.adapters.kube_manifests.names import OWNER as OWNER_LABEL
from primum.adapters.kube_manifests.names import RESERVATION as RESERVATION_LABEL
from primum.adapters.kube_manifests.names import RUN as RUN_LABEL
from primum.adapters.memory import ManualClock, MemorySigner
from primum.application.ports import RunStatus
from primum.domain.errors import InvalidValue, NotFound, Refused
from primum.domain.study.steps import StepContext
from primum.entrypoints import settings

RUN = "5d1c7f0e-0000-5000-8000-000000000001"


@pytest.fixture
def runner(connect, control_plane, namespace):
    client = connect(control_plane.kubeconfig)
    return KubeJobRunner(client, JOBS, clock=ManualClock(), namespaces=(namespace,))


@pytest.fixture
def study(api, namespace):
    """The uid of a declared Study."""
    made = api.post(path("Study", namespace), manifest("Study", "malignancy", STUDY))
    return made["metadata"]["uid"]


def ticket(reservation):
    claims = json.dumps({"reservationId": reservation}).encode()
    return signing.encode_token(MemorySigner().sign(signing.TICKET_TYPE, claims))


def contexts(namespace, uid, *, tickets=None, plan=None):
    return [
        StepContext(
            step=step,
            entry="package.module:function",
            study={
                "namespace": namespace,
                "name": "malignancy",
                "uid": uid,
                "generation": 1,
                "kind": "Train",
            },
            run_id=RUN,
            outcome_id=f"outcome-{step}",
            plan=plan or {},
            datasets={},
            synthetic={},
            expectations=(),
            audits=(),
            tickets=tickets or {f"{step}@wisconsin": ticket("r-1")},
            upstream={},
            credential="signed",
            owner={"kind": "Study", "name": "malignancy"},
        )
        for step in ("validate", "job")
    ]


def launch(runner, namespace, uid, **changes):
    runner.launch(RUN, name=f"{namespace}-malignancy-1", steps=contexts(namespace, uid, **changes))


def jobs(namespace):
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"


def the_job(api, namespace):
    (found,) = api.get(jobs(namespace))["items"]
    return found


def secrets(api, namespace):
    found = api.get(f"/api/v1/namespaces/{namespace}/secrets")["items"]
    return [item for item in found if item["type"] == "primum.dev/steps"]


def set_status(api, namespace, control_plane, kind):
    """The Job ends, as its controller would have it."""
    if not control_plane.manages:
        name = the_job(api, namespace)["metadata"]["name"]
        condition = {"type": kind, "status": "True"}
        body = {"status": {"startTime": "2026-11-22T06:00:00Z", "conditions": [condition]}}
        api.merge(f"{jobs(namespace)}/{name}/status", body)
        return
    pods = f"/api/v1/namespaces/{namespace}/pods"
    wait(lambda: api.get(pods)["items"])
    name = api.get(pods)["items"][0]["metadata"]["name"]
    phase = "Succeeded" if kind == "Complete" else "Failed"
    api.merge(f"{pods}/{name}/status", {"status": {"phase": phase}})


def wait(holds, seconds=120):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.1)


def test_a_run_is_one_job_of_its_study(runner, api, namespace, study):
    launch(runner, namespace, study)
    launch(runner, namespace, study)
    job = the_job(api, namespace)
    assert job["metadata"]["name"] == f"primum-{RUN}"
    assert job["metadata"]["ownerReferences"][0]["uid"] == study
    labels = job["metadata"]["labels"]
    assert (labels[RUN_LABEL], labels[OWNER_LABEL], labels[RESERVATION_LABEL]) == (
        RUN,
        study,
        "r-1",
    )
    assert job["spec"]["template"]["metadata"]["labels"][RESERVATION_LABEL] == "r-1"
    assert job["spec"]["backoffLimit"] == 0
    assert job["spec"]["activeDeadlineSeconds"] == JOBS.deadline_seconds
    assert runner.owners() == [(RUN, namespace, study)]


def test_the_answer_to_a_launch_is_how_the_run_stands_once(runner, api, namespace, study):
    launch(runner, namespace, study)
    api.delete(f"{jobs(namespace)}/primum-{RUN}")
    wait(lambda: not api.get(jobs(namespace))["items"])
    assert runner.status(RUN) is RunStatus.RUNNING
    assert runner.status(RUN) is RunStatus.UNKNOWN


def test_its_pod_is_restricted(runner, api, namespace, study):
    launch(runner, namespace, study)
    pod = the_job(api, namespace)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert "initContainers" not in pod
    assert container["image"] == JOBS.image
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (pod["automountServiceAccountToken"], pod["restartPolicy"]) == (False, "Never")
    assert container["resources"]["limits"] == {"cpu": "100m", "memory": "64Mi"}
    kinds = {name for volume in pod["volumes"] for name in volume} - {"name"}
    assert kinds <= {"emptyDir", "secret", "persistentVolumeClaim"}


def test_its_pod_holds_no_key_and_no_database(runner, api, namespace, study):
    launch(runner, namespace, study)
    pod = the_job(api, namespace)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    told = {item["name"]: item["value"] for item in container["env"]}
    assert told["PRIMUM_LEDGER_URL"] == JOBS.ledger_url
    assert not {"PRIMUM_DATABASE_URL", "PRIMUM_LEDGER_CA"} & set(told)
    assert "envFrom" not in container
    found = settings.from_environment(told)
    assert (found.ledger_url, found.ledger_ca) == (JOBS.ledger_url, "")
    secrets = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    assert [item["secretName"] for item in secrets] == [f"primum-{RUN}"]
    assert "configMap" not in {name for volume in pod["volumes"] for name in volume}


def test_its_pod_checks_the_ledger_api_by_the_authorities_that_are_named(
    connect, control_plane, api, namespace, study
):
    with_ca = dataclasses.replace(JOBS, ledger_ca="primum-ledger-ca")
    client = connect(control_plane.kubeconfig)
    runner = KubeJobRunner(client, with_ca, clock=ManualClock(), namespaces=(namespace,))
    launch(runner, namespace, study)
    pod = the_job(api, namespace)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    told = {item["name"]: item["value"] for item in container["env"]}
    (mount,) = [item for item in container["volumeMounts"] if item["name"] == "ledger-ca"]
    (volume,) = [item for item in pod["volumes"] if item["name"] == "ledger-ca"]
    assert told["PRIMUM_LEDGER_CA"] == f"{mount['mountPath']}/ca.crt"
    assert mount["readOnly"] is True
    assert volume["configMap"]["name"] == "primum-ledger-ca"


def test_tickets_are_in_the_secret_and_nowhere_else(runner, api, namespace, study):
    launch(runner, namespace, study)
    (secret,) = secrets(api, namespace)
    assert sorted(secret["data"]) == ["000-validate.json", "001-job.json"]
    told = json.loads(base64.b64decode(secret["data"]["001-job.json"]))
    text = told["tickets"]["job@wisconsin"]
    shown = json.dumps(the_job(api, namespace))
    assert told["credential"] == "signed"
    assert text not in shown
    assert "signed" not in shown
    assert secret["metadata"]["ownerReferences"][0]["uid"] == study
    assert secret["immutable"] is True


@pytest.mark.parametrize(
    ("kind", "status"), [("Complete", RunStatus.SUCCEEDED), ("Failed", RunStatus.FAILED)]
)
def test_its_end_is_told_and_its_tickets_are_forgotten(
    runner, api, namespace, study, control_plane, kind, status
):
    assert runner.status(RUN) is RunStatus.UNKNOWN
    launch(runner, namespace, study)
    assert runner.status(RUN) is RunStatus.RUNNING
    set_status(api, namespace, control_plane, kind)
    wait(lambda: runner.status(RUN) is status)
    assert secrets(api, namespace) == []
    launch(runner, namespace, study)
    assert runner.status(RUN) is status


def test_another_process_finds_the_run(runner, connect, control_plane, namespace, study):
    launch(runner, namespace, study)
    client = connect(control_plane.kubeconfig)  # Other tests' runs have the same name.
    other = KubeJobRunner(client, JOBS, clock=ManualClock(), namespaces=(namespace,))
    assert other.status(RUN) is RunStatus.RUNNING
    assert RUN in other.logs(RUN)
    with pytest.raises(NotFound):
        other.logs("another-run")


def test_stopping_ends_it_for_good(runner, api, namespace, study, control_plane):
    launch(runner, namespace, study)
    if control_plane.manages:
        wait(lambda: the_job(api, namespace)["status"].get("active"))
    runner.stop(RUN)
    runner.stop(RUN)
    assert secrets(api, namespace) == []
    wait(lambda: runner.status(RUN) is RunStatus.FAILED)
    launch(runner, namespace, study)
    assert runner.status(RUN) is RunStatus.FAILED
    runner.stop("another-run")


def test_a_stopped_run_whose_pod_still_runs_has_not_ended():
    stopped = {"metadata": {"annotations": {"primum.dev/stopped": "now"}}}
    running = {"startTime": "2026-11-22T06:00:00Z", "active": 1}
    assert run_status({**stopped, "status": running}) is RunStatus.RUNNING
    assert run_status({**stopped, "status": {}}) is RunStatus.FAILED
    failed = {"conditions": [{"type": "Failed", "status": "True"}]}
    assert run_status({**stopped, "status": failed}) is RunStatus.FAILED
    suspended = {"conditions": [{"type": "Suspended", "status": "True"}]}
    assert run_status({"metadata": {}, "status": suspended}) is RunStatus.RUNNING


def test_a_strangers_job_of_that_name_is_not_taken_over(runner, api, namespace, study):
    body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"primum-{RUN}"},
        "spec": {
            "template": {
                "spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "b"}]}
            }
        },
    }
    api.post(jobs(namespace), body)
    with pytest.raises(Refused, match="not of this run"):
        launch(runner, namespace, study)


def test_a_launch_that_died_before_its_job_is_repeated(runner, api, namespace, study):
    launch(runner, namespace, study)
    api.delete(f"{jobs(namespace)}/primum-{RUN}")
    wait(lambda: api.get(jobs(namespace))["items"] == [])
    assert secrets(api, namespace) != []
    launch(runner, namespace, study, tickets={"a": ticket("r-2")})
    (secret,) = secrets(api, namespace)
    told = json.loads(base64.b64decode(secret["data"]["000-validate.json"]))
    assert set(told["tickets"]) == {"a"}


def test_contexts_that_do_not_fit_are_refused(runner, api, namespace, study):
    with pytest.raises(InvalidValue, match="contexts of run"):
        launch(runner, namespace, study, plan={"text": "x" * 1_000_000})
    assert api.get(jobs(namespace))["items"] == []


def test_a_queue_holds_the_job_until_it_admits_it(connect, control_plane, api, namespace, study):
    settings = dataclasses.replace(JOBS, queue="hospital")
    client = connect(control_plane.kubeconfig)
    runner = KubeJobRunner(client, settings, clock=ManualClock(), namespaces=(namespace,))
    launch(runner, namespace, study)
    job = the_job(api, namespace)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "hospital"


@pytest.mark.parametrize(
    "image", ["registry.example.org/worker:latest", "worker", "worker@sha256:abc", ""]
)
def test_an_image_is_named_by_digest(image):
    with pytest.raises(InvalidValue, match="by digest"):
        JobSettings(image=image, ledger_url=JOBS.ledger_url)
