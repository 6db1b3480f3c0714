"""The rows of the ledger in SQL, and the ledger store over them.

Every write begins by locking the row that holds the end of the chain, so that writers follow one
another on both databases. Nothing here decides or computes: rows are what the domain made of
entries.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa

from primum.adapters.sql import rows, sharding, tables
from primum.adapters.sql.engine import Database
from primum.adapters.sql.grouping import Done, Grouping, Order
from primum.adapters.sql.pen import Batch, Found, LatePen, Undo
from primum.adapters.sql.rows import account_of, reservation_of
from primum.adapters.sql.sharding import IN_PROCESS, Sharding, by_cores
from primum.application.bookkeeping import Bookkeeping
from primum.application.ports import Clock, LedgerAnchor
from primum.application.rowstore import NOTHING_FORESEEN, Foreseen, Pages, Pen, unwatched
from primum.domain.budget.book import LIVE_STATES, Account, Head
from primum.domain.budget.entries import Entry, EntryKind, ReservationState, ReservationView
from primum.domain.budget.lines import Line, entry_of
from primum.domain.budget.verification import Stated
from primum.domain.errors import Tampered, Unavailable

_ACCOUNTS_KEPT = 64  # From one transaction to the next; a platform has a handful.

Answer = TypeVar("Answer")
_Row = sa.Row[Any]


class SqlLedgerStore(Bookkeeping):
    """``LedgerStore`` on SQLite or PostgreSQL."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock,
        anchor: LedgerAnchor | None = None,
        shared: Sharding | None = None,
    ) -> None:
        """Keep a ledger in a database that ``migrate`` has prepared.

        Args:
            database: Where.
            clock: Stamps entries.
            anchor: Remembers the end of the ledger outside the database.
            shared: How verification is shared out among processes; ``None`` for as many as there
                are cores.
        """
        super().__init__(SqlRowStore(database, shared or by_cores()), clock=clock, anchor=anchor)


@dataclass(frozen=True, slots=True)
class _Written:
    """A work on its way into the database."""

    work: Callable[[Pen], Any]
    foreseen: Foreseen
    durable: Callable[[Head], None]


@dataclass(frozen=True, slots=True)
class _Left:
    """What a transaction left: accounts as they stand while the chain ends there.

    Nothing changes an account without an entry. So whoever holds the lock of the chain's end and
    finds it where this says, knows these accounts without reading them.
    """

    head: Head = field(default_factory=Head)
    accounts: Mapping[str, Account] = field(default_factory=dict)


class SqlRowStore:
    """``RowStore`` in a database; threads that write at the same time share a transaction."""

    def __init__(self, database: Database, shared: Sharding = IN_PROCESS) -> None:
        self._database = database
        self._sharding = shared
        self._grouping: Grouping[_Written] = Grouping(self._write)
        self._left = _Left()

    def read(self, work: Callable[[Pages], Answer]) -> Answer:
        """Run read-only work on one snapshot."""
        return self._database.read(lambda connection: work(_SqlBook(connection, self._sharding)))

    def ask(self, work: Callable[[Pages], Answer]) -> Answer:
        """Run read-only work of one statement."""
        return self._database.ask(lambda connection: work(_SqlBook(connection)))

    def write(
        self,
        work: Callable[[Pen], Answer],
        *,
        foreseen: Foreseen = NOTHING_FORESEEN,
        durable: Callable[[Head], None] = unwatched,
    ) -> Answer:
        """Run work in a durable transaction with whatever else waits, after every other writer's.

        Raises:
            Unavailable: If the database does not answer, or has no room: nothing was written unless
                the answer to the commit was lost. The same command may be repeated.
            Conflict: If it keeps meeting others.
            Tampered: If the ledger cannot be read.
        """
        answer: Answer = self._grouping.submit(_Written(work, foreseen, durable))
        return answer

    def _write(self, group: Sequence[Order[_Written]]) -> Callable[[], None]:
        left, self._left = self._left, _Left()
        try:
            done, before, self._left = self._database.write(
                lambda connection: _together(connection, group, left)
            )
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is its own work's
            return self._one_by_one(group, error)
        for order, what in zip(group, done, strict=True):
            order.done = what

        head = self._left.head

        def finish() -> None:
            if head.seq != before.seq:
                for durable in {order.work.durable for order in group}:
                    durable(head)

        return finish

    def _one_by_one(self, group: Sequence[Order[_Written]], error: Exception) -> Callable[[], None]:
        """Something was written that the database refuses: alone, each work meets only its own."""
        if len(group) == 1:
            group[0].done = Done(error=error)
            return lambda: None
        finishes = []
        for order in group:
            try:
                finishes.append(self._write([order]))
            except Unavailable as fault:
                order.done = Done(error=fault)

        def finish() -> None:
            for each in finishes:
                each()

        return finish


def _together(
    connection: sa.Connection, group: Sequence[Order[_Written]], left: _Left
) -> tuple[list[Done], Head, _Left]:
    """Every work's outcome, where the chain ended before them, and what the transaction leaves."""
    pages = _SqlBook(connection)
    before = pages.lock()
    pen = LatePen(pages, left.accounts if left.head == before else {})
    pen.foresee(_foreseen([order.work.foreseen for order in group]))
    done = []
    for order in group:
        try:
            done.append(Done(pen.run(order.work.work)))
        except sa.exc.SQLAlchemyError:
            raise  # The transaction cannot go on.
        except Exception as error:  # noqa: BLE001 - its caller's, whatever it is
            done.append(Done(error=error))
    pen.flush()
    accounts = pen.known if len(pen.known) <= _ACCOUNTS_KEPT else {}
    return done, before, _Left(pen.head(), accounts)


def _foreseen(parts: Sequence[Foreseen]) -> Foreseen:
    return Foreseen(
        accounts=tuple(sorted({name for part in parts for name in part.accounts})),
        reservations=tuple(sorted({name for part in parts for name in part.reservations})),
        keys=tuple(sorted({name for part in parts for name in part.keys})),
    )


# Built once: building a statement costs more than running it.
_HEAD = sa.select(tables.head).where(tables.head.c.id == 1)
_HEAD_LOCKED = _HEAD.with_for_update()
_ACCOUNTS = sa.select(tables.accounts).order_by(tables.accounts.c.opened)
_ACCOUNT = sa.select(tables.accounts).where(tables.accounts.c.account_id == sa.bindparam("name"))
_ACCOUNTS_OF = _ACCOUNTS.join(
    tables.identities, tables.identities.c.account_id == tables.accounts.c.account_id
).where(tables.identities.c.identity == sa.bindparam("identity"))
_RESERVATION = sa.select(tables.reservations).where(
    tables.reservations.c.reservation_id == sa.bindparam("name")
)
_IN_ORDER = sa.select(tables.reservations).order_by(tables.reservations.c.fence)
_OF_ACCOUNT = tables.reservations.c.account_id == sa.bindparam("account_id")
_OF_STUDY = tables.reservations.c.study_uid == sa.bindparam("study_uid")
_RESERVATIONS_OF = {  # By whether an account, and whether a Study, restricts them.
    (False, False): _IN_ORDER,
    (True, False): _IN_ORDER.where(_OF_ACCOUNT),
    (False, True): _IN_ORDER.where(_OF_STUDY),
    (True, True): _IN_ORDER.where(_OF_ACCOUNT, _OF_STUDY),
}
_LAPSED = (
    sa.select(tables.reservations)
    .where(tables.reservations.c.state.in_([state.value for state in LIVE_STATES]))
    .where(tables.reservations.c.lease_until <= sa.bindparam("now"))
    .order_by(tables.reservations.c.fence)
)
_QUEUED = (
    sa.select(tables.reservations)
    .where(tables.reservations.c.state == ReservationState.QUEUED.value)
    .order_by(tables.reservations.c.fence)
)
_HOLDINGS = sa.select(tables.holdings).where(tables.holdings.c.account_id == sa.bindparam("name"))
_EVERY_HOLDING = sa.select(tables.holdings)
_LINE = [tables.entries.c[name] for name in Line._fields]
_LINES = sa.select(*_LINE).order_by(tables.entries.c.seq)
_CHECKPOINTS = sa.select(*_LINE).where(
    tables.entries.c.account_id == "", tables.entries.c.kind == EntryKind.CHECKPOINT.value
)
_EARLIER = sa.select(*_LINE).where(
    tables.entries.c.account_id == sa.bindparam("account_id"),
    tables.entries.c.idempotency_key == sa.bindparam("key"),
)
_NAMES: sa.BindParameter[str] = sa.bindparam("names", expanding=True)
_RESERVATIONS = sa.select(tables.reservations).where(
    tables.reservations.c.reservation_id.in_(_NAMES)
)
_ACCOUNTS_NAMED = sa.select(tables.accounts).where(tables.accounts.c.account_id.in_(_NAMES))
_HOLDINGS_OF = sa.select(tables.holdings).where(tables.holdings.c.account_id.in_(_NAMES))
_KEYED = sa.select(*_LINE).where(
    tables.entries.c.account_id.in_(_NAMES),
    tables.entries.c.idempotency_key.in_(sa.bindparam("keys", expanding=True)),
)


class _SqlBook:
    """``Pages`` of one transaction, and what a pen needs to write it."""

    def __init__(self, connection: sa.Connection, shared: Sharding = IN_PROCESS) -> None:
        self._connection = connection
        self._sharding = shared
        self._head: Head | None = None
        self._accounts: dict[str, Account] = {}
        self._reservations: dict[str, ReservationView] = {}

    def lock(self) -> Head:
        """Wait for every other writer; what is read from here on is the newest."""
        self._head = self._read_head(_HEAD_LOCKED)
        return self._head

    def head(self) -> Head:
        if self._head is None:
            self._head = self._read_head(_HEAD)
        return self._head

    def _read_head(self, query: sa.Select[Any]) -> Head:
        row = self._connection.execute(query).one_or_none()
        if row is None:
            raise Tampered("The ledger must have an end; found none.")
        return Head(row.seq, row.hash, row.time)

    def account(self, account_id: str) -> Account | None:
        if account_id not in self._accounts:
            row = self._connection.execute(_ACCOUNT, {"name": account_id}).one_or_none()
            if row is None:
                return None
            self._accounts[account_id] = self._with_holdings(row)
        return self._accounts[account_id]

    def accounts(self) -> Sequence[Account]:
        held = self._every_holding()
        rows = self._connection.execute(_ACCOUNTS)
        return [account_of(row, held.get(row.account_id, ())) for row in rows]

    def accounts_of(self, identity: str) -> Sequence[Account]:
        rows = self._connection.execute(_ACCOUNTS_OF, {"identity": identity}).all()
        return [self._with_holdings(row) for row in rows]

    def _with_holdings(self, row: _Row) -> Account:
        held = self._connection.execute(_HOLDINGS, {"name": row.account_id})
        return account_of(row, held.all())

    def _every_holding(self) -> dict[str, list[_Row]]:
        found: dict[str, list[_Row]] = {}
        for row in self._connection.execute(_EVERY_HOLDING):
            found.setdefault(row.account_id, []).append(row)
        return found

    def reservation(self, reservation_id: str) -> ReservationView | None:
        if reservation_id not in self._reservations:
            row = self._connection.execute(_RESERVATION, {"name": reservation_id}).one_or_none()
            if row is None:
                return None
            self._reservations[reservation_id] = reservation_of(row)
        return self._reservations[reservation_id]

    def reservations(self, *, account_id: str, study_uid: str) -> Sequence[ReservationView]:
        query = _RESERVATIONS_OF[bool(account_id), bool(study_uid)]
        named = {"account_id": account_id, "study_uid": study_uid}
        asked = {name: value for name, value in named.items() if value}
        return [reservation_of(row) for row in self._connection.execute(query, asked)]

    def lapsed(self, now: str) -> Sequence[ReservationView]:
        return [reservation_of(row) for row in self._connection.execute(_LAPSED, {"now": now})]

    def queued(self) -> Sequence[ReservationView]:
        return [reservation_of(row) for row in self._connection.execute(_QUEUED)]

    def earlier(self, account_id: str, key: str) -> Entry | None:
        named = {"account_id": account_id, "key": key}
        row = self._connection.execute(_EARLIER, named).one_or_none()
        return None if row is None else entry_of(Line._make(row))

    def entries(self, *, account_id: str, after: int, limit: int) -> Sequence[Entry]:
        column = tables.entries.c
        query = _LINES.where(column.seq > after).limit(limit)
        if account_id:
            query = query.where(column.account_id == account_id)
        return [entry_of(line) for line in self._lines(query)]

    def lines(self, *, after: int, limit: int) -> Sequence[Line]:
        return list(self._lines(_LINES.where(tables.entries.c.seq > after).limit(limit)))

    def checkpoints(self) -> Sequence[Line]:
        return list(self._lines(_CHECKPOINTS.order_by(tables.entries.c.seq)))

    def last_checkpoint(self) -> Head:
        newest = _CHECKPOINTS.order_by(tables.entries.c.seq.desc()).limit(1)
        found = list(self._lines(newest))
        return Head(found[0].seq, found[0].hash, found[0].time) if found else Head()

    def hash_at(self, seq: int) -> str:
        query = sa.select(tables.entries.c.hash).where(tables.entries.c.seq == seq)
        return self._connection.execute(query).scalar() or ""

    def contradictions(self, stated: Sequence[Stated]) -> Sequence[str]:
        return sharding.contradictions(self._connection, self.head(), stated, self._sharding)

    def chain_faults(self) -> Sequence[str]:
        return sharding.chain_faults(self._connection, self.head(), self._sharding)

    def _lines(self, query: sa.Select[Any]) -> Iterator[Line]:
        return map(Line._make, self._connection.execute(query))

    def find(self, foreseen: Foreseen, known: Collection[str]) -> Found:
        reservations = {
            item.reservation_id: item
            for item in map(reservation_of, self._named(_RESERVATIONS, foreseen.reservations))
        }
        names = sorted({*foreseen.accounts, *(r.account_id for r in reservations.values())})
        unknown = [name for name in names if name not in known]
        held: dict[str, list[_Row]] = {}
        for row in self._named(_HOLDINGS_OF, unknown):
            held.setdefault(row.account_id, []).append(row)
        accounts = {
            row.account_id: account_of(row, held.get(row.account_id, ()))
            for row in self._named(_ACCOUNTS_NAMED, unknown)
        }
        entries: dict[tuple[str, str], Entry] = {}
        if names and foreseen.keys:
            rows = self._connection.execute(_KEYED, {"names": names, "keys": list(foreseen.keys)})
            for entry in (entry_of(Line._make(row)) for row in rows):
                entries[entry.account_id, entry.idempotency_key] = entry
        return Found(accounts, reservations, entries)

    def _named(self, query: sa.Select[Any], names: Sequence[str]) -> Sequence[_Row]:
        return self._connection.execute(query, {"names": list(names)}).all() if names else ()

    def put(self, batch: Batch, stored: Mapping[str, Account | None]) -> None:
        rows.put(self._connection, batch, stored)
        self._head, self._accounts, self._reservations = None, {}, {}

    def mark(self) -> Undo:
        return self._connection.begin_nested()
