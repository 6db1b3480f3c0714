"""How often something still fits an account's privacy filter, and how much is missing.

Whole numbers only; nothing here grants anything.
"""

from __future__ import annotations

from decimal import Decimal

from primum.domain.accounting.charges import Charge, decimal_of_units
from primum.domain.budget.book import Account
from primum.domain.canonical import decimal_text
from primum.domain.quantities import round_up

TIMES_MAX = 1000  # Beyond it people read "plenty".
_SHOWN_PLACES = 6  # Digits of an amount in a message.


def times(charge: Charge, count: int) -> Charge:
    """The charge of the same reservation, ``count`` times."""
    return Charge(tuple((key, amount * count) for key, amount in charge.amounts))


def times_that_fit(account: Account, one: Charge, *, used: Charge) -> int:
    """How many more reservations of a charge fit what is left of a block, up to 1000.

    Args:
        account: The account.
        one: What one reservation takes.
        used: What the block holds already, open reservations counted.

    Returns:
        The count; 1000 for a charge of zero. Found by bisection over exact multiples: admission is
        monotone.
    """
    if one.is_zero:
        return TIMES_MAX
    policy, capacity = account.filter, account.capacity
    low, high = 0, TIMES_MAX
    while low < high:
        middle = (low + high + 1) // 2
        if policy.admits(capacity=capacity, used=used, request=times(one, middle)):
            low = middle
        else:
            high = middle - 1
    return low


def shortfall(
    account: Account, *, used: Charge, request: Charge, room: Charge | None = None
) -> str:
    """What is missing, for people: in epsilon first, then where the request comes closest.

    Args:
        account: The account.
        used: Reserved and charged before the request.
        request: What does not fit.
        room: What of the capacity is unlocked, where that is what is missing.

    Returns:
        One sentence with the account's policy, what is left, what the plan would take it to, and
        the least gap.
    """
    policy, guarantee = account.filter, account.guarantee
    total = policy.spent_epsilon(used=used + request, guarantee=guarantee)
    missing = _gap(account.capacity if room is None else room, used + request)
    if room is not None:
        return (
            f"{policy.name} has room for it (epsilon {decimal_text(total)} of "
            f"{decimal_text(guarantee.epsilon)}), but not enough is unlocked yet (short by "
            f"{missing})."
        )
    spent = policy.spent_epsilon(used=used, guarantee=guarantee)
    left = max(guarantee.epsilon - spent, Decimal(0))
    return (
        f"{policy.name} has epsilon {decimal_text(left)} left of {decimal_text(guarantee.epsilon)} "
        f"at delta {decimal_text(guarantee.delta)}; with this plan it would stand at "
        f"{decimal_text(total)} "
        f"(short by {missing})."
    )


def quota_shortfall(
    account: Account, *, scope: str, epsilon: Decimal, used: Charge, request: Charge
) -> str:
    """What is missing of a quota, for people."""
    spent_of = account.filter.spent_epsilon
    before = spent_of(used=used, guarantee=account.guarantee)
    after = spent_of(used=used + request, guarantee=account.guarantee)
    return (
        f"the quota of {scope} is epsilon {decimal_text(epsilon)}; it stands at "
        f"{decimal_text(before)}, and with this plan at {decimal_text(after)}."
    )


def _gap(capacity: Charge, wanted: Charge) -> str:
    """The least amount that is missing at a key, and which."""
    room, total = capacity.as_dict, wanted.as_dict
    gaps = [(total[name] - max(room[name], 0), name) for name in room]
    gap, key = min((gap, name) for gap, name in gaps if gap > 0)
    named = f"order {key}" if key[0].isdigit() else key
    return f"{decimal_text(round_up(decimal_of_units(gap), _SHOWN_PLACES))} at {named}"
