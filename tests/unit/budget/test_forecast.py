"""When a block runs out: the stated model, its interval, and when nothing can be said."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.domain.accounting.charges import Charge
from primum.domain.budget.forecast import (
    CHARGES_MIN,
    HORIZON_DAYS,
    WINDOW_DAYS,
    Forecast,
    Prospect,
    Spend,
    forecast,
)
from primum.domain.errors import InvalidValue

OPENED = "2026-01-01T00:00:00.000000Z"


def at(days):
    moment = datetime.datetime.fromisoformat(OPENED) + datetime.timedelta(days=days)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def days_until(time, now):
    gone = datetime.datetime.fromisoformat(time) - datetime.datetime.fromisoformat(now)
    return gone.total_seconds() / 86400


def cost(amount):
    return Charge.of({"mu2": amount})


def room(amount):
    """Admits what leaves the sum of everything asked for within an amount."""
    return lambda request: request.as_dict["mu2"] <= amount


def spends(*days, amount=100):
    return [Spend(at(day), cost(amount)) for day in days]


def test_an_even_pace_ends_where_the_room_does():
    """Nine charges of 100 in 90 days, and room for 18 more: 180 days."""
    found = forecast(spends(*range(5, 90, 10)), opened=OPENED, now=at(90), admits=room(1800))
    assert found.prospect is Prospect.RUNS_OUT
    assert (found.charges, found.days, found.more) == (9, 90.0, 18)
    assert days_until(found.expected, at(90)) == pytest.approx(180, rel=2e-3)
    assert found.earliest < found.expected < found.latest
    for word in ("9 charges", found.expected[:10], found.earliest[:10], "four times in five"):
        assert word in found.message


def test_the_interval_is_the_exact_one_of_a_poisson_rate():
    """Garwood 1936, 80 %: nine events bear a rate of 5.432 to 14.206 (chi-square tables)."""
    found = forecast(spends(*range(5, 90, 10)), opened=OPENED, now=at(90), admits=room(1800))
    middle = days_until(found.expected, at(90))
    assert middle / days_until(found.earliest, at(90)) == pytest.approx(14.206 / 9, rel=2e-3)
    assert middle / days_until(found.latest, at(90)) == pytest.approx(5.432 / 9, rel=2e-3)


def test_one_large_charge_among_small_ones_widens_the_interval():
    even = forecast(spends(10, 20, 30, 40, 50), opened=OPENED, now=at(60), admits=room(5000))
    uneven = [*spends(10, 20, 30, 40, amount=10), *spends(50, amount=460)]
    rough = forecast(uneven, opened=OPENED, now=at(60), admits=room(5000))
    assert days_until(rough.expected, at(60)) == pytest.approx(days_until(even.expected, at(60)))
    assert rough.earliest < even.earliest
    assert not rough.latest or rough.latest > even.latest


@pytest.mark.parametrize(
    ("days", "now", "said"),
    [
        ((), 30, "0 charges in 30 days"),
        ((10, 20), 30, "2 charges in 30 days"),
        ((0.1, 0.2, 0.3, 0.4), 0.5, "4 charges in 12 hours"),
        ((0.0001,), 0.0007, "1 charge in 1 minute;"),
    ],
)
def test_too_little_history_gives_no_number(days, now, said):
    found = forecast(spends(*days), opened=OPENED, now=at(now), admits=room(10**6))
    assert found.prospect is Prospect.NOT_ENOUGH_HISTORY
    assert said in found.message
    assert (found.expected, found.earliest, found.latest, found.more) == ("", "", "", None)


def test_what_was_spent_long_ago_is_no_pace():
    found = forecast(spends(1, 2, 3, 4), opened=OPENED, now=at(200), admits=room(10**6))
    assert found.prospect is Prospect.NOTHING_SPENT
    assert found.expected == ""
    assert "Nothing was spent in the last 90 days" in found.message


def test_only_the_window_counts():
    old = spends(*range(1, 60), amount=10_000)
    new = spends(120, 140, 160)
    found = forecast([*old, *new], opened=OPENED, now=at(170), admits=room(10_000))
    assert found.charges == 3
    assert found.days == WINDOW_DAYS
    assert found.since == at(80)


def test_a_block_that_admits_not_even_the_smallest_study_is_used_up():
    found = forecast(spends(10, 20, 30), opened=OPENED, now=at(60), admits=room(99))
    assert found.prospect is Prospect.EXHAUSTED
    assert found.expected == ""


def test_a_slow_pace_ends_beyond_the_horizon_without_a_date():
    found = forecast(spends(10, 20, 30), opened=OPENED, now=at(90), admits=room(10**9))
    assert found.prospect is Prospect.BEYOND_HORIZON
    assert found.expected == ""
    assert "more than ten years" in found.message


def test_a_time_that_is_none_is_refused():
    with pytest.raises(InvalidValue, match="time must be RFC 3339"):
        forecast([], opened=OPENED, now="soon", admits=room(1))


@given(
    days=st.lists(st.integers(0, 100), max_size=12).map(sorted),
    amounts=st.lists(st.integers(1, 10**6), min_size=12, max_size=12),
    now=st.integers(1, 400),
    left=st.integers(0, 10**9),
)
def test_it_never_says_more_than_it_knows(days, amounts, now, left):
    """Dates only with enough history; in order; never before now nor beyond ten years."""
    made = [Spend(at(day), cost(amount)) for day, amount in zip(days, amounts, strict=False)]
    found: Forecast = forecast(made, opened=OPENED, now=at(now), admits=room(left))
    assert found.message
    if found.prospect is not Prospect.RUNS_OUT:
        assert found.expected == found.latest == ""
        assert not found.earliest or found.prospect is Prospect.BEYOND_HORIZON
        return
    assert found.charges >= CHARGES_MIN
    assert at(now) <= found.earliest <= found.expected
    assert not found.latest or found.expected <= found.latest
    assert days_until(found.expected, at(now)) <= HORIZON_DAYS
    assert found.more >= 0


@given(left=st.integers(0, 10**6), more=st.integers(0, 10**6))
def test_more_room_never_ends_earlier(left, more):
    made = spends(10, 25, 40, 70, amount=1000)
    less = forecast(made, opened=OPENED, now=at(80), admits=room(left + 1000))
    wide = forecast(made, opened=OPENED, now=at(80), admits=room(left + more + 1000))
    assert (less.expected or "9999") <= (wide.expected or "9999")
