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
    """Values by block x key.

    Args:
        whole: Weight of the densest demands that fit one after the other without a gap.
        fractional: The same with a part of the first that does not fit: no choice of demands that
            fits has more weight (Dantzig 1957). ``-inf`` where the key has no room.
        price: Density of that first one: what a little more room would be worth; 0 if all fit.
    """

    whole: Reals
    fractional: Reals
    price: Reals


def fill(sizes: Reals, weights: Reals, columns: Indices, blocks: int) -> Knapsacks:
    """Fill the knapsack of every block and key.

    Args:
        sizes: Demands x keys, at least 0; infinite where the key has no room.
        weights: By demand, at least 0.
        columns: Block of each demand.
        blocks: How many.

    Returns:
        The values.
    """
    keys = sizes.shape[1]
    whole, fractional, price = (np.zeros((blocks, keys)) for _ in range(3))
    narrow = columns.astype(np.uint16) if blocks < 2**16 else columns
    for key in range(keys):
        size = sizes[:, key]
        with np.errstate(divide="ignore", invalid="ignore"):
            order = np.argsort(np.where(weights > 0, size / weights, np.inf), kind="stable")
        order = order[np.argsort(narrow[order], kind="stable")]
        at, worth = columns[order], weights[order]
        taken = np.where(np.isfinite(size[order]), size[order], 2.0)
        first = np.flatnonzero(np.diff(at, prepend=-1))
        lengths = np.diff(np.append(first, len(at)))
        total = np.cumsum(taken)
        before = total - taken
        before -= np.repeat(before[first], lengths)
        room = 1 - before
        fits = taken <= room
        part = np.clip(room / np.where(taken > 0, taken, 1.0), 0.0, 1.0)
        part[fits] = 1.0
        # Only the densest that fit without a gap, so that the order alone decides.
        gapless = before + taken <= 1
        whole[:, key] = np.bincount(at, worth * gapless, minlength=blocks)
        fractional[:, key] = np.bincount(at, worth * part, minlength=blocks)
        edge = (part < 1) & (before < 1)
        density = np.where(edge, worth / np.where(taken > 0, taken, 1.0), 0.0)
        np.maximum.at(price[:, key], at, density)
    return Knapsacks(whole, fractional, price)
