"""The tables, as they are at the newest schema version. Every change comes with a migration.

Text is compared byte by byte on both databases, because times and names sort as text.
"""

from __future__ import annotations

import sqlalchemy as sa

VERSION = "0002"  # The newest migration; a test compares it with the migrations' own head.

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite counts up only integers.


def _text(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, _TEXT, primary_key=primary_key, nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, _NUMBER, nullable=False)


def _place() -> sa.Column[int]:
    """The order of arrival."""
    return sa.Column("place", _NUMBER, primary_key=True, autoincrement=True)


metadata = sa.MetaData()

entries = sa.Table(
    "ledger_entries",
    metadata,
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
    sa.Index("ix_ledger_entries_account", "account_id", "seq"),
    sa.Index("ix_ledger_entries_reservation", "reservation_id", "seq"),
)

head = sa.Table(
    "ledger_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    _number("seq"),
    _text("hash"),
    _text("time"),
    sa.CheckConstraint("id = 1", name="ck_ledger_head_one"),
)

accounts = sa.Table(
    "ledger_accounts",
    metadata,
    _text("account_id", primary_key=True),
    _number("opened"),
    _text("terms"),
    _text("policy"),
    _text("identities"),
    _text("frozen"),
    _number("entries"),
    _text("rules"),
    sa.UniqueConstraint("opened", name="uq_ledger_accounts_opened"),
)

# A block of an account (an empty scope), or what a quota counts of one.
holdings = sa.Table(
    "ledger_holdings",
    metadata,
    _text("account_id", primary_key=True),
    _text("block", primary_key=True),
    _text("scope", primary_key=True),
    _text("added"),
    _text("unlocked"),
    _text("arrived"),
    _text("reserved"),
    _text("charged"),
)

identities = sa.Table(
    "ledger_identities",
    metadata,
    _text("identity", primary_key=True),
    _text("account_id", primary_key=True),
)

reservations = sa.Table(
    "ledger_reservations",
    metadata,
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
    _text("blocks"),
    _text("requester"),
    _text("asking_group"),
    _text("purpose"),
    sa.Index("ix_ledger_reservations_account", "account_id", "fence"),
    sa.Index("ix_ledger_reservations_study", "study_uid", "fence"),
    sa.Index("ix_ledger_reservations_lease", "state", "lease_until"),
)

plans = sa.Table(
    "plans",
    metadata,
    _text("study_uid", primary_key=True),
    sa.Column("generation", _NUMBER, primary_key=True, autoincrement=False),
    _text("digest"),
    _text("body"),
)

steps = sa.Table(
    "steps",
    metadata,
    _text("outcome_id", primary_key=True),
    _text("study_uid"),
    _number("generation"),
    _text("step"),
    _text("begun"),
)

outcomes = sa.Table(
    "outcomes",
    metadata,
    _text("outcome_id", primary_key=True),
    _text("study_uid"),
    _number("generation"),
    _text("recorded"),
    _text("digest"),
    _text("body"),
)

evidence = sa.Table(
    "evidence",
    metadata,
    _place(),
    _text("study_uid"),
    _number("generation"),
    _text("kind"),
    _text("digest"),
    _text("body"),
    sa.UniqueConstraint("study_uid", "generation", "digest", name="uq_evidence_digest"),
)

facts = sa.Table(
    "facts",
    metadata,
    _place(),
    _text("kind"),
    _text("key"),
    _text("recorded"),
    _text("digest"),
    _text("body"),
    sa.UniqueConstraint("kind", "key", name="uq_facts_key"),
)

resources = sa.Table(
    "resources",
    metadata,
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

counters = sa.Table(
    "counters",
    metadata,
    _text("name", primary_key=True),
    _number("value"),
)

# An entry never changes: the database itself refuses, whoever asks. Dropping the trigger is a
# visible act.
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
