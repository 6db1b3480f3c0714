"""The chart's roles, each tried by acting as it: what people may do, and above all what not."""

from __future__ import annotations

import copy

import pytest
from manifests import BUDGET, STUDY, manifest, path

CREATED, OK, FORBIDDEN = 201, 200, 403
POLICY = {"extends": "clinical-default"}
AUDIT = {"study": "malignancy", "audit": {"kind": "Membership", "attack": "OneRunCanary"}}
DIGEST = "sha256:" + "1" * 64
RELEASE = {
    "kind": "Endpoint",
    "artifact": {"kind": "Model", "uri": "file:///artifacts/m", "digest": DIGEST},
    "certificate": {"uri": "file:///c.json", "digest": DIGEST},
    "claim": {"standing": "Valid", "epsilon": "3.0", "delta": "1e-5", "unit": "Patient"},
    "study": {"name": "malignancy", "uid": "5d1c7f0e-0000-4000-8000-000000000001", "generation": 1},
    "endpoint": "malignancy",
}
RELEASE["claim"]["neighbors"] = "AddOrRemoveOne"
SPECS = {
    "PrivacyBudget": BUDGET,
    "Study": STUDY,
    "GatePolicy": POLICY,
    "Release": RELEASE,
    "AuditRun": AUDIT,
}
ROLES = ("reader", "scientist", "steward", "compliance", "auditor", "submitter")
MAY_CREATE = {
    "scientist": {"Study"},
    "steward": {"PrivacyBudget"},
    "compliance": {"GatePolicy"},
    "auditor": {"AuditRun"},
    "submitter": {"Study", "AuditRun"},
}
MAY_NOT_LIST = {"submitter": {"PrivacyBudget", "GatePolicy"}}
REVOKED = {"spec": {"revocation": {"reason": "somebody asked"}}}


@pytest.fixture(scope="module")
def namespace(governed):
    return governed


@pytest.fixture(scope="module")
def act(control_plane, namespace):
    """A function that makes a request as somebody who has one role here."""
    api = control_plane.api
    for role in ROLES:
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": role},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": f"primum-{role}",
            },
            "subjects": [
                {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": f"a-{role}"}
            ],
        }
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        api.post(f"{rbac}/namespaces/{namespace}/rolebindings", binding)
        bound = api.get(f"{rbac}/clusterroles/primum-{role}")
        api.wait_for_right(namespace, f"a-{role}", bound)

    def request(role, verb, where, body=None, **kind):
        code, _ = api.request(verb, where, body, as_user=f"a-{role}", **kind)
        return code

    return request


@pytest.fixture(scope="module")
def declared(control_plane, namespace):
    """One object of every kind."""
    for kind, spec in SPECS.items():
        control_plane.api.post(path(kind, namespace), manifest(kind, "malignancy", spec))


@pytest.mark.parametrize("role", ROLES)
def test_each_role_creates_its_own_kinds_and_no_others(act, namespace, role):
    found = {
        kind: act(role, "POST", path(kind, namespace) + "?dryRun=All", manifest(kind, "a", spec))
        for kind, spec in SPECS.items()
    }
    allowed = MAY_CREATE.get(role, set())
    assert found == {kind: CREATED if kind in allowed else FORBIDDEN for kind in SPECS}


@pytest.mark.parametrize("role", ROLES)
def test_each_role_reads(act, declared, namespace, role):
    hidden = MAY_NOT_LIST.get(role, set())
    found = {kind: act(role, "GET", path(kind, namespace)) for kind in SPECS}
    assert found == {kind: FORBIDDEN if kind in hidden else OK for kind in SPECS}


@pytest.mark.parametrize("role", ROLES)
def test_nobody_writes_a_status(act, declared, namespace, role):
    body = {"status": {"observedGeneration": 99}}
    kind = "application/merge-patch+json"
    found = {
        act(role, "PATCH", path(k, namespace, "malignancy") + "/status", body, kind=kind)
        for k in SPECS
    }
    assert found == {FORBIDDEN}


@pytest.mark.parametrize("role", ROLES)
def test_only_stewards_change_budgets(act, declared, namespace, role):
    where = path("PrivacyBudget", namespace, "malignancy")
    lowered = {"spec": {"guarantee": {"epsilon": "1.0"}}}
    kind = "application/merge-patch+json"
    code = act(role, "PATCH", where + "?dryRun=All", lowered, kind=kind)
    assert code == (OK if role == "steward" else FORBIDDEN)
    code = act(role, "DELETE", where + "?dryRun=All")
    assert code == (OK if role == "steward" else FORBIDDEN)


@pytest.mark.parametrize("role", ROLES)
def test_only_compliance_takes_releases_back(act, declared, namespace, role):
    where = path("Release", namespace, "malignancy")
    code = act(role, "PATCH", where, REVOKED, kind="application/merge-patch+json")
    assert code == (OK if role == "compliance" else FORBIDDEN)
    assert act(role, "DELETE", where) == FORBIDDEN


def test_a_revocation_is_final(api, act, namespace):
    where = path("Release", namespace, "final")
    api.post(path("Release", namespace), manifest("Release", "final", RELEASE))
    merge = "application/merge-patch+json"
    assert act("compliance", "PATCH", where, REVOKED, kind=merge) == OK
    undone = {"spec": {"revocation": None}}
    assert act("compliance", "PATCH", where, undone, kind=merge) == 422
    other = copy.deepcopy(RELEASE["artifact"]) | {"uri": "file:///other"}
    changed = {"spec": {"artifact": other}}
    assert act("compliance", "PATCH", where, changed, kind=merge) == 422


@pytest.mark.parametrize("role", ROLES)
def test_nobody_reads_secrets_or_opens_pods(act, namespace, role):
    core = f"/api/v1/namespaces/{namespace}"
    assert act(role, "GET", f"{core}/secrets") == FORBIDDEN
    assert act(role, "GET", f"{core}/pods") == FORBIDDEN
    assert act(role, "POST", f"{core}/pods/a/exec") == FORBIDDEN


@pytest.mark.parametrize("role", ROLES)
def test_a_role_of_one_namespace_is_none_elsewhere(act, api, role):
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "elsewhere"}}
    api.create("/api/v1/namespaces", body)
    assert {act(role, "GET", path(kind, "elsewhere")) for kind in SPECS} == {FORBIDDEN}


OPERATOR = "system:serviceaccount:primum-system:primum-operator"
MAY_NOT = [
    ("GET", "/api/v1/namespaces/{namespace}/secrets"),
    ("GET", "/api/v1/namespaces/{namespace}/secrets/anything"),
    ("GET", "/api/v1/secrets"),
    ("GET", "/api/v1/namespaces/{namespace}/pods"),
    ("POST", "/api/v1/namespaces/{namespace}/pods"),
    ("POST", "/api/v1/namespaces/{namespace}/pods/a/exec"),
    ("POST", "/apis/primum.dev/v1alpha1/namespaces/{namespace}/privacybudgets"),
    ("POST", "/apis/primum.dev/v1alpha1/namespaces/{namespace}/studies"),
    ("DELETE", "/apis/primum.dev/v1alpha1/namespaces/{namespace}/privacybudgets/malignancy"),
    ("GET", "/apis/primum.dev/v1alpha1/studies"),
    ("GET", "/apis/primum.dev/v1alpha1/namespaces/default/studies"),
    ("POST", "/apis/batch/v1/namespaces/default/jobs"),
    ("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"),
    ("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"),
]


@pytest.mark.parametrize(("verb", "where"), MAY_NOT)
def test_the_operator_has_no_more_rights_than_it_needs(api, namespace, verb, where):
    code, _ = api.request(verb, where.format(namespace=namespace), {}, as_user=OPERATOR)
    assert code == FORBIDDEN
