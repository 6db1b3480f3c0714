"""The rows of the ledger in SQL, and the ledger store over them.

Every write begins by locking the row that holds the end of the chain, so that writers follow one
another on both databases. Nothing here decides or computes: rows are what the domain made of
entries.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from primum.adapters.sql import tables
from primum.adapters.sql.engine import Database
from primum.application.bookkeeping import Bookkeeping, Pages, Pen
from primum.application.ports import Clock, LedgerAnchor
from primum.domain.budget import book, verification
from primum.domain.budget.book import LIVE_STATES, Account, Head, Holding
from primum.domain.budget.entries import (
    Entry,
    EntryKind,
    ReservationState,
    ReservationView,
)
from primum.domain.budget.lines import Line, entry_of, line_of
from primum.domain.budget.verification import Cached, Stated
from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import PrimumError, Tampered

_NOTHING = "null"  # What a column holds as JSON where there is no value yet.
_ROWS_AT_ONCE = 1000  # Verification streams; memory stays flat.

Answer = TypeVar("Answer")
_Row = sa.Row[Any]


class SqlLedgerStore(Bookkeeping):
    """``LedgerStore`` on SQLite or PostgreSQL."""

    def __init__(
        self, database: Database, *, clock: Clock, anchor: LedgerAnchor | None = None
    ) -> None:
        super().__init__(SqlRowStore(database), clock=clock, anchor=anchor)


class SqlRowStore:
    """``RowStore`` in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, work: Callable[[Pages], Answer]) -> Answer:
        """Run read-only work on one snapshot."""
        return self._database.read(lambda connection: work(_SqlBook(connection)))

    def write(self, work: Callable[[Pen], Answer]) -> Answer:
        """Run work as one durable transaction, after every other writer's."""

        def locked(connection: sa.Connection) -> Answer:
            pen = _SqlBook(connection)
            pen.lock()
            return work(pen)

        return self._database.write(locked)


def _replacing(table: sa.Table, *keys: str) -> sa.Update:
    """An update of every other column of the row with these keys, given as ``the_<key>``."""
    condition = sa.and_(*(table.c[key] == sa.bindparam(f"the_{key}") for key in keys))
    others: dict[str, Any] = {c.name: sa.bindparam(c.name) for c in table.c if c.name not in keys}
    return sa.update(table).where(condition).values(others)


# Built once: building a statement costs more than running it.
_HEAD = sa.select(tables.head)
_HEAD_LOCKED = _HEAD.with_for_update()
_ACCOUNTS = sa.select(tables.accounts).order_by(tables.accounts.c.opened)
_ACCOUNT = sa.select(tables.accounts).where(tables.accounts.c.account_id == sa.bindparam("name"))
_ACCOUNTS_OF = _ACCOUNTS.join(
    tables.identities, tables.identities.c.account_id == tables.accounts.c.account_id
).where(tables.identities.c.identity == sa.bindparam("identity"))
_RESERVATION = sa.select(tables.reservations).where(
    tables.reservations.c.reservation_id == sa.bindparam("name")
)
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
_STRAYS = (
    sa.select(tables.reservations.c.reservation_id)
    .where(
        ~sa.exists().where(tables.entries.c.reservation_id == tables.reservations.c.reservation_id)
    )
    .order_by(tables.reservations.c.reservation_id)
)
_EARLIER = sa.select(*_LINE).where(
    tables.entries.c.account_id == sa.bindparam("account_id"),
    tables.entries.c.idempotency_key == sa.bindparam("key"),
)
_APPEND = sa.insert(tables.entries)
_REPLACE: dict[str, tuple[sa.Update, sa.Insert]] = {
    table.name: (_replacing(table, *keys), sa.insert(table))
    for table, keys in (
        (tables.head, ("id",)),
        (tables.accounts, ("account_id",)),
        (tables.holdings, ("account_id", "block", "scope")),
        (tables.reservations, ("reservation_id",)),
    )
}
_DROP_HOLDING = sa.delete(tables.holdings).where(
    tables.holdings.c.account_id == sa.bindparam("the_account_id"),
    tables.holdings.c.block == sa.bindparam("the_block"),
    tables.holdings.c.scope == sa.bindparam("the_scope"),
)


class _SqlBook:
    """``Pen`` over one transaction; what was read or written once in it is not read again."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._head: Head | None = None
        self._accounts: dict[str, Account] = {}
        self._reservations: dict[str, ReservationView] = {}

    def lock(self) -> None:
        """Wait for every other writer; what is read from here on is the newest."""
        self._head = self._read_head(_HEAD_LOCKED)

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
        return [_account(row, held.get(row.account_id, ())) for row in rows]

    def accounts_of(self, identity: str) -> Sequence[Account]:
        rows = self._connection.execute(_ACCOUNTS_OF, {"identity": identity}).all()
        return [self._with_holdings(row) for row in rows]

    def _with_holdings(self, row: _Row) -> Account:
        held = self._connection.execute(_HOLDINGS, {"name": row.account_id})
        return _account(row, held.all())

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
            self._reservations[reservation_id] = _reservation(row)
        return self._reservations[reservation_id]

    def reservations(self, *, account_id: str, study_uid: str) -> Sequence[ReservationView]:
        table = tables.reservations
        query = sa.select(table).order_by(table.c.fence)
        if account_id:
            query = query.where(table.c.account_id == account_id)
        if study_uid:
            query = query.where(table.c.study_uid == study_uid)
        return [_reservation(row) for row in self._connection.execute(query)]

    def lapsed(self, now: str) -> Sequence[ReservationView]:
        return [_reservation(row) for row in self._connection.execute(_LAPSED, {"now": now})]

    def queued(self) -> Sequence[ReservationView]:
        return [_reservation(row) for row in self._connection.execute(_QUEUED)]

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
        faults: list[str] = []
        held = self._every_holding()
        cached = Cached(
            head=self.head(),
            accounts=list(
                self._readable(
                    sa.select(tables.accounts),
                    lambda row: _account(row, held.pop(row.account_id, ())),
                    faults,
                )
            ),
            reservations_of=lambda names: {
                item.reservation_id: item
                for item in self._readable(_reservations_named(names), _reservation, faults)
            },
            strays=list(self._connection.execute(_STRAYS).scalars()),
            identities=[
                (row.identity, row.account_id)
                for row in self._connection.execute(sa.select(tables.identities))
            ],
            faults=faults,
        )
        faults += [f"Balances of account {name} must belong to one; found none." for name in held]
        return verification.contradictions(self._lines(_LINES), cached, stated)

    def _lines(self, query: sa.Select[Any]) -> Iterator[Line]:
        rows = self._connection.execute(query, execution_options={"yield_per": _ROWS_AT_ONCE})
        return map(Line._make, rows)

    def _readable(
        self, rows: sa.Select[Any], parse: Callable[[_Row], Answer], faults: list[str]
    ) -> Iterator[Answer]:
        for row in self._connection.execute(rows):
            try:
                yield parse(row)
            except PrimumError as error:
                faults.append(str(error))

    def append(self, entry: Entry) -> None:
        self._connection.execute(_APPEND, line_of(entry)._asdict())

    def put_account(self, account: Account) -> None:
        values = {
            "opened": account.opened,
            "terms": _json_text(book.terms_json(account.terms)),
            "policy": account.policy,
            "identities": _json_text(list(account.identities)),
            "frozen": account.frozen,
            "entries": account.entries,
            "rules": account.rules,
        }
        before = self.account(account.account_id)
        self._put(tables.accounts, {"account_id": account.account_id}, values)
        self._accounts[account.account_id] = account
        self._put_holdings(account, before)
        known = before.identities if before is not None else ()
        for identity in account.identities:
            if identity not in known:
                row = {"identity": identity, "account_id": account.account_id}
                self._connection.execute(sa.insert(tables.identities), row)

    def _put_holdings(self, account: Account, before: Account | None) -> None:
        """Write the holdings that changed, and no others."""
        old = {} if before is None else _holdings_of(before)
        new = _holdings_of(account)
        for (block, scope), held in new.items():
            if old.get((block, scope)) is not held:
                keys = {"account_id": account.account_id, "block": block, "scope": scope}
                self._put(tables.holdings, keys, _holding_values(held))
        for block, scope in old.keys() - new.keys():
            names = {"the_account_id": account.account_id, "the_block": block, "the_scope": scope}
            self._connection.execute(_DROP_HOLDING, names)

    def put_reservation(self, reservation: ReservationView) -> None:
        charged, executed = reservation.charged, reservation.executed
        values = {
            "account_id": reservation.account_id,
            "study_uid": reservation.study_uid,
            "generation": reservation.generation,
            "study": reservation.study,
            "state": reservation.state.value,
            "fence": reservation.fence,
            "lease_until": reservation.lease_until,
            "event": _json_text(reservation.event.to_json()),
            "charge": _json_text(book.charge_json(reservation.charge)),
            "charged": _json_text(None if charged is None else book.charge_json(charged)),
            "executed": _json_text(None if executed is None else executed.to_json()),
            "exposed": _json_text(list(reservation.exposed)),
            "reason": reservation.reason,
            "blocks": _json_text(list(reservation.blocks)),
            "requester": reservation.requester,
            "asking_group": reservation.group,
            "purpose": reservation.purpose,
        }
        keys = {"reservation_id": reservation.reservation_id}
        self._put(tables.reservations, keys, values)
        self._reservations[reservation.reservation_id] = reservation

    def put_head(self, head: Head) -> None:
        values = {"seq": head.seq, "hash": head.hash, "time": head.time}
        self._put(tables.head, {"id": 1}, values)
        self._head = head

    def _put(self, table: sa.Table, keys: Mapping[str, object], values: Mapping[str, Any]) -> None:
        update, insert = _REPLACE[table.name]
        named = {f"the_{key}": value for key, value in keys.items()}
        changed = self._connection.execute(update, {**named, **values})
        if changed.rowcount == 0:
            self._connection.execute(insert, {**keys, **values})


def _reservations_named(names: Sequence[str]) -> sa.Select[Any]:
    table = tables.reservations
    return sa.select(table).where(table.c.reservation_id.in_(names))


def _json_text(value: JSON) -> str:
    return canonical_json(value).decode()


def _holdings_of(account: Account) -> dict[tuple[str, str], Holding]:
    """Blocks and quotas alike, by block and scope; the scope of a block itself is empty."""
    return {(block, ""): held for block, held in account.blocks.items()} | dict(account.quotas)


def _holding_values(held: Holding) -> dict[str, str]:
    return {
        "added": held.added,
        "unlocked": _json_text(book.charge_json(held.unlocked)),
        "arrived": _json_text(book.charge_json(held.arrived)),
        "reserved": _json_text(book.charge_json(held.reserved)),
        "charged": _json_text(book.charge_json(held.charged)),
    }


def _holding(row: _Row) -> Holding:
    return Holding(
        row.added,
        book.charge_of_text(row.unlocked),
        book.charge_of_text(row.arrived),
        book.charge_of_text(row.reserved),
        book.charge_of_text(row.charged),
    )


def _account(row: _Row, held: Sequence[_Row]) -> Account:
    try:
        return Account(
            account_id=row.account_id,
            terms=book.terms_from_json(json.loads(row.terms)),
            policy=row.policy,
            rules=row.rules,
            identities=tuple(json.loads(row.identities)),
            blocks={part.block: _holding(part) for part in held if not part.scope},
            quotas={(part.block, part.scope): _holding(part) for part in held if part.scope},
            frozen=row.frozen,
            entries=row.entries,
            opened=row.opened,
        )
    except (ArithmeticError, KeyError, TypeError, ValueError, PrimumError) as error:
        raise Tampered(f"Account {row.account_id} must be readable; found damaged text.") from error


def _reservation(row: _Row) -> ReservationView:
    try:
        return ReservationView(
            reservation_id=row.reservation_id,
            account_id=row.account_id,
            study_uid=row.study_uid,
            generation=row.generation,
            study=row.study,
            state=ReservationState(row.state),
            fence=row.fence,
            lease_until=row.lease_until,
            event=book.event_of_text(row.event),
            charge=book.charge_of_text(row.charge),
            charged=None if row.charged == _NOTHING else book.charge_of_text(row.charged),
            executed=None if row.executed == _NOTHING else book.event_of_text(row.executed),
            exposed=tuple(json.loads(row.exposed)),
            reason=row.reason,
            blocks=tuple(json.loads(row.blocks)),
            requester=row.requester,
            group=row.asking_group,
            purpose=row.purpose,
        )
    except (KeyError, TypeError, ValueError, PrimumError) as error:
        name = row.reservation_id
        raise Tampered(f"Reservation {name} must be readable; found damaged text.") from error
