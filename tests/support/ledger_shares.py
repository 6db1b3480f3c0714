"""A ledger whose room is shared out: divided data, rules, claims that wait, and plans that are
counted in steps of one Gaussian mechanism.
"""

from __future__ import annotations

from decimal import Decimal

from ledger_words import request, terms

from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.events import Gaussian, Repeated
from primum.domain.accounting.policies import policy_named
from primum.domain.budget.layout import BlockLayout, Division
from primum.domain.budget.rules import (
    Quota,
    QuotaScope,
    Rules,
    SchedulerName,
    Scheduling,
    Unlocking,
    UnlockingRule,
)
from primum.domain.canonical import canonical_json
from primum.domain.quantities import Neighbors

DAY = 86400.0
SITES = ("north", "south", "west")
LAYOUT = canonical_json(BlockLayout(Division.SITE, "site", values=SITES).fixed).decode()
RULES = {
    UnlockingRule.IMMEDIATE: Unlocking(),
    UnlockingRule.PER_CLAIM: Unlocking(UnlockingRule.PER_CLAIM, claims=4),
    UnlockingRule.PER_TIME: Unlocking(UnlockingRule.PER_TIME, days=Decimal(100)),
    UnlockingRule.ROUNDS: Unlocking(
        UnlockingRule.ROUNDS, days=Decimal(1), rounds=4, slack=Decimal("0.5")
    ),
    UnlockingRule.HYBRID: Unlocking(UnlockingRule.HYBRID, claims=4, days=Decimal(100)),
}


def steps(count):
    """A plan of so many steps; each costs 1/144 of squared mu."""
    return Repeated(Gaussian(Decimal(12)), count)


def cost(count):
    """What the ledger counts for a plan, in units of 1e-12 of squared mu."""
    charge = policy_named("GDP").charge(steps(count), Neighbors.ADD_OR_REMOVE_ONE)
    return charge.as_dict["mu2"]


def capacity(epsilon="8.0"):
    """What a budget of that epsilon has room for, in the same units."""
    guarantee = Guarantee(Decimal(epsilon), terms().delta)
    return policy_named("GDP").capacity(guarantee).as_dict["mu2"]


def room(epsilon="8.0", part=1):
    """How many steps fit into a part of a budget."""
    return int(capacity(epsilon) * part) // cost(1)


ALL = room()


def opened(ledger, **changes):
    """An account that counts squared mu."""
    account, result = ledger.open_account(terms(policy="GDP", **changes), actor="steward:grace")
    assert result.stands
    return account


def divided(ledger, sites=SITES, **changes):
    """An account of a dataset that is divided by site."""
    account = opened(ledger, layout=LAYOUT, **changes)
    assert ledger.divide(account, sites, actor="steward:grace").stands
    return account


def configure(ledger, account, key="k", **parts):
    """Share an account's room out by other rules."""
    return ledger.configure(account, Rules(**parts), key=key, actor="steward:grace")


def queueing(scheduler=SchedulerName.FCFS, *, days=7):
    """Claims wait so many days at most."""
    return Scheduling(scheduler, wait_days=Decimal(days))


def quota(per, steps_most, name=""):
    """A quota of about so many steps: the least epsilon whose room holds them, rounded up."""
    return Quota(QuotaScope(per), epsilon_of(steps_most), name)


def epsilon_of(count):
    """The epsilon that so many steps are counted as."""
    policy = policy_named("GDP")
    used = policy.charge(steps(count), Neighbors.ADD_OR_REMOVE_ONE)
    return policy.spent_epsilon(used=used, guarantee=Guarantee(Decimal("8.0"), terms().delta))


def claim(account, name, count, **changes):
    """A request of a Study of its own for so many steps."""
    own = {"study_uid": f"study-{name}", "study": f"oncology/{name}"}
    return request(account, name, steps(count), **{**own, **changes})


def block(ledger, account, name="whole"):
    """A block as people see it."""
    return next(b for b in ledger.account(account).blocks if b.name == name)


def held(ledger, account, name="whole"):
    """What a block has reserved and charged, in units."""
    view = block(ledger, account, name)
    return view.reserved.as_dict["mu2"], view.charged.as_dict["mu2"]


def unlocked(ledger, account, name="whole"):
    """What of a block has become available, in units."""
    return block(ledger, account, name).unlocked.as_dict["mu2"]


def states(ledger, *names):
    """Where reservations stand."""
    return [ledger.reservation(name).state.value for name in names]


def scheduled(ledger, lease_seconds=60.0):
    """Run one scheduling round."""
    return ledger.schedule(lease_seconds=lease_seconds, actor="loop")
