"""Who only looks into the ledger's database needs no right to write there, and has none."""

from __future__ import annotations

import contextlib

import pytest
from ledger_words import request, reserve, terms

from primum.adapters.kfp_runs import KFP_RUN
from primum.adapters.sql import migrate, open_stores
from primum.adapters.system import SystemClock
from primum.domain.errors import PrimumError

pytestmark = pytest.mark.postgres
READER = "looks"


@pytest.fixture
def urls(new_postgresql):
    """The platform's own URL, and one of a user who may only read."""
    import psycopg

    url = new_postgresql()
    migrate(url)
    schema = url.rpartition("%3D")[2]
    with contextlib.closing(psycopg.connect(url.replace("+psycopg", ""))) as connection:
        connection.autocommit = True
        known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (READER,))
        if known.fetchone() is None:
            connection.execute(f"CREATE ROLE {READER} LOGIN")
        connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO {READER}")
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {READER}")
    return url, url.replace("//primum@", f"//{READER}@")


def test_the_webhooks_questions_are_answered_to_a_reader(urls):
    url, reading = urls
    own = open_stores(url, SystemClock())
    account, _ = own.ledger.open_account(terms(), actor="steward/ada")
    assert reserve(own.ledger, request(account, "held")).stands
    own.evidence.put_fact(KFP_RUN, "theirs", {"runId": "ours"})
    looks = open_stores(reading, SystemClock())
    try:
        assert looks.ledger.reservation("held").account_id == account
        assert looks.ledger.reservation("none") is None
        assert looks.evidence.fact(KFP_RUN, "theirs") == {"runId": "ours"}
        assert looks.ledger.head() == own.ledger.head()
        with pytest.raises(PrimumError):
            reserve(looks.ledger, request(account, "mine"))
        assert own.ledger.reservation("mine") is None
    finally:
        looks.close()
        own.close()
