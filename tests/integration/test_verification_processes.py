"""A long ledger is verified in several processes: they find what one finds, or nothing is said."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import ledger_words
import pytest
from ledger_filling import filled
from ledger_lines import Long

from primum.adapters.memory import MemorySigner
from primum.adapters.sql import migrate, open_stores
from primum.adapters.sql.ledger import SqlLedgerStore
from primum.adapters.sql.replaying import Accounts, accounts_shared, lines, lines_of
from primum.adapters.sql.sharding import PROCESSES_MAX, Depth, Job, Sharding, _Elsewhere, by_cores
from primum.adapters.system import SystemClock
from primum.domain.errors import Unavailable

SIGNER = MemorySigner()
KEY = SIGNER.public_key()
ENTRIES = 400
CHILD = b"primum.adapters.sql.shard_process"
PATIENCE = 120.0


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def stores(request, fast_folder):
    """A database with a ledger of several accounts, whose end is signed twice."""
    if request.param == "sqlite":
        url = f"sqlite:///{fast_folder}/primum.db"
    else:
        url = request.getfixturevalue("new_postgresql")()
    migrate(url)
    opened = open_stores(url, SystemClock())
    filled(opened, Long(ENTRIES, accounts=5))
    opened.ledger.checkpoint(SIGNER, actor="loop")
    opened.ledger.checkpoint(SIGNER, actor="loop")
    yield opened
    opened.close()


@pytest.fixture
def sqlite(fast_folder):
    """The same on SQLite alone."""
    url = f"sqlite:///{fast_folder}/primum.db"
    migrate(url)
    opened = open_stores(url, SystemClock())
    filled(opened, Long(ENTRIES, accounts=5))
    yield opened
    opened.close()


def shared(stores, processes, **options):
    sharding = Sharding(processes, entries_from=0, **options)
    return SqlLedgerStore(stores.database, clock=SystemClock(), shared=sharding)


def children():
    """Numbers of the processes that this one has verifying."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and CHILD in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def broken(stores):
    """Change rows behind the ledger's back, of every kind and in every shard."""
    table = "ledger_entries"
    drops = {
        "sqlite": [
            f"DROP TRIGGER {table}_no_update",
            f"DROP TRIGGER {table}_no_delete",
        ],
        "postgresql": [f"DROP TRIGGER {table}_no_change ON {table}"],
    }[stores.database.dialect]
    changes = [
        f"UPDATE {table} SET actor = 'eve' WHERE seq IN (17, 203)",
        f"UPDATE {table} SET payload = replace(payload, 'malignant', 'benign') WHERE seq = 51",
        f"UPDATE {table} SET account_id = 'account-9' WHERE seq = 90",
        f"DELETE FROM {table} WHERE seq = 120",
        f"UPDATE {table} SET seq = -1 WHERE seq = 150",
        f"UPDATE {table} SET seq = 150 WHERE seq = 151",
        f"UPDATE {table} SET seq = 151 WHERE seq = -1",
        "UPDATE ledger_holdings SET charged = reserved WHERE account_id = 'account-3'",
        "UPDATE ledger_reservations SET state = 'Reserved' "
        "WHERE reservation_id = 'reservation-000000003'",
        "UPDATE ledger_reservations SET charge = 'nonsense' "
        "WHERE reservation_id = 'reservation-000000007'",
        "DELETE FROM ledger_reservations WHERE reservation_id = 'reservation-000000020'",
        "UPDATE ledger_reservations SET reservation_id = 'stray' "
        "WHERE reservation_id = 'reservation-000000021'",
        "DELETE FROM ledger_identities WHERE account_id = 'account-4'",
    ]

    def work(connection):
        for statement in drops:
            connection.exec_driver_sql(statement)
        for statement in changes:
            assert connection.exec_driver_sql(statement).rowcount > 0, statement

    stores.database.write(work)


def test_processes_find_what_one_finds(stores):
    assert shared(stores, 2).verify(public_key=KEY) == ()
    broken(stores)
    alone = shared(stores, 1).verify(public_key=KEY)
    assert len(alone) > 12
    assert shared(stores, 3).verify(public_key=KEY) == alone
    assert children() == []


@pytest.mark.parametrize("shards", [1, 2, 3, 5, 9])
def test_every_entry_is_in_one_range_of_accounts(stores, shards):
    def work(connection):
        end = 350
        ranges = accounts_shared(connection, shards=shards)
        parts = [list(lines_of(connection, accounts, end=end)) for accounts in ranges]
        return parts, [line for line in lines(connection) if line.seq <= end]

    parts, whole = stores.database.read(work)
    assert len(parts) == min(shards, 5)
    assert sorted(line for part in parts for line in part) == whole
    assert all(part == sorted(part) for part in parts)
    most, least = max(map(len, parts)), min(map(len, parts))
    assert most - least <= 2 * len(whole) / 5


def test_what_is_written_meanwhile_contradicts_nothing(sqlite):
    """Processes see later entries than the one that started them, and must not be misled."""
    accounts = [account.account_id for account in sqlite.ledger.accounts()]
    ended = threading.Event()
    written = []

    def write():
        number = 0
        while not ended.is_set():
            name = f"later-{number}"
            asked = ledger_words.request(accounts[number % len(accounts)], name)
            if ledger_words.reserve(sqlite.ledger, asked).stands and number % 2:
                ledger_words.expose(sqlite.ledger, name)
                ledger_words.charge(sqlite.ledger, name)
            number += 1
            written.append(name)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(2):
            before = len(written)
            assert shared(sqlite, 2).verify() == ()
            assert len(written) > before
    finally:
        ended.set()
        writer.join()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_dies_or_falls_silent_is_never_an_intact_ledger(sqlite, how):
    silent = PATIENCE if how is signal.SIGKILL else 1.0
    answers = []

    def verify():
        try:
            answers.append(shared(sqlite, 2, silent_seconds=silent).verify())
        except Unavailable as error:
            answers.append(str(error))

    thread = threading.Thread(target=verify)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not (found := children()) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(found[0], how)
    thread.join(2 * PATIENCE)
    assert [isinstance(answer, str) for answer in answers] == [True]
    assert "must run to their end" in answers[0]
    assert children() == []


def test_a_process_ends_with_the_one_that_started_it(sqlite):
    shard = _Elsewhere(silent_seconds=PATIENCE)
    url = sqlite.database.engine.url.render_as_string()
    shard.begin(Job(url, Accounts(), ENTRIES, (5, 10), Depth.MEANING))
    assert shard.changed(10)
    shard._process.stdin.close()
    assert shard._process.wait(PATIENCE) in (0, 1)
    shard.end()


def test_only_long_ledgers_need_processes(sqlite, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert SqlLedgerStore(sqlite.database, clock=SystemClock()).verify() == ()
    with pytest.raises(Unavailable, match="cannot be started"):
        shared(sqlite, 2).verify()


def test_a_process_that_sees_an_older_ledger_says_so(sqlite):
    shard = _Elsewhere(silent_seconds=PATIENCE)
    url = sqlite.database.engine.url.render_as_string()
    shard.begin(Job(url, Accounts(), ENTRIES + 100, (), Depth.CHAIN))
    with pytest.raises(Unavailable, match="must see the ledger up to entry 500"):
        shard.ending()
    shard.end()


def test_a_container_s_share_of_the_cores_bounds_the_processes(tmp_path):
    unlimited = by_cores(tmp_path / "nowhere").processes
    assert 1 <= unlimited <= PROCESSES_MAX
    for text, most in (("max 100000", unlimited), ("50000 100000", 1), ("199999 100000", 1)):
        (tmp_path / "cpu.max").write_text(text)
        assert by_cores(tmp_path / "cpu.max").processes == most


def test_the_chain_alone_is_verified_by_processes_too(stores):
    assert [shared(stores, processes).verify_chain() for processes in (1, 2)] == [(), ()]
    broken(stores)
    alone = shared(stores, 1).verify_chain()
    assert len(alone) > 6
    assert shared(stores, 3).verify_chain() == alone
    assert not any("Reservation" in fault or "balance" in fault for fault in alone)
