"""How a dataset is divided into blocks with a budget each, and which blocks a Study asks for.

A unit belongs to exactly one block, by one declared column whose possible values are public. So
what several blocks spend is never added up over a unit. A selection is rounded outwards to whole
blocks: who reads part of a block pays for the block. It must not match nothing, since a charge to
nothing would be a free query (ledger.md trap T3). Nothing here reads a clock: what exists on a day
is asked with that day.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue

WHOLE = "whole"  # The one block of a dataset that is not divided.
BLOCKS_MAX = 4096  # Of one budget: eleven years of days.
_WEEK_DAYS = 7
_MONTHS = 12
_QUARTER_MONTHS = 3
_VALUE_LENGTH_MAX = 64
_YEARS = (1800, 2999)  # Of a start or an end: no patient is older, and no calendar ends.
_SHOWN_MAX = 20  # More blocks in a message help nobody.
_ONE_DAY = datetime.timedelta(days=1)


class Division(enum.StrEnum):
    """What blocks are made by."""

    TIME = "Time"
    COHORT = "Cohort"
    SITE = "Site"


class Period(enum.StrEnum):
    """How long a block by time is; a week begins on Monday."""

    DAY = "Day"
    WEEK = "Week"
    MONTH = "Month"
    QUARTER = "Quarter"
    YEAR = "Year"


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """How a dataset is divided.

    Args:
        by: Time, Cohort or Site.
        column: The column that places a unit: a date for Time, one of ``values`` otherwise.
        values: The public values, one block each (Cohort, Site); empty for Time.
        period: Length of a block (Time); ``None`` otherwise.
        start: First day (Time), rounded down to the beginning of its period; ``None`` otherwise.
        end: First day that no block covers (Time), rounded up; ``None`` to go on with the calendar.
    """

    by: Division
    column: str
    values: tuple[str, ...] = ()
    period: Period | None = None
    start: datetime.date | None = None
    end: datetime.date | None = None

    def __post_init__(self) -> None:
        if not self.column or not self.column.isprintable():
            raise InvalidValue("blocks.column", "must name a column", self.column)
        if self.by is Division.TIME:
            self._check_time()
        else:
            self._check_values()

    def _check_time(self) -> None:
        if self.period is None or self.start is None:
            raise InvalidValue("blocks", "by Time must have period and start", "one missing")
        if self.values:
            raise InvalidValue("blocks.values", "must be absent by Time", len(self.values))
        for name, day in (("start", self.start), ("end", self.end)):
            if day is not None and not _YEARS[0] <= day.year <= _YEARS[1]:
                rule = f"must lie in the years {_YEARS[0]} to {_YEARS[1]}"
                raise InvalidValue(f"blocks.{name}", rule, day)
        if self.end is not None and self.end <= self.start:
            raise InvalidValue("blocks.end", f"must be after start {self.start}", self.end)

    def _check_values(self) -> None:
        if self.period is not None or self.start is not None or self.end is not None:
            rule = f"by {self.by.value} must have no period, start or end"
            raise InvalidValue("blocks", rule, "one")
        if not 1 <= len(self.values) <= BLOCKS_MAX or len(set(self.values)) < len(self.values):
            rule = f"must be 1 to {BLOCKS_MAX} values, each once"
            raise InvalidValue("blocks.values", rule, len(self.values))
        for value in self.values:
            if not _nameable(value):
                rule = (
                    f"must be 1 to {_VALUE_LENGTH_MAX} printable characters, without spaces at the "
                    f"ends, and not {WHOLE!r}"
                )
                raise InvalidValue("blocks.values", rule, value)

    def block_of_day(self, day: datetime.date) -> str:
        """The block of a unit with this date, whether or not it exists yet."""
        return _label(day, self._period)

    def block_of(self, cell: str) -> str:
        """The block that a cell of the column places its unit in.

        A date is ISO 8601; of a date with a time, the day as it is written counts.

        Returns:
            The block, or an empty string where the layout has none for the cell. Whether a block
            by time exists yet is not asked; ``until`` makes a layout that ends today.
        """
        text = cell.strip()
        if self.by is not Division.TIME:
            return text if text in self.values else ""
        day = _day_of(text)
        if day is None or self.start is None or day < _begin(self.start, self._period):
            return ""
        label = _label(day, self._period)
        if self.end is not None and _span(label, self._period)[0] >= self.end:
            return ""
        return label

    def until(self, today: datetime.date) -> BlockLayout:
        """The same division with no block after the one of that day (Time).

        Raises:
            InvalidValue: If the first block begins later: there is nothing yet.
        """
        if self.by is not Division.TIME or self.start is None:
            return self
        if today < _begin(self.start, self._period):
            rule = f"must not lie after today, {today}, for there would be no block"
            raise InvalidValue("blocks.start", rule, self.start.isoformat())
        after = max(today, self.start) + _ONE_DAY
        return replace(self, end=after if self.end is None else min(self.end, after))

    def blocks_until(self, today: datetime.date) -> tuple[str, ...]:
        """Every block that exists on a day, in order.

        By time: from the start to the period of that day, or to the declared end.

        Raises:
            InvalidValue: If there would be more than 4096.
        """
        if self.by is not Division.TIME:
            return self.values
        found = []
        for first, _ in self._periods(today):
            found.append(_label(first, self._period))
            if len(found) > BLOCKS_MAX:
                rule = f"must give at most {BLOCKS_MAX} blocks; choose a longer one"
                raise InvalidValue("blocks.period", rule, self._period.value)
        return tuple(found)

    @property
    def _period(self) -> Period:
        if self.period is None:
            raise InvalidValue("blocks.period", "must be there by Time", None)
        return self.period

    def _periods(self, today: datetime.date) -> Iterator[tuple[datetime.date, datetime.date]]:
        if self.start is None:
            return
        first = _begin(self.start, self._period)
        while first <= today and (self.end is None or first < self.end):
            after = _next(first, self._period)
            yield first, after
            first = after

    def newest(self, today: datetime.date) -> str:
        """The last block by time that exists on a day; empty for cohorts and sites.

        Raises:
            InvalidValue: If the first one begins later.
        """
        end = self.until(today).end
        return "" if end is None else self.block_of_day(end - _ONE_DAY)

    def choose(self, selection: BlockSelection, blocks: Sequence[str]) -> tuple[str, ...]:
        """The blocks, of those that exist, that hold any of the data wanted; sorted.

        Raises:
            InvalidValue: If the selection is of the wrong kind, names a block that does not exist,
                or matches nothing.
        """
        if self.by is Division.TIME:
            if selection.values:
                raise InvalidValue("spec.data.blocks.values", "must be absent by Time", "some")
            chosen = tuple(sorted(b for b in blocks if self._overlaps(b, selection)))
        else:
            if selection.start is not None or selection.end is not None:
                rule = f"must be absent by {self.by.value}"
                raise InvalidValue("spec.data.blocks.from", rule, "a date")
            unknown = sorted(set(selection.values) - set(blocks))
            if unknown:
                raise InvalidValue(
                    "spec.data.blocks.values", f"must be of {_listed(blocks)}", unknown[0]
                )
            chosen = tuple(sorted(set(selection.values or blocks)))
        if not chosen:
            rule = "must match a block that exists; an empty match would be a free query"
            have = f"There are {_listed(blocks)}." if blocks else "There is none yet."
            raise InvalidValue("spec.data.blocks", rule, "none", have)
        return chosen

    def _overlaps(self, block: str, selection: BlockSelection) -> bool:
        first, after = _span(block, self._period)
        late = selection.start is not None and after <= selection.start
        early = selection.end is not None and first >= selection.end
        return not (late or early)

    def to_json(self) -> dict[str, JSON]:
        """Canonical form; absent parts are left out."""
        found: dict[str, JSON] = {"by": self.by.value, "column": self.column}
        if self.by is Division.TIME:
            found |= {"period": self._period.value, "start": str(self.start)}
            if self.end is not None:
                found["end"] = str(self.end)
        else:
            found["values"] = list(self.values)
        return found

    @property
    def fixed(self) -> dict[str, JSON]:
        """What of a layout may never change: how units are placed, not which blocks exist yet."""
        found: dict[str, JSON] = {"by": self.by.value, "column": self.column}
        return found | ({"period": self._period.value} if self.by is Division.TIME else {})


def layout_from_json(value: Mapping[str, JSON]) -> BlockLayout:
    """The layout that ``to_json`` gave."""
    given = value.get("values")
    period, start, end = (value.get(name) for name in ("period", "start", "end"))
    return BlockLayout(
        by=Division(str(value["by"])),
        column=str(value["column"]),
        values=tuple(str(v) for v in given) if isinstance(given, list | tuple) else (),
        period=None if period is None else Period(str(period)),
        start=None if start is None else datetime.date.fromisoformat(str(start)),
        end=None if end is None else datetime.date.fromisoformat(str(end)),
    )


@dataclass(frozen=True, slots=True)
class BlockSelection:
    """Which blocks a Study asks for; nothing given means all that exist.

    Args:
        values: Names of cohorts or sites.
        start: First day wanted (Time).
        end: First day no longer wanted (Time).
    """

    values: tuple[str, ...] = ()
    start: datetime.date | None = None
    end: datetime.date | None = None

    def __post_init__(self) -> None:
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise InvalidValue(
                "spec.data.blocks.until", f"must be after from {self.start}", self.end
            )

    @property
    def chooses(self) -> bool:
        """Whether anything is chosen."""
        return bool(self.values) or self.start is not None or self.end is not None


def _nameable(value: str) -> bool:
    proper = 0 < len(value) <= _VALUE_LENGTH_MAX and value.isprintable()
    return proper and value == value.strip() and value != WHOLE


def _listed(blocks: Sequence[str]) -> str:
    """Names for a message: the first and the last of many."""
    names = sorted(blocks)
    if len(names) <= _SHOWN_MAX:
        return ", ".join(names)
    half = _SHOWN_MAX // 2
    return f"{', '.join(names[:half])}, ... {', '.join(names[-half:])}"


def _day_of(text: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        pass
    try:
        return datetime.datetime.fromisoformat(text).date()
    except ValueError:
        return None


def _begin(day: datetime.date, period: Period) -> datetime.date:
    match period:
        case Period.DAY:
            return day
        case Period.WEEK:
            return day - datetime.timedelta(days=day.weekday())
        case Period.MONTH:
            return day.replace(day=1)
        case Period.QUARTER:
            return day.replace(
                month=(day.month - 1) // _QUARTER_MONTHS * _QUARTER_MONTHS + 1, day=1
            )
        case Period.YEAR:
            return day.replace(month=1, day=1)


def _next(first: datetime.date, period: Period) -> datetime.date:
    if period is Period.DAY:
        return first + datetime.timedelta(days=1)
    if period is Period.WEEK:
        return first + datetime.timedelta(days=_WEEK_DAYS)
    months = {Period.MONTH: 1, Period.QUARTER: _QUARTER_MONTHS, Period.YEAR: _MONTHS}[period]
    count = first.month - 1 + months
    return datetime.date(first.year + count // _MONTHS, count % _MONTHS + 1, 1)


def _label(day: datetime.date, period: Period) -> str:
    match period:
        case Period.DAY:
            return day.isoformat()
        case Period.WEEK:
            year, week, _ = day.isocalendar()
            return f"{year:04d}-W{week:02d}"
        case Period.MONTH:
            return f"{day.year:04d}-{day.month:02d}"
        case Period.QUARTER:
            return f"{day.year:04d}-Q{(day.month - 1) // _QUARTER_MONTHS + 1}"
        case Period.YEAR:
            return f"{day.year:04d}"


def _span(block: str, period: Period) -> tuple[datetime.date, datetime.date]:
    """First day of a block by time, and first day after it."""
    try:
        match period:
            case Period.DAY:
                first = datetime.date.fromisoformat(block)
            case Period.WEEK:
                first = datetime.date.fromisocalendar(int(block[:4]), int(block[6:]), 1)
            case Period.MONTH:
                first = datetime.date(int(block[:4]), int(block[5:]), 1)
            case Period.QUARTER:
                first = datetime.date(int(block[:4]), (int(block[6:]) - 1) * _QUARTER_MONTHS + 1, 1)
            case Period.YEAR:
                first = datetime.date(int(block), 1, 1)
    except ValueError:
        raise InvalidValue("block", f"must be a {period.value.lower()}", block) from None
    return first, _next(first, period)
