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
_ROUNDING = 1e-9  # Relative; covers the floating-point error of the bound.


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices at the end of a descent.

    Args:
        cost: By claim: what its demands are worth to others.
        bound: No choice of the claims that fits together weighs more.
    """

    cost: Reals
    bound: float


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
        return Prices(np.zeros(0), 0.0)
    sizes = Sizes.of(claims, available, shape)
    columns, owners = claims.columns, claims.owners
    even = (claims.weights / np.diff(claims.starts))[owners]
    split, bound = even, math.inf
    cost = np.zeros(len(claims))
    for look in range(_LOOKS + 1):
        filled = knapsacks.fill(sizes.by_key, split, columns, blocks)
        by_group = np.minimum.reduceat(filled.fractional, shape.starts, axis=1)
        bound = min(bound, float(by_group.max(axis=1, initial=0.0).sum()))
        if look == _LOOKS:
            break
        finite = np.where(np.isfinite(sizes.by_group), sizes.by_group, 2.0)
        load = np.array(
            [np.bincount(columns, part, minlength=blocks) for part in finite.T], dtype=np.float64
        ).T
        best = best_groups(by_group, load)
        size = finite[np.arange(len(columns)), best[columns]]
        scarce = load[np.arange(blocks), best] > 1
        start = np.minimum.reduceat(filled.price, shape.starts, axis=1)
        values = _descend(claims, size, scarce, start[np.arange(blocks), best])
        priced = values[columns] * size
        cost = claims.sum_of(priced)
        share = np.divide(priced, cost[owners], where=cost[owners] > 0, out=np.zeros(len(priced)))
        split = np.where(cost[owners] > 0, share * claims.weights[owners], even)
    return Prices(cost, _rounded(bound, claims.weights))


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
