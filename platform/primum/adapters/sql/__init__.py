"""Ledger, evidence and resources on SQLite and PostgreSQL: the only door to SQLAlchemy and Alembic.

SQLite runs in WAL mode with full synchronization and one writer at a time; PostgreSQL writers queue
on the row that holds the end of the chain. Both give the ledger one durable, serializable
transaction per command.
"""

from __future__ import annotations

from primum.adapters.sql.migrate import migrate
from primum.adapters.sql.stores import Stores, open_stores

__all__ = ["Stores", "migrate", "open_stores"]
