"""How long a keeper lives, and which worker a call meets. Ray itself is in tests/integration."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import asdict

import pytest

from primum.adapters.ray import RaySettings, keeper, wire


@pytest.fixture
def kept(tmp_path):
    """A keeper that has not started anything."""
    kept = keeper.Keeper(tmp_path, asdict(RaySettings(workers=2, idle_seconds=600.0)))
    yield kept
    kept._scratch.rmdir()


def passed(kept, seconds: float) -> None:
    kept._last_call = time.monotonic() - seconds


def test_a_keeper_lives_as_long_as_its_owner_however_idle(kept, tmp_path):
    wire.own(tmp_path)
    passed(kept, 10_000)

    assert kept._is_needed()


def test_a_keeper_outlives_its_owner_only_by_the_gap_between_two_steps(kept, tmp_path):
    owner = subprocess.Popen([sys.executable, "-c", "pass"])
    owner.wait()
    (tmp_path / "ray-owners").mkdir()
    (tmp_path / "ray-owners" / str(owner.pid)).write_text("12345")

    passed(kept, 10)
    assert kept._is_needed()
    passed(kept, 30)
    assert not kept._is_needed()


def test_a_process_with_a_dead_owner_s_number_is_not_the_owner(kept, tmp_path):
    (tmp_path / "ray-owners").mkdir()
    (tmp_path / "ray-owners" / str(os.getpid())).write_text("born at another time")
    passed(kept, 30)

    assert not kept._is_needed()


def test_a_keeper_without_owner_ends_when_nobody_calls(kept):
    passed(kept, 599)
    assert kept._is_needed()
    passed(kept, 601)
    assert not kept._is_needed()


def test_a_keeper_does_not_end_under_a_call(kept):
    passed(kept, 10_000)
    kept._busy = 1

    assert kept._is_needed()


def test_owning_twice_is_owning_once(tmp_path):
    wire.own(tmp_path)
    wire.own(tmp_path)

    assert list(wire.owners(tmp_path).values()) == [True]


def test_all_steps_of_a_run_but_validation_meet_one_worker(kept):
    lanes = {
        kept._lane(f"primum_pipelines.steps.{step}:run", "run-1").name
        for step in ("evaluate", "audit")
    }

    assert lanes == {kept._lane("primum_pipelines.kinds.train.step:train", "run-1").name}
    assert kept._lane("primum_pipelines.steps.validate:run", "run-1").name == "primum-quality"


def test_runs_are_spread_over_the_workers(kept):
    names = {kept._lane("primum_pipelines.steps.audit:run", f"run-{n}").name for n in range(20)}

    assert names == {"primum-worker-0", "primum-worker-1"}
