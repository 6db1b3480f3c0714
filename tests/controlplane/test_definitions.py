"""The CRDs on a real API server: accepted, enforced, shown and explained."""

from __future__ import annotations

import copy
import json
import pathlib
import time

import pytest
import yaml
from manifests import BUDGET, STUDY, manifest, path

from primum.adapters.kube.objects import stored_resource
from primum.resources.conversion import spec_mapping
from primum.resources.kinds import KINDS
from primum.resources.loading import checked_resource
from primum_operators.schema import crd

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted(
    [
        *(ROOT / "examples").glob("*/*.yaml"),
        *(ROOT / "policies" / "primum_policies" / "bundles").glob("*.yaml"),
    ]
)


def changed(spec, where, value):
    """A copy of a spec with one place set, or removed where the value is ``...``."""
    found = copy.deepcopy(spec)
    *parents, last = where.split(".")
    inner = found
    for parent in parents:
        inner = inner[parent]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return found


@pytest.fixture
def create(api, namespace):
    """A function that posts a manifest strictly; gives code and answer."""

    def post(kind, name, spec):
        where = path(kind, namespace) + "?fieldValidation=Strict"
        return api.request("POST", where, manifest(kind, name, spec))

    return post


def documents():
    for file in FILES:
        for number, document in enumerate(yaml.safe_load_all(file.read_text(encoding="utf-8"))):
            yield pytest.param(document, id=f"{file.parent.name}-{file.stem}-{number}")


@pytest.mark.parametrize("document", list(documents()))
def test_every_example_is_accepted_and_stored_as_the_models_read_it(document, api, namespace):
    document = copy.deepcopy(document)
    document["metadata"] = {"name": document["metadata"]["name"]}
    where = path(document["kind"], namespace) + "?fieldValidation=Strict"
    stored = api.post(where, document)
    assert stored["spec"] == spec_mapping(checked_resource(document))
    assert stored_resource(stored).spec == stored["spec"]


REFUSED = [
    ("PrivacyBudget", BUDGET, "guarantee.epsilon", "0", "epsilon must be above 0"),
    ("PrivacyBudget", BUDGET, "guarantee.epsilon", 3.0, "epsilon"),
    ("PrivacyBudget", BUDGET, "guarantee.delta", "2", "delta must be above 0 and below 1"),
    ("PrivacyBudget", BUDGET, "guarantee.epsilonn", "2", "unknown field"),
    ("Study", STUDY, "job.resources", {"workers": 2, "workersPerGpu": 2}, "unless gpusPerWorker"),
    (
        "Study",
        STUDY,
        "job.resources",
        {"workers": 3, "gpusPerWorker": 1, "workersPerGpu": 2},
        "workers must be a multiple of workersPerGpu",
    ),
    ("Study", STUDY, "job.resources", {"workers": "1-4"}, "workers"),
    ("PrivacyBudget", BUDGET, "dataset.unit", "Person", "Unsupported value"),
    ("PrivacyBudget", BUDGET, "dataset", ..., "Required value"),
    ("Study", STUDY, "data", [{"role": "Private", "release": "a"}], "budget"),
    ("Study", STUDY, "data", [{"role": "Private", "budget": "a"}] * 2, "once"),
    ("Study", STUDY, "job.synthesize", {"samples": 3}, "job"),
    ("Study", STUDY, "job.privateFeatures", {"model": "MLP"}, "privateFeatures"),
    ("Study", STUDY, "purpose", "", "purpose"),
]


@pytest.mark.parametrize(("kind", "spec", "where", "value", "message"), REFUSED)
def test_a_wrong_manifest_is_refused_with_a_message(create, kind, spec, where, value, message):
    code, answer = create(kind, "wrong", changed(spec, where, value))
    assert code in (400, 422)
    assert message in answer["message"]


def test_a_name_that_is_no_label_is_refused(create):
    code, answer = create("PrivacyBudget", "two.words", BUDGET)
    assert (code, "must be a DNS label" in answer["message"]) == (422, True)


CHANGES = [
    ("PrivacyBudget", BUDGET, "guarantee.epsilon", "9.0", "lower"),
    ("PrivacyBudget", BUDGET, "guarantee.delta", "1e-4", "lower"),
    ("PrivacyBudget", BUDGET, "dataset.unit", "Image", "immutable"),
    ("PrivacyBudget", BUDGET, "dataset.uri", "sklearn://other", "immutable"),
    ("Study", STUDY, "privacy.epsilon", "2.0", "immutable"),
    ("Study", STUDY, "privacy", ..., "immutable"),
    ("Study", STUDY, "purpose", "Another one", "immutable"),
]


@pytest.mark.parametrize(("kind", "spec", "where", "value", "message"), CHANGES)
def test_what_was_declared_cannot_be_changed(
    create, api, namespace, kind, spec, where, value, message
):
    assert create(kind, "declared", spec)[0] == 201
    before = api.get(path(kind, namespace, "declared"))
    after = before | {"spec": changed(before["spec"], where, value)}
    code, answer = api.request("PUT", path(kind, namespace, "declared"), after)
    assert code == 422
    assert message in answer["message"].lower()
    assert api.get(path(kind, namespace, "declared"))["spec"] == before["spec"]


def test_a_guarantee_may_be_lowered(create, api, namespace):
    create("PrivacyBudget", "wisconsin", BUDGET)
    lowered = {"spec": {"guarantee": {"epsilon": "7.5"}}}
    after = api.merge(path("PrivacyBudget", namespace, "wisconsin"), lowered)
    assert after["spec"]["guarantee"]["epsilon"] == "7.5"
    assert after["metadata"]["generation"] == 2


def test_status_is_a_subresource_and_moves_no_generation(create, api, namespace):
    _, made = create("Study", "malignancy", STUDY)
    where = path("Study", namespace, "malignancy")
    assert "status" not in api.merge(where, {"status": {"stage": "Run"}})
    body = {key: made[key] for key in ("apiVersion", "kind")}
    body |= {"metadata": {"name": "malignancy"}, "status": {"stage": "Run"}}
    after = api.apply(f"{where}/status", body)
    assert after["status"]["stage"] == "Run"
    assert after["metadata"]["generation"] == 1
    unknown = {"status": {"stage": "Run", "patients": "4711"}}
    assert "patients" not in api.merge(f"{where}/status", unknown)["status"]


@pytest.fixture
def kubectl(control_plane):
    if "kubectl" not in control_plane.assets:
        pytest.skip("no kubectl on the PATH: install it, or take it with make kube-assets")
    return control_plane.kubectl


def test_kubectl_applies_and_lists_by_short_name_and_category(kubectl, namespace):
    budget, study = (
        manifest("PrivacyBudget", "wisconsin", BUDGET),
        manifest("Study", "malignancy", STUDY),
    )
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": [budget, study]})
    kubectl("apply", "-n", namespace, "-f", "-", text=text)
    again = kubectl("apply", "-n", namespace, "-f", "-", text=text)
    assert again.count("unchanged") == 2
    shown = kubectl("get", "pb,st", "-n", namespace)
    assert "privacybudget.primum.dev/wisconsin" in shown
    for heading in ("READY", "SUCCEEDED", "REASON", "STAGE", "SPENT", "LEFT", "EPSILON", "AGE"):
        assert heading in shown
    listed = json.loads(kubectl("get", "privacy", "-n", namespace, "-o", "json"))
    assert {item["kind"] for item in listed["items"]} == {"PrivacyBudget", "Study"}


@pytest.fixture(scope="module")
def explained(control_plane):
    """A group with the same schemas on the kube-apiserver itself.

    The CRD server alone publishes no OpenAPI, which is what ``kubectl explain`` reads.
    """
    where = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    group = "explained.dev"
    for kind in KINDS.values():
        definition = copy.deepcopy(crd(kind))
        definition["metadata"] = {"name": f"{kind.plural}.{group}"}
        definition["spec"] |= {
            "group": group,
            "names": definition["spec"]["names"] | {"shortNames": []},
        }
        control_plane.api.create(where, definition)
    names = {f"dev.explained.v1alpha1.{kind}" for kind in KINDS}
    end = time.monotonic() + 60
    while not names <= set(control_plane.api.get("/openapi/v2")["definitions"]):
        assert time.monotonic() < end, "the CRDs' OpenAPI is not published"
        time.sleep(0.5)
    yield f"{group}/v1alpha1"
    for kind in KINDS.values():
        control_plane.api.delete(f"{where}/{kind.plural}.{group}")


@pytest.mark.parametrize("kind", list(KINDS))
def test_kubectl_explains_every_kind(kubectl, explained, kind):
    shown = kubectl("explain", f"{KINDS[kind].plural}.spec", f"--api-version={explained}")
    properties = KINDS[kind].spec.model_json_schema(by_alias=True)["properties"]
    assert [name for name in properties if name not in shown] == []
    assert "Required." in shown
    assert "Optional" in shown
