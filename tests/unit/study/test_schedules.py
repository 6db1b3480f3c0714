"""Due times counted and decided about, against a naive walk over every minute."""

from __future__ import annotations

import datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from primum.domain.governance.reaudits import Cause, Concurrency, Due, Known, Rules, decide
from primum.domain.schedule import parse_schedule

START = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
MINUTE = datetime.timedelta(minutes=1)


def field(low, high):
    numbers = st.integers(low, high).map(str)
    steps = st.integers(2, 30).map(lambda n: f"*/{n}")
    return st.one_of(st.just("*"), numbers, steps)


SCHEDULES = st.tuples(field(0, 59), field(0, 23), field(1, 28), st.just("*"), field(0, 6)).map(
    " ".join
)


def due_minutes(schedule, after, until):
    """Every minute in (after, until] on which it is due, asked one by one."""
    found, moment = [], after.replace(second=0, microsecond=0) + MINUTE
    while moment <= until:
        if schedule.last_due(moment) == moment:
            found.append(moment)
        moment += MINUTE
    return found


@settings(max_examples=40, deadline=None)
@given(
    text=SCHEDULES,
    after=st.integers(0, 2000),
    minutes=st.integers(0, 700),
)
def test_due_times_are_counted_as_they_are_met_one_by_one(text, after, minutes):
    schedule = parse_schedule("spec.auditSchedule", text)
    begin = START + after * MINUTE
    end = begin + minutes * MINUTE
    met = due_minutes(schedule, begin, end)
    assert schedule.due_count(begin, end) == len(met)
    following = schedule.next_due(begin)
    if met:
        assert following == met[0]
    elif following is not None:
        assert following > end


def test_a_schedule_that_is_never_due_has_no_next_time():
    assert parse_schedule("x", "0 0 31 2 *").next_due(START) is None
    assert parse_schedule("x", "0 0 31 2 *").due_count(START, START + 1000 * MINUTE) == 0


LOOKS = st.lists(
    st.tuples(st.integers(1, 400), st.booleans(), st.booleans()), min_size=1, max_size=25
)


@settings(max_examples=60, deadline=None)
@given(
    text=SCHEDULES,
    looks=LOOKS,
    concurrency=st.sampled_from(list(Concurrency)),
    starting=st.one_of(st.none(), st.integers(60, 20_000)),
)
def test_every_due_time_is_begun_or_counted_as_missed_and_none_twice(
    text, looks, concurrency, starting
):
    """However looks fall, whatever runs meanwhile: begun + missed + still open = due."""
    schedule = parse_schedule("spec.auditSchedule", text)
    triggers = frozenset({Cause.ATTACK_LIBRARY_CHANGE})
    rules = Rules(schedule, triggers, concurrency, starting)
    now = until = START
    state, begun, missed, moved = {Cause.ATTACK_LIBRARY_CHANGE: "0"}, 0, 0, 0
    for minutes, under_way, changes in looks:
        now += minutes * MINUTE
        moved += changes
        seen = {Cause.ATTACK_LIBRARY_CHANGE: str(moved)}
        known = Known(state, until, under_way)
        due = decide(rules, known, state=seen, now=now)
        if due is None:
            continue
        assert not (due.causes and under_way and concurrency is Concurrency.FORBID)
        begun += Cause.SCHEDULE in due.causes
        missed += due.missed
        until = due.due or until
        state = seen if due.causes else state
        again = decide(rules, Known(state, until, under_way), state=seen, now=now)
        if due.causes:
            assert again is None  # Asking twice begins nothing twice.
        if due.missed:
            assert due.last_missed is not None
            assert due.last_missed <= now
    left = schedule.due_count(until, now)
    assert begun + missed + left == schedule.due_count(START, now)


def test_a_change_begins_audits_beside_a_due_time_that_is_too_late():
    rules = Rules(
        parse_schedule("x", "0 0 * * *"),
        frozenset({Cause.MODEL_CHANGE}),
        Concurrency.FORBID,
        60,
    )
    known = Known({Cause.MODEL_CHANGE: "a"}, START, under_way=False)
    now = START + datetime.timedelta(days=1, hours=1)
    found = decide(rules, known, state={Cause.MODEL_CHANGE: "b"}, now=now)
    day = START + datetime.timedelta(days=1)
    assert found == Due((Cause.MODEL_CHANGE,), day, 1, day)
