"""One of several processes that reserve, expose and charge on one account until it is full."""

from __future__ import annotations

import sys
from decimal import Decimal

from primum.adapters.sql import open_stores
from primum.adapters.system import SystemClock
from primum.domain.accounting.events import Gaussian
from primum.domain.budget.entries import ReserveRequest, ResultCode


def main(url, account, who):
    ledger = open_stores(url, SystemClock()).ledger
    event = Gaussian(Decimal("2"))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for number in range(1000):
        # Half of the names are shared with the other writer: it must meet them, not reserve them
        # again.
        name = f"shared-{number}" if number % 2 else f"{who}-{number}"
        request = ReserveRequest(name, account, "study", 1, "ns/n", "p", "r", event)
        result = ledger.reserve([request], lease_seconds=600, actor=who)
        if result.code is ResultCode.OVER_BUDGET:
            break
        assert result.stands, result
        if number % 3 == 0:
            fence = ledger.reservation(name).fence
            ledger.expose(name, access="a", fence=fence, actor=who)
            ledger.charge(name, executed=event, reason="r", actor=who)
    sys.stdout.write(f"{number}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
