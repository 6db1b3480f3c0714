"""What verification reads of a ledger in SQL, within the caller's transaction.

Entries come as a stream, so that memory stays flat. Nothing here judges, and what cannot be read is
handed on as an error in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from primum.adapters.sql import tables
from primum.adapters.sql.rows import account_of, reservation_of
from primum.domain.budget.book import Account, Head
from primum.domain.budget.chain import Link
from primum.domain.budget.entries import ReservationView
from primum.domain.budget.lines import Line
from primum.domain.budget.shards import Stored
from primum.domain.budget.verification import Cached
from primum.domain.errors import PrimumError

_ROWS_AT_ONCE = 1000

Answer = TypeVar("Answer")
_Row = sa.Row[Any]

_ENTRIES = tables.entries.c
_LINES = sa.select(*[_ENTRIES[name] for name in Line._fields]).order_by(_ENTRIES.seq)
_LINKS = sa.select(*[_ENTRIES[name] for name in Link._fields]).order_by(_ENTRIES.seq)
_LAST = sa.select(sa.func.max(_ENTRIES.seq))
_EVERY_HOLDING = sa.select(tables.holdings)
_WEIGHTS = sa.select(tables.accounts.c.account_id, tables.accounts.c.entries).order_by(
    tables.accounts.c.account_id
)
_RESERVATIONS = sa.select(tables.reservations).where(
    tables.reservations.c.reservation_id.in_(sa.bindparam("names", expanding=True))
)
_STRAYS = (
    sa.select(tables.reservations.c.reservation_id)
    .where(
        ~sa.exists().where(tables.entries.c.reservation_id == tables.reservations.c.reservation_id)
    )
    .order_by(tables.reservations.c.reservation_id)
)


@dataclass(frozen=True, slots=True)
class Accounts:
    """A range of account ids, byte by byte; every text is in exactly one of adjoining ranges.

    Args:
        first: The first of them; ``None`` for no bound.
        before: The first that is behind them; ``None`` for no bound.
    """

    first: str | None = None
    before: str | None = None


def accounts_shared(connection: sa.Connection, *, shards: int) -> list[Accounts]:
    """Ranges of accounts with about as many entries each.

    Args:
        connection: A transaction.
        shards: How many; there may be fewer where accounts are few or of unlike size.
    """
    weights = [
        (name, max(0, entries))
        for name, entries in connection.execute(_WEIGHTS)
        if isinstance(name, str) and isinstance(entries, int)
    ]
    total, passed = sum(weight for _, weight in weights), 0
    cuts: list[str | None] = [None]
    for name, weight in weights:
        # An account begins the next range where most of it lies behind this one's share.
        if passed > 0 and len(cuts) < shards and passed + weight / 2 > total * len(cuts) / shards:
            cuts.append(name)
        passed += weight
    return [Accounts(*ends) for ends in zip(cuts, [*cuts[1:], None], strict=True)]


def last_entry(connection: sa.Connection) -> int:
    """The highest number of an entry; 0 for none."""
    return connection.execute(_LAST).scalar() or 0


def lines(connection: sa.Connection) -> Iterator[Line]:
    """Every entry by number, as stored."""
    return map(Line._make, _streamed(connection, _LINES))


def lines_of(connection: sa.Connection, accounts: Accounts, *, end: int) -> Iterator[Line]:
    """Every entry of some accounts by number, as stored.

    Args:
        connection: A transaction.
        accounts: Whose.
        end: The number of the last entry to look at.
    """
    # An expression, so that no index on accounts tempts a planner away from the order of numbers.
    name = sa.func.coalesce(_ENTRIES.account_id, "")
    query = _LINES.where(_ENTRIES.seq <= end)
    if accounts.first is not None:
        query = query.where(name >= accounts.first)
    if accounts.before is not None:
        query = query.where(name < accounts.before)
    return map(Line._make, _streamed(connection, query))


def links(connection: sa.Connection) -> Iterator[Link]:
    """What of every entry makes the chain, by number."""
    return map(Link._make, _streamed(connection, _LINKS))


def stored_in(connection: sa.Connection) -> Stored:
    """Finds reservations."""

    def found(names: Sequence[str]) -> Mapping[str, ReservationView | PrimumError]:
        rows = connection.execute(_RESERVATIONS, {"names": list(names)})
        return {row.reservation_id: _read(reservation_of, row) for row in rows}

    return found


def cached(connection: sa.Connection, head: Head) -> Cached:
    """Everything that is kept beside the entries."""
    held: dict[str, list[_Row]] = {}
    for row in connection.execute(_EVERY_HOLDING):
        held.setdefault(row.account_id, []).append(row)
    faults: list[str] = []
    accounts: list[Account] = []
    for row in connection.execute(sa.select(tables.accounts)):
        found = _read(lambda row: account_of(row, held.pop(row.account_id, ())), row)
        if isinstance(found, PrimumError):
            faults.append(str(found))
        else:
            accounts.append(found)
    faults += [f"Balances of account {name} must belong to one; found none." for name in held]
    return Cached(
        head=head,
        accounts=accounts,
        reservations_of=stored_in(connection),
        strays=list(connection.execute(_STRAYS).scalars()),
        identities=[
            (row.identity, row.account_id)
            for row in connection.execute(sa.select(tables.identities))
        ],
        faults=faults,
    )


def _streamed(connection: sa.Connection, query: sa.Select[Any]) -> sa.Result[Any]:
    return connection.execute(query, execution_options={"yield_per": _ROWS_AT_ONCE})


def _read(parse: Callable[[_Row], Answer], row: _Row) -> Answer | PrimumError:
    try:
        return parse(row)
    except PrimumError as error:
        return error
