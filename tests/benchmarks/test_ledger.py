"""How fast the ledger grants durably, and how fast its chain is verified."""

from __future__ import annotations

import time

import ledger_words
import metering

RESERVATIONS = 150
CHAINED = 1500


def _stores(folder):
    from primum.adapters.sql import migrate, open_stores
    from primum.adapters.system import SystemClock

    url = f"sqlite:///{folder}/primum.db"
    migrate(url)
    return open_stores(url, SystemClock())


def _reserve_and_charge(ledger, count):
    account, _ = ledger.open_account(ledger_words.terms(), actor="s")
    start = time.perf_counter()
    for number in range(count):
        name = f"r{number}"
        assert ledger_words.reserve(ledger, ledger_words.request(account, name, SMALL)).stands
        ledger_words.expose(ledger, name)
        ledger_words.charge(ledger, name, executed=SMALL)
    return time.perf_counter() - start


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


def test_chain_verification(fast_folder, figures):
    stores = _stores(fast_folder)
    _reserve_and_charge(stores.ledger, CHAINED)
    entries = stores.ledger.head()[0]
    start = time.process_time()
    assert stores.ledger.verify() == ()
    seconds = (time.process_time() - start) / entries * 100_000
    stores.close()
    figures.at_most(
        f"chain of 100,000 entries verified (from {entries:,})", seconds, 60, unit="CPU s"
    )


def _small():
    from decimal import Decimal

    from primum.domain.accounting.events import Repeated, SubsampledGaussian

    return Repeated(SubsampledGaussian(Decimal(200), Decimal("0.001")), 1)


SMALL = _small()
