"""Programs of ledger commands that die at any write, and an auditor who only believes entries.

The auditor folds the entries by himself, with plain integers and the filters' rules spelled out, so
that he shares no arithmetic with the ledger.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from decimal import Decimal

from hypothesis import strategies as st
from ledger_crashes import Crash, CrashingRows
from ledger_games import groups_of
from ledger_shares import DAY, LAYOUT, RULES, SITES, queueing, quota, steps
from ledger_words import request, terms

from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.policies import policy_from_json
from primum.domain.budget.book import LIVE_STATES
from primum.domain.budget.rules import Rules, SchedulerName, UnlockingRule

EPSILON = Decimal(3)
LEASE = 100.0
SHARINGS = (
    Rules(),
    Rules(quotas=(quota("Requester", 30), quota("Group", 20, "g"))),
    *(Rules(unlocking=RULES[rule]) for rule in UnlockingRule),
    *(
        Rules(unlocking=RULES[rule], scheduling=queueing(scheduler, days=1), quotas=quotas)
        for rule, scheduler, quotas in (
            (UnlockingRule.IMMEDIATE, SchedulerName.FCFS, ()),
            (UnlockingRule.HYBRID, SchedulerName.DPF, (quota("Purpose", 25),)),
            (UnlockingRule.PER_CLAIM, SchedulerName.DPACK, ()),
            (UnlockingRule.ROUNDS, SchedulerName.DUAL_PRICES, ()),
        )
    ),
)

_which = st.integers(0, 7)
_times = st.sampled_from([1.0, 50.0, LEASE, DAY / 2, DAY, 30 * DAY, -DAY])
_accounts = st.sampled_from([("w",), ("s",), ("s", "w")])
_blocks = st.sampled_from([(), ("north",), ("south",), ("north", "south")])
_who, _counts, _one = st.integers(0, 3), st.integers(0, 40), st.sampled_from(["s", "w"])
_OFTEN = (
    st.tuples(st.just("reserve"), _who, _accounts, _blocks, _counts),
    st.tuples(st.just("use"), _who, _accounts, _blocks, _counts, st.none() | _counts),
    st.tuples(st.just("expose"), _which, st.sampled_from(["train", "audit"])),
    st.tuples(st.just("charge"), _which, st.none() | st.integers(0, 45)),
    st.tuples(st.just("give_back"), _which),
    st.tuples(st.just("schedule")),
    st.tuples(st.just("tick"), _times),
    st.tuples(st.just("sweep"), st.sampled_from([0.0, LEASE, DAY])),
)
_SELDOM = (
    st.tuples(st.just("configure"), _one, st.sampled_from(SHARINGS)),
    st.tuples(st.just("divide"), st.sampled_from(SITES)),
    st.tuples(st.just("freeze"), _one),
    st.tuples(st.just("thaw"), _one),
    st.tuples(st.just("lower"), st.sampled_from(["2.9", "2", "1"])),
)
_commands = st.integers(0, 9).flatmap(lambda n: st.one_of(*(_SELDOM if n == 9 else _OFTEN)))
_deaths = st.sampled_from([0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 8, 11])
programs = st.tuples(
    st.sampled_from(SHARINGS),
    st.lists(st.tuples(_commands, _deaths), min_size=20, max_size=45),
)
policies = st.sampled_from(["GDP", "RDP", "Mixture", "Basic"])


class Runner:
    """A ledger with a divided account (s) and one that is not (w), and a program on it.

    Args:
        ledger: Empty.
        clock: The one it goes by.
        policy: Name of its accounts' accounting policy.
        sharing: The rules that both accounts begin with.
    """

    def __init__(self, ledger, clock, policy, sharing):
        self.ledger, self.clock = ledger, clock
        self.accounts, self._terms = {}, {}
        for name, layout in (("s", LAYOUT), ("w", "")):
            self._terms[name] = terms(
                dataset_uri=f"file:///{name}",
                dataset_digest="",
                epsilon=EPSILON,
                policy=policy,
                layout=layout,
            )
            self.accounts[name], _ = ledger.open_account(self._terms[name], actor="s")
            ledger.configure(self.accounts[name], sharing, key="first", actor="s")
        ledger.divide(self.accounts["s"], ("north", "south"), actor="s")
        self.names, self.done, self.count = [], [], 0

    def run(self, commands, after=lambda: None):
        """Every command, dying where it is told to; what was written is what counts."""
        for command, death in commands:
            self.count += 1
            whole = self.ledger._rows
            self.ledger._rows = CrashingRows(whole, death)
            try:
                self._run(*command)
            except Crash:
                pass
            finally:
                self.ledger._rows = whole
            after()

    def _run(self, verb, *arguments):
        getattr(self, f"_{verb}")(*arguments)

    def _told(self, again, result):
        """Remember a command that was answered, to give it once more."""
        if result.seq:
            self.done.append((again, result))

    def _reserve(self, study, accounts, blocks, count):
        name = f"r{self.count}"
        asked = [
            request(
                self.accounts[account],
                f"{name}-{account}",
                steps(count),
                blocks=blocks if account == "s" else (),
                study_uid=f"study-{name}",
                study=f"ns/{study}",
                requester=f"user:{study % 2}",
                purpose=f"purpose-{study % 3}",
                group="g" if study else "",
            )
            for account in accounts
        ]
        self.names.extend(one.reservation_id for one in asked)

        def again():
            return self.ledger.reserve(asked, lease_seconds=LEASE, actor="a")

        self._told(again, again())

    def _use(self, study, accounts, blocks, count, executed):
        """The usual way of a Study."""
        self._reserve(study, accounts, blocks, count)
        self._schedule()
        for which in range(len(accounts)):
            self._expose(7 - which, "train")
            self._charge(7 - which, executed)

    def _chosen(self, which):
        """One of the latest reservations; mostly one that may still change."""
        held = [self.ledger.reservation(name) for name in self.names[-8:]]
        found = [item for item in held if item is not None]
        live = [item for item in found if item.state in LIVE_STATES]
        some = live if live and which % 4 else found
        return some[which * len(some) // 8].reservation_id if some else None

    def _expose(self, which, access):
        name = self._chosen(which)
        if name is not None:
            fence = self.ledger.reservation(name).fence

            def again():
                return self.ledger.expose(name, access=access, fence=fence, actor="a")

            self._told(again, again())

    def _charge(self, which, count):
        name = self._chosen(which)
        if name is not None:
            executed = None if count is None else steps(count)

            def again():
                return self.ledger.charge(name, executed=executed, reason="settled", actor="a")

            self._told(again, again())

    def _give_back(self, which):
        name = self._chosen(which)
        if name is not None:

            def again():
                return self.ledger.give_back(name, reason="withdrawn", actor="a")

            self._told(again, again())

    def _schedule(self):
        self.ledger.schedule(lease_seconds=LEASE, actor="loop")

    def _sweep(self, seconds):
        self.clock.advance(seconds)
        self.ledger.expire(actor="loop")

    def _tick(self, seconds):
        self.clock.advance(seconds)

    def _configure(self, account, sharing):
        key = f"k{self.count}"
        self.ledger.configure(self.accounts[account], sharing, key=key, actor="s")

    def _divide(self, name):
        self.ledger.divide(self.accounts["s"], [name], actor="s")

    def _freeze(self, account):
        self._told_of(self.ledger.freeze, account)

    def _thaw(self, account):
        self._told_of(self.ledger.thaw, account)

    def _told_of(self, change, account):
        key, account_id = f"k{self.count}", self.accounts[account]

        def again():
            return change(account_id, reason="x", key=key, actor="s")

        self._told(again, again())

    def _lower(self, epsilon):
        changed = replace(self._terms["w"], epsilon=Decimal(epsilon))
        self.ledger.open_account(changed, actor="s")


@dataclass
class Pot:
    """What the auditor knows of one block, by key."""

    unlocked: dict = field(default_factory=dict)
    reserved: dict = field(default_factory=dict)
    charged: dict = field(default_factory=dict)


class Auditor:
    """Follows entries one by one, and objects where the ledger gave what was not there."""

    def __init__(self):
        self.capacity, self.names, self.rules, self.pots = {}, {}, {}, {}
        self.policies, self.asked, self.moved = {}, {}, {}

    def follow(self, entry):
        """One more entry."""
        act = getattr(self, f"_{entry.kind.value.lower()}", None)
        if act is not None:
            act(entry)
        for pot in self.pots.values():
            for amounts in (pot.reserved, pot.charged, pot.unlocked):
                assert all(amount >= 0 for amount in amounts.values())

    def _opened(self, entry):
        account, asked = entry.account_id, entry.payload["asked"]
        policy = policy_from_json(json.loads(json.dumps(entry.payload["policy"])))
        self.policies[account], self.rules[account] = policy, "Immediate"
        self._promise(account, asked)
        if "layout" not in asked:
            self.pots[account, "whole"] = Pot()

    def _promise(self, account, asked):
        guarantee = Guarantee(Decimal(asked["epsilon"]), Decimal(asked["delta"]))
        self.capacity[account] = self.policies[account].capacity(guarantee).as_dict

    def _lowered(self, entry):
        before = self.capacity[entry.account_id]
        self._promise(entry.account_id, entry.payload["asked"])
        assert all(most <= before[key] for key, most in self.capacity[entry.account_id].items())

    def _divided(self, entry):
        for name in entry.payload["asked"]["blocks"]:
            assert (entry.account_id, name) not in self.pots
            self.pots[entry.account_id, name] = Pot()

    def _configured(self, entry):
        rule = entry.payload["asked"]["rules"]["unlocking"]["rule"]
        self.rules[entry.account_id] = rule

    def _unlocked(self, entry):
        """P6: only ever more, and no more than there is."""
        for row in entry.payload["unlocked"]:
            more = {key: int(amount) for key, amount in row["amounts"].items()}
            assert all(amount >= 0 for amount in more.values())
            for name in row["blocks"]:
                pot = self.pots[entry.account_id, name]
                for key, amount in more.items():
                    before = pot.unlocked.get(key, 0)
                    pot.unlocked[key] = before + amount
                    most = max(0, self.capacity[entry.account_id][key], before)
                    assert pot.unlocked[key] <= most

    def _queued(self, entry):
        assert entry.reservation_id not in self.asked
        self.asked[entry.reservation_id] = entry.account_id, self._demand(entry)

    def _denied(self, entry):
        self.moved.setdefault(entry.reservation_id, []).append("Denied")

    def _demand(self, entry):
        charge = {key: int(amount) for key, amount in entry.payload["charge"].items()}
        return entry.payload.get("blocks", ["whole"]), charge

    def _reserved(self, entry):
        """P1: what is granted fits, on top of everything reserved and charged, in every block."""
        name, account = entry.reservation_id, entry.account_id
        waited = self.asked.get(name)
        blocks, charge = waited[1] if waited else self._demand(entry)
        self.asked[name] = account, (blocks, charge)
        assert blocks
        for block in blocks:
            pot = self.pots[account, block]
            if any(charge.values()):
                self._check_room(account, pot, charge)
            _add(pot.reserved, charge)
        self.moved.setdefault(name, []).append("Reserved")

    def _check_room(self, account, pot, charge):
        total = {k: pot.reserved.get(k, 0) + pot.charged.get(k, 0) + charge[k] for k in charge}
        capacity = self.capacity[account]
        room = capacity
        if self.rules[account] != "Immediate":
            room = {key: min(capacity[key], pot.unlocked.get(key, 0)) for key in capacity}
        keys = sorted(capacity)
        groups = groups_of(self.policies[account].name, keys)
        for most in (capacity, room):
            fits = [all(total[keys[at]] <= most[keys[at]] for at in group) for group in groups]
            assert any(fits), (account, total, most)

    def _exposed(self, entry):
        self.moved[entry.reservation_id].append("Exposed")

    def _charged(self, entry):
        """P16: at most what was reserved, once, and only of what was exposed."""
        self._settled(entry, "Charged")
        assert "Exposed" in self.moved[entry.reservation_id]
        account, (blocks, charge) = self.asked[entry.reservation_id]
        spent = {key: int(amount) for key, amount in entry.payload["charged"].items()}
        assert all(spent[key] <= charge[key] for key in charge)
        for block in blocks:
            _add(self.pots[account, block].charged, spent)

    def _returned(self, entry):
        """P16: what was exposed never comes back."""
        self._settled(entry, "Returned")
        assert "Exposed" not in self.moved[entry.reservation_id]

    def _settled(self, entry, how):
        history = self.moved[entry.reservation_id]
        assert history[0] == "Reserved"
        assert not {"Charged", "Returned"} & set(history)
        history.append(how)
        account, (blocks, charge) = self.asked[entry.reservation_id]
        assert account == entry.account_id
        for block in blocks:
            _add(self.pots[account, block].reserved, {k: -v for k, v in charge.items()})

    def agrees(self, view):
        """P2: what an account shows is what its entries come to, and nothing is anywhere else."""
        mine = {
            block: pot for (account, block), pot in self.pots.items() if account == view.account_id
        }
        assert {b.name for b in view.blocks} == set(mine)
        for shown in view.blocks:
            pot = mine[shown.name]
            for found, wanted in ((shown.reserved, pot.reserved), (shown.charged, pot.charged)):
                assert {k: v for k, v in found.amounts if v} == {
                    k: v for k, v in wanted.items() if v
                }


def _add(pot, charge):
    for key, amount in charge.items():
        pot[key] = pot.get(key, 0) + amount
