"""Questions about the ledger, answered from its entries: read once, never spending."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace

import pytest
from ledger_words import EVENT, HALF, HUGE, charge, expose, request, reserve, terms

from primum.adapters.memory import (
    ManualClock,
    MemoryEvidenceStore,
    MemoryLedgerStore,
    MemoryResourceStore,
    MemorySigner,
)
from primum.application import planning, refusals, reports, searching
from primum.application.reports import Grouping, Reports, Sought
from primum.application.searching import Detail, Order, Search, find
from primum.application.verifying import Verifications, altered
from primum.domain.accounting.events import Gaussian
from primum.domain.budget.entries import EntryKind
from primum.domain.budget.forecast import Prospect
from primum.domain.errors import Conflict, NotFound
from primum.entrypoints import bootstrap

DAY = 86400.0


class Counted:
    """The ledger, and how many entries were read."""

    def __init__(self, ledger):
        self._ledger, self.read = ledger, 0

    def __getattr__(self, name):
        return getattr(self._ledger, name)

    def entries(self, **asked):
        found = self._ledger.entries(**asked)
        self.read += len(found)
        return found


@pytest.fixture
def ports():
    clock = ManualClock()
    return SimpleNamespace(
        ledger=Counted(MemoryLedgerStore(clock=clock)),
        clock=clock,
        accountant=bootstrap.accountant,
        evidence=MemoryEvidenceStore(),
        resources=MemoryResourceStore(clock=clock),
        signer=MemorySigner(),
    )


@pytest.fixture
def account(ports):
    return ports.ledger.open_account(terms(), actor="steward")[0]


def spend(ports, account, name, *, days=5.0, **changes):
    ports.clock.advance(days * DAY)
    assert reserve(ports.ledger, request(account, name, **changes), lease_seconds=1e6).stands
    expose(ports.ledger, name)
    charge(ports.ledger, name)


# Burn-down and forecast.


def test_a_burndown_ends_at_what_the_account_has_left(ports, account):
    for number in range(3):
        spend(ports, account, f"r{number}", event=HALF)
    reserve(ports.ledger, request(account, "held", event=HALF))
    before = ports.ledger.head()
    found = Reports(ports).burndown(account)
    view = ports.ledger.account(account)
    last = found.points[-1]
    assert (last.charged, last.held, last.left) == (
        view.epsilon_spent,
        view.epsilon_reserved,
        view.epsilon_left,
    )
    assert found.points[0].left == found.points[0].guarantee == 8
    assert last.running_bound > last.held
    assert "at every moment at once" in found.running_bound_holds
    assert 0 < found.in_advance < last.charged, "an accountant of fixed plans says less"
    assert found.more == ports.ledger.fits(account, HALF)
    assert ports.ledger.head() == before


def test_only_new_entries_are_read_the_second_time(ports, account):
    for number in range(4):
        spend(ports, account, f"r{number}", event=HALF)
    asked = Reports(ports)
    first = asked.burndown(account)
    ports.ledger.read = 0
    assert asked.burndown(account) == first
    assert ports.ledger.read == 1, "only whether the entry where it ended is still there"
    spend(ports, account, "r9", event=HALF)
    ports.ledger.read = 0
    grown = asked.burndown(account)
    assert ports.ledger.read == 1 + 3
    assert grown.points[-1].charged > first.points[-1].charged


def test_an_older_database_is_read_anew(ports, account):
    spend(ports, account, "r0", event=HALF)
    asked, rows = Reports(ports), ports.ledger.store.rows
    before = asked.burndown(account)
    older = rows.copied()
    spend(ports, account, "r1", event=HALF)
    assert asked.burndown(account) != before
    ports.ledger.store.rows = older
    assert asked.burndown(account) == before


def test_a_lowered_guarantee_shows_from_then_on(ports, account):
    spend(ports, account, "r0", event=HALF)
    ports.ledger.open_account(terms(epsilon=Decimal("6")), actor="steward")
    spend(ports, account, "r1", event=HALF)
    found = Reports(ports).burndown(account)
    assert [point.guarantee for point in found.points] == [8, 8, 8, 6, 6]


def test_a_frozen_account_has_room_for_nothing_more(ports, account):
    spend(ports, account, "r0", event=HALF)
    ports.ledger.freeze(account, reason="doubt", key="k", actor="steward")
    asked = Reports(ports)
    assert asked.burndown(account).more == 0
    (item,) = asked.forecast(account)
    assert item.forecast.message.startswith("Frozen (doubt). ")


def test_an_unused_account_says_so(ports, account):
    asked = Reports(ports)
    found = asked.burndown(account)
    assert (found.more, found.points[-1].charged, found.points[-1].running_bound) == (None, 0, 0)
    (item,) = asked.forecast(account)
    assert item.forecast.prospect is Prospect.NOT_ENOUGH_HISTORY
    assert asked.spending(account, by=Grouping.STUDY).shares == ()


def test_the_forecast_ends_where_the_ledger_says_no(ports, account):
    """As many Studies as it says still fit; one more is refused by the ledger itself."""
    for number in range(4):
        spend(ports, account, f"r{number}", event=HALF)
    (item,) = Reports(ports).forecast(account)
    assert item.forecast.prospect is Prospect.RUNS_OUT
    more = item.forecast.more
    assert more == ports.ledger.fits(account, HALF)
    for number in range(more):
        spend(ports, account, f"more{number}", event=HALF)
    assert not reserve(ports.ledger, request(account, "last", event=HALF)).stands
    (item,) = Reports(ports).forecast(account)
    assert item.forecast.prospect is Prospect.EXHAUSTED


@pytest.mark.parametrize("ask", ["burndown", "forecast", "spending"])
def test_what_does_not_exist_is_not_found(ports, account, ask):
    asked = Reports(ports)
    more = {"by": Grouping.STUDY} if ask == "spending" else {}
    with pytest.raises(NotFound, match="account nowhere"):
        getattr(asked, ask)("nowhere", **more)
    with pytest.raises(NotFound, match="block north"):
        getattr(asked, ask)(account, block="north", **more)


def test_few_histories_are_kept(ports, monkeypatch):
    monkeypatch.setattr(reports, "HISTORIES_MAX", 2)
    asked = Reports(ports)
    for number in range(4):
        name, _ = ports.ledger.open_account(
            terms(dataset_uri=f"file:///{number}", dataset_digest=""), actor="steward"
        )
        asked.burndown(name)
    assert len(asked._histories) == 2


# Spending.


def test_shares_add_up_and_epsilons_do_not(ports, account):
    spend(ports, account, "r0", requester="ada", purpose="a", event=HALF)
    spend(ports, account, "r1", requester="ada", purpose="b", event=HALF)
    spend(ports, account, "r2", requester="grace", purpose="b", event=EVENT)
    asked = Reports(ports)
    by = {s.name: s for s in asked.spending(account, by=Grouping.REQUESTER).shares}
    assert by["grace"].share == by["ada"].share == Decimal("0.5")
    assert (by["ada"].charges, by["ada"].first[:10], by["ada"].last[:10]) == (
        2,
        "2026-01-06",
        "2026-01-11",
    )
    spent = ports.ledger.account(account).epsilon_spent
    assert sum(share.epsilon for share in by.values()) > spent
    purposes = asked.spending(account, by=Grouping.PURPOSE).shares
    assert [(s.name, s.share) for s in purposes] == [("b", Decimal("0.75")), ("a", Decimal("0.25"))]


def test_spending_is_restricted_by_name_and_day(ports, account):
    for number, who in enumerate(("ada", "grace", "ada")):
        spend(ports, account, f"r{number}", requester=who, event=HALF)
    asked = Reports(ports)

    def charges(**sought):
        found = asked.spending(account, by=Grouping.REQUESTER, sought=Sought(**sought)).shares
        return {share.name: share.charges for share in found}

    assert charges() == {"ada": 2, "grace": 1}
    assert charges(requester="grace") == {"grace": 1}
    assert charges(since="2026-01-11") == {"ada": 1, "grace": 1}
    assert charges(until="2026-01-06") == {"ada": 1}
    assert charges(purpose="other") == {}


def test_many_names_are_put_together(ports, account, monkeypatch):
    monkeypatch.setattr(reports, "GROUPS_MAX", 2)
    for number in range(4):
        spend(ports, account, f"r{number}", requester=f"p{number}", event=HALF)
    shares = Reports(ports).spending(account, by=Grouping.REQUESTER).shares
    assert [share.name for share in shares] == ["p0", "p1", reports.OTHERS]
    assert shares[-1].share == Decimal("0.5")


# Search.


def numbers(ports, search, **how):
    return [item.entry.seq for item in find(ports.ledger, search, **how).items]


def test_a_search_finds_the_same_in_both_directions(ports, account, monkeypatch):
    monkeypatch.setattr(searching, "WINDOW", 3)
    for number in range(6):
        spend(ports, account, f"r{number}", event=HALF, study=f"oncology/s{number % 2}")
    for search in (
        Search(),
        Search(account_id=account),
        Search(account_id="other"),
        Search(kinds=(EntryKind.CHARGED, EntryKind.OPENED)),
        Search(study="S1"),
        Search(actor="STEP"),
        Search(since="2026-01-11", until="2026-01-21"),
        Search(since="2027-01-01"),
        Search(until="2025-01-01"),
    ):
        up = numbers(ports, search)
        assert numbers(ports, search, order=Order.NEWEST) == up[::-1], search
        pages, cursor = [], None
        while True:
            page = find(ports.ledger, search, order=Order.NEWEST, cursor=cursor, limit=2)
            pages += [item.entry.seq for item in page.items]
            cursor = page.cursor
            if cursor is None:
                break
        assert pages == up[::-1], search
    assert len(numbers(ports, Search(study="S1"))) == 9
    assert numbers(ports, Search(kinds=(EntryKind.OPENED,))) == [1]


def test_a_long_search_stops_and_says_where_to_go_on(ports, account, monkeypatch):
    monkeypatch.setattr(searching, "SCANNED_MAX", 4)
    for number in range(3):
        spend(ports, account, f"r{number}", event=HALF)
    reserve(ports.ledger, request(account, "greedy", event=HUGE))
    search, cursor, found, pages = Search(kinds=(EntryKind.DENIED,)), 0, [], 0
    while cursor is not None:
        page = find(ports.ledger, search, cursor=cursor)
        found += page.items
        cursor, pages = page.cursor, pages + 1
    assert [item.entry.kind for item in found] == [EntryKind.DENIED]
    assert pages == 3


def test_reservations_are_looked_up_only_where_wanted(ports, account):
    spend(ports, account, "r0", event=HALF)
    plain = find(ports.ledger, Search(), detail=Detail.NOTHING).items
    assert {item.reservation for item in plain} == {None}
    full = find(ports.ledger, Search(kinds=(EntryKind.CHARGED,))).items
    assert full[0].reservation.study == "oncology/malignancy"


# Refusals.


def test_a_refusal_says_what_was_missing_and_what_the_study_was_told(ports, account):
    result = reserve(ports.ledger, request(account, "greedy", event=HUGE))
    fact = {"stage": "Reserve", "reason": "Denied", "message": "no. What would fit: 3 epochs"}
    ports.evidence.put_fact(planning.REFUSAL, "study-1/1", fact)
    (item,) = refusals.refused_claims(ports).items
    assert item.reason == result.message
    assert item.code == "OverBudget"
    assert item.told.endswith("What would fit: 3 epochs")
    assert (item.study, item.requester, item.blocks) == (
        "oncology/malignancy",
        "user:ada",
        ("whole",),
    )
    assert item.epsilon > 8
    assert refusals.refused_claims(ports, account_id="other").items == ()


def test_a_study_that_never_reached_the_ledger_is_listed_too(ports):
    for key, stage in (("uid-1/1", "Plan"), ("uid-2/3", "Reserve"), ("uid-3/2", "Plan")):
        fact = {"stage": stage, "reason": "GateDenied", "message": "no"}
        ports.evidence.put_fact(planning.REFUSAL, key, fact)
    found = refusals.refused_plans(ports)
    assert [(plan.study, plan.generation) for plan in found] == [("uid-3", 2), ("uid-1", 1)]


# Verification.


def test_a_verification_is_remembered_with_what_it_covers(ports, account):
    known = Verifications(ports)
    assert known.last is None
    spend(ports, account, "r0", event=HALF)
    found = known.run()
    assert (found.seq, found.head) == ports.ledger.head()
    assert found.intact
    assert known.last == found
    rows = ports.ledger.store.rows
    line = rows.lines[1]
    rows.lines[1] = line._replace(payload=line.payload.replace("ada", "eve"))
    assert not known.run().intact
    assert "Entry 2" in known.last.contradictions[0]
    assert altered(ports.ledger.entries()) == {2}


def test_only_one_verification_runs_at_a_time(ports, account):
    known = Verifications(ports)
    verify = ports.ledger.verify

    def again(**asked):
        with pytest.raises(Conflict, match="once at a time"):
            known.run()
        return verify(**asked)

    ports.ledger.verify = again
    assert known.run().intact


def test_the_newest_checkpoint_is_believed_only_with_our_signature(ports, account):
    known = Verifications(ports)
    assert known.signed() is None
    ports.ledger.checkpoint(ports.signer, actor="loop")
    assert (known.signed().seq, known.signed().fault) == (1, "")
    ports.ledger.checkpoint(MemorySigner(), actor="loop")
    assert known.signed().seq == 0
    assert known.signed().fault


def test_a_broken_link_is_seen_between_neighbors(ports, account):
    spend(ports, account, "r0", event=HALF)
    entries = list(ports.ledger.entries())
    assert altered(entries) == frozenset()
    from primum.domain.budget.book import hash_of

    moved = replace(entries[2], prev_hash="f" * 64)
    entries[2] = replace(moved, hash=hash_of(moved))
    assert altered(entries) == {3, 4}


# Blocks.


@pytest.fixture
def divided(ports):
    """A dataset by site, of which one site is used more than the other, and one not at all."""
    from primum.domain.budget.layout import BlockLayout, Division
    from primum.domain.canonical import canonical_json

    layout = BlockLayout(Division.SITE, "site", ("north", "south", "west"))
    account, result = ports.ledger.open_account(
        terms(
            dataset_uri="file:///sites",
            dataset_digest="",
            layout=canonical_json(layout.fixed).decode(),
        ),
        actor="steward",
    )
    assert result.stands, result
    ports.ledger.divide(account, ("north", "south", "west"), actor="steward")
    for number in range(4):
        blocks = ("north", "south") if number % 2 else ("north",)
        spend(ports, account, f"r{number}", event=HALF, blocks=blocks, requester=f"p{number % 2}")
    return account


def test_each_block_has_its_own_past_and_pace(ports, divided):
    asked = Reports(ports)
    found = asked.burndown(divided)
    assert (found.block, found.blocks) == ("north", ("north", "south", "west"))
    views = {block.name: block for block in ports.ledger.account(divided).blocks}
    for name, view in views.items():
        last = asked.burndown(divided, block=name).points[-1]
        assert (last.charged, last.left) == (view.epsilon_spent, view.epsilon_left)
    forecasts = {item.block: item.forecast for item in asked.forecast(divided)}
    assert forecasts["north"].prospect is Prospect.RUNS_OUT
    assert [forecasts[name].charges for name in ("north", "south", "west")] == [4, 2, 0]
    (one,) = asked.forecast(divided, block="south")
    assert one.forecast == forecasts["south"]


def test_spending_counts_only_who_took_from_the_block(ports, divided):
    asked = Reports(ports)

    def shares(block):
        found = asked.spending(divided, by=Grouping.REQUESTER, block=block).shares
        return {share.name: share.share for share in found}

    assert shares("north") == {"p0": Decimal("0.5"), "p1": Decimal("0.5")}
    assert shares("south") == {"p1": Decimal(1)}
    assert shares("west") == {}


def test_a_dataset_without_blocks_yet_has_nothing_to_show(ports):
    from primum.domain.budget.layout import BlockLayout, Division
    from primum.domain.canonical import canonical_json

    layout = canonical_json(BlockLayout(Division.SITE, "site", ("north",)).fixed).decode()
    account, _ = ports.ledger.open_account(
        terms(dataset_uri="file:///new", dataset_digest="", layout=layout), actor="steward"
    )
    asked = Reports(ports)
    with pytest.raises(NotFound, match="has no block yet"):
        asked.burndown(account)
    assert asked.forecast(account) == ()


@pytest.mark.parametrize(("policy", "bound"), [("Basic", False), ("Mixture", True)])
def test_a_running_bound_that_is_not_defined_is_not_shown(ports, policy, bound):
    """(epsilon, delta) points have none; in advance the Renyi accountant speaks for all."""
    account, _ = ports.ledger.open_account(
        terms(dataset_uri="file:///x", dataset_digest="", policy=policy), actor="steward"
    )
    event = HALF if policy == "Mixture" else Gaussian(Decimal(4))
    spend(ports, account, "r0", event=event)
    found = Reports(ports).burndown(account)
    assert 0 < found.in_advance < found.points[-1].charged
    assert (found.points[-1].running_bound is not None) is bound
    (share,) = Reports(ports).spending(account, by=Grouping.STUDY).shares
    assert share.share == 1


def test_a_claim_that_waited_too_long_is_a_refusal_too(ports):
    from primum.domain.budget.rules import Rules, Scheduling, Unlocking, UnlockingRule

    account, _ = ports.ledger.open_account(
        terms(dataset_uri="file:///slow", dataset_digest=""), actor="steward"
    )
    slow = Rules(
        Unlocking(UnlockingRule.PER_TIME, days=Decimal(1000)), Scheduling(wait_days=Decimal(1))
    )
    ports.ledger.configure(account, slow, key="rules", actor="steward")
    assert reserve(ports.ledger, request(account, "late", event=HALF)).stands
    ports.clock.advance(2 * DAY)
    ports.ledger.expire(actor="loop")
    (item,) = refusals.refused_claims(ports, account_id=account).items
    assert item.code == "Expired"
    assert "waited until" in item.reason
    assert item.told == ""
