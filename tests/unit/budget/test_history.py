"""An account's past in bounded memory: the same ends as the ledger's, whatever came between."""

from __future__ import annotations

import itertools
from decimal import Decimal

import pytest
from ledger_words import EVENT, HALF, charge, expose, request, reserve, terms

from primum.adapters.memory import ManualClock, MemoryLedgerStore
from primum.domain.budget import history
from primum.domain.budget.history import EARLIER, History, Series
from primum.domain.errors import Tampered

LARGE = Decimal(1000)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def ledger(clock):
    return MemoryLedgerStore(clock=clock)


@pytest.fixture
def account(ledger):
    return ledger.open_account(terms(epsilon=LARGE), actor="steward")[0]


def spend(ledger, account, name, **changes):
    assert reserve(ledger, request(account, name, **changes)).stands
    expose(ledger, name)
    charge(ledger, name)


def told(ledger, account):
    found = History()
    for entry in ledger.entries(account_id=account, limit=10_000):
        found.take(entry)
    return found


def test_it_ends_where_the_ledger_stands(ledger, account, clock):
    for number in range(5):
        clock.advance(3600)
        spend(ledger, account, f"r{number}")
    reserve(ledger, request(account, "held"))
    found = told(ledger, account)
    (view,) = ledger.account(account).blocks
    last = found.points("whole")[-1]
    assert (last.reserved, last.charged) == (view.reserved, view.charged)
    assert [item.reservation_id for item in found.open_reservations()] == ["held"]
    assert len(found.spends("whole")) == 5
    assert found.points("none") == ()


def test_what_is_given_back_comes_back(ledger, account):
    reserve(ledger, request(account, "r1"))
    ledger.give_back("r1", reason="withdrawn", actor="loop")
    found = told(ledger, account)
    levels = [point.used.is_zero for point in found.points("whole")]
    assert levels == [True, False, True]
    assert found.spends("whole") == ()
    assert list(found.cells()) == []


def test_points_stay_few_and_keep_both_ends():
    series = Series(16)
    for number in range(10_000):
        series.add(number)
    kept = series.points()
    assert len(kept) <= 17
    assert (kept[0], kept[-1]) == (0, 9_999)
    gaps = {after - before for before, after in itertools.pairwise(kept[:-1])}
    assert len(gaps) == 1, "thinned evenly"


def test_one_day_of_one_study_is_one_cell(ledger, account, clock):
    spend(ledger, account, "r1", requester="ada", event=HALF)
    spend(ledger, account, "r2", requester="ada", event=HALF)
    spend(ledger, account, "r3", requester="grace")
    clock.advance(86400)
    spend(ledger, account, "r4", requester="ada")
    cells = list(told(ledger, account).cells())
    assert [(cell.day, cell.asked.requester, cell.charges) for cell in cells] == [
        ("2026-01-01", "ada", 2),
        ("2026-01-01", "grace", 1),
        ("2026-01-02", "ada", 1),
    ]
    half = ledger.reservation("r1").charge
    assert cells[0].charge == half + half


def test_too_many_cells_are_put_together_and_nothing_is_lost(ledger, account, monkeypatch, clock):
    monkeypatch.setattr(history, "CELLS_MAX", 20)
    for number in range(30):
        clock.advance(86400)
        spend(ledger, account, f"r{number}", requester=f"p{number}", event=HALF)
    cells = list(told(ledger, account).cells())
    assert len(cells) <= 20
    assert cells[0].asked.requester == EARLIER
    assert sum(cell.charges for cell in cells) == 30
    (view,) = ledger.account(account).blocks
    total = cells[0].charge
    for cell in cells[1:]:
        total = total + cell.charge
    assert total == view.charged


def test_events_are_composed_while_they_are_few(ledger, account, monkeypatch):
    monkeypatch.setattr(history, "EVENTS_MAX", 2)
    spend(ledger, account, "r1")
    spend(ledger, account, "r2")
    spend(ledger, account, "r3", event=HALF)
    event = told(ledger, account).happened("whole")
    assert {(part.event, part.count) for part in event.events} == {(EVENT, 2), (HALF, 1)}
    from primum.domain.accounting.events import Gaussian

    spend(ledger, account, "r4", event=Gaussian(Decimal("9")))
    assert told(ledger, account).happened("whole") is None


def test_an_entry_that_contradicts_is_a_fault(ledger, account):
    spend(ledger, account, "r1")
    opened, *rest = ledger.entries(account_id=account)
    found = History()
    found.take(opened)
    with pytest.raises(Tampered):
        found.take(rest[-1])
