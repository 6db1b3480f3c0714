"""The chart's ValidatingAdmissionPolicies, judged by Kubernetes 1.36's own code.

The CRD server of the tests is of that version; it reads the policies from a shelf beside the older
kube-apiserver (tests/support/policy_shelf.py). It judges what it keeps: our own kinds as they are,
and for Kubernetes' kinds custom objects of the same form in groups of the test's. Subresources of
pods, and namespaces themselves, it cannot keep: those rules are asked by the CEL engine alone, in
tests/contract/test_admission.py, whose cases these are.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import pathlib
import time

import helm
import pytest
from admission_requests import BACKUP, OPERATOR
from control_plane import ControlPlane, MissingAssets, find_assets
from manifests import BUDGET, STUDY, manifest, path

from primum.resources.kinds import KINDS
from primum_operators.admission.policies import POLICIES
from primum_operators.schema import crd

SETUP = "setup"  # Whom no policy judges: makes what is there before.
VALUES = (
    *("--set", "governed.namespaces={ward}"),
    *("--set", f"policies.trustedUsers={{{BACKUP}}}"),
    *("--set", "integrations.kueue.enabled=true", "--set", "integrations.kueue.queue=gpu"),
    *("--api-versions", ",".join(helm.APIS)),
)
FORBIDDEN = 403


def cases():
    """The table of the CEL engine's tests: (policy, what is said or nothing, request)."""
    where = pathlib.Path(__file__).parents[1] / "contract" / "test_admission.py"
    spec = importlib.util.spec_from_file_location("admission_cases", where)
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    rules = {p.name: [rule.message for rule in p.rules] for p in POLICIES}
    found = [(name, "", asked) for name, _, asked in table.ACCEPTED]
    for name, part, _, asked in table.REFUSED:
        if any(part in message for message in rules[name]):  # Not by what the webhook looks up.
            found.append((name, part, asked))
    return [case for case in found if can_be_kept(case[2])]


def can_be_kept(asked):
    """Whether a CRD server can be asked it."""
    resource = asked["resource"]
    return (
        not asked["subResource"]
        and asked["object"] is not None
        and asked["operation"] in ("CREATE", "UPDATE")
        and resource["group"] != "primum.dev"
        and resource["resource"] != "namespaces"
        and "name" in asked["object"].get("metadata", {})
        and asked["object"]["metadata"].get("deletionTimestamp") is None
    )


CASES = cases()
KIND_OF = {  # As the rules know them, where they look at it.
    asked["resource"]["resource"]: asked["object"]["kind"]
    for *_, asked in CASES
    if "kind" in asked["object"]
}


def group_of(group):
    """The group of the test's that stands for one of Kubernetes' own."""
    if group.endswith(".k8s.io"):
        return group.removesuffix(".k8s.io") + ".example.org"
    return group if "." in group else f"{group or 'core'}.example.org"


def policies():
    """The chart's, each in a namespace of its own, over the groups that stand for Kubernetes'."""
    for item in helm.rendered(*VALUES):
        if not item["kind"].startswith("ValidatingAdmissionPolicy"):
            continue
        made = copy.deepcopy(item)
        spec, name = made["spec"], made["metadata"]["name"].removeprefix("primum-")
        if item["kind"] == "ValidatingAdmissionPolicy":
            for rule in spec["matchConstraints"]["resourceRules"]:
                rule["apiGroups"] = [group_of(group) for group in rule["apiGroups"]]
            judged = {"name": "judged", "expression": f"request.userInfo.username != '{SETUP}'"}
            spec["matchConditions"] = [*spec.get("matchConditions", ()), judged]
        else:
            only = {"key": "policy", "operator": "In", "values": [name, "all"]}
            found = spec.setdefault("matchResources", {}).setdefault("namespaceSelector", {})
            found["matchExpressions"] = [only]
        yield made


@pytest.fixture(scope="module")
def plane(pytestconfig):
    try:
        assets = find_assets(pytestconfig.cache.mkdir("kube-assets"))
    except MissingAssets as missing:
        if os.environ.get("PRIMUM_TEST_CONTROL_PLANE") == "required":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    if "apiextensions-apiserver" not in assets:
        pytest.skip("no CRD server of its own here")
    assets.pop("kube-controller-manager", None)
    made = ControlPlane(assets, policies=policies())
    try:
        made.start()
        made.install([crd(kind) for kind in KINDS.values()])
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def server(plane):
    """The CRD server itself, with a kind for each of Kubernetes' kinds that policies are about."""
    api = plane._extensions_api()
    kinds = {(asked["resource"]["group"], asked["resource"]["resource"]) for *_, asked in CASES}
    where = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for group, plural in sorted(kinds):
        api.post(where, stand_in(group_of(group), plural))
    for group, plural in sorted(kinds):
        end = time.monotonic() + 120
        while api.request("GET", f"/apis/{group_of(group)}/v1/{plural}")[0] != 200:
            assert time.monotonic() < end, (group, plural)
            time.sleep(0.1)
    for name in ("all", *{case[0] for case in CASES}):
        governed = {"primum.dev/governed": "true"}
        for first, labels in (("p", governed), ("u", {})):
            metadata = {"name": f"{first}-{name}", "labels": {**labels, "policy": name}}
            plane.api.post("/api/v1/namespaces", {"metadata": metadata})
    return api


def stand_in(group, plural):
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    kind = kind_of(plural)
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": anything},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [version],
        },
    }


def kind_of(plural):
    return KIND_OF.get(plural, plural.removesuffix("s").capitalize())


def identify(case):
    name, part, asked = case
    outcome = "refused" if part else "passes"
    return f"{name}-{asked['operation']}-{asked['resource']['resource']}-{outcome}"


def judged(server, name, asked, *, governed=True):
    """Code and message of a request, in the namespace where this policy alone is bound."""
    namespace = f"{'p' if governed else 'u'}-{name}"
    resource = asked["resource"]
    group, plural = group_of(resource["group"]), resource["resource"]
    where = f"/apis/{group}/v1/namespaces/{namespace}/{plural}"

    def body(obj):
        made = copy.deepcopy(obj)
        made |= {"apiVersion": f"{group}/v1", "kind": kind_of(plural)}
        made["metadata"] = {
            k: v for k, v in made["metadata"].items() if k in ("name", "labels", "annotations")
        }
        return made

    wanted = body(asked["object"])
    one = f"{where}/{wanted['metadata']['name']}"
    setup = {"as_user": f"{SETUP},system:masters"}
    who = asked["userInfo"]["username"].replace(":oncology:", f":{namespace}:")
    user = {"as_user": f"{who},system:masters"}
    server.request("DELETE", one, **setup)
    if asked["operation"] == "UPDATE":
        code, there = server.request("POST", where, body(asked["oldObject"]), **setup)
        assert code == 201, there
        wanted["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"]
        code, said = server.request("PUT", one, wanted, **user)
    else:
        code, said = server.request("POST", where, wanted, **user)
    server.request("DELETE", one, **setup)
    return code, str(said.get("message", ""))


def test_most_cases_can_be_asked():
    assert len(CASES) >= 80
    assert {name for name, *_ in CASES} >= {"dataset-mounts", "ray-jobs", "endpoints"}


@pytest.mark.parametrize("case", CASES, ids=identify)
def test_kubernetes_judges_as_our_engine_does(case, server):
    name, part, asked = case
    code, said = judged(server, name, asked, governed="must lie in a namespace" not in part)
    if part:
        assert (code, part in said) == (FORBIDDEN, True), said
        assert f"'primum-{name}'" in said
    else:
        assert code in (200, 201), said


def test_a_promise_is_made_in_governed_namespaces_and_only_lowered(plane, server):
    api, budget = plane.api, manifest("PrivacyBudget", "wisconsin", BUDGET)
    code, said = api.request("POST", path("PrivacyBudget", "u-all"), budget)
    assert (code, "must lie in a namespace" in said["message"]) == (FORBIDDEN, True)
    assert api.request("POST", path("PrivacyBudget", "p-all"), budget)[0] == 201
    raised = {"spec": {"guarantee": {"epsilon": "8.1"}}}
    where = path("PrivacyBudget", "p-all", "wisconsin")
    code, said = api.request("PATCH", where, raised, kind="application/merge-patch+json")
    assert code in (403, 422)
    assert "can only be lowered" in said["message"]
    lowered = {"spec": {"guarantee": {"epsilon": "7.5"}}}
    assert api.merge(where, lowered)["spec"]["guarantee"]["epsilon"] == "7.5"


def test_a_study_needs_the_right_to_use_its_budget_asked_of_the_real_authorizer(plane, server):
    api, rbac = plane.api, "/apis/rbac.authorization.k8s.io/v1"
    create = {"apiGroups": ["primum.dev"], "resources": ["studies"], "verbs": ["create"]}
    use = {
        "apiGroups": ["primum.dev"],
        "resources": ["privacybudgets"],
        "resourceNames": ["wisconsin"],
        "verbs": ["use"],
    }
    for user, rules in (("guest", [create]), ("lena", [create, use])):
        role = {"metadata": {"name": user}, "rules": rules}
        api.post(f"{rbac}/namespaces/p-all/roles", role)
        binding = {
            "metadata": {"name": user},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
            "subjects": [
                {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user},
            ],
        }
        api.post(f"{rbac}/namespaces/p-all/rolebindings", binding)
        api.wait_for_right("p-all", user, {"rules": [create]})
    where, study = path("Study", "p-all"), manifest("Study", "malignancy", STUDY)
    code, said = api.request("POST", where, study, as_user="guest")
    assert (code, "must have the verb use" in said["message"]) == (FORBIDDEN, True)
    end = time.monotonic() + 60  # An authorizer remembers a no for a while.
    while (answer := api.request("POST", where, study, as_user="lena"))[0] != 201:
        assert time.monotonic() < end, answer
        time.sleep(0.5)


def test_a_status_is_the_operators_word(plane, server):
    api, merge = plane.api, "application/merge-patch+json"
    where = path("Study", "p-all")
    api.create(where, manifest("Study", "watched", STUDY))
    told = {"status": {"stage": "Release", "conditions": []}}
    code, said = api.request("PATCH", f"{where}/watched/status", told, kind=merge)
    assert (code, "must be written by the operator" in said["message"]) == (FORBIDDEN, True)
    as_operator = f"{OPERATOR},system:masters"
    code, said = api.request(
        "PATCH", f"{where}/watched/status", told, kind=merge, as_user=as_operator
    )
    assert (code, said.get("status", {}).get("stage")) == (200, "Release")
