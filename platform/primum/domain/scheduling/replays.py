"""Replaying a trace through a scheduler, an accounting and an unlocking rule.

Uses the very functions a live round would use. It must not draw random numbers or read a clock: the
same trace gives the same outcome.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from primum.domain.accounting.charges import AMOUNT_MAX
from primum.domain.accounting.events import Gaussian
from primum.domain.scheduling.accounts import Accounting
from primum.domain.scheduling.blocks import Amounts, PerClaim, PerTime, Rounds, UnlockingRule
from primum.domain.scheduling.greedy import total
from primum.domain.scheduling.schedulers import Scheduler, schedule, utilization
from primum.domain.scheduling.tables import BlockTable, ClaimTable, Indices
from primum.domain.scheduling.workloads import Trace

_MILLISECOND = 1000
_CLEAR_EVERY = 16  # Rounds between two looks for claims that can never fit any more.


@dataclass(frozen=True, slots=True)
class Setting:
    """What a trace meets.

    Args:
        scheduler: Who chooses.
        accounting: Who counts.
        rule: What unlocks; time rules count milliseconds of a block's age.
        tick: Microseconds between rounds; 0 for a round at every arrival.
    """

    scheduler: Scheduler
    accounting: Accounting
    rule: UnlockingRule
    tick: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it.

    Args:
        granted: By claim.
        fair: Whether a claim asked for at most a fair share of each of its blocks, at every usable
            key; all ``False`` if the rule knows no fair share.
        used: Blocks x keys, at the end.
        utilization: At the end.
        rates: Part granted, by class of task.
    """

    granted: npt.NDArray[np.bool_]
    fair: npt.NDArray[np.bool_]
    used: Amounts
    utilization: float
    rates: dict[str, float]

    @property
    def grants(self) -> int:
        """How many claims."""
        return int(self.granted.sum())

    @property
    def fair_granted(self) -> float | None:
        """Part of the fair claims that was granted; ``None`` if there are none."""
        return float(self.granted[self.fair].mean()) if self.fair.any() else None

    @property
    def jain(self) -> float:
        """Jain's index of the grant rates of the classes, in [1/classes, 1]; 1 if all are equal."""
        rates = np.array(list(self.rates.values()))
        squares = float((rates**2).sum())
        return float(rates.sum() ** 2 / (len(rates) * squares)) if squares else 1.0


def tables(trace: Trace, accounting: Accounting) -> tuple[BlockTable, ClaimTable]:
    """A trace's blocks, all locked, and its claims, priced by an accounting."""
    shape = accounting.shape
    row = np.array([a for _, a in accounting.capacity(trace.guarantee).amounts], dtype=np.int64)
    capacity = np.tile(np.where(row > 0, row, -1), (len(trace.created), 1))
    blocks = BlockTable(
        tuple(f"{number:06d}" for number in range(len(trace.created))),
        shape,
        capacity,
        np.minimum(capacity, 0),
        np.zeros_like(capacity),
    )
    vectors = [[a for _, a in accounting.charge(task).amounts] for task in trace.tasks]
    base = np.array(vectors, dtype=np.int64)
    exact = np.array([isinstance(task.event, Gaussian) for task in trace.tasks])
    scale = np.where(exact[trace.kinds], trace.jitter**accounting.power, 1.0)
    demand = base[trace.kinds]
    scaled = np.where(scale[:, None] < 1, np.ceil(demand * scale[:, None]), demand)
    demand = np.where(demand < AMOUNT_MAX, scaled, AMOUNT_MAX).astype(np.int64)
    count = len(trace.arrivals)
    claims = ClaimTable(
        tuple(f"{number:08d}" for number in range(count)),
        trace.arrivals,
        np.arange(count, dtype=np.int64),
        trace.weights,
        trace.starts,
        trace.columns,
        np.repeat(demand, np.diff(trace.starts), axis=0),
    )
    return blocks, claims


def replay(trace: Trace, setting: Setting) -> Outcome:
    """Run a trace to its end.

    Args:
        trace: Who wants what and when.
        setting: What it meets.

    Returns:
        The outcome.
    """
    blocks, claims = tables(trace, setting.accounting)
    timed = isinstance(setting.rule, PerTime | Rounds)
    granted = np.zeros(len(claims), dtype=np.bool_)
    waiting = np.zeros(0, dtype=np.int64)
    for number, (now, arrived) in enumerate(_rounds(trace, setting.tick)):
        if timed:
            _unlock_by_time(blocks, setting.rule, trace.created, now)
        for row in arrived.tolist():
            demands = slice(int(claims.starts[row]), int(claims.starts[row + 1]))
            wanted = claims.columns[demands]
            blocks.unlocked[wanted] += setting.rule.on_claim(
                blocks.capacity[wanted], blocks.unlocked[wanted], claims.amounts[demands]
            )
        waiting = np.concatenate([waiting, arrived])
        if trace.patience is not None:
            waiting = waiting[trace.arrivals[waiting] + trace.patience >= now]
        fits = _fits(claims, waiting, blocks.available, blocks)
        if fits.any():
            ready = waiting[fits]
            chosen = ready[schedule(setting.scheduler, blocks, claims.take(ready)).rows]
            granted[chosen] = True
            taken = total(claims, chosen, len(blocks.ids))
            np.minimum(blocks.used + taken, AMOUNT_MAX, out=blocks.used)
            waiting = waiting[~granted[waiting]]
        if number % _CLEAR_EVERY == 0:
            room = blocks.capacity - blocks.used
            waiting = waiting[_fits(claims, waiting, room, blocks)]
    return Outcome(
        granted,
        _fair(blocks, claims, setting.rule),
        blocks.used,
        utilization(blocks, blocks.used),
        _rates(trace, granted),
    )


def _rounds(trace: Trace, tick: int) -> list[tuple[int, Indices]]:
    """Times of rounds, and the claims that came since the round before."""
    rows = np.arange(len(trace.arrivals))
    if tick == 0:
        return [(int(trace.arrivals[row]), rows[row : row + 1]) for row in rows]
    numbers = trace.arrivals // tick
    cuts = np.flatnonzero(np.diff(numbers)) + 1
    return [
        (int((numbers[part[0]] + 1) * tick), part) for part in np.split(rows, cuts) if len(part)
    ]


def _unlock_by_time(blocks: BlockTable, rule: UnlockingRule, created: Indices, now: int) -> None:
    for block in np.flatnonzero(created <= now).tolist():
        age = (now - int(created[block])) // _MILLISECOND
        part = slice(block, block + 1)
        blocks.unlocked[part] += rule.on_time(blocks.capacity[part], blocks.unlocked[part], age)


def _fits(
    claims: ClaimTable, rows: Indices, room: Amounts, blocks: BlockTable
) -> npt.NDArray[np.bool_]:
    if not len(rows):
        return np.zeros(0, dtype=np.bool_)
    entries, begins = claims.entries(rows)
    fits = blocks.shape.has_room(claims.amounts[entries] <= room[claims.columns[entries]])
    return np.asarray(np.logical_and.reduceat(fits, begins))


def _fair(blocks: BlockTable, claims: ClaimTable, rule: UnlockingRule) -> npt.NDArray[np.bool_]:
    if not isinstance(rule, PerClaim):
        return np.zeros(len(claims), dtype=np.bool_)
    usable = blocks.shape.usable(blocks.capacity)
    share = np.where(usable, rule.fair_share(blocks.capacity), AMOUNT_MAX)
    modest = np.asarray(claims.amounts <= share[claims.columns])
    return claims.all_of(np.asarray(modest.all(axis=1)))


def _rates(trace: Trace, granted: npt.NDArray[np.bool_]) -> dict[str, float]:
    names = np.array([task.name for task in trace.tasks])[trace.kinds]
    return {str(name): float(granted[names == name].mean()) for name in np.unique(names)}
