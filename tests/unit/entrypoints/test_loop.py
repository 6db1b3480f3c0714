"""The control loop looks at what needs it, and no fault of one resource stops another."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from primum.adapters.memory import ManualClock, MemoryLedgerStore, MemoryResourceStore
from primum.application import budgets, releases
from primum.domain.errors import NotFound, Tampered, Unavailable
from primum.domain.names import ResourceKey
from primum.entrypoints import loop
from primum.entrypoints.loop import (
    CHECKPOINT_LOOK_SECONDS,
    REJECTED_SECONDS,
    RESYNC_SECONDS,
    ControlLoop,
)

BUDGET = ResourceKey("PrivacyBudget", "a", "b")
POLICY = ResourceKey("GatePolicy", "a", "p")


@pytest.fixture
def world(monkeypatch):
    """Two resources, a clock that stands still, and what was looked at."""
    clock = ManualClock()
    made = SimpleNamespace(
        now=100.0,
        seen=[],
        fault={},
        platform=SimpleNamespace(
            clock=clock,
            ledger=MemoryLedgerStore(clock=clock),
            resources=MemoryResourceStore(clock=clock),
            conduct=SimpleNamespace(lease_seconds=60.0),
        ),
    )
    monkeypatch.setattr(loop.time, "monotonic", lambda: made.now)

    def reconcile(platform, stored):
        made.seen.append(stored.key.kind)
        if stored.key.kind in made.fault:
            raise made.fault[stored.key.kind]

    monkeypatch.setattr(budgets, "reconcile_budget", reconcile)
    monkeypatch.setattr(releases, "reconcile_policy", reconcile)
    for key in (BUDGET, POLICY):
        made.platform.resources.apply(key, {"x": "1"}, labels={})
    made.loop = ControlLoop(made.platform, flush_lineage=lambda: 0)
    return made


def looked(world):
    world.seen.clear()
    world.loop.look()
    return list(world.seen)


def test_what_stands_is_looked_at_again_when_it_changes_or_after_a_while(world):
    assert looked(world) == ["PrivacyBudget", "GatePolicy"]
    assert looked(world) == []
    world.platform.resources.apply(POLICY, {"x": "2"}, labels={})
    assert looked(world) == ["GatePolicy"]
    world.now += RESYNC_SECONDS
    assert looked(world) == ["PrivacyBudget", "GatePolicy"]


def test_a_dataset_that_cannot_be_used_is_not_opened_at_every_look(world):
    stored = world.platform.resources.get(BUDGET)
    looked(world)
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "DatasetUnreadable",
        "message": "",
        "observedGeneration": stored.generation,
        "lastTransitionTime": "2026-11-22T06:00:00.000000Z",
    }
    world.platform.resources.set_status(BUDGET, stored.uid, {"conditions": [ready]})
    world.now += 5 * RESYNC_SECONDS
    assert looked(world) == ["GatePolicy"]
    world.now += REJECTED_SECONDS
    assert "PrivacyBudget" in looked(world)
    world.platform.resources.apply(BUDGET, {"x": "put right"}, labels={})
    assert "PrivacyBudget" in looked(world)  # Another generation: nobody has looked at it.


def test_a_fault_stops_nobody_else_and_is_retried_later_and_later(world):
    world.fault["PrivacyBudget"] = NotFound("gone")
    assert looked(world) == ["PrivacyBudget", "GatePolicy"]
    assert world.loop.failures() == 1
    tries = []
    for _ in range(100):
        world.now += RESYNC_SECONDS
        if "PrivacyBudget" in looked(world):
            tries.append(world.now)
    gaps = [after - before for before, after in itertools.pairwise(tries)]
    assert gaps == sorted(gaps)
    assert max(gaps) <= loop.BACKOFF_SECONDS_MAX + RESYNC_SECONDS
    assert world.loop.failures() == 1 + len(tries)
    world.fault.clear()
    world.now += loop.BACKOFF_SECONDS_MAX
    looked(world)
    world.now += RESYNC_SECONDS
    assert "PrivacyBudget" in looked(world)


def test_a_foreign_fault_is_reported_by_its_type_alone(world, capsys, monkeypatch):
    world.fault["GatePolicy"] = RuntimeError("patient 17")
    said = []
    monkeypatch.setattr(loop.log, "warning", lambda *words, **more: said.append((words, more)))
    looked(world)
    assert "RuntimeError" in str(said)
    assert "patient 17" not in str(said)


def test_a_store_that_does_not_answer_is_asked_again(world, monkeypatch):
    def silent(kind, namespace=""):
        raise Unavailable("the database did not answer")

    with monkeypatch.context() as patch:
        patch.setattr(world.platform.resources, "list", silent)
        world.loop.look()
    assert looked(world) == ["PrivacyBudget", "GatePolicy"]


def due(world, monkeypatch, checkpoint):
    """A ledger that is due, and what is done about it."""
    ledger = world.platform.ledger
    world.platform.signer = object()
    monkeypatch.setattr(ledger, "checkpoint_due", lambda: True)
    monkeypatch.setattr(ledger, "checkpoint", checkpoint)


def test_a_ledger_that_is_due_is_signed_now_and_then(world, monkeypatch):
    calls = []
    due(world, monkeypatch, lambda signer, actor: calls.append((signer, actor)))
    looked(world)
    looked(world)
    assert calls == [(world.platform.signer, "platform/control-loop")]
    world.now += CHECKPOINT_LOOK_SECONDS
    looked(world)
    assert len(calls) == 2


def test_a_ledger_that_cannot_be_signed_stops_nothing(world, monkeypatch):
    def refuse(signer, actor):
        raise Tampered("The ledger must reach its anchor; found its end before.")

    due(world, monkeypatch, refuse)
    assert looked(world) == ["PrivacyBudget", "GatePolicy"]
    world.now += RESYNC_SECONDS
    assert looked(world) == ["PrivacyBudget", "GatePolicy"]


@pytest.mark.parametrize("fault", [Tampered("A claim must wait for an account."), ValueError("x")])
def test_a_scheduling_round_that_fails_stops_nothing(world, monkeypatch, fault):
    def fail(lease_seconds, actor):
        raise fault

    monkeypatch.setattr(world.platform.ledger, "schedule", fail)
    assert looked(world) == ["PrivacyBudget", "GatePolicy"]
