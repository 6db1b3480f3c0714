"""Workloads to compare schedulers on: published generators, and traces read from a file.

A trace says who wants what and when; which scheduler and accounting it meets is decided by the
replay, so that all meet the same trace. Randomness comes only from the generator that is passed in.
Nothing generated here is a published trace: "PrivateKube" means its published generator's
parameters, "Alibaba-DP-like" a synthetic workload after a published recipe, never Alibaba-DP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from primum.domain.accounting import profile
from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.events import (
    Event,
    Gaussian,
    Laplace,
    Repeated,
    SubsampledGaussian,
    event_from_json,
)
from primum.domain.errors import InvalidValue
from primum.domain.quantities import parse_decimal
from primum.domain.scheduling.accounts import CLUSTER_ORDERS, Task, UsualCapacity
from primum.domain.scheduling.tables import Indices, Reals

SECOND = 10**6  # Times are whole microseconds.
DAY = 86_400 * SECOND
BASIC_INTERVAL = 0.078125  # Mean seconds between claims of the multi-block microbenchmark.
RENYI_INTERVAL = 0.004264781  # The same where Renyi accounting is used.
_MICRO_DELTA = 1e-9
_MODEL_DELTA = "1E-9"


@dataclass(frozen=True, slots=True)
class Trace:
    """A workload.

    Args:
        name: What it may be called.
        guarantee: Of every block.
        created: When each block appears, rising.
        tasks: Kinds of task.
        arrivals: When each claim comes, rising.
        kinds: Its task.
        jitter: Factor on its task's epsilon, in (0, 1]; a tie breaker, applied to Gaussian tasks.
        starts: Where the blocks of each claim begin; one more than claims.
        columns: Blocks wanted.
        weights: What each claim is worth.
        patience: Time after which an ungranted claim leaves; ``None`` for never.
    """

    name: str
    guarantee: Guarantee
    created: Indices
    tasks: tuple[Task, ...]
    arrivals: Indices
    kinds: Indices
    jitter: Reals
    starts: Indices
    columns: Indices
    weights: Reals
    patience: int | None = None


def classic_gaussian(epsilon: float, delta: float) -> Event:
    """The Gaussian mechanism as the microbenchmark calibrates it: sqrt(2 ln(1.25/delta))/epsilon.

    Its noise is a fact of the workload; its cost is what the accounting says.
    """
    return Gaussian(Decimal(repr(math.sqrt(2 * math.log(1.25 / delta)) / epsilon)))


def private_kube(
    generator: np.random.Generator,
    *,
    blocks: int = 11,
    every: float = 10.0,
    seconds: float = 300.0,
    interval: float = BASIC_INTERVAL,
    mice: float = 0.75,
    newest: float = 0.75,
) -> Trace:
    """The multi-block microbenchmark of Luo et al. 2021 (ledger.md 3.1); epsilon 1, delta 1e-6.

    Args:
        generator: Source of randomness.
        blocks: At the beginning.
        every: Seconds between new blocks; infinite for none.
        seconds: How long claims arrive.
        interval: Mean seconds between claims.
        mice: Part of the claims that want 1 % of epsilon; the others want 10 %.
        newest: Part that wants the newest block only; the others want the newest 10.

    Returns:
        The trace.
    """
    later = int(seconds / every) if math.isfinite(every) else 0
    created = np.concatenate([np.zeros(blocks), np.arange(1, later + 1) * min(every, seconds)])
    count = int(generator.poisson(seconds / interval))
    arrivals = np.sort(generator.uniform(0, seconds, count))
    kinds = (generator.random(count) >= mice).astype(np.int64)
    wide = generator.random(count) >= newest
    jitter = generator.uniform(0.9999999, 1, count)
    wanted = np.where(wide, 10, 1)
    tasks = tuple(
        Task(name, classic_gaussian(epsilon, _MICRO_DELTA), Decimal(repr(epsilon)))
        for name, epsilon in (("mice", 0.01), ("elephants", 0.1))
    )
    guarantee = Guarantee(Decimal(1), Decimal("1E-6"))
    return _newest(
        name="PrivateKube microbenchmark",
        guarantee=guarantee,
        created=created,
        tasks=tasks,
        arrivals=arrivals,
        kinds=kinds,
        jitter=jitter,
        wanted=wanted,
    )


def private_kube_single(
    generator: np.random.Generator, *, seconds: float = 236.0, mice: float = 0.75
) -> Trace:
    """The single-block microbenchmark: one block, one claim a second."""
    return private_kube(
        generator, blocks=1, every=math.inf, seconds=seconds, interval=1.0, mice=mice
    )


def private_kube_macro(
    generator: np.random.Generator, *, days: int = 60, per_day: float = 300.0
) -> Trace:
    """After the macro workload's parameters: daily blocks of (10, 1e-7), 300 claims a day.

    Three quarters are statistics (Laplace, epsilon 0.01, 0.05, 0.1), one quarter models (epsilon
    0.5, 1, 5 at delta 1e-9, here a Gaussian of exactly that guarantee); claims leave after 5 days.
    How many blocks a claim wants follows from accuracy goals that are not published as parameters;
    here statistics want 1 to 10 days and models 5 to 50, which makes the workload ours.
    """
    created = np.arange(days, dtype=np.float64) * 86_400
    count = int(generator.poisson(per_day * days))
    arrivals = np.sort(generator.uniform(0, days * 86_400, count))
    statistics = [
        Task("statistics", Laplace(1 / Decimal(e)), Decimal(e)) for e in ("0.01", "0.05", "0.1")
    ]
    models = [
        Task("models", _exact_gaussian(e, _MODEL_DELTA), Decimal(e), Decimal(_MODEL_DELTA))
        for e in ("0.5", "1", "5")
    ]
    elephants = generator.random(count) >= 0.75  # noqa: PLR2004 - the published mix
    kinds = generator.integers(0, 3, count) + 3 * elephants
    wanted = np.where(elephants, generator.integers(5, 51, count), generator.integers(1, 11, count))
    guarantee = Guarantee(Decimal(10), Decimal("1E-7"))
    tasks = (*statistics, *models)
    return _newest(
        name="PrivateKube macro parameters",
        guarantee=guarantee,
        created=created,
        tasks=tasks,
        arrivals=arrivals,
        kinds=kinds,
        jitter=np.ones(count),
        wanted=wanted,
        patience=5 * DAY,
    )


def alibaba_like(
    generator: np.random.Generator, *, days: int = 30, per_day: float = 100.0, templates: int = 60
) -> Trace:
    """Alibaba-DP-like, synthetic: after the published recipe, never the trace itself.

    Half of the tasks run on CPUs (one Laplace or Gaussian release), half on GPUs (1 to 200 epochs
    of subsampled Gaussians with batches of 64 to 4096, or one Gaussian); epsilon has a power-law
    tail over [0.1, 1000], blocks wanted one over [1, 100]; daily blocks of (10, 1e-7) with 10^6
    people, newest first, weight 1. Tasks that would take less than 0.001 or more than all of a
    block's Renyi capacity at its best order are left out, as in the recipe. The recipe's subsampled
    Laplace is left out too.
    """
    guarantee = Guarantee(Decimal(10), Decimal("1E-7"))
    tasks: list[Task] = []
    while len(tasks) < templates:
        epsilon = min(1000.0, 0.1 * float(1 + generator.pareto(0.7)))
        task = _alibaba_task(generator, epsilon)
        if 0.001 <= _normalized(task, guarantee) <= 1:  # noqa: PLR2004 - the recipe's bounds
            tasks.append(task)
    count = int(generator.poisson(per_day * days))
    arrivals = np.sort(generator.uniform(0, days * 86_400, count))
    kinds = generator.integers(0, len(tasks), count)
    wanted = np.minimum(100, np.floor(1 + generator.pareto(0.8, count))).astype(np.int64)
    created = np.concatenate([np.zeros(100), np.arange(1, days) * 86_400.0])
    return _newest(
        name="Alibaba-DP-like (synthetic)",
        guarantee=guarantee,
        created=created,
        tasks=tuple(tasks),
        arrivals=arrivals,
        kinds=kinds,
        jitter=np.ones(count),
        wanted=wanted,
    )


def _alibaba_task(generator: np.random.Generator, epsilon: float) -> Task:
    declared = Decimal(f"{epsilon:.6g}")
    kind = int(generator.integers(0, 4))
    delta = Decimal(_MODEL_DELTA)
    if kind == 0:
        return Task("cpu", Laplace(1 / declared), declared)
    if kind in {1, 2}:
        name = "cpu" if kind == 1 else "gpu"
        return Task(name, _exact_gaussian(str(declared), _MODEL_DELTA), declared, delta)
    batch = 2 ** generator.uniform(6, 12)
    rate = Decimal(f"{batch / 1e6:.6g}")
    steps = int(generator.integers(1, 201) * (1e6 // batch))
    # Noise by the approximation epsilon = rate sqrt(2 steps ln(1/delta)) / noise: it only spreads
    # the costs; each is then computed by the accounting.
    noise = max(0.5, float(rate) * math.sqrt(2 * steps * math.log(1e9)) / epsilon)
    event = Repeated(SubsampledGaussian(Decimal(f"{noise:.6g}"), rate), steps)
    return Task("gpu", event, declared, delta)


def _normalized(task: Task, guarantee: Guarantee) -> float:
    """Least part of a block's usual Renyi capacity over the orders of the recipe."""
    usual = UsualCapacity(CLUSTER_ORDERS)
    room = usual.capacity(guarantee).as_dict
    cost = usual.charge(task).as_dict
    return min(cost[order] / room[order] for order in room if room[order] > 0)


def _exact_gaussian(epsilon: str, delta: str) -> Event:
    """The Gaussian mechanism that has exactly that guarantee."""
    mu = profile.gaussian_psi(epsilon=float(epsilon), delta=float(delta))
    return Gaussian(Decimal(repr(1 / mu)))


def _newest(
    *,
    name: str,
    guarantee: Guarantee,
    created: Reals,
    tasks: tuple[Task, ...],
    arrivals: Reals,
    kinds: Indices,
    jitter: Reals,
    wanted: Indices,
    patience: int | None = None,
) -> Trace:
    """Each claim wants so many of the newest blocks that exist when it comes."""
    existing = np.searchsorted(created, arrivals, side="right")
    counts = np.minimum(wanted, existing)
    starts = np.append(0, np.cumsum(counts))
    within = np.arange(int(starts[-1])) - np.repeat(starts[:-1], counts)
    columns = np.repeat(existing - counts, counts) + within
    return Trace(
        name,
        guarantee,
        np.round(created * SECOND).astype(np.int64),
        tasks,
        np.round(arrivals * SECOND).astype(np.int64),
        kinds.astype(np.int64),
        jitter,
        starts.astype(np.int64),
        columns.astype(np.int64),
        np.ones(len(arrivals)),
        patience,
    )


def trace_from_json(value: Mapping[str, Any]) -> Trace:
    """A trace from a file.

    Args:
        value: ``name``, ``epsilon``, ``delta``, ``blocks`` [{``id``, ``created``}] and ``claims``
            [{``arrival``, ``blocks`` [ids], ``task``, ``event``, ``epsilon``, and if wanted
            ``delta``, ``weight``}], and if wanted ``patience``. Times are whole microseconds;
            epsilon and delta decimal strings; an event as receipts spell it.

    Returns:
        The trace.

    Raises:
        InvalidValue: If something is missing, of the wrong kind, or names an unknown block.
    """
    try:
        blocks = sorted(value["blocks"], key=lambda block: (int(block["created"]), block["id"]))
        at = {str(block["id"]): row for row, block in enumerate(blocks)}
        claims = sorted(value["claims"], key=lambda claim: int(claim["arrival"]))
        tasks = [_task(claim) for claim in claims]
        kinds = {task: kind for kind, task in enumerate(dict.fromkeys(tasks))}
        wanted = [sorted(at[str(name)] for name in claim["blocks"]) for claim in claims]
        epsilon, delta = (parse_decimal(name, value[name]) for name in ("epsilon", "delta"))
        arrivals = [int(claim["arrival"]) for claim in claims]
        weights = [float(claim.get("weight", 1)) for claim in claims]
        patience = None if value.get("patience") is None else int(value["patience"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidValue("trace", "must have all fields, and known blocks", repr(error)) from None
    _require(wanted, arrivals, weights, [int(block["created"]) for block in blocks])
    return Trace(
        str(value.get("name", "trace")),
        Guarantee(epsilon, delta),
        np.array([int(block["created"]) for block in blocks], dtype=np.int64),
        tuple(kinds),
        np.array(arrivals, dtype=np.int64),
        np.array([kinds[task] for task in tasks], dtype=np.int64),
        np.ones(len(claims)),
        np.append(0, np.cumsum([len(row) for row in wanted])).astype(np.int64),
        np.array([block for row in wanted for block in row], dtype=np.int64),
        np.array(weights),
        patience,
    )


def _require(
    wanted: Sequence[Sequence[int]],
    arrivals: Sequence[int],
    weights: Sequence[float],
    created: Sequence[int],
) -> None:
    if not wanted:
        raise InvalidValue("claims", "must be at least one", "none")
    for row, arrival, weight in zip(wanted, arrivals, weights, strict=True):
        if not row or len(set(row)) != len(row):
            raise InvalidValue("claims[].blocks", "must name a block, each once", row)
        if any(created[block] > arrival for block in row):
            raise InvalidValue("claims[].arrival", "must not be before its blocks exist", arrival)
        if not (math.isfinite(weight) and weight > 0):
            raise InvalidValue("claims[].weight", "must be above 0 and finite", weight)


def _task(claim: Mapping[str, Any]) -> Task:
    return Task(
        str(claim["task"]),
        event_from_json(claim["event"]),
        parse_decimal("epsilon", claim["epsilon"]),
        parse_decimal("delta", claim.get("delta", "0")),
    )
