"""The contract of every resource store: it behaves like the API server that it stands for.

Test modules bring the stores: a fixture ``stores`` with ``resources``, and ``is_now`` that says
whether a time is the present one.
"""

from __future__ import annotations

import pytest

from primum.application.ports import ApplyChange
from primum.domain.errors import Conflict, InvalidValue, NotFound
from primum.domain.names import ResourceKey
from primum.resources.conversion import spec_mapping
from primum.resources.loading import checked_resource

NAMESPACES = ("oncology", "a", "b")


def _stored_form(key, spec):
    """A spec as it is stored: with its defaults."""
    metadata = {"name": key.name, "namespace": key.namespace}
    body = {"apiVersion": "primum.dev/v1alpha1", "kind": key.kind, "metadata": metadata}
    return spec_mapping(checked_resource({**body, "spec": spec}))


KEY = ResourceKey("PrivacyBudget", "oncology", "wisconsin")
SPEC = _stored_form(
    KEY,
    {
        "dataset": {"uri": "sklearn://breast_cancer", "unit": "Patient"},
        "guarantee": {"epsilon": "8.0", "delta": "1e-5"},
        "disclosures": ["Utility"],
    },
)
LOWERED = {**SPEC, "guarantee": {"epsilon": "7.0", "delta": "1e-5"}}
OWNER = ResourceKey("Study", "oncology", "malignancy")
OWNER_SPEC = _stored_form(
    OWNER,
    {
        "purpose": "x",
        "data": [{"role": "Private", "budget": "wisconsin"}],
        "privacy": {"epsilon": "3.0", "delta": "1e-5"},
        "job": {
            "kind": "Train",
            "train": {"model": "Logistic", "epochs": 2, "batchSize": 64, "maxGradNorm": "1.0"},
        },
        "policy": "research",
    },
)
STATUS = {"conditions": [], "observedGeneration": 1}


@pytest.fixture
def resources(stores):
    return stores.resources


def apply(resources, key=KEY, spec=SPEC, labels=None, owner=""):
    return resources.apply(key, spec, labels=labels or {}, owner=owner)


def test_a_new_resource_starts_at_generation_one(resources, stores):
    owner, _ = apply(resources, OWNER, OWNER_SPEC)
    made, change = apply(resources, labels={"team": "a"}, owner=owner.uid)
    assert change is ApplyChange.CREATED
    assert (made.key, made.generation) == (KEY, 1)
    assert stores.is_now(made.created)
    assert (made.spec, made.status, made.deleting) == (SPEC, {}, "")
    assert (made.labels, made.owner) == ({"team": "a"}, owner.uid)
    assert made.uid
    assert resources.get(KEY) == made


def test_applying_the_same_changes_nothing(resources):
    made, _ = apply(resources)
    again, change = apply(resources, spec=dict(reversed(SPEC.items())))
    assert (again, change) == (made, ApplyChange.UNCHANGED)


def test_the_generation_moves_only_with_the_spec(resources):
    made, _ = apply(resources)
    labeled, change = apply(resources, labels={"team": "b"})
    assert (labeled.generation, change) == (1, ApplyChange.CONFIGURED)
    assert labeled.resource_version > made.resource_version
    changed, change = apply(resources, spec=LOWERED, labels={"team": "b"})
    assert (changed.generation, change) == (2, ApplyChange.CONFIGURED)
    assert changed.resource_version > labeled.resource_version
    assert (changed.uid, changed.created) == (made.uid, made.created)


def test_an_owner_stays_when_none_is_given(resources):
    owner, _ = apply(resources, OWNER, OWNER_SPEC)
    apply(resources, owner=owner.uid)
    again, change = apply(resources)
    assert (again.owner, change) == (owner.uid, ApplyChange.UNCHANGED)


def test_status_moves_the_version_but_never_the_generation(resources):
    made, _ = apply(resources)
    resources.set_status(KEY, made.uid, STATUS)
    after = resources.get(KEY)
    assert (after.status, after.generation) == (STATUS, 1)
    assert after.resource_version > made.resource_version
    resources.set_status(KEY, made.uid, STATUS)
    assert resources.get(KEY) == after
    assert apply(resources)[0].status == STATUS


def test_a_status_is_replaced_as_a_whole(resources):
    made, _ = apply(resources)
    resources.set_status(KEY, made.uid, {**STATUS, "accountId": "a", "frozen": "why"})
    resources.set_status(KEY, made.uid, {**STATUS, "accountId": "b"})
    assert resources.get(KEY).status == {**STATUS, "accountId": "b"}


def test_status_of_another_uid_goes_nowhere(resources):
    made, _ = apply(resources)
    resources.set_status(KEY, "another uid", STATUS)
    resources.set_status(ResourceKey("Study", "oncology", "none"), made.uid, STATUS)
    assert resources.get(KEY) == made


def test_deletion_is_marked_once_and_carried_out_by_the_controller(resources, stores):
    made, _ = apply(resources)
    marked = resources.request_deletion(KEY)
    assert stores.is_now(marked.deleting)
    stores.pass_time()
    assert resources.request_deletion(KEY) == marked
    with pytest.raises(Conflict, match="deletion"):
        apply(resources)
    resources.set_status(KEY, made.uid, STATUS)
    assert resources.get(KEY).status == STATUS
    resources.remove(KEY, "another uid")
    assert resources.get(KEY) is not None
    resources.remove(KEY, made.uid)
    assert resources.get(KEY) is None
    resources.remove(KEY, made.uid)


def test_what_is_marked_for_deletion_keeps_its_generation(resources):
    """Reservations and runs are found by it."""
    apply(resources)
    lowered, _ = apply(resources, spec=LOWERED)
    resources.request_deletion(KEY)
    assert resources.get(KEY).generation == lowered.generation == 2


def test_deleting_what_is_not_there_is_an_error(resources):
    with pytest.raises(NotFound, match="oncology/wisconsin"):
        resources.request_deletion(KEY)


def test_a_recreated_resource_is_another_one_with_a_higher_version(resources):
    first, _ = apply(resources)
    resources.request_deletion(KEY)
    resources.remove(KEY, first.uid)
    second, change = apply(resources)
    assert change is ApplyChange.CREATED
    assert second.uid != first.uid
    assert second.generation == 1
    assert second.resource_version > first.resource_version
    resources.set_status(KEY, first.uid, STATUS)
    assert resources.get(KEY).status == {}


def test_lists_are_by_kind_and_namespace_and_sorted_by_name(resources):
    for namespace, name in (("b", "x"), ("a", "z"), ("a", "a-b"), ("a", "ab"), ("a", "0")):
        apply(resources, ResourceKey("PrivacyBudget", namespace, name))
    apply(resources, OWNER, OWNER_SPEC)
    names = [(item.key.namespace, item.key.name) for item in resources.list("PrivacyBudget")]
    assert names == [("a", "0"), ("a", "a-b"), ("a", "ab"), ("a", "z"), ("b", "x")]
    assert [item.key.name for item in resources.list("PrivacyBudget", "b")] == ["x"]
    assert [item.key.namespace for item in resources.list("PrivacyBudget", name="x")] == ["b"]
    assert list(resources.list("PrivacyBudget", "a", name="x")) == []
    assert list(resources.list("Nothing")) == []


def test_what_is_read_cannot_change_what_is_stored(resources):
    apply(resources)
    resources.get(KEY).spec["disclosures"].append("more")
    resources.list("PrivacyBudget")[0].spec["disclosures"].append("more")
    assert resources.get(KEY).spec == SPEC


def test_a_float_in_a_spec_is_refused(resources):
    with pytest.raises(InvalidValue, match="float"):
        apply(resources, spec={"guarantee": {"epsilon": 3.0}})
    assert resources.get(KEY) is None
