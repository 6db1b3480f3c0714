"""For each block and key by itself: how much weight would fit, taking the densest demands first.

The one-dimensional knapsacks that DPack and the dual prices are built on. Sizes are shares of what
is available, so every knapsack has size 1. It must not count a key without room.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from primum.domain.scheduling.tables import Indices, Reals


@dataclass(frozen=True, slots=True)
class Knapsacks:
    """What the densest demands come to.

    Args:
        values: Blocks x keys: the weight of the densest demands that fit, with a part of the first
            that does not: no choice of demands that fits has more weight (Dantzig 1957).
        parts: Demands x keys: which part of each demand that takes.
        prices: Blocks x keys: weight per room of that first one: what a little more room would be
            worth; 0 if all fit.
    """

    values: Reals
    parts: Reals
    prices: Reals


def fill(sizes: Reals, weights: Reals, columns: Indices, blocks: int) -> Knapsacks:
    """Fill the knapsack of every block and key.

    Args:
        sizes: Demands x keys, at least 0; infinite where the key has no room.
        weights: By demand, at least 0.
        columns: Block of each demand.
        blocks: How many.

    Returns:
        Values, parts and prices.
    """
    keys = sizes.shape[1]
    values, prices, parts = (
        np.zeros((blocks, keys)),
        np.zeros((blocks, keys)),
        np.zeros(sizes.shape),
    )
    narrow = columns.astype(np.uint16) if blocks < 2**16 else columns
    for key in range(keys):
        with np.errstate(divide="ignore", invalid="ignore"):
            sparse = np.where(weights > 0, sizes[:, key] / weights, np.inf)
        order = np.argsort(sparse, kind="stable")
        order = order[np.argsort(narrow[order], kind="stable")]
        at, worth, size = columns[order], weights[order], sizes[order, key]
        room_for = np.isfinite(size)
        size = np.where(room_for, size, 0.0)
        first = np.flatnonzero(np.diff(at, prepend=-1))
        total = np.cumsum(size)
        before = total - size
        before -= np.repeat(before[first], np.diff(np.append(first, len(at))))
        fits = size <= 1 - before
        part = np.clip((1 - before) / np.where(size > 0, size, 1.0), 0.0, 1.0)
        part = np.where(fits, 1.0, part) * room_for * (worth > 0)
        values[:, key] = np.bincount(at, worth * part, minlength=blocks)
        edge = np.flatnonzero((part > 0) & (part < 1))
        prices[at[edge], key] = worth[edge] / size[edge]
        parts[order, key] = part
    return Knapsacks(values, parts, prices)
