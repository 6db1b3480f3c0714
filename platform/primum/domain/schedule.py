"""Cron schedules of five fields (minute hour day-of-month month day-of-week), in UTC.

When was one last due, when will it be next, and how often was it in between?

Supports ``*``, numbers, ranges, lists and steps. Names, seconds and time zones are refused: a
schedule of privacy audits should read the same everywhere.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass

from primum.domain.errors import InvalidValue

_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_LOOK_BACK_DAYS = (
    366 * 4 + 1
)  # Every valid schedule is due at least once in four years (29 February).


@dataclass(frozen=True, slots=True)
class Schedule:
    """A parsed schedule: the allowed values of each field."""

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday, as in cron

    def last_due(self, now: datetime.datetime) -> datetime.datetime | None:
        """The latest minute at or before ``now`` (UTC) on which it was due.

        ``None`` if it never is.

        As in cron, where both day fields are restricted a day matches if either does.
        """
        day = now.date()
        for back in range(_LOOK_BACK_DAYS):
            candidate = day - datetime.timedelta(days=back)
            if not self._matches(candidate):
                continue
            for hour in sorted(self.hours, reverse=True):
                for minute in sorted(self.minutes, reverse=True):
                    due = datetime.datetime.combine(
                        candidate, datetime.time(hour, minute), datetime.UTC
                    )
                    if due <= now:
                        return due
        return None

    def next_due(self, now: datetime.datetime) -> datetime.datetime | None:
        """The first minute after ``now`` (UTC) on which it is due; ``None`` if it never is."""
        for ahead in range(_LOOK_BACK_DAYS):
            for due in self._due_on(now.date() + datetime.timedelta(days=ahead)):
                if due > now:
                    return due
        return None

    def due_count(self, after: datetime.datetime, until: datetime.datetime) -> int:
        """How often it was due after one moment and up to and including another (UTC)."""
        count, day = 0, after.date()
        while day <= until.date():
            if day in (after.date(), until.date()):
                count += sum(after < due <= until for due in self._due_on(day))
            elif self._matches(day):
                count += len(self.hours) * len(self.minutes)
            day += datetime.timedelta(days=1)
        return count

    def _due_on(self, day: datetime.date) -> Iterator[datetime.datetime]:
        if not self._matches(day):
            return
        for hour in sorted(self.hours):
            for minute in sorted(self.minutes):
                yield datetime.datetime.combine(day, datetime.time(hour, minute), datetime.UTC)

    def _matches(self, day: datetime.date) -> bool:
        if day.month not in self.months:
            return False
        in_month = day.day in self.days
        in_week = day.isoweekday() % 7 in self.weekdays
        every_day, every_weekday = len(self.days) == 31, len(self.weekdays) == 7  # noqa: PLR2004
        if every_day or every_weekday:
            return in_month and in_week
        return in_month or in_week


def parse_schedule(field: str, text: str) -> Schedule:
    """Read a schedule.

    Raises:
        InvalidValue: If it is not one, or is never due.
    """
    parts = text.split()
    if len(parts) != len(_FIELDS):
        raise InvalidValue(field, "must have five fields: minute hour day month weekday", text)
    sets = [_values(field, part, *limits) for part, limits in zip(parts, _FIELDS, strict=True)]
    weekdays = frozenset(value % 7 for value in sets[4])
    return Schedule(text, sets[0], sets[1], sets[2], sets[3], weekdays)


def _values(field: str, part: str, name: str, low: int, high: int) -> frozenset[int]:
    found: set[int] = set()
    for item in part.split(","):
        span, _, step = item.partition("/")
        try:
            stride = int(step) if step else 1
            first, last = _span(span, low, high, open_end=bool(step))
        except ValueError:
            raise InvalidValue(
                field, f"must have numbers, ranges, lists or steps as its {name}", part
            ) from None
        if not (low <= first <= last <= high and stride >= 1):
            raise InvalidValue(field, f"must have a {name} from {low} to {high}", part)
        found.update(range(first, last + 1, stride))
    return frozenset(found)


def _span(span: str, low: int, high: int, *, open_end: bool) -> tuple[int, int]:
    if span == "*":
        return low, high
    first, dash, last = span.partition("-")
    if dash:
        return int(first), int(last)
    return int(first), high if open_end else int(first)
