"""What the ledger's rows hold, and how they are written in bulk.

A row is what the domain made of entries, as text and numbers. Nothing here decides, and nothing
here reads.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from primum.adapters.sql import tables
from primum.adapters.sql.pen import Batch
from primum.domain.accounting.charges import Charge
from primum.domain.accounting.events import Event
from primum.domain.budget import book
from primum.domain.budget.book import Account, Holding
from primum.domain.budget.entries import ReservationState, ReservationView
from primum.domain.budget.lines import line_of
from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import PrimumError, Tampered

_NOTHING = "null"  # What a column holds as JSON where there is no value yet.
_TEXTS_CACHED = 1024
_ROWS = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False)

_STATES = {state.value: state for state in ReservationState}
_Row = sa.Row[Any]
_Values = dict[str, Any]
_KEYS: dict[str, tuple[str, ...]] = {
    tables.accounts.name: ("account_id",),
    tables.holdings.name: ("account_id", "block", "scope"),
    tables.reservations.name: ("reservation_id",),
}  # By which rows are replaced; every other table's are only added.


def _replacing(insert: Any, table: sa.Table) -> sa.Insert:
    keys = _KEYS.get(table.name, ())
    if not keys:
        added: sa.Insert = insert
        return added
    others = {c.name: insert.excluded[c.name] for c in table.c if c.name not in keys}
    replaced: sa.Insert = insert.on_conflict_do_update(index_elements=list(keys), set_=others)
    return replaced


def _given(table: sa.Table) -> Any:
    """Rows that are given as one JSON text, as a table of PostgreSQL.

    Arrays would say the same, but the driver takes longer to quote them than all else takes.
    """
    columns = [
        sa.column(c.name, sa.BigInteger() if isinstance(c.type, sa.Integer) else sa.Text())
        for c in table.c
    ]
    text = sa.cast(sa.bindparam(table.name, type_=sa.Text()), postgresql.JSON())
    found = sa.func.json_to_recordset(text).table_valued(*columns)
    return found.render_derived(with_types=True)


def _everything_on_postgresql() -> sa.Update:
    """All tables in one statement: each round trip would cost as much as the rows of a group."""
    given = _given(tables.head)
    values = {c.name: given.c[c.name] for c in tables.head.c if c.name != "id"}
    statement = sa.update(tables.head).where(tables.head.c.id == given.c.id).values(values)
    for table in _WRITTEN:
        rows, names = _given(table), [c.name for c in table.c]
        insert = postgresql.insert(table).from_select(names, sa.select(*rows.c))
        statement = statement.add_cte(_replacing(insert, table).cte(f"written_{table.name}"))
    return statement


_WRITTEN = (
    tables.entries,
    tables.accounts,
    tables.holdings,
    tables.identities,
    tables.reservations,
)
# Built once: building a statement costs more than running it.
_EVERYTHING = _everything_on_postgresql()
_MANY = {table.name: _replacing(sqlite.insert(table), table) for table in _WRITTEN}
_MOVE_HEAD = (
    sa.update(tables.head)
    .where(tables.head.c.id == sa.bindparam("the_id"))
    .values({name: sa.bindparam(name) for name in ("seq", "hash", "time")})
)
_DROP_HOLDING = sa.delete(tables.holdings).where(
    tables.holdings.c.account_id == sa.bindparam("the_account_id"),
    tables.holdings.c.block == sa.bindparam("the_block"),
    tables.holdings.c.scope == sa.bindparam("the_scope"),
)


def put(connection: sa.Connection, batch: Batch, stored: Mapping[str, Account | None]) -> None:
    """Write a batch.

    Args:
        connection: The transaction; it holds the lock of the chain's end.
        batch: What to write.
        stored: How the batch's accounts stand in the database; ``None`` for new ones.
    """
    # One order for every writer, so that row locks cannot deadlock.
    accounts = [batch.accounts[name] for name in sorted(batch.accounts)]
    changed, dropped = _changed_holdings(accounts, stored)
    if dropped:
        connection.execute(_DROP_HOLDING, dropped)
    written: dict[str, Sequence[_Values]] = {
        tables.entries.name: [line_of(entry)._asdict() for entry in batch.entries.values()],
        tables.accounts.name: [_account_values(item) for item in accounts],
        tables.holdings.name: changed,
        tables.identities.name: _new_identities(accounts, stored),
        tables.reservations.name: [_reservation_values(r) for r in batch.reservations.values()],
    }
    head = batch.head
    ends = [{"id": 1, "seq": head.seq, "hash": head.hash, "time": head.time}] if head else []
    if connection.dialect.name == "postgresql":
        everything = written | {tables.head.name: ends}
        texts = {name: _ROWS.encode(values) for name, values in everything.items()}
        connection.execute(_EVERYTHING, texts)
        return
    for name, values in written.items():
        if values:
            connection.execute(_MANY[name], values)
    for end in ends:
        connection.execute(_MOVE_HEAD, {"the_id": end.pop("id"), **end})


def _changed_holdings(
    accounts: Sequence[Account], stored: Mapping[str, Account | None]
) -> tuple[list[_Values], list[_Values]]:
    """The holdings to write, which are those that changed, and the keys of those to drop."""
    changed, dropped = [], []
    for account in accounts:
        before = stored[account.account_id]
        old = {} if before is None else _holdings_of(before)
        new = _holdings_of(account)
        for (block, scope), held in new.items():
            if old.get((block, scope)) is not held:
                keys = {"account_id": account.account_id, "block": block, "scope": scope}
                changed.append(keys | _holding_values(held))
        for block, scope in sorted(old.keys() - new.keys()):
            names = {"the_account_id": account.account_id, "the_block": block, "the_scope": scope}
            dropped.append(names)
    return changed, dropped


def _new_identities(
    accounts: Sequence[Account], stored: Mapping[str, Account | None]
) -> list[_Values]:
    found = []
    for account in accounts:
        before = stored[account.account_id]
        known = before.identities if before is not None else ()
        found += [
            {"identity": identity, "account_id": account.account_id}
            for identity in account.identities
            if identity not in known
        ]
    return found


def _account_values(account: Account) -> _Values:
    return {
        "account_id": account.account_id,
        "opened": account.opened,
        "terms": _json_text(book.terms_json(account.terms)),
        "policy": account.policy,
        "identities": _json_text(list(account.identities)),
        "frozen": account.frozen,
        "entries": account.entries,
        "rules": account.rules,
    }


def _reservation_values(reservation: ReservationView) -> _Values:
    charged, executed = reservation.charged, reservation.executed
    return {
        "reservation_id": reservation.reservation_id,
        "account_id": reservation.account_id,
        "study_uid": reservation.study_uid,
        "generation": reservation.generation,
        "study": reservation.study,
        "state": reservation.state.value,
        "fence": reservation.fence,
        "lease_until": reservation.lease_until,
        "event": _event_text(reservation.event),
        "charge": _charge_text(reservation.charge),
        "charged": _NOTHING if charged is None else _charge_text(charged),
        "executed": _NOTHING if executed is None else _event_text(executed),
        "exposed": _names_text(reservation.exposed),
        "reason": reservation.reason,
        "blocks": _names_text(reservation.blocks),
        "requester": reservation.requester,
        "asking_group": reservation.group,
        "purpose": reservation.purpose,
    }


def _json_text(value: JSON) -> str:
    return canonical_json(value).decode()


# Most plans are repeats, and a reservation is written once for each of its entries.
@functools.lru_cache(maxsize=_TEXTS_CACHED)
def _event_text(event: Event) -> str:
    return _json_text(event.to_json())


@functools.lru_cache(maxsize=_TEXTS_CACHED)
def _charge_text(charge: Charge) -> str:
    return _json_text(book.charge_json(charge))


@functools.lru_cache(maxsize=_TEXTS_CACHED)
def _names_of_text(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


@functools.lru_cache(maxsize=_TEXTS_CACHED)
def _names_text(names: tuple[str, ...]) -> str:
    return _json_text(names)


def _holdings_of(account: Account) -> dict[tuple[str, str], Holding]:
    """Blocks and quotas alike, by block and scope; the scope of a block itself is empty."""
    return {(block, ""): held for block, held in account.blocks.items()} | dict(account.quotas)


def _holding_values(held: Holding) -> dict[str, str]:
    return {
        "added": held.added,
        "unlocked": _charge_text(held.unlocked),
        "arrived": _charge_text(held.arrived),
        "reserved": _charge_text(held.reserved),
        "charged": _charge_text(held.charged),
    }


def _holding(row: _Row) -> Holding:
    return Holding(
        row.added,
        book.charge_of_text(row.unlocked),
        book.charge_of_text(row.arrived),
        book.charge_of_text(row.reserved),
        book.charge_of_text(row.charged),
    )


def account_of(row: _Row, held: Sequence[_Row]) -> Account:
    """The account of a row and of its holdings' rows.

    Raises:
        Tampered: If they cannot be read.
    """
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


def reservation_of(row: Sequence[Any]) -> ReservationView:
    """The reservation of a row of its table.

    Raises:
        Tampered: If it cannot be read.
    """
    # By place: a verification reads a million, and looking columns up by name takes half the time.
    (
        reservation_id,
        account_id,
        study_uid,
        generation,
        study,
        state,
        fence,
        lease_until,
        event,
        charge,
        charged,
        executed,
        exposed,
        reason,
        blocks,
        requester,
        group,
        purpose,
    ) = row
    try:
        return ReservationView(
            reservation_id,
            account_id,
            study_uid,
            generation,
            study,
            _STATES[state],
            fence,
            lease_until,
            book.event_of_text(event),
            book.charge_of_text(charge),
            None if charged == _NOTHING else book.charge_of_text(charged),
            None if executed == _NOTHING else book.event_of_text(executed),
            _names_of_text(exposed),
            reason,
            _names_of_text(blocks),
            requester,
            group,
            purpose,
        )
    except (KeyError, TypeError, ValueError, PrimumError) as error:
        text = f"Reservation {reservation_id} must be readable; found damaged text."
        raise Tampered(text) from error
