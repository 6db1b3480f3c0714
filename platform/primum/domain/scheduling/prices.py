"""Prices for scarce room, and from them a bound on what any scheduler could have granted.

The bound is Lagrangian decomposition (Guignard & Kim 1987): split each claim's weight over its
blocks in any way; then no choice of claims is worth more than the sum, over the blocks, of the most
that one block could hold of its parts. That most is at most the largest, over the groups of keys
that may certify the block, of the fractional knapsack of each key of the group. It therefore holds
whatever keys certify in the end, whatever the order, and for every scheduler.

Prices only choose the split and the order; a bad price makes the bound loose, never wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from primum.domain.scheduling import knapsacks
from primum.domain.scheduling.blocks import Amounts, FilterShape
from primum.domain.scheduling.packing import Sizes, best_groups
from primum.domain.scheduling.tables import ClaimTable, Reals

_LOOKS = 2  # Times the best keys of the blocks are chosen anew.
_STEPS = 150  # Of price descent per look.
_FIRST_STEP = 0.25
_LONGEST_STEP = 0.5  # In the logarithm of a price.
_TIGHTENING_STEPS = 12
_TIGHTENING = 0.15  # First step, as a part of a claim's weight.
_HESITATION = 0.01  # Relative difference within which keys count as equally good.
_CLOSE = 0.98  # Of the bound: reaching it is close enough.
_ROUNDING = 1e-9  # Relative; covers the floating-point error of the bound.


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices at the end of a descent.

    Args:
        cost: By claim: what its demands are worth to others.
        bound: No choice of the claims that fits together weighs more.
        split: By demand: the parts of the weights that give the bound.
    """

    cost: Reals
    bound: float
    split: Reals


def price(claims: ClaimTable, available: Amounts, shape: FilterShape) -> Prices:
    """Prices of what is available to claims each of which fits alone.

    Args:
        claims: All of which fit alone; a claim that does not only loosens the bound.
        available: Blocks x keys.
        shape: When a block still has room.

    Returns:
        Costs and bound.
    """
    blocks = len(available)
    if not len(claims):
        return Prices(np.zeros(0), 0.0, np.zeros(0))
    sizes = Sizes.of(claims, available, shape)
    columns, owners = claims.columns, claims.owners
    even = (claims.weights / np.diff(claims.starts))[owners]
    split, tightest, bound = even, even, math.inf
    cost = np.zeros(len(claims))
    for look in range(_LOOKS + 1):
        filled = knapsacks.fill(sizes.by_key, split, columns, blocks)
        by_group = np.minimum.reduceat(filled.values, shape.starts, axis=1)
        most = float(by_group.max(axis=1).sum())
        if most < bound:
            bound, tightest = most, split
        if look == _LOOKS:
            break
        finite = np.where(np.isfinite(sizes.by_group), sizes.by_group, 2.0)
        load = np.array(
            [np.bincount(columns, part, minlength=blocks) for part in finite.T], dtype=np.float64
        ).T
        best = best_groups(by_group, load)
        size = finite[np.arange(len(columns)), best[columns]]
        scarce = load[np.arange(blocks), best] > 1
        start = np.minimum.reduceat(filled.prices, shape.starts, axis=1)
        values = _descend(claims, size, scarce, start[np.arange(blocks), best])
        priced = values[columns] * size
        cost = claims.sum_of(priced)
        share = np.divide(priced, cost[owners], where=cost[owners] > 0, out=np.zeros(len(priced)))
        split = np.where(cost[owners] > 0, share * claims.weights[owners], even)
    return Prices(cost, _rounded(bound, claims.weights), tightest)


def tighten(
    claims: ClaimTable, available: Amounts, shape: FilterShape, prices: Prices, *, reached: float
) -> float:
    """A lower bound on the same claims where blocks hesitate between keys.

    Moves weight away from blocks that would take a claim to blocks that would not (a subgradient of
    the sum), for as long as the bound is far from what was reached.

    Args:
        claims: As given to ``price``.
        available: As given to ``price``.
        shape: As given to ``price``.
        prices: From ``price``.
        reached: Weight that some scheduler has granted.

    Returns:
        The bound, at most that of the prices.
    """
    if not len(claims):
        return prices.bound
    sizes = Sizes.of(claims, available, shape).by_key
    owners, columns = claims.owners, claims.columns
    demands = np.diff(claims.starts)
    split, bound = prices.split, prices.bound
    for step in range(1, _TIGHTENING_STEPS + 1):
        if reached >= bound * _CLOSE:
            break
        filled = knapsacks.fill(sizes, split, columns, len(available))
        by_group = np.minimum.reduceat(filled.values, shape.starts, axis=1)
        bound = min(bound, _rounded(float(by_group.max(axis=1).sum()), claims.weights))
        taken = (filled.parts * _leaning(filled.values, by_group, shape)[columns]).sum(axis=1)
        surplus = taken - (claims.sum_of(taken) / demands)[owners]
        scale = _TIGHTENING / math.sqrt(step) * claims.weights[owners]
        moved = np.maximum(split - scale * surplus, 0.0)
        total = claims.sum_of(moved)[owners]
        split = np.where(total > 0, moved / np.where(total > 0, total, 1.0), 1 / demands[owners])
        split = split * claims.weights[owners]
    return bound


def _leaning(values: Reals, by_group: Reals, shape: FilterShape) -> Reals:
    """How much each block leans to each key: to groups of nearly the most, by their least key."""
    most = np.maximum(by_group.max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    lean = np.exp((by_group - most) / (_HESITATION * most))
    lean /= lean.sum(axis=1, keepdims=True)
    groups = list(shape.groups)
    least = values <= by_group[:, groups]
    shared = np.add.reduceat(least.astype(np.float64), shape.starts, axis=1)
    return np.asarray(np.where(least, (lean / shared)[:, groups], 0.0))


def _rounded(bound: float, weights: Reals) -> float:
    """A little up; then down to a whole number where only whole numbers can be reached."""
    most = min(bound * (1 + _ROUNDING), float(weights.sum()))
    return float(math.floor(most)) if (weights == np.floor(weights)).all() else most


def _descend(claims: ClaimTable, size: Reals, scarce: npt.NDArray[np.bool_], start: Reals) -> Reals:
    """Prices that lower sum(price) + sum(max(0, weight - cost)), by multiplicative steps.

    Args:
        claims: The claims.
        size: By demand, at its block's best keys.
        scarce: Whether the demands of a block exceed it; other blocks are free.
        start: First prices.
    """
    owners, columns, blocks = claims.owners, claims.columns, len(start)
    typical = float(claims.weights.mean())
    prices = np.where(scarce, np.maximum(start, 1e-3 * typical), 0.0)
    best, least = prices, math.inf
    for step in range(1, _STEPS + 1):
        gain = claims.weights - claims.sum_of(prices[columns] * size)
        value = float(prices.sum() + np.maximum(gain, 0).sum())
        if value < least:
            best, least = prices, value
        demand = np.bincount(columns, size * (gain > 0)[owners], minlength=blocks)
        move = _FIRST_STEP / math.sqrt(step) * (demand - 1)
        prices = prices * np.exp(np.clip(move, -_LONGEST_STEP, _LONGEST_STEP))
    return best
