"""The heartbeat moves a lease in time, and not at every look."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from primum.application import launching

WHOLE = 900.0


@pytest.mark.parametrize(
    ("now", "moved"),
    [
        ("2026-01-01T00:00:00.000000Z", []),
        ("2026-01-01T00:01:29.000000Z", []),
        ("2026-01-01T00:01:30.000000Z", ["r1"]),
        ("2026-01-01T00:14:59.000000Z", ["r1"]),
        ("2026-01-01T00:20:00.000000Z", ["r1"]),
    ],
    ids=["new", "fresh", "a tenth is over", "nearly over", "over"],
)
def test_a_lease_moves_once_a_tenth_of_it_is_over(now, moved):
    asked = []
    platform = SimpleNamespace(
        clock=SimpleNamespace(now=lambda: now),
        conduct=SimpleNamespace(lease_seconds=WHOLE),
        ledger=SimpleNamespace(extend=lambda name, **_: asked.append(name)),
    )
    held = SimpleNamespace(reservation_id="r1", fence=1, lease_until="2026-01-01T00:15:00.000000Z")
    launching.keep_leases(platform, (held,))
    assert asked == moved
