"""What is said about a workload of a queue, for everything that it may run under."""

from __future__ import annotations

from dataclasses import replace

import pytest

from primum.application.workloads import CheckState, Claim, Controller, judge
from primum.domain import names
from primum.domain.budget.entries import ReserveRequest
from primum.domain.conditions import Condition, ConditionType, Reason, Status
from primum.resources.status import with_conditions


def claim(ward, **said):
    return Claim(ward.key("Study", "one").namespace, **{"studies": ("one",), **said})


def word(ward, **said):
    return judge(ward.platform, claim(ward, **said))


def reserved(ward):
    """A ward whose Study ``one`` holds its reservation and has not run yet; gives its id."""
    key = ward.study(endpoint=None)
    for _ in range(3):
        ward.advance(key)
    (held,) = ward.ledger.reservations(study_uid=ward.resources.get(key).uid)
    assert held.state.value == "Reserved"
    return held


def controller(ward, kind="Study", name="one"):
    return Controller(kind, name, ward.get(kind, name).uid)


def test_a_standing_reservation_of_its_study_lets_a_workload_start(ward):
    held = reserved(ward)
    for said in (
        {},
        {"reservations": (held.reservation_id,)},
        {"generation": str(held.generation)},
        {"controller": controller(ward)},
        {"studies": (), "controller": controller(ward), "reservations": (held.reservation_id,)},
    ):
        assert word(ward, **said).state is CheckState.READY, said


def test_what_was_exposed_goes_on(ward):
    """A workload that was preempted in the middle: its steps know what they may do again."""
    held = reserved(ward)
    ward.ledger.expose(held.reservation_id, access="train@scans", fence=held.fence, actor="test")
    assert word(ward).state is CheckState.READY


@pytest.mark.parametrize(
    "said",
    [
        {"studies": ()},
        {"studies": ("one", "two")},
        {"studies": (), "reservations": ("the real one",)},
        {"reservations": ("the real one", "another")},
        {"reservations": ("the stranger's",)},
        {"generation": "7"},
        {"generation": "7", "reservations": ("the real one",)},
        {"controller": Controller("Study", "one", "another-uid")},
        {"controller": Controller("Study", "one", "u"), "reservations": ("the real one",)},
        {"controller": Controller("Study", "other", "u")},
        {"studies": (), "controller": Controller("AuditRun", "nightly", "u")},
    ],
)
def test_what_is_not_its_own_rejects_a_workload_and_tells_nothing_of_others(ward, said):
    held = reserved(ward)
    stranger = names.derived_uuid("stranger")
    ward.ledger.reserve(
        [
            ReserveRequest(
                reservation_id=stranger,
                account_id=held.account_id,
                study_uid="elsewhere",
                generation=1,
                study="elsewhere/secret-study",
                purpose="Another ward",
                requester="somebody",
                event=held.event,
            )
        ],
        lease_seconds=900.0,
        actor="test",
    )
    known = {"the real one": held.reservation_id, "the stranger's": stranger}
    listed = tuple(known.get(name, name) for name in said.get("reservations", ()))
    found = word(ward, **said | {"reservations": listed})
    assert found.state is CheckState.REJECTED
    assert " must " in found.message
    assert "; found " in found.message
    assert "secret" not in found.message
    assert "elsewhere" not in found.message


def test_a_study_that_is_not_so_far_yet_is_waited_for(ward):
    assert word(ward).state is CheckState.RETRY
    ward.study(endpoint=None)
    found = word(ward)
    assert found.state is CheckState.RETRY
    assert found.message.startswith("Study one must hold its reservation")


def test_a_lease_that_ran_out_is_waited_for_and_what_became_of_it_rejects(ward):
    held = reserved(ward)
    ward.clock.advance(10_000.0)
    found = word(ward)
    assert (found.state, "its lease ran out" in found.message) == (CheckState.RETRY, True)
    ward.ledger.expire(actor="test")
    found = word(ward)
    assert found.state is CheckState.REJECTED
    assert "found Returned" in found.message
    assert word(ward, reservations=(held.reservation_id,)).state is CheckState.REJECTED


def test_a_frozen_budget_is_waited_for(ward):
    held = reserved(ward)
    ward.ledger.freeze(held.account_id, reason="an incident", key="k", actor="test")
    assert word(ward).state is CheckState.RETRY
    ward.ledger.thaw(held.account_id, reason="looked at", key="k2", actor="test")
    assert word(ward).state is CheckState.READY


@pytest.mark.parametrize("state", ["Charged", "Denied"])
def test_what_has_ended_rejects(ward, state):
    if state == "Charged":
        ward.finish(ward.study())
    else:
        ward.finish(ward.study(steps="4000"))
    assert ward.states(ward.key("Study", "one")) == [state]
    found = word(ward)
    assert found.state is CheckState.REJECTED
    assert f"found {state}" in found.message


def test_an_audit_that_only_looks_starts_while_it_is_under_way(released):
    key = released.key("AuditRun", "nightly")
    spec = {"release": "risk", "audit": {"kind": "Membership", "attack": "LiRA"}}
    released.resources.apply(key, spec, labels={})
    said = {"studies": ("one",), "controller": controller(released, "AuditRun", "nightly")}
    assert word(released, **said).state is CheckState.READY
    stored = released.get("AuditRun", "nightly")
    ended = Condition(ConditionType.SUCCEEDED, Status.TRUE, Reason.DONE, "it ended")
    shown = with_conditions(stored, (ended,), now=released.clock.now())
    released.resources.set_status(key, stored.uid, shown)
    assert word(released, **said).state is CheckState.REJECTED
    released.resources.request_deletion(key)
    assert word(released, **said).state is CheckState.REJECTED


def test_a_study_that_spends_nothing_needs_no_reservation(ward):
    key = ward.study(endpoint=None)
    stored = ward.resources.get(key)
    ward.advance(key)
    plan = ward.evidence.plan(stored.uid, stored.generation)
    other = ward.study("two", endpoint=None)
    found = ward.resources.get(other)
    public = replace(plan, study_uid=found.uid, generation=found.generation, accesses=())
    ward.evidence.put_plan(public)
    assert word(ward, studies=("two",)).state is CheckState.READY


def test_asking_changes_nothing(ward):
    reserved(ward)
    before = ward.ledger.head()
    for _ in range(3):
        word(ward)
    assert ward.ledger.head() == before
