"""A ledger charges a plan with individual filters what was reserved, and no receipt beyond it."""

from __future__ import annotations

from decimal import Decimal

from ledger_words import EVENT, HALF, charge, expose, request, reserve, state

from primum.domain.accounting.events import IndividuallyFiltered, Repeated, event_from_json
from primum.domain.accounting.individual import FILTER_ORDERS
from primum.domain.budget.entries import ReservationState, ResultCode

FILTERED = IndividuallyFiltered(EVENT, FILTER_ORDERS)


def reserved(ledger, account):
    assert reserve(ledger, request(account, event=FILTERED)).code is ResultCode.ACCEPTED
    assert expose(ledger).code is ResultCode.ACCEPTED


def test_filters_cost_a_budget_what_their_bound_costs(ledger, account):
    reserve(ledger, request(account, "plain"), request(account, "filtered", event=FILTERED))
    plain, filtered = ledger.reservation("plain"), ledger.reservation("filtered")
    assert filtered.charge == plain.charge
    assert event_from_json(filtered.event.to_json()) == FILTERED


def test_a_receipt_of_the_filters_is_charged_as_reserved(ledger, account):
    reserved(ledger, account)
    before = ledger.reservation("r1").charge
    assert charge(ledger, executed=FILTERED).code is ResultCode.ACCEPTED
    assert state(ledger) is ReservationState.CHARGED
    assert ledger.reservation("r1").charge == before
    assert ledger.account(account).frozen == ""


def test_a_training_that_ended_before_any_unit_could_leave_costs_its_steps(ledger, account):
    reserved(ledger, account)
    held = ledger.account(account).epsilon_reserved
    assert charge(ledger, executed=HALF).code is ResultCode.ACCEPTED
    assert Decimal(0) < ledger.account(account).epsilon_spent < held


def test_running_on_without_the_filters_freezes_the_account(ledger, account):
    reserved(ledger, account)
    longer = Repeated(EVENT.event, EVENT.count + 1)
    assert charge(ledger, executed=longer).code is ResultCode.CHARGE_ABOVE_RESERVATION
    assert "r1" in ledger.account(account).frozen


def test_filters_at_fewer_orders_than_planned_are_not_within_the_plan(ledger, account):
    reserved(ledger, account)
    fewer = IndividuallyFiltered(EVENT, FILTER_ORDERS[1:])
    assert charge(ledger, executed=fewer).code is ResultCode.CHARGE_ABOVE_RESERVATION
