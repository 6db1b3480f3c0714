"""Long ledgers in a database, put there in bulk: as if their commands had been given."""

from __future__ import annotations

import itertools

import sqlalchemy as sa

from primum.adapters.sql import rows, tables
from primum.adapters.sql.pen import Batch

LINES_AT_ONCE = 10_000


def filled(stores, long):
    """Put a synthetic ledger into stores, some lines at a time."""
    stream = iter(long)
    while lines := list(itertools.islice(stream, LINES_AT_ONCE)):
        # A Study's lines may be cut: what is open is written again with the next ones.
        made = long.taken()
        long.reservations |= {name: r for name, r in made.items() if r.charged is None}
        stores.database.write(lambda c, new=lines, held=made: _put(c, new, held))
    last = Batch(head=long.head, accounts=long.accounts, reservations=long.taken())
    stores.database.write(lambda c: rows.put(c, last, dict.fromkeys(long.accounts)))
    return stores


def _put(connection, lines, reservations):
    insert = sa.insert(tables.entries)
    connection.execute(insert, [line._asdict() for line in lines])
    rows.put(connection, Batch(reservations=reservations), {})
