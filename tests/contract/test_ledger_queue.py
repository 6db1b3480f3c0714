"""Claims that wait: what becomes available when, who is next, and every way out of the queue."""

from __future__ import annotations

import datetime
import threading
from dataclasses import replace
from decimal import Decimal

import pytest
from ledger_crashes import crashed, interrupted
from ledger_shares import (
    ALL,
    DAY,
    RULES,
    SITES,
    block,
    capacity,
    claim,
    configure,
    cost,
    divided,
    held,
    opened,
    queueing,
    quota,
    room,
    scheduled,
    states,
    steps,
    unlocked,
)
from ledger_words import (
    EVENT,
    LEASE,
    charge,
    expose,
    request,
    reserve,
    state_of_everything,
    terms,
)

from primum.adapters.memory import ManualClock, MemoryAnchor, MemoryLedgerStore
from primum.domain.accounting.events import NoEvent
from primum.domain.budget.entries import EntryKind, ReservationState, ResultCode
from primum.domain.budget.rules import Rules, SchedulerName, Scheduling, Unlocking, UnlockingRule
from primum.domain.errors import InvalidValue

SHARE = capacity() // 4  # Of RULES[PER_CLAIM] and RULES[HYBRID].
WAIT = 7 * DAY


@pytest.fixture
def account(ledger):
    """An account whose claims wait seven days at most; everything is unlocked."""
    account = opened(ledger)
    configure(ledger, account, scheduling=queueing())
    return account


def other_account(ledger, **changes):
    return opened(ledger, dataset_uri="file:///other", dataset_digest="", **changes)


def give_back(ledger, name):
    return ledger.give_back(name, reason="withdrawn", actor="s")


def kinds(ledger, name):
    return [e.kind for e in ledger.entries(limit=10_000) if e.reservation_id == name]


# Waiting and being granted.


def test_a_claim_waits_and_holds_nothing(ledger, account, stores):
    result = reserve(ledger, claim(account, "a", 10))
    assert (result.code, result.stands) == (ResultCode.QUEUED, True)
    view = ledger.reservation("a")
    assert view.state is ReservationState.QUEUED
    assert view.fence == result.seq
    assert view.lease_until == stores.clock.after(WAIT)
    assert view.lease_until in result.message
    assert held(ledger, account) == (0, 0)
    assert ledger.account(account).epsilon_reserved == 0


def test_a_claim_that_waits_opens_nothing(ledger, account):
    reserve(ledger, claim(account, "a", 10))
    before = state_of_everything(ledger)
    fence = ledger.reservation("a").fence
    for result in (
        expose(ledger, "a"),
        charge(ledger, "a"),
        ledger.extend("a", fence=fence, lease_seconds=LEASE, actor="s"),
    ):
        assert result.code is ResultCode.ALREADY_RESOLVED
        assert "found Queued" in result.message
    assert state_of_everything(ledger) == before


def test_a_round_grants_what_fits(ledger, account, stores):
    reserve(ledger, claim(account, "a", 10))
    stores.clock.advance(DAY)
    rounds = scheduled(ledger)
    assert [(r.account_id, r.waiting, r.granted) for r in rounds] == [(account, 1, 1)]
    view = ledger.reservation("a")
    assert view.state is ReservationState.RESERVED
    assert view.lease_until == stores.clock.after(LEASE)
    assert held(ledger, account) == (cost(10), 0)
    assert expose(ledger, "a").stands
    assert charge(ledger, "a", executed=steps(4)).stands
    assert held(ledger, account) == (0, cost(4))
    assert kinds(ledger, "a") == ["Queued", "Reserved", "Exposed", "Charged"]


def test_the_place_in_the_queue_is_no_fence(ledger, account):
    """P18: what was known before the grant opens nothing after it."""
    place = reserve(ledger, claim(account, "a", 10)).seq
    scheduled(ledger)
    before = state_of_everything(ledger)
    assert ledger.reservation("a").fence > place
    result = ledger.expose("a", access="train", fence=place, actor="s")
    assert result.code is ResultCode.FENCE_STALE
    assert state_of_everything(ledger) == before


def test_an_empty_queue_is_no_round(ledger, account):
    before = state_of_everything(ledger)
    assert scheduled(ledger) == ()
    assert state_of_everything(ledger) == before


def test_what_does_not_fit_goes_on_waiting_until_somebody_returns(ledger, account):
    for name, count in (("a", ALL - 5), ("b", 6), ("c", 5)):
        reserve(ledger, claim(account, name, count))
    scheduled(ledger)
    assert states(ledger, "a", "b", "c") == ["Reserved", "Queued", "Reserved"]
    seq = ledger.head()[0]
    scheduled(ledger)
    assert ledger.head()[0] == seq
    give_back(ledger, "c")
    scheduled(ledger)
    assert states(ledger, "b") == ["Queued"]
    give_back(ledger, "a")
    scheduled(ledger)
    assert states(ledger, "b") == ["Reserved"]


def test_a_claim_of_nothing_need_not_wait(ledger, account):
    assert reserve(ledger, request(account, "a", NoEvent())).code is ResultCode.ACCEPTED


def test_the_same_claim_again_keeps_its_place(ledger, account):
    first = reserve(ledger, claim(account, "a", 10))
    before = state_of_everything(ledger)
    again = reserve(ledger, claim(account, "a", 10))
    assert (again.code, again.seq) == (ResultCode.REPEATED, first.seq)
    other = reserve(ledger, claim(account, "a", 11))
    assert (other.code, other.message.split()[0]) == (ResultCode.KEY_REUSED, "event")
    assert state_of_everything(ledger) == before
    scheduled(ledger)
    assert reserve(ledger, claim(account, "a", 10)).code is ResultCode.REPEATED
    assert kinds(ledger, "a") == ["Queued", "Reserved"]


def test_a_claim_that_nobody_may_wait_for_is_refused_as_locked(ledger):
    account = opened(ledger)
    configure(ledger, account, unlocking=RULES[UnlockingRule.PER_TIME])
    result = reserve(ledger, claim(account, "a", 10))
    assert result.code is ResultCode.LOCKED
    assert "not enough is unlocked yet" in result.shortfall[account]
    assert states(ledger, "a") == ["Denied"]


@pytest.mark.parametrize(
    ("scheduler", "first"),
    [
        (SchedulerName.FCFS, ["Reserved", "Queued", "Queued", "Queued"]),
        (SchedulerName.DPF, ["Queued", "Reserved", "Reserved", "Reserved"]),
        (SchedulerName.DPACK, ["Queued", "Reserved", "Reserved", "Reserved"]),
        (SchedulerName.DUAL_PRICES, ["Queued", "Reserved", "Reserved", "Reserved"]),
    ],
)
def test_the_scheduler_decides_who_is_next(ledger, scheduler, first):
    """An elephant came before three mice; together they do not fit."""
    account = opened(ledger)
    configure(ledger, account, scheduling=queueing(scheduler))
    names = ["elephant", "m1", "m2", "m3"]
    for name, count in zip(names, [ALL - 1, 100, 100, 100], strict=True):
        reserve(ledger, claim(account, name, count))
    (view,) = scheduled(ledger)
    assert states(ledger, *names) == first
    assert view.waiting == 4
    assert view.granted == first.count("Reserved")
    assert view.upper_bound >= view.granted
    assert 0 <= view.gap <= 1


def test_one_requester_after_the_other_by_arrival_where_shares_tie(ledger):
    account = opened(ledger)
    configure(ledger, account, scheduling=queueing(SchedulerName.DPF))
    for name in "edcba":
        reserve(ledger, claim(account, name, ALL // 3))
    scheduled(ledger)
    assert states(ledger, *"edcba") == ["Reserved"] * 3 + ["Queued"] * 2


# Ways out of the queue.


def test_what_is_hopeless_is_refused_at_once(ledger, account):
    result = reserve(ledger, claim(account, "a", ALL + 1))
    assert result.code is ResultCode.OVER_BUDGET
    assert account in result.shortfall
    assert states(ledger, "a") == ["Denied"]
    assert reserve(ledger, claim(account, "a", ALL + 1)) == result


def test_what_became_hopeless_is_refused_by_the_next_round(ledger, account):
    """What others hold may come back; what they spent does not."""
    reserve(ledger, claim(account, "spender", 10))
    scheduled(ledger)
    reserve(ledger, claim(account, "a", ALL - 5))
    scheduled(ledger)
    assert states(ledger, "a") == ["Queued"]
    expose(ledger, "spender")
    charge(ledger, "spender", executed=steps(6))
    scheduled(ledger)
    assert states(ledger, "a") == ["Denied"]
    assert "GDP has epsilon" in ledger.reservation("a").reason
    assert kinds(ledger, "a") == ["Queued", "Denied"]
    assert held(ledger, account) == (0, cost(6))


def test_a_claim_that_waited_too_long_expires(ledger, account, stores):
    reserve(ledger, claim(account, "holder", ALL))
    scheduled(ledger, lease_seconds=30 * DAY)
    reserve(ledger, claim(account, "a", 10))
    stores.clock.advance(WAIT - 1)
    assert ledger.expire(actor="loop") == ()
    stores.clock.advance(1)
    assert ledger.expire(actor="loop") == ("a",)
    assert states(ledger, "a") == ["Expired"]
    give_back(ledger, "holder")
    scheduled(ledger)
    assert states(ledger, "a") == ["Expired"]
    assert kinds(ledger, "a") == ["Queued", "Expired"]


def test_a_wait_that_is_over_is_not_granted_before_it_is_swept(ledger, account, stores):
    reserve(ledger, claim(account, "a", 10))
    stores.clock.advance(WAIT)
    scheduled(ledger)
    assert states(ledger, "a") == ["Queued"]
    assert ledger.expire(actor="loop") == ("a",)


def test_a_claim_can_be_taken_back_while_it_waits(ledger, account):
    reserve(ledger, claim(account, "a", 10))
    first, again = give_back(ledger, "a"), give_back(ledger, "a")
    assert (first.code, again.code) == (ResultCode.ACCEPTED, ResultCode.REPEATED)
    assert states(ledger, "a") == ["Withdrawn"]
    assert ledger.reservation("a").reason == "withdrawn"
    scheduled(ledger)
    assert states(ledger, "a") == ["Withdrawn"]
    assert kinds(ledger, "a") == ["Queued", "Withdrawn"]


@pytest.mark.parametrize("way", ["Denied", "Expired", "Withdrawn"])
def test_who_left_the_queue_does_nothing_any_more(ledger, account, stores, way):
    """P16, P18: no way leads back."""
    reserve(ledger, claim(account, "a", ALL))
    if way == "Expired":
        stores.clock.advance(WAIT)
        ledger.expire(actor="loop")
    elif way == "Withdrawn":
        give_back(ledger, "a")
    else:
        ledger.open_account(terms(policy="GDP", epsilon=Decimal("1")), actor="s")
        scheduled(ledger)
    assert states(ledger, "a") == [way]
    before = state_of_everything(ledger)
    results = [expose(ledger, "a"), charge(ledger, "a", reason="x")]
    results.append(ledger.give_back("a", reason="another", actor="s"))
    assert not any(result.stands for result in results)
    assert scheduled(ledger) == ()
    assert state_of_everything(ledger) == before


# Several accounts.


def test_a_claim_on_several_accounts_waits_and_is_granted_on_all(ledger, account):
    other = other_account(ledger)
    reserve(ledger, claim(other, "holder", ALL))
    result = reserve(
        ledger,
        claim(account, "a", 10, study_uid="s"),
        claim(other, "b", 10, study_uid="s"),
    )
    assert result.code is ResultCode.QUEUED
    scheduled(ledger)
    assert states(ledger, "a", "b") == ["Queued", "Queued"]
    assert held(ledger, account) == (0, 0)
    give_back(ledger, "holder")
    scheduled(ledger)
    assert states(ledger, "a", "b") == ["Reserved", "Reserved"]
    assert held(ledger, account) == held(ledger, other) == (cost(10), 0)


def test_a_claim_that_is_hopeless_on_one_account_is_refused_on_all(ledger, account):
    other = other_account(ledger, epsilon=Decimal("0.5"))
    reserve(ledger, claim(account, "a", 10, study_uid="s"), claim(other, "b", ALL, study_uid="s"))
    assert states(ledger, "a", "b") == ["Denied", "Denied"]


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_claim_is_taken_back_on_all_of_its_accounts(ledger, account, name):
    other = other_account(ledger)
    reserve(ledger, claim(account, "a", 10, study_uid="s"), claim(other, "b", 10, study_uid="s"))
    reserve(ledger, claim(account, "c", 10))
    give_back(ledger, name)
    assert states(ledger, "a", "b", "c") == ["Withdrawn", "Withdrawn", "Queued"]


def test_schedulers_that_disagree_grant_what_both_grant(ledger, account):
    """One prefers the elephant, the other the mice; whoever is granted is granted on both."""
    other = other_account(ledger)
    configure(ledger, other, scheduling=queueing(SchedulerName.DPF))
    names = []
    for study, count in (("elephant", ALL - 1), ("m1", 100), ("m2", 100)):
        pair = [f"{study}-a", f"{study}-b"]
        names.append(pair)
        parts = zip((account, other), pair, strict=True)
        reserve(ledger, *[claim(where, name, count, study_uid=study) for where, name in parts])
    scheduled(ledger)
    found = [states(ledger, *pair) for pair in names]
    assert all(left == right for left, right in found)
    assert ["Reserved", "Reserved"] in found
    assert held(ledger, account) == held(ledger, other)


def test_two_reservations_on_one_account_are_added_up(ledger, account):
    """Each would fit alone; together they would overspend."""
    half = ALL // 2 + 1
    for name in ("a", "b"):
        reserve(ledger, claim(account, name, half, study_uid="s"))
    reserve(ledger, claim(account, "c", 10))
    scheduled(ledger)
    assert states(ledger, "a", "b", "c") == ["Queued", "Queued", "Reserved"]
    reserve(ledger, claim(account, "d", 20, study_uid="t"), claim(account, "e", 30, study_uid="t"))
    scheduled(ledger)
    assert states(ledger, "d", "e") == ["Reserved", "Reserved"]
    assert held(ledger, account) == (cost(10) + cost(20) + cost(30), 0)


def test_claims_of_two_studies_do_not_wait_as_one(ledger, account):
    with pytest.raises(InvalidValue, match="of one Study"):
        reserve(ledger, claim(account, "a", 1), claim(account, "b", 1))


def test_costs_beyond_64_bits_do_not_stop_the_rounds(ledger):
    """A mixture counts a plan that a filter cannot charge as more than any capacity."""
    account = opened_mixture(ledger)
    for number in range(4):
        reserve(ledger, request(account, f"r{number}", EVENT, study_uid=f"s{number}"))
        scheduled(ledger)
        assert states(ledger, f"r{number}") == ["Reserved"]


def opened_mixture(ledger):
    account, _ = ledger.open_account(terms(policy="Mixture", epsilon=Decimal(40)), actor="s")
    configure(ledger, account, scheduling=queueing())
    return account


# Freezing.


def test_a_frozen_account_is_not_scheduled(ledger, account):
    other = other_account(ledger)
    reserve(ledger, claim(account, "a", 10))
    reserve(ledger, claim(account, "b", 1, study_uid="s"), claim(other, "c", 1, study_uid="s"))
    ledger.freeze(account, reason="an audit failed", key="k", actor="s")
    assert reserve(ledger, claim(account, "d", 1)).code is ResultCode.FROZEN
    scheduled(ledger)
    assert states(ledger, "a", "b", "c") == ["Queued"] * 3
    ledger.thaw(account, reason="looked into", key="k", actor="s")
    scheduled(ledger)
    assert states(ledger, "a", "b", "c") == ["Reserved"] * 3


def test_who_waits_at_a_frozen_account_may_still_leave(ledger, account, stores):
    for name in ("a", "b"):
        reserve(ledger, claim(account, name, 10))
    ledger.freeze(account, reason="x", key="k", actor="s")
    assert give_back(ledger, "a").stands
    stores.clock.advance(WAIT)
    assert ledger.expire(actor="loop") == ("b",)


# Crashes and races.


def busy(ledger):
    """A ledger on which a round unlocks, grants some, leaves one waiting, and refuses one."""
    account = opened(ledger)
    rules = {"unlocking": RULES[UnlockingRule.PER_TIME], "scheduling": queueing(days=30)}
    configure(ledger, account, **rules)
    other = other_account(ledger)
    for study, count in (("s1", 10), ("s2", 15), ("s3", room(part=0.6)), ("s4", room(part=0.8))):
        parts = [claim(where, f"{study}-{where[:2]}", count) for where in (account, other)]
        reserve(ledger, *[request_of(part, study) for part in parts])
    ledger.open_account(terms(policy="GDP", epsilon=Decimal("6.5")), actor="s")
    return account


def request_of(part, study):
    return replace(part, study_uid=study, study=f"oncology/{study}")


def shape_of(ledger):
    """What a ledger came to, whatever the numbers and times of its entries."""
    stood = sorted((r.reservation_id, r.state.value) for r in ledger.reservations())
    return stood, [(a.blocks[0].reserved, a.blocks[0].unlocked) for a in ledger.accounts()]


def test_a_scheduler_that_dies_between_any_two_writes_converges():
    """P19: after a crash at any write the next round comes to the same, and nothing twice."""

    def fresh():
        clock = ManualClock()
        ledger = MemoryLedgerStore(clock=clock, anchor=MemoryAnchor())
        busy(ledger)
        clock.advance(10 * DAY)
        return ledger

    calm = fresh()
    scheduled(calm)
    expected = shape_of(calm)
    assert {state for _, state in expected[0]} == {"Queued", "Reserved", "Denied"}
    at = 1
    while True:
        ledger = fresh()
        died = crashed(ledger, at, lambda tried=ledger: scheduled(tried))
        assert ledger.verify() == ()
        scheduled(ledger)
        assert shape_of(ledger) == expected
        if not died:
            break
        at += 1
    assert at > 20, "no write was met"


def test_a_scheduler_that_keeps_dying_converges(ledger, stores):
    """P19 on every store: one write further each time."""
    busy(ledger)
    stores.clock.advance(10 * DAY)
    at = 1
    while crashed(ledger, at, lambda: scheduled(ledger)):
        assert ledger.verify() == ()
        at += 1
    found = {state for _, state in shape_of(ledger)[0]}
    assert found == {"Queued", "Reserved", "Denied"}
    names = [entry.idempotency_key for entry in ledger.entries(limit=10_000)]
    assert len([name for name in names if name.startswith("grant/")]) == 4


def test_two_schedulers_at_once_grant_once(ledger, account):
    """P19: the one that comes second finds nothing left to grant."""
    for number in range(20):
        reserve(ledger, claim(account, f"c{number}", ALL // 10))
    errors = []

    def run():
        try:
            scheduled(ledger)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    granted = [r for r in ledger.reservations() if r.state is ReservationState.RESERVED]
    assert len(granted) == 10
    assert held(ledger, account) == (10 * cost(ALL // 10), 0)


@pytest.mark.parametrize("meanwhile", ["scheduled", "withdrawn", "expired", "frozen", "spent"])
def test_a_proposal_that_is_out_of_date_grants_nothing_wrong(ledger, account, stores, meanwhile):
    """A round is proposed on an old look; what changed since is weighed anew."""
    other = other_account(ledger)
    parts = claim(account, "a", 10, study_uid="s"), claim(other, "b", ALL, study_uid="s")
    reserve(ledger, *parts)

    def act():
        if meanwhile == "scheduled":
            scheduled(ledger)
        elif meanwhile == "withdrawn":
            give_back(ledger, "a")
        elif meanwhile == "expired":
            stores.clock.advance(WAIT)
            ledger.expire(actor="loop")
        elif meanwhile == "frozen":
            ledger.freeze(other, reason="x", key="k", actor="s")
        else:
            reserve(ledger, claim(other, "quick", 1))

    interrupted(ledger, lambda: scheduled(ledger), act)
    state = {
        "scheduled": "Reserved",
        "withdrawn": "Withdrawn",
        "expired": "Expired",
        "frozen": "Queued",
        "spent": "Queued",
    }[meanwhile]
    assert states(ledger, "a", "b") == [state, state]
    grants = [e for e in ledger.entries() if e.idempotency_key.startswith("grant/")]
    assert len(grants) == (2 if state == "Reserved" else 0)
    assert held(ledger, account) == (cost(10) if grants else 0, 0)


def test_an_older_copy_grants_nothing_to_who_waits(stores, ledger, account):
    """A restored backup is recognized by its anchor."""
    stores.broken = True
    for name in ("a", "b"):
        reserve(ledger, claim(account, name, 10))
    stores.anchor.write(ledger.head()[0] + 3, "f" * 64)
    before = state_of_everything(ledger)
    scheduled(ledger)
    stores.clock.advance(WAIT)
    assert ledger.expire(actor="loop") == ()
    assert give_back(ledger, "a").code is ResultCode.ROLLED_BACK
    assert configure(ledger, account, "q").code is ResultCode.ROLLED_BACK
    assert state_of_everything(ledger) == before


# Rules: what is recorded, and what becomes available when.


def test_a_change_of_rules_is_recorded(ledger):
    account = opened(ledger)
    parts = {
        "unlocking": RULES[UnlockingRule.HYBRID],
        "scheduling": queueing(SchedulerName.DPF),
        "quotas": (quota("Group", 5, "g"),),
    }
    assert configure(ledger, account, **parts).code is ResultCode.ACCEPTED
    entry = ledger.entries()[-1]
    assert entry.kind is EntryKind.CONFIGURED
    assert entry.payload["asked"]["rules"] == Rules(**parts).to_json()
    assert ledger.account(account).rules == Rules(**parts)
    seq = ledger.head()[0]
    assert configure(ledger, account, "again", **parts).code is ResultCode.REPEATED
    assert ledger.head()[0] == seq
    assert configure(ledger, account).code is ResultCode.ACCEPTED
    assert configure(ledger, account, **parts).code is ResultCode.ACCEPTED  # Rules may come back.
    assert configure(ledger, "nobody").code is ResultCode.ACCOUNT_UNKNOWN


def test_rules_change_neither_the_guarantee_nor_what_is_held(ledger):
    account = opened(ledger)
    reserve(ledger, claim(account, "a", ALL - 10))
    before = ledger.account(account)
    configure(ledger, account, unlocking=RULES[UnlockingRule.PER_CLAIM])
    after = ledger.account(account)
    assert (after.terms, after.capacity) == (before.terms, before.capacity)
    assert held(ledger, account) == (cost(ALL - 10), 0)
    assert not reserve(ledger, claim(account, "b", 11)).stands
    assert expose(ledger, "a").stands


def test_a_claim_unlocks_a_fair_share_and_no_more_than_it_asks_for(ledger):
    """P13: dust unlocks dust."""
    account = opened(ledger)
    configure(ledger, account, unlocking=RULES[UnlockingRule.PER_CLAIM])
    assert unlocked(ledger, account) == 0
    for number in range(5):
        assert reserve(ledger, claim(account, f"dust-{number}", 1)).stands
    assert unlocked(ledger, account) == 5 * cost(1)
    refused = reserve(ledger, claim(account, "elephant", ALL // 2))
    assert refused.code is ResultCode.LOCKED
    assert unlocked(ledger, account) == 5 * cost(1) + SHARE
    assert reserve(ledger, claim(account, "elephant", ALL // 2)).code is ResultCode.LOCKED
    assert unlocked(ledger, account) == 5 * cost(1) + SHARE  # A denial is final, and unlocks once.


def test_a_claim_within_its_fair_share_is_granted_when_it_comes(ledger):
    """P7: N claims of a share each are granted, whoever else waits."""
    account = opened(ledger)
    configure(ledger, account, unlocking=RULES[UnlockingRule.PER_CLAIM])
    fair = room(part=0.25)
    for number in range(4):
        assert reserve(ledger, claim(account, f"r{number}", fair)).code is ResultCode.ACCEPTED


def test_claims_unlock_only_the_blocks_they_ask_for(ledger):
    account = divided(ledger)
    configure(ledger, account, unlocking=RULES[UnlockingRule.PER_CLAIM])
    reserve(ledger, claim(account, "a", 10, blocks=("north",)))
    reserve(ledger, claim(account, "b", 20, blocks=("north", "south")))
    assert [unlocked(ledger, account, n) for n in SITES] == [cost(10) + cost(20), cost(20), 0]


def test_two_requests_at_once_unlock_one_after_the_other(ledger):
    account = opened(ledger)
    only = Unlocking(UnlockingRule.PER_CLAIM, claims=1)
    configure(ledger, account, unlocking=only)
    half = ALL // 2
    assert reserve(ledger, claim(account, "a", half), claim(account, "b", half)).stands
    assert unlocked(ledger, account) == 2 * cost(half)
    refused = reserve(ledger, claim(account, "c", ALL), claim(account, "d", ALL))
    assert refused.code is ResultCode.OVER_BUDGET
    assert unlocked(ledger, account) == 2 * cost(half)  # What no unlocking helps unlocks nothing.


def test_an_elephant_waits_until_enough_has_arrived(ledger):
    account = opened(ledger)
    rules = {"unlocking": RULES[UnlockingRule.PER_CLAIM], "scheduling": queueing()}
    configure(ledger, account, **rules)
    large = room(part=0.45)
    assert reserve(ledger, claim(account, "a", large)).code is ResultCode.QUEUED
    scheduled(ledger)
    assert states(ledger, "a") == ["Queued"]
    reserve(ledger, claim(account, "b", large))
    scheduled(ledger)
    assert states(ledger, "a", "b") == ["Reserved", "Queued"]


def portions(rule):
    """The share of a budget that is there after a number of days."""
    return {
        UnlockingRule.PER_TIME: {0: 0, 0.99: 0, 1: 0.01, 50: 0.5, 99.999: 0.99, 100: 1, 300: 1},
        UnlockingRule.ROUNDS: {0: 0, 0.99: 0, 1: 0.375, 2: 0.75, 3: 0.875, 4: 1, 9: 1},
    }[rule]


@pytest.mark.parametrize("rule", [UnlockingRule.PER_TIME, UnlockingRule.ROUNDS])
def test_time_unlocks_by_steps_and_every_step_is_an_entry(ledger, stores, rule):
    account = opened(ledger)
    configure(ledger, account, unlocking=RULES[rule], scheduling=queueing(days=1000))
    reserve(ledger, claim(account, "waits", ALL))  # So that somebody asks.
    start, seen = stores.clock.now(), 0
    for days, part in portions(rule).items():
        stores.clock._now = start
        stores.clock.advance(days * DAY)
        scheduled(ledger)
        assert abs(unlocked(ledger, account) - capacity() * part) <= 1
        unlocks = [e for e in ledger.entries() if e.kind is EntryKind.UNLOCKED]
        assert (
            len(unlocks) == seen + (1 if part > 0 and days < 100 and days != 4 else 0) or part == 1
        )
        seen = len(unlocks)
    assert unlocked(ledger, account) == capacity()
    assert states(ledger, "waits") == ["Reserved"]


@pytest.mark.parametrize("rule", [UnlockingRule.PER_TIME, UnlockingRule.HYBRID])
def test_what_time_has_unlocked_is_there_for_who_may_not_wait(ledger, stores, rule):
    account = opened(ledger)
    configure(ledger, account, unlocking=RULES[rule])
    stores.clock.advance(50 * DAY)
    assert reserve(ledger, claim(account, "a", room(part=0.5))).stands
    assert reserve(ledger, claim(account, "b", room(part=0.3))).code is ResultCode.LOCKED
    stores.clock.advance(30 * DAY)
    assert reserve(ledger, claim(account, "c", room(part=0.3))).stands


def test_a_clock_that_goes_back_takes_nothing_back(ledger, stores):
    account = opened(ledger)
    rules = {"unlocking": RULES[UnlockingRule.PER_TIME], "scheduling": queueing(days=1000)}
    configure(ledger, account, **rules)
    reserve(ledger, claim(account, "a", ALL))
    stores.clock.advance(50 * DAY)
    scheduled(ledger)
    before = unlocked(ledger, account)
    stores.clock.advance(-40 * DAY)
    scheduled(ledger)
    assert unlocked(ledger, account) == before > 0


def test_a_block_unlocks_by_its_own_age(ledger, stores):
    account = divided(ledger, ("north",))
    configure(ledger, account, unlocking=RULES[UnlockingRule.PER_TIME])
    stores.clock.advance(50 * DAY)
    ledger.divide(account, ["south"], actor="s")
    stores.clock.advance(25 * DAY)
    reserve(ledger, claim(account, "a", 1))
    assert abs(unlocked(ledger, account, "north") - capacity() * 0.75) <= 1
    assert abs(unlocked(ledger, account, "south") - capacity() * 0.25) <= 1


def test_hybrid_unlocks_what_claims_or_time_have_unlocked_whichever_is_more(ledger, stores):
    """max(N, T), and never their sum."""
    account = opened(ledger)
    configure(ledger, account, unlocking=RULES[UnlockingRule.HYBRID])
    reserve(ledger, claim(account, "a", 20))
    assert unlocked(ledger, account) == cost(20)
    stores.clock.advance(2 * DAY)  # A part of 2 %, less than what has arrived.
    reserve(ledger, claim(account, "b", 1))
    assert unlocked(ledger, account) == cost(20) + cost(1)
    stores.clock.advance(48 * DAY)
    reserve(ledger, claim(account, "c", 1))
    assert unlocked(ledger, account) == capacity() * 50 // 100


@pytest.mark.parametrize("before", [UnlockingRule.PER_TIME, UnlockingRule.HYBRID])
@pytest.mark.parametrize("after", list(UnlockingRule))
def test_what_was_unlocked_stays_whatever_the_rules_become(ledger, stores, before, after):
    """P6 across a change of rules."""
    account = opened(ledger)
    configure(ledger, account, unlocking=RULES[before])
    stores.clock.advance(40 * DAY)
    reserve(ledger, claim(account, "a", 10))
    open_before = unlocked(ledger, account)
    assert open_before == capacity() * 40 // 100
    configure(ledger, account, unlocking=RULES[after])
    assert unlocked(ledger, account) >= open_before
    assert reserve(ledger, claim(account, "b", room(part=0.4) - 10)).stands


def test_only_immediate_opens_what_no_entry_unlocked(ledger):
    """It is no unlock: the rule that follows it begins with what entries have unlocked."""
    account = opened(ledger)
    assert unlocked(ledger, account) == capacity()
    configure(ledger, account, unlocking=RULES[UnlockingRule.PER_TIME])
    assert unlocked(ledger, account) == 0
    configure(ledger, account)
    assert unlocked(ledger, account) == capacity()


def test_unlocks_follow_a_guarantee_that_was_lowered(ledger, stores):
    account = opened(ledger)
    rules = {"unlocking": RULES[UnlockingRule.PER_TIME], "scheduling": queueing(days=1000)}
    configure(ledger, account, **rules)
    reserve(ledger, claim(account, "a", room("4.0")))
    stores.clock.advance(90 * DAY)
    scheduled(ledger)
    ledger.open_account(terms(policy="GDP", epsilon=Decimal("4.0")), actor="s")
    assert unlocked(ledger, account) == capacity("4.0")
    stores.clock.advance(90 * DAY)
    scheduled(ledger)
    assert unlocked(ledger, account) == capacity("4.0")


# What would become of a request.


def test_an_outlook_grants_what_a_reservation_would_be_granted(ledger):
    account = opened(ledger)
    assert ledger.outlook(account, steps(10)).now
    assert ledger.outlook(account, steps(10)).times == ALL // 10
    seq = ledger.head()[0]
    found = ledger.outlook(account, steps(ALL + 1))
    assert (found.times, found.now, found.unlocks) == (0, False, "")
    assert "GDP has epsilon 8 left of 8" in found.reason
    assert "short by" in found.reason
    assert ledger.head()[0] == seq


def test_an_outlook_counts_what_the_request_itself_would_unlock(ledger):
    account = opened(ledger)
    configure(ledger, account, unlocking=RULES[UnlockingRule.PER_CLAIM])
    assert ledger.outlook(account, steps(room(part=0.25))).now
    found = ledger.outlook(account, steps(room(part=0.3)))
    assert not found.now
    assert found.unlocks == "when further claims arrive"
    assert unlocked(ledger, account) == 0


def test_an_outlook_names_the_block_that_lacks(ledger, stores):
    account = divided(ledger, ("north",))
    configure(ledger, account, unlocking=RULES[UnlockingRule.PER_TIME])
    stores.clock.advance(50 * DAY)
    ledger.divide(account, ["south"], actor="s")
    assert ledger.outlook(account, steps(10), blocks=("north",)).now
    found = ledger.outlook(account, steps(10))
    assert found.reason.startswith("Block south: GDP has room for it")
    assert "not enough is unlocked yet (short by" in found.reason
    assert found.unlocks == stores.clock.after(3 * DAY)  # Ten steps are between 2 % and 3 %.


SLOW = Unlocking(UnlockingRule.PER_TIME, days=Decimal("0.000123456789"))


@pytest.mark.parametrize(
    "unlocking",
    [
        RULES[UnlockingRule.PER_TIME],
        SLOW,
        RULES[UnlockingRule.ROUNDS],
        RULES[UnlockingRule.HYBRID],
    ],
    ids=["PerTime", "uneven steps", "Rounds", "Hybrid"],
)
@pytest.mark.parametrize("part", [0.26, 0.7, 1.0])
def test_the_time_an_outlook_names_is_right(ledger, stores, unlocking, part):
    """It fits then, and not a microsecond earlier."""
    account = divided(ledger, ("north",))
    configure(ledger, account, unlocking=unlocking)
    stores.clock.advance(0.25 if unlocking is SLOW else DAY)
    ledger.divide(account, ["south"], actor="s")
    wanted = steps(room(part=part))
    told = ledger.outlook(account, wanted).unlocks
    moments = map(datetime.datetime.fromisoformat, (told, stores.clock.now()))
    seconds = (next(moments) - next(moments)).total_seconds()
    stores.clock.advance(seconds - 1e-6)
    assert not ledger.outlook(account, wanted).now
    early = reserve(ledger, claim(account, "early", room(part=part)))
    assert early.code is ResultCode.LOCKED
    stores.clock.advance(1e-6)
    assert stores.clock.now() == told
    assert ledger.outlook(account, wanted).now
    assert reserve(ledger, claim(account, "late", room(part=part))).stands


def test_an_outlook_says_where_time_does_not_help(ledger):
    account = opened(ledger)
    configure(ledger, account, unlocking=RULES[UnlockingRule.PER_TIME])
    ledger.open_account(terms(policy="GDP", epsilon=Decimal("1.0")), actor="s")
    found = ledger.outlook(account, steps(room("2.0")))
    assert (found.now, found.unlocks) == (False, "")
    ledger.freeze(account, reason="an audit failed", key="k", actor="s")
    found = ledger.outlook(account, steps(1))
    assert (found.times, found.now, found.reason) == (0, False, "an audit failed")
    assert not ledger.outlook("nobody", steps(1)).now


def test_a_queue_needs_a_budget_that_lets_wait(ledger):
    """Waiting is the budget's word, not the claim's; nobody waits where it says 0 days."""
    account = opened(ledger)
    configure(ledger, account, scheduling=Scheduling(SchedulerName.DPF))
    assert reserve(ledger, claim(account, "a", 10)).code is ResultCode.ACCEPTED
    assert block(ledger, account).reserved.as_dict == {"mu2": cost(10)}


def test_a_round_on_a_ledger_that_was_rolled_back_says_that_nothing_was_granted():
    anchor = MemoryAnchor()
    ledger = MemoryLedgerStore(clock=ManualClock(), anchor=anchor)
    account = opened(ledger)
    configure(ledger, account, scheduling=queueing())
    reserve(ledger, claim(account, "a", 10))
    anchor.write(ledger.head()[0] + 5, "f" * 64)
    (seen,) = ledger.schedule(lease_seconds=LEASE, actor="loop")
    assert (seen.waiting, seen.granted) == (1, 0)
    assert states(ledger, "a") == ["Queued"]


def test_a_round_counts_what_it_granted(ledger, account):
    for name in ("a", "b"):
        reserve(ledger, claim(account, name, 10))
    (seen,) = ledger.schedule(lease_seconds=LEASE, actor="loop")
    assert (seen.waiting, seen.granted, seen.gap) == (2, 2, 0)
