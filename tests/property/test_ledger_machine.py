"""The ledger against a deliberately naive one: whatever the order of commands, both come to the
same.

P1 never overspend, P2 conservation, P3 idempotency, P4 replay, P5 all or nothing, P16 no refund
after exposure, P18 stale fences. The naive ledger adds up steps of one mechanism in a plain list
and knows nothing of entries, charges or keys.

A second machine has a divided budget that is shared out: blocks, unlocking, quotas and a queue in
order of arrival, against lists and loops over them (P5, P6, P10).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
)
from ledger_shares import DAY, RULES, capacity, claim, cost, divided, queueing, quota, steps

from primum.adapters.memory import ManualClock, MemoryAnchor, MemoryLedgerStore
from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.events import Gaussian, Repeated
from primum.domain.accounting.policies import policy_named
from primum.domain.budget.entries import AccountTerms, ReserveRequest, ResultCode
from primum.domain.budget.rules import Rules, UnlockingRule
from primum.domain.quantities import Neighbors, PrivacyUnit

LEASE = 100.0
UNIT = Neighbors.ADD_OR_REMOVE_ONE
OPEN = ("Reserved", "Exposed")
EPSILONS = (Decimal("4"), Decimal("2"))


def event(steps):
    return Repeated(Gaussian(Decimal("12")), steps)


def room_of(epsilon):
    """How many steps fit, by counting one by one."""
    policy = policy_named("GDP")
    capacity, count = policy.capacity(Guarantee(epsilon, Decimal("1e-5"))), 0
    nothing = policy.charge(event(0), UNIT)
    while policy.admits(
        capacity=capacity, used=nothing, request=policy.charge(event(count + 1), UNIT)
    ):
        count += 1
    return count


ROOMS = {epsilon: room_of(epsilon) for epsilon in EPSILONS}


@dataclass
class Held:
    """A reservation as the naive ledger sees it."""

    account: str
    together: tuple
    steps: int
    state: str
    until: float
    spent: int = 0
    seen: tuple = ()


class LedgerMachine(RuleBasedStateMachine):
    """Two accounts, one mechanism, every command in any order, and a clock that may go back."""

    names = Bundle("names")

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.ledger = MemoryLedgerStore(clock=self.clock, anchor=MemoryAnchor())
        self.room, self.frozen, self.held = {}, set(), {}
        for epsilon in EPSILONS:
            account, _ = self.ledger.open_account(self.terms(epsilon), actor="s")
            self.room[account] = ROOMS[epsilon]
        self.accounts = list(self.room)
        self.clock_now = self.latest = 0.0
        self.count = 0
        self.past = []

    def terms(self, epsilon):
        return AccountTerms(
            dataset_uri=f"file:///{epsilon}",
            dataset_digest="",
            unit=PrivacyUnit.PATIENT,
            neighbors=UNIT,
            epsilon=epsilon,
            delta=Decimal("1e-5"),
            policy="GDP",
            units=100,
        )

    @property
    def now(self):
        return max(self.clock_now, self.latest)

    def told(self, result):
        """The ledger remembers the latest time at which it wrote or said that a lease ran out."""
        if result.code in (ResultCode.REPEATED, ResultCode.KEY_REUSED):
            return result
        if result.seq or result.code is ResultCode.LEASE_EXPIRED:
            self.latest = self.now
        return result

    def used(self, account):
        """Everything reserved and everything charged."""
        mine = [item for item in self.held.values() if item.account == account]
        return sum(item.steps if item.state in OPEN else item.spent for item in mine)

    def requests(self, names, *, more=0):
        return [
            ReserveRequest(
                name, item.account, "study", 1, "n/n", "p", "r", event(item.steps + more)
            )
            for name, item in ((name, self.held[name]) for name in names)
        ]

    @rule(
        target=names,
        steps=st.integers(0, 20),
        which=st.sampled_from([(0,), (1,), (0, 1), (1, 0)]),
    )
    def reserve(self, steps, which):
        self.count += 1
        accounts = [self.accounts[index] for index in which]
        together = tuple(f"r{self.count}-{index}" for index in which)
        fits = all(
            steps == 0 or self.used(account) + steps <= self.room[account] for account in accounts
        )
        state = "Reserved" if fits else "Denied"
        until = self.now + LEASE
        made = {
            name: Held(account, together, steps, state, until)
            for name, account in zip(together, accounts, strict=True)
        }
        self.held.update(made)
        result = self.told(
            self.ledger.reserve(self.requests(together), lease_seconds=LEASE, actor="a")
        )
        if self.frozen.intersection(accounts):
            assert result.code is ResultCode.FROZEN
            for name in together:
                del self.held[name]
            return multiple()
        assert result.code is (ResultCode.ACCEPTED if fits else ResultCode.OVER_BUDGET)
        return multiple(*together)

    @rule(name=names)
    def reserve_again(self, name):
        """P3: the same ids meet their earlier selves; with other content they are refused."""
        together = self.held[name].together
        before = self.ledger.head()
        result = self.ledger.reserve(self.requests(together), lease_seconds=LEASE, actor="b")
        denied = self.held[name].state == "Denied"
        assert result.code is (ResultCode.OVER_BUDGET if denied else ResultCode.REPEATED)
        changed = self.requests(together, more=1)
        refused = self.ledger.reserve(changed, lease_seconds=LEASE, actor="b")
        assert refused.code is ResultCode.KEY_REUSED
        assert self.ledger.head() == before

    def refusal(self, item, off):
        """Why the reservation may not be used now, in the order of the checks."""
        if off:
            return ResultCode.FENCE_STALE
        if item.state not in OPEN:
            return ResultCode.ALREADY_RESOLVED
        return ResultCode.LEASE_EXPIRED if item.until <= self.now else None

    @rule(name=names, access=st.sampled_from(["train", "audit"]), off=st.sampled_from([0, 0, 0, 1]))
    def expose(self, name, access, off):
        item = self.held[name]
        fence = self.ledger.reservation(name).fence + off
        wanted = self.refusal(item, off)
        result = self.told(self.ledger.expose(name, access=access, fence=fence, actor="a"))
        if item.account in self.frozen:
            assert result.code is ResultCode.FROZEN
        elif wanted is not None:
            assert result.code is wanted
        else:
            seen = access in item.seen
            assert result.code is (ResultCode.REPEATED if seen else ResultCode.ACCEPTED)
            item.state = "Exposed"
            item.seen += () if seen else (access,)

    @rule(name=names, off=st.sampled_from([0, 0, 0, 1]), seconds=st.sampled_from([1.0, 300.0]))
    def extend(self, name, off, seconds):
        item = self.held[name]
        fence = self.ledger.reservation(name).fence + off
        wanted = self.refusal(item, off)
        result = self.told(self.ledger.extend(name, fence=fence, lease_seconds=seconds, actor="a"))
        assert result.code is (wanted or ResultCode.ACCEPTED)
        if wanted is None:
            item.until = max(item.until, self.now + seconds)

    @rule(name=names, steps=st.integers(0, 22) | st.none())
    def charge(self, name, steps):
        item = self.held[name]
        executed = None if steps is None else event(steps)
        late = item.until <= self.now
        reason = f"settled with {steps}"  # So that another count is another command.
        result = self.told(self.ledger.charge(name, executed=executed, reason=reason, actor="a"))
        if item.state == "Charged":
            assert result.code in (
                ResultCode.REPEATED,
                ResultCode.KEY_REUSED,
                ResultCode.ALREADY_RESOLVED,
            )
        elif item.state not in OPEN:
            assert result.code is ResultCode.ALREADY_RESOLVED
        elif item.state == "Reserved":
            assert result.code is ResultCode.NOT_EXPOSED
        else:
            above = steps is not None and steps > item.steps
            code = ResultCode.CHARGE_ABOVE_RESERVATION if above else ResultCode.ACCEPTED
            assert result.code is code
            item.state = "Charged"
            item.spent = item.steps if steps is None or above or late else steps
            if above:
                self.frozen.add(item.account)

    @rule(name=names)
    def give_back(self, name):
        """P16: at most what was reserved, once, and never after exposure."""
        item = self.held[name]
        result = self.told(self.ledger.give_back(name, reason="withdrawn", actor="a"))
        if item.state == "Reserved":
            assert result.code is ResultCode.ACCEPTED
            item.state = "Returned"
        elif item.state == "Exposed":
            assert result.code is ResultCode.ALREADY_EXPOSED
        else:
            assert result.code in (ResultCode.REPEATED, ResultCode.ALREADY_RESOLVED)

    @rule()
    def expire(self):
        lapsed = {
            name
            for name, item in self.held.items()
            if item.state in OPEN and item.until <= self.now
        }
        assert set(self.ledger.expire(actor="loop")) == lapsed
        for name in lapsed:
            item = self.held[name]
            self.latest = self.now
            if item.state == "Exposed":
                item.state, item.spent = "Charged", item.steps
            else:
                item.state = "Returned"

    @rule(name=names, access=st.sampled_from(["train", "audit"]), steps=st.integers(0, 20))
    def run(self, name, access, steps):
        """The usual way of a reservation, often enough to matter."""
        self.expose(name, access, 0)
        self.charge(name, steps)

    @rule(name=names)
    def run_and_be_late(self, name):
        self.expose(name, "train", 0)
        self.tick(LEASE)
        self.charge(name, 1)

    @precondition(lambda self: len(self.held) > 2 and self.count % 3 == 0)
    @rule(index=st.integers(0, 1), frozen=st.sampled_from([True, False, False]))
    def freeze_or_thaw(self, index, frozen):
        self.count += 1
        account, key = self.accounts[index], f"k{self.count}"
        change = self.ledger.freeze if frozen else self.ledger.thaw
        self.told(change(account, reason="r", key=key, actor="s"))
        (self.frozen.add if frozen else self.frozen.discard)(account)

    @precondition(lambda self: self.held)
    @rule(seconds=st.sampled_from([1.0, 5.0, 60.0, 100.0, -500.0]))
    def tick(self, seconds):
        self.clock.advance(seconds)
        self.clock_now += seconds

    @invariant()
    def both_ledgers_say_the_same(self):
        for name, item in self.held.items():
            assert self.ledger.reservation(name).state.value == item.state

    @invariant()
    def nothing_is_overspent(self):
        """P1, and P2: reserved and charged are the sums of what the reservations hold and spent."""
        for account in self.accounts:
            assert self.used(account) <= self.room[account]
            view = self.ledger.account(account)
            held = self.ledger.reservations(account_id=account)
            reserved = sum(r.charge.as_dict["mu2"] for r in held if r.state.value in OPEN)
            charged = sum(r.charged.as_dict["mu2"] for r in held if r.charged is not None)
            assert view.blocks[0].reserved.as_dict == {"mu2": reserved}
            assert view.blocks[0].charged.as_dict == {"mu2": charged}
            assert reserved + charged <= view.capacity.as_dict["mu2"]
            assert bool(view.frozen) == (account in self.frozen)

    @invariant()
    def nothing_written_ever_changes(self):
        entries = list(self.ledger.entries(limit=10_000))
        assert entries[: len(self.past)] == self.past
        self.past = entries

    def teardown(self):
        """P4: the entries alone give the same balances and states."""
        assert self.ledger.verify() == ()


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)

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
        self.unlocked = dict.fromkeys(self.added, 0)
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
                more = self.unlocked[block] + min(SHARE, claim.units)
                self.unlocked[block] = max(self.unlocked[block], min(CAPACITY, more))

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
        self.added[name], self.unlocked[name] = self.now, 0

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
        before = dict(self.unlocked)
        self.unlock_by_time(blocks)
        self.unlock_by_claim(wanted)
        missing = self.lacks(wanted)
        if self.waits:
            if self.hopeless(wanted) or missing == "quota":
                self.unlocked = before
            else:
                wanted.state, wanted.until = "Queued", self.now + 7 * DAY
        elif not missing:
            wanted.state = "Reserved"
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
TestSharing.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
