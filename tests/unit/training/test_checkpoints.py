"""A lost worker: is nothing spent twice, no step hidden, no noise used again?"""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import pytest
import torch
from torch import nn

from primum.domain.errors import InvalidValue, Tampered
from primum_pipelines.optimization.algorithm import (
    IndividualFilter,
    MechanismParameters,
    TrainingTask,
)
from primum_pipelines.optimization.checkpoints import Checkpoints, Continuation, standing
from primum_pipelines.optimization.dpsgd import DPSGD
from primum_pipelines.optimization.settings import Descent, ScheduleShape

STEPS = 20


class LostError(Exception):
    """The worker is gone."""


def row_loss(module, rows, labels):
    return nn.functional.cross_entropy(module(rows), labels, reduction="none")


@pytest.fixture
def task(tmp_path):
    def make(*, dies_after=None, key="run-1", executed=None, every=6, **changes):
        torch.manual_seed(0)

        def on_step(done, planned):
            if done == dies_after:
                raise LostError

        return replace(
            TrainingTask(
                module=nn.Linear(5, 2),
                inputs=(torch.randn(40, 5), torch.arange(40) % 2),
                loss=row_loss,
                expected_units=40,
                mechanism=MechanismParameters(1.0, 0.5, STEPS, 0.3),
                learning_rate=0.1,
                optimizer="Adam",
                descent=Descent(averaging=0.9, samples=2),
                checkpoints=Checkpoints(
                    tmp_path / "zone" / "t.pt",
                    Continuation(key.encode(), executed),
                    every,
                    {"coins": b"101"},
                ),
                on_step=on_step,
            ),
            **changes,
        )

    return make


@pytest.mark.parametrize("dies_after", [1, 5, 6, 7, 19])
def test_a_resumed_training_counts_what_may_have_run_and_no_more(task, dies_after):
    """Checkpoints at 0, 6, 12, 18: whatever was begun counts, and the total is the plan's."""
    with pytest.raises(LostError):
        DPSGD().fit(task(dies_after=dies_after))
    resumed = task()
    place = resumed.checkpoints
    kept = standing(place.path, key=place.training.key)
    assert kept.done <= dies_after <= kept.begun
    assert kept.begun - kept.done <= 6
    seen = []
    report = DPSGD().fit(replace(resumed, on_step=lambda done, planned: seen.append(done)))
    assert seen == list(range(kept.begun + 1, STEPS + 1))
    assert report.executed == ((1.0, 0.5, STEPS),)
    assert report.stopped == ""


def test_the_state_goes_on_where_it_was(task):
    """Weights, moments, averages and kept sums are those of the checkpoint; coins are kept."""
    with pytest.raises(LostError):
        DPSGD().fit(task(dies_after=13))
    place = task().checkpoints
    kept = standing(place.path, key=place.training.key)
    assert (kept.done, kept.begun, kept.extra) == (12, 18, {"coins": b"101"})
    fresh = task()
    assert not torch.equal(kept.state["model"]["weight"], fresh.module.weight)
    first = {}

    def look(done, planned):
        first.setdefault("steps", done)
        raise LostError

    with pytest.raises(LostError):
        DPSGD().fit(replace(fresh, on_step=look))
    assert first == {"steps": 19}
    moved = (fresh.module.weight.detach() - kept.state["model"]["weight"]).abs().max()
    assert 0 < float(moved) < 0.5  # One step of Adam at 0.1, from where the checkpoint was.


def test_noise_after_a_restart_is_new(task):
    """Twice from the same checkpoint: two different models."""
    with pytest.raises(LostError):
        DPSGD().fit(task(dies_after=7))
    kept = task().checkpoints.path.read_bytes()
    weights = []
    for _ in range(2):
        resumed = task()
        resumed.checkpoints.path.write_bytes(kept)
        DPSGD().fit(resumed)
        weights.append(resumed.module.weight.detach().clone())
    assert not torch.equal(*weights)


def test_schedule_and_kept_iterates_go_on_at_the_step_that_is_due(task):
    """Steps 13 to 18 are lost: the last step has the last rate, and no iterate is missing.

    Kept are those after steps 12, 14, 16, 18 and 20; three of them are the state it went on from.
    """
    rates, descent = [], Descent(schedule=ScheduleShape.COSINE, averaging=0.9, samples=5)

    class Watched(Descent):
        def rate_at(self, step, *, steps):
            rates.append(step)
            return descent.rate_at(step, steps=steps)

    with pytest.raises(LostError):
        DPSGD().fit(task(dies_after=18, descent=descent))
    kept = standing(task().checkpoints.path, key=b"run-1")
    assert (kept.done, kept.begun) == (12, 18)
    watched = Watched(schedule=descent.schedule, averaging=0.9, samples=5)
    report = DPSGD().fit(task(descent=watched))
    assert rates == [18, 19]
    same = [torch.equal(s["weight"], kept.state["model"]["weight"]) for s in report.iterates]
    assert same == [True, True, True, True, False]


@pytest.mark.parametrize("told", [7, 10])
def test_what_is_known_from_elsewhere_counts_instead_of_what_was_begun(task, told):
    """A lost worker had said how far it may have come: no step between is given up for nothing."""
    with pytest.raises(LostError):
        DPSGD().fit(task(dies_after=7))
    seen = []
    report = DPSGD().fit(task(executed=told, on_step=lambda done, planned: seen.append(done)))
    assert seen == list(range(told + 1, STEPS + 1))
    assert (report.executed, report.lost) == (((1.0, 0.5, STEPS),), told - 6)


def test_where_steps_were_run_and_no_checkpoint_stands_nothing_goes_on(task):
    with pytest.raises(InvalidValue, match="checkpoint must be there to go on from"):
        DPSGD().fit(task(executed=3))
    assert DPSGD().fit(task(executed=0)).executed == ((1.0, 0.5, STEPS),)


def test_other_units_than_it_had_do_not_go_on(task):
    """A consent was withdrawn meanwhile: filters and canaries would be those of somebody else."""
    with pytest.raises(LostError):
        DPSGD().fit(task(dies_after=7))
    fewer = task()
    fewer = replace(fewer, inputs=tuple(values[1:] for values in fewer.inputs))
    with pytest.raises(InvalidValue, match="checkpoint must be of the units that there are"):
        DPSGD().fit(fewer)


@pytest.mark.parametrize("place", [0, 30, 60, 200, -1])
def test_a_flipped_bit_anywhere_is_seen_before_anything_is_read(task, place):
    with pytest.raises(LostError):
        DPSGD().fit(task(dies_after=7))
    path = task().checkpoints.path
    held = bytearray(path.read_bytes())
    held[place] ^= 4
    path.write_bytes(bytes(held))
    if 20 <= place < 52:  # Its name: it is another training's now, and nothing to go on from.
        assert standing(path, key=b"run-1") is None
    else:
        with pytest.raises(Tampered, match="checkpoint must be"):
            standing(path, key=b"run-1")


def test_a_key_is_not_in_the_file(task):
    with pytest.raises(LostError):
        DPSGD().fit(task(dies_after=7, key="a secret of 32 bytes, more or less"))
    assert b"a secret of 32 bytes" not in task().checkpoints.path.read_bytes()


def test_a_seed_and_checkpoints_do_not_go_together(task):
    with pytest.raises(InvalidValue, match="seed must be absent with checkpoints"):
        DPSGD().fit(task(seed=1))


def test_filters_charge_every_unit_for_what_was_lost(task):
    """Nobody saturates here, so after 6 lost steps each has paid 6 full ones at least."""
    rule = IndividualFilter(bound_steps=10, orders=(2, 8))
    mechanism = replace(task().mechanism, individual=rule, max_grad_norm=50.0)
    with pytest.raises(LostError):
        DPSGD().fit(task(dies_after=1, mechanism=mechanism))
    report = DPSGD().fit(task(mechanism=mechanism))
    assert report.executed == ((1.0, 0.5, STEPS),)
    assert report.diagnostics["filteredOutShare"] == "0"
    with pytest.raises(LostError):
        DPSGD().fit(task(dies_after=7, mechanism=mechanism, key="run-2"))
    report = DPSGD().fit(task(mechanism=replace(mechanism, individual=IndividualFilter(5, (2, 8))),
                              key="run-2"))  # fmt: skip
    assert report.diagnostics["filteredOutShare"] == "1"


def test_another_trainings_checkpoint_is_left_alone(task):
    with pytest.raises(LostError):
        DPSGD().fit(task(dies_after=7))
    seen = []
    other = task(key="run-2", on_step=lambda done, planned: seen.append(done))
    DPSGD().fit(other)
    assert seen[0] == 1


def test_a_file_that_is_no_checkpoint_stops_the_training(task):
    """What it held cannot be told, so nobody may start from zero as if nothing had run."""
    place = task().checkpoints.path
    place.parent.mkdir()
    place.write_bytes(b"half of a checkpoint")
    with pytest.raises(Tampered, match="checkpoint must be one of ours"):
        DPSGD().fit(task())


def test_a_full_disk_ends_the_training_with_what_was_executed(task):
    """The folder becomes a file after the first checkpoint: nothing can be written any more."""
    first = task()
    folder = first.checkpoints.path.parent

    def full(done, planned):
        if done == 3:
            first.checkpoints.remove()
            folder.rmdir()
            folder.write_text("in the way")

    report = DPSGD().fit(replace(first, on_step=full))
    assert report.executed == ((1.0, 0.5, 6),)
    assert "checkpoint must be written before the next step" in report.stopped


def test_a_full_disk_leaves_the_last_good_checkpoint_as_it_is(task, monkeypatch):
    """The third does not fit any more: the second stands, whole, and nothing else is left."""
    synced, real = [], os.fsync

    def fsync(handle):
        synced.append(handle)
        if len(synced) == 3:
            raise OSError(errno.ENOSPC, "full")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    full = task()
    report = DPSGD().fit(full)
    assert report.executed == ((1.0, 0.5, 12),)
    assert (report.cut_off, report.lost) == (False, 0)
    place = full.checkpoints
    assert [path.name for path in place.path.parent.iterdir()] == [place.path.name]
    kept = standing(place.path, key=place.training.key)
    assert (kept.done, kept.begun) == (6, 12)


def test_weights_that_blow_up_end_the_training_with_what_was_executed(task):
    loud = replace(task().mechanism, noise_multiplier=20.0)
    wild = task(learning_rate=3e38, optimizer="SGD", mechanism=loud, descent=Descent())
    report = DPSGD().fit(wild)
    steps = report.executed[0][2]
    assert 0 < steps < STEPS
    assert report.stopped == "weights must stay finite; found infinity or NaN. Lower learningRate."
