"""A release's name belongs to one Study: earlier Studies and standing Releases hold theirs."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR

import pytest

from primum.application import planning, quoting
from primum.application.released import certificate_problems
from primum.domain.errors import InvalidValue, Refused
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


def as_dataset(ward, name="risk", **changes):
    """The standing Release as one of a dataset: the same artifact under the same certificate."""
    stored = ward.get("Release", "risk")
    kept = {key: value for key, value in stored.spec.items() if key != "endpoint"}
    ward.resources.remove(stored.key, stored.uid)
    key = ResourceKey("Release", stored.key.namespace, name)
    ward.resources.apply(key, {**kept, "kind": "Dataset", **changes}, labels={})
    return ward.resources.get(key)


def test_a_public_input_and_a_synthetic_one_are_planned_with(released):
    as_dataset(released)
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
    assert context.protected == {released.get("PrivacyBudget", "scans").spec["dataset"]["uri"]}


def test_an_endpoint_is_no_synthetic_input(released):
    key = released.study("mixed", endpoint="", data=[{"role": "Synthetic", "release": "risk"}])
    with pytest.raises(InvalidValue, match="kind must be Dataset"):
        planning.planning_context(released.platform, released.spec(key))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"revocation": {"reason": "doubt"}}, "must not be revoked"),
        ({"name": "other"}, "must be for other"),
        (
            {"artifact": {"kind": "Dataset", "uri": "memory://x", "digest": "sha256:" + "0" * 64}},
            "artifact must have digest",
        ),
        ({"claim": {"standing": "Void", "voidEdges": ["none"]}}, "must be that of its certificate"),
        ({"study": {"name": "one", "uid": "gone", "generation": 1}}, "must have a certificate"),
    ],
)
def test_a_release_that_does_not_stand_by_its_certificate_is_no_input(released, changes, problem):
    stored = as_dataset(released, **changes)
    (found,) = certificate_problems(released.platform, stored)
    assert problem in found


def test_a_release_of_a_dataset_stands_by_its_certificate(released):
    assert certificate_problems(released.platform, as_dataset(released)) == []


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
