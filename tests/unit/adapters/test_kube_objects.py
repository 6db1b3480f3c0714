"""Objects of an API server become stored resources; nothing that a server must set is guessed."""

from __future__ import annotations

from typing import Any

import pytest

from primum.adapters.kube import objects
from primum.domain.errors import InvalidValue
from primum.domain.names import ResourceKey


def make_object(**metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "primum.dev/v1alpha1",
        "kind": "PrivacyBudget",
        "metadata": {
            "name": "wisconsin",
            "namespace": "oncology",
            "uid": "u-1",
            "generation": 2,
            "resourceVersion": "41",
            "creationTimestamp": "2026-11-22T06:00:00Z",
            "labels": {"team": "breast"},
            "managedFields": [{"manager": "kubectl"}],
            **metadata,
        },
        "spec": {
            "dataset": {"uri": "sklearn://breast_cancer", "unit": "Patient"},
            "guarantee": {"epsilon": "8.0", "delta": "1e-5"},
        },
        "status": {"epsilonLeft": "5"},
    }


def test_an_object_becomes_a_stored_resource() -> None:
    stored = objects.stored_resource(make_object())
    assert str(stored.key) == "PrivacyBudget oncology/wisconsin"
    assert (stored.uid, stored.generation, stored.resource_version) == ("u-1", 2, 41)
    assert stored.spec["neighbors"] == "AddOrRemoveOne"
    assert stored.status == {"epsilonLeft": "5"}
    assert (stored.labels, stored.owner, stored.deleting) == ({"team": "breast"}, "", "")


def test_owner_and_deletion_are_read() -> None:
    owners = [{"uid": "other"}, {"uid": "study-1", "controller": True}]
    stored = objects.stored_resource(
        make_object(ownerReferences=owners, deletionTimestamp="2026-11-22T07:00:00Z")
    )
    assert (stored.owner, stored.deleting) == ("study-1", "2026-11-22T07:00:00Z")


@pytest.mark.parametrize("name", ["uid", "generation", "resourceVersion", "creationTimestamp"])
def test_what_the_server_sets_is_never_guessed(name: str) -> None:
    found = make_object()
    del found["metadata"][name]
    with pytest.raises(InvalidValue, match=rf"metadata\.{name} must be set by the API server"):
        objects.stored_resource(found)


def test_a_spec_that_an_older_crd_let_pass_is_refused() -> None:
    found = make_object()
    found["spec"]["guarantee"]["epsilon"] = "0"
    with pytest.raises(InvalidValue, match=r"PrivacyBudget oncology/wisconsin: spec\.guarantee"):
        objects.stored_resource(found)


def test_marking_for_deletion_moves_no_generation_of_ours() -> None:
    """The API server moves ``metadata.generation`` with the mark; the spec is the one before."""
    marked = make_object(deletionTimestamp="2026-11-22T07:00:00Z")
    assert objects.stored_resource(marked).generation == 1


def test_a_status_is_applied_to_the_same_object_only() -> None:
    key = ResourceKey("PrivacyBudget", "oncology", "wisconsin")
    assert objects.status_to_apply(key, "u-1", {"units": 569}) == {
        "apiVersion": "primum.dev/v1alpha1",
        "kind": "PrivacyBudget",
        "metadata": {"name": "wisconsin", "namespace": "oncology", "uid": "u-1"},
        "status": {"units": 569},
    }


def test_a_spec_that_breaks_a_rule_can_still_be_told_so() -> None:
    found = make_object()
    found["spec"]["guarantee"]["epsilon"] = "0"
    assert objects.unchecked_resource(found).key.name == "wisconsin"
