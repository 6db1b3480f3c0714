"""Policy at the door of a real API server: the webhook refuses, and each role may what it should.

The configuration and the roles are those that the chart renders; the webhook is our own server with
its own service account's rights, over a ledger in memory. The test servers are too old for
ValidatingAdmissionPolicies; their expressions are asked one by one in tests/contract.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import dataclasses
import os
import pathlib
import socket
import subprocess
import sys
import threading
from decimal import Decimal
from typing import Any

import helm
import pytest
from admission_requests import request as admission_request
from api_platform import make_platform
from clinic import Clinic
from control_plane import Api, Authority
from ledger_words import HALF, request, reserve, terms
from manifests import BUDGET, STUDY, manifest, path

from primum.adapters.cluster_identity import ClusterIdentities
from primum.adapters.identity import NOBODY, Role
from primum.adapters.kube.api import KubeApi
from primum.adapters.kube.objects import stored_resource
from primum.adapters.kube.resources import KubeResourceStore
from primum.adapters.memory import ManualClock, MemoryAnchor, MemoryLedgerStore
from primum.application.quoting import asker_of
from primum.domain.budget.rules import Quota, QuotaScope, Rules
from primum.domain.names import ResourceKey
from primum.resources.conversion import study_spec
from primum.resources.metadata import requester_label
from primum_operators.admission.__main__ import judge_with, patch_with
from primum_operators.admission.lookups import ClusterLookups
from primum_operators.admission.review import SiteSettings
from primum_operators.admission.server import AdmissionServer

OPERATOR = "system:serviceaccount:primum-system:primum-operator"
CONTROLLER = "system:serviceaccount:kube-system:job-controller"
RESERVATION = "0f0e0d0c-1111-5222-8333-444455556666"
ROLES = "/apis/rbac.authorization.k8s.io/v1"
REGISTERED = "/apis/admissionregistration.k8s.io/v1"
HOOKS = {
    "ValidatingWebhookConfiguration": f"{REGISTERED}/validatingwebhookconfigurations",
    "MutatingWebhookConfiguration": f"{REGISTERED}/mutatingwebhookconfigurations",
}
IMAGE = "registry.example.org/primum/worker@sha256:" + "a" * 64
GOVERNED = {"primum.dev/governed": "true"}
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def installed(control_plane):
    """The chart's roles and the platform's namespace, as its administrator installs them."""
    api = control_plane.api
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": helm.NAMESPACE}}
    api.create("/api/v1/namespaces", namespace)
    for item in helm.full():
        kind, name = item["kind"], item["metadata"]["name"]
        if kind in ("ClusterRole", "ClusterRoleBinding"):
            api.apply(f"{ROLES}/{kind.lower()}s/{name}", item)
        elif kind == "ServiceAccount" and item["metadata"]["namespace"] == helm.NAMESPACE:
            api.apply(f"/api/v1/namespaces/{helm.NAMESPACE}/serviceaccounts/{name}", item)
    return api


class Books:
    """The ledgers that the webhook looks into; the first has a reservation of namespace ward."""

    def __init__(self) -> None:
        first = MemoryLedgerStore(clock=ManualClock(), anchor=MemoryAnchor())
        account, _ = first.open_account(terms(), actor="steward")
        asked = request(account, RESERVATION, study="ward/malignancy")
        assert reserve(first, asked).code.value == "Accepted"
        self.opened: list[Any] = [first]

    def reservation(self, reservation_id: str) -> Any:
        found = (ledger.reservation(reservation_id) for ledger in self.opened)
        return next((item for item in found if item is not None), None)


@pytest.fixture(scope="module")
def ledger():
    return Books()


CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "Namespace", *HOOKS}


@pytest.mark.parametrize("rendering", ["full", "trial"])
def test_api_server_takes_what_the_chart_renders(installed, rendering: str) -> None:
    """Everything whose API these servers have; a dry run, so that nothing is left behind."""
    served = {
        (entry["groupVersion"], kind["kind"]): kind["name"]
        for group in ("/api/v1", *_groups(installed))
        for entry in (installed.get(group),)
        for kind in entry["resources"]
        if "/" not in kind["name"]
    }
    manifests = getattr(helm, rendering)()
    for item in manifests:
        if item["kind"] == "Namespace":
            installed.create("/api/v1/namespaces", item)
    taken = []
    for item in manifests:
        plural = served.get((item["apiVersion"], item["kind"]))
        if plural is None or item["kind"] == "CustomResourceDefinition":
            continue
        version = item["apiVersion"]
        root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        scope = (
            "" if item["kind"] in CLUSTER_WIDE else f"/namespaces/{item['metadata']['namespace']}"
        )
        where = f"{root}{scope}/{plural}/{item['metadata']['name']}"
        query = "?dryRun=All&fieldManager=chart&force=true"
        apply = "application/apply-patch+yaml"
        code, body = installed.request("PATCH", where + query, item, kind=apply)
        assert code in (200, 201), f"{where}: {body}"
        taken.append(item["kind"])
    assert {
        "Deployment",
        "Service",
        "NetworkPolicy",
        "ClusterRole",
        "PersistentVolumeClaim",
    } <= set(taken)


def _groups(api) -> list[str]:
    groups = api.get("/apis")["groups"]
    return [f"/apis/{item['groupVersion']}" for group in groups for item in group["versions"]]


@pytest.fixture(scope="module")
def door(control_plane, installed, ledger, tmp_path_factory):
    """The webhook at work with its own rights; the configuration is the chart's."""
    folder = tmp_path_factory.mktemp("door")
    authority = Authority(folder, "webhook-ca")
    certificate, key = authority.issue("webhook")
    pathlib.Path(certificate).rename(folder / "tls.crt")
    pathlib.Path(key).rename(folder / "tls.key")
    token = control_plane.token(helm.NAMESPACE, "primum-webhook")
    client = KubeApi(control_plane.kubeconfig_of("webhook", token))
    lookups = ClusterLookups(client, reservation=ledger.reservation)
    site = SiteSettings(operators=(OPERATOR,), controllers=(CONTROLLER,))
    server = AdmissionServer(
        ("127.0.0.1", 0),
        folder,
        judge=judge_with(site, lookups),
        patch=patch_with(site),
        ready=lambda: True,
    )
    server.start()
    for kind, where in HOOKS.items():
        (found,) = [item for item in helm.default() if item["kind"] == kind]
        configuration = copy.deepcopy(found)
        for hook in configuration["webhooks"]:
            service = hook["clientConfig"].pop("service")
            hook["clientConfig"]["url"] = f"https://127.0.0.1:{server.server_port}{service['path']}"
            bundle = pathlib.Path(authority.file).read_bytes()
            hook["clientConfig"]["caBundle"] = base64.b64encode(bundle).decode()
        installed.apply(f"{where}/primum", configuration)
    installed.create(
        "/api/v1/namespaces",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ward", "labels": GOVERNED}},
    )
    _wait_until_it_refuses(installed)
    yield installed
    for where in HOOKS.values():
        installed.delete(f"{where}/primum")
    server.shutdown()
    server.server_close()
    client.close()


def _wait_until_it_refuses(api) -> None:
    """The API server takes a moment to call a webhook that was just configured."""
    waiting = threading.Event()
    for _ in range(100):
        if api.request("POST", f"{PODS}?dryRun=All", pod("probe", "primum-dataset-x"))[0] == 403:
            return
        waiting.wait(0.2)
    raise AssertionError("the webhook is not called")


PODS = "/api/v1/namespaces/ward/pods"
CLAIMS = "/api/v1/namespaces/ward/persistentvolumeclaims"


def pod(name: str, claim: str = "", *, labels: dict[str, str] | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = {"containers": [{"name": "main", "image": IMAGE}]}
    if claim:
        spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
    metadata = {"name": name, "labels": labels or {}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def claim(name: str, **more: Any) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    kind = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    return {**kind, "metadata": {"name": name, **more}, "spec": spec}


def bind(api, namespace: str, role: str, user: str) -> None:
    """Give a user a role in a namespace."""
    body = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": f"{role}-{user}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}],
    }
    api.create(f"{ROLES}/namespaces/{namespace}/rolebindings", body)
    api.wait_for_right(namespace, user, api.get(f"{ROLES}/clusterroles/{role}"))


def refused(answer: tuple[int, dict[str, Any]], part: str) -> None:
    code, body = answer
    assert code == 403, (code, body)
    assert part in body["message"]
    assert "denied the request" in body["message"], "refused by its rights, not at the door"


def test_pod_that_mounts_private_data_needs_a_reservation_of_its_namespace(door) -> None:
    mounting = pod("reader", "primum-dataset-scans")
    refused(door.request("POST", PODS, mounting), "must carry the id of its reservation")
    labels = {"primum.dev/reservation": RESERVATION}
    labelled = pod("reader", "primum-dataset-scans", labels=labels)
    refused(door.request("POST", PODS, labelled), "must be made by the operator")
    unknown = {"primum.dev/reservation": RESERVATION.replace("0f", "1f")}
    asked = pod("reader", "primum-dataset-scans", labels=unknown)
    answer = door.request("POST", PODS, asked, as_user=f"{OPERATOR},system:masters")
    refused(answer, "must name an open reservation")
    code, body = door.request("POST", PODS, labelled, as_user=f"{OPERATOR},system:masters")
    assert code == 201, body
    assert door.request("POST", PODS, pod("harmless"))[0] == 201


def test_reservation_of_another_namespace_opens_nothing(door) -> None:
    name = {"name": "other-ward", "labels": GOVERNED}
    door.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": name})
    labels = {"primum.dev/reservation": RESERVATION}
    answer = door.request(
        "POST",
        "/api/v1/namespaces/other-ward/pods",
        pod("reader", "primum-dataset-scans", labels=labels),
        as_user=f"{OPERATOR},system:masters",
    )
    refused(answer, "must name an open reservation")


def test_job_with_a_borrowed_reservation_is_refused(door) -> None:
    template = pod("x", labels={"primum.dev/reservation": RESERVATION})
    body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "borrowed"},
        "spec": {
            "template": {
                "metadata": {"labels": template["metadata"]["labels"]},
                "spec": template["spec"] | {"restartPolicy": "Never"},
            }
        },
    }
    jobs = "/apis/batch/v1/namespaces/ward/jobs"
    refused(door.request("POST", jobs, body), "only the operator may put")
    as_operator = door.request("POST", jobs, body, as_user=f"{OPERATOR},system:masters")
    assert as_operator[0] == 201, as_operator
    merge = "application/merge-patch+json"
    stolen = {"spec": {"suspend": True}, "metadata": {"labels": {"mine": "yes"}}}
    refused(
        door.request("PATCH", f"{jobs}/borrowed", {"spec": {"backoffLimit": 9}}, kind=merge),
        "only the operator may put",
    )
    label = {"metadata": stolen["metadata"]}
    assert door.request("PATCH", f"{jobs}/borrowed", label, kind=merge)[0] == 200


def test_claims_show_in_their_name_that_they_are_private(door) -> None:
    label = {"primum.dev/dataset": "scans"}
    refused(door.request("POST", CLAIMS, claim("primum-dataset-scans")), "go together")
    refused(door.request("POST", CLAIMS, claim("scans", labels=label)), "go together")
    code, body = door.request("POST", CLAIMS, claim("primum-dataset-scans", labels=label))
    assert code == 201, body
    copied = claim("copied")
    copied["spec"]["dataSource"] = {
        "kind": "PersistentVolumeClaim",
        "name": "primum-dataset-scans",
    }
    refused(door.request("POST", CLAIMS, copied), "a copy of protected data")


def test_image_of_the_platform_without_a_digest_is_refused(door) -> None:
    ours = pod("tagged", labels={"app.kubernetes.io/part-of": "primum"})
    ours["spec"]["containers"][0]["image"] = "worker:0.1.0"
    refused(door.request("POST", PODS, ours), "must be named by digest")


def test_nobody_enters_a_pod(door) -> None:
    door.create(PODS, pod("entered"))
    answer = door.request("POST", f"{PODS}/entered/exec?command=sh&stdout=true")
    refused(answer, "must not be entered")


def test_guarantee_is_never_raised_and_lies_in_governed_namespaces(door, namespace) -> None:
    budget = manifest("PrivacyBudget", "wisconsin", BUDGET)
    refused(
        door.request("POST", path("PrivacyBudget", namespace), budget), "must lie in a namespace"
    )
    code, body = door.request("POST", path("PrivacyBudget", "ward"), budget)
    assert code == 201, body
    raised = {"spec": {"guarantee": {"epsilon": "8.1"}}}
    code, body = door.request(
        "PATCH",
        path("PrivacyBudget", "ward", "wisconsin"),
        raised,
        kind="application/merge-patch+json",
    )
    assert code in (403, 422), body
    assert "can only be lowered" in body["message"]
    door.delete(path("PrivacyBudget", "ward", "wisconsin"))


def test_study_needs_the_right_to_use_each_budget(door) -> None:
    """A right to create Studies alone is not enough: no escalation through the operator."""
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "only-studies"},
        "rules": [{"apiGroups": ["primum.dev"], "resources": ["studies"], "verbs": ["create"]}],
    }
    door.create(f"{ROLES}/clusterroles", role)
    bind(door, "ward", "only-studies", "guest")
    study = manifest("Study", "malignancy", STUDY)
    where = path("Study", "ward")
    refused(door.request("POST", where, study, as_user="guest"), "must have the verb use")
    bind(door, "ward", "primum-scientist", "lena")
    code, body = door.request("POST", where, study, as_user="lena")
    assert code == 201, body
    door.delete(path("Study", "ward", "malignancy"))


def test_status_is_the_operators_word(door) -> None:
    study = manifest("Study", "watched", STUDY)
    door.post(path("Study", "ward"), study)
    where = path("Study", "ward", "watched") + "/status"
    told = {"status": {"stage": "Release", "conditions": []}}
    merge = "application/merge-patch+json"
    refused(door.request("PATCH", where, told, kind=merge), "must be written by the operator")
    bind(door, "ward", "primum-operator-governed", OPERATOR)
    code, body = door.request("PATCH", where, told, kind=merge, as_user=OPERATOR)
    assert code == 200, body
    assert body["status"]["stage"] == "Release"
    door.delete(path("Study", "ward", "watched"))


# Roles: whoever is forbidden here is forbidden by their rights; the webhook is not asked for it.

BODIES = {
    "PrivacyBudget": manifest("PrivacyBudget", "b", BUDGET),
    "Study": manifest("Study", "s", STUDY),
    "GatePolicy": manifest("GatePolicy", "g", {"extends": "strict"}),
}
MAY = {
    "primum-reader": {"list"},
    "primum-scientist": {"list", "Study"},
    "primum-steward": {"list", "PrivacyBudget"},
    "primum-compliance": {"list", "GatePolicy"},
    "primum-auditor": {"list"},
    "primum-submitter": {"Study"},
}


@pytest.fixture
def governed(installed, namespace):
    body = {"metadata": {"labels": GOVERNED}}
    installed.merge(f"/api/v1/namespaces/{namespace}", body)
    return namespace


@pytest.mark.parametrize("role", MAY)
def test_role_may_what_it_should_and_no_more(installed, governed, role) -> None:
    user = f"user-of-{role}"
    bind(installed, governed, role, user)
    assert may(installed, governed, user) == MAY[role]
    for kind in ("PrivacyBudget", "Study"):
        status = path(kind, governed, "x") + "/status"
        code, _ = installed.request(
            "PATCH", status, {"status": {}}, kind="application/merge-patch+json", as_user=user
        )
        assert code == 403, f"{role} may write a status"
    assert installed.request("GET", secrets_of(governed), as_user=user)[0] == 403


def may(api, namespace: str, user: str) -> set[str]:
    """Kinds that a user may declare, and whether they may list; nothing is left behind."""
    found = {
        kind
        for kind, body in BODIES.items()
        if api.request("POST", f"{path(kind, namespace)}?dryRun=All", body, as_user=user)[0] == 201
    }
    listed = api.request("GET", path("GatePolicy", namespace), as_user=user)[0] == 200
    return found | ({"list"} if listed else set())


def secrets_of(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/secrets"


@pytest.mark.parametrize(("cluster_role", "ours"), [("view", "reader"), ("edit", "scientist")])
def test_clusters_own_roles_take_ours_in(installed, cluster_role: str, ours: str) -> None:
    """By the API server's own selectors; its controller manager adds the rules."""
    rule = installed.get(f"{ROLES}/clusterroles/{cluster_role}")["aggregationRule"]
    labels = {
        item["metadata"]["name"]: item["metadata"].get("labels", {})
        for item in installed.get(f"{ROLES}/clusterroles")["items"]
        if item["metadata"]["name"].startswith("primum-")
    }
    taken = {
        name
        for name, found in labels.items()
        for selector in rule["clusterRoleSelectors"]
        if selector["matchLabels"].items() <= found.items()
    }
    assert taken == {f"primum-{ours}"}


def test_operator_may_nothing_outside_governed_namespaces(installed, governed, namespace) -> None:
    other = "not-governed"
    installed.create(
        "/api/v1/namespaces",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}},
    )
    bind(installed, governed, "primum-operator-governed", OPERATOR)

    def code(verb: str, where: str) -> int:
        return installed.request(verb, where, as_user=OPERATOR)[0]

    for kind in ("Study", "PrivacyBudget"):
        assert code("GET", path(kind, governed)) == 200
        assert code("GET", path(kind, other)) == 403
    assert code("GET", f"/apis/batch/v1/namespaces/{other}/jobs") == 403
    assert code("GET", secrets_of(governed)) == 403
    assert code("GET", "/api/v1/namespaces") == 200


def test_api_server_says_who_calls_and_which_roles_they_hold(
    control_plane, installed, namespace
) -> None:
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    for name in ("ada", "bob"):
        made = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
        installed.post(accounts, made)
    body = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"stewards-{namespace}"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "primum-api-steward",
        },
        "subjects": [{"kind": "ServiceAccount", "name": "ada", "namespace": namespace}],
    }
    installed.post(f"{ROLES}/clusterrolebindings", body)
    token = control_plane.token(helm.NAMESPACE, "primum-api")
    client = KubeApi(control_plane.kubeconfig_of("api", token))
    passing = iter(range(0, 1000, 31))  # Each look is later than what is remembered.
    identities = ClusterIdentities(client, monotonic=lambda: float(next(passing)))
    try:
        ada = control_plane.token(namespace, "ada")
        found = identities.identify(ada)
        assert found.name == f"system:serviceaccount:{namespace}:ada"
        assert found.roles == {Role.STEWARD}
        assert identities.identify(control_plane.token(namespace, "bob")).roles == frozenset()
        assert identities.identify("not.a.token") is NOBODY
        assert identities.identify("") is NOBODY
        installed.delete(f"{ROLES}/clusterrolebindings/stewards-{namespace}")
        deadline = threading.Event()
        for _ in range(20):
            if not identities.identify(ada).roles:
                break
            deadline.wait(0.2)
        assert identities.identify(ada).roles == frozenset()
    finally:
        client.close()


class OwnRights(Clinic):
    """A clinic whose operator has the rights of its service account and no others."""

    kubeconfig = ""

    def replica(self, identity: str, kubeconfig: str = "", **changes: object) -> Any:
        return super().replica(identity, self.kubeconfig, **changes)


def test_study_ends_with_the_operators_own_rights_and_the_door_closed(
    door, control_plane, ledger, namespace
) -> None:
    """From apply to a served Release: what the chart grants is enough, and the webhook agrees."""
    door.merge(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": GOVERNED}})
    bind(door, namespace, "primum-operator-governed", OPERATOR)
    for item in helm.full():
        if item["kind"] in ("Role", "RoleBinding") and "lease" in item["metadata"]["name"]:
            body = copy.deepcopy(item)  # The clinic keeps its Lease in the test's own namespace.
            body["metadata"]["namespace"] = namespace
            where = f"{ROLES}/namespaces/{namespace}/{item['kind'].lower()}s"
            door.create(where, body)
    clinic = OwnRights(control_plane, namespace)
    ledger.opened.append(clinic.ledger)
    token = control_plane.token(helm.NAMESPACE, "primum-operator")
    clinic.kubeconfig = control_plane.kubeconfig_of("operator", token)
    with clinic.working():
        clinic.budget()
        uid = clinic.study()
        clinic.wait_ended("one")
        clinic.wait(lambda: clinic.shown("Release", "risk", "Ready") == "True Serving")
        assert clinic.shown("Study", "one", "Succeeded") == "True Done"
        clinic.delete("Study", "one")
        clinic.wait(lambda: clinic.get("Study", "one") is None)
    assert clinic.states(uid) == ["Charged"]
    assert 403 not in {code for _, code in clinic.requests}, "a right is missing"


def test_webhook_may_read_three_things(control_plane, installed, namespace) -> None:
    token = control_plane.token(helm.NAMESPACE, "primum-webhook")
    client = KubeApi(control_plane.kubeconfig_of("webhook-rights", token))
    try:
        assert client.get(f"/api/v1/namespaces/{namespace}") is not None
        lookups = ClusterLookups(client, reservation=lambda _: None)
        assert lookups.release(namespace, "none") is None
        asked = {"username": "stranger", "groups": []}
        assert not lookups.allowed(
            asked, verb="use", group="primum.dev", resource="privacybudgets", key=(namespace, "x")
        )
    finally:
        client.close()
    user = f"system:serviceaccount:{helm.NAMESPACE}:primum-webhook"
    for where in (secrets_of(namespace), path("Study", namespace)):
        assert installed.request("GET", where, as_user=user)[0] == 403


def test_webhook_process_answers_and_ends_when_asked(
    control_plane, installed, tmp_path, monkeypatch
) -> None:
    """What the chart starts: with its arguments, its settings, its rights, and a database."""
    from primum.adapters.sql import migrate

    authority = Authority(tmp_path, "webhook-ca")
    certificate, key = authority.issue("webhook")
    pathlib.Path(certificate).rename(tmp_path / "tls.crt")
    pathlib.Path(key).rename(tmp_path / "tls.key")
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    migrate(url)
    token = control_plane.token(helm.NAMESPACE, "primum-webhook")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "primum_operators.admission"),
            *(f"--port={port}", f"--certificates={tmp_path}"),
            *(f"--operator={OPERATOR}", f"--controller={CONTROLLER}"),
            f"--kubeconfig={control_plane.kubeconfig_of('webhook-process', token)}",
        ],
        env={**os.environ, "PRIMUM_HOME": str(tmp_path), "PRIMUM_DATABASE_URL": url},
        stderr=subprocess.PIPE,
    )
    client = Api(f"https://127.0.0.1:{port}", authority.file)
    try:
        assert _answers(client) == (200, {"status": "ready"})
        labels = {"primum.dev/reservation": RESERVATION}
        asked = admission_request(
            "pods", pod("p", "primum-dataset-x", labels=labels), user=OPERATOR, namespace="ward"
        )
        body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked}
        _, answer = client.request("POST", "/governed", body)
        assert answer["response"]["allowed"] is False
        assert "must name an open reservation" in answer["response"]["status"]["message"]
    finally:
        process.terminate()
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert RESERVATION.encode() not in said


def _answers(client: Api) -> tuple[int, Any]:
    waiting = threading.Event()
    for _ in range(150):
        with contextlib.suppress(OSError):
            return client.request("GET", "/readyz")
        waiting.wait(0.2)
    raise AssertionError("the webhook did not start")


def test_who_asks_is_who_the_api_server_says(door, connect, control_plane) -> None:
    """Whatever somebody writes onto a Study, its quota is theirs, and stays so."""
    bind(door, "ward", "primum-scientist", "tom@hospital.example")
    where, user = path("Study", "ward"), "tom@hospital.example"
    study = manifest("Study", "forged", STUDY)
    forged = {"primum.dev/requester": "lena", "mine": "yes"}
    study["metadata"] |= {"labels": forged, "annotations": {"primum.dev/requester": "lena"}}
    code, body = door.request("POST", where, study, as_user=user)
    assert code == 201, body
    assert body["metadata"]["annotations"]["primum.dev/requester"] == user
    assert body["metadata"]["labels"] == {**forged, "primum.dev/requester": requester_label(user)}
    store = KubeResourceStore(connect(control_plane.kubeconfig), namespaces=("ward",))
    stored = store.get(ResourceKey("Study", "ward", "forged"))
    assert stored.labels["primum.dev/requester"] == user
    platform = dataclasses.replace(make_platform(), resources=store)
    assert asker_of(platform, study_spec(stored)).requester == user
    merge = "application/merge-patch+json"
    for part in ("labels", "annotations"):
        for value in ("lena", None):
            change = {"metadata": {part: {"primum.dev/requester": value}}}
            answer = door.request("PATCH", f"{where}/forged", change, as_user=user, kind=merge)
            refused(answer, "must stay what it was")
    harmless = {"metadata": {"labels": {"mine": "no"}}}
    answer = door.request("PATCH", f"{where}/forged", harmless, as_user=user, kind=merge)
    assert answer[0] == 200, answer
    door.delete(f"{where}/forged")


def test_a_quota_per_requester_holds_whatever_label_was_written(door) -> None:
    """Two Studies of one user under two false names share one quota."""
    bind(door, "ward", "primum-scientist", "eve")
    ledger = MemoryLedgerStore(clock=ManualClock(), anchor=MemoryAnchor())
    account, _ = ledger.open_account(terms(), actor="steward")
    assert reserve(ledger, request(account, "of-another", HALF, requester="another")).stands
    quota = Quota(QuotaScope.REQUESTER, ledger.account(account).epsilon_reserved + Decimal("0.1"))
    assert ledger.configure(account, Rules(quotas=(quota,)), key="k", actor="steward").stands
    asked = []
    for name in ("ada", "bob"):
        study = manifest("Study", f"by-{name}", STUDY)
        study["metadata"]["labels"] = {"primum.dev/requester": name}
        code, body = door.request("POST", path("Study", "ward"), study, as_user="eve")
        assert code == 201, body
        stored = stored_resource(body)
        asked.append(stored.labels["primum.dev/requester"])
        door.delete(path("Study", "ward", f"by-{name}"))
    assert asked == ["eve", "eve"]
    codes = [
        reserve(ledger, request(account, f"r{number}", HALF, requester=who)).code.value
        for number, who in enumerate(asked)
    ]
    assert codes == ["Accepted", "OverQuota"]
