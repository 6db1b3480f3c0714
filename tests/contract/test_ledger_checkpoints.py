"""A signed checkpoint finds what a chain alone cannot: another past, told without a flaw."""

from __future__ import annotations

import contextlib
import copy
import sqlite3

import pytest
from ledger_words import HALF, charge, expose, request, reserve

from primum import signing
from primum.adapters.memory import MemorySigner
from primum.domain.budget import checkpoints
from primum.domain.budget.entries import EntryKind, ResultCode
from primum.domain.canonical import canonical_json
from primum.domain.errors import InvalidValue, Tampered

SIGNER = MemorySigner()
KEY = SIGNER.public_key()


def signed_here(stores):
    """Over HTTP the key is with the API, and nobody else's counts."""
    if stores.kind == "http":
        pytest.skip("over HTTP the API signs, with its own key")


class Interrupted:
    """A signer during whose work somebody else writes."""

    def __init__(self, meanwhile):
        self._meanwhile = meanwhile

    def public_key(self):
        return KEY

    def sign(self, payload_type, payload):
        self._meanwhile()
        return SIGNER.sign(payload_type, payload)


def stated_in(envelope):
    payload = signing.verify(KEY, envelope, signing.CHECKPOINT_TYPE)
    return checkpoints.checkpoint_from(payload)


def spend(ledger, account, name):
    reserve(ledger, request(account, name, HALF))
    expose(ledger, name)
    charge(ledger, name)


def verify(ledger, **outside):
    return ledger.verify(public_key=KEY, outside=outside)


def test_a_checkpoint_states_the_end_and_is_kept(ledger, account):
    spend(ledger, account, "r1")
    head = ledger.head()
    envelope = ledger.checkpoint(SIGNER, actor="s")
    stated = stated_in(envelope)
    assert (stated.seq, stated.hash) == head
    assert stated.key_id == signing.key_id(KEY)
    kept = ledger.entries(after=head[0])
    assert [(e.kind, e.account_id, e.payload["envelope"]) for e in kept] == [
        (EntryKind.CHECKPOINT, "", envelope)
    ]
    assert verify(ledger, outside=envelope) == ()


def test_a_checkpoint_moves_no_balance(ledger, account):
    spend(ledger, account, "r1")
    before = ledger.accounts(), ledger.reservations()
    ledger.checkpoint(SIGNER, actor="s")
    assert (ledger.accounts(), ledger.reservations()) == before


def test_the_anchor_follows_a_checkpoint(stores, ledger, account):
    ledger.checkpoint(SIGNER, actor="s")
    assert stores.anchor.read() == ledger.head()


def test_nobody_waits_for_a_signature(stores, ledger, account):
    """Grants go on while it is made; it states the entry before them, and holds all the same."""
    signed_here(stores)
    results = []
    signer = Interrupted(lambda: results.append(reserve(ledger, request(account, "r1", HALF))))
    before = ledger.head()
    stated = stated_in(ledger.checkpoint(signer, actor="s"))
    assert results[0].code is ResultCode.ACCEPTED
    assert (stated.seq, stated.hash) == before
    assert ledger.head()[0] == before[0] + 2
    assert verify(ledger) == ()


def test_two_loops_at_once_keep_one_checkpoint_of_a_place(ledger, account):
    other = Interrupted(lambda: ledger.checkpoint(SIGNER, actor="other"))
    ledger.checkpoint(other, actor="s")
    kinds = [entry.kind for entry in ledger.entries()]
    assert kinds.count(EntryKind.CHECKPOINT) == 1
    assert verify(ledger) == ()


def test_an_empty_ledger_can_be_stated(ledger):
    assert stated_in(ledger.checkpoint(SIGNER, actor="s")).seq == 0
    assert verify(ledger) == ()


def test_when_a_checkpoint_is_due(stores, ledger, account):
    assert not ledger.checkpoint_due()
    stores.clock.advance(checkpoints.SECONDS_BETWEEN)
    assert ledger.checkpoint_due()
    ledger.checkpoint(SIGNER, actor="s")
    stores.clock.advance(10 * checkpoints.SECONDS_BETWEEN)
    assert not ledger.checkpoint_due()
    reserve(ledger, request(account, "r1", HALF))
    assert ledger.checkpoint_due()


def test_an_empty_ledger_is_never_due(stores, ledger):
    stores.clock.advance(10 * checkpoints.SECONDS_BETWEEN)
    assert not ledger.checkpoint_due()


def test_a_thousand_entries_are_due(ledger, account, monkeypatch):
    monkeypatch.setattr(checkpoints, "ENTRIES_BETWEEN", 3)
    ledger.checkpoint(SIGNER, actor="s")
    for number in range(3):
        assert not ledger.checkpoint_due()
        ledger.freeze(account, reason="x", key=f"k{number}", actor="s")
    assert ledger.checkpoint_due()


def test_a_checkpoint_of_a_foreign_key_is_found(stores, ledger, account):
    signed_here(stores)
    ledger.checkpoint(MemorySigner(), actor="eve")
    assert "Entry 2 must keep a signed checkpoint" in verify(ledger)[0]
    assert ledger.verify() == ()


def test_a_key_that_is_none_is_refused(ledger, account):
    envelope = ledger.checkpoint(SIGNER, actor="s")
    with pytest.raises(InvalidValue, match="public_key must be an Ed25519 key"):
        ledger.verify(outside={"x": envelope})


def backup_of(stores):
    """A copy of the database as it stands; calling it restores the copy."""
    if stores.kind == "memory":
        older = copy.copy(stores.ledger.store.rows)
        return lambda: setattr(stores.ledger.store, "rows", older)
    older = sqlite3.connect(":memory:")
    path = stores.url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path)) as present:
        present.backup(older)

    def restore():
        with contextlib.closing(older), contextlib.closing(sqlite3.connect(path)) as present:
            older.backup(present)

    return restore


def test_a_rollback_to_an_older_database_is_found_by_a_checkpoint_kept_elsewhere(stores, account):
    """The anchor went back with the database: only what somebody else kept can tell."""
    if stores.kind == "postgresql":
        pytest.skip("a backup of a server is not ours to make; memory and SQLite show the same")
    ledger = stores.ledger
    spend(ledger, account, "r1")
    restore, anchored = backup_of(stores), stores.anchor.read()
    spend(ledger, account, "r2")
    outside = ledger.checkpoint(SIGNER, actor="s")
    restore()
    stores.anchor._held = anchored
    assert ledger.verify(public_key=KEY) == ()
    assert verify(ledger, safe=outside) == (
        f"The ledger must hold entry {stated_in(outside).seq}, which the checkpoint safe states; "
        f"found its end at {anchored[0]}.",
    )


def test_another_past_is_found_by_a_checkpoint_kept_elsewhere(stores, ledger, account):
    twin_only = [ledger.checkpoint(SIGNER, actor="s")]
    spend(ledger, account, "r1")
    stated = stated_in(twin_only[0])
    forged = checkpoints.Checkpoint(
        stated.seq, "f" * 64, stated.time, stated.accounts, stated.key_id
    )
    envelope = SIGNER.sign(signing.CHECKPOINT_TYPE, canonical_json(forged.to_json()))
    assert "must be the one that the checkpoint other states" in verify(ledger, other=envelope)[0]


def test_signed_balances_that_the_entries_do_not_give_are_found(stores, ledger, account):
    spend(ledger, account, "r1")
    stated = stated_in(ledger.signed_head(SIGNER))
    forged = checkpoints.Checkpoint(
        stated.seq, stated.hash, stated.time, "sha256:" + "0" * 64, stated.key_id
    )
    envelope = SIGNER.sign(signing.CHECKPOINT_TYPE, canonical_json(forged.to_json()))
    assert "Balances after entry 4 must be what" in verify(ledger, other=envelope)[0]


def test_a_ledger_that_is_older_than_its_anchor_is_not_signed(stores, ledger, account):
    stores.broken = True
    stores.anchor.write(ledger.head()[0] + 3, "f" * 64)
    before = ledger.head()
    with pytest.raises(Tampered, match="anchor"):
        ledger.checkpoint(SIGNER, actor="s")
    with pytest.raises(Tampered, match="anchor"):
        ledger.signed_head(SIGNER)
    assert ledger.head() == before


def test_a_rollback_between_signing_and_writing_is_refused(stores, ledger, account):
    signed_here(stores)
    stores.broken = True
    signer = Interrupted(lambda: stores.anchor.write(ledger.head()[0] + 3, "f" * 64))
    with pytest.raises(Tampered, match="anchor"):
        ledger.checkpoint(signer, actor="s")


def test_lines_are_what_is_stored(ledger, account):
    spend(ledger, account, "r1")
    shown = ledger.lines()
    assert [line.seq for line in shown] == [1, 2, 3, 4]
    assert [line.hash for line in shown] == [entry.hash for entry in ledger.entries()]
    assert ledger.lines(after=1, limit=2) == shown[1:3]
