"""Every ledger store obeys the same words: accounts, reservations, and what can be read."""

from __future__ import annotations

import itertools
from dataclasses import replace
from decimal import Decimal

import pytest
from ledger_words import (
    EVENT,
    HALF,
    HUGE,
    LEASE,
    charge,
    expose,
    request,
    reserve,
    state,
    state_of_everything,
    terms,
)

from primum.domain.accounting.charges import Charge
from primum.domain.accounting.events import (
    NoEvent,
    NonPrivate,
    Repeated,
    SubsampledGaussian,
)
from primum.domain.budget.entries import EntryKind, ReservationState, ResultCode
from primum.domain.errors import InvalidValue
from primum.domain.quantities import Neighbors, PrivacyUnit


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
    before = ledger.account(account).blocks[0]
    found, result = ledger.open_account(terms(**changes), actor="steward:grace")
    assert (found, result.stands) == (account, True)
    assert ledger.account(account).blocks[0] == before
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


def test_a_reservation_counts_at_once(ledger, account):
    result = reserve(ledger, request(account))
    assert (result.code, result.seq) == (ResultCode.ACCEPTED, 2)
    view, held = ledger.account(account), ledger.reservation("r1")
    assert view.blocks[0].reserved == held.charge
    assert view.blocks[0].charged.is_zero
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
    assert ledger.account(account).blocks[0].reserved.is_zero
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


def test_entries_are_numbered_chained_and_paged(ledger, account):
    for number in range(5):
        reserve(ledger, request(account, f"r{number}", HALF))
    entries = ledger.entries()
    assert [entry.seq for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert entries[0].prev_hash == "0" * 64
    assert all(b.prev_hash == a.hash for a, b in itertools.pairwise(entries))
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
