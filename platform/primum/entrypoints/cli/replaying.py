"""``primum ledger replay``: a workload through schedulers and accountings, over several seeds.

Decides nothing about any budget and opens no ledger. A generated workload is never shown by one
run: every figure is a mean over seeds with an interval. All combinations meet the same traces.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from primum.entrypoints.cli.rendering import Output

if TYPE_CHECKING:
    from primum.domain.scheduling.blocks import UnlockingRule
    from primum.domain.scheduling.replays import Outcome
    from primum.domain.scheduling.schedulers import Scheduler
    from primum.domain.scheduling.workloads import Trace

_LEVEL = 0.95  # Of the intervals.
_MICROSECONDS = 10**6
_SECONDS = {"multi": 300.0, "single": 236.0}


class Workload(enum.StrEnum):
    """What can be generated."""

    SINGLE = "privatekube-single"
    MULTI = "privatekube-multi"
    RENYI = "privatekube-multi-renyi"
    MACRO = "privatekube-macro"
    ALIBABA = "alibaba-dp-like"


class Unlocking(enum.StrEnum):
    """How blocks unlock."""

    HARDENED = "per-claim"
    PUBLISHED = "per-claim-published"
    TIME = "per-time"
    IMMEDIATE = "immediate"


class Chooser(enum.StrEnum):
    """Who chooses."""

    FCFS = "fcfs"
    DPF = "dpf"
    DPACK = "dpack"
    PRICES = "prices"


Choosers = Annotated[list[Chooser] | None, typer.Option("--scheduler", help="May be repeated.")]
Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        help="Basic, RDP, RDP-weighted, GDP, Mixture, or usual (to compare); may be repeated.",
    ),
]


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command("replay")(replay)


def replay(
    workload: Annotated[
        Workload, typer.Option("--workload", help="Which generator.")
    ] = Workload.MULTI,
    trace: Annotated[str, typer.Option("--trace", help="A trace as JSON, instead.")] = "",
    scheduler: Choosers = None,
    policy: Policies = None,
    unlocking: Annotated[
        Unlocking, typer.Option("--unlocking", help="Not for fcfs, which has all at once.")
    ] = Unlocking.HARDENED,
    count: Annotated[int, typer.Option("--count", help="N of per-claim unlocking.", min=1)] = 175,
    lifetime: Annotated[
        float, typer.Option("--lifetime", help="Seconds of per-time unlocking.", min=0.001)
    ] = 29.0,
    efficiency: Annotated[
        float, typer.Option("--efficiency", help="prices: 0 fair, 1 efficient.", min=0, max=1)
    ] = 1.0,
    tick: Annotated[
        float, typer.Option("--tick", help="Seconds between rounds; 0 for every arrival.", min=0)
    ] = 1.0,
    seconds: Annotated[
        float, typer.Option("--seconds", help="Of a microbenchmark; 0 as published.", min=0)
    ] = 0.0,
    mice: Annotated[
        float, typer.Option("--mice", help="Part of a microbenchmark's mice.", min=0, max=1)
    ] = 0.75,
    seeds: Annotated[int, typer.Option("--seeds", help="How many.", min=2)] = 5,
    first_seed: Annotated[int, typer.Option("--first-seed", help="The first.", min=0)] = 1,
    output: Annotated[Output, typer.Option("--output", "-o", help="table, json or yaml.")] = (
        Output.TABLE
    ),
) -> None:
    """Replay a workload and show grants, fairness and CPU time: means with 95 % intervals.

    Example: primum ledger replay --scheduler dpf --scheduler prices --policy Basic --seeds 5
    """
    from primum.domain.scheduling.accounts import accounting_named
    from primum.domain.scheduling.replays import Setting

    choosers = scheduler or [Chooser.FCFS, Chooser.DPF]
    accountings = [accounting_named(name) for name in policy or ["Basic"]]
    if trace:
        traces = [_read(trace)]
    else:
        make = _generator(workload, seconds, mice)
        traces = [make(seed) for seed in range(first_seed, first_seed + seeds)]
    rows = []
    for chooser in choosers:
        rule, word = _rule(chooser, unlocking, count, lifetime)
        for accounting in accountings:
            setting = Setting(
                _scheduler(chooser, efficiency), accounting, rule, round(tick * _MICROSECONDS)
            )
            runs = [_timed(one, setting) for one in traces]
            rows.append(_row(chooser, accounting.name, word, runs))
    _show(rows, traces, output)


@dataclass(frozen=True, slots=True)
class _Run:
    """One outcome, and the CPU seconds it took."""

    outcome: Outcome
    cpu: float


def _timed(trace: Trace, setting: Any) -> _Run:
    from primum.domain.scheduling.replays import replay as run

    start = time.process_time()
    outcome = run(trace, setting)
    return _Run(outcome, time.process_time() - start)


def _generator(workload: Workload, seconds: float, mice: float) -> Callable[[int], Trace]:
    """A trace by seed."""
    import numpy as np

    from primum.domain.scheduling import workloads

    def make(seed: int) -> Trace:
        generator = np.random.default_rng(seed)
        match workload:
            case Workload.SINGLE:
                return workloads.private_kube_single(
                    generator, seconds=seconds or _SECONDS["single"], mice=mice
                )
            case Workload.MULTI | Workload.RENYI:
                return workloads.private_kube(
                    generator,
                    seconds=seconds or _SECONDS["multi"],
                    mice=mice,
                    interval=(
                        workloads.RENYI_INTERVAL
                        if workload is Workload.RENYI
                        else workloads.BASIC_INTERVAL
                    ),
                )
            case Workload.MACRO:
                return workloads.private_kube_macro(generator)
            case Workload.ALIBABA:
                return workloads.alibaba_like(generator)

    return make


def _read(path: str) -> Trace:
    import json
    from pathlib import Path

    from primum.domain.errors import InvalidValue, NotFound
    from primum.domain.scheduling.workloads import trace_from_json

    if not Path(path).is_file():
        raise NotFound(f"--trace {path} does not exist")
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        raise InvalidValue("--trace", "must be JSON", path) from None
    if not isinstance(value, dict):
        raise InvalidValue("--trace", "must be a JSON object", path)
    return trace_from_json(value)


def _rule(
    chooser: Chooser, unlocking: Unlocking, count: int, lifetime: float
) -> tuple[UnlockingRule, str]:
    """The rule, and its name in tables."""
    from primum.domain.scheduling.blocks import Hardening, Immediate, PerClaim, PerTime

    if chooser is Chooser.FCFS or unlocking is Unlocking.IMMEDIATE:
        return Immediate(), "immediate"
    if unlocking is Unlocking.TIME:
        return PerTime(round(lifetime * 1000)), f"per-time {lifetime:g} s"
    hardening = Hardening.DEMAND if unlocking is Unlocking.HARDENED else Hardening.PUBLISHED
    return PerClaim(count, hardening), f"{unlocking.value} {count}"


def _scheduler(chooser: Chooser, efficiency: float) -> Scheduler:
    from primum.domain.scheduling import schedulers

    match chooser:
        case Chooser.FCFS:
            return schedulers.FirstComeFirstServed()
        case Chooser.DPF:
            return schedulers.DPF()
        case Chooser.DPACK:
            return schedulers.DPack()
        case Chooser.PRICES:
            return schedulers.DualPrices(efficiency=efficiency)


def _row(chooser: Chooser, policy: str, rule: str, runs: Sequence[_Run]) -> dict[str, Any]:
    fair = [run.outcome.fair_granted for run in runs]
    return {
        "scheduler": chooser.value,
        "policy": policy,
        "unlocking": rule,
        "grants": _summary([float(run.outcome.grants) for run in runs]),
        "fairClaimsGranted": _summary([value for value in fair if value is not None]),
        "jain": _summary([run.outcome.jain for run in runs]),
        "utilization": _summary([run.outcome.utilization for run in runs]),
        "cpuSeconds": _summary([run.cpu for run in runs]),
        "byClass": {
            name: _summary([run.outcome.rates.get(name, 0.0) for run in runs])
            for name in sorted(runs[0].outcome.rates)
        },
    }


def _summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, half width of the Student interval of the mean, and the values."""
    import math
    import statistics

    from scipy.special import stdtrit

    if not values:
        return {}
    half = None
    if len(values) > 1:
        spread = statistics.stdev(values) / math.sqrt(len(values))
        half = float(stdtrit(len(values) - 1, (1 + _LEVEL) / 2)) * spread
    return {"mean": statistics.fmean(values), "plusMinus": half, "values": list(values)}


def _text(summary: dict[str, Any], digits: int) -> str:
    if not summary:
        return "none"
    half = "" if summary["plusMinus"] is None else f" ± {summary['plusMinus']:,.{digits}f}"
    return f"{summary['mean']:,.{digits}f}{half}"


def _show(rows: Sequence[dict[str, Any]], traces: Sequence[Trace], output: Output) -> None:
    import statistics

    from primum.entrypoints.cli import rendering

    name, claims = traces[0].name, [len(trace.arrivals) for trace in traces]
    if output is not Output.TABLE:
        document = {"workload": name, "claims": claims, "level": _LEVEL, "results": list(rows)}
        rendering.structured(document, output)
        return
    headers = ("scheduler", "policy", "unlocking", "grants", "min", "max", "fair", "jain", "cpu s")
    rendering.table(
        headers,
        [
            [
                row["scheduler"],
                row["policy"],
                row["unlocking"],
                _text(row["grants"], 1),
                f"{min(row['grants']['values']):,.0f}",
                f"{max(row['grants']['values']):,.0f}",
                _text(row["fairClaimsGranted"], 3),
                _text(row["jain"], 3),
                _text(row["cpuSeconds"], 2),
            ]
            for row in rows
        ],
    )
    print(f"{name}: {statistics.fmean(claims):,.0f} claims a run")
    if len(traces) > 1:
        print(f"mean ± half width of the 95 % interval of the mean, {len(traces)} seeds")
    else:
        print("a recorded trace has one outcome; it says nothing about other traces")
    print("fair: part granted of the claims that ask for at most capacity / N")
    print("jain: of the grant rates of the classes of task")
