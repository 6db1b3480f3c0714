"""The ledger against a deliberately naive one: whatever the order of commands, both come to the
same.

P1 never overspend, P2 conservation, P3 idempotency, P4 replay, P5 all or nothing, P16 no refund
after exposure, P18 stale fences. The naive ledger adds up steps of one mechanism in a plain list
and knows nothing of entries, charges or keys.

``test_ledger_sharing`` does the same for blocks, unlocking, quotas and the queue.
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

from primum.adapters.memory import ManualClock, MemoryAnchor, MemoryLedgerStore
from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.events import Gaussian, Repeated
from primum.domain.accounting.policies import policy_named
from primum.domain.budget.entries import AccountTerms, ReserveRequest, ResultCode
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
