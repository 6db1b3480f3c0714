"""Whoever changes a record behind the back of its ledger is found out, on every store."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ledger_words import (
    HALF,
    charge,
    expose,
    request,
    reserve,
    state_of_everything,
    terms,
)

from primum.domain.accounting.charges import Charge
from primum.domain.budget.entries import ReservationState, ResultCode
from primum.domain.canonical import canonical_json
from primum.domain.errors import PrimumError


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
            self.rows.lines[seq - 1] = self.rows.lines[seq - 1]._replace(**{column: value})
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
            lines[left - 1], lines[right - 1] = b._replace(seq=left), a._replace(seq=right)
        else:
            for old, new in ((left, -1), (right, left), (-1, right)):
                self.execute(f"UPDATE ledger_entries SET seq = {new} WHERE seq = {old}")

    def refund(self, account_id):
        nothing = Charge(
            tuple((k, 0) for k, _ in self.stores.ledger.account(account_id).capacity.amounts)
        )
        if self.stores.kind == "memory":
            account = self.rows.accounts[account_id]
            whole = replace(account.blocks["whole"], reserved=nothing)
            self.rows.accounts[account_id] = replace(account, blocks={"whole": whole})
        else:
            text = canonical_json(nothing.to_json()).decode()
            self.execute(f"UPDATE ledger_holdings SET reserved = '{text}'")

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
    for statement in (
        "UPDATE ledger_entries SET actor = 'eve'",
        "DELETE FROM ledger_entries",
    ):
        with pytest.raises(PrimumError, match=r"append-only|there already"):
            stores.database.write(lambda c, s=statement: c.exec_driver_sql(s))


def test_an_older_copy_grants_nothing(stores, ledger, account):
    """Goal: a restored backup is recognized by its anchor, and nothing is written."""
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
