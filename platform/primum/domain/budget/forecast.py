"""When a block of a budget runs out, at the pace of the last months: a stated model, or no answer.

The model: Studies come at a constant rate, and cost what those of the trailing window cost. Costs
add up in the filter's own currency, never in epsilon, so the end is where the filter itself would
say no. The interval is that of the rate alone. Nothing here may guess: with too little history the
answer says so, and carries no date. Nothing here reads a clock or grants anything.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy import special

from primum.domain.accounting.charges import AMOUNT_MAX, Charge
from primum.domain.errors import InvalidValue

WINDOW_DAYS = 90.0  # A quarter: what people plan by, and long enough to hold several Studies.
DAYS_MIN = 7.0  # A pace of less than a week is that of one afternoon.
CHARGES_MIN = 3  # Fewer say nothing about a rate.
HORIZON_DAYS = 3652.5  # Ten years; beyond it nobody should believe a pace.
CONFIDENCE = 0.8  # Of the interval: four times in five.
SPENDS_MAX = 4096  # Kept per block; a pace needs no more.
_STEPS = 1000  # Resolution: a thousandth of the window, two hours of a quarter.
_DAY_SECONDS = 86400.0


class Prospect(enum.StrEnum):
    """What can be said."""

    EXHAUSTED = "Exhausted"  # not even the smallest charge so far fits once more
    NOT_ENOUGH_HISTORY = "NotEnoughHistory"
    NOTHING_SPENT = "NothingSpent"  # not in the window: there is no pace
    BEYOND_HORIZON = "BeyondHorizon"  # not within ten years at this pace
    RUNS_OUT = "RunsOut"


@dataclass(frozen=True, slots=True)
class Spend:
    """One charge that cost something, and when (RFC 3339, UTC)."""

    time: str
    charge: Charge


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a block runs out at the present pace.

    Args:
        prospect: What can be said.
        since: Begin of the trailing window, RFC 3339.
        days: Its length.
        charges: How many charges it holds.
        expected: When the block runs out, RFC 3339; empty unless ``RUNS_OUT``.
        earliest: The same at the upper end of the pace; empty if beyond the horizon.
        latest: The same at the lower end of the pace; empty if beyond the horizon.
        more: How many further charges like the average of the window fit; ``None`` without history.
        message: One sentence for people.
    """

    prospect: Prospect
    since: str
    days: float
    charges: int
    expected: str = ""
    earliest: str = ""
    latest: str = ""
    more: int | None = None
    message: str = ""


def forecast(
    spends: Sequence[Spend], *, opened: str, now: str, admits: Callable[[Charge], bool]
) -> Forecast:
    """When a block runs out at the pace of its trailing window.

    The window is the last 90 days, or all the time since the block came into being if that is
    shorter. The interval is the central 80 % one of a scaled Poisson rate (Garwood 1936; Bohm &
    Zech 2014): with costs c, (sum c)^2 / sum c^2 charges are worth as many equal ones.

    Args:
        spends: Charges above zero, oldest first.
        opened: When the block came into being.
        now: The ledger's time.
        admits: Whether the filter would admit a further charge beside what is held and spent.

    Returns:
        The forecast.

    Raises:
        InvalidValue: If a time cannot be read.
    """
    end, begin = _moment(now), _moment(opened)
    start = max(begin, end - datetime.timedelta(days=WINDOW_DAYS))
    days = (end - start).total_seconds() / _DAY_SECONDS
    since, until = _shown(start), _shown(end)  # The ledger's times sort as text.
    window = [spend for spend in spends if since <= spend.time <= until]
    seen = Forecast(Prospect.NOT_ENOUGH_HISTORY, since, round(days, 3), len(window))
    smallest = min((spend.charge for spend in spends), key=lambda c: c.amounts, default=None)
    if smallest is not None and not admits(smallest):
        text = "Used up: not even the smallest Study so far would fit once more."
        return _said(seen, Prospect.EXHAUSTED, text)
    if not window and spends:
        text = f"Nothing was spent in the last {days:.0f} days, so there is no pace to go by."
        return _said(seen, Prospect.NOTHING_SPENT, text)
    if len(window) < CHARGES_MIN or days < DAYS_MIN:
        text = (
            f"Not enough history: {_counted(len(window), 'charge')} in {_span(days)}; a forecast "
            f"needs {CHARGES_MIN} charges and {DAYS_MIN:.0f} days."
        )
        return _said(seen, Prospect.NOT_ENOUGH_HISTORY, text)
    return _at_pace(seen, [spend.charge for spend in window], end, admits)


def _at_pace(
    seen: Forecast,
    window: Sequence[Charge],
    end: datetime.datetime,
    admits: Callable[[Charge], bool],
) -> Forecast:
    total = window[0]
    for charge in window[1:]:
        total = total + charge
    slow, fast = _pace_interval(_equal_charges(window))
    most = int(HORIZON_DAYS / seen.days / slow * _STEPS) + 1 if slow else _STEPS * _STEPS
    most = min(most, _STEPS * _STEPS)
    reach = _last(lambda step: admits(_scaled(total, step, _STEPS)), most) / _STEPS
    more = int(reach * len(window))
    ends = [_end(end, reach * seen.days, pace) for pace in (fast, 1.0, slow)]
    found = Forecast(
        Prospect.RUNS_OUT if ends[1] else Prospect.BEYOND_HORIZON,
        seen.since,
        seen.days,
        seen.charges,
        expected=ends[1],
        earliest=ends[0],
        latest=ends[2],
        more=more,
    )
    return _said(found, found.prospect, _sentence(found))


def _sentence(found: Forecast) -> str:
    pace = f"At the pace of the last {_span(found.days)} ({_counted(found.charges, 'charge')})"
    if found.prospect is Prospect.BEYOND_HORIZON:
        return f"{pace} it lasts for more than ten years."
    latest = f"and {found.latest[:10]}" if found.latest else "and a time beyond ten years"
    return (
        f"{pace} it runs out about {found.expected[:10]}, four times in five between "
        f"{found.earliest[:10]} {latest}, if Studies go on coming at one rate and costing alike."
    )


def _pace_interval(count: float) -> tuple[float, float]:
    """The central interval of a Poisson rate, relative to the one seen (Garwood 1936)."""
    tail = (1 - CONFIDENCE) / 2
    low = float(special.gammaincinv(count, tail)) / count
    high = float(special.gammaincinv(count + 1, 1 - tail)) / count
    return low, high


def _equal_charges(window: Sequence[Charge]) -> float:
    """How many equal charges the window is worth; the least over the filter's keys."""
    counts = []
    for place in range(len(window[0].amounts)):
        costs = [charge.amounts[place][1] for charge in window]
        if 0 < max(costs) < AMOUNT_MAX:
            counts.append(float(sum(costs)) ** 2 / sum(float(cost) ** 2 for cost in costs))
    return min(counts, default=1.0)


def _last(holds: Callable[[int], bool], most: int) -> int:
    """The largest number up to ``most`` for which something monotone holds; 0 if for none."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _scaled(charge: Charge, numerator: int, denominator: int) -> Charge:
    """A part or a multiple of a charge, rounded up."""
    return Charge(
        tuple((key, -(-amount * numerator // denominator)) for key, amount in charge.amounts)
    )


def _end(now: datetime.datetime, days: float, pace: float) -> str:
    """When something that lasts so many days at the pace seen ends at a multiple of it."""
    if not pace or days / pace > HORIZON_DAYS:
        return ""
    return _shown(now + datetime.timedelta(days=days / pace))


def _said(found: Forecast, prospect: Prospect, message: str) -> Forecast:
    return Forecast(
        prospect,
        found.since,
        found.days,
        found.charges,
        found.expected,
        found.earliest,
        found.latest,
        found.more,
        message,
    )


def _moment(time: str) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(time)
    except ValueError:
        raise InvalidValue("time", "must be RFC 3339", time) from None


def _shown(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _span(days: float) -> str:
    for length, word in ((1.0, "day"), (1 / 24, "hour")):
        if days >= 2 * length:
            return _counted(round(days / length), word)
    return _counted(round(days * 24 * 60), "minute")


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
