"""The fakes are strict where the real adapters are."""

from __future__ import annotations

import pytest

from primum.adapters.memory import (
    ManualClock,
    MemoryCompute,
    MemoryDatasets,
    MemoryLineage,
    MemoryRowStore,
    MemoryRunner,
)
from primum.application.ports import RunStatus
from primum.domain.budget.book import Head
from primum.domain.errors import InvalidValue, NotFound, Unavailable
from primum.domain.quantities import PrivacyUnit
from primum.domain.study.registration import Registration
from primum.domain.study.spec import DatasetSpec


def test_a_clock_moves_only_when_told():
    clock = ManualClock()
    assert clock.now() == clock.now() == "2026-01-01T00:00:00.000000Z"
    clock.advance(0.25)
    assert clock.now() == "2026-01-01T00:00:00.250000Z"
    assert clock.after(60) == "2026-01-01T00:01:00.250000Z"


def test_a_run_is_launched_once_and_stopped_once():
    runner = MemoryRunner()
    assert runner.status("r") is RunStatus.UNKNOWN
    runner.launch("r", name="first", steps=())
    runner.launch("r", name="second", steps=())
    assert runner.launched["r"][0] == "first"
    assert runner.logs("r") == "Running\n"
    runner.stop("r")
    runner.launch("r", name="third", steps=())
    runner.stop("r")
    assert runner.status("r") is RunStatus.FAILED


def test_compute_passes_json_and_nothing_else():
    compute = MemoryCompute({"m:f": lambda payload: {"doubled": payload["n"] * 2}})
    compute.warm()
    compute.ready("m:f")
    assert compute.call("m:f", {"n": 2}) == {"doubled": 4}
    with pytest.raises(InvalidValue, match="float"):
        compute.call("m:f", {"n": 0.5})
    with pytest.raises(Unavailable, match="m:g"):
        compute.call("m:g", {})


def test_only_known_datasets_are_registered():
    known = Registration("sha256:x", 10, 8)
    datasets = MemoryDatasets({"memory://a": known})
    assert datasets.register(DatasetSpec("memory://a", PrivacyUnit.PATIENT)) == known
    with pytest.raises(NotFound, match="memory://b"):
        datasets.register(DatasetSpec("memory://b", PrivacyUnit.PATIENT))


def test_lineage_keeps_its_events_in_order():
    lineage = MemoryLineage()
    lineage.emit({"n": 1})
    lineage.emit({"n": 2})
    assert [event["n"] for event in lineage.events] == [1, 2]


def test_a_transaction_that_fails_leaves_nothing():
    rows = MemoryRowStore()

    def fails(pen):
        pen.put_head(Head(5, "x", "y"))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        rows.write(fails)
    assert rows.read(lambda pages: pages.head()) == Head()
