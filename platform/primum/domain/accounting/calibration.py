"""The least noise, or the most steps, that stays inside a guarantee; never outside it.

The answer is rounded to the safe side and then accounted again, so what is stored is what was
checked. Nothing here may trust an interpolation: every answer was seen to hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal

from primum.domain.accounting.accountant import Accountant, Guarantee
from primum.domain.accounting.events import Event
from primum.domain.errors import InvalidValue
from primum.domain.quantities import Neighbors

NOISE_PLACES = 4  # Noise multipliers are multiples of 1e-4, rounded up.
NOISE_LEAST = 100  # 0.01 in those units; less noise is no protection worth the name.
NOISE_MOST = 10**9  # 1e5 in those units.
STEPS_MOST = 10**9
EVALUATIONS_MAX = 200  # A bisection over the whole range needs 35.


def least_noise_multiplier(
    *,
    accountant: Accountant,
    event_at: Callable[[Decimal], Event],
    target: Guarantee,
    neighbors: Neighbors,
) -> Decimal:
    """The least noise multiplier, in steps of 1e-4, whose event meets the target.

    Guarantees:
        ``accountant.epsilon(event_at(result), target.delta, neighbors) <= target.epsilon``,
        evaluated at the very result; 1e-4 less noise was evaluated too and misses the target (or is
        below 0.01).

    Args:
        accountant: What computes epsilon.
        event_at: The plan at a noise multiplier; epsilon must not grow with more noise.
        target: What must be met.
        neighbors: The neighboring relation.

    Returns:
        A noise multiplier from 0.01 to 100000.

    Raises:
        InvalidValue: If even the most noise misses the target.
        UnsupportedEvent: If the accountant cannot vouch for the plan.
    """

    def excess(steps: int) -> float:
        noise = Decimal(steps).scaleb(-NOISE_PLACES)
        epsilon = accountant.epsilon(event_at(noise), target.delta, neighbors)
        return _log_ratio(epsilon, target.epsilon)

    start = 10**NOISE_PLACES
    low, high = _bracket(excess, start)
    if high is None:
        raise InvalidValue(
            "epsilon",
            f"must be reachable with a noise multiplier up to {NOISE_MOST // 10**NOISE_PLACES}",
            target.epsilon,
            "Take fewer steps, a lower sampling rate, or a larger epsilon.",
        )
    if low is None:
        return Decimal(NOISE_LEAST).scaleb(-NOISE_PLACES)
    least = _search(excess, low, high)
    return Decimal(least).scaleb(-NOISE_PLACES)


_Point = tuple[int, float]  # A number of 1e-4 steps, and log(epsilon / target) there.


def _log_ratio(epsilon: Decimal, target: Decimal) -> float:
    """The sign is exact: at most 0 only if epsilon is at most the target."""
    if not epsilon.is_finite():
        return math.inf
    if epsilon <= 0:
        return -math.inf
    ratio = math.log(float(epsilon)) - math.log(float(target))
    return max(ratio, 1e-15) if epsilon > target else min(ratio, 0.0)


def _bracket(excess: Callable[[int], float], start: int) -> tuple[_Point | None, _Point | None]:
    """The last point that misses and the first that meets the target.

    Doubling or halving from start.
    """
    point = (start, excess(start))
    if point[1] > 0:
        while point[1] > 0:
            if point[0] >= NOISE_MOST:
                return point, None
            low = point
            value = min(point[0] * 2, NOISE_MOST)
            point = (value, excess(value))
        return low, point
    while point[1] <= 0:
        if point[0] <= NOISE_LEAST:
            return None, point
        high = point
        value = max(point[0] // 2, NOISE_LEAST)
        point = (value, excess(value))
    return point, high


def _search(excess: Callable[[int], float], low: _Point, high: _Point) -> int:
    """Shrink the bracket to neighbors: interpolation on log-log axes.

    A bisection whenever that stalls.
    """
    stalled = False
    for _ in range(EVALUATIONS_MAX):
        width = high[0] - low[0]
        if width <= 1:
            break
        middle = round(math.sqrt(low[0] * high[0]))
        if not stalled and math.isfinite(low[1]) and math.isfinite(high[1]) and low[1] > high[1]:
            part = low[1] / (low[1] - high[1])
            guess = low[0] * (high[0] / low[0]) ** part
            # Step a little past the estimate, towards the far end, so that both ends close in.
            nudge = max(1.0, width * 1e-3)
            middle = math.ceil(guess + nudge if part < 1 / 2 else guess - nudge)
        middle = min(max(middle, low[0] + 1), high[0] - 1)
        point = (middle, excess(middle))
        if point[1] > 0:
            low = point
        else:
            high = point
        stalled = high[0] - low[0] > width / 2
    return high[0]


def most_steps(
    *,
    accountant: Accountant,
    event_at: Callable[[int], Event],
    target: Guarantee,
    neighbors: Neighbors,
) -> int:
    """The most steps whose event meets the target.

    Guarantees:
        ``accountant.epsilon(event_at(result), target.delta, neighbors) <= target.epsilon`` unless
        the result is 0.

    Args:
        accountant: What computes epsilon.
        event_at: The plan with that many steps; epsilon must not shrink with more steps.
        target: What must be met.
        neighbors: The neighboring relation.

    Returns:
        From 0 to one billion.

    Raises:
        UnsupportedEvent: If the accountant cannot vouch for the plan.
    """

    def meets(steps: int) -> bool:
        return accountant.epsilon(event_at(steps), target.delta, neighbors) <= target.epsilon

    if not meets(1):
        return 0
    low, high = 1, 2
    while high <= STEPS_MOST and meets(high):
        low, high = high, high * 2
    if high > STEPS_MOST:
        return STEPS_MOST if meets(STEPS_MOST) else _most(meets, low, STEPS_MOST)
    return _most(meets, low, high)


def _most(meets: Callable[[int], bool], low: int, high: int) -> int:
    while high - low > 1:
        middle = (low + high) // 2
        if meets(middle):
            low = middle
        else:
            high = middle
    return low
