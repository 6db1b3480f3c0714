"""Ways round the ledger that somebody tried: quotas, waiting and unlocking, and a made-up past."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from ledger_shares import (
    ALL,
    DAY,
    LAYOUT,
    RULES,
    SITES,
    capacity,
    claim,
    configure,
    cost,
    divided,
    held,
    opened,
    queueing,
    quota,
    scheduled,
    states,
    steps,
    unlocked,
)
from ledger_words import HALF, charge, expose, request, reserve, terms

from primum.adapters.memory import ManualClock, MemoryLedgerStore
from primum.adapters.memory_ledger import LedgerRows
from primum.domain.budget import book, folding, lines
from primum.domain.budget.book import Draft, Head
from primum.domain.budget.entries import EntryKind, ResultCode
from primum.domain.budget.rules import Quota, QuotaScope, SchedulerName, UnlockingRule

# Words that the ledger does not write down as they were said.
UNWRITTEN = {"two lines": "Try things\nout", "a tab": "Try\tthings out", "too long": "w" * 1025}


@pytest.fixture
def account(ledger):
    return opened(ledger)


# Quotas.


@pytest.mark.parametrize("field", ["Purpose", "Group", "Study"])
@pytest.mark.parametrize("words", UNWRITTEN.values(), ids=UNWRITTEN.keys())
def test_words_that_are_written_in_another_way_are_counted_all_the_same(
    ledger, account, field, words
):
    """A purpose of two lines once began anew with every claim."""
    configure(ledger, account, quotas=(quota(field, 10),))
    said = {field.lower(): words}
    assert reserve(ledger, claim(account, "a", 8, **said)).stands
    assert reserve(ledger, claim(account, "b", 8, **said)).code is ResultCode.OVER_QUOTA
    assert reserve(ledger, claim(account, "c", 2, **said)).stands


def test_who_is_named_like_a_scope_is_counted_apart(ledger, account):
    """Neither an equals sign nor the same word in two scopes mixes two holders up."""
    configure(ledger, account, quotas=tuple(quota(per, 10) for per in ("Requester", "Purpose")))
    odd = {"requester": "Purpose=x", "purpose": "Requester=y=z"}
    assert reserve(ledger, claim(account, "a", 10, **odd)).stands
    assert not reserve(ledger, claim(account, "b", 1, **odd)).stands
    assert reserve(ledger, claim(account, "c", 10, requester="x", purpose="y=z")).stands
    assert reserve(ledger, claim(account, "d", 10, requester="y=z", purpose="x")).stands


def test_a_claim_over_its_quota_unlocks_nothing(ledger, account):
    """Whoever is shut out could otherwise open a budget to the others (ledger.md trap T4)."""
    shut = Quota(QuotaScope.REQUESTER, Decimal(0), "user:ada")
    configure(ledger, account, unlocking=RULES[UnlockingRule.PER_CLAIM], quotas=(shut,))
    for number in range(4):
        result = reserve(ledger, claim(account, f"a{number}", ALL))
        assert result.code is ResultCode.OVER_QUOTA
    assert unlocked(ledger, account) == 0
    locked = reserve(ledger, claim(account, "b", ALL, requester="user:eve"))
    assert locked.code is ResultCode.LOCKED
    assert unlocked(ledger, account) == capacity() // 4


def made_up(rows, change):
    """The rows of a ledger whose whole chain was written anew with other payloads."""
    forged, head = LedgerRows(), Head()
    for line in rows.lines:
        entry = lines.entry_of(line)
        payload = json.loads(json.dumps(entry.payload))
        change(entry.kind, payload)
        draft = Draft(
            entry.account_id, entry.kind, entry.reservation_id, entry.idempotency_key, payload
        )
        sealed = book.sealed(draft, head=head, actor=entry.actor, time=entry.time)
        name = sealed.reservation_id
        account, held_after = folding.fold(
            sealed, forged.accounts.get(sealed.account_id), forged.reservations.get(name)
        )
        forged.accounts[sealed.account_id] = account
        if held_after is not None:
            forged.reservations[name] = held_after
        forged.lines.append(lines.line_of(sealed))
        head = Head(sealed.seq, sealed.hash, sealed.time)
    forged.head = head
    return forged


@pytest.fixture
def counted():
    """A ledger in memory with quotas that were given what came before them, twice."""
    ledger = MemoryLedgerStore(clock=ManualClock())
    account = divided(ledger)
    for number in range(6):
        name, sites = f"r{number}", SITES[: 1 + number % 3]
        reserve(ledger, claim(account, name, 3, blocks=sites, requester=f"u{number % 2}"))
        if number % 2:
            expose(ledger, name)
            charge(ledger, name, executed=steps(2))
    ada = quota("Requester", 40, "u1")
    configure(ledger, account, quotas=(ada, quota("Study", 40), quota("Group", 90)))
    reserve(ledger, claim(account, "later", 3, requester="u1"))
    expose(ledger, "later")
    charge(ledger, "later")
    configure(ledger, account, key="again", quotas=(ada, quota("Purpose", 40)))
    assert ledger.verify() == ()
    return ledger


def understated(part):
    def change(kind, payload):
        if kind is EntryKind.CONFIGURED:
            for row in payload["counted"]:
                row[part] = dict.fromkeys(row[part], "0")

    return change


def forgotten(kind, payload):
    if kind is EntryKind.CONFIGURED:
        payload["counted"] = payload["counted"][1:]


def swapped(kind, payload):
    """The sums are right, and whose they are is not."""
    if kind is EntryKind.CONFIGURED:
        studies = [row for row in payload["counted"] if row["scope"].startswith("Study=")]
        for one in studies[:1]:
            other = next(row for row in studies if row["charged"] != one["charged"])
            one["charged"], other["charged"] = other["charged"], one["charged"]


@pytest.mark.parametrize(
    "change",
    [understated("charged"), understated("reserved"), forgotten, swapped],
    ids=["charged", "reserved", "a row", "two rows swapped"],
)
def test_a_past_that_quotas_were_told_wrongly_is_found(counted, change):
    """Everything else of this ledger is consistent: its hashes, balances and reservations."""
    forged = MemoryLedgerStore(clock=ManualClock())
    forged.store.rows = made_up(counted.store.rows, change)
    faults = [fault for fault in forged.verify() if "must give quotas what was taken" in fault]
    assert faults


# Waiting.


def test_a_claim_whose_parts_wait_differently_ends_as_one(ledger, account, stores):
    """Half of it must not be granted when the other half may not be any more."""
    other = opened(ledger, dataset_uri="file:///other", dataset_digest="")
    configure(ledger, account, scheduling=queueing(days=7))
    configure(ledger, other, scheduling=queueing(days=1))
    reserve(ledger, claim(account, "a", 1, study_uid="one"))
    reserve(ledger, claim(other, "b", 1, study_uid="one"))
    stores.clock.advance(2 * DAY)
    scheduled(ledger)
    assert states(ledger, "a", "b") == ["Queued", "Queued"]
    assert sorted(ledger.expire(actor="loop")) == ["a", "b"]
    assert states(ledger, "a", "b") == ["Expired", "Expired"]


def test_rules_that_let_nobody_wait_strand_nobody_who_waits(ledger, account, stores):
    configure(ledger, account, scheduling=queueing(days=7))
    reserve(ledger, claim(account, "a", 10))
    configure(ledger, account, key="none")
    assert reserve(ledger, claim(account, "b", ALL - 9)).stands
    scheduled(ledger)
    assert states(ledger, "a") == ["Queued"]
    ledger.give_back("b", reason="x", actor="s")
    scheduled(ledger)
    assert states(ledger, "a") == ["Reserved"]


def test_a_quota_that_is_gone_frees_who_waited_for_it(ledger, account):
    configure(ledger, account, scheduling=queueing(days=7))
    reserve(ledger, claim(account, "a", 10))
    ada = Quota(QuotaScope.REQUESTER, Decimal(0), "user:ada")
    configure(ledger, account, scheduling=queueing(days=7), quotas=(ada,))
    scheduled(ledger)
    assert states(ledger, "a") == ["Queued"]
    configure(ledger, account, scheduling=queueing(days=7))
    scheduled(ledger)
    assert states(ledger, "a") == ["Reserved"]


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule is not UnlockingRule.IMMEDIATE])
def test_a_guarantee_lowered_below_what_is_unlocked_holds_for_who_waits(
    ledger, account, stores, rule
):
    wait = queueing(SchedulerName.DUAL_PRICES)
    configure(ledger, account, unlocking=RULES[rule], scheduling=wait)
    for number in range(4):
        reserve(ledger, claim(account, f"c{number}", ALL // 5))
    stores.clock.advance(3 * DAY)
    ledger.open_account(terms(policy="GDP", epsilon=Decimal("2.0")), actor="steward:grace")
    scheduled(ledger)
    reserved, charged = held(ledger, account)
    assert reserved + charged <= capacity("2.0")
    assert reserve(ledger, claim(account, "more", ALL // 5)).code is not ResultCode.ACCEPTED


def test_blocks_that_came_between_a_request_and_its_retry_are_not_added(ledger):
    account = divided(ledger, SITES[:2])
    assert reserve(ledger, claim(account, "a", 4)).stands
    ledger.divide(account, SITES, actor="steward:grace")
    assert reserve(ledger, claim(account, "a", 4)).code is ResultCode.REPEATED
    assert held(ledger, account, SITES[2]) == (0, 0)
    assert ledger.reservation("a").blocks == tuple(sorted(SITES[:2]))


def test_a_clock_that_jumped_ahead_and_back_opens_nothing_twice(ledger, account, stores):
    configure(ledger, account, unlocking=RULES[UnlockingRule.PER_TIME])
    stores.clock.advance(400 * DAY)
    assert reserve(ledger, claim(account, "a", ALL)).stands
    stores.clock.advance(-400 * DAY)
    assert not reserve(ledger, claim(account, "b", 1)).stands
    assert held(ledger, account) == (cost(ALL), 0)
    assert unlocked(ledger, account) == capacity()


ODD = ("=", "a=b", "a/b", "..", '"', "\\", "'; --", "é", "e\u0301", "%", "Ω", "𝔘", "{}", "[]")


def test_blocks_with_odd_names_are_kept_apart(ledger):
    """Among them two spellings of one letter, and what paths, JSON and SQL mean something by."""
    account = opened(ledger, layout=LAYOUT)
    assert ledger.divide(account, ODD, actor="steward:grace").stands
    configure(ledger, account, quotas=(quota("Requester", 90),))
    for count, name in enumerate(ODD, start=1):
        assert reserve(ledger, claim(account, f"r{count}", count, blocks=(name,))).stands
    for count, name in enumerate(ODD, start=1):
        assert held(ledger, account, name) == (cost(count), 0)


def test_an_idle_budget_writes_nothing(ledger, stores):
    account = divided(ledger)
    configure(ledger, account, unlocking=RULES[UnlockingRule.HYBRID], scheduling=queueing())
    head = ledger.head()
    for _ in range(5):
        stores.clock.advance(30 * DAY)
        scheduled(ledger)
        ledger.expire(actor="loop")
        ledger.outlook(account, steps(5))
    assert ledger.head() == head


def test_four_thousand_blocks_are_one_entry_each_time():
    """The largest layout, with everything on: nothing grows with the number of blocks but work."""
    ledger = MemoryLedgerStore(clock=(clock := ManualClock()))
    account, _ = ledger.open_account(terms(layout=LAYOUT), actor="s")
    assert ledger.divide(account, [f"b{n:04d}" for n in range(4096)], actor="s").stands
    rules = {"unlocking": RULES[UnlockingRule.HYBRID], "scheduling": queueing()}
    configure(ledger, account, quotas=(Quota(QuotaScope.REQUESTER, Decimal(4)),), **rules)
    before = ledger.head()[0]
    assert reserve(ledger, request(account, "all", HALF)).code is ResultCode.QUEUED
    clock.advance(DAY)
    ledger.schedule(lease_seconds=60, actor="loop")
    written = [entry.kind for entry in ledger.entries(after=before)]
    assert written == [EntryKind.QUEUED, EntryKind.UNLOCKED, EntryKind.RESERVED]
    assert ledger.verify() == ()
