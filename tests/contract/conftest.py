"""The stores under contract: memory, SQLite and PostgreSQL, each with a clock and an anchor the
test can hold.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ledger_words import terms

from primum.adapters.memory import (
    ManualClock,
    MemoryAnchor,
    MemoryEvidenceStore,
    MemoryLedgerStore,
    MemoryResourceStore,
)
from primum.domain.budget.entries import ResultCode


@pytest.fixture(
    params=["memory", "sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)],
    ids=lambda p: p,
)
def stores(request, fast_folder):
    """One implementation of every store."""
    clock, anchor = ManualClock(), MemoryAnchor()
    if request.param == "memory":
        yield SimpleNamespace(
            kind="memory",
            ledger=MemoryLedgerStore(clock=clock, anchor=anchor),
            evidence=MemoryEvidenceStore(),
            resources=MemoryResourceStore(clock=clock),
            clock=clock,
            anchor=anchor,
        )
        return
    from primum.adapters.sql import migrate, open_stores

    if request.param == "sqlite":
        url = f"sqlite:///{fast_folder}/primum.db"
    else:
        url = request.getfixturevalue("new_postgresql")()
    migrate(url)
    opened = open_stores(url, clock, anchor)
    yield SimpleNamespace(
        kind=request.param,
        url=url,
        ledger=opened.ledger,
        evidence=opened.evidence,
        resources=opened.resources,
        database=opened.database,
        clock=clock,
        anchor=anchor,
    )
    opened.close()


@pytest.fixture
def ledger(stores):
    """The ledger; intact after every test that did not break it on purpose."""
    yield stores.ledger
    if not getattr(stores, "broken", False):
        assert stores.ledger.verify() == ()


@pytest.fixture
def account(ledger):
    """The id of an open account."""
    account_id, result = ledger.open_account(terms(), actor="steward:grace")
    assert result.code is ResultCode.ACCEPTED
    return account_id
