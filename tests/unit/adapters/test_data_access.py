"""How pods that open data log in where it lies: who gets it, who does not, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest
from ward import Ward

from primum.adapters.kfp_runs import pipeline
from primum.adapters.kube import pods
from primum.adapters.kube.rayjobs import RayJobSettings, manifest_of
from primum.adapters.kube_manifests import names
from primum.adapters.kube_manifests.data_access import (
    FOLDER,
    DataAccess,
    data_access_from_text,
)
from primum.domain.errors import InvalidValue
from primum.domain.study.steps import REGISTER

IMAGE = "registry.example.org/primum/worker@sha256:" + "0" * 64
SECRET = "primum-dataset-login"
ACCESS = DataAccess(
    SECRET,
    {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"},
    {"GOOGLE_APPLICATION_CREDENTIALS": "gcs.json"},
)
JOBS = pods.JobSettings(
    image=IMAGE,
    ledger_url="https://ledger:8399",
    data_claim="primum-dataset-files",
    data_access=ACCESS.to_text(),
)


@pytest.fixture
def study():
    """The contexts of a Study that opens private data."""
    ward = Ward()
    ward.advance(ward.study())
    (_, steps), *_ = ward.runner.launched
    return steps


@pytest.fixture
def without_data(study):
    """Steps that hold no ticket and inspect nothing."""
    return [dataclasses.replace(step, tickets={}) for step in study]


def protected(manifest):
    """Whether a manifest names anything protected."""
    return names.DATASET_PREFIX in json.dumps(manifest)


def test_the_pod_of_a_run_that_opens_data_logs_in_by_reference(study):
    made = pods.job("run-1", "one", study, JOBS)
    template = made["spec"]["template"]
    assert template["metadata"]["labels"][names.RESERVATION]
    (container,) = template["spec"]["containers"]
    told = {item["name"]: item for item in container["env"]}
    reference = told["AWS_ACCESS_KEY_ID"]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": SECRET, "key": "id"}
    assert told["GOOGLE_APPLICATION_CREDENTIALS"]["value"] == f"{FOLDER}/gcs.json"
    (volume,) = [v for v in template["spec"]["volumes"] if v["name"] == "data-access"]
    assert volume["secret"]["items"] == [{"key": "gcs.json", "path": "gcs.json"}]
    assert volume["secret"]["defaultMode"] == 0o440
    (mount,) = [m for m in container["volumeMounts"] if m["name"] == "data-access"]
    assert mount["readOnly"] is True


def test_a_run_that_opens_nothing_protected_sees_nothing_protected(without_data):
    assert not protected(pods.job("run-1", "one", without_data, JOBS))


def test_a_run_that_registers_or_audits_only_looks_and_says_so(without_data):
    first = without_data[0]
    owner = {"kind": "PrivacyBudget", "name": "scans"}
    step = dataclasses.replace(first, step=REGISTER, owner=owner, run_id="run-1")
    ray = RayJobSettings(image=IMAGE, artifacts_claim="primum-artifacts").to_text()
    made = pods.job("run-1", "one", [step], dataclasses.replace(JOBS, queue="gpu", ray_job=ray))
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert labels[names.INSPECTION] == "run-1"
    assert names.STUDY not in labels
    assert protected(made["spec"]["template"]["spec"])
    assert names.QUEUE not in made["metadata"]["labels"]
    assert "suspend" not in made["spec"]
    spec = made["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == JOBS.service_account, "it makes no RayJob"
    assert "api-token" not in json.dumps(spec)


def test_of_a_ray_job_workers_with_tickets_alone_log_in(study, without_data):
    settings = RayJobSettings(
        image=IMAGE, artifacts_claim="primum-artifacts", data_access=ACCESS.to_text()
    )
    (job,) = [step for step in study if step.step == "job"]
    spec = manifest_of(job, settings, key="001-job.json", environment={})["spec"]
    cluster = spec["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert SECRET in json.dumps(group)
    assert group["template"]["metadata"]["labels"][names.RESERVATION]
    assert SECRET not in json.dumps([cluster["headGroupSpec"], spec["submitterPodTemplate"]])
    (bare,) = [step for step in without_data if step.step == "job"]
    assert SECRET not in json.dumps(manifest_of(bare, settings, key="a", environment={}))


def test_of_a_pipeline_the_steps_log_in_and_the_exit_task_does_not(study, without_data):
    metadata = pods.secret("run-1", "one", study, JOBS)["metadata"]
    made = pipeline(study, metadata, settings=JOBS)
    kubernetes = made["platform_spec"]["platforms"]["kubernetes"]
    executors = kubernetes["deploymentSpec"]["executors"]
    assert {name for name, pod in executors.items() if SECRET in json.dumps(pod)} == {
        f"exec-{step.step}" for step in study
    }
    metadata = pods.secret("run-1", "one", without_data, JOBS)["metadata"]
    assert not protected(pipeline(without_data, metadata, settings=JOBS))


def test_it_travels_as_text_and_names_no_value():
    assert data_access_from_text(ACCESS.to_text()) == ACCESS
    assert data_access_from_text("") == DataAccess()
    assert DataAccess().to_text() == ""


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"secret": "login", "variables": {"A": "b"}}, "must begin with primum-dataset-"),
        ({"secret": SECRET}, "secret exactly where it has variables"),
        ({"variables": {"A": "b"}}, "secret exactly where it has variables"),
        ({"secret": SECRET, "variables": {"PRIMUM_HOME": "b"}}, "no setting of the platform"),
        ({"secret": SECRET, "variables": {"a": "b"}}, "variable in capitals"),
        ({"secret": SECRET, "files": {"A": "../b"}}, "must be a key of a Secret"),
        ({"secret": SECRET, "files": {"A": ".."}}, "must be a key of a Secret"),
        ({"secret": SECRET, "variables": {"A": "b"}, "files": {"A": "b"}}, "each variable once"),
        ({"secret": SECRET, "values": {"A": "b"}}, "must be JSON with secret"),
        ({"secret": SECRET, "variables": ["A"]}, "must map variables to keys"),
        ("text", "must be JSON with secret"),
    ],
)
def test_what_it_cannot_be_is_refused_when_the_operator_starts(told, message):
    with pytest.raises(InvalidValue, match=message):
        pods.JobSettings(image=IMAGE, ledger_url="https://l", data_access=json.dumps(told))
