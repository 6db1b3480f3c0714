"""Every ledger store obeys the same words: life cycle, idempotency, all or none, tamper evidence, rollback."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from primum.domain.accounting.charges import Charge
from primum.domain.accounting.events import (
    Composed,
    Gaussian,
    NoEvent,
    NonPrivate,
    Repeated,
    SubsampledGaussian,
)
from primum.domain.budget.entries import (
    AccountTerms,
    EntryKind,
    ReservationState,
    ReserveRequest,
    ResultCode,
)
from primum.domain.canonical import canonical_json
from primum.domain.errors import InvalidValue
from primum.domain.quantities import Neighbors, PrivacyUnit

EVENT = Repeated(SubsampledGaussian(Decimal("2"), Decimal("0.1")), 100)
HALF = Repeated(SubsampledGaussian(Decimal("2"), Decimal("0.1")), 50)
HUGE = Repeated(Gaussian(Decimal("1")), 1000)
LEASE = 60.0


def terms(**changes):
    base = AccountTerms(
        dataset_uri="file:///data",
        dataset_digest="sha256:" + "a" * 64,
        unit=PrivacyUnit.PATIENT,
        neighbors=Neighbors.ADD_OR_REMOVE_ONE,
        epsilon=Decimal("8.0"),
        delta=Decimal("1e-5"),
        policy="RDP",
        units=569,
    )
    return replace(base, **changes)


def request(account_id, name="r1", event=EVENT, **changes):
    base = ReserveRequest(
        reservation_id=name,
        account_id=account_id,
        study_uid="study-1",
        generation=1,
        study="oncology/malignancy",
        purpose="Tell malignant from benign",
        requester="user:ada",
        event=event,
    )
    return replace(base, **changes)


@pytest.fixture
def ledger(stores):
    return stores.ledger


@pytest.fixture
def account(ledger):
    account_id, result = ledger.open_account(terms(), actor="steward:grace")
    assert result.code is ResultCode.ACCEPTED
    return account_id


def reserve(ledger, *requests, lease_seconds=LEASE):
    return ledger.reserve(requests, lease_seconds=lease_seconds, actor="loop")


def expose(ledger, name="r1", access="train"):
    fence = ledger.reservation(name).fence
    return ledger.expose(name, access=access, fence=fence, actor="step")


def charge(ledger, name="r1", executed=None, reason="settled"):
    return ledger.charge(name, executed=executed, reason=reason, actor="loop")


def state(ledger, name="r1"):
    return ledger.reservation(name).state


def state_of_everything(ledger):
    return ledger.accounts(), ledger.reservations(), ledger.head(), ledger.entries()


@pytest.fixture(autouse=True)
def intact(stores):
    """Whatever a test did, the record must be intact afterwards, unless the test broke it on purpose."""
    yield
    if not getattr(stores, "broken", False):
        assert stores.ledger.verify() == ()


# --- accounts ---------------------------------------------------------------------------------------------------------


def test_a_new_account_has_all_of_its_epsilon(ledger, account):
    view = ledger.account(account)
    assert (view.epsilon_spent, view.epsilon_reserved, view.epsilon_left) == (0, 0, Decimal("8.0"))
    assert view.terms == terms()
    assert view.entries == 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dataset_digest": "sha256:" + "b" * 64},
        {"dataset_uri": "file:///elsewhere"},
        {"units": 600},
    ],
    ids=["same", "changed content", "moved", "grown"],
)
def test_recreating_a_budget_finds_its_account_and_resets_nothing(ledger, account, changes):
    reserve(ledger, request(account))
    before = ledger.account(account).balance
    found, result = ledger.open_account(terms(**changes), actor="steward:grace")
    assert (found, result.stands) == (account, True)
    assert ledger.account(account).balance == before
    assert ledger.account(account).terms == terms(**changes)


def test_data_that_moved_and_then_changed_is_still_the_same_account(ledger, account):
    moved = terms(dataset_uri="file:///elsewhere")
    assert ledger.open_account(moved, actor="s")[0] == account
    changed = replace(moved, dataset_digest="sha256:" + "c" * 64)
    assert ledger.open_account(changed, actor="s")[0] == account
    assert ledger.open_account(terms(), actor="s")[0] == account
    assert len(ledger.accounts()) == 1


def test_content_decides_before_its_place(ledger, account):
    other = terms(dataset_uri="file:///other", dataset_digest="sha256:" + "d" * 64)
    second, _ = ledger.open_account(other, actor="s")
    swapped = terms(dataset_digest=other.dataset_digest)
    assert ledger.open_account(swapped, actor="s")[0] == second


def test_another_unit_or_neighbors_relation_is_another_account_and_says_so(ledger, account):
    seen = {account}
    for change in ({"unit": PrivacyUnit.IMAGE}, {"neighbors": Neighbors.REPLACE_ONE}):
        other, result = ledger.open_account(terms(**change), actor="s")
        assert result.code is ResultCode.ACCEPTED
        assert "The same data has an account in unit" in result.message
        seen.add(other)
    assert len(seen) == 3


def test_a_guarantee_can_be_lowered_but_never_raised(ledger, account):
    assert (
        ledger.open_account(terms(epsilon=Decimal("5")), actor="s")[1].code is ResultCode.ACCEPTED
    )
    assert ledger.account(account).epsilon_left == 5
    for change in (
        {"epsilon": Decimal("5.1")},
        {"epsilon": Decimal("4"), "delta": Decimal("2e-5")},
    ):
        account_id, result = ledger.open_account(
            terms(**{"epsilon": Decimal("5"), **change}), actor="s"
        )
        assert (account_id, result.code) == ("", ResultCode.GUARANTEE_RAISED)
    assert ledger.account(account).terms.epsilon == 5


def test_lowering_below_what_is_held_lets_nothing_more_in(ledger, account):
    assert reserve(ledger, request(account)).stands
    ledger.open_account(terms(epsilon=Decimal("0.5")), actor="s")
    assert ledger.account(account).epsilon_left == 0
    small = Repeated(SubsampledGaussian(Decimal("50"), Decimal("0.01")), 1)
    assert ledger.fits(account, small) == 0
    assert reserve(ledger, request(account, "r2", small)).code is ResultCode.OVER_BUDGET
    assert expose(ledger).stands  # What was granted stays granted.


def test_an_account_keeps_its_policy(ledger, account):
    account_id, result = ledger.open_account(terms(policy="GDP"), actor="s")
    assert (account_id, result.code) == ("", ResultCode.POLICY_CHANGED)


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": Decimal("0")},
        {"epsilon": Decimal("NaN")},
        {"epsilon": Decimal("Infinity")},
        {"delta": Decimal("-1")},
        {"delta": Decimal("1")},
        {"policy": "Magic"},
        {"units": 0},
        {"dataset_uri": ""},
        {"dataset_uri": "x" * 5000},
        {"dataset_uri": "a\x00b"},
    ],
)
def test_bad_terms_are_refused_and_change_nothing(ledger, account, change):
    before = state_of_everything(ledger)
    with pytest.raises(InvalidValue):
        ledger.open_account(terms(**change), actor="s")
    assert state_of_everything(ledger) == before


# --- reserve ----------------------------------------------------------------------------------------------------------


def test_a_reservation_counts_at_once(ledger, account):
    result = reserve(ledger, request(account))
    assert (result.code, result.seq) == (ResultCode.ACCEPTED, 2)
    view, held = ledger.account(account), ledger.reservation("r1")
    assert view.balance.reserved == held.charge
    assert view.balance.charged.is_zero
    assert 0 < view.epsilon_reserved < 8
    assert held.state is ReservationState.RESERVED
    assert held.fence == result.seq


def test_what_fits_is_what_can_be_reserved(ledger, account):
    count = ledger.fits(account, EVENT)
    assert 1 < count < 1000
    for number in range(count):
        assert ledger.fits(account, EVENT) == count - number
        assert reserve(ledger, request(account, f"r{number}")).code is ResultCode.ACCEPTED
    assert ledger.fits(account, EVENT) == 0
    assert reserve(ledger, request(account, "one-more")).code is ResultCode.OVER_BUDGET


def test_fits_of_nothing_of_the_unknown_and_of_the_unprotected(ledger, account):
    assert ledger.fits(account, NoEvent()) == 1000
    assert ledger.fits(account, NonPrivate()) == 0
    assert ledger.fits("no-such-account", EVENT) == 0


def test_a_denial_is_written_explained_and_final(ledger, account):
    result = reserve(ledger, request(account, event=HUGE))
    assert result.code is ResultCode.OVER_BUDGET
    assert not result.stands
    assert "8" in result.shortfall[account]
    assert "short by" in result.shortfall[account]
    assert state(ledger) is ReservationState.DENIED
    assert ledger.entries()[-1].kind is EntryKind.DENIED
    assert ledger.account(account).balance.reserved.is_zero
    assert reserve(ledger, request(account, event=HUGE)) == result
    assert ledger.head()[0] == result.seq
    assert reserve(ledger, request(account, "r1-generation-2")).code is ResultCode.ACCEPTED


def test_an_event_the_policy_cannot_vouch_for_is_denied_by_name(ledger):
    account_id, _ = ledger.open_account(terms(policy="GDP"), actor="s")
    result = reserve(ledger, request(account_id))
    assert result.code is ResultCode.EVENT_UNSUPPORTED
    assert "Poisson rate" in result.message


def test_unprotected_use_of_data_never_fits(ledger, account):
    result = reserve(ledger, request(account, event=NonPrivate()))
    assert result.code in (ResultCode.EVENT_UNSUPPORTED, ResultCode.OVER_BUDGET)


def test_a_plan_without_mechanism_still_gets_a_reservation(ledger, account):
    assert reserve(ledger, request(account, event=NoEvent())).code is ResultCode.ACCEPTED
    assert ledger.account(account).epsilon_reserved == 0
    assert expose(ledger, access="validate").stands
    assert charge(ledger, executed=NoEvent()).stands
    assert ledger.account(account).epsilon_spent == 0


def test_several_accounts_are_reserved_all_or_none(ledger, account):
    small = terms(dataset_uri="file:///small", dataset_digest="", epsilon=Decimal("0.5"))
    other, _ = ledger.open_account(small, actor="s")
    result = reserve(ledger, request(account, "a"), request(other, "b"))
    assert result.code is ResultCode.OVER_BUDGET
    assert set(result.shortfall) == {other}
    assert state(ledger, "a") is state(ledger, "b") is ReservationState.DENIED
    assert ledger.account(account).epsilon_reserved == 0
    large = terms(dataset_uri="file:///large", dataset_digest="")
    third, _ = ledger.open_account(large, actor="s")
    assert reserve(ledger, request(account, "c"), request(third, "d")).stands
    assert state(ledger, "c") is state(ledger, "d") is ReservationState.RESERVED


def test_two_requests_on_one_account_are_added_up(ledger, account):
    count = ledger.fits(account, EVENT)
    for number in range(count - 1):
        reserve(ledger, request(account, f"r{number}"))
    result = reserve(ledger, request(account, "x"), request(account, "y"))
    assert result.code is ResultCode.OVER_BUDGET
    assert ledger.fits(account, EVENT) == 1


def test_the_same_reservation_again_is_the_earlier_one(ledger, account):
    first = reserve(ledger, request(account))
    before = state_of_everything(ledger)
    again = reserve(ledger, request(account), lease_seconds=LEASE * 2)
    assert (again.code, again.seq) == (ResultCode.REPEATED, first.seq)
    assert state_of_everything(ledger) == before


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"event": HALF}, "event"),
        ({"purpose": "Something else"}, "purpose"),
        ({"generation": 2}, "generation"),
        ({"requester": "user:eve"}, "requester"),
    ],
)
def test_the_same_id_with_other_content_is_refused_by_name(ledger, account, changes, field):
    reserve(ledger, request(account))
    before = state_of_everything(ledger)
    result = reserve(ledger, request(account, **changes))
    assert result.code is ResultCode.KEY_REUSED
    assert result.message.startswith(field)
    assert state_of_everything(ledger) == before


def test_a_reservation_cannot_grow_or_move(ledger, account):
    other, _ = ledger.open_account(terms(dataset_uri="file:///b", dataset_digest=""), actor="s")
    reserve(ledger, request(account))
    grown = reserve(ledger, request(account), request(other, "r2"))
    assert (grown.code, grown.message.split()[0]) == (ResultCode.KEY_REUSED, "together")
    moved = reserve(ledger, request(other))
    assert (moved.code, moved.message.split()[0]) == (ResultCode.KEY_REUSED, "accountId")


def test_an_unknown_account_is_named_and_nothing_is_written(ledger, account):
    before = state_of_everything(ledger)
    result = reserve(ledger, request(account), request("nobody", "r2"))
    assert result.code is ResultCode.ACCOUNT_UNKNOWN
    assert "nobody" in result.message
    assert state_of_everything(ledger) == before


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e12])
def test_a_lease_must_be_a_reasonable_time(ledger, account, seconds):
    with pytest.raises(InvalidValue, match="lease_seconds"):
        reserve(ledger, request(account), lease_seconds=seconds)


def test_requests_must_be_some_and_distinct(ledger, account):
    with pytest.raises(InvalidValue, match="requests"):
        reserve(ledger)
    with pytest.raises(InvalidValue, match="distinct"):
        reserve(ledger, request(account), request(account))


# --- expose -----------------------------------------------------------------------------------------------------------


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


# --- extend and expire ------------------------------------------------------------------------------------------------


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
    assert ledger.account(account).balance.charged == held
    assert ledger.account(account).balance.reserved == ledger.reservation("alive").charge


def test_what_expired_is_resolved_for_good(ledger, account, stores):
    reserve(ledger, request(account))
    expose(ledger)
    stores.clock.advance(LEASE)
    ledger.expire(actor="loop")
    before = state_of_everything(ledger)
    assert charge(ledger, executed=HALF).code is ResultCode.ALREADY_RESOLVED
    assert ledger.give_back("r1", reason="", actor="s").code is ResultCode.ALREADY_RESOLVED
    assert state_of_everything(ledger) == before


# --- charge and give back ---------------------------------------------------------------------------------------------


def test_a_trusted_receipt_charges_what_happened_and_returns_the_rest(ledger, account):
    reserve(ledger, request(account))
    expose(ledger)
    assert charge(ledger, executed=HALF).code is ResultCode.ACCEPTED
    view, done = ledger.account(account), ledger.reservation("r1")
    assert view.balance.reserved.is_zero
    assert view.balance.charged == done.charged
    half = [2 * amount for _, amount in done.charged.amounts]
    assert all(abs(a - b[1]) <= 2 for a, b in zip(half, done.charge.amounts, strict=True))
    assert (done.executed, done.state) == (HALF, ReservationState.CHARGED)


def test_no_receipt_charges_everything(ledger, account):
    reserve(ledger, request(account))
    expose(ledger)
    assert charge(ledger).stands
    done = ledger.reservation("r1")
    assert done.charged == done.charge == ledger.account(account).balance.charged


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
    assert ledger.account(account).balance.reserved.is_zero
    assert expose(ledger).code is ResultCode.ALREADY_RESOLVED
    assert charge(ledger).code is ResultCode.ALREADY_RESOLVED


def test_a_charge_is_made_once(ledger, account):
    reserve(ledger, request(account))
    expose(ledger)
    first = charge(ledger, executed=HALF)
    spent = ledger.account(account).balance
    again = charge(ledger, executed=HALF)
    assert (again.code, again.seq) == (ResultCode.REPEATED, first.seq)
    other = charge(ledger, executed=EVENT)
    assert (other.code, other.message.split()[0]) == (ResultCode.KEY_REUSED, "executed")
    assert ledger.account(account).balance == spent


# --- inspect, freeze and thaw -----------------------------------------------------------------------------------------


def test_an_inspection_is_recorded_and_costs_nothing(ledger, account):
    before = ledger.account(account).balance
    first = ledger.inspect(account, access="audit", study_uid="s", key="k1", actor="auditor")
    again = ledger.inspect(account, access="audit", study_uid="s", key="k1", actor="auditor")
    other = ledger.inspect(account, access="else", study_uid="s", key="k1", actor="auditor")
    assert (first.code, again.code, other.code) == (
        ResultCode.ACCEPTED,
        ResultCode.REPEATED,
        ResultCode.KEY_REUSED,
    )
    assert ledger.account(account).balance == before
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


# --- reading ----------------------------------------------------------------------------------------------------------


def test_entries_are_numbered_chained_and_paged(ledger, account):
    for number in range(5):
        reserve(ledger, request(account, f"r{number}", HALF))
    entries = ledger.entries()
    assert [entry.seq for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert entries[0].prev_hash == "0" * 64
    assert all(b.prev_hash == a.hash for a, b in zip(entries, entries[1:], strict=False))
    assert ledger.head() == (6, entries[-1].hash)
    assert [e.seq for e in ledger.entries(after=2, limit=2)] == [3, 4]
    assert [e.seq for e in ledger.entries(account_id="x")] == []
    assert list(ledger.entries(limit=0)) == list(ledger.entries(limit=-1)) == []


def test_reservations_are_found_by_account_and_by_study(ledger, account):
    reserve(ledger, request(account, "a", HALF))
    reserve(ledger, request(account, "b", HALF, study_uid="study-2"))
    names = [r.reservation_id for r in ledger.reservations()]
    assert names == ["a", "b"]
    assert [r.reservation_id for r in ledger.reservations(study_uid="study-2")] == ["b"]
    assert [r.reservation_id for r in ledger.reservations(account_id=account)] == names
    assert not ledger.reservations(account_id="x")
    assert not ledger.reservations(study_uid="x")


def test_an_empty_ledger(ledger):
    assert ledger.head() == (0, "0" * 64)
    assert list(ledger.accounts()) == list(ledger.reservations()) == list(ledger.entries()) == []
    assert ledger.account("x") is None
    assert ledger.reservation("x") is None


def test_time_never_runs_backwards_in_the_record(ledger, account, stores):
    stores.clock.advance(-86400)
    reserve(ledger, request(account))
    times = [entry.time for entry in ledger.entries()]
    assert times == sorted(times)
    assert ledger.reservation("r1").lease_until > times[-1]


def test_amounts_are_stored_as_whole_numbers_in_text(ledger, account):
    reserve(ledger, request(account))
    stored = ledger.entries()[-1].payload["charge"]
    assert Charge.from_json(stored) == ledger.reservation("r1").charge
    assert all(isinstance(amount, str) and amount.isdigit() for amount in stored.values())


@pytest.mark.parametrize("actor", ["", "a\nb", "x" * 300])
def test_an_actor_has_a_name(ledger, account, actor):
    with pytest.raises(InvalidValue, match="actor"):
        ledger.freeze(account, reason="", key="k", actor=actor)


def test_prose_of_any_length_and_letters_is_kept_readable(ledger, account):
    reserve(ledger, request(account))
    expose(ledger)
    assert charge(ledger, reason="line\nbreak \x00 " + "é" * 5000).stands
    assert "\x00" not in ledger.reservation("r1").reason


# --- tampering and rollback -------------------------------------------------------------------------------------------


class Record:
    """The stored rows of a ledger, changed behind its back."""

    def __init__(self, stores):
        self.stores = stores
        stores.broken = True

    def execute(self, statement):
        def work(connection):
            triggers = {
                "sqlite": [
                    "DROP TRIGGER IF EXISTS ledger_entries_no_update",
                    "DROP TRIGGER IF EXISTS ledger_entries_no_delete",
                ],
                "postgresql": [
                    "DROP TRIGGER IF EXISTS ledger_entries_no_change ON ledger_entries",
                    "DROP TRIGGER IF EXISTS ledger_entries_no_truncate ON ledger_entries",
                ],
            }[self.stores.kind]
            for drop in triggers:
                connection.exec_driver_sql(drop)
            assert connection.exec_driver_sql(statement).rowcount != 0

        self.stores.database.write(work)

    @property
    def rows(self):
        return self.stores.ledger.store.rows

    def change_entry(self, seq, column, value):
        if self.stores.kind == "memory":
            self.rows.lines[seq - 1] = replace(self.rows.lines[seq - 1], **{column: value})
        else:
            self.execute(f"UPDATE ledger_entries SET {column} = '{value}' WHERE seq = {seq}")

    def entry(self, seq):
        return self.stores.ledger.entries(after=seq - 1, limit=1)[0]

    def remove_entry(self, seq):
        if self.stores.kind == "memory":
            del self.rows.lines[seq - 1]
        else:
            self.execute(f"DELETE FROM ledger_entries WHERE seq = {seq}")

    def swap_entries(self, left, right):
        if self.stores.kind == "memory":
            lines = self.rows.lines
            a, b = lines[left - 1], lines[right - 1]
            lines[left - 1], lines[right - 1] = replace(b, seq=left), replace(a, seq=right)
        else:
            for old, new in ((left, -1), (right, left), (-1, right)):
                self.execute(f"UPDATE ledger_entries SET seq = {new} WHERE seq = {old}")

    def refund(self, account_id):
        nothing = Charge(
            tuple((k, 0) for k, _ in self.stores.ledger.account(account_id).capacity.amounts)
        )
        if self.stores.kind == "memory":
            account = self.rows.accounts[account_id]
            balance = replace(account.balance, reserved=nothing)
            self.rows.accounts[account_id] = replace(account, balance=balance)
        else:
            text = canonical_json(nothing.to_json()).decode()
            self.execute(f"UPDATE ledger_accounts SET reserved = '{text}'")

    def revive(self, name):
        if self.stores.kind == "memory":
            held = self.rows.reservations[name]
            self.rows.reservations[name] = replace(held, state=ReservationState.RESERVED)
        else:
            self.execute(
                f"UPDATE ledger_reservations SET state = 'Reserved' WHERE reservation_id = '{name}'"
            )

    def forget_identity(self):
        if self.stores.kind == "memory":
            for key, account in self.rows.accounts.items():
                self.rows.accounts[key] = replace(account, identities=account.identities[:1])
        else:
            self.execute("DELETE FROM ledger_identities WHERE identity LIKE 'uri=%%'")


@pytest.fixture
def record(stores, account):
    ledger = stores.ledger
    for name in ("r1", "r2", "r3"):
        reserve(ledger, request(account, name, HALF))
    expose(ledger, "r1")
    charge(ledger, "r1")
    ledger.give_back("r2", reason="withdrawn", actor="s")
    assert ledger.verify() == ()
    return Record(stores)


def flipped(text, at):
    letter = "0" if text[at] != "0" else "1"
    return text[:at] + letter + text[at + 1 :]


@pytest.mark.parametrize(
    "column",
    ["prev_hash", "account_id", "reservation_id", "idempotency_key", "actor", "time", "hash"],
)
def test_one_flipped_letter_in_any_column_is_found(record, ledger, column):
    value = getattr(record.entry(3), column)
    record.change_entry(3, column, flipped(value, len(value) // 2))
    assert any("ntry 3" in fault for fault in ledger.verify())


def test_a_changed_kind_is_found(record, ledger):
    record.change_entry(5, "kind", "Inspected")
    assert any("Entry 5" in fault for fault in ledger.verify())
    record.change_entry(5, "kind", "Nonsense")
    assert any("Entry 5" in fault for fault in ledger.verify())


def test_every_flipped_letter_of_a_payload_is_found(record, ledger):
    text = canonical_json(record.entry(2).payload).decode()
    for at in range(0, len(text), 23):
        record.change_entry(2, "payload", flipped(text, at))
        assert any("Entry 2" in fault for fault in ledger.verify())
    record.change_entry(2, "payload", text + " ")
    assert any("Entry 2" in fault for fault in ledger.verify())
    record.change_entry(2, "payload", "[]")
    assert any("Entry 2" in fault for fault in ledger.verify())
    record.change_entry(2, "payload", text)
    assert ledger.verify() == ()


@pytest.mark.parametrize("seq", [1, 4, 7])
def test_a_missing_entry_is_found(record, ledger, seq):
    assert ledger.head()[0] == 7
    record.remove_entry(seq)
    assert ledger.verify()


def test_reordered_entries_are_found(record, ledger):
    record.swap_entries(3, 4)
    assert any("Entry 3" in fault for fault in ledger.verify())


def test_a_refund_behind_the_back_is_found(record, ledger, account):
    record.refund(account)
    assert any(account in fault for fault in ledger.verify())


def test_a_revived_reservation_is_found(record, ledger):
    record.revive("r1")
    assert any("r1" in fault and "state" in fault for fault in ledger.verify())


def test_a_forgotten_identity_is_found(record, ledger):
    record.forget_identity()
    assert ledger.verify()


def test_the_database_itself_refuses_to_change_an_entry(stores, account):
    if stores.kind == "memory":
        pytest.skip("memory has no second door")
    from primum.domain.errors import PrimumError

    for statement in (
        "UPDATE ledger_entries SET actor = 'eve'",
        "DELETE FROM ledger_entries",
    ):
        with pytest.raises(PrimumError, match="append-only|there already"):
            stores.database.write(lambda c, s=statement: c.exec_driver_sql(s))


def test_an_older_copy_grants_nothing(stores, ledger, account):
    """Goal: a restored backup is recognized by its anchor, before and after the number is reached again."""
    reserve(ledger, request(account))
    stores.broken = True
    stores.anchor.write(ledger.head()[0] + 3, "f" * 64)
    before = state_of_everything(ledger)
    fence = ledger.reservation("r1").fence
    for result in (
        reserve(ledger, request(account, "r2")),
        ledger.expose("r1", access="a", fence=fence, actor="s"),
        ledger.open_account(terms(dataset_uri="file:///new", dataset_digest=""), actor="s")[1],
        ledger.extend("r1", fence=fence, lease_seconds=60, actor="s"),
        ledger.inspect(account, access="a", study_uid="", key="k", actor="s"),
        ledger.thaw(account, reason="", key="k", actor="s"),
        ledger.give_back("r1", reason="", actor="s"),
    ):
        assert result.code is ResultCode.ROLLED_BACK
        assert not result.stands
    assert ledger.expire(actor="s") == ()
    assert state_of_everything(ledger) == before
    assert "anchor" in ledger.verify()[0]


def test_a_fork_of_the_same_length_grants_nothing(stores, ledger, account):
    reserve(ledger, request(account))
    stores.broken = True
    seq, _ = stores.anchor.read()
    stores.anchor._held = (seq, "e" * 64)
    assert reserve(ledger, request(account, "r2")).code is ResultCode.ROLLED_BACK
    stores.anchor._held = (1, "e" * 64)
    assert reserve(ledger, request(account, "r2")).code is ResultCode.ROLLED_BACK


def test_the_anchor_follows_every_entry(stores, ledger, account):
    assert stores.anchor.read() == ledger.head()
    reserve(ledger, request(account))
    assert stores.anchor.read() == ledger.head()
