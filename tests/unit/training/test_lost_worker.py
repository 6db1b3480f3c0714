"""A training whose worker is lost: is what may have run charged, never less, and run only once?

Each worker here is one call of the step's body. It is lost by an exception that no body sees; what
counts then is the last word that it left, as on a real worker that was killed.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from primum import extensions
from primum.domain.accounting.events import NoEvent, Repeated, covers, event_from_json
from primum.domain.errors import Unavailable
from primum.domain.study.spec import AuditSpec
from primum_pipelines import runtime
from primum_pipelines.optimization import dpsgd, noisy_sums
from primum_pipelines.optimization.algorithm import announces

ENTRY = "primum_pipelines.kinds.train.step:train"
CANARIES = (AuditSpec("Membership", "OneRunCanary", {"canaries": 100}),)
LOOKS = {"earlyStopping": {"score": "HeldOut", "patience": 9, "noiseMultiplier": "20"}}
STEPS = 73


class Lost(BaseException):
    """The worker is gone."""


class Workers:
    """One worker after another, each lost where a test says so; counts every noisy sum."""

    def __init__(self, zone, monkeypatch):
        self.zone, self.words, self.planted, self.sums = zone, [], [], 0
        self.dies = None
        fit, release = dpsgd.DPSGD.fit, noisy_sums.NoisySums.release

        def lost_at(self_, task):
            self.planted.append(len(task.inputs[0]))
            begin, step = task.on_begin, task.on_step

            def on_begin(number, planned):
                begin(number, planned)
                if self.dies == ("begin", number):
                    raise Lost

            def on_step(done, planned):
                step(done, planned)
                if self.dies == ("end", done):
                    raise Lost

            return fit(self_, replace(task, on_begin=on_begin, on_step=on_step))

        def counted(self_):
            self.sums += 1
            return release(self_)

        monkeypatch.setattr(dpsgd.DPSGD, "fit", lost_at)
        monkeypatch.setattr(noisy_sums.NoisySums, "release", counted)

    def run(self, *, dies=None, left=None):
        """What comes of one worker: its report, or what a lost one left."""
        self.dies, words = dies, []
        request = replace(self.zone.request("job"), left=left or {})
        report = runtime.work(ENTRY, request.to_json(), leave=words.append)
        json.dumps(report)
        self.words = words
        if dies is None:
            return report
        assert report["message"] == "job failed: Lost"
        return words[-1] if words else dict(left or {})

    @property
    def planned(self):
        return next(access.event for access in self.zone.plan.accesses if access.step == "job")

    @property
    def checkpoint(self):
        return Path(self.zone.folder) / "checkpoints" / "training.pt"


@pytest.fixture
def workers(make_zone, study, monkeypatch):
    def make(*, facts=None, **changes):
        told = {} if facts is None else {"facts": facts}
        return Workers(make_zone(study=study(**changes), **told), monkeypatch)

    return make


def charged(report):
    (receipt,) = report["receipts"]
    return event_from_json(receipt["event"])


@pytest.mark.parametrize("dies", [("begin", 1), ("end", 1), ("end", 25), ("begin", 70)])
def test_it_goes_on_and_no_step_is_hidden_or_run_twice(workers, dies):
    made = workers()
    left = made.run(dies=dies)
    known = left["resume"]["steps"]
    executed = charged(left)
    assert covers(made.planned, executed)
    assert executed.count == known >= made.sums
    assert known - made.sums <= 10
    done = made.run(left=left)
    assert done["status"] == "Succeeded", done["message"]
    assert charged(done) == made.planned
    assert made.sums <= STEPS, "never more noisy sums than are charged"
    lost = done["receipts"][0]["facts"]["lostSteps"]
    assert f"{lost} were lost with a worker" in done["message"]
    assert done["evidence"][0]["public"]["lostSteps"] == lost
    assert not made.checkpoint.exists()
    assert done["resume"] == {}


def test_canaries_are_those_that_it_had(workers):
    made = workers(audits=CANARIES)
    left = made.run(dies=("end", 25))
    assert made.checkpoint.stat().st_mode & 0o077 == 0
    assert made.run(left=left)["status"] == "Succeeded"
    assert made.planted[0] == made.planted[1]


def test_lost_before_the_first_step_costs_nothing_and_begins_anew(workers, monkeypatch):
    """Killed while it opens the data: what it had left says that no mechanism has run."""
    from primum_pipelines.kinds.train import step

    def lost(*_):
        raise Lost

    made = workers()
    with monkeypatch.context() as patch:
        patch.setattr(step, "require_sound", lost)
        left = made.run(dies=("open", 0))
    assert charged(left) == NoEvent()
    assert not made.checkpoint.exists()
    done = made.run(left=left)
    assert charged(done) == made.planned
    assert made.sums == STEPS
    assert "lostSteps" not in done["receipts"][0]["facts"]


def test_lost_twice(workers):
    made = workers()
    first = made.run(dies=("end", 15))
    second = made.run(dies=("end", 42), left=first)
    assert second["resume"]["key"] == first["resume"]["key"]
    assert charged(second).count >= 42
    done = made.run(left=second)
    assert charged(done) == made.planned
    assert made.sums <= STEPS
    assert done["receipts"][0]["facts"]["lostSteps"] >= (charged(first).count - 15)


def test_lost_again_before_it_could_go_on_forgets_nothing(workers, monkeypatch):
    """The second worker dies while it opens the data: what the first one left still counts."""
    from primum_pipelines.kinds.train import step

    made = workers()
    first = made.run(dies=("end", 15))
    with monkeypatch.context() as patch:
        patch.setattr(step, "require_sound", lambda _: (_ for _ in ()).throw(Lost()))
        second = made.run(dies=("open", 0), left=first)
    assert second == first
    assert charged(made.run(left=second)) == made.planned
    assert made.sums <= STEPS


def test_lost_after_the_last_step_the_model_is_that_of_the_checkpoint(workers):
    made = workers()
    left = made.run(dies=("end", STEPS))
    assert charged(left) == made.planned
    before = made.sums
    done = made.run(left=left)
    assert done["status"] == "Succeeded"
    assert made.sums == before == STEPS, "no further step is run"
    assert charged(done) == made.planned
    assert [item["kind"] for item in done["artifacts"]] == ["Model"]


def test_where_little_is_left_it_ends_with_what_was_executed(workers, study):
    """Ten steps with one checkpoint, at the beginning: nothing of them is left."""
    made = workers(job={**study().job, "epochs": 2, "noiseMultiplier": "20"})
    steps = made.planned.count
    left = made.run(dies=("end", steps))
    ended = made.run(left=left)
    assert ended["status"] == "Failed"
    assert "too few steps are left of it" in ended["message"]
    assert charged(ended).count == steps
    assert ended["resume"] == {}


@pytest.mark.parametrize("gone", ["absent", "another's", "altered", "cut"])
def test_without_its_own_checkpoint_it_ends_with_what_was_executed(workers, gone):
    made = workers()
    left = made.run(dies=("end", 25))
    kept = made.checkpoint.read_bytes()
    made.checkpoint.unlink()
    if gone == "another's":
        made.run(dies=("end", 25))  # Leaves one under a key of its own.
    elif gone == "altered":
        made.checkpoint.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    elif gone == "cut":
        made.checkpoint.write_bytes(kept[:40])
    before = made.sums
    ended = made.run(left=left)
    assert made.sums == before
    assert ended["status"] == "Failed"
    assert "job failed: checkpoint must be" in ended["message"]
    assert charged(ended) == charged(left)
    assert ended["resume"] == {}


def test_an_older_checkpoint_hides_no_step(workers):
    """Somebody restores an earlier one: its steps count, and those that it does not know of too."""
    made = workers()
    first = made.run(dies=("end", 12))
    old = made.checkpoint.read_bytes()
    second = made.run(dies=("end", 33), left=first)
    made.checkpoint.write_bytes(old)
    done = made.run(left=second)
    assert charged(done) == made.planned
    assert made.sums <= STEPS
    assert done["receipts"][0]["facts"]["lostSteps"] >= 20


def test_an_account_that_is_sound_for_fixed_plans_alone_is_charged_the_plan(workers, facts):
    made = workers(facts=facts(accounting="PLD"))
    left = made.run(dies=("end", 25))
    assert charged(left) == made.planned
    assert "All planned steps are charged" in left["message"]
    assert charged(made.run(left=left)) == made.planned


def test_looks_that_may_have_been_taken_count(workers, study):
    made = workers(job={**study().job, **LOOKS})
    left = made.run(dies=("end", 25))
    counted = {item["access"]: event_from_json(item["event"]) for item in left["receipts"]}
    looks = next(event for name, event in counted.items() if name.startswith("stop"))
    steps = left["resume"]["steps"]
    every = int(made.zone.plan.parameters["earlyStopping"]["every"])
    assert isinstance(looks, Repeated)
    assert looks.count >= steps // every
    done = made.run(left=left)
    assert done["status"] == "Succeeded"
    for item in done["receipts"]:
        planned = next(a.event for a in made.zone.plan.accesses if a.name == item["access"])
        assert covers(planned, event_from_json(item["event"]))


def test_who_cannot_be_told_of_a_step_does_not_run_it(workers):
    """The keeper has given the call up: the worker lives, but runs no step that nobody counts."""
    made = workers()
    told = []

    def gone(word):
        if len(told) == 2:
            raise Unavailable("the call was given up")
        told.append(word)

    report = runtime.work(ENTRY, made.zone.request("job").to_json(), leave=gone)
    assert report["status"] == "Failed"
    assert made.sums == told[-1]["resume"]["steps"] == charged(report).count


def test_a_training_that_outlasts_its_token_is_still_charged_and_kept(workers, monkeypatch):
    """A token says how long data may be opened, not how long one may compute on it."""
    from primum_pipelines.datasets import access

    made, checked = workers(), []

    def expired_later(expires, name):
        checked.append(name)
        assert made.sums == 0, "asked again after the training had begun"

    monkeypatch.setattr(access, "_require_unexpired", expired_later)
    done = made.run()
    assert checked == ["train@wisconsin"]
    assert charged(done) == made.planned


@pytest.mark.parametrize("fails", ["memory", "disk"])
def test_what_fails_by_itself_is_charged_as_executed_and_not_run_again(workers, monkeypatch, fails):
    from primum_pipelines.kinds.train import outcome

    made = workers()
    if fails == "disk":

        def full(*_):
            raise OSError(28, "No space left on device: patient 42")

        monkeypatch.setattr(outcome, "store_model", full)
        expected = STEPS
    else:
        real = noisy_sums.NoisySums.release

        def release(sums):
            if made.sums == 24:
                raise RuntimeError("CUDA out of memory: patient 42")
            return real(sums)

        monkeypatch.setattr(noisy_sums.NoisySums, "release", release)
        expected = 30
    report = made.run()
    assert report["status"] == "Failed"
    assert report["message"] in ("job failed: OSError", "job failed: RuntimeError")
    assert charged(report).count == expected
    assert report["resume"] == {}
    assert not made.checkpoint.exists()


@pytest.mark.parametrize("says", [{}, {"announces": True, "reviewed": False}])
def test_an_algorithm_that_nobody_can_believe_leaves_nothing(workers, monkeypatch, says):
    """It does not say when a step begins, or nobody has looked: a lost one is charged in full."""

    class Silent:
        name, reviewed, reads = "DPSGD", True, dpsgd.DPSGD.reads

        def fit(self, task):
            assert task.on_begin is None
            raise Lost

    real = extensions.load
    group = "primum.training_algorithms"
    monkeypatch.setattr(
        extensions, "load", lambda kind, name: Silent if kind == group else real(kind, name)
    )
    for name, value in says.items():
        setattr(Silent, name, value)
    assert announces(dpsgd.DPSGD)
    assert not announces(Silent)
    made = workers()
    assert made.run(dies=("end", 1)) == {}
    assert made.words == []
