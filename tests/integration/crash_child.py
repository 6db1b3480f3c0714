"""Runs one ledger command in a forked child that kills itself at the n-th boundary.

A boundary lies after every statement, after every commit, and around every move of the anchor;
between them nothing changes that could be lost. Reads one order per line, ``{"url", "anchor",
"command", "arguments", "at", "ahead"}``, and answers with what became of the child: ``killed`` or
``ended``. Imports once and forks for each.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from decimal import Decimal
from pathlib import Path

import sqlalchemy as sa

from primum.adapters.anchor import FileAnchor
from primum.adapters.sql import open_stores
from primum.adapters.system import SystemClock
from primum.domain.accounting.events import Repeated, SubsampledGaussian, event_from_json
from primum.domain.accounting.policies import policy_named
from primum.domain.budget.entries import AccountTerms, ReserveRequest
from primum.domain.quantities import Neighbors, PrivacyUnit


class Fuse:
    """Kills this process without any chance to clean up."""

    def __init__(self, at):
        self.left = at

    def burn(self, *_):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class ShiftedClock(SystemClock):
    """A clock that is some seconds ahead."""

    def __init__(self, ahead):
        self.ahead = ahead

    def now(self):
        return self.after(self.ahead)


class FusedAnchor(FileAnchor):
    """An anchor whose every move is a boundary."""

    def __init__(self, path, fuse):
        super().__init__(path)
        self.fuse = fuse

    def write(self, seq, digest):
        self.fuse.burn()
        super().write(seq, digest)
        self.fuse.burn()


def run(order):
    fuse = Fuse(order["at"])
    anchor = FusedAnchor(Path(order["anchor"]), fuse)
    stores = open_stores(order["url"], ShiftedClock(order["ahead"]), anchor)
    engine = stores.database.engine
    sa.event.listen(engine, "after_cursor_execute", fuse.burn)
    commit = engine.dialect.do_commit

    def fused_commit(connection):
        commit(connection)
        fuse.burn()

    engine.dialect.do_commit = fused_commit
    told = order["arguments"]
    ledger = stores.ledger
    match order["command"]:
        case "open":
            terms = AccountTerms(
                dataset_uri=told["uri"],
                dataset_digest="",
                unit=PrivacyUnit.PATIENT,
                neighbors=Neighbors.ADD_OR_REMOVE_ONE,
                epsilon=Decimal("8"),
                delta=Decimal("1e-5"),
                policy="RDP",
                units=569,
            )
            ledger.open_account(terms, actor="child")
        case "reserve":
            requests = [
                ReserveRequest(
                    reservation_id=name,
                    account_id=account,
                    study_uid=told["study"],
                    generation=1,
                    study="ns/name",
                    purpose="p",
                    requester="r",
                    event=event_from_json(told["event"]),
                )
                for name, account in told["requests"]
            ]
            ledger.reserve(requests, lease_seconds=told["lease"], actor="child")
        case "expose":
            ledger.expose(told["name"], access="train", fence=told["fence"], actor="child")
        case "charge":
            executed = event_from_json(told["executed"])
            ledger.charge(told["name"], executed=executed, reason="settled", actor="child")
        case "give_back":
            ledger.give_back(told["name"], reason="withdrawn", actor="child")
        case "expire":
            ledger.expire(actor="child")


def warm(order):
    """Import here what every child would import again: the driver, and what charges are computed
    with.
    """
    open_stores(order["url"], SystemClock())
    policy_named("RDP").charge(
        Repeated(SubsampledGaussian(Decimal("50"), Decimal("0.01")), 10),
        Neighbors.ADD_OR_REMOVE_ONE,
    )
    gc.freeze()


def main():
    warmed = False
    for line in sys.stdin:
        order = json.loads(line)
        if not warmed:
            warm(order)
            warmed = True
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run(order)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            answer = "killed"
        else:
            answer = "ended" if os.WEXITSTATUS(status) == 0 else "failed"
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
