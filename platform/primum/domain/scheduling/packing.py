"""DPack: order claims by weight over the room they take where room is scarce.

Tholoniat et al. (EuroSys 2025), ledger.md 2.6. Each block bets on the one key at which the most
weight would fit (the value, not value over capacity: trap T10). It must not be read as fair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from primum.domain.scheduling.blocks import Amounts, FilterShape
from primum.domain.scheduling.greedy import grant_in_order
from primum.domain.scheduling.tables import ClaimTable, Indices, Reals

_EVERY_LEAST = 50  # As in the published artifact.
_RECOMPUTATIONS = 25  # At most about so many in a round of many claims.


@dataclass(frozen=True, slots=True)
class Sizes:
    """Demands as shares of what is available.

    Args:
        by_key: Demands x keys; infinite where a key has no room.
        by_group: Demands x groups: the largest share of the group's keys.
    """

    by_key: Reals
    by_group: Reals

    @classmethod
    def of(cls, claims: ClaimTable, available: Amounts, shape: FilterShape) -> Sizes:
        """The sizes of demands."""
        room = available[claims.columns]
        by_key = np.full(room.shape, np.inf)
        np.divide(claims.amounts, room, where=room > 0, out=by_key)
        by_key[(room == 0) & (claims.amounts == 0)] = 0.0
        if len(shape.starts) == len(shape.keys):
            return cls(by_key, by_key)
        return cls(by_key, np.maximum.reduceat(by_key, shape.starts, axis=1))


def pack(
    claims: ClaimTable, available: Amounts, shape: FilterShape, *, every: int | None
) -> Indices:
    """Grant by efficiency until nothing fits, looking again at scarcity every so many grants.

    Args:
        claims: All claims.
        available: Blocks x keys; what is granted is taken from it in place.
        shape: When a block still has room.
        every: Grants between two looks; ``None`` for 50, or more where there are many claims.

    Returns:
        The rows granted.
    """
    every = every or max(_EVERY_LEAST, len(claims) // _RECOMPUTATIONS)
    granted: list[Indices] = []
    waiting = np.flatnonzero(claims.fitting(available, shape))
    streams = _Densest.of(claims, available, shape)
    while len(waiting):
        streams = streams.only(waiting)
        order = waiting[_by_efficiency(claims.take(waiting), streams, available, shape)]
        taken = 0
        while taken < every and len(order):
            batch, order = order[: every - taken], order[every - taken :]
            rows = grant_in_order(claims, batch, available, shape)
            granted.append(rows)
            taken += len(rows)
        still = np.sort(order)
        waiting = still[claims.take(still).fitting(available, shape)]
    return np.concatenate(granted) if granted else np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class _Densest:
    """Per group the demands by block and then by density; the order outlives every look.

    Within a block and a key, dividing by what is available does not change the order. For a group
    of several keys it may; there the order at the beginning is kept.
    """

    claims: ClaimTable
    owners: Indices
    orders: tuple[Indices, ...]

    @classmethod
    def of(cls, claims: ClaimTable, available: Amounts, shape: FilterShape) -> _Densest:
        owners = claims.owners
        sizes = Sizes.of(claims, available, shape).by_group / claims.weights[owners][:, None]
        blocks = len(available)
        narrow = claims.columns.astype(np.uint16) if blocks < 2**16 else claims.columns
        orders = []
        for group in range(sizes.shape[1]):
            order = np.argsort(sizes[:, group], kind="stable")
            orders.append(order[np.argsort(narrow[order], kind="stable")])
        return cls(claims, owners, tuple(orders))

    def only(self, rows: Indices) -> _Densest:
        """Without the demands of claims that no longer wait."""
        waits = np.zeros(len(self.claims), dtype=np.bool_)
        waits[rows] = True
        kept = waits[self.owners]
        return _Densest(self.claims, self.owners, tuple(o[kept[o]] for o in self.orders))

    def values(self, available: Amounts, shape: FilterShape) -> tuple[Reals, Reals]:
        """By block and group: the weight that fits, densest first, and the size of all demands."""
        blocks = len(available)
        value, load = (np.zeros((blocks, len(self.orders))) for _ in range(2))
        ends = (*shape.starts[1:], len(shape.keys))
        for group, (order, low, high) in enumerate(
            zip(self.orders, shape.starts, ends, strict=True)
        ):
            at = self.claims.columns[order]
            room = np.maximum(available[:, low:high], 0)[at]
            demand = self.claims.amounts[order, low:high]
            parts = np.where(room > 0, demand / np.maximum(room, 1), 2.0 * (demand > 0))
            size = parts[:, 0] if high - low == 1 else parts.max(axis=1)
            first = np.flatnonzero(np.diff(at, prepend=-1))
            total = np.cumsum(size)
            start = np.repeat((total - size)[first], np.diff(np.append(first, len(at))))
            fits = total - start <= 1
            weights = self.claims.weights[self.owners[order]]
            value[:, group] = np.bincount(at, weights * fits, minlength=blocks)
            load[:, group] = np.bincount(at, size, minlength=blocks)
        return value, load


def best_groups(value: Reals, load: Reals) -> Indices:
    """Per block the group with most value; among equals the one with least load, then by name."""
    most = value >= value.max(axis=1, keepdims=True)
    return np.asarray(np.where(most, load, np.inf).argmin(axis=1))


def _by_efficiency(
    waiting: ClaimTable, densest: _Densest, available: Amounts, shape: FilterShape
) -> Indices:
    """Weight over the shares taken at each block's best key; blocks that suffice are free."""
    value, load = densest.values(available, shape)
    best = best_groups(value, load)
    contended = load[np.arange(len(best)), best] > 1
    sizes = Sizes.of(waiting, available, shape).by_group
    chosen = sizes[np.arange(len(sizes)), best[waiting.columns]]
    cost = waiting.sum_of(np.where(contended[waiting.columns], chosen, 0.0))
    return by_cost(waiting, cost)


def by_cost(claims: ClaimTable, cost: Reals) -> Indices:
    """Least cost per weight first, then weight, arrival and id."""
    keys: tuple[npt.NDArray[np.generic], ...] = (
        claims.ranks,
        claims.arrivals,
        -claims.weights,
        cost / claims.weights,
    )
    return np.asarray(np.lexsort(keys))
