"""Workloads, accountings, and replays of traces."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pytest

from primum.domain.accounting.charges import AMOUNT_MAX
from primum.domain.accounting.events import Gaussian, Laplace
from primum.domain.errors import InvalidValue
from primum.domain.scheduling import workloads
from primum.domain.scheduling.accounts import Task, accounting_named
from primum.domain.scheduling.blocks import Immediate, PerClaim, PerTime
from primum.domain.scheduling.replays import Setting, replay, tables
from primum.domain.scheduling.schedulers import DPF, DualPrices, FirstComeFirstServed

GAUSSIAN = {"event": Gaussian(Decimal(100)).to_json(), "epsilon": "0.01"}


def claim(arrival, blocks, task="mice", **more):
    return {"arrival": arrival, "blocks": blocks, "task": task, **GAUSSIAN, **more}


def document(**more):
    return {
        "name": "two blocks",
        "epsilon": "1",
        "delta": "1e-6",
        "blocks": [{"id": "late", "created": 5}, {"id": "early", "created": 0}],
        "claims": [claim(9, ["late", "early"]), claim(0, ["early"], weight=2)],
        **more,
    }


def test_same_seed_same_trace_and_same_outcome():
    one, two = (
        workloads.private_kube(np.random.default_rng(7), seconds=30, interval=0.1) for _ in range(2)
    )
    assert np.array_equal(one.arrivals, two.arrivals)
    assert np.array_equal(one.columns, two.columns)
    setting = Setting(DPF(), accounting_named("Basic"), PerClaim(50))
    assert np.array_equal(replay(one, setting).granted, replay(two, setting).granted)


def test_microbenchmark_has_the_published_shape():
    trace = workloads.private_kube(np.random.default_rng(1))
    assert len(trace.created) == 41
    assert trace.created[:11].max() == 0
    assert len(trace.arrivals) == pytest.approx(300 / 0.078125, rel=0.06)
    counts = np.diff(trace.starts)
    assert set(counts.tolist()) == {1, 10}
    assert (counts == 1).mean() == pytest.approx(0.75, abs=0.03)
    assert (trace.kinds == 0).mean() == pytest.approx(0.75, abs=0.03)
    newest = np.maximum.reduceat(trace.columns, trace.starts[:-1])
    assert np.array_equal(newest, np.searchsorted(trace.created, trace.arrivals, "right") - 1)


@pytest.mark.parametrize("make", [workloads.private_kube_macro, workloads.alibaba_like])
def test_other_workloads_replay_without_overspending(make):
    trace = make(np.random.default_rng(3), per_day=6.0)
    for name in ("RDP", "Basic", "GDP"):
        accounting = accounting_named(name)
        outcome = replay(trace, Setting(DPF(), accounting, Immediate(), tick=workloads.DAY))
        blocks, _ = tables(trace, accounting)
        assert blocks.shape.has_room(outcome.used <= blocks.capacity).all()
        assert 0 < outcome.grants <= len(trace.arrivals)
        assert 0 < outcome.jain <= 1


def test_only_the_alibaba_like_workload_is_called_like_it():
    name = workloads.alibaba_like(np.random.default_rng(1), per_day=1.0, templates=4).name
    assert name == "Alibaba-DP-like (synthetic)"


def test_impatient_claims_leave():
    trace = workloads.trace_from_json(
        document(
            patience=3,
            claims=[
                claim(10, ["early"], weight=1),
                claim(30, ["early"]),
            ],
        )
    )
    lazy = Setting(FirstComeFirstServed(), accounting_named("RDP"), PerTime(10**9), tick=5)
    assert replay(trace, lazy).grants == 0


def test_trace_from_json():
    trace = workloads.trace_from_json(document())
    assert trace.created.tolist() == [0, 5]
    assert trace.arrivals.tolist() == [0, 9]
    assert trace.weights.tolist() == [2.0, 1.0]
    assert trace.columns.tolist() == [0, 0, 1]
    outcome = replay(trace, Setting(DualPrices(), accounting_named("GDP"), Immediate()))
    assert outcome.grants == 2
    assert outcome.rates == {"mice": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"claims": []}, "must be at least one"),
        ({"claims": [claim(9, ["nowhere"])]}, "known blocks"),
        ({"claims": [claim(9, [])]}, "must name a block"),
        ({"claims": [claim(9, ["early", "early"])]}, "each once"),
        ({"claims": [claim(2, ["late"])]}, "must not be before its blocks exist"),
        ({"claims": [claim(9, ["late"], weight=-1)]}, "above 0"),
        ({"blocks": "none"}, "must have all fields"),
        ({"epsilon": None}, "epsilon"),
    ],
)
def test_bad_traces_are_refused(change, message):
    with pytest.raises(InvalidValue, match=message):
        workloads.trace_from_json(document(**change))


def test_accountings_by_name():
    laplace = Task("x", Laplace(Decimal(10)), Decimal("0.1"))
    assert accounting_named("Basic").charge(laplace).as_dict == {"delta": 0, "epsilon": 10**11}
    assert accounting_named("GDP").charge(laplace).as_dict == {"mu2": AMOUNT_MAX}
    assert accounting_named("usual").name == "usual (compare)"
    assert accounting_named("RDP-weighted").name == "RDP-weighted"
    with pytest.raises(InvalidValue, match="must be one of"):
        accounting_named("PLD")


@pytest.mark.parametrize(
    ("name", "fit"), [("usual", 14514), ("RDP-weighted", 17207), ("GDP", 23472), ("Basic", 100)]
)
def test_headroom_of_a_block_by_accounting(name, fit):
    """Ledger.md 3.1: mice of 1 % of epsilon that one block of (1, 1e-6) holds."""
    trace = workloads.private_kube_single(np.random.default_rng(1))
    accounting = accounting_named(name)
    room = accounting.capacity(trace.guarantee).as_dict
    cost = accounting.charge(trace.tasks[0]).as_dict
    by_key = [room[key] // cost[key] for key in room if cost[key]]
    assert max(0, *by_key, 0) == fit


def _primum(*arguments, folder):
    return subprocess.run(
        [sys.executable, "-c", "from primum.entrypoints.cli import main; main()", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_shows_means_with_intervals_over_seeds(tmp_path):
    done = _primum(
        "ledger", "replay", "--workload", "privatekube-single", "--seconds", "60",
        "--scheduler", "fcfs", "--scheduler", "dpf", "--count", "20", "--seeds", "3", "-o", "json",
        folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert len(shown["claims"]) == 3
    assert [row["scheduler"] for row in shown["results"]] == ["fcfs", "dpf"]
    for row in shown["results"]:
        assert len(row["grants"]["values"]) == 3
        assert row["grants"]["mean"] == pytest.approx(np.mean(row["grants"]["values"]))
        assert row["grants"]["plusMinus"] >= 0
    assert not list(pathlib.Path(tmp_path).iterdir())  # It opens no ledger.


def test_command_reads_a_trace_and_never_runs_one_seed(tmp_path):
    (tmp_path / "trace.json").write_text(json.dumps(document()))
    done = _primum("ledger", "replay", "--trace", "trace.json", "--policy", "RDP", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "one outcome" in done.stdout
    assert _primum("ledger", "replay", "--seeds", "1", folder=tmp_path).returncode == 2
    missing = _primum("ledger", "replay", "--trace", "none.json", folder=tmp_path)
    assert missing.returncode == 4
