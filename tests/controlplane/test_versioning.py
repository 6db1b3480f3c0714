"""Objects as API servers stored them under v1alpha1 are held, read and let go by today's CRDs."""

from __future__ import annotations

import json
import pathlib

import pytest
from manifests import path

from primum.adapters.kube.objects import FINALIZER, key_of, stored_resource
from primum.adapters.kube.resources import KubeResourceStore
from primum.domain.names import ResourceKey
from primum.resources.kinds import KINDS

STORED = json.loads(
    (pathlib.Path(__file__).parents[1] / "fixtures" / "stored-v1alpha1.json").read_text()
)


def kept(stored, found):
    """Whether everything that was stored is there; new fields may have come with defaults."""
    if isinstance(stored, dict):
        return isinstance(found, dict) and all(
            name in found and kept(value, found[name]) for name, value in stored.items()
        )
    if isinstance(stored, list):
        return len(stored) == len(found) and all(map(kept, stored, found))
    return stored == found


def test_the_fixture_holds_every_kind():
    assert {item["kind"] for item in STORED} == set(KINDS)


@pytest.mark.parametrize("item", STORED, ids=lambda item: str(key_of(item)))
def test_a_stored_object_lives_on(item, api, namespace, connect, control_plane):
    name, kind = item["metadata"]["name"], item["kind"]
    body = {field: item[field] for field in ("apiVersion", "kind", "spec")}
    body["metadata"] = {"name": name, "labels": item["metadata"]["labels"]}
    made = api.post(path(kind, namespace) + "?fieldValidation=Strict", body)
    assert kept(item["spec"], made["spec"]), "a pruned or changed field changed what was stored"
    store = KubeResourceStore(connect(control_plane.kubeconfig), namespaces=(namespace,))
    key = ResourceKey(kind, namespace, name)
    claimed = store.claim(key)
    assert kept(item["spec"], claimed.spec)
    assert kept(item["spec"], stored_resource(item).spec)
    model = KINDS[kind].spec
    then, now = (model.model_validate(spec) for spec in (item["spec"], made["spec"]))
    assert then == now, "a default means something else than its absence"
    store.set_status(key, claimed.uid, item["status"])
    found = api.get(path(kind, namespace, name))
    assert found["status"] == item["status"]
    assert found["metadata"]["finalizers"] == [FINALIZER]
    store.request_deletion(key)
    store.remove(key, claimed.uid)
    assert api.get(path(kind, namespace, name)) is None
