"""The schedulers, and the one function that runs a scheduling round.

A round decides; it changes nothing. In the live ledger its grants are weighed anew and become
reservations. Whatever the scheduler, a claim is granted on all of its blocks or on none, nothing
that is locked or used is granted, and no claim that would still fit is left waiting (ledger.md P1,
P5, P10).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from primum.domain.accounting.charges import AMOUNT_MAX
from primum.domain.errors import InvalidValue
from primum.domain.scheduling.blocks import Amounts, FilterShape
from primum.domain.scheduling.greedy import grant_in_order, total
from primum.domain.scheduling.orders import by_arrival, by_dominant_share
from primum.domain.scheduling.packing import by_cost, pack
from primum.domain.scheduling.prices import price, tighten
from primum.domain.scheduling.tables import BlockTable, ClaimTable, Indices, Reals


@dataclass(frozen=True, slots=True)
class FirstComeFirstServed:
    """By arrival; whoever does not fit is skipped."""

    def choose(self, blocks: BlockTable, claims: ClaimTable) -> tuple[Indices, float]:
        """The rows granted, and a bound on the weight that fits."""
        order = by_arrival(claims)
        return grant_in_order(claims, order, blocks.available, blocks.shape), _loose(claims)


@dataclass(frozen=True, slots=True)
class DPF:
    """Dominant private-block fairness: the smallest dominant share first (Luo et al. 2021).

    Guarantees:
        With ``PerClaim`` unlocking: sharing incentive, and no claim envies another's grant unless
        their shares are equal. Asking for more than one needs never helps under ``PUBLISHED``
        unlocking; under ``DEMAND`` who asks for more also unlocks more, so there it is no theorem.
    """

    def choose(self, blocks: BlockTable, claims: ClaimTable) -> tuple[Indices, float]:
        """The rows granted, and a bound on the weight that fits."""
        order = by_dominant_share(claims, blocks)
        return grant_in_order(claims, order, blocks.available, blocks.shape), _loose(claims)


@dataclass(frozen=True, slots=True)
class DPack:
    """Weight over scarce room taken (Tholoniat et al. 2025).

    Args:
        every: Grants between two looks at scarcity; ``None`` for 50, or more with many claims.
    """

    every: int | None = None

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise InvalidValue("every", "must be at least 1", self.every)

    def choose(self, blocks: BlockTable, claims: ClaimTable) -> tuple[Indices, float]:
        """The rows granted, and a bound on the weight that fits."""
        rows = pack(claims, blocks.available, blocks.shape, every=self.every)
        return rows, _loose(claims)


@dataclass(frozen=True, slots=True)
class DualPrices:
    """Weight over the price of the room taken, improved by local search; reports a sharp bound.

    Takes the best of its own order, DPack's and DPF's, so that a round is worth no less than
    either when ``efficiency`` is 1.

    Args:
        efficiency: Part of each block's available budget, in [0, 1], that goes where it is worth
            most; the rest goes by dominant shares first. 0 is DPF.
        passes: Of local search.
    """

    efficiency: float = 1.0
    passes: int = 8

    def __post_init__(self) -> None:
        if not 0 <= self.efficiency <= 1:
            raise InvalidValue("efficiency", "must be in [0, 1]", self.efficiency)
        if self.passes < 0:
            raise InvalidValue("passes", "must be at least 0", self.passes)

    def choose(self, blocks: BlockTable, claims: ClaimTable) -> tuple[Indices, float]:
        """The rows granted, and a bound on the weight that fits."""
        prices = price(claims, blocks.available, blocks.shape)
        fair_order = by_dominant_share(claims, blocks)
        room = blocks.available
        part = np.floor(np.maximum(room, 0) * (1 - self.efficiency)).astype(np.int64)
        fair_room = np.where(room > 0, np.minimum(part, room), room)
        if self.efficiency == 0:
            fair_room = room
        first = np.zeros(0, dtype=np.int64)
        if self.efficiency < 1:
            first = grant_in_order(claims, fair_order, fair_room, blocks.shape)
        room = _left(blocks.available, claims, first)
        rest = np.setdiff1d(np.arange(len(claims)), first)
        rest = rest[claims.take(rest).fitting(room, blocks.shape)]
        waiting = claims.take(rest)
        best = self._efficient(waiting, room, blocks.shape, prices.cost[rest])
        order = fair_order[np.isin(fair_order, rest)]
        by_shares = grant_in_order(claims, order, room.copy(), blocks.shape)
        if claims.weights[by_shares].sum() > waiting.weights[best].sum():
            rows = np.concatenate([first, by_shares])
        else:
            rows = np.concatenate([first, rest[best]])
        reached = float(claims.weights[rows].sum())
        return rows, tighten(claims, blocks.available, blocks.shape, prices, reached=reached)

    def _efficient(
        self,
        claims: ClaimTable,
        room: Amounts,
        shape: FilterShape,
        cost: Reals,
    ) -> Indices:
        """The most weight found."""
        order = by_cost(claims, cost)
        found = [
            grant_in_order(claims, order, room.copy(), shape),
            pack(claims, room.copy(), shape, every=None),
        ]
        best = max(found, key=lambda rows: float(claims.weights[rows].sum()))
        for number in range(self.passes):
            given_back = _every(best, order, number, self.passes)
            best = _exchange(claims, best, given_back, room, shape)
        return best


Scheduler: TypeAlias = FirstComeFirstServed | DPF | DPack | DualPrices


def _every(held: Indices, order: Indices, number: int, stripes: int) -> Indices:
    """Every so-manieth of the grants, counted in the order given."""
    return order[np.isin(order, held)][number::stripes]


def _exchange(
    claims: ClaimTable, held: Indices, given_back: Indices, room: Amounts, shape: FilterShape
) -> Indices:
    """Give back some grants and fill up anew; kept if it is worth more."""
    kept = np.setdiff1d(held, given_back)
    left = _left(room, claims, kept)
    candidates = np.setdiff1d(np.arange(len(claims)), kept)
    candidates = candidates[claims.take(candidates).fitting(left, shape)]
    if len(candidates) <= len(given_back):
        return held
    again = pack(claims.take(candidates), left, shape, every=None)
    rows = np.concatenate([kept, candidates[again]])
    better = claims.weights[rows].sum() > claims.weights[held].sum()
    return rows if better else held


def _left(available: Amounts, claims: ClaimTable, rows: Indices) -> Amounts:
    """What is available after some grants."""
    taken = total(claims, rows, len(available))
    return np.asarray(np.maximum(available - taken, -AMOUNT_MAX))


def _loose(claims: ClaimTable) -> float:
    """Everything that fits alone: a bound that costs nothing."""
    return float(claims.weights.sum())


@dataclass(frozen=True, slots=True)
class Round:
    """What a round decided.

    Args:
        grants: Claim ids, in the order in which they were granted.
        rows: The same as rows of the table.
        weight: Of the grants.
        utilization: Mean over blocks of the part of the unlocked budget that is used after the
            round, at the key that certifies with most room; in [0, 1].
        upper_bound: No scheduler could have granted more weight in this round.
    """

    grants: tuple[str, ...]
    rows: Indices
    weight: float
    utilization: float
    upper_bound: float

    @property
    def gap(self) -> float:
        """Part of the bound that was not granted: at least the true gap; 0 if nothing fits."""
        return 1 - self.weight / self.upper_bound if self.upper_bound > 0 else 0.0


def schedule(scheduler: Scheduler, blocks: BlockTable, claims: ClaimTable) -> Round:
    """Decide one round.

    Args:
        scheduler: Which.
        blocks: As they are now.
        claims: All that wait; whoever calls leaves out those whose deadline has passed.

    Returns:
        The decision; nothing was changed.
    """
    fitting = np.flatnonzero(claims.fitting(blocks.available, blocks.shape))
    granted, bound = np.zeros(0, dtype=np.int64), 0.0
    if len(fitting):
        chosen, bound = scheduler.choose(blocks, claims.take(fitting))
        granted = fitting[chosen]
    weight = float(claims.weights[granted].sum())
    ids = tuple(claims.ids[row] for row in granted.tolist())
    used = blocks.used + np.minimum(
        total(claims, granted, len(blocks.ids)), AMOUNT_MAX - np.minimum(blocks.used, AMOUNT_MAX)
    )
    return Round(ids, granted, weight, utilization(blocks, used), max(bound, weight))


def utilization(blocks: BlockTable, used: Amounts) -> float:
    """Mean over blocks of used / unlocked at the group of keys with most room; in [0, 1]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(blocks.unlocked > 0, used / blocks.unlocked, math.inf)
    by_group = np.maximum.reduceat(part, blocks.shape.starts, axis=1).min(axis=1)
    unlocked = by_group[np.isfinite(by_group)]
    return float(np.minimum(unlocked, 1.0).mean()) if len(unlocked) else 0.0


def sharp_bound(blocks: BlockTable, claims: ClaimTable) -> float:
    """The bound of ``DualPrices`` on the weight that any scheduler could grant in this round."""
    fitting = np.flatnonzero(claims.fitting(blocks.available, blocks.shape))
    waiting = claims.take(fitting)
    prices = price(waiting, blocks.available, blocks.shape)
    return tighten(waiting, blocks.available, blocks.shape, prices, reached=0.0)
