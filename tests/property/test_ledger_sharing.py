"""A divided budget that is shared out, against lists and loops over them.

P1, P2, P5, P6 and P10: blocks, unlocking, quotas and a queue in order of arrival. The naive ledger
keeps every claim and adds up what each takes; it knows nothing of entries or keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)
from ledger_shares import DAY, RULES, capacity, claim, cost, divided, queueing, quota, steps

from primum.adapters.memory import ManualClock, MemoryAnchor, MemoryLedgerStore
from primum.domain.budget.rules import Rules, UnlockingRule

LEASE = 100.0
OPEN = ("Reserved", "Exposed")
CAPACITY = capacity()
SHARE = CAPACITY // 4
QUOTA = quota("Requester", 60)
QUOTA_ROOM = capacity(str(QUOTA.epsilon))
LIVE = ("Queued", *OPEN)


@dataclass
class Wanted:
    """A claim as the naive ledger sees it; amounts in units of 1e-12 of squared mu."""

    blocks: tuple
    units: int
    who: str
    state: str
    until: float
    spent: int = 0

    @property
    def takes(self):
        return self.units if self.state in OPEN else self.spent


class SharingMachine(RuleBasedStateMachine):
    """One divided budget, its rules changed at any time, and claims that come, wait and go."""

    names = Bundle("names")

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.ledger = MemoryLedgerStore(clock=self.clock, anchor=MemoryAnchor())
        self.account = divided(self.ledger, ("b0", "b1"))
        self.claims, self.now, self.count = {}, 0.0, 0
        self.added = {"b0": 0.0, "b1": 0.0}
        self.unlocked, self.arrived = dict.fromkeys(self.added, 0), dict.fromkeys(self.added, 0)
        self.unlocking, self.waits, self.limited = UnlockingRule.IMMEDIATE, False, False

    def used(self, block, who=None):
        mine = [c for c in self.claims.values() if block in c.blocks and who in (None, c.who)]
        return sum(claim.takes for claim in mine)

    def charged(self, block):
        return sum(claim.spent for claim in self.claims.values() if block in claim.blocks)

    def open_room(self, block):
        immediate = self.unlocking is UnlockingRule.IMMEDIATE
        return CAPACITY if immediate else self.unlocked[block]

    def lacks(self, claim):
        """What is missing for a claim, in the order of the checks."""
        taken = {block: self.used(block) + claim.units for block in claim.blocks}
        if any(total > CAPACITY for total in taken.values()):
            return "budget"
        whose = [self.used(block, claim.who) + claim.units for block in claim.blocks]
        if self.limited and any(total > QUOTA_ROOM for total in whose):
            return "quota"
        return "locked" if any(taken[b] > self.open_room(b) for b in claim.blocks) else ""

    def hopeless(self, claim):
        return any(self.charged(block) + claim.units > CAPACITY for block in claim.blocks)

    def unlock_by_time(self, blocks):
        if self.unlocking is UnlockingRule.PER_TIME:
            for block in blocks:
                days = min(100, int((self.now - self.added[block]) // DAY))
                self.unlocked[block] = max(self.unlocked[block], CAPACITY * days // 100)

    def unlock_by_claim(self, claim):
        if self.unlocking is UnlockingRule.PER_CLAIM:
            for block in claim.blocks:
                came = min(CAPACITY, self.arrived[block] + min(SHARE, claim.units))
                self.arrived[block] = came
                self.unlocked[block] = max(self.unlocked[block], came)

    @rule(
        unlocking=st.sampled_from(
            [UnlockingRule.IMMEDIATE, UnlockingRule.PER_TIME, UnlockingRule.PER_CLAIM]
        ),
        waits=st.booleans(),
        limited=st.booleans(),
    )
    def configure(self, unlocking, waits, limited):
        self.count += 1
        rules = Rules(
            RULES[unlocking], queueing(days=7 if waits else 0), (QUOTA,) if limited else ()
        )
        key = f"k{self.count}"
        assert self.ledger.configure(self.account, rules, key=key, actor="s").stands
        self.unlocking, self.waits, self.limited = unlocking, waits, limited

    @precondition(lambda self: len(self.added) < 4)
    @rule()
    def divide(self):
        name = f"b{len(self.added)}"
        assert self.ledger.divide(self.account, [name], actor="s").stands
        self.added[name], self.unlocked[name], self.arrived[name] = self.now, 0, 0

    @rule(
        target=names,
        which=st.sets(st.integers(0, 3), min_size=1),
        count=st.sampled_from([1, 5, 40, 100, 250]),
        who=st.sampled_from(["user:ada", "user:eve"]),
    )
    def reserve(self, which, count, who):
        self.count += 1
        name = f"r{self.count}"
        blocks = tuple(sorted({f"b{n % len(self.added)}" for n in which}))
        wanted = Wanted(blocks, cost(count), who, "Denied", self.now + LEASE)
        before = dict(self.unlocked), dict(self.arrived)
        self.unlock_by_time(blocks)
        self.unlock_by_claim(wanted)
        missing = self.lacks(wanted)
        if self.waits:
            if self.hopeless(wanted) or missing == "quota":
                self.unlocked, self.arrived = before
            else:
                wanted.state, wanted.until = "Queued", self.now + 7 * DAY
        elif not missing:
            wanted.state = "Reserved"
        elif missing != "locked":  # What no unlocking helps unlocks nothing.
            self.unlocked, self.arrived = before
        asked = claim(self.account, name, count, blocks=blocks, requester=who)
        result = self.ledger.reserve([asked], lease_seconds=LEASE, actor="a")
        assert result.stands is (wanted.state != "Denied")
        self.claims[name] = wanted
        return name

    @rule()
    def schedule(self):
        """First come, first served, then whoever still fits; quotas are looked at last."""
        waiting = {name: c for name, c in self.claims.items() if c.state == "Queued"}
        self.ledger.schedule(lease_seconds=LEASE, actor="loop")
        if not waiting:
            return
        self.unlock_by_time(self.added)
        lost = [c for c in waiting.values() if self.hopeless(c)]
        able = [c for c in waiting.values() if not self.hopeless(c)]
        room = {b: min(CAPACITY, self.open_room(b)) - self.used(b) for b in self.added}
        first = []
        for each in able:
            if all(each.units <= room[block] for block in each.blocks):
                first.append(each)
                for block in each.blocks:
                    room[block] -= each.units
        granted = []
        for each in [*first, *(c for c in able if c not in first)]:
            if not self.lacks(each):
                each.state = "Reserved"
                granted.append(each)
        for each in granted:
            late = each.until <= self.now
            each.state = "Queued" if late else "Reserved"
            each.until = each.until if late else self.now + LEASE
        for each in lost:
            each.state = "Denied"

    @rule(name=names, count=st.sampled_from([0, 1, 5]) | st.none())
    def use(self, name, count):
        """Expose and charge, by a receipt or without."""
        item = self.claims[name]
        runs = item.state in OPEN and item.until > self.now
        fence = self.ledger.reservation(name).fence
        result = self.ledger.expose(name, access="train", fence=fence, actor="a")
        assert result.stands is runs
        if not runs:
            return
        item.state = "Exposed"
        if count is not None and cost(count) <= item.units:
            self.ledger.charge(name, executed=steps(count), reason="x", actor="a")
            item.state, item.spent = "Charged", cost(count)

    @rule(name=names)
    def give_back(self, name):
        item = self.claims[name]
        self.ledger.give_back(name, reason="x", actor="a")
        ends = {"Reserved": "Returned", "Queued": "Withdrawn"}
        item.state = ends.get(item.state, item.state)

    @rule()
    def expire(self):
        lapsed = {n for n, c in self.claims.items() if c.state in LIVE and c.until <= self.now}
        assert set(self.ledger.expire(actor="loop")) == lapsed
        for name in lapsed:
            item = self.claims[name]
            if item.state == "Exposed":
                item.spent = item.units
            ends = {"Exposed": "Charged", "Reserved": "Returned", "Queued": "Expired"}
            item.state = ends[item.state]

    @rule(days=st.sampled_from([0.0004, 0.3, 1.0, 5.0, 25.0]))
    def tick(self, days):
        self.clock.advance(days * DAY)
        self.now += days * DAY

    @invariant()
    def both_ledgers_say_the_same(self):
        for name, item in self.claims.items():
            assert self.ledger.reservation(name).state.value == item.state, name

    @invariant()
    def blocks_hold_what_their_claims_take(self):
        """P1, P2, P6."""
        view = self.ledger.account(self.account)
        assert {b.name for b in view.blocks} == set(self.added)
        for block in view.blocks:
            held, spent = block.reserved.as_dict["mu2"], block.charged.as_dict["mu2"]
            assert spent == self.charged(block.name)
            assert held + spent == self.used(block.name) <= CAPACITY
            assert block.unlocked.as_dict["mu2"] == self.open_room(block.name)

    def teardown(self):
        assert self.ledger.verify() == ()


TestSharing = SharingMachine.TestCase
TestSharing.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
