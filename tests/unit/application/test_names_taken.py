"""A release's name belongs to one Study: earlier Studies and standing Releases hold theirs."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR

import pytest

from primum.application import planning, quoting
from primum.domain.errors import Refused
from primum.domain.names import ResourceKey


def refused(ward, key):
    with pytest.raises(Refused) as refusal:
        planning._refuse_taken_name(ward.platform, ward.spec(key))
    return str(refusal.value)


def elsewhere(ward, name="far", **changes):
    """The standing Release, copied to another name."""
    spec = dict(ward.get("Release", "risk").spec) | changes
    key = ResourceKey("Release", "other", name)
    ward.resources.apply(key, spec, labels={})
    return key


def test_a_standing_release_of_another_study_holds_its_name(released):
    old = released.key("Study", "one")
    released.resources.remove(old, released.resources.get(old).uid)
    late = released.study("two")
    assert "taken by Release ward/risk" in refused(released, late)


def test_a_study_that_is_declared_again_takes_its_own_name_again(released):
    old = released.key("Study", "one")
    released.resources.remove(old, released.resources.get(old).uid)
    planning._refuse_taken_name(released.platform, released.spec(released.study("one")))


def test_a_revoked_release_keeps_its_name_until_it_is_deleted(released):
    stored = released.get("Release", "risk")
    spec = dict(stored.spec) | {"revocation": {"reason": "doubt"}}
    released.resources.apply(stored.key, spec, labels={})
    assert "was revoked" in refused(released, released.key("Study", "one"))


def test_an_endpoint_is_taken_in_every_namespace_and_others_are_not(released):
    elsewhere(released, endpoint="far")
    released.study("two", endpoint="far")
    assert "taken by Release other/far" in refused(released, released.key("Study", "two"))
    planning._refuse_taken_name(
        released.platform, released.spec(released.study("three", endpoint="free"))
    )


def test_a_public_input_and_a_synthetic_one_are_planned_with(released):
    key = released.study(
        "mixed",
        endpoint="",
        data=[
            {"role": "Public", "uri": "sim://public"},
            {"role": "Synthetic", "release": "risk"},
            {"role": "Private", "budget": "scans"},
        ],
    )
    context = planning.planning_context(released.platform, released.spec(key))
    assert list(context.synthetic) == ["risk"]
    assert list(context.datasets) == ["scans"]


def test_a_claim_without_bound_is_said_in_words(dec):
    assert quoting._short(dec("Infinity"), ROUND_CEILING) == "without bound"
    assert quoting._short(dec("1.501"), ROUND_CEILING) == "1.51"
    assert quoting._short(dec("1.509"), ROUND_FLOOR) == "1.50"


def test_writing_the_same_status_again_writes_nothing(released):
    from primum.application import audits
    from primum.domain.conditions import Reason, Status

    key = released.key("AuditRun", "x")
    spec = {"study": "one", "audit": {"kind": "Membership", "attack": "LiRA"}}
    released.resources.apply(key, spec, labels={})
    for _ in range(2):
        audits._show(
            released.platform, released.resources.get(key), Status.UNKNOWN, Reason.PENDING, ""
        )
        version = released.resources.get(key).resource_version
    audits._show(released.platform, released.resources.get(key), Status.UNKNOWN, Reason.PENDING, "")
    assert released.resources.get(key).resource_version == version
