"""Kill -9 at any moment, then the same command again: the Study ends, and nothing is spent twice.

Everything is real: `primum apply` as a process, its pipeline run, its steps, its Ray. A test waits
until the ledger or the evidence shows a moment, kills without warning, and repeats the command.
Kills land where the machine's load lets them; what must hold afterwards holds wherever that is.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from command_line import ROOT
from places import STUDY, Place, cleared

from primum.domain import names
from primum.domain.budget.entries import EntryKind
from primum.domain.names import ResourceKey

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes by their environment"),
]

KEY = ResourceKey("Study", "oncology", "tiny")
LOOK_SECONDS = 0.01
MOMENT_SECONDS_MAX = 240.0
TERMINAL = (EntryKind.CHARGED, EntryKind.RETURNED, EntryKind.DENIED)


@pytest.fixture
def place(tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text(STUDY)
    with cleared(Place(tmp_path / "home", study)) as made:
        yield made


def reserved(stores, study):
    return any(e.kind is EntryKind.RESERVED for e in stores.ledger.entries())


def exposed(stores, study):
    held = stores.ledger.reservations(study_uid=study.uid)
    return any("train@wisconsin" in reservation.exposed for reservation in held)


def step_begun(step):
    def look(stores, study):
        return stores.evidence.begun(names.outcome_id(study.uid, study.generation, step))

    return look


def step_ended(step):
    def look(stores, study):
        return stores.evidence.outcome(names.outcome_id(study.uid, study.generation, step))

    return look


def fact(kind):
    def look(stores, study):
        return stores.evidence.fact(kind, f"{study.uid}/{study.generation}")

    return look


MOMENTS = {
    "reserved": reserved,
    "job begun": step_begun("job"),
    "exposed": exposed,
    "job ended": step_ended("job"),
    "audit begun": step_begun("audit"),
    "audit ended": step_ended("audit"),
    "judged": fact("Verdicts"),
    "certified": fact("Certificate"),
}


def wait_for(place, moment, process):
    """Until a moment has come, or the command ended without it."""
    deadline = time.monotonic() + MOMENT_SECONDS_MAX
    while not (place.home / "primum.db").exists() and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    stores = None
    while time.monotonic() < deadline:
        try:
            stores = stores or place.stores()
            study = stores.resources.get(KEY)
            if study is not None and MOMENTS[moment](stores, study):
                break
        except Exception:
            pass  # Its tables are being made.
        if process.poll() is not None:
            break
        time.sleep(LOOK_SECONDS)
    else:
        pytest.fail(f"{moment} did not come in {MOMENT_SECONDS_MAX:.0f} s")
    stores.close()


def start(place):
    return subprocess.Popen(
        place.command(),
        env=place.environment,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def check(place, done):
    """The Study is over, its reservation is resolved once, and the record is intact."""
    assert "Traceback" not in done.stdout + done.stderr, done
    stores = place.stores()
    try:
        study = stores.resources.get(KEY)
        ended = {c["type"]: c for c in study.status["conditions"]}["Succeeded"]
        assert ended["status"] in ("True", "False"), (ended, done)
        assert list(stores.ledger.verify()) == []
        entries = stores.ledger.entries()
        by_reservation = {}
        for entry in entries:
            if entry.kind in TERMINAL:
                by_reservation.setdefault(entry.reservation_id, []).append(entry.kind)
        held = stores.ledger.reservations(study_uid=study.uid)
        assert len(held) == 1
        assert {key: len(kinds) for key, kinds in by_reservation.items()} == {
            held[0].reservation_id: 1
        }
        plan = stores.evidence.plan(study.uid, study.generation)
        job = stores.evidence.outcome(names.outcome_id(study.uid, study.generation, "job"))
        account = stores.ledger.accounts()[0]
        assert account.epsilon_spent == account.epsilon_reserved
        if ended["status"] == "True":
            assert done.returncode == 0, done
            assert held[0].executed is not None
            assert stores.evidence.fact("Published", f"{study.uid}/{study.generation}")
        elif "train@wisconsin" in held[0].exposed and not (job and job.receipts):
            # Its mechanism may have run, and nobody can say how far: all of it is charged.
            assert done.returncode == 1, done
            assert ended["reason"] in ("StepLost", "StepFailed")
            assert held[0].executed is None
        assert plan is not None
        return ended["status"] == "True", held[0], job
    finally:
        stores.close()


def killed_and_repeated(place, moment):
    process = start(place)
    wait_for(place, moment, process)
    while place.kill():
        time.sleep(0.05)
    process.wait()
    return check(place, place.apply())


def test_killed_while_it_trains_all_is_charged_once(place):
    succeeded, held, job = killed_and_repeated(place, "exposed")
    if not succeeded:  # The usual case: training had begun and its result is lost.
        assert held.executed is None
        assert job is None or not job.receipts
    again = place.apply()
    assert check(place, again)[0] is succeeded  # A third time changes nothing.


def test_killed_after_training_it_goes_on_with_what_was_made(place):
    succeeded, held, job = killed_and_repeated(place, "job ended")
    assert succeeded
    assert held.executed is not None
    assert len(job.receipts) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", ["reserved", "job begun", "audit begun", "audit ended", "judged", "certified"]
)
def test_killed_at_any_other_moment(place, moment):
    succeeded, _, _ = killed_and_repeated(place, moment)
    if moment not in ("job begun", "reserved"):
        assert succeeded


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["job begun", "audit begun"])
@pytest.mark.parametrize(
    "words",
    [("executor_main",), ("primum.adapters.ray.keeper",), ("primum.adapters.kfp",)],
    ids=["the step", "the keeper of Ray", "the run"],
)
def test_one_process_is_killed_and_the_command_still_ends(place, moment, words):
    process = start(place)
    wait_for(place, moment, process)
    place.kill(*words)
    assert process.wait(timeout=600) in (0, 1)
    check(place, place.apply())


@pytest.mark.slow
def test_killed_again_and_again(place):
    for moment in ("reserved", "job begun", "exposed", "audit begun"):
        process = start(place)
        wait_for(place, moment, process)
        while place.kill():
            time.sleep(0.05)
        process.wait()
    check(place, place.apply())
