"""Blocks: balances per block and quota, and what reservations say about who asked for what.

Revision ID: 0002
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_AT_ONCE = 1000  # A long ledger does not fit into memory.
_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_RULES = (
    '{"quotas":[],"scheduling":{"efficiency":"1","scheduler":"FirstComeFirstServed",'
    '"waitDays":"0"},"unlocking":{"claims":0,"days":"0","rounds":0,"rule":"Immediate",'
    '"slack":"0"}}'
)


def _text(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, _TEXT, primary_key=primary_key, nullable=False)


def upgrade() -> None:
    """Give every account its one block, and every reservation what its first entry says."""
    op.create_table(
        "ledger_holdings",
        _text("account_id", primary_key=True),
        _text("block", primary_key=True),
        _text("scope", primary_key=True),
        _text("added"),
        _text("unlocked"),
        _text("arrived"),
        _text("reserved"),
        _text("charged"),
    )
    _fill_holdings()
    _alter("ledger_accounts", {"rules": _RULES}, ("reserved", "charged"))
    _alter(
        "ledger_reservations",
        {"blocks": '["whole"]', "requester": "", "asking_group": "", "purpose": ""},
        (),
    )
    _fill_reservations()


def _fill_holdings() -> None:
    connection = op.get_bind()
    rows = connection.execute(
        sa.text(
            "SELECT a.account_id, a.reserved, a.charged, e.time FROM ledger_accounts a "
            "JOIN ledger_entries e ON e.seq = a.opened"
        )
    ).all()
    for row in rows:
        nothing = json.dumps(dict.fromkeys(json.loads(row.reserved), "0"), separators=(",", ":"))
        connection.execute(
            sa.text(
                "INSERT INTO ledger_holdings VALUES "
                "(:account, 'whole', '', :added, :nothing, :nothing, :reserved, :charged)"
            ),
            {
                "account": row.account_id,
                "added": row.time,
                "nothing": nothing,
                "reserved": row.reserved,
                "charged": row.charged,
            },
        )


def _alter(table: str, added: dict[str, str], dropped: tuple[str, ...]) -> None:
    """Add columns with a value for the rows that are there, and drop others."""
    with op.batch_alter_table(table) as batch:
        for name, value in added.items():
            column = sa.Column(name, _TEXT, nullable=False, server_default=value)
            batch.add_column(column)
        for name in dropped:
            batch.drop_column(name)
    with op.batch_alter_table(table) as batch:
        for name in added:
            batch.alter_column(name, existing_type=_TEXT, server_default=None)


def _fill_reservations() -> None:
    connection, after = op.get_bind(), 0
    entries = sa.text(
        "SELECT seq, reservation_id, payload FROM ledger_entries "
        "WHERE kind IN ('Reserved', 'Denied') AND reservation_id <> '' AND seq > :after "
        "ORDER BY seq LIMIT :most"
    )
    update = sa.text(
        "UPDATE ledger_reservations SET requester = :requester, purpose = :purpose "
        "WHERE reservation_id = :name"
    )
    while rows := connection.execute(entries, {"after": after, "most": _AT_ONCE}).all():
        after = rows[-1].seq
        connection.execute(update, [_asked(row.reservation_id, row.payload) for row in rows])


def _asked(name: str, payload: str) -> dict[str, str]:
    asked = json.loads(payload)["asked"]
    return {"name": name, "requester": asked["requester"], "purpose": asked["purpose"]}


def downgrade() -> None:
    """A ledger is never taken down."""
    raise NotImplementedError("a ledger is never taken down")
