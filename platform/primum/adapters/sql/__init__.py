"""Ledger, evidence and resources on SQLite and PostgreSQL: the only door to SQLAlchemy and Alembic.

SQLite runs in WAL mode with full synchronization and one writer at a time; PostgreSQL writers queue
on the row that holds the end of the chain. Both give the ledger one durable, serializable
transaction per command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from primum.adapters.sql.engine import Database
from primum.adapters.sql.migrate import migrate
from primum.adapters.sql.resources import SqlResourceStore

if TYPE_CHECKING:
    from primum.adapters.sql.stores import Stores
    from primum.application.ports import Clock, LedgerAnchor

__all__ = ["migrate", "open_resources", "open_stores"]


def open_stores(url: str, clock: Clock, anchor: LedgerAnchor | None = None) -> Stores:
    """Open every store of a prepared database; see ``stores.open_stores``."""
    from primum.adapters.sql import stores  # The ledger brings the whole domain along.

    return stores.open_stores(url, clock, anchor)


def open_resources(url: str, clock: Clock) -> SqlResourceStore:
    """Open the declared resources alone, in half the time of everything."""
    return SqlResourceStore(Database(url), clock=clock)
