"""Every store reserves, settles and repeats an event that only dp-accounting can express."""

from __future__ import annotations

from decimal import Decimal

from ledger_words import charge, expose, request, reserve, state

from primum.domain.accounting.events import LibraryEvent, Repeated, event_from_json
from primum.domain.accounting.policies import policy_named
from primum.domain.budget.entries import ReservationState, ResultCode
from primum.domain.quantities import Neighbors

GAUSSIAN = LibraryEvent.of("Gaussian", noise_multiplier=Decimal(12))
SELECTED = Repeated(
    LibraryEvent.of("RepeatAndSelect", event=GAUSSIAN, mean=Decimal(5), shape=Decimal(1)), 4
)
FIXED_SIZE = LibraryEvent.of(
    "SampledWithoutReplacement", source_dataset_size=100, sample_size=5, event=GAUSSIAN
)


def reserved(ledger, account, event=SELECTED):
    assert reserve(ledger, request(account, event=event)).code is ResultCode.ACCEPTED
    assert expose(ledger).code is ResultCode.ACCEPTED


def test_it_is_charged_its_curve_and_read_back_as_it_was(ledger, account):
    reserved(ledger, account)
    kept = ledger.reservation("r1")
    assert kept.event == SELECTED
    assert event_from_json(kept.event.to_json()) == SELECTED
    whole = policy_named("RDP").charge(SELECTED, Neighbors.ADD_OR_REMOVE_ONE)
    assert kept.charge == whole
    assert charge(ledger, executed=SELECTED).code is ResultCode.ACCEPTED
    assert state(ledger) is ReservationState.CHARGED
    assert ledger.account(account).epsilon_spent > 0
    assert ledger.account(account).frozen == ""


def test_fewer_repetitions_cost_less(ledger, account):
    reserved(ledger, account)
    held = ledger.account(account).epsilon_reserved
    assert charge(ledger, executed=Repeated(SELECTED.event, 1)).code is ResultCode.ACCEPTED
    assert Decimal(0) < ledger.account(account).epsilon_spent < held


def test_another_event_is_charged_in_full_and_a_dearer_one_freezes_the_account(ledger, account):
    """More noise too: nobody proved what covers what among the library's mechanisms."""
    reserved(ledger, account)
    held = ledger.reservation("r1").charge
    quieter = LibraryEvent.of("Gaussian", noise_multiplier=Decimal(13))
    other = LibraryEvent.of("RepeatAndSelect", event=quieter, mean=Decimal(5), shape=Decimal(1))
    result = charge(ledger, executed=other)
    assert result.code is ResultCode.CHARGE_ABOVE_RESERVATION
    assert "cannot be shown to be within the plan" in result.message
    assert ledger.reservation("r1").charge == held
    assert ledger.account(account).frozen == ""
    assert reserve(ledger, request(account, "r2", event=SELECTED)).code is ResultCode.ACCEPTED
    assert expose(ledger, "r2").code is ResultCode.ACCEPTED
    more = Repeated(SELECTED.event, SELECTED.count + 1)
    assert charge(ledger, "r2", executed=more).code is ResultCode.CHARGE_ABOVE_RESERVATION
    assert "r2" in ledger.account(account).frozen


def test_what_the_accounts_neighbors_do_not_allow_is_refused_by_name(ledger, account):
    result = reserve(ledger, request(account, event=FIXED_SIZE))
    assert result.code is ResultCode.EVENT_UNSUPPORTED
    assert "SampledWithoutReplacement" in result.message
    assert "ReplaceOne" in result.message
    assert ledger.account(account).epsilon_reserved == 0


def test_what_no_budget_can_hold_is_denied(ledger, account):
    bare = LibraryEvent.of("Gaussian", noise_multiplier=Decimal("1E-6"))
    assert reserve(ledger, request(account, event=bare)).code is not ResultCode.ACCEPTED
    assert ledger.account(account).epsilon_reserved == 0
