"""Opens the stores of one database together."""

from __future__ import annotations

from dataclasses import dataclass

from primum.adapters.sql.engine import Database
from primum.adapters.sql.evidence import SqlEvidenceStore
from primum.adapters.sql.ledger import SqlLedgerStore
from primum.adapters.sql.resources import SqlResourceStore
from primum.application.ports import Clock, LedgerAnchor


@dataclass(frozen=True, slots=True)
class Stores:
    """Everything that one database keeps."""

    ledger: SqlLedgerStore
    evidence: SqlEvidenceStore
    resources: SqlResourceStore
    database: Database

    def close(self) -> None:
        """Let go of every connection."""
        self.database.close()


def open_stores(url: str, clock: Clock, anchor: LedgerAnchor | None = None) -> Stores:
    """Open the stores of a database that ``migrate`` has prepared; connects on first use.

    Args:
        url: ``sqlite:///path`` or ``postgresql://user@host/name``.
        clock: Stamps entries and resources.
        anchor: Remembers the end of the ledger outside the database.

    Returns:
        The stores; several processes may hold some of the same database.

    Raises:
        InvalidValue: If the URL is of no supported database.
    """
    database = Database(url)
    return Stores(
        ledger=SqlLedgerStore(database, clock=clock, anchor=anchor),
        evidence=SqlEvidenceStore(database, clock=clock),
        resources=SqlResourceStore(database, clock=clock),
        database=database,
    )
