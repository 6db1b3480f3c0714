"""Two racing processes on one database: no overspend, no gap in the chain, no reservation twice."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import threading
from decimal import Decimal

from primum.adapters.sql import migrate, open_stores
from primum.adapters.system import SystemClock
from primum.domain.accounting.events import Gaussian
from primum.domain.budget.entries import AccountTerms, ReservationState, ReserveRequest
from primum.domain.quantities import Neighbors, PrivacyUnit

EVENT = Gaussian(Decimal("2"))


def terms(**changes):
    values = {
        "dataset_uri": "file:///a",
        "dataset_digest": "",
        "unit": PrivacyUnit.PATIENT,
        "neighbors": Neighbors.ADD_OR_REMOVE_ONE,
        "epsilon": Decimal("20"),
        "delta": Decimal("1e-5"),
        "policy": "GDP",
        "units": 569,
    }
    return AccountTerms(**{**values, **changes})


def test_two_processes_never_overspend(database):
    stores = open_stores(database, SystemClock())
    account, _ = stores.ledger.open_account(terms(), actor="s")
    fits = stores.ledger.fits(account, EVENT)
    assert 20 < fits < 1000
    script = str(pathlib.Path(__file__).with_name("racing_writer.py"))
    writers = [
        subprocess.Popen(
            [sys.executable, script, database, account, who],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for who in ("left", "right")
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    held = [r for r in stores.ledger.reservations() if r.state is not ReservationState.DENIED]
    assert len(held) == fits
    assert stores.ledger.fits(account, EVENT) == 0
    view = stores.ledger.account(account)
    used = (view.blocks[0].reserved + view.blocks[0].charged).as_dict
    assert all(used[key] <= room for key, room in view.capacity.amounts)
    assert stores.ledger.verify() == ()
    stores.close()


def test_many_threads_reserve_the_same_ids_once(database):
    stores = open_stores(database, SystemClock())
    account, _ = stores.ledger.open_account(terms(), actor="s")
    codes, start = [], threading.Barrier(6)

    def work():
        start.wait()
        for number in range(5):
            request = ReserveRequest(f"r{number}", account, "s", 1, "n/n", "p", "r", EVENT)
            codes.append(stores.ledger.reserve([request], lease_seconds=60, actor="t").code.value)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == ["Accepted"] * 5 + ["Repeated"] * 25
    assert stores.ledger.verify() == ()
    stores.close()


def test_opposite_orders_of_accounts_do_not_deadlock(database):
    stores = open_stores(database, SystemClock())
    names = [
        stores.ledger.open_account(terms(dataset_uri=f"file:///{n}"), actor="s")[0] for n in "ab"
    ]
    failures = []

    def work(order, who):
        try:
            for number in range(10):
                requests = [
                    ReserveRequest(f"{who}-{number}-{a}", a, "s", 1, "n/n", "p", "r", EVENT)
                    for a in order
                ]
                assert stores.ledger.reserve(requests, lease_seconds=60, actor=who).stands
        except Exception as error:  # Shown by the main thread.
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=(names, "left")),
        threading.Thread(target=work, args=(names[::-1], "right")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert stores.ledger.verify() == ()
    stores.close()


def test_migrating_from_several_threads_at_once_is_safe(empty_database):
    failures = []

    def work():
        try:
            migrate(empty_database)
        except Exception as error:  # Shown by the main thread.
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    stores = open_stores(empty_database, SystemClock())
    assert stores.ledger.head()[0] == 0
    stores.close()
