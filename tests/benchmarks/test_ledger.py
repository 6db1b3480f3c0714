"""How fast the ledger grants durably, and how fast its chain is verified."""

from __future__ import annotations

import time

import ledger_words
import metering
from ledger_lines import Long

from primum.adapters.sql.ledger import SqlRowStore
from primum.domain.budget import lines, verification

RESERVATIONS = 150
CHAINED = 10_000


def _stores(folder):
    from primum.adapters.sql import migrate, open_stores
    from primum.adapters.system import SystemClock

    url = f"sqlite:///{folder}/primum.db"
    migrate(url)
    return open_stores(url, SystemClock())


def test_durable_reservations(tmp_path, figures):
    stores = _stores(tmp_path)
    account, _ = stores.ledger.open_account(ledger_words.terms(), actor="s")
    before = metering.fsync_seconds(tmp_path)
    start, cpu = time.perf_counter(), time.process_time()
    for number in range(RESERVATIONS):
        asked = ledger_words.request(account, f"r{number}", SMALL)
        assert ledger_words.reserve(stores.ledger, asked).stands
    each = (time.perf_counter() - start) / RESERVATIONS
    each_cpu = (time.process_time() - cpu) / RESERVATIONS
    stores.close()
    fsync = (before + metering.fsync_seconds(tmp_path)) / 2
    figures.show("fsync of one page on the same disk", f"{1000 * fsync:.2f} ms")
    figures.show(
        "durable reservation, SQLite, one writer",
        f"{1000 * each:.1f} ms, {1 / each:.0f} per second, {1000 * each_cpu:.1f} CPU ms",
    )
    # Work in Python is bounded; whatever else it takes is the disk's.
    figures.at_most("durable reservation, CPU", 1000 * each_cpu, 10, unit="ms")


def _filled(stores, long):
    """Put a synthetic ledger into a store, as if its commands had been given."""

    def work(pen):
        for line in long:
            pen.append(lines.entry_of(line))
        for account in long.accounts.values():
            pen.put_account(account)
        for reservation in long.reservations.values():
            pen.put_reservation(reservation)
        pen.put_head(long.head)

    SqlRowStore(stores.database).write(work)
    return stores


def test_chain_verification(figures):
    """In memory: what verifying costs beside reading; a million entries are ten times as many."""
    long = Long(CHAINED)
    stored = list(long)
    start = time.process_time()
    assert verification.chain_faults(stored) == ()
    chain = time.process_time() - start
    assert verification.contradictions(stored, long.cached()) == ()
    replay = time.process_time() - start - chain
    scale = 100_000 / len(stored)
    note = f" (from {len(stored):,} entries)"
    figures.at_most("chain of 100,000 entries", chain * scale, 1, unit="CPU s", note=note)
    figures.at_most("replay of 100,000 entries", replay * scale, 6, unit="CPU s", note=note)


def test_verification_of_a_database(fast_folder, figures):
    stores = _filled(_stores(fast_folder), Long(CHAINED))
    entries = stores.ledger.head()[0]
    start = time.process_time()
    assert stores.ledger.verify() == ()
    seconds = (time.process_time() - start) / entries * 100_000
    stores.close()
    figures.at_most(
        f"SQLite ledger of 100,000 entries verified (from {entries:,})", seconds, 12, unit="CPU s"
    )


def _small():
    from decimal import Decimal

    from primum.domain.accounting.events import Repeated, SubsampledGaussian

    return Repeated(SubsampledGaussian(Decimal(200), Decimal("0.001")), 1)


SMALL = _small()
