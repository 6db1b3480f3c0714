"""Entries that contradict what came before them, and records that were made up whole, are named."""

from __future__ import annotations

import pytest
from ledger_words import EVENT, HALF, HUGE, charge, expose, request, reserve, terms

from primum.adapters.memory import ManualClock, MemoryLedgerStore
from primum.domain.accounting.events import Gaussian
from primum.domain.budget import book, decisions, folding, lines, verification
from primum.domain.budget.entries import EntryKind
from primum.domain.errors import Tampered


@pytest.fixture
def ledger():
    return MemoryLedgerStore(clock=ManualClock())


@pytest.fixture
def account(ledger):
    return ledger.open_account(terms(), actor="s")[0]


def forge(ledger, kind, payload, *, account="", reservation="", key="forged"):
    """Write a well-formed entry that no decision would have made, and its consequences as
    stored.
    """
    rows = ledger.store.rows
    draft = book.Draft(account, kind, reservation, key, payload)
    entry = book.sealed(draft, head=rows.head, actor="eve", time=rows.head.time)
    rows.lines.append(lines.line_of(entry))
    rows.head = book.Head(entry.seq, entry.hash, entry.time)
    return entry


def faults_of(ledger):
    return [f for f in ledger.verify() if f.startswith("Entry")]


NOTHING = {"asked": {"reason": "x"}}


@pytest.mark.parametrize("kind", [EntryKind.FROZEN, EntryKind.RESERVED, EntryKind.CHARGED])
def test_an_account_must_be_opened_first(ledger, kind):
    forge(ledger, kind, NOTHING, account="nobody")
    assert "must follow the opening" in faults_of(ledger)[0]


def test_an_account_is_opened_once(ledger, account):
    opened = ledger.entries()[0]
    forge(ledger, EntryKind.OPENED, opened.payload, account=account)
    assert "must not open an account twice" in faults_of(ledger)[0]


def test_a_guarantee_cannot_be_raised_by_a_forged_entry(ledger, account):
    payload = {"asked": {"epsilon": "80", "delta": "1e-5"}}
    forge(ledger, EntryKind.LOWERED, payload, account=account)
    assert "must lower the guarantee" in faults_of(ledger)[0]


def test_a_reservation_is_made_once(ledger, account):
    reserve(ledger, request(account))
    forge(
        ledger, EntryKind.RESERVED, ledger.entries()[1].payload, account=account, reservation="r1"
    )
    assert "must make a new reservation" in faults_of(ledger)[0]


def test_a_reservation_that_does_not_fit_is_found_even_in_a_perfect_chain(ledger, account):
    reserve(ledger, request(account, event=HUGE))
    denied = ledger.entries()[1].payload
    payload = {
        "asked": denied["asked"],
        "charge": denied["charge"],
        "leaseUntil": "2027-01-01T00:00:00.000000Z",
    }
    forge(ledger, EntryKind.RESERVED, payload, account=account, reservation="r2")
    assert "must fit" in faults_of(ledger)[0]


def test_a_reservation_on_a_frozen_account_is_found(ledger, account):
    reserve(ledger, request(account))
    ledger.freeze(account, reason="x", key="k", actor="s")
    forge(
        ledger, EntryKind.RESERVED, ledger.entries()[1].payload, account=account, reservation="r2"
    )
    assert "frozen" in faults_of(ledger)[0]


def test_what_is_resolved_stays_resolved(ledger, account):
    reserve(ledger, request(account))
    returned = forge_payload(ledger, account)
    for kind in (EntryKind.EXPOSED, EntryKind.CHARGED, EntryKind.RETURNED):
        forge(ledger, kind, returned, account=account, reservation="r1", key=kind.value)
    assert len(faults_of(ledger)) == 3
    assert all("must name an open reservation" in fault for fault in faults_of(ledger))


def test_a_resolved_reservation_is_not_made_again(ledger, account):
    reserve(ledger, request(account))
    ledger.give_back("r1", reason="withdrawn", actor="s")
    again = ledger.entries()[1].payload
    forge(ledger, EntryKind.RESERVED, again, account=account, reservation="r1")
    assert faults_of(ledger) == ["Entry 4 must make a new reservation; found that of entry 2."]


def forge_payload(ledger, account):
    ledger.give_back("r1", reason="withdrawn", actor="s")
    return ledger.entries()[-1].payload


def test_what_was_exposed_cannot_be_returned(ledger, account):
    reserve(ledger, request(account))
    expose(ledger)
    forge(ledger, EntryKind.RETURNED, NOTHING, account=account, reservation="r1")
    assert "must not return what was exposed" in faults_of(ledger)[0]


def test_what_was_not_exposed_cannot_be_charged(ledger, account):
    reserve(ledger, request(account))
    forge(ledger, EntryKind.CHARGED, NOTHING, account=account, reservation="r1")
    assert "found it unexposed" in faults_of(ledger)[0]


def test_a_reservation_belongs_to_its_account(ledger, account):
    other = ledger.open_account(terms(dataset_uri="b", dataset_digest=""), actor="s")[0]
    reserve(ledger, request(account))
    payload = {"asked": {"access": "a", "fence": 3}}
    forge(ledger, EntryKind.EXPOSED, payload, account=other, reservation="r1")
    assert "of its account" in faults_of(ledger)[0]


def test_kinds_that_need_a_reservation_and_kinds_that_must_not_have_one(ledger, account):
    reserve(ledger, request(account))
    forge(ledger, EntryKind.RETURNED, NOTHING, account=account)
    forge(ledger, EntryKind.FROZEN, NOTHING, account=account, reservation="r1", key="f2")
    first, second = faults_of(ledger)
    assert "must name a reservation" in first
    assert "must not name a reservation" in second


@pytest.mark.parametrize("payload", [{}, {"asked": 1}, {"asked": {"epsilon": "x", "delta": "y"}}])
def test_an_unreadable_payload_is_named(ledger, account, payload):
    forge(ledger, EntryKind.LOWERED, payload, account=account)
    assert "must be readable" in faults_of(ledger)[0]


def test_a_reused_key_is_found(ledger, account):
    forge(ledger, EntryKind.FROZEN, NOTHING, account=account, key="open")
    assert "key of its own" in faults_of(ledger)[0]


def test_an_entry_that_keeps_no_envelope_is_no_checkpoint(ledger, account):
    forge(ledger, EntryKind.CHECKPOINT, {"head": "x"})
    assert "must hold a signed checkpoint" in faults_of(ledger)[0]


def test_a_balance_never_falls_below_zero(ledger, account):
    reserve(ledger, request(account))
    held = ledger.reservation("r1").charge
    with pytest.raises(Tampered, match="below 0"):
        folding.less(held, held + held)


def test_sentences_about_a_destroyed_ledger_are_limited(ledger, account):
    for number in range(1200):
        forge(ledger, EntryKind.FROZEN, {}, account=account, key=f"k{number}")
    assert len(ledger.verify()) == verification.FAULTS_MAX


def test_every_faulty_entry_is_one_fault_and_not_many(ledger, account):
    for number in range(4):
        reserve(ledger, request(account, f"r{number}", HALF))
    rows = ledger.store.rows
    rows.lines[2] = rows.lines[2]._replace(actor="eve")
    assert len(ledger.verify()) == 1


def test_an_account_of_an_older_grid_keeps_it(ledger, account):
    """The policy is recorded with its parameters: a new default does not change an old account."""
    held = ledger.store.rows.accounts[account]
    assert '"order":"4"' in held.policy
    assert held.filter == book.recorded_policy(held.policy)


def test_times_sort_as_text_and_seconds_are_added():
    assert decisions.later("2026-12-31T23:59:59.500000Z", 0.5) == "2027-01-01T00:00:00.000000Z"


def test_a_settlement_names_what_the_receipt_showed(ledger, account):
    reserve(ledger, request(account))
    expose(ledger)
    result = charge(ledger, executed=Gaussian(EVENT.event.noise_multiplier))
    assert "Gaussian(noise multiplier 2)" in result.message
