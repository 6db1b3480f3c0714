"""What of a block's budget becomes available, and when: the drafts that an unlock comes to.

The arithmetic is the scheduling core's; this applies it to accounts. It must not take anything
back, must not pass the capacity, and needs numpy, so it is imported where it is needed.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING

from primum.domain.accounting.charges import Charge
from primum.domain.budget import book as books
from primum.domain.budget.book import Account, Draft, Holding
from primum.domain.budget.decisions import later
from primum.domain.budget.entries import EntryKind
from primum.domain.budget.folding import with_unlocks
from primum.domain.budget.rules import Unlocking, UnlockingRule
from primum.domain.canonical import JSON

if TYPE_CHECKING:
    from primum.domain.scheduling import blocks as rules

_DAY_SECONDS = 86400
# A lifetime is unlocked in so many steps: each is a ledger entry, and a hundredth is fine enough to
# wait for.
STEPS = 100
_BY_CLAIMS = (UnlockingRule.PER_CLAIM, UnlockingRule.HYBRID)
_BY_TIME = (UnlockingRule.PER_TIME, UnlockingRule.ROUNDS, UnlockingRule.HYBRID)


def on_arrival(
    account: Account, blocks: Sequence[str], charge: Charge, *, key: str
) -> Draft | None:
    """What a claim unlocks by coming: a fair share of each block, and no more than it asks for.

    Args:
        account: The account.
        blocks: Blocks that the claim asks for.
        charge: What it asks of each.
        key: Idempotency key of the claim's own entry.

    Returns:
        The unlock, or ``None`` where nothing becomes available.
    """
    unlocking = account.sharing.unlocking
    if unlocking.rule not in _BY_CLAIMS or charge.is_zero:
        return None
    from primum.domain.scheduling.blocks import Hardening, PerClaim

    rule = PerClaim(unlocking.claims, Hardening.DEMAND)
    grown = {}
    # Blocks often hold the same, and looking it up costs a hundredth.
    known: dict[tuple[Charge, Charge], tuple[Charge, Charge]] = {}
    for name in blocks:
        holding = account.blocks[name]
        state = holding.arrived, holding.unlocked
        if state not in known:
            arrived = _row(rule, account, holding.arrived, charge)
            known[state] = _up_to(account, holding, holding.arrived + arrived), arrived
        grown[name] = known[state]
    return _draft(account, grown, f"{key}/unlock", f"{unlocking.rule.value}: a claim arrived")


def _row(rule: rules.PerClaim, account: Account, unlocked: Charge, demand: Charge) -> Charge:
    import numpy as np

    rows = [
        np.array([[amount for _, amount in charge.amounts]], dtype=np.int64)
        for charge in (account.capacity, unlocked, demand)
    ]
    more = rule.on_claim(*rows)[0].tolist()
    return Charge(tuple(zip((key for key, _ in unlocked.amounts), more, strict=True)))


def _up_to(account: Account, holding: Holding, target: Charge) -> Charge:
    """What is missing of a target, within the capacity."""
    rows = zip(account.capacity.amounts, holding.unlocked.amounts, target.amounts, strict=True)
    return Charge(
        tuple([(key, max(0, min(aim, most) - held)) for (key, most), (_, held), (_, aim) in rows])
    )


def due(account: Account, blocks: Sequence[str], *, now: str) -> Account:
    """The account as it will be once somebody writes what time has unlocked."""
    return _once_written(account, by_time(account, now=now, blocks=blocks, key="due"))


def on_request(
    account: Account, blocks: Sequence[str], charge: Charge, *, key: str, now: str
) -> tuple[Account, tuple[Draft, ...]]:
    """What a request finds available: what time has unlocked so far, and what it unlocks itself.

    Args:
        account: The account.
        blocks: Blocks that the request asks for.
        charge: What it asks of each.
        key: Idempotency key of the request's own entry.
        now: The ledger's time.

    Returns:
        The account as it will be, and the unlocks to write; none for a charge of nothing.
    """
    if charge.is_zero:
        return account, ()
    by_then = by_time(account, now=now, blocks=blocks, key=f"{key}/time")
    account = _once_written(account, by_then)
    own = on_arrival(account, blocks, charge, key=key)
    account = _once_written(account, own)
    return account, tuple(draft for draft in (by_then, own) if draft is not None)


def by_time(
    account: Account, *, now: str, blocks: Sequence[str] = (), key: str = ""
) -> Draft | None:
    """What has become available because blocks got older, or ``None``.

    Args:
        account: The account.
        now: The ledger's time.
        blocks: Which blocks are looked at; empty for all.
        key: Idempotency key; empty for one of its own.
    """
    unlocking = account.sharing.unlocking
    if unlocking.rule not in _BY_TIME:
        return None
    grown, steps = {}, 0
    ages: dict[str, int] = {}
    known: dict[tuple[Charge, int], Charge] = {}
    for name in blocks or account.blocks:
        holding = account.blocks[name]
        if holding.added not in ages:
            ages[holding.added] = _steps(unlocking, holding.added, now)
        age = ages[holding.added]
        state = holding.unlocked, age
        if state not in known:
            known[state] = _of_time(unlocking, account, *state)
        more = known[state]
        if not more.is_zero:
            steps = max(steps, age)
            grown[name] = more, more.emptied
    # The key names what the unlock comes to, so that two controllers cannot unlock the same twice.
    return _draft(
        account,
        grown,
        key or f"unlock/{account.entries}",
        f"{unlocking.rule.value}: step {steps} was reached",
    )


def _of_time(unlocking: Unlocking, account: Account, unlocked: Charge, age: int) -> Charge:
    import numpy as np

    rows = [
        np.array([[amount for _, amount in charge.amounts]], dtype=np.int64)
        for charge in (account.capacity, unlocked)
    ]
    capacity, available = rows
    more = _time_rule(unlocking).on_time(capacity, available, age)[0].tolist()
    return Charge(tuple(zip((key for key, _ in unlocked.amounts), more, strict=True)))


def _time_rule(unlocking: Unlocking) -> rules.PerTime | rules.Rounds:
    from primum.domain.scheduling.blocks import PerTime, Rounds

    if unlocking.rule is UnlockingRule.ROUNDS:
        return Rounds(unlocking.rounds, unlocking.slack)
    return PerTime(STEPS)


def _steps(unlocking: Unlocking, added: str, now: str) -> int:
    """How many steps a block is old; a clock that went back takes nothing back."""
    age = datetime.datetime.fromisoformat(now) - datetime.datetime.fromisoformat(added)
    seconds = Decimal(age // datetime.timedelta(microseconds=1)) / 10**6
    steps = seconds / _step_seconds(unlocking)
    return max(0, min(int(steps.to_integral_value(ROUND_FLOOR)), _steps_in_all(unlocking)))


def _step_seconds(unlocking: Unlocking) -> Decimal:
    days = unlocking.days if unlocking.rule is UnlockingRule.ROUNDS else unlocking.days / STEPS
    return days * _DAY_SECONDS


def _steps_in_all(unlocking: Unlocking) -> int:
    return unlocking.rounds if unlocking.rule is UnlockingRule.ROUNDS else STEPS


def unlock_time(account: Account, block: str, charge: Charge, *, now: str) -> str:
    """When enough of a block is unlocked for a charge, if nobody else takes it.

    Args:
        account: The account.
        block: The block.
        charge: What is asked for.
        now: The ledger's time.

    Returns:
        A time (RFC 3339), or what has to happen; the time asked at where it is enough already.
    """
    holding, unlocking = account.blocks[block], account.sharing.unlocking
    if _fits(account, account.available(holding), holding, charge):
        return now
    if unlocking.rule not in _BY_TIME:
        return "when further claims arrive"
    low, high = _steps(unlocking, holding.added, now), _steps_in_all(unlocking)
    if not _fits(account, _at_step(account, holding, high), holding, charge):
        return "not while others hold what they have"
    while low < high:
        middle = (low + high) // 2
        if _fits(account, _at_step(account, holding, middle), holding, charge):
            high = middle
        else:
            low = middle + 1
    return _reached(holding.added, high * _step_seconds(unlocking))


def _reached(added: str, seconds: Decimal) -> str:
    """The first time, in whole microseconds, at which a block is so old."""
    microseconds = int((seconds * 10**6).to_integral_value(ROUND_CEILING))
    moment = datetime.datetime.fromisoformat(added) + datetime.timedelta(microseconds=microseconds)
    return later(moment.isoformat(), 0)


def _at_step(account: Account, holding: Holding, step: int) -> Charge:
    more = _of_time(account.sharing.unlocking, account, holding.unlocked, step)
    return account.available(replace(holding, unlocked=holding.unlocked + more))


def _fits(account: Account, room: Charge, holding: Holding, charge: Charge) -> bool:
    return account.filter.admits(capacity=room, used=holding.used, request=charge)


def _draft(
    account: Account, grown: Mapping[str, tuple[Charge, Charge]], key: str, cause: str
) -> Draft | None:
    """One entry for all blocks; those that grow alike are named together."""
    alike: dict[tuple[Charge, Charge], list[str]] = {}
    for name, (more, arrived) in grown.items():
        if not (more.is_zero and arrived.is_zero):
            alike.setdefault((more, arrived), []).append(name)
    if not alike:
        return None
    rows: list[JSON] = [
        {
            "blocks": sorted(names),
            "amounts": books.charge_json(more),
            "arrived": books.charge_json(arrived),
        }
        for (more, arrived), names in sorted(alike.items(), key=lambda item: min(item[1]))
    ]
    payload: dict[str, JSON] = {"asked": {"cause": cause}, "unlocked": rows}
    return Draft(account.account_id, EntryKind.UNLOCKED, "", key, payload)


def _once_written(account: Account, draft: Draft | None) -> Account:
    """The account as it will be after an unlock that is about to be written."""
    if draft is None:
        return account
    return with_unlocks(account, draft.payload["unlocked"], source="A request")
