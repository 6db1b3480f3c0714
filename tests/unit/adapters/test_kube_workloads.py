"""Workloads of Kueue: when a word of ours counts, what they run under, and how the word is put."""

from __future__ import annotations

from typing import Any

import pytest

from primum import signing
from primum.adapters.kube import pods
from primum.adapters.kube.pods import JobSettings
from primum.adapters.kube.workloads import _root
from primum.adapters.kube_manifests import rayjob
from primum.adapters.kube_manifests import workload as manifests
from primum.adapters.kube_manifests.parts import Owner
from primum.adapters.kube_manifests.workload import Check
from primum.application.workloads import CheckState, Controller, Word
from primum.domain.errors import InvalidValue
from primum.domain.study.steps import StepContext

IMAGE = "registry.example.org/primum/worker@sha256:" + "0" * 64
NOW = "2026-11-22T06:00:00.123456Z"
OWNER = {"apiVersion": "batch/v1", "kind": "Job", "name": "tune", "uid": "j", "controller": True}


def workload(*, states=("Pending",), conditions=("QuotaReserved",), **changes: Any) -> dict:
    checks = [
        {"name": f"check-{n}", "state": state, "message": "", "lastTransitionTime": "t"}
        for n, state in enumerate(states)
    ]
    listed = [{"type": kind, "status": "True"} for kind in conditions]
    return {
        "metadata": {
            "name": "w",
            "namespace": "oncology",
            "uid": "u",
            "resourceVersion": "7",
            "ownerReferences": [OWNER],
        }
        | changes.pop("metadata", {}),
        "spec": {"podSets": [], **changes},
        "status": {"admissionChecks": checks, "conditions": listed},
    }


def states(found: dict) -> list[str]:
    return [check.state for check in manifests.open_checks(found)]


def test_a_word_counts_while_quota_is_held_and_nothing_started():
    assert states(workload(states=("Pending", "Ready", "Retry", "Rejected"))) == [
        "Pending",
        "Ready",
    ]


@pytest.mark.parametrize(
    "found",
    [
        workload(conditions=()),
        workload(conditions=("QuotaReserved", "Admitted")),
        workload(conditions=("QuotaReserved", "Evicted")),
        workload(conditions=("QuotaReserved", "Finished")),
        workload(active=False),
        workload(metadata={"deletionTimestamp": "t"}),
        {"metadata": {"name": "w"}, "spec": {}},
    ],
)
def test_at_other_times_nothing_is_said(found):
    assert states(found) == []


def test_everything_that_is_named_is_read_wherever_it_stands():
    job = {
        "metadata": {
            "labels": {"primum.dev/study": "one", "primum.dev/reservation": "a"},
            "annotations": {"primum.dev/reservations": "a, b,", "primum.dev/generation": "2"},
        }
    }
    template = {"metadata": {"labels": {"primum.dev/reservation": "c"}}}
    found = manifests.claim_of(
        workload(podSets=[{"template": template}, {"template": {"spec": {}}}]), job
    )
    assert (found.namespace, found.studies) == ("oncology", ("one",))
    assert (found.reservations, found.generation) == (("a", "b", "c"), "2")
    assert found.controller is None


def test_pods_that_name_another_study_than_their_job_contradict_it():
    job = {"metadata": {"annotations": {"primum.dev/study": "one"}}}
    template = {"metadata": {"annotations": {"primum.dev/study": "two"}}}
    found = manifests.claim_of(workload(podSets=[{"template": template}]), job)
    assert found.studies == ("one", "two")


def test_what_the_platform_itself_makes_says_what_it_runs_under():
    """The Job of a run, and the RayJob of a step: written by others, read here."""
    private, _ = signing.generate()
    ticket = signing.encode_token(signing.sign(private, "test", b'{"reservationId": "r-1"}'))
    context = StepContext(
        step="job",
        entry="kinds:job",
        study={"namespace": "oncology", "name": "one", "uid": "s", "generation": 2},
        run_id="run",
        outcome_id="o",
        plan={},
        datasets={},
        synthetic={},
        expectations=(),
        audits=(),
        tickets={"train": ticket},
        upstream={},
        owner={"kind": "Study", "name": "one"},
    )
    settings = JobSettings(image=IMAGE, ledger_url="https://ledger:8399", queue="gpu")
    ray_job = rayjob.ray_job(
        rayjob.RayJobRequest(
            namespace="oncology",
            owner=Owner("primum.dev/v1alpha1", "Study", "one", "s"),
            origin=rayjob.Origin("one", "run", "job", reservations=("r-1",)),
            workload=rayjob.Workload.TRAIN,
            image=IMAGE,
            entrypoint="python",
            groups=(rayjob.WorkerGroup("workers", 1, reservation="r-1"),),
            context_secret="c",
            context_key="000-job.json",
            artifacts_claim="primum-artifacts",
            deadline_seconds=60,
            queue="gpu",
        )
    )
    for made in (pods.job("run", "one", [context], settings), ray_job):
        found = manifests.claim_of(workload(podSets=[]), made)
        assert found.studies == ("one",)
        assert found.reservations == ("r-1",)
        assert found.generation in ("", "2")
        assert found.controller == Controller("Study", "one", "s")
        assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu"


def test_only_a_controlling_study_or_audit_run_of_ours_made_a_job():
    ours = {"apiVersion": "primum.dev/v1alpha1", "kind": "Study", "name": "one", "uid": "s"}
    for owner, expected in (
        (ours | {"controller": True}, Controller("Study", "one", "s")),
        (ours, None),
        (ours | {"controller": True, "kind": "Release"}, None),
        (ours | {"controller": True, "apiVersion": "example.org/v1"}, None),
    ):
        job = {"metadata": {"ownerReferences": [owner]}}
        assert manifests.claim_of(workload(), job).controller == expected


def test_the_owner_is_the_controller_or_the_first_of_a_group_of_pods():
    assert manifests.owner_of(workload()).uid == "j"
    pods = [{"apiVersion": "v1", "kind": "Pod", "name": n, "uid": n} for n in ("p", "q")]
    assert manifests.owner_of(workload(metadata={"ownerReferences": pods})).uid == "p"
    assert manifests.owner_of(workload(metadata={"ownerReferences": []})) is None


@pytest.mark.parametrize(("retries", "seconds"), [(0, 30), (1, 60), (4, 480), (99, 480)])
def test_a_retry_comes_later_each_time(retries, seconds):
    check = Check("privacy", "Pending", "t", retries)
    word = Word(CheckState.RETRY, "m" * 5000)
    body = manifests.state_to_apply(workload(), check, word, now=NOW)
    (said,) = body["status"]["admissionChecks"]
    assert said["requeueAfterSeconds"] == seconds
    assert len(said["message"]) == manifests.MESSAGE_LENGTH_MAX
    assert said["lastTransitionTime"] == "2026-11-22T06:00:00Z"


def test_a_word_is_about_one_version_of_one_workload():
    check = Check("privacy", "Pending", "t", 0)
    body = manifests.state_to_apply(workload(), check, Word(CheckState.READY, "it stands"), now=NOW)
    assert body["metadata"] == {
        "name": "w",
        "namespace": "oncology",
        "uid": "u",
        "resourceVersion": "7",
    }
    assert "requeueAfterSeconds" not in body["status"]["admissionChecks"][0]


def test_an_admission_check_is_told_once_that_it_is_answered():
    check = {"metadata": {"name": "c", "uid": "u", "generation": 1}, "spec": {}}
    body = manifests.active_to_apply(check, now=NOW)
    (said,) = body["status"]["conditions"]
    assert (said["type"], said["status"]) == ("Active", "True")
    told = {**check, "status": {"conditions": [said]}}
    assert manifests.active_to_apply(told, now="2027-01-01T00:00:00Z") is None
    wrong = {**told, "spec": {"parameters": {"kind": "GatePolicy"}}}
    (other,) = manifests.active_to_apply(wrong, now="2027-01-01T00:00:00Z")["status"]["conditions"]
    assert (other["status"], other["reason"]) == ("False", "BadParameters")
    assert other["lastTransitionTime"] == "2027-01-01T00:00:00Z"


@pytest.mark.parametrize("text", ["..", "batch/../secrets", "", "a/b/c", "v1?x=1", "a%2e/v1"])
def test_what_is_no_version_of_a_group_becomes_no_path(text):
    with pytest.raises(InvalidValue, match="apiVersion"):
        _root(text)


def test_versions_of_groups_have_their_paths():
    assert _root("v1") == "/api/v1"
    assert _root("trainer.kubeflow.org/v1alpha1") == "/apis/trainer.kubeflow.org/v1alpha1"
