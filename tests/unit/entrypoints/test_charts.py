"""The geometry of charts: everything inside the frame, steps that only fall, words that say it."""

from __future__ import annotations

import datetime
import re
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from primum.application.reports import BurndownPoint
from primum.domain.budget.forecast import Forecast, Prospect
from primum.entrypoints.api.pages import charts

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def at(days):
    moment = START + datetime.timedelta(days=days)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def point(days, left, guarantee=8):
    spent = Decimal(guarantee) - Decimal(left)
    return BurndownPoint(1, at(days), Decimal(guarantee), spent, spent, Decimal(left), None)


def runs_out(earliest, expected, latest=None):
    return Forecast(
        Prospect.RUNS_OUT,
        at(0),
        90.0,
        5,
        at(expected),
        at(earliest),
        at(latest) if latest else "",
        9,
        "It runs out.",
    )


NOTHING = Forecast(Prospect.NOT_ENOUGH_HISTORY, at(0), 1.0, 0, message="Not enough history.")


def places(path):
    return [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", path)]


@given(
    steps=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 8)), min_size=1, max_size=30),
    ends=st.lists(st.integers(1, 5000), min_size=3, max_size=3).map(sorted),
    latest=st.booleans(),
)
def test_nothing_leaves_the_frame(steps, ends, latest):
    days = sorted(day for day, _ in steps)
    lefts = sorted((left for _, left in steps), reverse=True)
    points = [point(day, left) for day, left in zip(days, lefts, strict=True)]
    now = days[-1] + 1
    earliest, expected, last = (now + end for end in ends)
    for found in (NOTHING, runs_out(earliest, expected, last if latest else None)):
        chart = charts.burndown(points, now=at(now), found=found)
        for path in (chart.left, chart.area, chart.ahead, chart.wedge):
            for x, y in places(path):
                assert 0 <= x <= charts.WIDTH
                assert 0 <= y <= charts.HEIGHT
        heights = [y for _, y in places(chart.left)]
        assert heights == sorted(heights), "what is left only falls, which is down"
        assert found.message in chart.text
        assert bool(chart.ahead) == (found is not NOTHING)


def test_a_near_end_is_reached_and_a_far_one_is_cut_at_the_edge():
    points = [point(0, 8), point(50, 4)]
    near = charts.burndown(points, now=at(100), found=runs_out(110, 120, 130))
    assert places(near.ahead)[-1][1] == charts.HEIGHT
    assert places(near.ahead)[-1][0] < charts.WIDTH
    far = charts.burndown(points, now=at(100), found=runs_out(900, 1000))
    assert places(far.ahead)[-1][0] == charts.WIDTH
    assert places(far.ahead)[-1][1] < charts.HEIGHT
    assert far.now == charts.WIDTH / 2, "a forecast takes at most half of the width"


def test_edges_are_days_or_times_of_one_day():
    days = charts.burndown([point(0, 8)], now=at(10), found=NOTHING)
    assert (days.first, days.last) == ("2026-01-01", "2026-01-11")
    hours = charts.burndown([point(0, 8)], now=at(0.25), found=NOTHING)
    assert (hours.first, hours.last) == ("00:00 UTC", "06:00 UTC")


def test_words_say_what_the_drawing_shows():
    once = charts.burndown([point(0, 8), point(5, 6)], now=at(9), found=NOTHING)
    assert once.text == (
        "From 2026-01-01 to 2026-01-06 what is left went from epsilon 8 to 6; it fell once. "
        "Not enough history."
    )
    more = [point(0, 8), point(5, 6), point(6, 6), point(7, 5)]
    assert "it fell 2 times" in charts.burndown(more, now=at(9), found=NOTHING).text
