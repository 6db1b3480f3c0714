"""One of several processes whose threads give ledger commands on shared reservations.

Prints the history: one command per line, with when it was called and answered on the machine's
monotonic clock, which all processes share.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from decimal import Decimal

from primum.adapters.sql import open_stores
from primum.adapters.system import SystemClock
from primum.domain.accounting.events import Gaussian
from primum.domain.budget.entries import ReserveRequest

EVENT = Gaussian(Decimal("2"))
ACCESSES = ("train", "evaluate")


def give(ledger, account, verb, name, argument):
    if verb == "reserve":
        request = ReserveRequest(name, account, "study", 1, "ns/n", "p", "r", EVENT)
        return ledger.reserve([request], lease_seconds=3600, actor="w")
    if verb == "expose":
        access, fence = argument
        return ledger.expose(name, access=access, fence=fence, actor="w")
    if verb == "charge":
        return ledger.charge(name, executed=None, reason="r", actor="w")
    return ledger.give_back(name, reason="r", actor="w")


def work(ledger, account, draws, names, count, history):
    fences = {}
    for _ in range(count):
        verb = draws.choice(("reserve", "reserve", "expose", "expose", "charge", "give_back"))
        name = draws.choice(names)
        argument = ()
        if verb == "expose":
            if name not in fences:  # Any number is a fence; the right one must be looked up.
                held = ledger.reservation(name)
                if held is not None:
                    fences[name] = held.fence
            argument = draws.choice(ACCESSES), fences.get(name, 1)
        began = time.monotonic_ns()
        result = give(ledger, account, verb, name, argument)
        ended = time.monotonic_ns()
        history.append([began, ended, verb, name, argument, result.code.value, result.seq])


def main(url, account, seed, threads, count, names):
    ledger = open_stores(url, SystemClock()).ledger
    histories = [[] for _ in range(int(threads))]
    workers = [
        threading.Thread(
            target=work,
            args=(
                ledger,
                account,
                random.Random(f"{seed}-{number}"),
                [f"shared-{n}" for n in range(int(names))],
                int(count),
                history,
            ),
        )
        for number, history in enumerate(histories)
    ]
    ledger.head()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for history in histories:
        for command in history:
            sys.stdout.write(json.dumps(command) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
