"""The first schema: ledger, evidence, and resources.

Revision ID: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, _TEXT, primary_key=primary_key, nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, _NUMBER, nullable=False)


def _place() -> sa.Column[int]:
    return sa.Column("place", _NUMBER, primary_key=True, autoincrement=True)


APPEND_ONLY = {
    "sqlite": (
        "CREATE TRIGGER ledger_entries_no_update BEFORE UPDATE ON ledger_entries "
        "BEGIN SELECT RAISE(ABORT, 'ledger entries are append-only'); END",
        "CREATE TRIGGER ledger_entries_no_delete BEFORE DELETE ON ledger_entries "
        "BEGIN SELECT RAISE(ABORT, 'ledger entries are append-only'); END",
    ),
    "postgresql": (
        "CREATE FUNCTION ledger_entries_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'ledger entries are append-only'; END $$",
        "CREATE TRIGGER ledger_entries_no_change BEFORE UPDATE OR DELETE ON ledger_entries "
        "FOR EACH ROW EXECUTE FUNCTION ledger_entries_refuse()",
        "CREATE TRIGGER ledger_entries_no_truncate BEFORE TRUNCATE ON ledger_entries "
        "FOR EACH STATEMENT EXECUTE FUNCTION ledger_entries_refuse()",
    ),
}


def upgrade() -> None:
    """Make every table, the first head and the first counter."""
    _ledger()
    _accounts()
    _reservations()
    _evidence()
    _resources()
    for statement in APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)
    op.execute(
        "INSERT INTO ledger_head (id, seq, hash, time) VALUES (1, 0, '" + "0" * 64 + "', '')"
    )
    op.execute("INSERT INTO counters (name, value) VALUES ('resource_version', 0)")


def _ledger() -> None:
    op.create_table(
        "ledger_entries",
        sa.Column("seq", _NUMBER, primary_key=True, autoincrement=False),
        _text("prev_hash"),
        _text("account_id"),
        _text("kind"),
        _text("reservation_id"),
        _text("idempotency_key"),
        _text("actor"),
        _text("time"),
        _text("payload"),
        _text("hash"),
        sa.UniqueConstraint("account_id", "idempotency_key", name="uq_ledger_entries_key"),
    )
    op.create_index("ix_ledger_entries_account", "ledger_entries", ["account_id", "seq"])
    op.create_index("ix_ledger_entries_reservation", "ledger_entries", ["reservation_id", "seq"])
    op.create_table(
        "ledger_head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        _number("seq"),
        _text("hash"),
        _text("time"),
        sa.CheckConstraint("id = 1", name="ck_ledger_head_one"),
    )


def _accounts() -> None:
    op.create_table(
        "ledger_accounts",
        _text("account_id", primary_key=True),
        _number("opened"),
        _text("terms"),
        _text("policy"),
        _text("identities"),
        _text("reserved"),
        _text("charged"),
        _text("frozen"),
        _number("entries"),
        sa.UniqueConstraint("opened", name="uq_ledger_accounts_opened"),
    )
    op.create_table(
        "ledger_identities",
        _text("identity", primary_key=True),
        _text("account_id", primary_key=True),
    )


def _reservations() -> None:
    op.create_table(
        "ledger_reservations",
        _text("reservation_id", primary_key=True),
        _text("account_id"),
        _text("study_uid"),
        _number("generation"),
        _text("study"),
        _text("state"),
        _number("fence"),
        _text("lease_until"),
        _text("event"),
        _text("charge"),
        _text("charged"),
        _text("executed"),
        _text("exposed"),
        _text("reason"),
    )
    op.create_index(
        "ix_ledger_reservations_account", "ledger_reservations", ["account_id", "fence"]
    )
    op.create_index("ix_ledger_reservations_study", "ledger_reservations", ["study_uid", "fence"])
    op.create_index("ix_ledger_reservations_lease", "ledger_reservations", ["state", "lease_until"])


def _evidence() -> None:
    op.create_table(
        "plans",
        _text("study_uid", primary_key=True),
        sa.Column("generation", _NUMBER, primary_key=True, autoincrement=False),
        _text("digest"),
        _text("body"),
    )
    op.create_table(
        "steps",
        _text("outcome_id", primary_key=True),
        _text("study_uid"),
        _number("generation"),
        _text("step"),
        _text("begun"),
    )
    op.create_table(
        "outcomes",
        _text("outcome_id", primary_key=True),
        _text("study_uid"),
        _number("generation"),
        _text("recorded"),
        _text("digest"),
        _text("body"),
    )
    op.create_table(
        "evidence",
        _place(),
        _text("study_uid"),
        _number("generation"),
        _text("kind"),
        _text("digest"),
        _text("body"),
        sa.UniqueConstraint("study_uid", "generation", "digest", name="uq_evidence_digest"),
    )
    op.create_table(
        "facts",
        _place(),
        _text("kind"),
        _text("key"),
        _text("recorded"),
        _text("digest"),
        _text("body"),
        sa.UniqueConstraint("kind", "key", name="uq_facts_key"),
    )


def _resources() -> None:
    op.create_table(
        "resources",
        _text("kind", primary_key=True),
        _text("namespace", primary_key=True),
        _text("name", primary_key=True),
        _text("uid"),
        _number("generation"),
        _number("resource_version"),
        _text("created"),
        _text("spec"),
        _text("status"),
        _text("labels"),
        _text("owner"),
        _text("deleting"),
        sa.UniqueConstraint("uid", name="uq_resources_uid"),
    )
    op.create_table(
        "counters",
        _text("name", primary_key=True),
        _number("value"),
    )


def downgrade() -> None:
    """A ledger is never taken down."""
    raise NotImplementedError("a ledger is never taken down")
