"""What we ask KubeRay, Kueue and KServe for: valid by their released CRDs, and run only once.

The released CRDs are found through PRIMUM_TEST_ASSETS; a server checks less than this, because it
prunes a misspelt field with no more than a warning.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from admission_requests import OPERATOR, RESERVATION, SETTINGS, Answers, request
from hypothesis import given
from hypothesis import strategies as st
from kube_schemas import builtin_problems, pod_templates, problems, unrestricted

from primum.adapters.kube_manifests import endpoint, rayjob, rayjob_status
from primum.adapters.kube_manifests.parts import Owner, Size, pod_spec
from primum.adapters.kube_manifests.rayjob_status import Duty, RayJobState, Started
from primum.application.ports import RunStatus
from primum.domain.errors import InvalidValue
from primum_operators.admission.review import review
from primum_operators.admission.rules import Doubling

ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "a" * 64
IMAGE = f"registry.example.org/primum/worker@{DIGEST}"
RUN = "3a9f3c6e-58f4-5d4d-9a1c-3f6a5f1f2b10"
OWNER = Owner("primum.dev/v1alpha1", "Study", "malignancy", "0b0c-uid")
ORIGIN = rayjob.Origin("malignancy", RUN, "job")
SCANS = (rayjob.DatasetClaim("primum-dataset-scans", "scans"),)
WORKERS = rayjob.WorkerGroup("workers", 2, 1, RESERVATION, datasets=SCANS)
REQUEST = rayjob.RayJobRequest(
    namespace="oncology",
    owner=OWNER,
    origin=ORIGIN,
    workload=rayjob.Workload.TRAIN,
    image=IMAGE,
    entrypoint=rayjob.ENTRYPOINT,
    groups=(WORKERS,),
    context_secret=f"primum-{RUN}",
    context_key="001-job.json",
    artifacts_claim="primum-artifacts",
    deadline_seconds=14_400,
    queue="imaging-gpu",
    priority="research",
    service_account="primum-worker",
)
SITES = tuple(
    rayjob.WorkerGroup(f"site-{number}", 1, 0, RESERVATION, datasets=SCANS) for number in range(4)
)
VARIANTS = {
    "train": REQUEST,
    "train-without-queue": replace(REQUEST, queue=""),
    "synthesize-on-cpu": replace(
        REQUEST,
        workload=rayjob.Workload.SYNTHESIZE,
        groups=(replace(WORKERS, gpus_per_worker=0),),
    ),
    "federate": replace(REQUEST, workload=rayjob.Workload.FEDERATE, groups=SITES),
    "audit-in-the-zone": replace(
        REQUEST,
        workload=rayjob.Workload.AUDIT,
        groups=(rayjob.WorkerGroup("workers", 1, 1, inspection=RUN, datasets=SCANS),),
    ),
    "audit-without-data": replace(
        REQUEST, workload=rayjob.Workload.AUDIT, groups=(rayjob.WorkerGroup("workers", 4, 1),)
    ),
}
SERVED = endpoint.EndpointRequest(
    namespace="oncology",
    owner=replace(OWNER, kind="Release"),
    release="malignancy",
    artifact_digest=DIGEST,
    certificate_digest="sha256:" + "b" * 64,
    image=f"registry.example.org/primum/serving@{DIGEST}",
    claim="primum-artifacts",
    artifact=PurePosixPath("uid/1/model.safetensors"),
    public_key="-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----\n",
)


def pods_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [pod for _, pod in pod_templates(manifest)]


@pytest.mark.parametrize("name", VARIANTS)
def test_ray_job_is_valid_by_the_released_crd(name: str) -> None:
    assert problems(rayjob.ray_job(VARIANTS[name])) == []


@pytest.mark.parametrize(
    "part", ["spec.retries", "spec.rayClusterSpec.workers", "spec.submitterPod"]
)
def test_validator_sees_a_misspelt_field(part: str) -> None:
    """A fixture that forbids something has its own test."""
    manifest = copy.deepcopy(rayjob.ray_job(REQUEST))
    place: Any = manifest
    *path, last = part.split(".")
    for step in path:
        place = place[step]
    place[last] = 1
    assert problems(manifest)


@pytest.mark.parametrize("name", VARIANTS)
def test_ray_job_runs_once_and_goes(name: str) -> None:
    spec: Any = rayjob.ray_job(VARIANTS[name])["spec"]
    assert spec["backoffLimit"] == 0
    assert spec["submitterConfig"]["backoffLimit"] == 0
    assert spec["submitterPodTemplate"]["spec"]["restartPolicy"] == "Never"
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["activeDeadlineSeconds"] == 14_400
    assert spec["preRunningDeadlineSeconds"] <= spec["activeDeadlineSeconds"]
    assert "clusterSelector" not in spec
    assert "deletionStrategy" not in spec, "cannot be combined with shutdownAfterJobFinishes"
    cluster = spec["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is False
    assert not {"networkPolicy", "tlsOptions", "historyServerOptions"} & set(cluster)
    for group in cluster["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_pod_of_a_ray_job_is_restricted(name: str) -> None:
    pods = pods_of(rayjob.ray_job(VARIANTS[name]))
    assert len(pods) == 2 + len(VARIANTS[name].groups)
    for pod in pods:
        assert unrestricted(pod) == []
        assert pod["automountServiceAccountToken"] is False
        assert pod["containers"][0]["image"] == IMAGE


def test_gpus_are_workers_times_gpus_per_worker() -> None:
    wanted = replace(REQUEST, groups=(replace(WORKERS, workers=3, gpus_per_worker=2),))
    spec: Any = rayjob.ray_job(wanted)["spec"]
    assert rayjob.gpus(wanted) == 6
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    container = group["template"]["spec"]["containers"][0]
    limits = container["resources"]["limits"]
    assert limits["nvidia.com/gpu"] * group["replicas"] == rayjob.gpus(wanted)
    assert container["resources"]["requests"]["nvidia.com/gpu"] == limits["nvidia.com/gpu"]
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert "nvidia.com/gpu" not in head["containers"][0]["resources"]["limits"]
    assert "tolerations" not in head
    assert group["template"]["spec"]["tolerations"]


def worker_group(group: rayjob.WorkerGroup) -> tuple[dict[str, Any], dict[str, Any]]:
    """A group's spec and its container's resources."""
    spec: Any = rayjob.ray_job(replace(REQUEST, groups=(group,)))["spec"]
    (made,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    return made, made["template"]["spec"]["containers"][0]["resources"]


@pytest.mark.parametrize("workers", [2, 5])
def test_each_worker_has_a_pod(workers: int) -> None:
    """The number is fixed: an elastic one would change the sampling rate behind epsilon."""
    made, _ = worker_group(replace(WORKERS, workers=workers))
    assert made["replicas"] == made["minReplicas"] == made["maxReplicas"] == workers
    assert made["rayStartParams"] == {}


def test_workers_that_share_a_gpu_share_a_pod() -> None:
    """Kueue sees one GPU for each pod, and CPU and memory of both workers in it."""
    shared = replace(WORKERS, workers=6, workers_per_gpu=2, ray_cpus=2)
    made, resources = worker_group(shared)
    assert made["replicas"] == made["minReplicas"] == made["maxReplicas"] == 3
    assert made["rayStartParams"] == {"num-cpus": "2"}
    own = REQUEST.sizes.worker
    assert resources["limits"]["nvidia.com/gpu"] == 1
    assert (own.cpu, own.memory, own.cpu_limit) == ("4", "16Gi", "8")
    assert resources["requests"] == {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": 1}
    assert resources["limits"]["cpu"] == "16"
    assert rayjob.gpus(replace(REQUEST, groups=(shared,))) == 3


def test_cpus_of_a_worker_are_asked_for_and_no_more_used() -> None:
    _, resources = worker_group(replace(WORKERS, gpus_per_worker=0, cpus_per_worker=6))
    assert resources["requests"]["cpu"] == resources["limits"]["cpu"] == "6"
    _, given = worker_group(replace(WORKERS, workers=1))
    assert given["limits"]["cpu"] == "8"


def test_a_size_is_multiplied_in_its_own_unit() -> None:
    assert Size("500m", "3Gi", "1").times(4) == Size("2000m", "12Gi", "4")
    assert Size("2", "3Gi").times(2) == Size("4", "6Gi")


def test_ray_version_is_that_of_the_worker_image() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={rayjob.RAY_VERSION}" in pins
    spec: Any = rayjob.ray_job(REQUEST)["spec"]
    assert spec["rayClusterSpec"]["rayVersion"] == rayjob.RAY_VERSION


def test_queue_suspends_and_labels() -> None:
    queued: Any = rayjob.ray_job(REQUEST)
    assert queued["spec"]["suspend"] is True
    assert queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "imaging-gpu"
    assert queued["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "research"
    free: Any = rayjob.ray_job(replace(REQUEST, queue=""))
    assert "suspend" not in free["spec"], "nobody would ever start it"
    assert not any("kueue" in key for key in free["metadata"]["labels"])


def test_only_workers_carry_a_reservation_and_see_data() -> None:
    spec: Any = rayjob.ray_job(VARIANTS["federate"])["spec"]
    cluster = spec["rayClusterSpec"]
    for blind in (spec["submitterPodTemplate"], cluster["headGroupSpec"]["template"]):
        assert "primum.dev/reservation" not in blind["metadata"]["labels"]
        assert not any(item["name"].startswith("dataset") for item in blind["spec"]["volumes"])
    for group in cluster["workerGroupSpecs"]:
        template = group["template"]
        assert template["metadata"]["labels"]["primum.dev/reservation"] == RESERVATION
        (claim,) = [item for item in template["spec"]["volumes"] if item["name"] == "dataset-0"]
        assert claim["persistentVolumeClaim"]["readOnly"] is True
        mounts = template["spec"]["containers"][0]["volumeMounts"]
        (mount,) = [item for item in mounts if item["name"] == "dataset-0"]
        assert mount == {
            "name": "dataset-0",
            "mountPath": "/var/lib/primum-data/scans",
            "readOnly": True,
        }
        assert not any(item["name"] == "context" for item in template["spec"]["volumes"])


def test_tickets_are_in_a_secret_and_nowhere_else() -> None:
    manifest: Any = rayjob.ray_job(REQUEST)
    head = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (context,) = [item for item in head["volumes"] if item["name"] == "context"]
    assert context["secret"] == {
        "secretName": REQUEST.context_secret,
        "items": [{"key": "001-job.json", "path": "context.json", "mode": 0o440}],
    }
    (container,) = head["containers"]
    (mount,) = [item for item in container["volumeMounts"] if item["name"] == "context"]
    assert mount == {"name": "context", "mountPath": "/etc/primum/step", "readOnly": True}
    assert manifest["spec"]["entrypoint"].endswith(" /etc/primum/step/context.json")
    assert "secretKeyRef" not in str(manifest)


def test_ray_job_belongs_to_its_study() -> None:
    metadata: Any = rayjob.ray_job(REQUEST)["metadata"]
    (owner,) = metadata["ownerReferences"]
    assert owner["uid"] == OWNER.uid
    assert owner["controller"] is True
    assert metadata["labels"]["primum.dev/run"] == RUN
    assert metadata["labels"]["primum.dev/study"] == "malignancy"
    assert metadata["labels"]["primum.dev/owner"] == OWNER.uid
    assert "blockOwnerDeletion" not in owner, "it takes a right over the owner's finalizers"


def test_only_the_driver_is_told_where_the_ledger_is() -> None:
    url = {"PRIMUM_LEDGER_URL": "https://primum-api.primum-system.svc:8399"}
    spec: Any = rayjob.ray_job(replace(REQUEST, environment=url, ledger_ca="primum-ca"))["spec"]
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "PRIMUM_LEDGER_URL", "value": url["PRIMUM_LEDGER_URL"]} in head["containers"][
        0
    ]["env"]
    assert {"name": "ledger-ca", "configMap": {"name": "primum-ca"}} in head["volumes"]
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        assert "PRIMUM_LEDGER_URL" not in str(group)
    assert problems(rayjob.ray_job(replace(REQUEST, ledger_ca="primum-ca"))) == []


def test_digest_tells_another_spec_apart() -> None:
    def digest(wanted: rayjob.RayJobRequest) -> str:
        metadata: Any = rayjob.ray_job(wanted)["metadata"]
        return str(metadata["annotations"]["primum.dev/spec-digest"])

    assert digest(REQUEST) == digest(replace(REQUEST))
    assert digest(REQUEST) != digest(replace(REQUEST, entrypoint="python -m other"))
    # Kueue flips suspend; the digest is about what will run.
    assert digest(REQUEST) == digest(replace(REQUEST, queue=""))


NAME = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)


@given(study=NAME, step=st.sampled_from(["validate", "job", "evaluate", "audit-one-run-canary"]))
def test_names_are_short_labels_and_deterministic(study: str, step: str) -> None:
    origin = rayjob.Origin(study, RUN, step)
    name = rayjob.ray_job_name(origin)
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", name)
    assert len(name) <= 47
    assert name == rayjob.ray_job_name(origin)
    assert name != rayjob.ray_job_name(replace(origin, run_id=RUN[::-1]))
    assert name != rayjob.ray_job_name(replace(origin, step="other"))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"image": "registry.example.org/primum/worker:0.1.0"}, "image"),
        ({"image": "worker:latest"}, "image"),
        ({"groups": ()}, "groups"),
        ({"groups": SITES * 5}, "groups"),
        ({"groups": (WORKERS, WORKERS)}, "groups"),
        ({"groups": (replace(WORKERS, workers=0),)}, "workers"),
        ({"groups": (replace(WORKERS, gpus_per_worker=-1),)}, "workers"),
        ({"groups": (replace(WORKERS, workers=3, workers_per_gpu=2),)}, "share one GPU"),
        ({"groups": (replace(WORKERS, gpus_per_worker=2, workers_per_gpu=2),)}, "share one GPU"),
        ({"groups": (replace(WORKERS, reservation=""),)}, "reservation"),
        ({"groups": (replace(WORKERS, inspection=RUN),)}, "inspection"),
        ({"groups": (replace(WORKERS, name="Workers"),)}, "name"),
        ({"groups": (replace(WORKERS, datasets=(rayjob.DatasetClaim("scans", "s"),)),)}, "claim"),
        ({"entrypoint": "  "}, "entrypoint"),
        ({"deadline_seconds": 0}, "deadline_seconds"),
        ({"sizes": rayjob.RaySizes(head=Size("lots", "4Gi"))}, "cpu"),
        ({"queue": "not a label"}, "label"),
    ],
)
def test_what_cannot_run_is_refused_by_name(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValue, match=field):
        rayjob.ray_job(replace(REQUEST, **change))


def test_pod_alone_is_a_valid_pod() -> None:
    spec: Any = rayjob.ray_job(replace(REQUEST, queue=""))["spec"]
    pod = spec["rayClusterSpec"]["workerGroupSpecs"][0]["template"]
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod["spec"]}
    assert builtin_problems(whole) == []
    assert pod_spec([])["containers"] == []


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "train-without-queue"])
def test_ray_job_passes_our_own_door_and_only_for_the_operator(name: str) -> None:
    manifest = rayjob.ray_job(VARIANTS[name])
    lookups = Answers(open_reservations=(("oncology", RESERVATION),))

    def refused(user: str) -> bool:
        asked = request("rayjobs", manifest, group="ray.io", user=user)
        found = review(asked, place=Doubling.GOVERNED, settings=SETTINGS, lookups=lookups)
        return found is not None

    assert not refused(OPERATOR)
    assert refused("lena@hospital.example") == (name != "audit-without-data")


# integrations.md section 2, row by row, and every pair of words that KubeRay knows.
FAILED_ANYHOW = {
    ("Failed", ""): Started.PERHAPS,
    ("Failed", "PENDING"): Started.PERHAPS,
    ("Failed", "RUNNING"): Started.YES,
    ("Failed", "STOPPED"): Started.YES,
    ("Failed", "SUCCEEDED"): Started.YES,
    ("Failed", "FAILED"): Started.YES,
    ("ValidationFailed", ""): Started.NO,
}


def expected(deployment: str, job: str) -> tuple[RunStatus, Duty]:
    if (deployment, job) == ("Complete", "SUCCEEDED"):
        return RunStatus.SUCCEEDED, Duty.SETTLE
    if deployment in ("Complete", "Failed", "ValidationFailed"):
        return RunStatus.FAILED, Duty.SETTLE
    if deployment == "Retrying":
        return RunStatus.FAILED, Duty.STOP
    return RunStatus.RUNNING, Duty.WAIT


ROWS = list(itertools.product(rayjob_status.DEPLOYMENT_STATUSES, rayjob_status.JOB_STATUSES))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0] or 'none'}-{row[1] or 'none'}")
def test_row_of_the_status_table(row: tuple[str, str]) -> None:
    deployment, job = row
    state = rayjob_status.ray_job_state({"jobDeploymentStatus": deployment, "jobStatus": job})
    assert (state.status, state.duty) == expected(deployment, job)
    if row in FAILED_ANYHOW:
        assert state.started is FAILED_ANYHOW[row]
    if job in ("RUNNING", "STOPPED", "SUCCEEDED", "FAILED") or deployment == "Complete":
        assert state.started in ((Started.PERHAPS,) if deployment == "Retrying" else (Started.YES,))
    # Only where neither word knows of a driver may a budget go back.
    if state.started is Started.NO:
        assert job == ""
        assert deployment in ("", "Initializing", "Waiting", "ValidationFailed")


WORDS = st.one_of(st.none(), st.sampled_from(["", "CANCELED", "Paused", "succeeded", "COMPLETE"]))


@given(deployment=WORDS, job=WORDS | st.sampled_from(rayjob_status.JOB_STATUSES))
def test_unknown_words_never_succeed_and_never_free_a_budget(
    deployment: str | None, job: str | None
) -> None:
    found = rayjob_status.ray_job_state({"jobDeploymentStatus": deployment, "jobStatus": job})
    assert found.status is RunStatus.RUNNING
    if (deployment or "") not in rayjob_status.DEPLOYMENT_STATUSES or (
        job or ""
    ) not in rayjob_status.JOB_STATUSES:
        assert found == RayJobState(RunStatus.RUNNING, Started.PERHAPS, Duty.WAIT, "UnknownStatus")


def test_known_end_with_an_unknown_word_of_ray_is_no_success() -> None:
    for job in ("CANCELED", "succeeded", ""):
        state = rayjob_status.ray_job_state({"jobDeploymentStatus": "Complete", "jobStatus": job})
        assert (state.status, state.started) == (RunStatus.FAILED, Started.YES)


def test_job_that_nobody_looked_at_yet_is_in_progress() -> None:
    state = rayjob_status.ray_job_state({})
    assert (state.status, state.started) == (RunStatus.RUNNING, Started.NO)


def test_vanished_job_is_unknown_and_settled_by_receipts() -> None:
    state = rayjob_status.ray_job_state(None)
    assert (state.status, state.duty) == (RunStatus.UNKNOWN, Duty.SETTLE)
    assert state.started is not Started.NO


def test_reason_is_kuberays_own_word_and_bounded() -> None:
    told = {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded", "message": "secret"}
    assert rayjob_status.ray_job_state(told).reason == "DeadlineExceeded"
    assert len(rayjob_status.ray_job_state(told | {"reason": "R" * 999}).reason) == 64


def test_inference_service_is_valid_by_the_released_crd() -> None:
    for wanted in (
        SERVED,
        replace(SERVED, serving=endpoint.Serving.STOPPED, replicas=3),
        replace(SERVED, artifact=PurePosixPath("model.safetensors"), service_account="worker"),
    ):
        assert problems(endpoint.inference_service(wanted)) == []


def test_inference_service_is_restricted_and_serves_the_certified_bytes() -> None:
    manifest: Any = endpoint.inference_service(SERVED)
    (pod,) = pods_of(manifest)
    assert unrestricted(pod) == []
    assert not {"logger", "batcher"} & set(manifest["spec"]["predictor"])
    assert set(manifest["spec"]) == {"predictor"}
    annotations = manifest["metadata"]["annotations"]
    assert annotations["primum.dev/artifact-digest"] == DIGEST
    assert annotations["primum.dev/certificate-digest"] == SERVED.certificate_digest
    assert manifest["metadata"]["labels"]["primum.dev/release"] == "malignancy"
    mounts = {item["mountPath"]: item for item in pod["containers"][0]["volumeMounts"]}
    registry = pod["containers"][0]["args"][1]
    model = mounts[f"{registry}/artifacts/model.safetensors"]
    assert (model["readOnly"], model["subPath"]) == (True, "uid/1/model.safetensors")
    assert mounts[f"{registry}/endpoints"]["readOnly"] is True
    entry = json.loads(endpoint.release_entry(SERVED, {"a": 1})["data"]["malignancy.json"])
    assert f"{registry}/{entry['artifact']}" in mounts
    assert "storageUris" not in manifest["spec"]["predictor"], "no initializer runs"


def test_key_stands_where_only_the_operator_writes() -> None:
    """A ConfigMap of another key would have the server believe whoever made it."""
    (pod,) = pods_of(endpoint.inference_service(SERVED))
    assert SERVED.public_key in pod["containers"][0]["args"]
    assert SERVED.public_key not in str(endpoint.release_entry(SERVED, {}))


def test_entry_of_a_release_is_a_config_map_that_goes_with_it() -> None:
    entry: Any = endpoint.release_entry(SERVED, {"payload": "x"})
    assert builtin_problems(entry) == []
    assert entry["metadata"]["ownerReferences"][0]["kind"] == "Release"
    assert entry["metadata"]["name"] != endpoint.endpoint_name(SERVED.release)
    assert endpoint.release_entry(SERVED, None)["data"] == {}
    (pod,) = pods_of(endpoint.inference_service(SERVED))
    (volume,) = [item for item in pod["volumes"] if "configMap" in item]
    assert volume["configMap"]["name"] == entry["metadata"]["name"]


def test_digest_tells_another_endpoint_apart() -> None:
    def digest(wanted: endpoint.EndpointRequest) -> str:
        metadata: Any = endpoint.inference_service(wanted)["metadata"]
        return str(metadata["annotations"]["primum.dev/spec-digest"])

    assert digest(SERVED) == digest(replace(SERVED))
    assert digest(SERVED) != digest(replace(SERVED, replicas=2))
    assert digest(SERVED) != digest(replace(SERVED, certificate_digest=DIGEST))


def test_arguments_are_those_of_the_inference_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own parser reads them; it would end with status 2 for an unknown one."""
    import sys

    from primum_serving import __main__ as server

    (pod,) = pods_of(endpoint.inference_service(SERVED))
    asked: list[Any] = []
    monkeypatch.setattr(sys, "argv", ["primum_serving", *pod["containers"][0]["args"]])
    monkeypatch.setattr("primum_serving.app.create_app", lambda *told: asked.append(told))
    monkeypatch.setattr("uvicorn.run", lambda _app, **told: asked.append(told))
    server.main()
    (registry, key), listening = asked
    assert (str(registry), key) == ("/mnt/models", SERVED.public_key)
    assert (listening["host"], listening["port"]) == ("0.0.0.0", endpoint.PORT)


def test_endpoint_that_is_stopped_does_not_answer() -> None:
    stopped = replace(SERVED, serving=endpoint.Serving.STOPPED)
    manifest: Any = endpoint.inference_service(stopped)
    assert manifest["metadata"]["annotations"]["serving.kserve.io/stop"] == "true"
    deployment: Any = endpoint.endpoint_workload(stopped)[0]
    assert deployment["spec"]["replicas"] == 0


def test_endpoint_without_kserve_is_a_restricted_deployment_and_a_service() -> None:
    deployment, service = endpoint.endpoint_workload(SERVED)
    assert builtin_problems(deployment) == []
    assert builtin_problems(service) == []
    (pod,) = pods_of(deployment)
    assert unrestricted(pod) == []
    spec: Any = deployment["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"artifact_digest": "latest"}, "artifact_digest"),
        ({"certificate_digest": ""}, "certificate_digest"),
        ({"image": "serving:0.1.0"}, "image"),
        ({"claim": "../zoo"}, "claim"),
        ({"artifact": PurePosixPath("../other/model")}, "artifact"),
        ({"artifact": PurePosixPath("/model")}, "artifact"),
        ({"artifact": PurePosixPath()}, "artifact"),
        ({"replicas": 0}, "replicas"),
    ],
)
def test_endpoint_that_cannot_be_trusted_is_refused(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValue, match=field):
        endpoint.inference_service(replace(SERVED, **change))


@given(release=NAME)
def test_endpoint_names_fit_kserve(release: str) -> None:
    name = endpoint.endpoint_name(release)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 40
    assert name == endpoint.endpoint_name(release)


def test_inference_service_passes_our_own_door_and_only_for_the_operator() -> None:
    manifest = endpoint.inference_service(SERVED)
    release = {
        "spec": {
            "kind": "Endpoint",
            "artifact": {"digest": SERVED.artifact_digest},
            "certificate": {"digest": SERVED.certificate_digest},
            "claim": {"standing": "Valid"},
        }
    }
    lookups = Answers(releases={"malignancy": release})
    for user, lets_pass in ((OPERATOR, True), ("lena@hospital.example", False)):
        asked = request("inferenceservices", manifest, group="serving.kserve.io", user=user)
        found = review(asked, place=Doubling.GOVERNED, settings=SETTINGS, lookups=lookups)
        assert (found is None) is lets_pass
