"""A database as the first schema version kept it, filled the way it was filled then."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import command

from primum.adapters.sql.engine import Database
from primum.adapters.sql.migrate import alembic_config
from primum.domain.budget import book

_COLUMNS = {
    "ledger_accounts": (
        "account_id",
        "opened",
        "terms",
        "policy",
        "identities",
        "reserved",
        "charged",
        "frozen",
        "entries",
    ),
    "ledger_reservations": (
        "reservation_id",
        "account_id",
        "study_uid",
        "generation",
        "study",
        "state",
        "fence",
        "lease_until",
        "event",
        "charge",
        "charged",
        "executed",
        "exposed",
        "reason",
    ),
    "ledger_identities": ("identity", "account_id"),
}


def fill(url, rows):
    """Write the rows of a ledger in memory into an empty database of the first schema.

    Args:
        url: Of the database.
        rows: A ledger that has seen nothing that came later: no blocks, rules, groups or queue.
    """
    database = Database(url)

    def work(connection):
        command.upgrade(alembic_config(connection), "0001")
        for line in rows.lines:
            _insert(connection, "ledger_entries", line._asdict())
        connection.execute(
            sa.text("UPDATE ledger_head SET seq = :seq, hash = :hash, time = :time"),
            {"seq": rows.head.seq, "hash": rows.head.hash, "time": rows.head.time},
        )
        for account in rows.accounts.values():
            _insert(connection, "ledger_accounts", _account(account))
            for identity in account.identities:
                pair = {"identity": identity, "account_id": account.account_id}
                _insert(connection, "ledger_identities", pair)
        for reservation in rows.reservations.values():
            _insert(connection, "ledger_reservations", _reservation(reservation))

    database.write(work)
    database.close()


def _insert(connection, table, values):
    names = _COLUMNS.get(table, tuple(values))
    assert tuple(values) == names
    holders = ", ".join(f":{name}" for name in names)
    statement = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({holders})"
    connection.execute(sa.text(statement), values)


def _account(account):
    whole = account.blocks["whole"]
    return {
        "account_id": account.account_id,
        "opened": account.opened,
        "terms": _text(book.terms_json(account.terms)),
        "policy": account.policy,
        "identities": _text(list(account.identities)),
        "reserved": _text(whole.reserved.to_json()),
        "charged": _text(whole.charged.to_json()),
        "frozen": account.frozen,
        "entries": account.entries,
    }


def _reservation(reservation):
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
        "event": _text(reservation.event.to_json()),
        "charge": _text(reservation.charge.to_json()),
        "charged": _text(None if charged is None else charged.to_json()),
        "executed": _text(None if executed is None else executed.to_json()),
        "exposed": _text(list(reservation.exposed)),
        "reason": reservation.reason,
    }


def _text(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
