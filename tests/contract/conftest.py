"""The stores under contract: memory, SQLite, PostgreSQL, and memory behind the ledger API.

Each with a clock and an anchor the test can hold.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from api_platform import identify, make_platform
from ledger_server import served
from ledger_words import terms

from primum.adapters.identity import Role
from primum.adapters.ledger_api.client import LedgerApiClient
from primum.adapters.ledger_api.stores import remote_stores
from primum.adapters.memory import (
    ManualClock,
    MemoryAnchor,
    MemoryEvidenceStore,
    MemoryLedgerStore,
    MemoryResourceStore,
    MemorySigner,
)
from primum.domain.budget.entries import ResultCode


class Beneath(SimpleNamespace):
    """Stores behind HTTP: who wants to look beneath the port skips."""

    def __getattr__(self, name):
        pytest.skip(f"{name}: over HTTP there is nothing beneath the port")


class PortAlone:
    """A port over HTTP; what a test wants of one implementation is not there."""

    def __init__(self, port):
        self._port = port

    def __getattr__(self, name):
        if name.startswith("_") or name == "store":
            pytest.skip(f"{name}: over HTTP there is nothing beneath the port")
        return getattr(self._port, name)


@pytest.fixture(scope="session")
def ledger_api():
    """One ledger API for all; each test gives it its own stores."""
    with served(make_platform(), identify) as server:
        client = LedgerApiClient(server.url, lambda: Role.PLATFORM.value, patience_seconds=10.0)
        yield SimpleNamespace(app=server.app, url=server.url, client=client)
        client.close()


@pytest.fixture(
    params=["memory", "http", "sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)],
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
    if request.param == "http":
        yield _over_http(request, clock, anchor)
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


def _over_http(request, clock, anchor):
    api = request.getfixturevalue("ledger_api")
    api.app.state.platform = replace(
        make_platform(clock, MemoryLedgerStore(clock=clock, anchor=anchor)),
        signer=getattr(request.module, "SIGNER", None) or MemorySigner(),
    )
    remote = remote_stores(api.client)
    return Beneath(
        kind="http",
        ledger=PortAlone(remote.ledger),
        evidence=PortAlone(remote.evidence),
        resources=MemoryResourceStore(clock=clock),
        clock=clock,
        anchor=anchor,
    )


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
