"""What the chart brings for Kueue and KServe: the check, the rights, the settings, and no more."""

from __future__ import annotations

import json
from typing import Any

import helm
import pytest

from primum.adapters.kube_manifests import workload
from primum.entrypoints.cluster import Queues
from primum_operators import settings as operator_settings

KUEUE = "kueue.x-k8s.io"
DIGEST = "sha256:" + "4" * 64


@pytest.fixture(autouse=True, scope="module")
def _helm_is_here() -> None:
    helm.helm_program()


def role(manifests: tuple[dict[str, Any], ...], name: str) -> list[dict[str, Any]]:
    (found,) = [
        item
        for item in manifests
        if item["kind"] == "ClusterRole" and item["metadata"]["name"] == name
    ]
    return list(found["rules"])


def may(rules: list[dict[str, Any]], group: str) -> dict[str, set[str]]:
    """Verbs by resource of one group."""
    found: dict[str, set[str]] = {}
    for rule in rules:
        for resource in rule["resources"] if group in rule["apiGroups"] else ():
            found.setdefault(resource, set()).update(rule["verbs"])
    return found


def told(manifests: tuple[dict[str, Any], ...]) -> operator_settings.OperatorSettings:
    (deployment,) = [
        item
        for item in manifests
        if item["kind"] == "Deployment" and item["metadata"]["name"] == "primum-operator"
    ]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    named = {item["name"]: item.get("value", "told") for item in container["env"]}
    return operator_settings.from_environment(named)


def test_the_check_of_the_chart_is_the_one_that_the_operator_answers() -> None:
    (check,) = [item for item in helm.full() if item["kind"] == "AdmissionCheck"]
    assert check["spec"] == {"controllerName": workload.CONTROLLER}
    assert f"{check['apiVersion']}" == workload.KUEUE
    assert told(helm.full()).cluster.queues is Queues.KUEUE
    assert told(helm.trial()).cluster.queues is Queues.NONE


def test_the_operator_says_its_word_and_writes_nothing_else_of_kueue() -> None:
    found = may(role(helm.full(), "primum-operator"), KUEUE)
    assert {"workloads", "admissionchecks"} <= set(found)
    for resource, verbs in found.items():
        assert verbs <= ({"patch"} if "/status" in resource else {"get", "list", "watch"})
    assert {name for name in found if "/" in name} == {"workloads/status", "admissionchecks/status"}
    assert may(role(helm.default(), "primum-operator"), KUEUE) == {}


def test_jobs_of_other_frameworks_are_read_in_governed_namespaces_alone() -> None:
    rules = role(helm.full(), "primum-operator-governed")
    assert may(rules, "trainer.kubeflow.org") == {"trainjobs": {"get"}}
    assert may(rules, "jobset.x-k8s.io") == {"jobsets": {"get"}}
    assert may(rules, "")["pods"] == {"get"}
    assert may(role(helm.full(), "primum-operator"), "trainer.kubeflow.org") == {}
    assert may(role(helm.default(), "primum-operator-governed"), "trainer.kubeflow.org") == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"apiGroup": "", "resources": ["secrets"]},
        {"apiGroup": "a.b", "resources": ["*"]},
        {"apiGroup": "a.b", "resources": ["jobs/status"]},
        {"apiGroup": "a.b", "resources": []},
        {"apiGroup": "a.b"},
    ],
)
def test_a_framework_opens_neither_secrets_nor_everything(wrong: dict[str, Any]) -> None:
    value = f"integrations.kueue.frameworks={json.dumps([wrong])}"
    done = helm.template("--set-json", value)
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr


def test_endpoints_on_kserve_are_made_as_values_say() -> None:
    found = told(helm.full()).cluster
    assert found.endpoints is not None
    assert found.endpoints.image.endswith(f"serving@{DIGEST}")
    assert found.endpoints.claim == found.jobs.artifacts_claim
    assert found.endpoints.service_account == "primum-worker"
    assert (found.endpoints.replicas, found.endpoints.memory) == (1, "2Gi")
    assert told(helm.trial()).cluster.endpoints is None
    rules = role(helm.full(), "primum-operator-governed")
    writes = {"create", "get", "list", "watch", "patch", "delete"}
    assert may(rules, "serving.kserve.io") == {"inferenceservices": writes}
    assert may(rules, "")["configmaps"] == {"create", "get", "patch", "delete"}


def test_an_endpoint_by_tag_is_refused() -> None:
    """Its pods would run in governed namespaces, where only digests are admitted."""
    done = helm.template(
        "--set", "integrations.kserve.enabled=true", "-a", "serving.kserve.io/v1beta1"
    )
    assert done.returncode != 0
    assert "images.serving.digest must be set" in done.stderr
