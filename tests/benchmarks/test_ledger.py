"""How fast the ledger grants durably, answers and is verified, on real databases and disks.

Rates of the ledger are compared with rates of the same disk and the same server, taken in turns.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import resource
import shutil
import tempfile
import threading
import time
from decimal import Decimal

import ledger_words
import metering
import postgresql
import pytest
from ledger_filling import filled
from ledger_lines import Long

from primum.domain.accounting.events import Gaussian, Repeated, SubsampledGaussian
from primum.domain.accounting.policy_rdp import RdpPolicy
from primum.domain.budget import book, folding, verification
from primum.domain.budget.book import Draft
from primum.domain.budget.entries import (
    EntryKind,
    ReservationState,
    ReserveRequest,
    ResultCode,
)

CLIENTS = 64
SECONDS = 8.0  # Of each rate: a checkpoint or two of the server, and many of the disk's own pauses.
TURNS = 2
ENTRIES = 1_000_000
QUESTIONS = 2000
GROWTH_MB = 8.0  # Of a process that answers them; a ledger in memory would be hundreds.
BLOCKS, ORDERS = 10, 12
CHAINED = 10_000
SMALL = Repeated(SubsampledGaussian(Decimal(200), Decimal("0.001")), 1)
ROOM = Decimal(10**6)  # An epsilon that no rate here uses up.


@pytest.fixture
def disk():
    """A folder on a real disk, which a folder in memory is not."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="primum-bench-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def server():
    """A PostgreSQL server that keeps what it promises: synced, as it is delivered."""
    with postgresql.running(None, "max_connections=100") as started:
        if not (started.programs / "pgbench").exists():
            pytest.skip(f"no pgbench beside {started.programs}: install postgresql-contrib")
        yield started


def opened(url, anchor=None):
    from primum.adapters.sql import migrate, open_stores
    from primum.adapters.system import SystemClock

    migrate(url)
    return open_stores(url, SystemClock(), anchor)


def anchored(folder):
    from primum.adapters.anchor import FileAnchor

    return FileAnchor(folder / "outside" / "anchor.json")


def an_account(stores, name, **changes):
    words = ledger_words.terms(
        dataset_uri=f"file:///{name}", dataset_digest="", epsilon=ROOM, **changes
    )
    account, result = stores.ledger.open_account(words, actor="s")
    assert result.stands
    return account


class Rate:
    """Reservations of several threads for some seconds."""

    def __init__(self, stores, account, *, clients, label, blocks=()):
        self.ledger, self.account, self.label, self.blocks = stores.ledger, account, label, blocks
        self.counts = [0] * clients
        head = self.ledger.head()[0]
        threads = [threading.Thread(target=self._work, args=(who,)) for who in range(clients)]
        commits, cpu, start = _commits(stores), time.process_time(), time.perf_counter()
        self.end = start + SECONDS
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.seconds = time.perf_counter() - start
        self.done = sum(self.counts)
        self.cpu = (time.process_time() - cpu) / self.done
        self.commits = commits()
        assert self.ledger.head()[0] - head == self.done, "each is one durable entry"

    def _work(self, who):
        while time.perf_counter() < self.end:
            asked = ReserveRequest(
                f"{self.label}-{who}-{self.counts[who]}",
                self.account,
                "study-1",
                1,
                "oncology/malignancy",
                "Tell malignant from benign",
                "user:ada",
                SMALL,
                blocks=self.blocks,
            )
            assert self.ledger.reserve([asked], lease_seconds=60, actor="loop").stands
            self.counts[who] += 1

    @property
    def each_second(self):
        return self.done / self.seconds

    @property
    def group(self):
        """Reservations per commit."""
        return self.done / self.commits


def _commits(stores):
    """Counts the writer's commits from here on."""
    import sqlalchemy as sa

    count = []
    engine = stores.database.engine

    def committed(connection):
        if connection.get_execution_options().get("primum_writes"):
            count.append(1)

    sa.event.listen(engine, "commit", committed)

    def counted():
        sa.event.remove(engine, "commit", committed)
        return len(count)

    return counted


def said(rates):
    """What rates of several turns came to, for the table."""
    mean = sum(rate.each_second for rate in rates) / len(rates)
    cpu = sum(rate.cpu for rate in rates) / len(rates)
    group = sum(rate.group for rate in rates) / len(rates)
    return (
        f"{mean:,.0f} per second, {1e6 * cpu:.0f} CPU us each in this process, {group:.0f} a commit"
    )


def mean_rate(rates):
    return sum(rate.each_second for rate in rates) / len(rates)


def never_overspent(stores, figures, what):
    """64 clients want twice what fits: exactly what fits is granted."""
    event = Gaussian(Decimal(2))
    words = ledger_words.terms(
        dataset_uri=f"file:///small-{what}", dataset_digest="", policy="GDP", epsilon=Decimal(30)
    )
    account, _ = stores.ledger.open_account(words, actor="s")
    fits = stores.ledger.fits(account, event)
    assert CLIENTS < fits < 1000
    codes = []

    def work(who):
        for number in range(2 * fits // CLIENTS + 1):
            asked = ledger_words.request(account, f"{what}-{who}-{number}", event)
            codes.append(ledger_words.reserve(stores.ledger, asked).code)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    granted = codes.count(ResultCode.ACCEPTED)
    held = stores.ledger.reservations(account_id=account)
    assert granted == fits == sum(r.state is ReservationState.RESERVED for r in held)
    assert codes.count(ResultCode.OVER_BUDGET) == len(codes) - fits
    figures.show(f"{what}: {CLIENTS} clients want {len(codes)} of {fits}", f"{granted} granted")


def pgbench(server, *, prepare=False):
    """Transactions per second of the simple-update script, as the server's own tool has it."""
    where = ("-h", str(server.folder), "-U", "primum")
    if prepare:
        server.run("createdb", *where, "bench")
        server.run("pgbench", *where, "-i", "-q", "-s", str(CLIENTS), "bench")
        return 0.0
    clients = ("-c", str(CLIENTS), "-j", "2", "-T", str(int(SECONDS)))
    said = server.run("pgbench", *where, "-N", *clients, "bench")
    return float(re.search(r"tps = ([\d.]+)", said)[1])


def settle(server):
    """Have the server do now what it would do within a minute anyway.

    So that no turn pays for another's pages, and plans do not date from when tables were empty.
    """
    url = server.url.replace("+psycopg", "")
    server.run("psql", "-d", url, "-q", "-c", "VACUUM ANALYZE", "-c", "CHECKPOINT")


def test_durable_reservations_on_postgresql(server, disk, figures):
    stores, watched = opened(server.url), opened(server.url, anchored(disk))
    account = an_account(stores, "a")
    pgbench(server, prepare=True)
    Rate(stores, account, clients=CLIENTS, label="first")
    theirs, ours = [], []
    for turn in range(TURNS):
        settle(server)
        theirs.append(pgbench(server))
        settle(server)
        ours.append(Rate(stores, account, clients=CLIENTS, label=f"plain-{turn}"))
    with_anchor = Rate(watched, account, clients=CLIENTS, label="anchored")
    alone = Rate(stores, account, clients=1, label="alone")
    never_overspent(stores, figures, "PostgreSQL")
    assert stores.ledger.verify() == ()
    for each in (stores, watched):
        each.close()
    tps = sum(theirs) / len(theirs)
    figures.show(f"pgbench simple-update, {CLIENTS} clients", f"{tps:,.0f} per second")
    figures.show(f"durable reservations, PostgreSQL, {CLIENTS} clients, one block", said(ours))
    figures.show("the same with the anchor on the same disk", said([with_anchor]))
    figures.show("the same, one client", said([alone]))
    figures.at_least("reservations / pgbench simple-update", mean_rate(ours) / tps, 0.5)


def test_durable_reservations_on_sqlite(disk, figures):
    """Against one transaction for each claim, with its sync: the same store with one client.

    With the anchor, as a home folder is set up; without it too, where a claim costs one sync alone.
    """
    before = metering.fsync_seconds(disk)
    rates = {}
    for kind, anchor in (("anchored", anchored(disk)), ("plain", None)):
        stores = opened(f"sqlite:///{disk}/{kind}.db", anchor)
        account = an_account(stores, "a")
        alone, shared = [], []
        for turn in range(TURNS):
            alone.append(Rate(stores, account, clients=1, label=f"alone-{turn}"))
            shared.append(Rate(stores, account, clients=CLIENTS, label=f"shared-{turn}"))
        never_overspent(stores, figures, f"SQLite, {kind}")
        assert stores.ledger.verify() == ()
        stores.close()
        rates[kind] = alone, shared
        figures.show(f"durable reservations, SQLite, {kind}, one client", said(alone))
        figures.show(f"the same, {CLIENTS} clients", said(shared))
    fsync = (before + metering.fsync_seconds(disk)) / 2
    figures.show("fsync of one page on the same disk", f"{1000 * fsync:.2f} ms")
    alone, shared = rates["plain"]
    # Work in Python is bounded; whatever else it takes is the disk's.
    figures.at_most("durable reservation, one client, CPU", 1000 * alone[0].cpu, 10, unit="ms")
    figures.at_least(f"reservations per commit, {CLIENTS} clients", shared[0].group, 5, unit="")
    ratio = mean_rate(shared) / mean_rate(alone)
    figures.show(f"{CLIENTS} clients / one commit per claim, no anchor", f"{ratio:.2f} x")
    alone, shared = rates["anchored"]
    ratio = mean_rate(shared) / mean_rate(alone)
    figures.at_least(f"{CLIENTS} clients / one commit per claim, with the anchor", ratio, 5)


def divided(stores, name, *, blocks):
    """An account with 12 orders: of one block, or of several."""
    weight = Decimal(1) / 16
    policy = RdpPolicy(tuple((Decimal(order), weight) for order in range(2, 2 + ORDERS)))
    layout = '{"by":"Site"}' if blocks else ""
    words = ledger_words.terms(
        dataset_uri=f"file:///{name}", dataset_digest="", epsilon=ROOM, layout=layout
    )
    payload = {"asked": book.terms_json(words), "policy": policy.to_json()}

    def work(pen):
        draft = Draft(name, EntryKind.OPENED, "", "open", payload)
        now = max(pen.head().time, "2026-01-01T00:00:00.000000Z")
        entry = book.sealed(draft, head=pen.head(), actor="s", time=now)
        account, _ = folding.fold(entry, None, None)
        pen.append(entry)
        pen.put_account(account)
        pen.put_head(book.Head(entry.seq, entry.hash, now))

    stores.ledger._rows.write(work)
    if blocks:
        assert stores.ledger.divide(name, blocks, actor="s").stands
    return name


def test_reservations_over_many_blocks(disk, figures):
    stores = opened(f"sqlite:///{disk}/primum.db")
    names = [f"site-{number}" for number in range(BLOCKS)]
    one, many = divided(stores, "one", blocks=()), divided(stores, "many", blocks=names)
    single, several = [], []
    for turn in range(TURNS):
        single.append(Rate(stores, one, clients=CLIENTS, label=f"one-{turn}"))
        several.append(Rate(stores, many, clients=CLIENTS, label=f"many-{turn}", blocks=names))
    assert len(stores.ledger.account(many).blocks) == BLOCKS
    assert len(stores.ledger.account(many).capacity.amounts) == ORDERS
    stores.close()
    figures.show(f"reservation over one block x {ORDERS} orders", said(single))
    figures.show(f"reservation over {BLOCKS} blocks x {ORDERS} orders", said(several))
    share = mean_rate(several) / mean_rate(single)
    figures.at_least(f"{BLOCKS} blocks / one block", share, 0.25)


@contextlib.contextmanager
def measured():
    """Wall and CPU seconds of a block, its own processes' included, and how much this one grew, in
    MB; and the most that one of those ever held.
    """
    found = {"memory": metering.own_memory_mb()}
    start, cpu = time.perf_counter(), sum(os.times()[:4])
    yield found
    found["wall"], found["cpu"] = time.perf_counter() - start, sum(os.times()[:4]) - cpu
    found["memory"] = metering.own_memory_mb() - found["memory"]
    found["others"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def note(found):
    return (
        f", {found['cpu']:.1f} CPU s, {found['memory']:+.0f} MB, "
        f"at most {found['others']:.0f} MB in each further process"
    )


@pytest.mark.timeout(3600)
def test_a_ledger_of_a_million_entries(disk, figures):
    stores = opened(f"sqlite:///{disk}/primum.db")
    long = Long(ENTRIES)
    filled(stores, long)
    ledger, entries = stores.ledger, stores.ledger.head()[0]
    assert entries >= 0.999 * ENTRIES
    asked = sorted(long.accounts)
    ledger.account(asked[0])
    with measured() as questions:
        times = []
        for number in range(QUESTIONS):
            start = time.perf_counter()
            assert ledger.account(asked[number % len(asked)]).epsilon_left > 0
            times.append(time.perf_counter() - start)
    times.sort()
    middle, slow = times[QUESTIONS // 2], times[int(0.99 * QUESTIONS)]
    with measured() as chain:
        assert ledger.verify_chain() == ()
    with measured() as replay:
        assert ledger.verify() == ()
    size, shown = f"{entries:,} entries", f", {1000 * slow:.1f} ms, median {1000 * middle:.2f} ms"
    figures.show(f"the process grew while asked {QUESTIONS} times", f"{questions['memory']:.1f} MB")
    figures.wall_at_most(f"chain of {size}, from SQLite", chain["wall"], 10, note(chain))
    figures.wall_at_most(f"chain and every balance of {size}", replay["wall"], 30, note(replay))
    figures.wall_at_most(f"remaining budget of {size}, p99", slow, 0.02, shown)
    assert questions["memory"] < GROWTH_MB
    stores.close()


def test_chain_verification(figures):
    """In memory: what verifying costs beside reading."""
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
