"""Trials of a training by two processes that talk through gloo; run as a script, once per worker.

``trial(rank)`` functions are shared with the tests, which run the same task by one worker.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import distributed, nn

from primum.domain.errors import PrimumError
from primum_pipelines.datasets.units import UnitRows
from primum_pipelines.optimization import distributed as workers
from primum_pipelines.optimization.algorithm import (
    IndividualFilter,
    MechanismParameters,
    TrainingTask,
)
from primum_pipelines.optimization.checkpoints import Checkpoints, Continuation
from primum_pipelines.optimization.dpsgd import DPSGD
from primum_pipelines.optimization.settings import ClippingRule, Descent
from primum_pipelines.optimization.stopping import StoppingRule
from primum_pipelines.runtime import work

STEP = "primum_pipelines.kinds.train.step:train"
UNITS, WIDTH, STEPS = 30, 6, 12
MARKED, MARKED_STEPS, MARKED_RATE = 40, 600, 0.25
LOST_AT = 4
CRASH_AT = 7
WIDE = 30_000


def row_loss(module, rows, labels):
    return nn.functional.cross_entropy(module(rows), labels, reduction="none")


def mark_loss(module, numbers):
    """Unit u pulls at weight u alone, so a clipped gradient is C in coordinate u."""
    marks = nn.functional.one_hot(numbers, MARKED).to(torch.float32)
    return 100.0 * module(marks).squeeze(1)


def silent_loss(module, rows):
    return 0.0 * module(rows).sum(dim=1)


def task(**changes):
    """Thirty units of one to three rows, and everything about descent that has a state."""
    torch.manual_seed(0)
    sizes = np.arange(UNITS) % 3 + 1
    rows = int(sizes.sum())
    made = TrainingTask(
        module=nn.Sequential(nn.Linear(WIDTH, 5), nn.Tanh(), nn.Linear(5, 2)),
        inputs=(torch.randn(rows, WIDTH), torch.arange(rows) % 2),
        loss=row_loss,
        expected_units=UNITS,
        mechanism=MechanismParameters(0.7, 0.4, STEPS, 0.3, clipping=ClippingRule.PER_LAYER),
        learning_rate=0.1,
        optimizer="Adam",
        seed=11,
        units=UnitRows(np.concatenate([[0], sizes.cumsum()])),
        descent=Descent(averaging=0.9, samples=2, weight_decay=0.1),
    )
    return replace(made, **changes)


def filtered(**changes):
    rule = IndividualFilter(bound_steps=6, orders=(2, 8))
    return task(mechanism=MechanismParameters(0.7, 0.4, STEPS, 0.3, individual=rule), **changes)


def marked(**changes):
    made = TrainingTask(
        module=nn.Linear(MARKED, 1, bias=False),
        inputs=(torch.arange(MARKED),),
        loss=mark_loss,
        expected_units=MARKED,
        mechanism=MechanismParameters(1e-6, MARKED_RATE, MARKED_STEPS, 1.0),
        learning_rate=1e-9,
    )
    return replace(made, **changes)


def silent(**changes):
    made = TrainingTask(
        module=nn.Linear(WIDE, 1, bias=False),
        inputs=(torch.ones(4, WIDE),),
        loss=silent_loss,
        expected_units=4,
        mechanism=MechanismParameters(2.0, 0.5, 1, 0.5),
        learning_rate=1.0,
    )
    return replace(made, **changes)


def plain(**changes):
    """One step of plain SGD with all units, as Opacus' optimizer takes it."""
    torch.manual_seed(3)
    made = TrainingTask(
        module=nn.Sequential(nn.Linear(WIDTH, 5), nn.Tanh(), nn.Linear(5, 2)),
        inputs=(torch.randn(20, WIDTH), torch.arange(20) % 2),
        loss=row_loss,
        expected_units=24,
        mechanism=MechanismParameters(1e-9, 1.0, 1, 0.2),
        learning_rate=1.0,
    )
    return replace(made, **changes)


def of(whole, group, **changes):
    """A worker's share of a task."""
    units = whole.units or UnitRows(np.arange(len(whole.inputs[0]) + 1))
    own = np.array(workers.share(units.count, rank=group.rank, count=group.count))
    rows = torch.from_numpy(units.rows_of(own))
    offsets = np.concatenate([[0], units.sizes[own].cumsum()])
    return replace(
        whole,
        inputs=tuple(values[rows] for values in whole.inputs),
        units=UnitRows(offsets),
        group=group,
        **changes,
    )


def found(report, module):
    return {
        "weights": {name: value.detach().clone() for name, value in module.state_dict().items()},
        "sums": dict(report.update_sums),
        "executed": report.executed,
        "stopped": report.stopped,
        "workers": report.workers,
        "diagnostics": dict(report.diagnostics),
        "iterates": [dict(item) for item in report.iterates],
    }


def opacus_step(group):
    from opacus import GradSampleModule
    from opacus.optimizers.ddpoptimizer import DistributedDPOptimizer

    share = of(plain(), group)
    module = GradSampleModule(share.module)
    sgd = torch.optim.SGD(module.parameters(), lr=1.0)
    each = plain().expected_units // group.count
    optimizer = DistributedDPOptimizer(
        sgd, noise_multiplier=0.0, max_grad_norm=0.2, expected_batch_size=each
    )
    rows, labels = share.inputs
    nn.functional.cross_entropy(module(rows), labels).backward()
    optimizer.step()
    return {name.removeprefix("_module."): v for name, v in module.state_dict().items()}


class Crash(Exception):
    """The process is gone, for a test."""


class Drifting(workers.TorchGroup):
    """A worker whose memory fails on the way."""

    def spread(self, values):
        super().spread(values)
        if self.rank == 1:
            values[0].detach().view(-1)[0] += 1e-3


def crash(done, planned):
    if done == CRASH_AT:
        raise Crash


def lose(done, planned):
    if done == LOST_AT:
        os._exit(1)


def scored(looked, rank):
    """For the first worker the same at every look; what another says must not matter."""
    looked.append(rank)
    return float(len(looked) if rank else 1)


def said(act):
    try:
        act()
    except PrimumError as error:
        return str(error)
    return ""


def trials(group, folder):
    """What each trial came to, by name."""
    for name, whole in {"task": task(), "filtered": filtered()}.items():
        if group.rank == 1:  # Other weights and another seed: the first worker's count.
            nn.init.ones_(whole.module[0].weight)
            whole = replace(whole, seed=99)  # noqa: PLW2901
        yield name, found(DPSGD().fit(of(whole, group)), whole.module)
    for name, whole in {"marked": marked(), "silent": silent(), "plain": plain()}.items():
        yield name, found(DPSGD().fit(of(whole, group)), whole.module)
    yield "opacus", opacus_step(group)
    looked = []
    rule = StoppingRule(every=3, patience=1, score=lambda module: scored(looked, group.rank))
    whole = task(stopping=rule)
    yield "early", {**found(DPSGD().fit(of(whole, group)), whole.module), "looked": len(looked)}
    whole = task()
    report = DPSGD().fit(of(whole, Drifting()))
    yield "drifting", found(report, whole.module)
    yield (
        "other",
        said(lambda: workers.require_same(group, [group.rank], what="dataset of the training")),
    )
    yield "three", said(lambda: workers.joined(workers=3))
    kept = Checkpoints(folder / "two.pt", Continuation(b"run"), 3, {})
    for name, on_step in {"crashed": crash, "resumed": None}.items():
        whole = filtered(seed=None, checkpoints=kept, on_step=on_step)
        try:
            yield name, found(DPSGD().fit(of(whole, group)), whole.module)
        except Crash:
            yield name, {}
    payload, words = json.loads((folder / "request.json").read_text()), []
    yield "step", work(STEP, payload, leave=words.append)
    yield "words", words
    whole = task(on_step=lose if group.rank == 1 else None)
    yield "lost", found(DPSGD().fit(of(whole, group)), whole.module)


def main(rank, count, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=count
    )
    group = workers.joined(workers=count)
    for name, result in trials(group, folder):
        torch.save(result, folder / f"{name}-{rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
