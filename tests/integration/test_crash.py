"""Kill -9 at every statement and commit boundary of every ledger command: nothing spent twice,
nothing lost.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
from decimal import Decimal

import pytest

from primum.adapters.anchor import FileAnchor
from primum.adapters.sql import open_stores
from primum.adapters.system import SystemClock
from primum.domain.accounting.events import Repeated, SubsampledGaussian
from primum.domain.budget.entries import (
    AccountTerms,
    ReservationState,
    ReserveRequest,
    ResultCode,
)
from primum.domain.quantities import Neighbors, PrivacyUnit

EVENT = Repeated(SubsampledGaussian(Decimal("50"), Decimal("0.01")), 10)
DONE = Repeated(SubsampledGaussian(Decimal("50"), Decimal("0.01")), 5)
BOUNDARIES_MAX = 200  # A command that has more is a bug of this test.
LEASE = 3600.0


class ShiftedClock(SystemClock):
    """A clock that the test moves ahead."""

    ahead = 0.0

    def now(self):
        return self.after(self.ahead)


class World:
    """A database, its anchor, and a child that dies on request."""

    def __init__(self, url, folder):
        self.url, self.anchor = url, folder / "anchor.json"
        self.clock = ShiftedClock()
        self.stores = open_stores(url, self.clock, FileAnchor(self.anchor))
        self.ledger = self.stores.ledger
        self.accounts = [
            self.ledger.open_account(terms(f"file:///{n}"), actor="s")[0] for n in "ab"
        ]
        script = pathlib.Path(__file__).with_name("crash_child.py")
        self.child = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def order(self, command, at, **arguments):
        order = {
            "url": self.url,
            "anchor": str(self.anchor),
            "command": command,
            "at": at,
            "ahead": self.clock.ahead,
            "arguments": arguments,
        }
        self.child.stdin.write(json.dumps(order) + "\n")
        self.child.stdin.flush()
        return self.child.stdout.readline().strip()

    def every_boundary(self, prepare, command):
        """Kill at boundary 1, 2, ... of a command until it ends well; yields the name and arguments
        of each try.
        """
        for at in range(1, BOUNDARIES_MAX):
            name = f"{command}-{at}"
            arguments = prepare(name)
            answer = self.order(command, at, **arguments)
            assert answer in ("killed", "ended"), answer
            assert self.ledger.verify() == ()
            yield name, arguments
            if answer == "ended":
                assert at > 6, "no boundary was met"
                assert self.ledger.verify() == ()
                return
        pytest.fail("the command never ended")

    def reserve(self, name, lease=LEASE):
        return self.ledger.reserve(
            [request(name, self.accounts[0])], lease_seconds=lease, actor="p"
        )

    def expose(self, name):
        fence = self.ledger.reservation(name).fence
        return self.ledger.expose(name, access="train", fence=fence, actor="p")

    def kinds(self, name):
        return [e.kind.value for e in self.ledger.entries(limit=10_000) if e.reservation_id == name]

    def close(self):
        self.child.stdin.close()
        self.child.wait(timeout=10)
        self.child.stdout.close()
        self.stores.close()


def terms(uri):
    return AccountTerms(
        dataset_uri=uri,
        dataset_digest="",
        unit=PrivacyUnit.PATIENT,
        neighbors=Neighbors.ADD_OR_REMOVE_ONE,
        epsilon=Decimal("8"),
        delta=Decimal("1e-5"),
        policy="RDP",
        units=569,
    )


def request(name, account, event=EVENT):
    return ReserveRequest(
        reservation_id=name,
        account_id=account,
        study_uid=f"study-{name}",
        generation=1,
        study="ns/name",
        purpose="p",
        requester="r",
        event=event,
    )


@pytest.fixture
def world(database, fast_folder):
    made = World(database, fast_folder)
    yield made
    made.close()


def test_reserving_is_all_or_nothing_and_never_twice(world):
    """Before the commit nothing happened; after it a retry meets the one reservation. On both
    accounts alike.
    """

    def prepare(name):
        pairs = [(f"{name}-{n}", account) for n, account in enumerate(world.accounts)]
        return {
            "requests": pairs,
            "study": f"study-{name}-",
            "lease": LEASE,
            "event": EVENT.to_json(),
        }

    for _, arguments in world.every_boundary(prepare, "reserve"):
        names = [name for name, _ in arguments["requests"]]
        held = [world.ledger.reservation(name) for name in names]
        assert len({item is None for item in held}) == 1
        requests = [
            ReserveRequest(name, account, arguments["study"], 1, "ns/name", "p", "r", EVENT)
            for name, account in arguments["requests"]
        ]
        result = world.ledger.reserve(requests, lease_seconds=LEASE, actor="p")
        assert result.code is (ResultCode.ACCEPTED if held[0] is None else ResultCode.REPEATED)
        assert [world.kinds(name) for name in names] == [["Reserved"], ["Reserved"]]


def test_exposing_is_durable_or_did_not_happen(world):
    def prepare(name):
        world.reserve(name)
        return {"name": name, "fence": world.ledger.reservation(name).fence}

    for name, _ in world.every_boundary(prepare, "expose"):
        assert world.expose(name).stands
        assert world.kinds(name) == ["Reserved", "Exposed"]


def test_charging_happens_once_and_by_the_receipt(world):
    def prepare(name):
        world.reserve(name)
        world.expose(name)
        return {"name": name, "executed": DONE.to_json()}

    spent = []
    for name, _ in world.every_boundary(prepare, "charge"):
        assert world.ledger.charge(name, executed=DONE, reason="settled", actor="p").stands
        assert world.kinds(name) == ["Reserved", "Exposed", "Charged"]
        spent.append(world.ledger.reservation(name).charged)
    total = sum((charge for charge in spent[1:]), start=spent[0])
    assert world.ledger.account(world.accounts[0]).blocks[0].charged == total
    assert world.ledger.account(world.accounts[0]).blocks[0].reserved.is_zero


def test_giving_back_happens_once(world):
    def prepare(name):
        world.reserve(name)
        return {"name": name}

    for name, _ in world.every_boundary(prepare, "give_back"):
        assert world.ledger.give_back(name, reason="withdrawn", actor="p").stands
        assert world.kinds(name) == ["Reserved", "Returned"]
    assert world.ledger.account(world.accounts[0]).blocks[0].reserved.is_zero


def test_expiry_happens_once(world):
    """An exposed lease is charged in full and another returned, wherever the sweep died."""

    def prepare(name):
        for part in ("exposed", "untouched"):
            world.reserve(f"{name}-{part}")
        world.expose(f"{name}-exposed")
        world.clock.ahead += LEASE
        return {}

    for name, _ in world.every_boundary(prepare, "expire"):
        world.ledger.expire(actor="p")
        done = world.ledger.reservation(f"{name}-exposed")
        assert (done.state, done.charged) == (ReservationState.CHARGED, done.charge)
        assert world.kinds(f"{name}-exposed") == ["Reserved", "Exposed", "Charged"]
        assert world.kinds(f"{name}-untouched") == ["Reserved", "Returned"]


def test_opening_an_account_happens_once(world):
    for _, arguments in world.every_boundary(lambda name: {"uri": f"file:///{name}"}, "open"):
        account_id, result = world.ledger.open_account(terms(arguments["uri"]), actor="p")
        assert result.stands
        assert world.ledger.account(account_id).entries == 1


def test_reserved_and_then_nothing_more_is_returned(world):
    """Row: after reserve, before the pod starts."""
    world.reserve("r")
    assert world.ledger.expire(actor="p") == ()
    world.clock.ahead += LEASE
    assert world.ledger.expire(actor="p") == ("r",)
    assert world.ledger.reservation("r").state is ReservationState.RETURNED


def test_exposed_and_then_nothing_more_is_charged_in_full(world):
    """Rows: after Exposed, while data is read; and after the result is written, before it is
    charged.
    """
    world.reserve("r")
    world.expose("r")
    world.clock.ahead += LEASE
    world.ledger.expire(actor="p")
    done = world.ledger.reservation("r")
    assert (done.state, done.charged) == (ReservationState.CHARGED, done.charge)
    late = world.ledger.charge("r", executed=DONE, reason="settled", actor="p")
    assert late.code is ResultCode.ALREADY_RESOLVED


def test_a_restored_older_database_grants_nothing(database, tmp_path):
    """Row: the database is restored from a backup that is older than the last anchor."""
    if not database.startswith("sqlite"):
        pytest.skip("restoring a server's backup is the same anchor check on another file")
    anchor = FileAnchor(tmp_path / "outside" / "anchor.json")
    stores = open_stores(database, SystemClock(), anchor)
    account, _ = stores.ledger.open_account(terms("file:///a"), actor="s")
    stores.close()
    path = pathlib.Path(database.removeprefix("sqlite:///"))
    backup = shutil.copy(path, tmp_path / "backup.db")
    stores = open_stores(database, SystemClock(), anchor)
    stores.ledger.reserve([request("r1", account)], lease_seconds=60, actor="p")
    spent = stores.ledger.account(account).blocks[0].reserved
    assert not spent.is_zero
    stores.close()
    for leftover in path.parent.glob(path.name + "-*"):
        leftover.unlink()
    shutil.copy(backup, path)
    stores = open_stores(database, SystemClock(), anchor)
    assert stores.ledger.account(account).blocks[0].reserved.is_zero
    result = stores.ledger.reserve([request("r2", account)], lease_seconds=60, actor="p")
    assert result.code is ResultCode.ROLLED_BACK
    assert stores.ledger.verify() != ()
    stores.close()
