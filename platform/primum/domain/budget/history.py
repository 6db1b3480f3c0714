"""An account's past, entry by entry: what burn-downs, forecasts and spending reports are made of.

``History.take`` looks at each entry once, folds it as the ledger does, and keeps a bounded number
of points per block, so that an account with a million entries costs no more memory than one with a
thousand. Nothing here may decide, read a store or hold a record-level value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.charges import Charge
from primum.domain.accounting.events import Composed, Event, Repeated
from primum.domain.budget import folding
from primum.domain.budget.book import Account, Holding
from primum.domain.budget.entries import Entry, EntryKind, ReservationState, ReservationView
from primum.domain.budget.forecast import SPENDS_MAX, Spend

POINTS_MAX = 240  # Per block: what a chart can show.
BLOCK_POINTS_MAX = 48  # The same where there are many blocks.
BLOCKS_MANY = 32
EVENTS_MAX = 32  # Different events composed for comparison; each costs an accountant milliseconds.
CELLS_MAX = 50_000  # Of the spending report; older ones are put together.
EARLIER = "(earlier)"
_OPEN = (ReservationState.QUEUED, ReservationState.RESERVED, ReservationState.EXPOSED)
_MOVING = (EntryKind.RESERVED, EntryKind.CHARGED, EntryKind.RETURNED)


@dataclass(frozen=True, slots=True)
class Point:
    """What one block held and had spent right after an entry."""

    seq: int
    time: str
    reserved: Charge
    charged: Charge
    guarantee: Guarantee

    @property
    def used(self) -> Charge:
        """Reserved and charged together."""
        return self.reserved + self.charged


class Series:
    """A block's points, thinned evenly as they grow; the last one is always there.

    Args:
        limit: The most points kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: list[Point] = []
        self._last: Point | None = None
        self._stride = 1
        self._seen = 0

    def add(self, point: Point) -> None:
        """Take the next point."""
        if self._seen % self._stride == 0:
            self._kept.append(point)
        self._seen += 1
        self._last = point
        if len(self._kept) >= self.limit:
            self._kept = self._kept[::2]
            self._stride *= 2

    def points(self) -> tuple[Point, ...]:
        """What is kept, oldest first."""
        if self._last is None or self._kept[-1] is self._last:
            return tuple(self._kept)
        return (*self._kept, self._last)


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asked for what: what spending is put together by."""

    requester: str
    group: str
    study: str
    purpose: str


@dataclass(slots=True)
class Cell:
    """What one Study of one requester took on one day from the same blocks."""

    day: str
    asked: Asked
    blocks: tuple[str, ...]
    charge: Charge
    charges: int
    first: str
    last: str


class History:
    """What an account's entries come to; fed in order, asked at any time."""

    def __init__(self) -> None:
        self.account: Account | None = None
        self.opened: Guarantee | None = None
        self.seq = 0
        self.hash = ""
        self.time = ""
        self._series: dict[str, Series] = {}
        self._spends: dict[str, deque[Spend]] = {}
        self._events: dict[str, dict[Event, int]] = {}
        self._open: dict[str, ReservationView] = {}
        self._cells: dict[tuple[str, Asked, tuple[str, ...]], Cell] = {}

    def take(self, entry: Entry) -> None:
        """Look at the account's next entry.

        Raises:
            Tampered: If it contradicts what came before it.
        """
        name = entry.reservation_id
        before = self.account
        account, reservation = folding.fold(entry, before, self._open.get(name) if name else None)
        if reservation is not None and reservation.state in _OPEN:
            self._open[name] = reservation
        elif name:
            self._open.pop(name, None)
        self.account, self.seq, self.hash = account, entry.seq, entry.hash
        self.time = entry.time
        if account is None:
            return
        if self.opened is None:
            self.opened = account.guarantee
        touched: Iterable[str] = account.blocks.keys() - self._series.keys()
        if entry.kind in _MOVING and reservation is not None:
            touched = reservation.blocks
        for block in touched:
            self._mark(block, account.blocks[block], entry, account)
        if entry.kind is EntryKind.CHARGED and reservation is not None:
            self._spent(entry, reservation)

    def _mark(self, block: str, holding: Holding, entry: Entry, account: Account) -> None:
        series = self._series.get(block)
        if series is None:
            many = len(account.blocks) > BLOCKS_MANY
            series = self._series[block] = Series(BLOCK_POINTS_MAX if many else POINTS_MAX)
        series.add(
            Point(entry.seq, entry.time, holding.reserved, holding.charged, account.guarantee)
        )

    def _spent(self, entry: Entry, reservation: ReservationView) -> None:
        charge = reservation.charged
        if charge is None or charge.is_zero:
            return
        happened = reservation.executed or reservation.event
        for block in reservation.blocks:
            kept = self._spends.setdefault(block, deque(maxlen=SPENDS_MAX))
            kept.append(Spend(entry.time, charge))
            events = self._events.setdefault(block, {})
            if happened in events or len(events) <= EVENTS_MAX:
                events[happened] = events.get(happened, 0) + 1
        asked = Asked(
            reservation.requester, reservation.group, reservation.study, reservation.purpose
        )
        self._gather(entry.time[:10], asked, reservation.blocks, charge, entry.time)

    def _gather(
        self, day: str, asked: Asked, blocks: tuple[str, ...], charge: Charge, time: str
    ) -> None:
        key = (day, asked, blocks)
        cell = self._cells.get(key)
        if cell is None:
            self._cells[key] = Cell(day, asked, blocks, charge, 1, time, time)
            if len(self._cells) > CELLS_MAX:
                self._put_together()
            return
        cell.charge = cell.charge + charge
        cell.charges += 1
        cell.last = time

    def _put_together(self) -> None:
        """Add up the oldest tenth, by blocks: who it was is then only in the entries."""
        oldest = list(self._cells.items())[: CELLS_MAX // 10]
        day = oldest[-1][1].day
        for key, _ in oldest:
            del self._cells[key]
        asked = Asked(EARLIER, EARLIER, EARLIER, EARLIER)
        earlier: dict[tuple[str, Asked, tuple[str, ...]], Cell] = {}
        for _, cell in oldest:
            key = (day, asked, cell.blocks)
            found = earlier.get(key)
            if found is None:
                cell.day, cell.asked = day, asked
                earlier[key] = cell
                continue
            found.charge = found.charge + cell.charge
            found.charges += cell.charges
            found.last = max(found.last, cell.last)
        self._cells = {**earlier, **self._cells}

    def points(self, block: str) -> tuple[Point, ...]:
        """A block's points, oldest first; nothing for one that does not exist."""
        series = self._series.get(block)
        return series.points() if series is not None else ()

    def spends(self, block: str) -> tuple[Spend, ...]:
        """A block's charges above zero, oldest first; the newest 4096."""
        return tuple(self._spends.get(block, ()))

    def happened(self, block: str) -> Event | None:
        """Everything charged to a block as one event; ``None`` beyond 32 different ones."""
        events = self._events.get(block, {})
        if len(events) > EVENTS_MAX:
            return None
        return Composed(tuple(Repeated(event, count) for event, count in events.items()))

    def cells(self) -> Iterator[Cell]:
        """What was spent, by day and Study, oldest first."""
        return iter(self._cells.values())

    def open_reservations(self) -> tuple[ReservationView, ...]:
        """What is held or waits, oldest first."""
        return tuple(self._open.values())
