"""However a ledger is shared out among shards, the same is found, in the same words and order."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from ledger_shares import claim, configure, opened, quota
from ledger_words import charge, expose, reserve

from primum.adapters.memory import ManualClock, MemoryLedgerStore, MemorySigner
from primum.application import checkpointing
from primum.domain.budget import chain, shards, verification
from primum.domain.budget.entries import EntryKind, ReservationState
from primum.domain.budget.shards import Shard
from primum.domain.budget.verification import Cached, Replay, Stated, link_of

SIGNER = MemorySigner()
ACCOUNTS = 4
COMMANDS = 40


class Elsewhere:
    """A shard as another process replays it: by itself, and asked afterwards."""

    def __init__(self, lines, places, stored):
        self._shard = Shard(stored)
        self._told = shards.replayed(self._shard, lines, places)

    def changed(self, seq):
        found = {}
        for place, texts in self._told:
            found |= texts
            if place == seq:
                return found
        return None

    def ending(self):
        list(self._told)
        return self._shard.finish()


def shared_out(rows, stated, count):
    """What shards of about as many accounts each find together."""
    names = sorted({line.account_id for line in rows.lines})
    cuts = ["", *(names[len(names) * number // count] for number in range(1, count)), "\U0010ffff"]
    places = sorted({item.checkpoint.seq for item in stated} - {0})
    cached = cached_of(rows)
    parts = [
        Elsewhere(
            [line for line in rows.lines if first <= line.account_id < before],
            places,
            cached.reservations_of,
        )
        for first, before in pairwise(cuts)
    ]
    replay = Replay(parts, stated)
    replay.run(map(link_of, rows.lines))
    return replay.conclusion(cached)


def cached_of(rows):
    named = {line.reservation_id for line in rows.lines}
    return Cached(
        head=rows.head,
        accounts=list(rows.accounts.values()),
        reservations_of=lambda names: {
            name: rows.reservations[name] for name in names if name in rows.reservations
        },
        strays=sorted(rows.reservations.keys() - named),
        identities=[(i, a.account_id) for a in rows.accounts.values() for i in a.identities],
    )


def a_ledger(chance):
    """The rows of a ledger after random commands on several accounts, with signed checkpoints."""
    ledger = MemoryLedgerStore(clock=ManualClock())
    accounts = [
        opened(ledger, dataset_uri=f"file:///{number}", dataset_digest="")
        for number in range(ACCOUNTS)
    ]
    for number in range(COMMANDS):
        name, account = f"r{number}", chance.choice(accounts)
        match chance.randrange(8):
            case 0:
                ledger.checkpoint(SIGNER, actor="loop")
            case 1:
                scope = chance.choice(("Requester", "Purpose", "Study"))
                configure(ledger, account, key=f"k{number}", quotas=(quota(scope, 40),))
            case _:
                who = f"user:{chance.randrange(3)}"
                reserve(ledger, claim(account, name, chance.randrange(1, 4), requester=who))
                if chance.random() < 0.8 and expose(ledger, name).stands and chance.random() < 0.8:
                    charge(ledger, name)
                elif chance.random() < 0.5:
                    ledger.give_back(name, reason="r", actor="s")
    ledger.checkpoint(SIGNER, actor="loop")
    return ledger.store.rows


def statements(rows):
    kept = [line for line in rows.lines if line.kind == EntryKind.CHECKPOINT]
    return checkpointing.believed(kept, {}, public_key=SIGNER.public_key())[0]


def nothing(rows, chance):
    del rows, chance


def flipped_byte(rows, chance):
    at = chance.randrange(len(rows.lines))
    column = chance.choice(("payload", "actor", "account_id", "hash", "time", "reservation_id"))
    text = getattr(rows.lines[at], column)
    place = chance.randrange(len(text)) if text else 0
    other = chr(ord(text[place]) ^ 1) if text else "x"
    changed = text[:place] + other + text[place + 1 :]
    rows.lines[at] = rows.lines[at]._replace(**{column: changed})


def missing_entry(rows, chance):
    del rows.lines[chance.randrange(len(rows.lines) - 1)]


def reordered(rows, chance):
    at = chance.randrange(len(rows.lines) - 1)
    one, other = rows.lines[at : at + 2]
    rows.lines[at : at + 2] = [other._replace(seq=one.seq), one._replace(seq=other.seq)]


def rolled_back(rows, chance):
    del rows.lines[-chance.randrange(1, 12) :]


def changed_balance(rows, chance):
    name = chance.choice(sorted(rows.accounts))
    account = rows.accounts[name]
    held = account.blocks["whole"]
    rows.accounts[name] = replace(
        account, blocks={"whole": replace(held, charged=held.charged + held.reserved + held.used)}
    )


def changed_quota(rows, chance):
    changed = {n: a for n, a in rows.accounts.items() if a.quotas}
    for name, account in changed.items():
        rows.accounts[name] = replace(account, quotas=dict(list(account.quotas.items())[1:]))
    del chance


def revived(rows, chance):
    name = chance.choice(sorted(rows.reservations))
    rows.reservations[name] = replace(rows.reservations[name], state=ReservationState.QUEUED)


def forgotten_reservations(rows, chance):
    for name in chance.sample(sorted(rows.reservations), 4):
        del rows.reservations[name]


def taken_by_another_account(rows, chance):
    """A reservation that was made by one account is made again by another."""
    made = [line for line in rows.lines if line.kind == EntryKind.RESERVED]
    one = chance.choice(made)
    other = next((line for line in made if line.account_id != one.account_id), one)
    at = rows.lines.index(other)
    rows.lines[at] = other._replace(reservation_id=one.reservation_id)


def not_text(rows, chance):
    at = chance.randrange(len(rows.lines))
    rows.lines[at] = rows.lines[at]._replace(
        **{chance.choice(("time", "actor", "kind", "prev_hash")): b"\xff"}
    )


CORRUPTIONS = (
    nothing,
    flipped_byte,
    missing_entry,
    reordered,
    rolled_back,
    changed_balance,
    changed_quota,
    revived,
    forgotten_reservations,
    taken_by_another_account,
    not_text,
)
HARMLESS = (nothing, changed_quota, changed_balance)  # The last two where nothing was there.


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("seed", range(4))
def test_shards_find_what_one_finds(corruption, seed):
    chance = random.Random(seed)
    rows = a_ledger(chance).copied()
    stated = statements(rows)
    assert stated
    for _ in range(chance.randrange(1, 4)):
        corruption(rows, chance)
    alone = verification.contradictions(rows.lines, cached_of(rows), stated)
    assert [shared_out(rows, stated, count) for count in (1, 2, 3)] == [alone] * 3
    assert (alone == ()) is (corruption is nothing) or corruption in HARMLESS


def test_a_destroyed_ledger_gives_the_same_first_sentences():
    """More than are kept, in one shard or in several together."""
    rows = a_ledger(random.Random(1)).copied()
    rows.lines = [
        line._replace(seq=number, actor="eve")
        for number, line in enumerate(rows.lines * (1500 // len(rows.lines)), 1)
    ]
    alone = verification.contradictions(rows.lines, cached_of(rows), ())
    assert len(alone) == verification.FAULTS_MAX
    assert [shared_out(rows, (), count) for count in (1, 2, 3)] == [alone] * 3


def test_an_entry_that_no_shard_looked_at_is_no_intact_ledger():
    rows = a_ledger(random.Random(2))
    cached = cached_of(rows)
    left_out = next(line for line in reversed(rows.lines) if line.kind == EntryKind.CHECKPOINT)
    others = [line for line in rows.lines if line is not left_out]
    for read in (others, [*others, others[-1]]):
        replay = Replay([Elsewhere(read, (), cached.reservations_of)])
        replay.run(map(link_of, rows.lines))
        assert any("must be read alike" in fault for fault in replay.conclusion(cached))


def test_statements_of_one_place_are_met_with_what_every_shard_says():
    rows = a_ledger(random.Random(3))
    stated = statements(rows)
    wrong = [
        Stated(replace(item.checkpoint, accounts="sha256:" + "0" * 64), "the wrong one")
        for item in stated
    ]
    assert shared_out(rows, stated, 3) == ()
    found = shared_out(rows, [*stated, *wrong], 3)
    assert len(found) == len(wrong)
    assert all("must be what the wrong one states" in fault for fault in found)


def seen(digests):
    found = chain.Seen()
    for digest in digests:
        found.add(digest)
    return found


def test_fingerprints_tell_entries_apart():
    digests = [f"{number:064x}" for number in range(3000)] + ["", "short", b"bytes", "\xe9" * 64]
    whole = seen(digests)
    parts = seen(digests[::2])
    assert not whole.agrees(parts)
    parts.join(seen(reversed(digests[1::2])))
    assert whole.agrees(parts)
    for other in (digests[:-1], [*digests, digests[0]], [*digests[:-1], "\xe8" * 64], digests[1:]):
        assert not whole.agrees(seen(other))
    swapped = [f"{1:064x}", *digests[1:]]
    assert not whole.agrees(seen(swapped))
