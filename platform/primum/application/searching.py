"""Find entries: by account, kind, actor, Study, day, in either direction, a page at a time.

A cursor is an entry's number. The ledger only grows, so a page between two cursors never changes.
Every search looks at a bounded number of entries; where the bound is met first, the page may be
short, and its cursor says where to go on. Spends nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from primum.application.ports import LedgerStore
from primum.domain.budget.entries import Entry, EntryKind, ReservationView

SCANNED_MAX = 20_000  # Entries looked at for one page: about a second's work.
WINDOW = 1000  # Entries per read.
PAGE_MAX = 1000


class Order(enum.StrEnum):
    """Which entries come first."""

    OLDEST = "oldest"
    NEWEST = "newest"


class Detail(enum.StrEnum):
    """What is looked up beside an entry."""

    NOTHING = "nothing"
    RESERVATION = "reservation"


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for; empty fields do not restrict.

    Args:
        account_id: The account.
        kinds: Any of these.
        actor: Part of who asked, whatever the case.
        study: Part of ``namespace/name`` of the Study, whatever the case.
        since: First day in UTC, ``2026-01-31``.
        until: Last day in UTC.
    """

    account_id: str = ""
    kinds: tuple[EntryKind, ...] = ()
    actor: str = ""
    study: str = ""
    since: str = ""
    until: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """An entry, and the reservation it belongs to as that stands now, if it was looked up."""

    entry: Entry
    reservation: ReservationView | None


@dataclass(frozen=True, slots=True)
class FoundPage:
    """A page of a search.

    Args:
        items: What was found, in the order asked for.
        cursor: Where the next page begins; ``None`` at the end.
    """

    items: tuple[Found, ...]
    cursor: int | None


def find(
    ledger: LedgerStore,
    search: Search,
    *,
    order: Order = Order.OLDEST,
    cursor: int | None = None,
    limit: int = 100,
    detail: Detail = Detail.RESERVATION,
) -> FoundPage:
    """A page of entries.

    Args:
        ledger: Is only read.
        search: What is looked for.
        order: Which come first.
        cursor: Of the page before: entries after it (oldest first) or before it (newest first).
        limit: The most entries wanted, 1 to 1000.
        detail: What to look up beside each entry.
    """
    limit = max(1, min(limit, PAGE_MAX))
    reservations: dict[str, ReservationView | None] = {}
    items: list[Found] = []
    for seen, entry in enumerate(_walk(ledger, search, order, cursor), 1):
        found = _match(ledger, search, entry, reservations, detail)
        if found is not None:
            items.append(found)
        if len(items) == limit or seen == SCANNED_MAX:
            return FoundPage(tuple(items), entry.seq)
    return FoundPage(tuple(items), None)


def _walk(ledger: LedgerStore, search: Search, order: Order, cursor: int | None) -> Iterator[Entry]:
    """Entries of the account and the days that are wanted, one after the other."""
    first = _first_of(ledger, search.since) if search.since else 1
    if order is Order.OLDEST:
        after = max(cursor or 0, first - 1)
        while page := _page(ledger, search, after, WINDOW):
            for entry in page:
                if search.until and entry.time[:10] > search.until:
                    return
                yield entry
            after = page[-1].seq
        return
    last = _first_of(ledger, _after(search.until)) - 1 if search.until else ledger.head()[0]
    high = min(last, cursor - 1) if cursor is not None else last
    while high >= first:
        low = max(first - 1, high - WINDOW)
        page = [entry for entry in _page(ledger, search, low, high - low) if entry.seq <= high]
        yield from reversed(page)
        high = low


def _page(ledger: LedgerStore, search: Search, after: int, limit: int) -> Sequence[Entry]:
    return ledger.entries(account_id=search.account_id, after=after, limit=limit)


def _after(day: str) -> str:
    """What sorts behind every time of a day, and before every later one."""
    return f"{day}~"


def _first_of(ledger: LedgerStore, day: str) -> int:
    """Number of the first entry at or after a day; the ledger's time never goes back."""
    low, high = 1, ledger.head()[0] + 1
    while low < high:
        middle = (low + high) // 2
        found = ledger.lines(after=middle - 1, limit=1)
        if found and found[0].time < day:
            low = middle + 1
        else:
            high = middle
    return low


def _match(
    ledger: LedgerStore,
    search: Search,
    entry: Entry,
    reservations: dict[str, ReservationView | None],
    detail: Detail,
) -> Found | None:
    if search.kinds and entry.kind not in search.kinds:
        return None
    if search.actor and search.actor.casefold() not in entry.actor.casefold():
        return None
    if detail is Detail.NOTHING and not search.study:
        return Found(entry, None)
    name = entry.reservation_id
    if name and name not in reservations:
        reservations[name] = ledger.reservation(name)
    reservation = reservations[name] if name else None
    if search.study:
        study = reservation.study if reservation is not None else ""
        if search.study.casefold() not in study.casefold():
            return None
    return Found(entry, reservation)
