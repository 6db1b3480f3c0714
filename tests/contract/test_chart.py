"""The chart as Helm renders it: valid, restricted, least privileged, and strict about its values.

Nothing is installed here. Rights are proved by acting as each role in the control-plane suite; what
is checked here is what the manifests say.
"""

from __future__ import annotations

import base64
import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import helm
import pytest
import yaml
from helm import APIS, CHART, NAMESPACE
from kube_schemas import ASSETS, builtin_problems, pod_templates, problems, unrestricted

from primum.adapters import cluster_identity
from primum.adapters.identity import Role
from primum.adapters.kube.rayjobs import settings_from_text
from primum.adapters.kube_manifests import names, rayjob
from primum.entrypoints import bootstrap
from primum.entrypoints import settings as platform_settings
from primum.resources.kinds import KINDS
from primum_operators import settings as operator_settings
from primum_operators.admission.policies import POLICIES
from primum_operators.admission.rules import Reach
from primum_policies import cel

ROOT = Path(__file__).parents[2]
GROUP = "primum.dev"
RENDERINGS = {
    "default": helm.default,
    "full": helm.full,
    "trial": helm.trial,
    "shared": helm.shared,
}
PEOPLE = ("reader", "scientist", "steward", "compliance", "auditor", "submitter")
WRITES = {"create", "update", "patch", "delete", "deletecollection"}
READS = {"get", "list", "watch"}
# Kinds of other projects whose CRDs are not among the test assets.
WITHOUT_SCHEMA = {"Certificate", "Issuer", "ServiceMonitor", "PrometheusRule"}

Manifest = dict[str, Any]


@pytest.fixture(autouse=True, scope="module")
def _helm_is_here() -> None:
    helm.helm_program()


@pytest.fixture(params=RENDERINGS)
def manifests(request: pytest.FixtureRequest) -> tuple[Manifest, ...]:
    return RENDERINGS[request.param]()


def of_kind(manifests: tuple[Manifest, ...], kind: str) -> list[Manifest]:
    return [item for item in manifests if item["kind"] == kind]


def named(manifests: tuple[Manifest, ...], kind: str, name: str, namespace: str = "") -> Manifest:
    (found,) = [
        item
        for item in of_kind(manifests, kind)
        if item["metadata"]["name"] == name
        and (not namespace or item["metadata"].get("namespace") == namespace)
    ]
    return found


def container(manifests: tuple[Manifest, ...], component: str) -> Manifest:
    deployment = named(manifests, "Deployment", f"primum-{component}")
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_lint_finds_nothing() -> None:
    for arguments in ((), ("--values", str(helm.TRIAL))):
        done = helm.run("lint", "--strict", str(CHART), *arguments)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_manifest_is_valid(manifests: tuple[Manifest, ...]) -> None:
    wrong = {}
    for item in manifests:
        title = f"{item['kind']} {item['metadata']['name']}"
        if item["kind"] in WITHOUT_SCHEMA:
            continue
        if item["kind"] == "AdmissionCheck" and not ASSETS:
            continue  # Its released CRD is not here; everything else can still be checked.
        if item["apiVersion"].startswith("kueue.x-k8s.io/"):
            found = problems(item)
        else:
            found = builtin_problems(item)
        if found:
            wrong[title] = found
    assert wrong == {}


def test_validator_sees_a_misspelt_field() -> None:
    """A fixture that forbids something has its own test."""
    item = copy.deepcopy(named(helm.default(), "Deployment", "primum-operator"))
    item["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    item["spec"]["replicas"] = "2"
    assert len(builtin_problems(item)) == 2


def test_names_are_unique_and_namespaced_objects_say_where(
    manifests: tuple[Manifest, ...],
) -> None:
    cluster_wide = {
        *("ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Namespace"),
        *("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"),
        *("ValidatingAdmissionPolicy", "AdmissionCheck"),
        "ValidatingAdmissionPolicyBinding",
    }
    seen = set()
    for item in manifests:
        metadata = item["metadata"]
        key = (item["kind"], metadata.get("namespace"), metadata["name"])
        assert key not in seen, key
        seen.add(key)
        assert ("namespace" in metadata) is (item["kind"] not in cluster_wide), key


def test_everything_carries_the_recommended_labels(manifests: tuple[Manifest, ...]) -> None:
    for item in manifests:
        labels = item["metadata"].get("labels", {})
        assert labels.get("app.kubernetes.io/part-of") == "primum", item["metadata"]["name"]


def test_every_pod_is_restricted(manifests: tuple[Manifest, ...]) -> None:
    found = [
        (item["metadata"]["name"], pod)
        for item in manifests
        if item["kind"] in ("Deployment", "StatefulSet", "Pod", "Job")
        for _, pod in pod_templates(item)
    ]
    assert len(found) >= 4
    for name, pod in found:
        assert unrestricted(pod) == [], name
        for each in (*pod["containers"], *pod.get("initContainers", ())):
            assert not each["image"].endswith(":latest")
            assert ":" in each["image"].rpartition("/")[2]


def test_tokens_are_mounted_only_where_the_api_server_is_asked(
    manifests: tuple[Manifest, ...],
) -> None:
    for item in of_kind(manifests, "ServiceAccount"):
        # Kubeflow's pods say nothing of a token, and its launcher needs one.
        kubeflow = item["metadata"]["name"] == "primum-pipeline"
        assert item.get("automountServiceAccountToken") is (None if kubeflow else False)
    with_token = {
        item["metadata"]["name"]
        for item in manifests
        if item["kind"] in ("Deployment", "StatefulSet", "Pod")
        for _, pod in pod_templates(item)
        if pod["automountServiceAccountToken"]
    }
    assert with_token == {"primum-operator", "primum-api", "primum-webhook"}


def test_images_are_by_digest_where_digests_are_given() -> None:
    for item in helm.full():
        if item["kind"] in ("Deployment", "Pod"):
            for _, pod in pod_templates(item):
                for each in (*pod["containers"], *pod.get("initContainers", ())):
                    assert re.search(r"@sha256:[0-9a-f]{64}$", each["image"])


def test_selectors_select_their_own_pods_and_no_others(manifests: tuple[Manifest, ...]) -> None:
    pods = {
        item["metadata"]["name"]: item["spec"]["template"]["metadata"]["labels"]
        for item in manifests
        if item["kind"] in ("Deployment", "StatefulSet")
    }
    for item in manifests:
        if item["kind"] in ("Deployment", "StatefulSet"):
            selector = item["spec"]["selector"]["matchLabels"]
        elif item["kind"] == "Service":
            selector = item["spec"]["selector"]
        elif item["kind"] == "PodDisruptionBudget":
            selector = item["spec"]["selector"]["matchLabels"]
        else:
            continue
        assert "app.kubernetes.io/version" not in selector, "a selector cannot be upgraded"
        chosen = [name for name, labels in pods.items() if selector.items() <= labels.items()]
        assert len(chosen) == 1, item["metadata"]["name"]


# Rights ---------------------------------------------------------------------------------------


def rules_of(manifests: tuple[Manifest, ...], name: str) -> list[Manifest]:
    return list(named(manifests, "ClusterRole", f"primum-{name}")["rules"])


def verbs(
    manifests: tuple[Manifest, ...], name: str, resource: str, group: str = GROUP
) -> set[str]:
    return {
        verb
        for rule in rules_of(manifests, name)
        if group in rule["apiGroups"] and resource in rule["resources"]
        for verb in rule["verbs"]
    }


def every_rule(manifests: tuple[Manifest, ...]) -> Iterator[tuple[str, Manifest]]:
    for item in manifests:
        if item["kind"] in ("ClusterRole", "Role"):
            for rule in item["rules"]:
                yield item["metadata"]["name"], rule


def test_no_rule_has_a_wildcard(manifests: tuple[Manifest, ...]) -> None:
    for name, rule in every_rule(manifests):
        for part in ("apiGroups", "resources", "verbs"):
            assert "*" not in rule[part], name


def test_nobody_reads_secrets_and_nobody_escalates(manifests: tuple[Manifest, ...]) -> None:
    for name, rule in every_rule(manifests):
        if "secrets" in rule["resources"] and name == "primum-pipeline":
            # What Kubeflow's launcher reaches its object store with, and no other.
            assert (rule["verbs"], rule["resourceNames"]) == (
                ["get"],
                ["mlpipeline-minio-artifact"],
            )
        elif "secrets" in rule["resources"]:
            assert set(rule["verbs"]) <= {"create", "delete"}, name
        assert not {"bind", "escalate", "impersonate"} & set(rule["verbs"]), name
        assert not {"pods/exec", "pods/attach", "serviceaccounts/token", "nodes"} & set(
            rule["resources"]
        ), name
        if "rbac.authorization.k8s.io" in rule["apiGroups"]:
            raise AssertionError(f"{name} touches rights")


def test_only_the_operator_writes_status(manifests: tuple[Manifest, ...]) -> None:
    writers = {
        name
        for name, rule in every_rule(manifests)
        if any(resource.endswith("/status") for resource in rule["resources"])
        and WRITES & set(rule["verbs"])
        and GROUP in rule["apiGroups"]
    }
    assert writers == {"primum-operator-governed"}
    covered = {f"{kind.plural}/status" for kind in KINDS.values()}
    granted = [
        rule["resources"]
        for _, rule in every_rule(manifests)
        if any(resource in covered for resource in rule["resources"])
    ]
    assert granted == [[f"{kind.plural}/status" for kind in KINDS.values()]] or (
        len(granted) == 1 and set(granted[0]) == covered
    )


def test_only_stewards_declare_budgets(manifests: tuple[Manifest, ...]) -> None:
    writers = {
        name
        for name, rule in every_rule(manifests)
        if "privacybudgets" in rule["resources"]
        and {"create", "update", "delete"} & set(rule["verbs"])
    }
    assert writers == {"primum-steward"}
    # The operator adds and removes a finalizer, and can do no more.
    assert verbs(manifests, "operator-governed", "privacybudgets") == READS | {"patch"}


@pytest.mark.parametrize(
    ("role", "resource", "allowed"),
    [
        ("reader", "privacybudgets", READS),
        ("reader", "studies", READS),
        ("scientist", "studies", READS | {"create", "update", "patch", "delete"}),
        ("scientist", "privacybudgets", READS | {"use"}),
        ("scientist", "gatepolicies", READS),
        ("scientist", "releases", READS),
        ("scientist", "auditruns", READS),
        ("steward", "privacybudgets", READS | {"create", "update", "patch", "delete", "use"}),
        ("steward", "studies", READS),
        ("steward", "gatepolicies", READS),
        ("compliance", "gatepolicies", READS | {"create", "update", "patch", "delete"}),
        ("compliance", "releases", READS | {"update", "patch"}),
        ("compliance", "privacybudgets", READS),
        ("auditor", "auditruns", READS | {"create", "delete"}),
        ("auditor", "privacybudgets", READS),
        ("submitter", "studies", READS | {"create"}),
        ("submitter", "privacybudgets", {"get", "use"}),
        ("submitter", "releases", READS),
        ("submitter", "auditruns", READS | {"create"}),
        ("submitter", "gatepolicies", set()),
    ],
)
def test_role_may_exactly(role: str, resource: str, allowed: set[str]) -> None:
    for manifests in (helm.default(), helm.full()):
        assert verbs(manifests, role, resource) == allowed


def test_people_have_rights_on_our_kinds_alone() -> None:
    for role in PEOPLE:
        groups = {group for rule in rules_of(helm.full(), role) for group in rule["apiGroups"]}
        assert groups <= {GROUP, "pipelines.kubeflow.org"}, role


def test_roles_are_aggregated_to_the_clusters_own() -> None:
    label = "rbac.authorization.k8s.io/aggregate-to-"
    aggregated = {
        (item["metadata"]["name"], key.removeprefix(label))
        for item in of_kind(helm.default(), "ClusterRole")
        for key in item["metadata"]["labels"]
        if key.startswith(label)
    }
    assert aggregated == {("primum-reader", "view"), ("primum-scientist", "edit")}
    off = helm.rendered("--set", "rbac.aggregate=false")
    assert not any(label in str(item) for item in off)


def test_every_role_of_the_api_can_be_given() -> None:
    granted = {
        (item["metadata"]["name"], tuple(rule["resourceNames"]))
        for item in of_kind(helm.default(), "ClusterRole")
        for rule in item["rules"]
        if rule["resources"] == [cluster_identity.RESOURCE]
        if rule["verbs"] == [cluster_identity.VERB]
    }
    assert granted == {(f"primum-api-{role.value}", (role.value,)) for role in Role}


def test_cluster_wide_rights_are_few() -> None:
    bound = {item["roleRef"]["name"] for item in of_kind(helm.full(), "ClusterRoleBinding")}
    assert bound == {"primum-operator", "primum-api", "primum-webhook", "primum-api-platform"}
    assert verbs(helm.default(), "operator", "namespaces", "") == READS
    assert {tuple(rule["resources"]) for rule in rules_of(helm.default(), "operator")} == {
        ("namespaces",),
        ("subjectaccessreviews",),
    }
    for name in ("api", "webhook"):
        for rule in rules_of(helm.full(), name):
            reviews = set(rule["resources"]) <= {"tokenreviews", "subjectaccessreviews"}
            assert reviews or not WRITES & set(rule["verbs"]), name


def test_operator_has_its_rights_in_governed_namespaces_alone() -> None:
    where = {
        item["metadata"]["namespace"]
        for item in of_kind(helm.full(), "RoleBinding")
        if item["roleRef"]["name"] == "primum-operator-governed"
    }
    assert where == {"oncology", "radiology"}
    assert "ray.io" not in str(rules_of(helm.default(), "operator-governed"))
    # Steps make RayJobs; the operator only looks for those that nobody follows, and ends them.
    rights = [rule for rule in rules_of(helm.full(), "operator-governed") if "rayjobs" in str(rule)]
    own = next(rule for rule in rights if set(rule["verbs"]) != {"get"})
    assert (own["resources"], set(own["verbs"])) == (["rayjobs"], {"get", "list", "delete"})


def test_steps_make_ray_jobs_under_an_account_that_can_do_nothing_else() -> None:
    trial = {item["metadata"]["name"] for item in of_kind(helm.trial(), "ServiceAccount")}
    assert names.LAUNCHER_ACCOUNT not in trial
    manifests = helm.full()
    for namespace in ("oncology", "radiology"):
        account = named(manifests, "ServiceAccount", names.LAUNCHER_ACCOUNT, namespace)
        assert account["automountServiceAccountToken"] is False
        role = named(manifests, "Role", "primum-launcher", namespace)
        (rule,) = role["rules"]
        assert (rule["apiGroups"], rule["resources"]) == (["ray.io"], ["rayjobs"])
        assert set(rule["verbs"]) == {"create", "get", "list", "watch", "delete"}
        binding = named(manifests, "RoleBinding", "primum-launcher", namespace)
        assert {item["namespace"] for item in binding["subjects"]} == {namespace}
        assert {item["name"] for item in binding["subjects"]} == set(names.LAUNCHERS)


def test_operator_is_told_how_ray_jobs_are_made() -> None:
    told = operator_settings.from_environment(environment(container(helm.full(), "operator")))
    ray = settings_from_text(told.cluster.jobs.ray_job)
    assert (ray.queue, ray.service_account) == ("imaging-gpu", "primum-worker")
    assert (ray.data_claim, ray.image) == ("primum-dataset-files", told.cluster.jobs.image)
    assert told.cluster.gpus is None, "the queue says it"
    counted = helm.rendered(
        *("--values", str(helm.FULL), "--api-versions", ",".join(APIS)),
        *("--set", "integrations.kuberay.gpus=0,integrations.kuberay.worker.memory=64Gi"),
    )
    told = operator_settings.from_environment(environment(container(counted, "operator")))
    assert told.cluster.gpus == 0
    assert settings_from_text(told.cluster.jobs.ray_job).worker_memory == "64Gi"
    default = operator_settings.from_environment(environment(container(helm.trial(), "operator")))
    assert default.cluster.jobs.ray_job == ""


def test_lease_right_is_for_the_lease_that_the_operator_takes() -> None:
    source = (ROOT / "platform/primum/entrypoints/cluster.py").read_text(encoding="utf-8")
    role = named(helm.default(), "Role", "primum-operator-lease")
    (name,) = {name for rule in role["rules"] for name in rule.get("resourceNames", ())}
    assert f'name="{name}"' in source


# Network --------------------------------------------------------------------------------------


def policies_in(manifests: tuple[Manifest, ...], namespace: str) -> dict[str, Manifest]:
    return {
        item["metadata"]["name"]: item["spec"]
        for item in of_kind(manifests, "NetworkPolicy")
        if item["metadata"]["namespace"] == namespace
    }


def test_default_is_deny_in_both_directions() -> None:
    for namespace in ("oncology", "radiology"):
        spec = policies_in(helm.full(), namespace)["primum-default-deny"]
        assert spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    own = policies_in(helm.full(), NAMESPACE)["primum-default-deny"]
    assert set(own) == {"podSelector", "policyTypes"}
    for item in (*of_kind(helm.full(), "Deployment"), *of_kind(helm.trial(), "StatefulSet")):
        labels = item["spec"]["template"]["metadata"]["labels"]
        assert own["podSelector"]["matchLabels"].items() <= labels.items()


def test_every_process_of_ours_has_its_allowances() -> None:
    for manifests in RENDERINGS.values():
        chosen = [
            spec["podSelector"].get("matchLabels", {})
            for name, spec in policies_in(manifests(), NAMESPACE).items()
            if name != "primum-default-deny"
        ]
        for item in manifests():
            if item["kind"] in ("Deployment", "StatefulSet"):
                labels = item["spec"]["template"]["metadata"]["labels"]
                assert any(found.items() <= labels.items() for found in chosen)


def test_studies_reach_nothing_outside_but_what_values_name() -> None:
    spec = policies_in(helm.full(), "oncology")["primum-steps"]
    blocks = [
        (peer["ipBlock"]["cidr"], [port["port"] for port in rule["ports"]])
        for rule in spec["egress"]
        for peer in rule["to"]
        if "ipBlock" in peer
    ]
    assert blocks == [("10.20.0.0/16", [9000])]
    assert all("ports" in rule for rule in spec["egress"])
    trial = policies_in(helm.trial(), "oncology")["primum-steps"]
    assert "ipBlock" not in str(trial), "the trial's database is a pod"


def test_job_api_of_ray_is_open_to_its_own_and_to_kuberay() -> None:
    spec = policies_in(helm.full(), "oncology")["primum-ray"]
    own, kuberay = spec["ingress"]
    pods = [
        {"key": "primum.dev/run", "operator": "Exists"},
        {
            "key": "app.kubernetes.io/component",
            "operator": "In",
            "values": [item.value for item in rayjob.Workload],
        },
    ]
    assert spec["podSelector"] == {"matchExpressions": pods}
    assert own == {"from": [{"podSelector": {"matchExpressions": pods}}]}
    assert kuberay["ports"] == [{"protocol": "TCP", "port": 8265}]
    assert "primum-ray" not in policies_in(helm.trial(), "oncology")


def test_pods_of_runs_reach_the_api_server_only_to_make_ray_jobs() -> None:
    spec = policies_in(helm.full(), "oncology")["primum-launchers"]
    assert spec["podSelector"]["matchLabels"] == {"app.kubernetes.io/component": "worker"}
    (rule,) = spec["egress"]
    assert [port["port"] for port in rule["ports"]] == [443, 6443]
    assert "primum-launchers" not in policies_in(helm.trial(), "oncology")


def test_endpoints_answer_nobody_unless_told() -> None:
    assert policies_in(helm.trial(), "oncology")["primum-endpoints"]["ingress"] == []
    (rule,) = policies_in(helm.full(), "oncology")["primum-endpoints"]["ingress"]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"team": "clinic"}}}]


# The door ---------------------------------------------------------------------------------------


def test_webhook_refuses_where_it_does_not_answer() -> None:
    for manifests in RENDERINGS.values():
        (found,) = of_kind(manifests(), "ValidatingWebhookConfiguration")
        assert [hook["name"] for hook in found["webhooks"]] == [
            "everywhere.primum.dev",
            "governed.primum.dev",
        ]
        for hook in found["webhooks"]:
            assert hook["failurePolicy"] == "Fail"
            assert hook["sideEffects"] == "None"
            assert hook["timeoutSeconds"] <= 10
            expressions = hook["namespaceSelector"]["matchExpressions"]
            assert {"kube-system", NAMESPACE} <= set(expressions[0]["values"])
            service = hook["clientConfig"]["service"]
            assert service["path"] == f"/{hook['name'].partition('.')[0]}"
            named(manifests(), "Service", service["name"], service["namespace"])
        governed = found["webhooks"][1]["namespaceSelector"]["matchExpressions"][1]
        assert governed["key"] == "primum.dev/governed"


def test_made_certificate_is_for_the_service_and_signed_by_the_bundle() -> None:
    from cryptography import x509

    secret = named(helm.default(), "Secret", "primum-webhook-tls")
    (hooks,) = of_kind(helm.default(), "ValidatingWebhookConfiguration")
    bundles = {hook["clientConfig"]["caBundle"] for hook in hooks["webhooks"]}
    assert bundles == {secret["data"]["ca.crt"]}

    def read(name: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate(base64.b64decode(secret["data"][name]))

    authority, served = read("ca.crt"), read("tls.crt")
    served.verify_directly_issued_by(authority)
    names = served.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert f"primum-webhook.{NAMESPACE}.svc" in names.get_values_for_type(x509.DNSName)


def test_cert_manager_brings_certificate_and_bundle() -> None:
    (hooks,) = of_kind(helm.full(), "ValidatingWebhookConfiguration")
    injected = hooks["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
    (certificate,) = of_kind(helm.full(), "Certificate")
    assert injected == f"{NAMESPACE}/{certificate['metadata']['name']}"
    assert f"primum-webhook.{NAMESPACE}.svc" in certificate["spec"]["dnsNames"]
    deployment = named(helm.full(), "Deployment", "primum-webhook")
    assert certificate["spec"]["secretName"] in str(deployment)
    assert not any("ca.crt" in str(item) for item in of_kind(helm.full(), "Secret"))


def test_given_certificate_is_used() -> None:
    bundle = base64.b64encode(b"an authority").decode()
    given = helm.rendered(
        *("--set", "webhook.tls.source=Secret"),
        *("--set", "webhook.tls.secret=our-tls"),
        *("--set", f"webhook.tls.caBundle={bundle}"),
    )
    (hooks,) = of_kind(given, "ValidatingWebhookConfiguration")
    assert {hook["clientConfig"]["caBundle"] for hook in hooks["webhooks"]} == {bundle}
    assert "our-tls" in str(named(given, "Deployment", "primum-webhook"))


def test_policies_are_the_tested_ones_and_deny() -> None:
    """Every expression that the API server gets is one of those that the CEL engine was asked."""
    known = {policy.name: policy for policy in POLICIES}
    found = of_kind(helm.full(), "ValidatingAdmissionPolicy")
    assert {item["metadata"]["name"] for item in found} == {f"primum-{name}" for name in known}
    for item in found:
        policy = known[item["metadata"]["name"].removeprefix("primum-")]
        spec = item["spec"]
        assert spec["failurePolicy"] == "Fail"
        expected = [rule.expression for rule in policy.rules]
        expected += [permission.expression() for permission in policy.permissions]
        assert [rule["expression"] for rule in spec["validations"]] == expected
        told = {entry["name"]: entry["expression"] for entry in spec.get("variables", ())}
        assert {name: told[name] for name in [v.name for v in policy.variables]} == {
            entry.name: entry.expression for entry in policy.variables
        }
        for setting in policy.settings:
            value = cel.value_of(
                f"[object, {told[setting.value]}]", {"object": 1}, variables=("object",)
            )
            assert isinstance(value[1], list | bool), setting
        binding = named(helm.full(), "ValidatingAdmissionPolicyBinding", item["metadata"]["name"])
        assert binding["spec"]["validationActions"] == ["Deny"]
        governed = "matchResources" in binding["spec"]
        assert governed is (policy.reach is Reach.GOVERNED)


def test_policies_know_the_operator_and_the_controllers_of_integrations() -> None:
    item = named(helm.full(), "ValidatingAdmissionPolicy", "primum-dataset-mounts")
    told = {entry["name"]: entry["expression"] for entry in item["spec"]["variables"]}
    account = named(helm.full(), "Deployment", "primum-operator")["spec"]["template"]["spec"]
    user = f"system:serviceaccount:{NAMESPACE}:{account['serviceAccountName']}"
    assert json.loads(told["operators"]) == [user]
    assert json.loads(told["controllers"]) == [
        "system:serviceaccount:kube-system:job-controller",
        "system:serviceaccount:kuberay-system:kuberay-operator",
        "system:serviceaccount:kueue-system:kueue-controller-manager",
        "system:serviceaccount:kubeflow:argo",
        "system:serviceaccount:kubeflow:ml-pipeline",
    ]
    webhook = container(helm.full(), "webhook")["args"]
    assert f"--operator={user}" in webhook
    assert [arg for arg in webhook if arg.startswith("--controller=")] == [
        f"--controller={name}" for name in json.loads(told["controllers"])
    ]
    assert "--queue=Required" in webhook
    ray = named(helm.full(), "ValidatingAdmissionPolicy", "primum-ray-jobs")
    assert {"name": "queueRequired", "expression": "true"} in ray["spec"]["variables"]


def test_without_policies_or_without_webhook_the_other_stands() -> None:
    alone = helm.rendered("--set", "policies.enabled=false")
    assert not of_kind(alone, "ValidatingAdmissionPolicy")
    assert of_kind(alone, "ValidatingWebhookConfiguration")
    alone = helm.rendered("--set", "webhook.enabled=false")
    assert of_kind(alone, "ValidatingAdmissionPolicy")
    assert not of_kind(alone, "ValidatingWebhookConfiguration")
    assert "primum-webhook" not in str(alone)


# Processes --------------------------------------------------------------------------------------


def environment(found: Mapping[str, Any]) -> dict[str, str]:
    """A container's variables; what comes from elsewhere as the chart would have it."""
    secrets = {"PRIMUM_DATABASE_URL": "postgresql+psycopg://a:b@c/d"}
    return {
        item["name"]: item.get("value", secrets.get(item["name"], "told"))
        for item in found.get("env", ())
    }


@pytest.mark.parametrize("rendering", ["full", "trial"])
def test_processes_understand_their_settings(rendering: str) -> None:
    """A setting that is not one, or out of range, ends a process: here the process itself reads."""
    manifests = RENDERINGS[rendering]()
    for component in ("operator", "api", "webhook"):
        told = environment(container(manifests, component))
        found = platform_settings.from_environment(told)
        assert bool(found.ledger_url) == (component == "operator")
        assert found.ledger_url or found.database_url.startswith("postgresql")
    own = operator_settings.from_environment(environment(container(manifests, "operator")))
    assert own.cluster.home_namespace == NAMESPACE
    assert set(own.cluster.namespaces) <= {"oncology", "radiology"}
    assert own.cluster.namespaces
    assert own.cluster.jobs.service_account == "primum-worker"
    assert own.cluster.jobs.queue == ("imaging-gpu" if rendering == "full" else "")
    (port,) = container(manifests, "operator")["ports"]
    assert port["containerPort"] == own.probe_port


@pytest.mark.parametrize("rendering", ["full", "trial"])
def test_operator_holds_neither_key_nor_database(rendering: str) -> None:
    manifests = RENDERINGS[rendering]()
    pod = named(manifests, "Deployment", "primum-operator")["spec"]["template"]["spec"]
    assert "initContainers" not in pod
    assert "primum-signing-key" not in str(pod)
    assert "secretKeyRef" not in str(pod)
    found = platform_settings.from_environment(environment(container(manifests, "operator")))
    own = operator_settings.from_environment(environment(container(manifests, "operator")))
    assert found.ledger_url == own.cluster.jobs.ledger_url
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "ledger-token"]
    (volume,) = [v for v in pod["volumes"] if v["name"] == "ledger-token"]
    (source,) = volume["projected"]["sources"]
    assert found.token_file == f"{mount['mountPath']}/{source['serviceAccountToken']['path']}"
    assert source["serviceAccountToken"]["audience"] == cluster_identity.AUDIENCE
    egress = policies_in(manifests, NAMESPACE)["primum-operator"]["egress"]
    assert all(port.get("port") != 5432 for rule in egress for port in rule.get("ports", ()))
    role = named(manifests, "ClusterRole", "primum-api-platform")
    assert role["rules"][0]["resourceNames"] == [Role.PLATFORM.value]
    binding = named(manifests, "ClusterRoleBinding", "primum-api-platform")
    assert [item["name"] for item in binding["subjects"]] == ["primum-operator"]


def test_operator_may_be_given_the_database() -> None:
    digest = f"images.worker.digest=sha256:{'5' * 64}"
    manifests = helm.rendered("--set", "operator.ledger=Database", "--set", digest)
    found = platform_settings.from_environment(environment(container(manifests, "operator")))
    assert found.database_url.startswith("postgresql")
    assert not found.ledger_url
    egress = policies_in(manifests, NAMESPACE)["primum-operator"]["egress"]
    assert any(port.get("port") == 5432 for rule in egress for port in rule.get("ports", ()))
    names = [item["metadata"]["name"] for item in of_kind(manifests, "ClusterRoleBinding")]
    assert "primum-api-platform" not in names


def test_what_runs_need_is_in_every_governed_namespace() -> None:
    manifests = helm.trial()
    jobs = operator_settings.from_environment(environment(container(manifests, "operator")))
    told = jobs.cluster.jobs
    for kind, name in (
        ("ServiceAccount", told.service_account),
        ("PersistentVolumeClaim", told.artifacts_claim),
    ):
        named(manifests, kind, name, "oncology")
    secrets = [item for item in manifests if item["kind"] == "Secret"]
    assert {item["metadata"]["namespace"] for item in secrets} == {NAMESPACE}


@pytest.mark.parametrize("rendering", ["full", "trial"])
def test_runs_reach_the_ledger_api_and_never_the_database(rendering: str) -> None:
    manifests = RENDERINGS[rendering]()
    own = operator_settings.from_environment(environment(container(manifests, "operator")))
    service = named(manifests, "Service", "primum-api")
    port = service["spec"]["ports"][0]["port"]
    assert own.cluster.jobs.ledger_url == f"https://primum-api.{NAMESPACE}.svc:{port}"
    egress = policies_in(manifests, "oncology")["primum-steps"]["egress"]
    ports = [port for rule in egress for port in rule.get("ports", ())]
    assert {"protocol": "TCP", "port": 8399} in ports
    assert all(port.get("port") != 5432 for port in ports)
    to_database = [
        peer
        for item in manifests
        if item["kind"] == "NetworkPolicy" and item["metadata"]["name"].endswith("trial-database")
        for rule in item["spec"]["ingress"]
        for peer in rule["from"]
    ]
    assert all("namespaceSelector" not in peer for peer in to_database)


def test_processes_understand_their_arguments() -> None:
    from primum.entrypoints.api import __main__ as api
    from primum_operators.admission import __main__ as webhook

    module, *arguments = container(helm.full(), "webhook")["args"]
    assert module == webhook.__spec__.name.removesuffix(".__main__")
    found = webhook._options(arguments)
    assert found.port == 9443
    assert found.queue == "Required"
    assert len(found.trusted) == 2
    module, *arguments = container(helm.full(), "api")["args"]
    assert module == api.__spec__.name.removesuffix(".__main__")
    assert api._options(arguments).certificates == Path("/etc/primum/tls")
    assert api._options(arguments).cluster
    (module,) = container(helm.full(), "operator")["args"]
    assert (ROOT / "operators" / module / "__main__.py").is_file()


def test_server_of_releases_reads_what_the_operator_publishes_and_no_more() -> None:
    operator = named(helm.shared(), "Deployment", "primum-operator")["spec"]["template"]["spec"]
    served = named(helm.shared(), "Deployment", "primum-serving")["spec"]["template"]["spec"]
    claims = [
        {volume["name"]: volume for volume in pod["volumes"]}["serving"]["persistentVolumeClaim"]
        for pod in (operator, served)
    ]
    assert claims[0]["claimName"] == claims[1]["claimName"]
    (server,) = served["containers"]
    mounts = {item["name"]: item for item in server["volumeMounts"]}
    assert set(mounts) == {"tmp", "serving", "key"}, "not the home, and not the key that signs"
    assert mounts["serving"]["readOnly"] is True
    told = container(helm.shared(), "operator")
    settings = platform_settings.from_environment(environment(told))
    artifacts = {item["name"]: item for item in told["volumeMounts"]}["artifacts"]
    assert bootstrap.artifacts_uri(settings) == f"file://{artifacts['mountPath']}"
    assert artifacts["readOnly"] is True
    assert operator_settings.from_environment(environment(told)).cluster.endpoints is None
    assert f"--registry={bootstrap.serving_registry(settings)}" in server["args"]
    service = named(helm.shared(), "Service", "primum-serving")
    assert settings.host == f"{service['metadata']['name']}.{NAMESPACE}.svc"
    assert settings.serving_port == service["spec"]["ports"][0]["port"]
    assert policies_in(helm.shared(), NAMESPACE)["primum-serving"]["egress"] == []


def test_releases_are_served_in_their_own_namespaces_unless_one_server_is_asked_for() -> None:
    digest = f"sha256:{'4' * 64}"
    manifests = helm.rendered(
        *("--set", "governed.namespaces={oncology}"),
        *("--set", f"images.worker.digest=sha256:{'5' * 64},images.serving.digest={digest}"),
    )
    found = operator_settings.from_environment(environment(container(manifests, "operator")))
    endpoints = found.cluster.endpoints
    assert endpoints is not None
    assert (endpoints.form.kind, endpoints.replicas) == ("Deployment", 2)
    assert endpoints.image.endswith(digest)
    rules = rules_of(manifests, "operator-governed")
    made = {"create", "get", "list", "patch", "delete"}
    (deployments,) = [set(r["verbs"]) for r in rules if r["resources"] == ["deployments"]]
    (services,) = [set(r["verbs"]) for r in rules if r["resources"] == ["services"]]
    assert (deployments, services) == (made | {"watch"}, made)
    assert not any(i["metadata"]["name"] == "primum-serving" for i in manifests)
    shared = rules_of(helm.shared(), "operator-governed")
    assert not any(set(r["resources"]) & {"deployments", "configmaps"} for r in shared)
    done = helm.template("--set", "serving.mode=Shared")
    assert "serving.artifactsClaim must name a claim" in done.stderr


def test_public_key_is_made_from_the_private_one(tmp_path: Path) -> None:
    """The container's own program runs here; the inference server believes what it made."""
    from primum import signing

    served = named(helm.shared(), "Deployment", "primum-serving")["spec"]["template"]["spec"]
    private, public = signing.generate()
    (tmp_path / "signing.pem").write_text(private)
    program = served["initContainers"][0]["command"][1:3]
    made = tmp_path / "signing.pub.pem"
    subprocess.run([sys.executable, *program, str(tmp_path / "signing.pem"), str(made)], check=True)
    assert made.read_text() == public


def test_every_value_is_used() -> None:
    """A value that nothing reads is a promise that nobody keeps."""
    text = "\n".join(
        path.read_text(encoding="utf-8")
        for path in (CHART / "templates").rglob("*")
        if path.suffix in (".yaml", ".tpl", ".txt") and path.parent.name != "crd"
    )

    def leaves(found: Any, path: str) -> Iterator[str]:
        if isinstance(found, Mapping) and found:
            for name, item in found.items():
                yield from leaves(item, f"{path}.{name}")
        else:
            yield path

    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    unused = [
        path
        for path in leaves(values, "")
        if not re.search(rf"\.{path.rpartition('.')[2]}\b", text)
        and not re.search(rf"{re.escape(path.rpartition('.')[0])}\b", text)
    ]
    assert unused == []


def test_operator_does_not_start_before_it_could_run_anything() -> None:
    def replicas(*arguments: str) -> int:
        found = named(helm.rendered(*arguments), "Deployment", "primum-operator")
        return int(found["spec"]["replicas"])

    digest = ("--set", f"images.worker.digest=sha256:{'5' * 64}")
    governed = ("--set", "governed.namespaces={oncology}")
    assert replicas() == 0
    assert replicas(*digest) == 0
    assert replicas(*governed) == 0
    assert replicas(*digest, *governed) == 0, "it could serve no Release"
    served = ("--set", f"images.serving.digest=sha256:{'4' * 64}")
    assert replicas(*digest, *governed, *served) == 2
    shared = ("--set", "serving.mode=Shared,serving.artifactsClaim=share")
    assert replicas(*digest, *governed, *shared) == 2


def test_key_is_copied_with_the_mode_that_the_platform_insists_on(tmp_path: Path) -> None:
    """The command runs here; the platform's own reader accepts what it made."""
    from primum.adapters import keys

    deployment = named(helm.default(), "Deployment", "primum-api")
    (copier,) = deployment["spec"]["template"]["spec"]["initContainers"]
    keys.ensure(tmp_path / "made")
    (tmp_path / "made" / "signing.pem").chmod(0o440)
    (tmp_path / "keys").mkdir()
    places = {
        "/etc/primum/signing/signing.pem": str(tmp_path / "made" / "signing.pem"),
        "/var/lib/primum/keys/signing.pem": str(tmp_path / "keys" / "signing.pem"),
    }
    subprocess.run([places.get(word, word) for word in copier["command"]], check=True)
    keys.FileSigner(tmp_path / "keys")


def test_generated_key_is_one_that_the_platform_signs_with(tmp_path: Path) -> None:
    from primum.adapters import keys

    secret = named(helm.trial(), "Secret", "primum-signing-key")
    path = tmp_path / "signing.pem"
    path.write_bytes(base64.b64decode(secret["data"]["signing.pem"]))
    path.chmod(0o600)
    keys.FileSigner(tmp_path).sign("text/plain", b"x")
    assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_tests_ask_services_that_are_there() -> None:
    for manifests in RENDERINGS.values():
        (pod,) = of_kind(manifests(), "Pod")
        assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
        urls = [word for word in pod["spec"]["containers"][0]["command"] if "://" in word]
        services = {
            (item["metadata"]["name"], port["port"])
            for item in of_kind(manifests(), "Service")
            for port in item["spec"]["ports"]
        }
        for url in urls:
            host, port = re.findall(r"//([^.]+)\.[^:]+:(\d+)/(?:readyz|v2/health/ready)$", url)[0]
            assert (host, int(port)) in services


def test_home_that_one_node_mounts_keeps_its_users_together() -> None:
    for component in ("operator", "api"):
        pod = named(helm.trial(), "Deployment", f"primum-{component}")["spec"]["template"]
        (term,) = pod["spec"]["affinity"]["podAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]
        chosen = term["labelSelector"]
        # It has to match itself too, or the first of them could never be placed.
        assert chosen["matchLabels"].items() <= pod["metadata"]["labels"].items()
        assert component in chosen["matchExpressions"][0]["values"]
        shared = named(helm.default(), "Deployment", f"primum-{component}")
        assert "affinity" not in shared["spec"]["template"]["spec"]


def test_replicas_are_spread_and_kept_up() -> None:
    budgets = {item["metadata"]["name"] for item in of_kind(helm.default(), "PodDisruptionBudget")}
    assert budgets == {"primum-operator", "primum-api", "primum-webhook"}
    more = {item["metadata"]["name"] for item in of_kind(helm.shared(), "PodDisruptionBudget")}
    assert more == budgets | {"primum-serving"}
    assert not of_kind(helm.trial(), "PodDisruptionBudget"), "one replica could never be moved"


# Definitions, values, notes -----------------------------------------------------------------------


def test_definitions_are_upgraded_with_the_chart_and_outlive_it(
    manifests: tuple[Manifest, ...],
) -> None:
    assert not (CHART / "crds").exists(), "Helm never upgrades what lies there"
    found = of_kind(manifests, "CustomResourceDefinition")
    assert {item["spec"]["names"]["kind"] for item in found} == set(KINDS)
    for item in found:
        assert item["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        # What kubectl's client-side apply writes into an annotation must fit.
        assert len(json.dumps(item)) < 262_144


def test_what_must_outlive_the_chart_is_kept() -> None:
    kept = {
        (item["kind"], item["metadata"]["name"])
        for item in helm.trial()
        if item["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }
    assert {
        ("PersistentVolumeClaim", "primum-home"),
        ("PersistentVolumeClaim", "primum-artifacts"),
        ("Secret", "primum-signing-key"),
        ("Secret", "primum-trial-database"),
        ("Namespace", "oncology"),
    } <= kept


@pytest.mark.parametrize(
    "mistake",
    [
        "operator.replcas=3",
        "operator.replicas=two",
        "operator.replicas=0",
        "image.operator.tag=1",
        "images.operator.tag=latest",
        "images.worker.digest=sha256:123",
        "images.worker.tag=1.0",
        "governed.namespace={oncology}",
        "governed.namespaces={Oncology}",
        "webhook.failurePolicy=Ignore",
        "webhook.timeoutSeconds=60",
        "webhook.tls.source=None",
        "policies.enable=true",
        "policies.controllers={}",
        "database.url=postgresql://user:password@host/db",
        "database.trial.enable=true",
        "integrations.kueu.enabled=true",
        "integrations.kueue.enabled=yes",
        "integrations.kfp.url=http://user:password@host",
        "networkPolicies.apiServer.cidrs={anywhere}",
        "home.accessModes={ReadOnlyMany}",
        "podSecurity.runAsUser=0",
    ],
)
def test_mistake_in_values_is_refused(mistake: str) -> None:
    done = helm.template("--set", mistake)
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["policies.enabled=false", "webhook.enabled=false"], "must be true: without both"),
        (["webhook.tls.source=CertManager"], "must not be CertManager while"),
        (["webhook.tls.source=Secret"], "webhook.tls.caBundle must be set"),
        ([f"governed.namespaces={{{NAMESPACE}}}"], "must not name the release's own namespace"),
        (["home.accessModes={ReadWriteOnce}"], "must hold ReadWriteMany while"),
        (["governed.datasetClaim=scans"], "must begin with primum-dataset-"),
    ],
)
def test_contradiction_is_refused_with_the_remedy(values: list[str], said: str) -> None:
    done = helm.template(*(word for value in values for word in ("--set", value)))
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.parametrize(
    ("integration", "api"),
    list(
        zip(("kuberay", "kueue", "kfp", "kserve", "certManager", "prometheus"), APIS, strict=True)
    ),
)
def test_integration_is_off_until_asked_for_and_checked_by_its_api(
    integration: str, api: str
) -> None:
    group = api.partition("/")[0]
    assert not any(item["apiVersion"].startswith(group) for item in helm.default())
    done = helm.template("--set", f"integrations.{integration}.enabled=true")
    assert done.returncode != 0
    assert f"integrations.{integration}.enabled must be false" in done.stderr
    assert f"--api-versions {api}" in done.stderr
    served = f"images.serving.digest=sha256:{'4' * 64}"  # What KServe cannot do without.
    there = helm.template(
        *("--set", f"integrations.{integration}.enabled=true,{served}"), "-a", api
    )
    assert there.returncode == 0, there.stderr


def test_old_cluster_is_refused() -> None:
    done = helm.template("--kube-version", "1.29.9")
    assert done.returncode != 0
    assert "kubeVersion" in done.stderr


def test_every_value_has_a_default_and_every_default_a_schema() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

    def compare(found: Any, node: Mapping[str, Any], path: str) -> Iterator[str]:
        if "$ref" in node:
            node = schema["definitions"][node["$ref"].rpartition("/")[2]]
        properties = node.get("properties")
        if properties is None or not isinstance(found, Mapping):
            return
        assert node.get("additionalProperties") is False, path
        yield from (f"{path}.{name} has no default" for name in set(properties) - set(found))
        for name, item in found.items():
            yield from compare(item, properties[name], f"{path}.{name}")

    assert list(compare(values, schema, "")) == [".global has no default"]


def test_notes_say_what_is_still_missing() -> None:
    def notes(*arguments: str) -> str:
        done = helm.run(
            *("install", "primum", str(CHART), "--namespace", NAMESPACE),
            *("--dry-run=client", *arguments),
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.partition("NOTES:")[2]

    bare = notes()
    for expected in (
        "create secret generic primum-database",
        "create secret generic primum-signing-key",
        "images.worker.digest is not set",
        "images.serving.digest is not set",
        "No namespace is governed",
        "make sure that yours does",
    ):
        assert expected in bare
    assert "TRIAL" in notes("--values", str(helm.TRIAL))
    everything = notes(
        *("--set", f"images.worker.digest=sha256:{'5' * 64}"),
        *("--set", f"images.serving.digest=sha256:{'4' * 64}"),
        *("--set", "governed.namespaces={oncology}"),
    )
    assert "is not set" not in everything
    assert "No namespace" not in everything


# Watching -----------------------------------------------------------------------------------


def metrics_of_the_code() -> set[str]:
    """Names as Prometheus gets them: counters end in ``_total``."""
    from primum.adapters.memory import ManualClock, MemoryAnchor, MemoryLedgerStore
    from primum.entrypoints.api import metrics
    from primum_operators.metrics import OperatorMetrics

    ledger = MemoryLedgerStore(clock=ManualClock(), anchor=MemoryAnchor())
    figures = {name: (lambda: 0) for name in metrics._HELP}
    text = metrics.exposition(ledger, figures).decode()
    text += OperatorMetrics().exposition().decode()
    found = set(re.findall(r"^# TYPE (primum_\w+)", text, re.MULTILINE))
    histograms = set(re.findall(r"^# TYPE (primum_\w+) histogram", text, re.MULTILINE))
    return found | {f"{name}_{part}" for name in histograms for part in ("bucket", "count", "sum")}


def test_alerts_and_dashboard_read_metrics_that_exist() -> None:
    known = metrics_of_the_code()
    for name in ("alerts.yaml", "dashboard.json"):
        text = (CHART / "files" / name).read_text(encoding="utf-8")
        used = set(re.findall(r"\bprimum_[a-z_]+", text))
        assert used
        assert used <= known, used - known


def test_alerts_are_complete() -> None:
    (rule,) = of_kind(helm.full(), "PrometheusRule")
    written = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text(encoding="utf-8"))
    assert rule["spec"] == written
    alerts = [item for group in written["groups"] for item in group["rules"]]
    assert len({item["alert"] for item in alerts}) == len(alerts) >= 5
    for item in alerts:
        assert item["labels"]["severity"] in ("critical", "warning")
        assert item["annotations"]["summary"].endswith(".")
        assert item["annotations"]["description"]
        assert item["expr"].count("(") == item["expr"].count(")")


def test_dashboard_is_one() -> None:
    (found,) = [item for item in of_kind(helm.full(), "ConfigMap") if "dashboard" in str(item)]
    board = json.loads(found["data"]["primum.json"])
    assert board == json.loads((CHART / "files" / "dashboard.json").read_text(encoding="utf-8"))
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert all(target["expr"] for target in panel["targets"])
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_monitors_scrape_ports_that_exist() -> None:
    for monitor in of_kind(helm.full(), "ServiceMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        (endpoint,) = monitor["spec"]["endpoints"]
        (service,) = [
            item
            for item in of_kind(helm.full(), "Service")
            if selector.items() <= item["metadata"]["labels"].items()
        ]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


# One file -----------------------------------------------------------------------------------


def test_install_file_is_whole_and_holds_no_secret(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not here")
    done = subprocess.run(
        [
            "make",
            "-s",
            "install.yaml",
            f"HELM={helm.helm_program()}",
            f"INSTALL={tmp_path / 'i.yaml'}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [item for item in yaml.safe_load_all((tmp_path / "i.yaml").read_text()) if item]
    kinds = {item["kind"] for item in found}
    assert {"CustomResourceDefinition", "Deployment", "ValidatingAdmissionPolicy"} <= kinds
    assert "Secret" not in kinds, "a file for everybody must not hold anybody's key"
    assert found[0]["kind"] == "Namespace"
    assert "helm.sh/hook" not in str(found)


def test_the_operator_meets_kubeflow_pipelines_with_a_token_of_its_own() -> None:
    deployment = named(helm.full(), "Deployment", "primum-operator")["spec"]["template"]["spec"]
    (volume,) = [v for v in deployment["volumes"] if v["name"] == "kfp-token"]
    (source,) = volume["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"
    (used,) = deployment["containers"]
    told = {item["name"]: item.get("value") for item in used["env"]}
    assert told["PRIMUM_OPERATOR_RUNNER"] == "kfp"
    mounts = {item["name"]: item["mountPath"] for item in used["volumeMounts"]}
    assert told["PRIMUM_OPERATOR_KFP_TOKEN_PATH"] == f"{mounts['kfp-token']}/token"
    assert told["PRIMUM_OPERATOR_KFP_CA"] == f"{mounts['kfp-ca']}/ca.crt"
    assert not any(
        "RUNNER" in item["name"] for item in container(helm.default(), "operator")["env"]
    )


def test_only_the_operator_makes_runs_of_kubeflow_pipelines() -> None:
    makers = {
        name
        for name, rule in every_rule(helm.full())
        if "pipelines.kubeflow.org" in rule["apiGroups"]
    }
    assert makers == {"primum-operator-governed"}


def test_what_runs_of_kubeflow_pipelines_work_under_can_do_little() -> None:
    rules = [rule for name, rule in every_rule(helm.full()) if name == "primum-pipeline"]
    told = {(resource, verb) for r in rules for resource in r["resources"] for verb in r["verbs"]}
    assert told == {
        ("workflowtaskresults", "create"),
        ("workflowtaskresults", "patch"),
        ("pods", "get"),
        ("configmaps", "get"),
        ("secrets", "get"),
    }


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://ml-pipeline.kubeflow.svc:8888", 8888),
        ("https://kfp.hospital.example", 443),
        ("http://kfp.hospital.example/pipeline", 80),
    ],
)
def test_the_way_to_kubeflow_pipelines_is_its_port(url: str, port: int) -> None:
    given = ("--set", f"integrations.kfp.enabled=true,integrations.kfp.url={url}")
    done = helm.rendered(*given, "-a", "argoproj.io/v1alpha1")
    policy = named(done, "NetworkPolicy", "primum-operator")
    ways = [way for way in policy["spec"]["egress"] if "kubeflow" in json.dumps(way)]
    assert [way["ports"][0]["port"] for way in ways] == [port]
