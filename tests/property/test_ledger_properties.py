"""The ledger's properties P1 to P20 (ledger.md 2.9), each found here by its name.

===== ==========================================================================================
P1    never overspend: here; ``test_ledger_machine``; ``test_ledger_sharing``
P2    conservation: here; ``test_ledger_machine``; ``test_ledger_sharing``
P3    idempotency: here; ``test_ledger_machine``
P4    replay equality at each prefix, any flipped byte: here; ``contract/test_ledger_tampering``
P5    all or nothing across blocks and accounts: here; ``test_scheduling``
P6    monotone unlocking: here, within ``Auditor``; ``test_ledger_sharing``; ``test_scheduling``
P7    sharing incentive: here, in the live ledger; ``test_scheduling``
P8    strategy-proofness: ``test_scheduling``
P9    dynamic envy-freeness: ``test_scheduling``
P10   Pareto: here, in the live ledger; ``test_scheduling``
P11   order invariance: ``test_scheduling``
P12   scale invariance: ``test_scheduling``
P13   dust attack: here, in the live ledger; ``test_scheduling``
P14   splitting: here
P15   zero capacity and unknown orders: ``test_scheduling``; ``contract/test_ledger_bad_input``
P16   refunds: here, within ``Auditor``; ``test_ledger_machine``
P17   certificate soundness: ``test_certificate_soundness``
P18   stale fences: here; ``test_ledger_machine``
P19   scheduler crashes: here; ``contract/test_ledger_queue``
P20   efficiency and reported bounds: ``test_scheduling``
===== ==========================================================================================

Programs of commands run on the live ledger, in memory and on SQLite, and die at any write. An
auditor follows the entries by himself and shares no arithmetic with the ledger.
"""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_crashes import crashed
from ledger_games import groups_of
from ledger_programs import LEASE, SHARINGS, Auditor, Runner, policies, programs
from ledger_shares import (
    DAY,
    RULES,
    capacity,
    claim,
    configure,
    cost,
    opened,
    queueing,
    quota,
    room,
    scheduled,
    unlocked,
)
from ledger_words import reserve

from primum.adapters.memory import ManualClock, MemoryAnchor, MemoryLedgerStore
from primum.adapters.sql import migrate, open_stores
from primum.domain.accounting.policies import policy_named
from primum.domain.budget import folding, lines
from primum.domain.budget.entries import EntryKind, ReservationState
from primum.domain.budget.rules import SchedulerName, Unlocking, UnlockingRule
from primum.domain.scheduling.blocks import FilterShape

MANY = settings(max_examples=25, deadline=None)
FEW = settings(max_examples=3, deadline=None)


@contextlib.contextmanager
def in_memory(policy, sharing):
    clock = ManualClock()
    yield Runner(MemoryLedgerStore(clock=clock, anchor=MemoryAnchor()), clock, policy, sharing)


@contextlib.contextmanager
def on_sqlite(policy, sharing):
    memory = pathlib.Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="primum-test-", dir=memory if memory.is_dir() else None)
    clock, url = ManualClock(), f"sqlite:///{folder}/primum.db"
    migrate(url)
    stores = open_stores(url, clock, MemoryAnchor())
    try:
        yield Runner(stores.ledger, clock, policy, sharing)
    finally:
        stores.close()
        shutil.rmtree(folder)


def balances(ledger):
    return ledger.accounts(), list(ledger.reservations()), list(ledger.entries(limit=10_000))


def never_overspends(place, policy, program):
    sharing, commands = program
    with place(policy, sharing) as runner:
        ledger, auditor, seen = runner.ledger, Auditor(), 0

        def audit():
            nonlocal seen
            for entry in ledger.entries(after=seen, limit=10_000):
                assert entry.seq == seen + 1
                auditor.follow(entry)
                seen = entry.seq
            for view in ledger.accounts():
                auditor.agrees(view)

        runner.run(commands, after=audit)
        assert ledger.verify() == ()


@given(policies, programs)
@MANY
def test_p01_p02_never_overspends_and_conserves(policy, program):
    """P1, P2, P6, P16: whatever is asked in whatever order, and wherever the process dies."""
    never_overspends(in_memory, policy, program)


@given(policies, programs)
@FEW
def test_p01_p02_never_overspends_and_conserves_on_sqlite(policy, program):
    never_overspends(on_sqlite, policy, program)


@given(policies, programs)
@MANY
def test_p03_a_command_given_again_changes_nothing(policy, program):
    """P3: every command that was answered may come again, at any later time."""
    sharing, commands = program
    with in_memory(policy, sharing) as runner:
        runner.run(commands)
        before = balances(runner.ledger)
        for again, first in runner.done:
            result = again()
            assert not result.stands or result.seq <= before[2][-1].seq
            assert first.stands or result == first
        assert balances(runner.ledger) == before


@given(policies, programs)
@MANY
def test_p04_replay_gives_the_balances_at_every_prefix(policy, program):
    """P4: folding the entries anew meets every state that the store was ever in."""
    sharing, commands = program
    with in_memory(policy, sharing) as runner:
        store, seen = runner.ledger.store, {}

        def look():
            rows = store.rows
            seen[rows.head.seq] = rows.accounts, rows.reservations

        runner.run(commands, after=look)
        accounts, reservations = {}, {}
        for line in store.rows.lines:
            entry = lines.entry_of(line)
            name = entry.reservation_id
            account, reservation = folding.fold(
                entry, accounts.get(entry.account_id), reservations.get(name) if name else None
            )
            accounts = accounts | {account.account_id: account}
            if reservation is not None:
                reservations = reservations | {name: reservation}
            if entry.seq in seen:
                assert (accounts, reservations) == seen[entry.seq]


@given(policies, programs, st.data())
@MANY
def test_p04_any_flipped_byte_is_detected(policy, program, data):
    """P4: and so is a line that is gone, comes twice, or stands elsewhere."""
    sharing, commands = program
    with in_memory(policy, sharing) as runner:
        runner.run(commands)
        rows = runner.ledger.store.rows
        whole = list(rows.lines)
        at = data.draw(st.integers(0, len(whole) - 1))
        field = data.draw(st.sampled_from([f for f in whole[0]._fields if f != "seq"]))
        text = getattr(whole[at], field)
        place = data.draw(st.integers(0, max(len(text) - 1, 0)))
        flipped = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :] if text else "x"
        rows.lines = [*whole[:at], whole[at]._replace(**{field: flipped}), *whole[at + 1 :]]
        assert runner.ledger.verify() != ()
        other = data.draw(st.integers(0, len(whole) - 1))
        swapped = list(whole)
        swapped[at], swapped[other] = whole[other], whole[at]
        twice = [*whole[:at], whole[at], *whole[at:]]
        for changed in (whole[:at] + whole[at + 1 :], twice, *([swapped] if at != other else [])):
            rows.lines = changed
            assert runner.ledger.verify() != ()
        rows.lines = whole
        assert runner.ledger.verify() == ()


@given(policies, programs)
@MANY
def test_p05_a_claim_is_granted_everywhere_or_nowhere(policy, program):
    """P5: on all of its accounts and on all of its blocks, whatever the process dies at."""
    sharing, commands = program
    with in_memory(policy, sharing) as runner:

        def look():
            studies = {}
            for item in runner.ledger.reservations():
                studies.setdefault(item.study_uid, []).append(item)
            for parts in studies.values():
                waits = {part.state is ReservationState.QUEUED for part in parts}
                refused = {part.state is ReservationState.DENIED for part in parts}
                assert len(waits) == len(refused) == 1

        runner.run(commands, after=look)


@given(st.integers(2, 12), st.lists(st.floats(0.1, 1.5), min_size=1, max_size=12))
@MANY
def test_p07_a_claim_within_its_fair_share_is_granted_in_its_round(count, parts):
    """P7: the first N claims that ask for at most their share never wait, whoever else does."""
    ledger = MemoryLedgerStore(clock=ManualClock())
    account = opened(ledger)
    only = Unlocking(UnlockingRule.PER_CLAIM, claims=count)
    rules = {"unlocking": only, "scheduling": queueing(SchedulerName.DPF)}
    configure(ledger, account, **rules)
    share = capacity() // count
    for number, part in enumerate(parts[:count]):
        wanted = max(1, int(share * part) // cost(1))
        reserve(ledger, claim(account, f"r{number}", wanted))
        scheduled(ledger)
        if cost(wanted) <= share:
            assert ledger.reservation(f"r{number}").state is ReservationState.RESERVED


@given(policies, programs)
@MANY
def test_p10_after_a_round_nobody_waits_who_would_fit(policy, program):
    """P10, in the live ledger with quotas, freezes, and claims on several accounts."""
    sharing, commands = program
    with in_memory(policy, sharing) as runner:
        ledger = runner.ledger
        runner.run(commands)
        ledger.expire(actor="loop")
        scheduled(ledger, lease_seconds=LEASE)
        before = ledger.head()
        scheduled(ledger, lease_seconds=LEASE)
        assert ledger.head() == before
        for item in ledger.reservations():
            alone = [r for r in ledger.reservations() if r.study_uid == item.study_uid] == [item]
            if item.state is ReservationState.QUEUED and alone:
                found = ledger.outlook(item.account_id, item.event, blocks=item.blocks, asker=item)
                assert not found.now


@given(st.lists(st.integers(0, 5), min_size=1, max_size=25), st.integers(1, 10))
@MANY
def test_p13_dust_unlocks_no_more_than_it_asks_for(dust, count):
    """P13: k claims of total demand D unlock at most D."""
    ledger = MemoryLedgerStore(clock=ManualClock())
    account = opened(ledger)
    only = Unlocking(UnlockingRule.PER_CLAIM, claims=count)
    configure(ledger, account, unlocking=only, scheduling=queueing())
    for number, amount in enumerate(dust):
        reserve(ledger, claim(account, f"r{number}", amount))
    assert unlocked(ledger, account) <= sum(cost(amount) for amount in dust)


@given(
    st.integers(1, 60),
    st.lists(st.integers(1, 30), min_size=1, max_size=10),
    st.sampled_from(["Requester", "Group"]),
    st.sampled_from([None, *SchedulerName]),
    st.integers(0, 3),
)
@MANY
def test_p14_splitting_a_claim_never_gets_more(most, pieces, per, scheduler, rounds):
    """P14: however a principal cuts a demand up, over Studies and purposes, the quota holds."""
    ledger = MemoryLedgerStore(clock=ManualClock())
    account = opened(ledger)
    waits = {} if scheduler is None else {"scheduling": queueing(scheduler)}
    configure(ledger, account, quotas=(quota(per, most),), **waits)
    asker = {"requester": "user:ada", "group": "g"}
    for number, piece in enumerate(pieces):
        changes = {"study": f"ns/{number}", "purpose": f"p{number}", **asker}
        reserve(ledger, claim(account, f"r{number}", piece, **changes))
        if number < rounds:
            scheduled(ledger)
    scheduled(ledger)
    granted = sum(
        piece
        for number, piece in enumerate(pieces)
        if ledger.reservation(f"r{number}").state is ReservationState.RESERVED
    )
    assert granted <= most
    if sum(pieces) <= most:
        assert granted == sum(pieces)


@given(policies, programs, st.integers(-3, 3).filter(bool))
@MANY
def test_p18_a_stale_fence_never_changes_anything(policy, program, off):
    """P18: whatever state a reservation is in."""
    sharing, commands = program
    with in_memory(policy, sharing) as runner:
        ledger = runner.ledger
        runner.run(commands)
        before = balances(ledger)
        for item in ledger.reservations():
            fence = item.fence + off
            name = item.reservation_id
            assert not ledger.expose(name, access="train", fence=fence, actor="s").stands
            assert not ledger.extend(name, fence=fence, lease_seconds=LEASE, actor="s").stands
        assert balances(ledger) == before


@given(
    policies,
    st.sampled_from([sharing for sharing in SHARINGS if sharing.queues]),
    programs,
    st.lists(st.integers(1, 25), min_size=1, max_size=6),
    st.sampled_from([0.0, DAY / 4, DAY / 2]),
)
@MANY
def test_p19_a_scheduler_that_dies_at_any_write_converges(policy, sharing, program, deaths, later):
    """P19: after crashes anywhere the rounds come to what they would have come to without."""
    _, commands = program
    asked = [(c, 0) for c, _ in commands if c[0] in ("reserve", "configure", "divide")]
    ends = []
    for crashes in ([], deaths):
        with in_memory(policy, sharing) as runner:
            ledger = runner.ledger
            runner.run(asked)
            runner.clock.advance(later)
            for at in crashes:
                crashed(ledger, at, lambda told=ledger: scheduled(told))
                assert ledger.verify() == ()
            scheduled(ledger)
            scheduled(ledger)
            states = sorted((r.reservation_id, r.state) for r in ledger.reservations())
            ends.append((states, [view.blocks for view in ledger.accounts()]))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("policy", ["GDP", "RDP", "Basic", "Mixture"])
def test_the_auditor_and_the_schedulers_mean_the_same_filters(policy):
    """The rule is written down twice; they must not drift apart."""
    shape = FilterShape.of(policy_named(policy))
    groups = groups_of(policy, shape.keys)
    expected = [
        tuple(at for at, g in enumerate(shape.groups) if g == wanted)
        for wanted in sorted(set(shape.groups))
    ]
    assert sorted(groups) == sorted(expected)


def test_the_programs_take_every_way():
    """Properties over programs that do nothing would hold too."""
    seen = set()

    @given(policies, programs)
    @settings(max_examples=60, deadline=None, database=None, derandomize=True)
    def collect(policy, program):
        sharing, commands = program
        with in_memory(policy, sharing) as runner:
            runner.run(commands)
            seen.update(entry.kind for entry in runner.ledger.entries(limit=10_000))

    collect()
    elsewhere = {"Identified", "Inspected", "ConsentWithdrawn", "Checkpoint"}
    assert seen == {kind for kind in EntryKind if kind not in elsewhere}


def test_an_auditor_objects_to_what_does_not_fit():
    """Or the properties above would prove nothing."""
    ledger = MemoryLedgerStore(clock=ManualClock())
    account = opened(ledger)
    configure(ledger, account, unlocking=RULES[UnlockingRule.IMMEDIATE])
    reserve(ledger, claim(account, "a", room() - 5))
    entries = list(ledger.entries())
    auditor = Auditor()
    for entry in entries:
        auditor.follow(entry)
    with pytest.raises(AssertionError):
        auditor.follow(entries[-1])
