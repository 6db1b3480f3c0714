"""Kill -9 of the worker amid a training, through the platform: nothing is lost or hidden.

Everything is real: `primum apply`, its pipeline run, its steps, its Ray. Only the worker is killed,
as the kernel does it to who takes too much memory. What its keeper was told decides.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import ROOT
from places import STUDY, Place, cleared

from primum.adapters import processes
from primum.domain import names
from primum.domain.accounting.events import Repeated
from primum.domain.budget.entries import EntryKind
from primum.domain.names import ResourceKey

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes by their titles"),
]

KEY = ResourceKey("Study", "oncology", "tiny")
SECONDS_MAX = 600.0
LONG = STUDY.replace("epochs: 2,", "epochs: 3000,")


@dataclass
class Run:
    """A Study under way, and what is seen of its training from outside."""

    place: Place
    process: subprocess.Popen

    def wait_for(self, ready, what):
        deadline = time.monotonic() + SECONDS_MAX
        while time.monotonic() < deadline:
            found = ready()
            if found:
                return found
            assert self.process.poll() is None, f"the Study ended before {what}"
            time.sleep(0.02)
        return pytest.fail(f"no {what} in {SECONDS_MAX:.0f} s")

    def done(self):
        """Steps that the progress tells, or nothing."""
        for path in self.place.home.rglob("progress/job.json"):
            try:
                return int(json.loads(path.read_text())["done"])
            except (OSError, ValueError):
                return 0
        return 0

    def trainer(self):
        """The process that runs a body just now, or nothing."""
        (lock,) = list(self.place.home.rglob("ray.lock"))[:1] or [None]
        for pid in [] if lock is None else processes._marked(lock):
            try:
                title = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::Worker.run"):
                return pid
        return 0

    def kill_after(self, steps):
        """Kill -9 of the worker once more steps than these are done; says how many were."""
        self.wait_for(lambda: self.done() > steps, f"step {steps}")
        pid = self.wait_for(self.trainer, "worker")
        done = self.done()
        os.kill(pid, signal.SIGKILL)
        return done


@pytest.fixture
def run(tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text(LONG)
    with cleared(Place(tmp_path / "home", study)) as place:
        process = subprocess.Popen(
            place.command(),
            env=place.environment,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        yield Run(place, process)
        process.kill()
        process.wait()


def came_to(run):
    """The Study's plan, its job's outcome and its one reservation, when all is over."""
    run.process.wait(timeout=SECONDS_MAX)
    stores = run.place.stores()
    try:
        study = stores.resources.get(KEY)
        job = stores.evidence.outcome(names.outcome_id(study.uid, study.generation, "job"))
        (held,) = stores.ledger.reservations(study_uid=study.uid)
        plan = stores.evidence.plan(study.uid, study.generation)
        kinds = [entry.kind for entry in stores.ledger.entries()]
        assert kinds.count(EntryKind.EXPOSED) == len(held.exposed)
        assert kinds.count(EntryKind.CHARGED) == 1
        assert list(stores.ledger.verify()) == []
        planned = next(a.event for a in plan.accesses if a.name == "train@wisconsin")
        return planned, job, held
    finally:
        stores.close()


def test_a_killed_worker_is_followed_by_another_under_the_same_charge(run):
    """Twice: the second time the one that had gone on."""
    first = run.kill_after(1000)
    run.kill_after(first + 2000)
    planned, job, held = came_to(run)

    assert job.status.value == "Succeeded", job.message
    (receipt,) = job.receipts
    assert receipt.event == held.executed == planned
    lost = int(str(receipt.facts["lostSteps"]))
    assert 0 < lost <= 2 * (planned.count // 20 + 10)
    assert f"{lost} were lost with a worker" in job.message
    assert not list(run.place.home.rglob("training.pt")), "checkpoints go with the training"


def test_a_training_that_is_killed_whenever_it_goes_on_is_charged_as_executed(run):
    """Nothing but what ran, and never less: what the last progress told is covered."""
    done = 0
    for _ in range(4):
        done = run.kill_after(done + 500)
    planned, job, held = came_to(run)

    assert job.status.value == "Failed"
    assert "training lost its worker; at most" in job.message
    (receipt,) = job.receipts
    assert isinstance(receipt.event, Repeated)
    assert done <= receipt.event.count < planned.count
    assert held.executed == receipt.event
    assert receipt.event.event == planned.event
