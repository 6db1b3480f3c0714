"""Every resource store behaves like the API server it stands for: generations, versions, deletion
marks.
"""

from __future__ import annotations

import pytest

from primum.application.ports import ApplyChange
from primum.domain.errors import Conflict, InvalidValue, NotFound
from primum.domain.names import ResourceKey

KEY = ResourceKey("Study", "oncology", "malignancy")
SPEC = {"purpose": "x", "privacy": {"epsilon": "3.0"}, "data": [{"role": "Private"}]}


@pytest.fixture
def resources(stores):
    return stores.resources


def apply(resources, key=KEY, spec=SPEC, labels=None, owner=""):
    return resources.apply(key, spec, labels=labels or {}, owner=owner)


def test_a_new_resource_starts_at_generation_one(resources, stores):
    made, change = apply(resources, labels={"team": "a"}, owner="uid-of-owner")
    assert change is ApplyChange.CREATED
    assert (made.key, made.generation, made.created) == (KEY, 1, stores.clock.now())
    assert (made.spec, made.status, made.deleting) == (SPEC, {}, "")
    assert (made.labels, made.owner) == ({"team": "a"}, "uid-of-owner")
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
    changed, change = apply(resources, spec={**SPEC, "purpose": "y"}, labels={"team": "b"})
    assert (changed.generation, change) == (2, ApplyChange.CONFIGURED)
    assert changed.resource_version > labeled.resource_version
    assert (changed.uid, changed.created) == (made.uid, made.created)


def test_an_owner_stays_when_none_is_given(resources):
    apply(resources, owner="uid-of-owner")
    again, change = apply(resources)
    assert (again.owner, change) == ("uid-of-owner", ApplyChange.UNCHANGED)


def test_status_moves_the_version_but_never_the_generation(resources):
    made, _ = apply(resources)
    resources.set_status(KEY, made.uid, {"conditions": []})
    after = resources.get(KEY)
    assert (after.status, after.generation) == ({"conditions": []}, 1)
    assert after.resource_version > made.resource_version
    resources.set_status(KEY, made.uid, {"conditions": []})
    assert resources.get(KEY) == after
    assert apply(resources)[0].status == {"conditions": []}


def test_status_of_another_uid_goes_nowhere(resources):
    made, _ = apply(resources)
    resources.set_status(KEY, "another uid", {"x": "y"})
    resources.set_status(ResourceKey("Study", "oncology", "none"), made.uid, {"x": "y"})
    assert resources.get(KEY) == made


def test_deletion_is_marked_once_and_carried_out_by_the_controller(resources, stores):
    made, _ = apply(resources)
    marked = resources.request_deletion(KEY)
    assert marked.deleting == stores.clock.now()
    stores.clock.advance(60)
    assert resources.request_deletion(KEY) == marked
    with pytest.raises(Conflict, match="deletion"):
        apply(resources)
    resources.set_status(KEY, made.uid, {"last": "words"})
    assert resources.get(KEY).status == {"last": "words"}
    resources.remove(KEY, "another uid")
    assert resources.get(KEY) is not None
    resources.remove(KEY, made.uid)
    assert resources.get(KEY) is None
    resources.remove(KEY, made.uid)


def test_deleting_what_is_not_there_is_an_error(resources):
    with pytest.raises(NotFound, match="oncology/malignancy"):
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
    resources.set_status(KEY, first.uid, {"old": "status"})
    assert resources.get(KEY).status == {}


def test_lists_are_by_kind_and_namespace_and_sorted_by_name(resources):
    for namespace, name in (("b", "x"), ("a", "z"), ("a", "a-b"), ("a", "ab"), ("a", "B")):
        apply(resources, ResourceKey("Study", namespace, name))
    apply(resources, ResourceKey("Release", "a", "x"))
    names = [(item.key.namespace, item.key.name) for item in resources.list("Study")]
    assert names == [("a", "B"), ("a", "a-b"), ("a", "ab"), ("a", "z"), ("b", "x")]
    assert [item.key.name for item in resources.list("Study", "b")] == ["x"]
    assert list(resources.list("Nothing")) == []


def test_what_is_read_cannot_change_what_is_stored(resources):
    apply(resources)
    resources.get(KEY).spec["data"].append("more")
    resources.list("Study")[0].spec["data"].append("more")
    assert resources.get(KEY).spec == SPEC


def test_a_float_in_a_spec_is_refused(resources):
    with pytest.raises(InvalidValue, match="float"):
        apply(resources, spec={"epsilon": 3.0})
    assert resources.get(KEY) is None
