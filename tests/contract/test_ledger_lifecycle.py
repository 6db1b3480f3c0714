"""Every ledger store moves a reservation the same way: exposed, charged, returned, expired."""

from __future__ import annotations

from decimal import Decimal

import pytest
from ledger_words import (
    EVENT,
    HALF,
    LEASE,
    charge,
    expose,
    request,
    reserve,
    state,
    state_of_everything,
)

from primum.domain.accounting.events import (
    Composed,
    Gaussian,
    NonPrivate,
    Repeated,
    SubsampledGaussian,
)
from primum.domain.budget.entries import EntryKind, ReservationState, ResultCode


def test_exposure_is_recorded_per_access(ledger, account):
    reserve(ledger, request(account))
    assert expose(ledger, access="train").code is ResultCode.ACCEPTED
    assert expose(ledger, access="audit").code is ResultCode.ACCEPTED
    assert state(ledger) is ReservationState.EXPOSED
    assert ledger.reservation("r1").exposed == ("train", "audit")


def test_the_same_access_again_is_repeated_while_it_may_still_run(ledger, account, stores):
    reserve(ledger, request(account))
    first = expose(ledger)
    again = expose(ledger)
    assert (again.code, again.seq) == (ResultCode.REPEATED, first.seq)
    stores.clock.advance(LEASE + 1)
    assert expose(ledger).code is ResultCode.LEASE_EXPIRED
    charge(ledger)
    assert expose(ledger).code is ResultCode.ALREADY_RESOLVED


def test_a_stale_fence_opens_nothing(ledger, account):
    reserve(ledger, request(account))
    before = state_of_everything(ledger)
    fence = ledger.reservation("r1").fence
    for wrong in (fence - 1, fence + 1, 0):
        result = ledger.expose("r1", access="train", fence=wrong, actor="s")
        assert result.code is ResultCode.FENCE_STALE
        assert (
            ledger.extend("r1", fence=wrong, lease_seconds=60, actor="s").code
            is ResultCode.FENCE_STALE
        )
    assert state_of_everything(ledger) == before


def test_an_expired_lease_opens_nothing_even_if_the_clock_goes_back(ledger, account, stores):
    reserve(ledger, request(account))
    stores.clock.advance(LEASE)
    assert expose(ledger).code is ResultCode.LEASE_EXPIRED
    stores.clock.advance(-LEASE)
    assert expose(ledger).code is ResultCode.LEASE_EXPIRED


def test_an_unknown_reservation_is_named(ledger):
    for result in (
        ledger.expose("x", access="a", fence=1, actor="s"),
        ledger.extend("x", fence=1, lease_seconds=1, actor="s"),
        ledger.charge("x", executed=None, reason="", actor="s"),
        ledger.give_back("x", reason="", actor="s"),
    ):
        assert result.code is ResultCode.RESERVATION_UNKNOWN
        assert "x" in result.message


def test_a_heartbeat_moves_the_lease_and_never_shortens_it(ledger, account, stores):
    reserve(ledger, request(account))
    entries = ledger.head()[0]
    stores.clock.advance(30)
    fence = ledger.reservation("r1").fence
    assert ledger.extend("r1", fence=fence, lease_seconds=LEASE, actor="s").stands
    until = ledger.reservation("r1").lease_until
    assert until == stores.clock.after(LEASE)
    assert ledger.extend("r1", fence=fence, lease_seconds=1, actor="s").stands
    assert ledger.reservation("r1").lease_until == until
    stores.clock.advance(-3600)
    assert ledger.extend("r1", fence=fence, lease_seconds=LEASE, actor="s").stands
    assert ledger.reservation("r1").lease_until == until
    assert ledger.head()[0] == entries


def test_a_lease_that_ran_out_cannot_be_revived(ledger, account, stores):
    reserve(ledger, request(account))
    stores.clock.advance(LEASE + 1)
    fence = ledger.reservation("r1").fence
    result = ledger.extend("r1", fence=fence, lease_seconds=LEASE, actor="s")
    assert result.code is ResultCode.LEASE_EXPIRED


def test_expiry_charges_what_was_exposed_and_returns_the_rest(ledger, account, stores):
    reserve(ledger, request(account, "exposed"))
    reserve(ledger, request(account, "untouched"))
    reserve(ledger, request(account, "alive"), lease_seconds=LEASE * 10)
    expose(ledger, "exposed")
    held = ledger.reservation("exposed").charge
    assert ledger.expire(actor="loop") == ()
    stores.clock.advance(LEASE)
    assert sorted(ledger.expire(actor="loop")) == ["exposed", "untouched"]
    assert ledger.expire(actor="loop") == ()
    assert state(ledger, "exposed") is ReservationState.CHARGED
    assert state(ledger, "untouched") is ReservationState.RETURNED
    assert state(ledger, "alive") is ReservationState.RESERVED
    assert ledger.account(account).blocks[0].charged == held
    assert ledger.account(account).blocks[0].reserved == ledger.reservation("alive").charge


def test_what_expired_is_resolved_for_good(ledger, account, stores):
    reserve(ledger, request(account))
    expose(ledger)
    stores.clock.advance(LEASE)
    ledger.expire(actor="loop")
    before = state_of_everything(ledger)
    assert charge(ledger, executed=HALF).code is ResultCode.ALREADY_RESOLVED
    assert ledger.give_back("r1", reason="", actor="s").code is ResultCode.ALREADY_RESOLVED
    assert state_of_everything(ledger) == before


def test_a_trusted_receipt_charges_what_happened_and_returns_the_rest(ledger, account):
    reserve(ledger, request(account))
    expose(ledger)
    assert charge(ledger, executed=HALF).code is ResultCode.ACCEPTED
    view, done = ledger.account(account), ledger.reservation("r1")
    assert view.blocks[0].reserved.is_zero
    assert view.blocks[0].charged == done.charged
    half = [2 * amount for _, amount in done.charged.amounts]
    assert all(abs(a - b[1]) <= 2 for a, b in zip(half, done.charge.amounts, strict=True))
    assert (done.executed, done.state) == (HALF, ReservationState.CHARGED)


def test_no_receipt_charges_everything(ledger, account):
    reserve(ledger, request(account))
    expose(ledger)
    assert charge(ledger).stands
    done = ledger.reservation("r1")
    assert done.charged == done.charge == ledger.account(account).blocks[0].charged


def test_a_receipt_that_comes_after_the_lease_charges_everything(ledger, account, stores):
    reserve(ledger, request(account))
    expose(ledger)
    stores.clock.advance(LEASE)
    result = charge(ledger, executed=HALF)
    assert result.stands
    assert "in full" in result.message
    assert ledger.reservation("r1").charged == ledger.reservation("r1").charge


@pytest.mark.parametrize(
    "executed",
    [Repeated(EVENT, 2), NonPrivate(), Composed((EVENT, Gaussian(Decimal("100"))))],
    ids=["twice", "unprotected", "one more"],
)
def test_more_than_was_planned_is_charged_in_full_and_freezes(ledger, account, executed):
    reserve(ledger, request(account))
    expose(ledger)
    result = charge(ledger, executed=executed)
    assert result.code is ResultCode.CHARGE_ABOVE_RESERVATION
    assert result.stands
    assert ledger.reservation("r1").charged == ledger.reservation("r1").charge
    assert "r1" in ledger.account(account).frozen
    assert charge(ledger, executed=executed).code is ResultCode.REPEATED


def test_what_cannot_be_shown_to_be_within_the_plan_is_charged_in_full(ledger, account):
    """Cheaper at every order, but another mechanism: cannot tell, so it pays for all of it."""
    reserve(ledger, request(account))
    expose(ledger)
    other = Repeated(SubsampledGaussian(Decimal("2"), Decimal("0.2")), 1)
    result = charge(ledger, executed=other)
    assert result.code is ResultCode.CHARGE_ABOVE_RESERVATION
    assert ledger.reservation("r1").charged == ledger.reservation("r1").charge
    assert ledger.account(account).frozen == ""


def test_only_what_was_exposed_is_charged_and_only_the_rest_returned(ledger, account):
    reserve(ledger, request(account))
    assert charge(ledger).code is ResultCode.NOT_EXPOSED
    expose(ledger)
    assert ledger.give_back("r1", reason="", actor="s").code is ResultCode.ALREADY_EXPOSED
    assert state(ledger) is ReservationState.EXPOSED


def test_a_reservation_is_given_back_once(ledger, account):
    reserve(ledger, request(account))
    first = ledger.give_back("r1", reason="withdrawn", actor="s")
    again = ledger.give_back("r1", reason="withdrawn", actor="another")
    assert (first.code, again.code) == (ResultCode.ACCEPTED, ResultCode.REPEATED)
    assert again.seq == first.seq
    other = ledger.give_back("r1", reason="something else", actor="s")
    assert (other.code, other.message.split()[0]) == (ResultCode.KEY_REUSED, "reason")
    assert ledger.account(account).blocks[0].reserved.is_zero
    assert expose(ledger).code is ResultCode.ALREADY_RESOLVED
    assert charge(ledger).code is ResultCode.ALREADY_RESOLVED


def test_a_charge_is_made_once(ledger, account):
    reserve(ledger, request(account))
    expose(ledger)
    first = charge(ledger, executed=HALF)
    spent = ledger.account(account).blocks[0]
    again = charge(ledger, executed=HALF)
    assert (again.code, again.seq) == (ResultCode.REPEATED, first.seq)
    other = charge(ledger, executed=EVENT)
    assert (other.code, other.message.split()[0]) == (ResultCode.KEY_REUSED, "executed")
    assert ledger.account(account).blocks[0] == spent


def test_an_inspection_is_recorded_and_costs_nothing(ledger, account):
    before = ledger.account(account).blocks[0]
    first = ledger.inspect(account, access="audit", study_uid="s", key="k1", actor="auditor")
    again = ledger.inspect(account, access="audit", study_uid="s", key="k1", actor="auditor")
    other = ledger.inspect(account, access="else", study_uid="s", key="k1", actor="auditor")
    assert (first.code, again.code, other.code) == (
        ResultCode.ACCEPTED,
        ResultCode.REPEATED,
        ResultCode.KEY_REUSED,
    )
    assert ledger.account(account).blocks[0] == before
    assert ledger.entries()[-1].kind is EntryKind.INSPECTED


def test_a_frozen_account_grants_nothing_until_thawed(ledger, account):
    reserve(ledger, request(account))
    ledger.freeze(account, reason="an audit failed", key="k", actor="loop")
    assert ledger.account(account).frozen == "an audit failed"
    refused = reserve(ledger, request(account, "r2"))
    assert refused.code is ResultCode.FROZEN
    assert "an audit failed" in refused.message
    assert expose(ledger).code is ResultCode.FROZEN
    assert ledger.fits(account, EVENT) == 0
    assert ledger.inspect(account, access="a", study_uid="", key="i", actor="auditor").stands
    assert ledger.thaw(account, reason="looked into", key="t", actor="steward").stands
    assert expose(ledger).stands
    assert reserve(ledger, request(account, "r2")).stands  # Not a denial: it may come again.


def test_settlement_goes_on_while_frozen(ledger, account):
    reserve(ledger, request(account, "a"))
    reserve(ledger, request(account, "b"))
    expose(ledger, "a")
    ledger.freeze(account, reason="x", key="k", actor="loop")
    assert charge(ledger, "a", executed=HALF).stands
    assert ledger.give_back("b", reason="x", actor="loop").stands


def test_freezing_what_is_not_there_is_refused(ledger):
    assert ledger.freeze("x", reason="", key="k", actor="s").code is ResultCode.ACCOUNT_UNKNOWN
