"""The geometry of a burn-down chart and of a meter, in units of the drawing. Draws nothing itself.

Time runs to the right, epsilon upwards. What is left goes down in steps, because nothing happens
between two entries.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from primum.application.reports import BurndownPoint
from primum.domain.budget.forecast import Forecast, Prospect

WIDTH = 1000.0
HEIGHT = 300.0
AHEAD_MAX = 0.5  # Part of the width that a forecast may take.
_METER = 1000.0


@dataclass(frozen=True, slots=True)
class Chart:
    """What a template draws.

    Args:
        left: Path of what is left.
        area: The area below it, closed.
        ahead: Path of the forecast, or empty.
        wedge: The area of its interval, closed, or empty.
        now: Where today is.
        top: Epsilon at the upper edge.
        first: Day at the left edge; its time where both edges are of one day.
        last: The same at the right edge.
        text: What it shows, in words.
    """

    left: str
    area: str
    ahead: str
    wedge: str
    now: float
    top: Decimal
    first: str
    last: str
    text: str


@dataclass(frozen=True, slots=True)
class Meter:
    """Widths of what is charged and what is held beside it, of 1000, and the same in words."""

    charged: float
    held: float
    text: str


def burndown(points: Sequence[BurndownPoint], *, now: str, found: Forecast) -> Chart:
    """The chart of a block.

    Args:
        points: At least one, oldest first.
        now: The ledger's time.
        found: The block's forecast.
    """
    begin, today = _seconds(points[0].time), max(_seconds(now), _seconds(points[-1].time))
    end = max(today, begin + 1)
    ahead = _ahead(found, begin, end)
    span = (ahead or end) - begin
    top = max(point.guarantee for point in points)

    def x(seconds: float) -> float:
        return round((seconds - begin) / span * WIDTH, 2)

    def y(epsilon: Decimal) -> float:
        bounded = min(max(epsilon, Decimal(0)), top)
        return round(HEIGHT - float(bounded / top) * HEIGHT, 2)

    left = [(x(_seconds(point.time)), y(point.left)) for point in points]
    steps = [*_steps(left), (x(end), left[-1][1])]
    corner = [(x(end), HEIGHT), (0.0, HEIGHT)]
    line, wedge = _forecast(found, (x(end), left[-1][1]), x)
    return Chart(
        _path(steps),
        _closed([*steps, *corner]),
        line,
        wedge,
        x(end),
        top,
        *_edges(begin, begin + span),
        _words(points, found),
    )


def meter(charged: Decimal, held: Decimal, guarantee: Decimal) -> Meter:
    """How much of a guarantee is charged and held."""

    def part(value: Decimal) -> float:
        return round(float(min(value / guarantee, Decimal(1))) * _METER, 1)

    full = part(charged)
    share = (min(held / guarantee, Decimal(1)) * 100).quantize(Decimal(1))
    return Meter(full, round(part(held) - full, 1), f"{share} % of the budget is spent or held")


def _ahead(found: Forecast, begin: float, end: float) -> float | None:
    """Where the right edge is, with a forecast that is not too far away."""
    if found.prospect is not Prospect.RUNS_OUT:
        return None
    wanted = _seconds(found.latest or found.expected)
    most = end + (end - begin) * AHEAD_MAX / (1 - AHEAD_MAX)
    return min(wanted, most)


def _forecast(
    found: Forecast, now: tuple[float, float], x: Callable[[float], float]
) -> tuple[str, str]:
    if found.prospect is not Prospect.RUNS_OUT:
        return "", ""
    expected = x(_seconds(found.expected))
    earliest = x(_seconds(found.earliest))
    latest = x(_seconds(found.latest)) if found.latest else WIDTH * 4
    line = _path([now, _clipped(now, (expected, HEIGHT))])
    low, high = _clipped(now, (earliest, HEIGHT)), _clipped(now, (latest, HEIGHT))
    corner = [(WIDTH, HEIGHT)] if high[1] < HEIGHT and low[1] >= HEIGHT else []
    return line, _closed([now, low, *corner, high])


def _clipped(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    """The end of a line, or where it leaves the drawing to the right."""
    if end[0] <= WIDTH:
        return end
    part = (WIDTH - start[0]) / (end[0] - start[0])
    return WIDTH, round(start[1] + part * (end[1] - start[1]), 2)


def _steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A level up to each point, then the step."""
    found = [points[0]]
    for place in points[1:]:
        found += [(place[0], found[-1][1]), place]
    return found


def _path(points: Sequence[tuple[float, float]]) -> str:
    if not points:
        return ""
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def _closed(points: Sequence[tuple[float, float]]) -> str:
    return f"{_path(points)}Z"


def _words(points: Sequence[BurndownPoint], found: Forecast) -> str:
    first, last = points[0], points[-1]
    falls = sum(1 for a, b in itertools.pairwise(points) if b.left < a.left)
    changes = "once" if falls == 1 else f"{falls} times"
    return (
        f"From {first.time[:10]} to {last.time[:10]} what is left went from epsilon "
        f"{first.left.normalize():f} to {last.left.normalize():f}; it fell {changes}. "
        f"{found.message}"
    )


def _seconds(time: str) -> float:
    return datetime.datetime.fromisoformat(time).timestamp()


def _edges(begin: float, end: float) -> tuple[str, str]:
    first, last = (datetime.datetime.fromtimestamp(at, datetime.UTC) for at in (begin, end))
    form = "%H:%M UTC" if first.date() == last.date() else "%Y-%m-%d"
    return first.strftime(form), last.strftime(form)
