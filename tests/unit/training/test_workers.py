"""Two workers, one training: is it the very training that one worker would have made?

Two processes of this machine go through all trials once; each test looks at what one came to.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal

import gloo_workers as trial
import numpy as np
import pytest
import torch
from sampled_step import presence
from scipy import stats

from primum.adapters.ray.group import came_to
from primum.domain.accounting.events import NoEvent, event_from_json
from primum.domain.errors import InvalidValue, Unavailable
from primum.domain.study.plan import plan_from_json
from primum.domain.study.spec import AuditSpec
from primum_pipelines.kinds.train import sharing
from primum_pipelines.optimization import distributed
from primum_pipelines.optimization.checkpoints import Checkpoints, Continuation, standing
from primum_pipelines.optimization.dpsgd import DPSGD

WORKERS = 2


CANARIES = 400
JOB = {
    "model": "Logistic",
    "epochs": 10,
    "batchSize": 200,
    "maxGradNorm": "1.0",
    "noiseMultiplier": "2.0",
    "learningRate": "2",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, zone_at):
    """Where two processes left what their trials came to."""
    place = tmp_path_factory.mktemp("workers")
    audit = AuditSpec("Membership", "OneRunCanary", {"canaries": CANARIES})
    zone = zone_at(place / "zone", job=JOB, workers=WORKERS, audits=(audit,), epsilon=Decimal(8))
    (place / "request.json").write_text(json.dumps(zone.request("job").to_json()))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    begun = [
        subprocess.Popen(
            [sys.executable, trial.__file__, str(rank), str(WORKERS), str(place)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORKERS)
    ]
    errors = [process.communicate(timeout=240)[1] for process in begun]
    assert (begun[0].returncode, begun[1].returncode) == (0, 1), errors
    return place


@pytest.fixture
def left_by(folder):
    def read(name, rank=0):
        return torch.load(folder / f"{name}-{rank}.pt", weights_only=False)

    return read


@pytest.mark.parametrize("name", ["task", "filtered"])
def test_two_workers_train_the_very_model_of_one(left_by, name):
    """Same coins, same noise: only the order of floating-point sums may differ."""
    whole = getattr(trial, name)()
    report = DPSGD().fit(whole)
    alone = trial.found(report, whole.module)
    for rank in range(WORKERS):
        two = left_by(name, rank)
        assert two["executed"] == alone["executed"]
        assert two["diagnostics"] == alone["diagnostics"]
        assert (two["workers"], alone["workers"]) == (2, 1)
        for key, value in alone["weights"].items():
            assert torch.allclose(two["weights"][key], value, atol=1e-5), key
    first = left_by(name)
    assert len(first["iterates"]) == len(alone["iterates"]) == 2
    for key, value in alone["sums"].items():
        assert torch.allclose(first["sums"][key], value, atol=1e-4), key


def test_every_worker_holds_the_released_weights_bit_by_bit(left_by):
    first, second = (left_by("task", rank)["weights"] for rank in range(WORKERS))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_each_unit_is_in_each_batch_with_the_planned_probability_and_counted_once(left_by):
    """A unit's coordinate of the sums is C times the number of batches that it was in.

    Chi-square over 40 units of two workers and 600 batches; a false alarm has probability 1e-6.
    A unit in two shares, or a rate that is halved or doubled, moves it by thousands.
    """
    found = left_by("marked")
    times = found["sums"]["weight"].flatten().double().numpy()
    assert np.allclose(times, times.round(), atol=1e-3)
    steps, rate = trial.MARKED_STEPS, trial.MARKED_RATE
    statistic = ((times - steps * rate) ** 2 / (steps * rate * (1 - rate))).sum()
    low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], df=trial.MARKED)
    assert low < statistic < high
    assert found["executed"] == ((1e-6, rate, steps),)


def test_noise_is_added_once_whatever_the_number_of_workers(left_by):
    """30,000 coordinates that nobody pulls at: sigma C within 4 %, at 9 standard errors.

    Noise of each worker would be 1.41 times as much, noise of none would be 0.
    """
    noise = left_by("silent")["sums"]["weight"].double()
    expected = 2.0 * 0.5
    assert float(noise.std()) == pytest.approx(expected, rel=0.04)
    assert abs(float(noise.mean())) < 6 * expected / trial.WIDE**0.5


def test_a_step_is_that_of_opacus_distributed_optimizer(left_by):
    """Its expected batch is each worker's share, and it averages over workers: the same."""
    ours = left_by("plain")["weights"]
    start = trial.plain().module.state_dict()
    for rank in range(WORKERS):
        for name, theirs in left_by("opacus", rank).items():
            assert torch.allclose(ours[name], theirs, atol=1e-6), name
            assert not torch.equal(theirs, start[name])


def test_a_worker_whose_weights_drift_ends_the_training(left_by):
    for rank in range(WORKERS):
        report = left_by("drifting", rank)
        assert "same weights after a step" in report["stopped"]
        assert report["executed"] == ((0.7, 0.4, 1),)


def test_the_first_worker_alone_looks_and_all_end_with_it(left_by):
    """The second look, after step 6, is in vain; the other worker is not asked."""
    first, second = (left_by("early", rank) for rank in range(WORKERS))
    assert first["executed"] == second["executed"] == ((0.7, 0.4, 6),)
    assert (first["looked"], second["looked"]) == (2, 0)
    assert first["stopped"] == ""
    assert all(torch.equal(first["weights"][n], second["weights"][n]) for n in first["weights"])


def test_workers_of_a_group_do_not_each_run_a_search(monkeypatch):
    """The planner refuses it; a plan that slipped through would be executed once per worker."""
    several = distributed.Alone()
    several.count = WORKERS
    monkeypatch.setattr(sharing, "joined", lambda *, workers: several)
    assert sharing.planned_group({"workers": WORKERS}).count == WORKERS
    with pytest.raises(InvalidValue, match="must be 1 for a search"):
        sharing.planned_group({"workers": WORKERS, "search": {}})


def test_workers_that_see_other_data_are_refused(left_by):
    for rank in range(WORKERS):
        assert left_by("other", rank).startswith(
            "dataset of the training must be the same for every worker"
        )


def test_a_group_of_another_size_than_planned_is_refused(left_by):
    assert "must be the 3 that the Study asks for; found 2" in left_by("three")


def test_a_lost_worker_ends_the_training_with_what_was_executed(left_by, folder):
    """It left after step 4; the step that was under way counts."""
    report = left_by("lost")
    assert report["stopped"].startswith("a worker of the training was lost")
    assert report["executed"] == ((0.7, 0.4, trial.LOST_AT + 1),)
    assert not (folder / "lost-1.pt").exists()


def test_a_group_goes_on_from_its_checkpoint(left_by):
    """Lost after step 7 with checkpoints every 3: steps up to 9 count, and 12 in all are run."""
    assert left_by("crashed") == {}
    first, second = (left_by("resumed", rank) for rank in range(WORKERS))
    assert first["executed"] == second["executed"] == ((0.7, 0.4, trial.STEPS),)
    assert all(torch.equal(first["weights"][n], second["weights"][n]) for n in first["weights"])


def test_another_number_of_workers_does_not_go_on_from_it(folder, tmp_path):
    shutil.copy(folder / "two.pt", tmp_path / "two.pt")
    kept = Checkpoints(tmp_path / "two.pt", Continuation(b"run"), 3, {})
    assert standing(kept.path, key=b"run").workers == WORKERS
    alone = replace(trial.filtered(seed=None), checkpoints=kept)
    with pytest.raises(InvalidValue, match="checkpoint must be of 1 workers; found 2"):
        DPSGD().fit(alone)


def test_the_step_of_two_workers_is_stored_charged_and_told_by_the_first(left_by, folder):
    """The receipt says what was executed and by how many; the other stores and charges nothing."""
    first, second = (left_by("step", rank) for rank in range(WORKERS))
    assert first["status"] == second["status"] == "Succeeded", (first, second)
    plan = plan_from_json(json.loads((folder / "request.json").read_text())["context"]["plan"])
    (access,) = [item for item in plan.accesses if item.step == "job"]
    (receipt,) = first["receipts"]
    assert event_from_json(receipt["event"]) == access.event
    assert receipt["facts"]["workers"] == WORKERS
    assert receipt["facts"]["steps"] == plan.mechanism["steps"]
    assert first["evidence"][0]["public"]["workers"] == WORKERS
    assert {item["kind"] for item in first["artifacts"]} == {"Model", "Canaries"}
    for nothing in ("receipts", "artifacts", "evidence"):
        assert second[nothing] == []


def test_each_canary_that_is_in_is_at_one_worker(folder):
    """What the noisy sums say of those that are in, less what they say of the others.

    Expected is the divergence of one sampled step, forwards and backwards, times the steps; a
    canary at both workers would make it about twice that, one at none 0. Within 6 standard errors:
    a false alarm has probability 1e-8.
    """
    request = json.loads((folder / "request.json").read_text())
    mechanism = plan_from_json(request["context"]["plan"]).mechanism
    steps, rate = int(mechanism["steps"]), float(mechanism["sampleRate"])
    found = json.loads((folder / "zone" / "canaries.json").read_text())
    coins, scores = np.array(found["coins"], dtype=bool), np.array(found["scores"], dtype=float)
    ins, outs = int(coins.sum()), int((~coins).sum())
    assert ins + outs == CANARIES
    noise = float(mechanism["noiseMultiplier"])
    step = presence(noise=noise, rate=rate)
    expected = (step[True][0] - step[False][0]) * steps
    error = (steps * (step[True][1] / ins + step[False][1] / outs)) ** 0.5
    assert 6 * error < expected
    assert abs(scores[coins].mean() - scores[~coins].mean() - expected) < 6 * error


def test_the_first_worker_leaves_word_of_what_is_about_to_run(left_by):
    """Each word covers the steps until the next one: a lost worker hides none."""
    nothing, *words = left_by("words")
    steps = left_by("step")["receipts"][0]["facts"]["steps"]
    assert event_from_json(nothing["receipts"][0]["event"]) == NoEvent()
    covered = [word["receipts"][0]["facts"]["steps"] for word in words]
    assert covered == [*range(10, steps, 10), steps]
    assert [word["resume"]["steps"] for word in left_by("words")] == [0, *covered]
    assert all(word["status"] == "Failed" for word in words)
    assert left_by("words", 1) == []


def said(status, message, *, receipts=()):
    report = {"status": status, "reason": "StepFailed", "message": message}
    return json.dumps({**report, "receipts": list(receipts)})


@pytest.mark.parametrize(
    ("word", "reports", "message", "charged"),
    [
        ("", {0: said("Succeeded", "done", receipts=[1])}, "done", [1]),
        (
            said("Failed", "lost", receipts=[9]),
            {0: said("Succeeded", "done", receipts=[10])},
            "done",
            [10],
        ),
        (said("Failed", "lost", receipts=[9]), {}, "lost", [9]),
        (said("Failed", "lost", receipts=[9]), {1: said("Failed", "NaN")}, "NaN", [9]),
        (
            said("Failed", "lost", receipts=[9]),
            {1: said("Failed", "NaN"), 0: said("Failed", "stopped", receipts=[5])},
            "NaN",
            [5],
        ),
        ("", {1: said("Failed", "no data", receipts=[7])}, "no data", []),
    ],
)
def test_what_a_group_came_to(word, reports, message, charged):
    """The first worker's receipt counts, then its last word; who failed first says why."""
    found = came_to(word, reports, failure="WorkerGroupError")
    assert (found["message"], list(found["receipts"])) == (message, charged)


def test_a_group_of_which_nobody_can_say_anything_is_charged_in_full():
    with pytest.raises(Unavailable, match=r"died while they worked \(WorkerGroupError\)"):
        came_to("", {}, failure="WorkerGroupError")
    with pytest.raises(Unavailable):
        came_to("", {1: said("Succeeded", "helped")}, failure="")


@pytest.mark.parametrize(("units", "count"), [(7, 2), (9, 4), (5, 5), (100, 7)])
def test_every_unit_is_at_one_worker(units, count):
    parts = [distributed.share(units, rank=rank, count=count) for rank in range(count)]
    assert [unit for part in parts for unit in part] == list(range(units))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_more_workers_than_units_are_refused():
    with pytest.raises(InvalidValue, match="at most one for each unit"):
        distributed.share(2, rank=0, count=3)


def test_a_fingerprint_sees_one_bit_and_an_exchange():
    values = [torch.randn(300), torch.randn(7, dtype=torch.complex64)]
    before = distributed.fingerprint(values)
    assert distributed.fingerprint([value.clone() for value in values]) == before
    bits = values[0].view(torch.int32)
    bits[299] ^= 1
    assert distributed.fingerprint(values) != before
    bits[299] ^= 1
    values[1][:2] = values[1][:2].flip(0)
    assert distributed.fingerprint(values) != before
