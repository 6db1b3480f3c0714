"""Published fixtures and results: PrivateKube's accountant and scheduler, Cohere's knapsacks.

The files travel with the shared assets, not with the repository: set PRIMUM_TEST_ASSETS to their
folder.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import statistics
from decimal import Decimal

import numpy as np
import pytest
import yaml
from scheduling_instances import unlocked

from primum.domain.accounting import rdp
from primum.domain.accounting.charges import AMOUNT_MAX, Charge
from primum.domain.accounting.events import Repeated, SubsampledGaussian
from primum.domain.quantities import Neighbors
from primum.domain.scheduling.accounts import accounting_named
from primum.domain.scheduling.blocks import (
    Block,
    FilterShape,
    Hardening,
    Immediate,
    PerClaim,
)
from primum.domain.scheduling.claims import Claim
from primum.domain.scheduling.replays import Setting, replay
from primum.domain.scheduling.schedulers import (
    DPF,
    DPack,
    DualPrices,
    FirstComeFirstServed,
    schedule,
)
from primum.domain.scheduling.tables import BlockTable, ClaimTable
from primum.domain.scheduling.workloads import private_kube, private_kube_single

FOLDER = pathlib.Path(os.environ.get("PRIMUM_TEST_ASSETS", "")) / "data" / "dp-budget-workloads"
needs_assets = pytest.mark.skipif(
    not os.environ.get("PRIMUM_TEST_ASSETS") or not FOLDER.is_dir(),
    reason="PRIMUM_TEST_ASSETS does not name a folder with data/dp-budget-workloads",
)


@needs_assets
def test_private_kube_accountant_of_a_real_run():
    record = yaml.safe_load((FOLDER / "privatekube" / "sample_run.yaml").read_text())
    steps = record["n_epochs"] * (record["train_size"] // record["batch_size"])
    rate = Decimal(record["batch_size"]) / Decimal(record["train_size"])
    event = Repeated(
        SubsampledGaussian(Decimal(repr(record["noise"])), Decimal(f"{rate:.30f}")), steps
    )
    whole = [a for a in record["alphas"] if a == int(a)]
    curve = rdp.rdp_curve(event, tuple(float(a) for a in whole), Neighbors.ADD_OR_REMOVE_ONE)
    published = dict(zip(record["alphas"], record["rdp_epsilons"], strict=True))
    for order, value in zip(whole, curve, strict=True):
        assert value == pytest.approx(published[order], rel=1e-8)
    epsilon = curve[whole.index(64)] + math.log(1 / record["delta"]) / 63
    assert epsilon == pytest.approx(record["epsilon"], rel=1e-8)


def _units(renyi, keys):
    amounts = {str(entry["alpha"]): entry["epsilon"] for entry in renyi}
    return {key: round(amounts[key] * 1e12) for key in keys if key in amounts}


@needs_assets
def test_private_kube_scheduler_leaves_the_blocks_as_published():
    """Five blocks and claims under DPF with N = 5, as their cluster's scheduler left them."""
    folder = FOLDER / "privatekube"
    blocks_json = json.loads((folder / "test_blocks.json").read_text())
    claims_json = json.loads((folder / "test_claims.json").read_text())
    first = blocks_json[0]["spec"]["initialBudget"]["renyi"]
    keys = tuple(sorted(str(entry["alpha"]) for entry in first))
    shape = FilterShape(keys, tuple(range(len(keys))))
    blocks, starts = {}, {}
    for value in blocks_json:
        name = value["metadata"]["name"]
        capacity = Charge.of(_units(value["spec"]["initialBudget"]["renyi"], keys))
        blocks[name] = Block.new(block_id=name, shape=shape, capacity=capacity)
        starts[name] = int(value["spec"]["dimensions"][0]["numericValue"])
    rule, granted_blocks = PerClaim(5, Hardening.PUBLISHED), {}
    for number, value in enumerate(claims_json):
        (request,) = value["spec"]["requests"]
        low, high = (int(c["numericValue"]) for c in request["allocateRequest"]["conditions"])
        budget = request["allocateRequest"]["expectedBudget"]["constant"]["renyi"]
        # Their claim leaves two orders out, and a claim has no room there; ours says so.
        demand = Charge.of(dict.fromkeys(keys, AMOUNT_MAX) | _units(budget, keys))
        # Their condition is on the start of a block, both ends included.
        chosen = [name for name in blocks if low <= starts[name] <= high]
        demands = tuple((name, demand) for name in chosen)
        claim = Claim(value["metadata"]["name"], number, demands)
        for name in chosen:
            blocks[name] = unlocked(blocks[name], rule, demand=demand)
        table = BlockTable.of(list(blocks.values()))
        decided = schedule(DPF(), table, ClaimTable.of([claim], table))
        assert decided.grants == (claim.claim_id,)
        (response,) = value["status"]["responses"]
        acquired = {name.partition("/")[2] for name in value["status"]["acquiredBudgets"]}
        assert (response["state"], acquired) == ("success", set(chosen))
        for name in chosen:
            now = blocks[name]
            granted_blocks[name] = granted_blocks.get(name, 0) + 1
            used = {
                key: min(a + b, AMOUNT_MAX)
                for (key, a), (_, b) in zip(now.used.amounts, demand.amounts, strict=True)
            }
            blocks[name] = Block(name, shape, now.capacity, now.unlocked, Charge.of(used))
    for value in blocks_json:
        now = blocks[value["metadata"]["name"]]
        locked = _units(value["status"]["pendingBudget"]["renyi"], keys)
        left = _units(value["status"]["availableBudget"]["renyi"], keys)
        capacity, open_to, used = (c.as_dict for c in (now.capacity, now.unlocked, now.used))
        for key in keys:
            assert capacity[key] - open_to[key] == pytest.approx(locked[key], rel=1e-11)
        for key, amount in left.items():
            assert open_to[key] - used[key] == pytest.approx(amount, rel=1e-11)
        assert len(value["status"]["acquiredBudgetMap"]) == granted_blocks[now.block_id]


def _knapsacks():
    return json.loads((FOLDER / "cohere" / "kp_problem_instances.json").read_text())


def _as_round(instance):
    """One block with one key; sizes rounded up and the capacity down to 1e-12."""
    shape = FilterShape(("size",), (0,))
    room = Charge.of({"size": math.floor(instance["capacity"] * 1e12)})
    new = Block.new(block_id="b", shape=shape, capacity=room)
    block = unlocked(new, Immediate(), elapsed=0)
    claims = [
        Claim(
            f"item-{item['id']:03d}",
            0,
            (("b", Charge.of({"size": math.ceil(item["weight"] * 1e12)})),),
            item["profit"],
        )
        for item in instance["items"]
    ]
    table = BlockTable.of([block])
    return table, ClaimTable.of(claims, table)


@needs_assets
def test_cohere_knapsacks_between_what_we_grant_and_what_we_say_is_possible():
    """200 instances with known optimum: the bound is never below it; the profit is close to it."""
    reached = {DualPrices: [], DPack: [], DPF: []}
    for instance in _knapsacks():
        table, claims = _as_round(instance)
        best = instance["optimal_profit"]
        for kind, ratios in reached.items():
            decided = schedule(kind(), table, claims)
            assert decided.weight <= best * (1 + 1e-9)
            assert decided.upper_bound >= best * (1 - 1e-9)
            ratios.append(decided.weight / best if best else 1.0)
    means = {kind.__name__: statistics.fmean(ratios) for kind, ratios in reached.items()}
    assert len(reached[DPF]) == 200
    assert means["DualPrices"] >= 0.98, means
    assert means["DualPrices"] >= max(means["DPack"], means["DPF"]), means


BASIC = accounting_named("Basic")


def _runs(make, scheduler, rule, seeds):
    setting = Setting(scheduler, BASIC, rule)
    return [replay(make(np.random.default_rng(seed)), setting).grants for seed in range(seeds)]


def test_single_block_microbenchmark_reproduces_the_published_rule():
    """Ledger.md 3.1, 20 seeds each elsewhere: 35.6 +- 7.1, 99.5 +- 2.0, 100 +- 0 grants."""
    first = _runs(private_kube_single, FirstComeFirstServed(), Immediate(), 20)
    assert statistics.fmean(first) == pytest.approx(35.6, abs=3 * 7.1 / math.sqrt(20) * 1.42)
    rule = PerClaim(175, Hardening.PUBLISHED)
    assert _runs(private_kube_single, DPF(), rule, 5) == [100] * 5


def test_multi_block_microbenchmark_reproduces_the_published_rule():
    """Ledger.md 3.1: DPF-175 with basic composition, 2,239 +- 30 grants elsewhere."""
    grants = _runs(private_kube, DPF(), PerClaim(175, Hardening.PUBLISHED), 2)
    assert statistics.fmean(grants) == pytest.approx(2239, abs=3 * 30)
