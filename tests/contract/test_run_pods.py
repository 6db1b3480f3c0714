"""Pods of runs and the RayJobs that their steps make, from what a step is told: valid, and no more.

The same settings of the operator make both.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from kube_schemas import builtin_problems, pod_templates, problems, unrestricted

from primum import signing
from primum.adapters.kfp_runs import KfpSettings, pipeline
from primum.adapters.kube.pods import STEPS_FOLDER, job, secret
from primum.adapters.kube.rayjobs import manifest_of, settings_from_text
from primum.adapters.kube_manifests import names
from primum.adapters.memory import MemorySigner
from primum.domain.errors import InvalidValue
from primum.domain.study.steps import StepContext
from primum_operators import settings as operator_settings

RUN = "5d1c7f0e-0000-5000-8000-000000000001"
RESERVATION = "0a4b3c2d-0000-4000-8000-000000000001"
TOLD = {
    "PRIMUM_OPERATOR_JOB_IMAGE": "registry.example.org/primum/worker@sha256:" + "0" * 64,
    "PRIMUM_OPERATOR_JOB_LEDGER_URL": "https://primum-api.primum-system.svc:8399",
    "PRIMUM_OPERATOR_JOB_LEDGER_CA": "primum-ca",
    "PRIMUM_OPERATOR_JOB_DATA_CLAIM": "primum-dataset-files",
    "PRIMUM_OPERATOR_JOB_SERVICE_ACCOUNT": "primum-worker",
    "PRIMUM_OPERATOR_JOB_QUEUE": "imaging-gpu",
    "PRIMUM_OPERATOR_COMPUTE": "rayjob",
    "PRIMUM_OPERATOR_RAY_PRIORITY": "research",
    "PRIMUM_OPERATOR_RAY_WORKER_MEMORY": "64Gi",
}
JOBS = operator_settings.from_environment(TOLD).cluster.jobs
PODS = operator_settings.from_environment(
    {k: v for k, v in TOLD.items() if "COMPUTE" not in k}
).cluster.jobs


def ticket(**claims: str) -> str:
    text = json.dumps(claims).encode()
    return signing.encode_token(MemorySigner().sign(signing.TICKET_TYPE, text))


def context(step: str = "job", **changes: Any) -> StepContext:
    told: dict[str, Any] = {
        "step": step,
        "entry": "package.module:function",
        "study": {
            "namespace": "oncology",
            "name": "malignancy",
            "uid": "8371024c-eba6-4419-8f2f-7ad3bf1fc488",
            "generation": 1,
            "kind": "Train",
        },
        "run_id": RUN,
        "outcome_id": f"outcome-{step}",
        "plan": {},
        "datasets": {},
        "synthetic": {},
        "expectations": (),
        "audits": (),
        "tickets": {"a": ticket(reservationId=RESERVATION)},
        "upstream": {},
        "credential": "signed-for-this-step",
        "owner": {"kind": "Study", "name": "malignancy"},
        "resources": {"workers": 3, "gpusPerWorker": 2},
    }
    return StepContext(**(told | changes))


AUDIT = context(
    "audit",
    tickets={"a": ticket(auditRun="again")},
    owner={"kind": "AuditRun", "name": "again"},
    resources={"workers": 1, "gpusPerWorker": 2},
)


def made(told: StepContext) -> dict[str, Any]:
    ray = settings_from_text(JOBS.ray_job)
    return manifest_of(told, ray, key=f"001-{told.step}.json", environment={"PRIMUM_HOME": "/h"})


@pytest.mark.parametrize("told", [context(), AUDIT, context("evaluate")], ids=lambda c: c.step)
def test_ray_job_of_a_step_is_valid_and_restricted(told: StepContext) -> None:
    manifest = made(told)
    assert problems(manifest) == []
    for _, pod in pod_templates(manifest):
        assert unrestricted(pod) == []
        assert pod["serviceAccountName"] == "primum-worker"
    for word in (told.tickets["a"], told.credential):
        assert word not in str(manifest)


def test_ray_job_has_what_its_study_asks_for() -> None:
    manifest = made(context())
    (group,) = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert group["replicas"] == 3
    assert container["resources"]["limits"] == {
        "cpu": "4",
        "memory": "64Gi",
        "nvidia.com/gpu": 2,
    }
    labels = manifest["metadata"]["labels"]
    assert (labels[names.QUEUE], labels[names.PRIORITY]) == ("imaging-gpu", "research")
    assert manifest["spec"]["suspend"] is True
    mounts = {item["name"]: item["mountPath"] for item in container["volumeMounts"]}
    assert mounts["dataset-0"] == "/var/lib/primum-data"
    assert mounts["artifacts"] == "/var/lib/primum/artifacts"


@pytest.mark.parametrize(
    ("step", "resources", "pods", "counted"),
    [
        ("job", {"workers": 3, "gpusPerWorker": 2}, 3, {"num-cpus": "1"}),
        ("job", {"workers": 3, "gpusPerWorker": 0, "cpusPerWorker": 2}, 3, {"num-cpus": "2"}),
        (
            "job",
            {"workers": 6, "gpusPerWorker": 1, "workersPerGpu": 2, "cpusPerWorker": 3},
            3,
            {"num-cpus": "6"},
        ),
        ("job", {"workers": 1, "gpusPerWorker": 1}, 1, {}),
        ("audit", {"workers": 3, "gpusPerWorker": 0}, 3, {}),
        ("audit", {"workers": 4, "gpusPerWorker": 1, "workersPerGpu": 2}, 1, {}),
        ("evaluate", {"workers": 3, "gpusPerWorker": 1}, 1, {}),
    ],
)
def test_pods_of_a_step_are_those_that_it_can_use(
    step: str, resources: dict[str, int], pods: int, counted: dict[str, str]
) -> None:
    """Ray counts room for a pod's own workers alone: else it would pack all into the first."""
    (group,) = made(context(step, resources=resources))["spec"]["rayClusterSpec"][
        "workerGroupSpecs"
    ]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == pods
    assert group["rayStartParams"] == counted


def test_step_without_data_mounts_none() -> None:
    manifest = made(context(tickets={}))
    assert "primum-dataset-files" not in str(manifest)
    assert names.RESERVATION not in str(manifest)


def test_data_without_a_reservation_is_not_opened() -> None:
    with pytest.raises(InvalidValue, match="must have a reservation to open data"):
        made(context(tickets={"a": "damaged"}))


def test_audit_run_looks_under_an_inspection() -> None:
    manifest = made(AUDIT)
    (group,) = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    labels = group["template"]["metadata"]["labels"]
    assert labels[names.INSPECTION] == RUN
    assert names.RESERVATION not in labels
    (owner,) = manifest["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("AuditRun", "again", True)
    for settings in (JOBS, PODS):
        own = job(RUN, "oncology-again", [AUDIT], settings)
        assert own["spec"]["template"]["metadata"]["labels"][names.INSPECTION] == RUN
        assert own["metadata"]["ownerReferences"][0]["name"] == "again"


@pytest.mark.parametrize("settings", [JOBS, PODS], ids=["rayjob", "pods"])
def test_run_pod_is_valid_and_restricted(settings: Any) -> None:
    manifest = job(RUN, "run", [context("validate"), context()], settings)
    assert builtin_problems(manifest) == []
    ((_, pod),) = pod_templates(manifest)
    assert unrestricted(pod) == []
    assert pod["automountServiceAccountToken"] is False


def test_only_a_pod_that_makes_ray_jobs_has_a_token() -> None:
    told = [context("validate"), context()]
    ((_, pod),) = pod_templates(job(RUN, "run", told, JOBS))
    ((_, plain),) = pod_templates(job(RUN, "run", told, PODS))
    assert pod["serviceAccountName"] == names.LAUNCHER_ACCOUNT
    assert plain["serviceAccountName"] == "primum-worker"
    assert "serviceAccountToken" not in str(plain)
    (volume,) = [item for item in pod["volumes"] if "projected" in item]
    sources = [next(iter(item)) for item in volume["projected"]["sources"]]
    assert sources == ["serviceAccountToken", "configMap", "downwardAPI"]
    (container,) = pod["containers"]
    (mount,) = [item for item in container["volumeMounts"] if item["name"] == volume["name"]]
    assert mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
    assert STEPS_FOLDER in {item["mountPath"] for item in container["volumeMounts"]}


def test_a_queue_holds_ray_jobs_and_not_the_pod_that_waits_for_them() -> None:
    told = [context()]
    waiting, plain = job(RUN, "run", told, JOBS), job(RUN, "run", told, PODS)
    assert names.QUEUE not in waiting["metadata"]["labels"]
    assert "suspend" not in waiting["spec"]
    assert plain["metadata"]["labels"][names.QUEUE] == "imaging-gpu"
    assert plain["spec"]["suspend"] is True


def test_heavy_is_what_is_worth_machines_of_its_own() -> None:
    none = {"workers": 1, "gpusPerWorker": 0}
    heavy = {step: context(step).is_heavy for step in ("validate", "job", "evaluate", "audit")}
    assert heavy == {"validate": False, "job": True, "evaluate": True, "audit": True}
    assert not context("evaluate", resources=none).is_heavy
    assert context("job", resources=none).is_heavy
    assert dataclasses.replace(context("job"), resources={}).workers == 1


def test_steps_of_a_pipeline_make_ray_jobs_too() -> None:
    told = [context("validate"), context()]
    metadata = secret(RUN, "run", told, JOBS)["metadata"]
    made = pipeline(told, metadata, settings=JOBS)
    executors = made["pipeline_spec"]["deploymentSpec"]["executors"]
    (heavy,) = [item for name, item in executors.items() if "job" in name]
    environment = {item["name"]: item["value"] for item in heavy["container"]["env"]}
    assert environment["PRIMUM_COMPUTE"] == "rayjob"
    assert settings_from_text(environment["PRIMUM_RAY_JOB"]).queue == "imaging-gpu"
    assert environment["PRIMUM_LEDGER_URL"] == JOBS.ledger_url
    # The name by which policy knows the account, and the one that Kubeflow's pods run under.
    assert KfpSettings.__dataclass_fields__["service_account"].default in names.LAUNCHERS
