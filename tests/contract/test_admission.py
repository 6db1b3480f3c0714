"""Every admission rule, with objects it lets pass and objects it refuses, by the CEL engine.

The API server evaluates the same expressions as ValidatingAdmissionPolicies; the webhook evaluates
them here, and adds its lookups. A rule that refuses nothing in these tables fails the test.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import cel as engine
import pytest
import yaml
from admission_requests import (
    BACKUP,
    DIGEST,
    IMAGE,
    JOB_CONTROLLER,
    OPERATOR,
    OTHER_DIGEST,
    RESERVATION,
    SCIENTIST,
    SETTINGS,
    Answers,
    claim_volume,
    pod,
    request,
)

from primum.resources.metadata import requester_label
from primum_operators.admission import chart
from primum_operators.admission.policies import POLICIES
from primum_operators.admission.review import SiteSettings, applying, judge, review
from primum_operators.admission.rules import Doubling, Operation, Policy
from primum_policies import cel

ROOT = Path(__file__).parents[2]
GROUP = "primum.dev"
BY_NAME = {policy.name: policy for policy in POLICIES}
LABEL = {"primum.dev/reservation": RESERVATION}
LOOKS = {"primum.dev/inspection": RESERVATION}
OURS = {"app.kubernetes.io/part-of": "primum"}
OPEN = Answers(open_reservations=(("oncology", RESERVATION),))


def budget(epsilon: str = "8.0", delta: str = "1e-5") -> dict[str, Any]:
    guarantee = {"epsilon": epsilon, "delta": delta}
    return {"metadata": {"name": "wisconsin"}, "spec": {"guarantee": guarantee}}


def claim(name: str, *, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name}
    if labels is not None:
        metadata["labels"] = labels
    return {"metadata": metadata, "spec": {"accessModes": ["ReadOnlyMany"], **spec}}


WORKFLOW_POD = pod(labels={**LABEL, "primum.dev/run": "r"}, volumes=[claim_volume()])
WORKFLOW_POD["metadata"]["ownerReferences"] = [
    {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "controller": True}
]
OF_A_RUN = Answers(
    open_reservations=(("oncology", RESERVATION),), launched=(("oncology", "w", "r"),)
)
WORKFLOW = {"metadata": {"name": "w"}, "spec": {"entrypoint": "main"}}
PROTECTED = {"primum.dev/dataset": "scans"}


def job(*labels: dict[str, str], image: str = IMAGE) -> dict[str, Any]:
    template: dict[str, Any] = {"spec": {"containers": [{"name": "a", "image": image}]}}
    for found in labels:
        template["metadata"] = {"labels": found}
    return {"kind": "Job", "metadata": {"name": "j"}, "spec": {"template": template}}


def template(labels: dict[str, str] | None) -> dict[str, Any]:
    made: dict[str, Any] = {"spec": {"containers": [{"name": "ray", "image": IMAGE}]}}
    return made | ({"metadata": {"labels": labels}} if labels is not None else {})


def ray_cluster_spec(labels: dict[str, str] | None) -> dict[str, Any]:
    return {
        "headGroupSpec": {"rayStartParams": {}, "template": template(None)},
        "workerGroupSpecs": [{"groupName": "w", "template": template(labels)}],
    }


def ray_job(labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "kind": "RayJob",
        "metadata": {"name": "r", "labels": {"kueue.x-k8s.io/queue-name": "gpu"}},
        "spec": {"backoffLimit": 0, "rayClusterSpec": ray_cluster_spec(labels), **spec},
    }


LAUNCHER = "system:serviceaccount:oncology:primum-launcher"
PIPELINE = "system:serviceaccount:oncology:primum-pipeline"


def as_launcher(field: str) -> dict[str, Any]:
    made = ray_job()
    worker = made["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    worker[field] = "primum-launcher"
    return made


def job_as(account: str) -> dict[str, Any]:
    made = job()
    made["spec"]["template"]["spec"]["serviceAccountName"] = account
    return made


def token(account: str, *groups: str) -> dict[str, Any]:
    asked = {"kind": "TokenRequest", "metadata": {"name": account}, "spec": {}}
    made = request("serviceaccounts/token", asked, operation="CREATE")
    made["userInfo"]["groups"] += groups
    return made


def ray_cluster(labels: dict[str, str] | None) -> dict[str, Any]:
    return {"kind": "RayCluster", "metadata": {"name": "c"}, "spec": ray_cluster_spec(labels)}


def ray_service(labels: dict[str, str] | None) -> dict[str, Any]:
    spec = {"rayClusterConfig": ray_cluster_spec(labels)}
    return {"kind": "RayService", "metadata": {"name": "s"}, "spec": spec}


def namespace(**labels: str) -> dict[str, Any]:
    keys = {"governed": "primum.dev/governed", "enforce": "pod-security.kubernetes.io/enforce"}
    return {"metadata": {"name": "n", "labels": {keys[k]: value for k, value in labels.items()}}}


def endpoint(
    *, release: str = "malignancy", artifact: str = DIGEST, image: str = IMAGE, **predictor: Any
) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "malignancy",
            "labels": {"primum.dev/release": release},
            "annotations": {
                "primum.dev/artifact-digest": artifact,
                "primum.dev/certificate-digest": OTHER_DIGEST,
            },
        },
        "spec": {
            "predictor": {
                "containers": [{"name": "kserve-container", "image": image}],
                **predictor,
            }
        },
    }


def with_spec(found: dict[str, Any], **more: Any) -> dict[str, Any]:
    changed = copy.deepcopy(found)
    changed["spec"].update(more)
    return changed


def without(found: dict[str, Any], part: str) -> dict[str, Any]:
    changed = copy.deepcopy(found)
    del changed["metadata"][part]
    return changed


def deleting(found: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(found)
    changed["metadata"]["deletionTimestamp"] = "2026-11-22T06:00:00Z"
    return changed


def secret_reference(name: str) -> dict[str, Any]:
    return {"name": "K", "valueFrom": {"secretKeyRef": {"name": name, "key": "k"}}}


PRIVATE_POD = pod(labels=LABEL, volumes=[claim_volume()])
RELEASE = {
    "spec": {
        "kind": "Endpoint",
        "artifact": {"digest": DIGEST},
        "certificate": {"digest": OTHER_DIGEST},
        "claim": {"standing": "Valid"},
    }
}
RELEASES = Answers(releases={"malignancy": RELEASE})


def ray(plural: str, obj: dict[str, Any], **more: Any) -> dict[str, Any]:
    return request(plural, obj, group="ray.io", **more)


def kserve(obj: dict[str, Any], **more: Any) -> dict[str, Any]:
    more.setdefault("user", OPERATOR)
    return request("inferenceservices", obj, group="serving.kserve.io", **more)


REQUESTER = "primum.dev/requester"
ASKED = {REQUESTER: SCIENTIST}
OTHER = {REQUESTER: "mallory"}
LABELLED = {REQUESTER: requester_label("ada@x")}


def study(*, old: bool = False, user: str = SCIENTIST, **metadata: Any) -> dict[str, Any]:
    """A Study that is declared, or changed from one that says nothing of who asked."""
    labels = metadata.get("labels")
    if labels == ASKED:
        metadata["labels"] = {REQUESTER: requester_label(SCIENTIST)}
    before = {"metadata": {"name": "malignancy"}, "spec": {"data": []}}
    now = {**before, "metadata": {"name": "malignancy", **metadata}}
    return request("studies", now, old=before if old else None, group=GROUP, user=user)


def pb(obj: dict[str, Any], **more: Any) -> dict[str, Any]:
    return request("privacybudgets", obj, group=GROUP, **more)


# policy, lookups, request
ACCEPTED: list[tuple[str, Answers, dict[str, Any]]] = [
    ("dataset-mounts", OPEN, request("pods", pod())),
    ("dataset-mounts", OF_A_RUN, request("pods", WORKFLOW_POD, user=JOB_CONTROLLER)),
    ("dataset-mounts", OPEN, request("pods", pod(volumes=[claim_volume("scratch")]))),
    ("dataset-mounts", OPEN, request("pods", PRIVATE_POD, user=JOB_CONTROLLER)),
    ("dataset-mounts", OPEN, request("pods", PRIVATE_POD, user=OPERATOR)),
    (
        "dataset-mounts",
        Answers(),
        request("pods", pod(labels=LOOKS, volumes=[claim_volume()]), user=JOB_CONTROLLER),
    ),
    (
        "dataset-mounts",
        OPEN,
        request("pods", pod(container={"env": [{"name": "A", "value": "b"}]})),
    ),
    (
        "dataset-mounts",
        OPEN,
        request("pods", pod(container={"env": [secret_reference("database")]})),
    ),
    ("job-reservations", OPEN, request("jobs", job(), group="batch")),
    ("job-reservations", OPEN, request("jobs", job({"a": "b"}), group="batch")),
    ("job-reservations", OPEN, request("jobs", job(LABEL), group="batch", user=OPERATOR)),
    ("job-reservations", OPEN, request("jobs", job(LABEL), old=job(LABEL), group="batch")),
    (
        "job-reservations",
        OPEN,
        request(
            "jobs",
            with_spec(job(LABEL), suspend=False),
            old=with_spec(job(LABEL), suspend=True),
            group="batch",
            user=JOB_CONTROLLER,
        ),
    ),
    ("job-reservations", OPEN, request("jobs", deleting(job(LABEL)), old=job(), group="batch")),
    ("ray-reservations", OPEN, ray("rayjobs", ray_job())),
    ("ray-reservations", OPEN, ray("rayjobs", ray_job(LABEL), user=OPERATOR)),
    ("ray-reservations", OPEN, ray("rayclusters", ray_cluster(LABEL), user=JOB_CONTROLLER)),
    ("ray-reservations", OPEN, ray("rayjobs", ray_job(LABEL), old=ray_job(LABEL))),
    ("ray-reservations", OPEN, ray("rayservices", ray_service(None))),
    ("ray-reservations", OPEN, ray("rayjobs", ray_job(LABEL), user=LAUNCHER)),
    ("ray-reservations", OPEN, ray("rayjobs", ray_job(LOOKS), user=PIPELINE)),
    ("launcher-pods", OPEN, request("pods", pod())),
    ("launcher-pods", OPEN, request("pods", pod(serviceAccountName="primum-worker"))),
    (
        "launcher-pods",
        OPEN,
        request("pods", pod(serviceAccountName="primum-launcher"), user=JOB_CONTROLLER),
    ),
    ("launcher-tokens", OPEN, token("primum-worker")),
    ("launcher-tokens", OPEN, token("primum-launcher", "system:nodes")),
    ("images-by-digest", OPEN, request("pods", pod(labels=OURS))),
    ("images-by-digest", OPEN, request("pods", pod(image="nginx:1.29"))),
    ("images-by-digest", OPEN, request("pods", pod(labels={"app": "x"}, image="nginx:1.29"))),
    ("dataset-claims", OPEN, request("persistentvolumeclaims", claim("scratch"))),
    (
        "dataset-claims",
        OPEN,
        request("persistentvolumeclaims", claim("primum-dataset-scans", labels=PROTECTED)),
    ),
    (
        "dataset-claims",
        OPEN,
        request(
            "persistentvolumeclaims",
            claim(
                "primum-dataset-copy",
                labels=PROTECTED,
                dataSource={"name": "primum-dataset-scans", "kind": "PersistentVolumeClaim"},
            ),
        ),
    ),
    (
        "dataset-claims",
        OPEN,
        request("persistentvolumeclaims", claim("copy", dataSource={"name": "scratch"})),
    ),
    (
        "dataset-secrets",
        OPEN,
        request("secrets", {"metadata": {"name": "token"}, "data": {"a": "Yg=="}}),
    ),
    (
        "dataset-secrets",
        OPEN,
        request("secrets", {"metadata": {"name": "primum-dataset-key", "labels": PROTECTED}}),
    ),
    (
        "dataset-snapshots",
        OPEN,
        request(
            "volumesnapshots",
            {"spec": {"source": {"persistentVolumeClaimName": "scratch"}}},
            group="snapshot.storage.k8s.io",
        ),
    ),
    (
        "dataset-snapshots",
        OPEN,
        request(
            "volumesnapshots",
            {"spec": {"source": {"persistentVolumeClaimName": "primum-dataset-scans"}}},
            group="snapshot.storage.k8s.io",
            user=BACKUP,
        ),
    ),
    (
        "dataset-snapshots",
        OPEN,
        request(
            "volumesnapshots",
            {"spec": {"source": {"volumeSnapshotContentName": "imported"}}},
            group="snapshot.storage.k8s.io",
        ),
    ),
    ("no-shells", OPEN, request("pods/exec", {"kind": "x"}, operation="CONNECT", user=BACKUP)),
    ("budgets", OPEN, pb(budget())),
    ("budgets", OPEN, pb(budget("7.5"), old=budget())),
    ("budgets", OPEN, pb(budget("8", "0.00001"), old=budget())),
    (
        "status-by-operator",
        OPEN,
        request("studies/status", {}, old={}, group=GROUP, user=OPERATOR),
    ),
    (
        "study-budgets",
        Answers(rights=((SCIENTIST, "use", "wisconsin"), (SCIENTIST, "use", "chest"))),
        request(
            "studies",
            {"spec": {"data": [{"budget": "wisconsin"}, {"uri": "x://y"}, {"budget": "chest"}]}},
            group=GROUP,
        ),
    ),
    ("requesters", OPEN, study(annotations=ASKED, labels=ASKED)),
    ("requesters", OPEN, study(annotations={REQUESTER: "ada@x"}, labels=LABELLED, user="ada@x")),
    ("requesters", OPEN, study(annotations=ASKED, labels=ASKED, old=True, user=OPERATOR)),
    ("requesters", OPEN, study(user=OPERATOR)),
    ("requesters", OPEN, study(old=True)),
    ("endpoints", RELEASES, kserve(endpoint())),
    ("endpoints", RELEASES, kserve(endpoint(), old=endpoint(), user=JOB_CONTROLLER)),
    ("endpoints", Answers(), kserve(deleting(endpoint()), old=endpoint(), user=SCIENTIST)),
    ("ray-jobs", OPEN, ray("rayjobs", ray_job())),
    ("workflows", OPEN, request("workflows", WORKFLOW, group="argoproj.io", user=JOB_CONTROLLER)),
    (
        "workflows",
        OPEN,
        request("workflows", deleting(WORKFLOW), old=WORKFLOW, group="argoproj.io"),
    ),
    ("governed-namespaces", OPEN, request("namespaces", namespace())),
    (
        "governed-namespaces",
        OPEN,
        request("namespaces", namespace(governed="true", enforce="restricted")),
    ),
    (
        "governed-namespaces",
        OPEN,
        request(
            "namespaces",
            namespace(enforce="restricted"),
            old=namespace(governed="true", enforce="restricted"),
            user=BACKUP,
        ),
    ),
    ("governed-namespaces", OPEN, request("namespaces", {"metadata": {"name": "n"}})),
]

CARRY = "must carry the id of its reservation"
MADE_BY = "must be made by the operator"
ONLY_OPERATOR = "only the operator may put"
GO_TOGETHER = "go together"
LIE_IN = "must lie in a namespace"
SNAPSHOT = "a snapshot of protected data"

# policy, part of the message, lookups, request
REFUSED: list[tuple[str, str, Answers, dict[str, Any]]] = [
    *(
        (
            "dataset-mounts",
            "must be of a run that the operator launched",
            Answers(open_reservations=(("oncology", RESERVATION),), launched=launched),
            request("pods", WORKFLOW_POD, user=JOB_CONTROLLER),
        )
        for launched in ((), (("oncology", "w", "s"),), (("radiology", "w", "r"),))
    ),
    *(
        ("dataset-mounts", CARRY, OPEN, request("pods", found, user=JOB_CONTROLLER))
        for found in (
            pod(volumes=[claim_volume()]),
            pod(labels={"primum.dev/reservation": "mine"}, volumes=[claim_volume()]),
            pod(volumes=[{"name": "d", "secret": {"secretName": "primum-dataset-key"}}]),
            pod(
                volumes=[
                    {
                        "name": "d",
                        "projected": {
                            "sources": [
                                {"configMap": {"name": "a"}},
                                {"secret": {"name": "primum-dataset-key"}},
                            ]
                        },
                    }
                ]
            ),
            pod(
                volumes=[
                    {
                        "name": "d",
                        "csi": {
                            "driver": "s3.example.org",
                            "nodePublishSecretRef": {"name": "primum-dataset-key"},
                        },
                    }
                ]
            ),
            *(
                pod(
                    volumes=[
                        {
                            "name": "d",
                            "ephemeral": {
                                "volumeClaimTemplate": {
                                    "spec": {source: {"name": "primum-dataset-scans"}}
                                }
                            },
                        }
                    ]
                )
                for source in ("dataSource", "dataSourceRef")
            ),
            pod(container={"env": [secret_reference("primum-dataset-key")]}),
            pod(container={"envFrom": [{"secretRef": {"name": "primum-dataset-key"}}]}),
            pod(
                initContainers=[
                    {"name": "i", "image": IMAGE, "env": [secret_reference("primum-dataset-key")]}
                ]
            ),
        )
    ),
    ("dataset-mounts", MADE_BY, OPEN, request("pods", PRIVATE_POD)),
    (
        "dataset-mounts",
        MADE_BY,
        OPEN,
        request("pods", pod(labels=LOOKS, volumes=[claim_volume()])),
    ),
    (
        "dataset-mounts",
        "must name an open reservation",
        OPEN,
        request("pods", PRIVATE_POD, user=JOB_CONTROLLER, namespace="cardiology"),
    ),
    (
        "dataset-mounts",
        "must name an open reservation",
        Answers(),
        request("pods", pod(labels=LABEL)),
    ),
    ("job-reservations", ONLY_OPERATOR, OPEN, request("jobs", job(LABEL), group="batch")),
    ("job-reservations", ONLY_OPERATOR, OPEN, request("jobs", job(LOOKS), group="batch")),
    ("ray-reservations", ONLY_OPERATOR, OPEN, ray("rayjobs", ray_job(LOOKS))),
    (
        "job-reservations",
        ONLY_OPERATOR,
        OPEN,
        request("jobs", job(LABEL, image="evil"), old=job(LABEL), group="batch"),
    ),
    (
        "job-reservations",
        ONLY_OPERATOR,
        OPEN,
        request("jobs", job(LABEL), group="batch", user=JOB_CONTROLLER),
    ),
    ("ray-reservations", ONLY_OPERATOR, OPEN, ray("rayjobs", ray_job(LABEL))),
    (
        "ray-reservations",
        ONLY_OPERATOR,
        OPEN,
        ray("rayclusters", ray_cluster(LABEL), user=LAUNCHER),
    ),
    (
        "ray-reservations",
        ONLY_OPERATOR,
        OPEN,
        ray("rayjobs", ray_job(LABEL), old=ray_job(), user=LAUNCHER),
    ),
    (
        "ray-reservations",
        ONLY_OPERATOR,
        OPEN,
        ray("rayjobs", ray_job(LABEL), user=LAUNCHER.replace("oncology", "radiology")),
    ),
    *(
        ("ray-reservations", ONLY_OPERATOR, OPEN, ray("rayjobs", as_launcher(field)))
        for field in ("serviceAccountName", "serviceAccount")
    ),
    (
        "job-reservations",
        ONLY_OPERATOR,
        OPEN,
        request("jobs", job_as("primum-launcher"), group="batch"),
    ),
    (
        "job-reservations",
        ONLY_OPERATOR,
        OPEN,
        request("jobs", job_as("primum-pipeline"), group="batch"),
    ),
    (
        "launcher-pods",
        "must be made by the operator",
        OPEN,
        request("pods", pod(serviceAccountName="primum-launcher")),
    ),
    (
        "launcher-pods",
        "must be made by the operator",
        OPEN,
        request("pods", pod(serviceAccount="primum-pipeline"), user=LAUNCHER),
    ),
    ("launcher-tokens", "asked for by a node", OPEN, token("primum-launcher")),
    ("launcher-tokens", "asked for by a node", OPEN, token("primum-pipeline", "system:masters")),
    (
        "ray-reservations",
        ONLY_OPERATOR,
        OPEN,
        ray("rayjobs", ray_job(submitterPodTemplate=template(LABEL))),
    ),
    (
        "ray-reservations",
        ONLY_OPERATOR,
        OPEN,
        ray("rayjobs", ray_job(LABEL, entrypoint="cp /data /out"), old=ray_job(LABEL)),
    ),
    (
        "ray-reservations",
        ONLY_OPERATOR,
        OPEN,
        ray("rayjobs", ray_job(LABEL), user=JOB_CONTROLLER),
    ),
    ("ray-reservations", ONLY_OPERATOR, OPEN, ray("rayclusters", ray_cluster(LABEL))),
    (
        "ray-reservations",
        ONLY_OPERATOR,
        OPEN,
        ray("rayservices", ray_service(LABEL), user=JOB_CONTROLLER),
    ),
    *(
        ("images-by-digest", "must be named by digest", OPEN, request("pods", found))
        for found in (
            pod(labels=OURS, image="registry.example.org/primum/worker:0.1.0"),
            pod(labels=LABEL, image=f"worker@{DIGEST}x"),
            pod(labels=OURS, initContainers=[{"name": "i", "image": "busybox"}]),
        )
    ),
    *(
        (
            "dataset-claims",
            GO_TOGETHER,
            OPEN,
            request("persistentvolumeclaims", found),
        )
        for found in (
            claim("primum-dataset-scans"),
            claim("scans", labels=PROTECTED),
            claim("primum-dataset-scans", labels={}),
        )
    ),
    (
        "dataset-claims",
        LIE_IN,
        Answers(labels={}),
        request("persistentvolumeclaims", claim("primum-dataset-scans", labels=PROTECTED)),
    ),
    *(
        (
            "dataset-claims",
            "a copy of protected data",
            OPEN,
            request(
                "persistentvolumeclaims",
                claim("copy", **{source: {"name": "primum-dataset-scans"}}),
            ),
        )
        for source in ("dataSource", "dataSourceRef")
    ),
    (
        "dataset-secrets",
        GO_TOGETHER,
        OPEN,
        request("secrets", {"metadata": {"name": "primum-dataset-key"}}),
    ),
    (
        "dataset-secrets",
        LIE_IN,
        Answers(labels={"primum.dev/governed": "yes"}),
        request("secrets", {"metadata": {"name": "primum-dataset-key", "labels": PROTECTED}}),
    ),
    (
        "dataset-snapshots",
        SNAPSHOT,
        OPEN,
        request(
            "volumesnapshots",
            {"spec": {"source": {"persistentVolumeClaimName": "primum-dataset-scans"}}},
            group="snapshot.storage.k8s.io",
        ),
    ),
    *(
        ("no-shells", "must not be entered", OPEN, request(part, {}, operation="CONNECT"))
        for part in (
            "pods/exec",
            "pods/attach",
            "pods/portforward",
            "pods/proxy",
            "services/proxy",
        )
    ),
    (
        "no-shells",
        "must not be entered",
        OPEN,
        request("pods/ephemeralcontainers", pod(), old=pod()),
    ),
    ("budgets", LIE_IN, Answers(labels={}), pb(budget())),
    ("budgets", "guarantee.epsilon can only", OPEN, pb(budget("8.01"), old=budget())),
    ("budgets", "guarantee.delta can only", OPEN, pb(budget(delta="1.1e-5"), old=budget())),
    *(
        (
            "status-by-operator",
            "must be written by the operator",
            OPEN,
            request(f"{plural}/status", {}, old={}, group=GROUP),
        )
        for plural in ("privacybudgets", "studies", "gatepolicies", "releases", "auditruns")
    ),
    (
        "study-budgets",
        "must have the verb use",
        Answers(rights=((SCIENTIST, "use", "wisconsin"),)),
        request(
            "studies",
            {"spec": {"data": [{"budget": "wisconsin"}, {"budget": "chest"}]}},
            group=GROUP,
        ),
    ),
    ("requesters", "must be the user who declares", OPEN, study()),
    ("requesters", "must be the user who declares", OPEN, study(annotations=ASKED)),
    ("requesters", "must be the user who declares", OPEN, study(labels=ASKED)),
    ("requesters", "must be the user who declares", OPEN, study(annotations=OTHER, labels=OTHER)),
    ("requesters", "must be the user who declares", OPEN, study(annotations=ASKED, labels=OTHER)),
    ("requesters", "must stay what it was", OPEN, study(labels=OTHER, old=True)),
    ("requesters", "must stay what it was", OPEN, study(annotations=ASKED, old=True)),
    ("requesters", "must stay what it was", OPEN, study(annotations=OTHER, old=True)),
    ("endpoints", "must be written by the operator", RELEASES, kserve(endpoint(), user=SCIENTIST)),
    (
        "endpoints",
        "must be written by the operator",
        RELEASES,
        kserve(endpoint(), old=endpoint(minReplicas=1), user=JOB_CONTROLLER),
    ),
    ("endpoints", "must name its Release", RELEASES, kserve(without(endpoint(), "labels"))),
    ("endpoints", "must name its Release", RELEASES, kserve(without(endpoint(), "annotations"))),
    ("endpoints", "must name its Release", RELEASES, kserve(endpoint(artifact="latest"))),
    ("endpoints", "must run one container", RELEASES, kserve(endpoint(image="serving:0.1.0"))),
    ("endpoints", "must run one container", RELEASES, kserve(endpoint(containers=[]))),
    (
        "endpoints",
        "no logger, transformer, explainer or canary",
        RELEASES,
        kserve(endpoint(logger={"url": "http://elsewhere", "mode": "all"})),
    ),
    *(
        (
            "endpoints",
            "no logger, transformer, explainer or canary",
            RELEASES,
            kserve(with_spec(endpoint(), **{part: {}})),
        )
        for part in ("transformer", "explainer", "canary")
    ),
    ("endpoints", "must name a Release of", RELEASES, kserve(endpoint(release="other"))),
    (
        "endpoints",
        "must be the digest of the Release's artifact",
        RELEASES,
        kserve(endpoint(artifact=OTHER_DIGEST)),
    ),
    (
        "endpoints",
        "revoked",
        Answers(releases={"malignancy": with_spec(RELEASE, revocation={"reason": "why"})}),
        kserve(endpoint()),
    ),
    (
        "endpoints",
        "whose claim is Valid",
        Answers(releases={"malignancy": with_spec(RELEASE, claim={"standing": "Void"})}),
        kserve(endpoint()),
    ),
    (
        "ray-jobs",
        "must bring its own cluster",
        OPEN,
        ray("rayjobs", ray_job(clusterSelector={"ray.io/cluster": "shared"})),
    ),
    ("ray-jobs", "backoffLimit must be 0", OPEN, ray("rayjobs", ray_job(backoffLimit=1))),
    (
        "ray-jobs",
        "must not be InteractiveMode",
        OPEN,
        ray("rayjobs", ray_job(submissionMode="InteractiveMode")),
    ),
    *(
        (
            "workflows",
            "must be made by Kubeflow Pipelines",
            OPEN,
            request(plural, WORKFLOW, group="argoproj.io", user=user),
        )
        for plural in ("workflows", "workflowtemplates", "cronworkflows")
        for user in (SCIENTIST, OPERATOR)
    ),
    (
        "workflows",
        "must be made by Kubeflow Pipelines",
        OPEN,
        request("workflows", WORKFLOW, old=WORKFLOW, group="argoproj.io"),
    ),
    ("ray-jobs", "must name its queue", OPEN, ray("rayjobs", without(ray_job(), "labels"))),
    (
        "governed-namespaces",
        "restricted",
        OPEN,
        request("namespaces", namespace(governed="true", enforce="baseline")),
    ),
    (
        "governed-namespaces",
        "must stay",
        OPEN,
        request(
            "namespaces",
            namespace(enforce="restricted"),
            old=namespace(governed="true", enforce="restricted"),
        ),
    ),
]


def identify(case: Any) -> str:
    asked = case[-1]
    return f"{case[0]}-{asked['operation']}-{asked['resource']['resource']}"


@pytest.mark.parametrize("case", ACCEPTED, ids=map(identify, ACCEPTED))
def test_lets_pass(case: tuple[str, Answers, dict[str, Any]]) -> None:
    name, lookups, asked = case
    assert judge(BY_NAME[name], asked, settings=SETTINGS, lookups=lookups) is None


@pytest.mark.parametrize("case", REFUSED, ids=map(identify, REFUSED))
def test_refuses_with_the_rule(case: tuple[str, str, Answers, dict[str, Any]]) -> None:
    name, part, lookups, asked = case
    refusal = judge(BY_NAME[name], asked, settings=SETTINGS, lookups=lookups)
    assert refusal is not None
    assert refusal.policy == name
    assert part in refusal.message


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_every_rule_refuses_something_and_every_policy_lets_something_pass(policy: Policy) -> None:
    said = {part for name, part, _, _ in REFUSED if name == policy.name}
    for rule in (*policy.rules, *policy.permissions):
        assert any(part in rule.message for part in said), rule.message
    assert any(name == policy.name for name, *_ in ACCEPTED)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_cases_are_requests_that_the_policy_is_called_for(policy: Policy) -> None:
    """A table about another resource would prove nothing."""
    cases = [case for case in (*ACCEPTED, *REFUSED) if case[0] == policy.name]
    for case in cases:
        asked = case[-1]
        assert any(
            match.covers(
                group=asked["resource"]["group"],
                resource=asked["resource"]["resource"],
                subresource=asked["subResource"] or "",
                operation=asked["operation"],
            )
            for match in policy.matches
        ), asked["resource"]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_expressions_are_sound(policy: Policy) -> None:
    expressions = [item.expression for item in (*policy.conditions, *policy.variables)]
    expressions += [rule.expression for rule in policy.rules]
    expressions += [item.names for item in policy.permissions]
    for expression in expressions:
        assert cel.problems(expression, variables=cel.ADMISSION_VARIABLES) == []
    # The API server composes variables after the match conditions, which cannot see them.
    for item in policy.conditions:
        assert "variables." not in item.expression
    known = {setting.value for setting in policy.settings}
    for item in policy.variables:
        assert item.name not in known
        known.add(item.name)
    text = " ".join(expressions)
    for setting in policy.settings:
        assert f"variables.{setting.value}" in text


def test_names_of_policies_and_messages_are_fit_for_an_api_server() -> None:
    assert len(BY_NAME) == len(POLICIES)
    for policy in POLICIES:
        assert policy.rules or policy.permissions
        for rule in (*policy.rules, *policy.permissions):
            assert "\n" not in rule.message
            assert len(rule.message) <= 250


def test_permission_is_the_same_question_in_the_api_servers_words() -> None:
    """The authorizer expression, run with functions in the authorizer's place."""
    permission = BY_NAME["study-budgets"].permissions[0]
    asked: list[dict[str, Any]] = []

    def answered(scope: dict[str, Any]) -> bool:
        asked.append(scope)
        return scope["name"] == "wisconsin"

    def run(*budgets: str) -> bool:
        context = engine.Context()
        data = [{"uri": "x://y"}, *({"budget": name} for name in budgets)]
        context.add_variable("object", {"spec": {"data": data}})
        context.add_variable("request", {"namespace": "oncology"})
        context.add_variable("authorizer", {})
        for part in ("group", "resource", "namespace", "name"):
            context.add_function(part, lambda scope, value, part=part: {**scope, part: value})
        context.add_function("check", lambda scope, verb: {**scope, "verb": verb})
        context.add_function("allowed", answered)
        return bool(engine.compile(permission.expression()).execute(context))

    assert run()
    assert run("wisconsin")
    assert not run("wisconsin", "chest")
    assert asked[0] == {
        "group": GROUP,
        "resource": "privacybudgets",
        "namespace": "oncology",
        "name": "wisconsin",
        "verb": "use",
    }


class Silent(Answers):
    """A cluster and a ledger that do not answer."""

    def _fail(self, *_: Any, **__: Any) -> Any:
        raise OSError("patient 17 of bed 4")

    namespace_labels = reservation_open = release = allowed = _fail


@pytest.mark.parametrize("name", ["dataset-mounts", "budgets", "study-budgets", "endpoints"])
def test_lookup_that_fails_is_a_refusal_that_quotes_nothing(name: str) -> None:
    asked = {
        "dataset-mounts": request("pods", PRIVATE_POD, user=OPERATOR),
        "budgets": pb(budget()),
        "study-budgets": request("studies", {"spec": {"data": [{"budget": "a"}]}}, group=GROUP),
        "endpoints": kserve(endpoint()),
    }[name]
    refusal = judge(BY_NAME[name], asked, settings=SETTINGS, lookups=Silent())
    assert refusal is not None
    assert refusal.message == "the request cannot be judged: OSError"


@pytest.mark.parametrize(
    "broken",
    [
        {"metadata": {"name": "p"}},
        {"metadata": {"name": "p"}, "spec": {"containers": "none"}},
        {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "n" * 2**21}]}},
        {"metadata": {"name": "p"}, "spec": {"containers": [{}] * 300}},
        None,
    ],
    ids=["no-spec", "wrong-type", "too-long", "too-many", "nothing"],
)
def test_object_that_cannot_be_judged_is_refused(broken: Any) -> None:
    asked = request("pods", broken, operation="CREATE")
    refusal = judge(BY_NAME["dataset-mounts"], asked, settings=SETTINGS, lookups=OPEN)
    assert refusal is not None
    assert "cannot be judged" in refusal.message


def test_request_without_a_user_is_refused() -> None:
    asked = request("pods", pod(), user="")
    refusal = judge(BY_NAME["dataset-mounts"], asked, settings=SETTINGS, lookups=OPEN)
    assert refusal is not None


def test_contents_and_history_are_not_looked_at() -> None:
    """A Secret's data and a field's managers are larger than any rule may read."""
    heavy = pod()
    heavy["metadata"]["managedFields"] = [{"f": "x"}] * 1000
    heavy["data"] = {str(n): "x" for n in range(1000)}
    assert (
        judge(BY_NAME["dataset-mounts"], request("pods", heavy), settings=SETTINGS, lookups=OPEN)
        is None
    )


def test_review_takes_the_policies_of_its_place() -> None:
    asked = request("pods", pod(labels=OURS, image="worker:1"))
    governed = review(asked, place=Doubling.GOVERNED, settings=SETTINGS, lookups=OPEN)
    assert governed is not None
    assert governed.policy == "images-by-digest"
    assert review(asked, place=Doubling.EVERYWHERE, settings=SETTINGS, lookups=OPEN) is None


def test_queue_is_asked_for_only_where_the_site_says_so() -> None:
    relaxed = SiteSettings(operators=(OPERATOR,), controllers=())
    asked = ray("rayjobs", without(ray_job(), "labels"))
    assert review(asked, place=Doubling.GOVERNED, settings=relaxed, lookups=OPEN) is None


def test_secrets_and_namespaces_are_never_sent_to_the_webhook() -> None:
    doubled = [policy for policy in POLICIES if policy.doubling is not Doubling.NOWHERE]
    sent = {name for policy in doubled for match in policy.matches for name in match.resources}
    assert sent.isdisjoint({"secrets", "namespaces"})
    asked = request("secrets", {"metadata": {"name": "primum-dataset-key"}})
    assert list(applying(asked, Doubling.EVERYWHERE)) == []
    assert list(applying(asked, Doubling.GOVERNED)) == []


def test_nothing_of_the_core_is_reviewed_outside_governed_namespaces() -> None:
    """An outage of the webhook must not stop pods and claims of a whole cluster."""
    found = yaml.safe_load(chart.chart_text())
    (everywhere,) = [item for item in found["webhooks"] if item["place"] == "Everywhere"]
    for rule in everywhere["rules"]:
        assert rule["apiGroups"] == [GROUP], rule


def test_committed_file_is_what_the_policies_make() -> None:
    text = (ROOT / chart.FILE).read_text(encoding="utf-8")
    assert text == chart.chart_text(), "run python -m primum_operators.schema --write"
    assert "{{" not in text


def test_operations_on_subresources_that_read_are_connects() -> None:
    matches = [match for policy in POLICIES for match in policy.matches]
    for match in matches:
        for resource in match.resources:
            reads = resource.endswith(("/exec", "/attach", "/portforward", "/proxy"))
            assert reads == (match.operations == (Operation.CONNECT,))
