"""The balances of a ledger as they are stored, changed behind its back."""

from __future__ import annotations

import json
from dataclasses import replace

from primum.domain.accounting.charges import Charge


class Holdings:
    """The balances as stored, changed behind the ledger's back."""

    def __init__(self, stores):
        self.stores = stores
        stores.broken = True

    def change(self, account, key, column, text):
        """Replace a piece of one stored balance; the row of (block, scope)."""
        if self.stores.kind == "memory":
            self._in_memory(account, key, column, text)
            return
        name, scope = key
        statement = (
            f"UPDATE ledger_holdings SET {column} = '{text}' WHERE account_id = '{account}' "
            f"AND block = '{name}' AND scope = '{scope}'"
        )

        def work(connection):
            assert connection.exec_driver_sql(statement).rowcount == 1

        self.stores.database.write(work)

    def _in_memory(self, account, key, column, text):
        rows = self.stores.ledger.store.rows
        before = rows.accounts[account]
        found = before.quotas[key] if key[1] else before.blocks[key[0]]
        value = text if column == "added" else Charge.from_json(json.loads(text))
        changed = replace(found, **{column: value})
        if key[1]:
            rows.accounts[account] = replace(before, quotas={**before.quotas, key: changed})
        else:
            rows.accounts[account] = replace(before, blocks={**before.blocks, key[0]: changed})

    def invent(self, account, key):
        """Add a row that no entry speaks of."""
        if self.stores.kind == "memory":
            rows = self.stores.ledger.store.rows
            before = rows.accounts[account]
            like = next(iter(before.blocks.values()))
            if key[1]:
                rows.accounts[account] = replace(before, quotas={**before.quotas, key: like})
            else:
                rows.accounts[account] = replace(before, blocks={**before.blocks, key[0]: like})
            return
        name, scope = key
        nothing = '{"mu2":"0"}'
        statement = (
            f"INSERT INTO ledger_holdings VALUES ('{account}', '{name}', '{scope}', "
            f"'2026-01-01T00:00:00.000000Z', '{nothing}', '{nothing}', '{nothing}', '{nothing}')"
        )
        self.stores.database.write(lambda connection: connection.exec_driver_sql(statement))
