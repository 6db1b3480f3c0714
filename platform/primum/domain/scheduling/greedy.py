"""Granting claims one after the other in a given order, as fast as arrays allow.

It decides exactly what the plain loop "if it fits on all of its blocks, take it" decides; the tests
hold it to that. What is available only shrinks, so a claim that does not fit now never will, and a
claim that would fit even if all before it were granted certainly fits. Claims that are neither are
decided one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from primum.domain.accounting.charges import AMOUNT_MAX
from primum.domain.scheduling.blocks import Amounts, FilterShape
from primum.domain.scheduling.tables import ClaimTable, Indices

_ONE_BY_ONE = 192  # Undecided claims that are decided by the plain loop between two passes.
_FEW = 24  # Below it a pass costs more than the loop.
_SUM_BITS = 2**62
_NEARLY_MAX = 0.999 * AMOUNT_MAX


def grant_in_order(
    claims: ClaimTable, order: Indices, available: Amounts, shape: FilterShape
) -> Indices:
    """Grant what fits, in order; all or nothing across the blocks of a claim.

    Args:
        claims: All claims.
        order: Rows to consider.
        available: Blocks x keys; what is granted is taken from it in place, at every key.
        shape: When a block still has room.

    Returns:
        The rows granted, in order.
    """
    granted = np.zeros(len(claims), dtype=np.bool_)
    waiting = order
    while len(waiting) > _FEW:
        waiting, certain = _certain(claims, waiting, available, shape)
        granted[certain] = True
        if len(certain) < len(waiting) or len(waiting) <= _FEW:
            granted[_one_by_one(claims, waiting[:_ONE_BY_ONE], available, shape)] = True
            waiting = waiting[_ONE_BY_ONE:]
    granted[_one_by_one(claims, waiting, available, shape)] = True
    return order[granted[order]]


def total(claims: ClaimTable, rows: Indices, blocks: int) -> Amounts:
    """What some claims take together, blocks x keys; at most ``AMOUNT_MAX``, above any capacity."""
    entries, _ = claims.entries(rows)
    result = np.zeros((blocks, claims.amounts.shape[1]), dtype=np.int64)
    if not len(entries):
        return result
    entries = entries[np.argsort(_narrow(claims.columns[entries]), kind="stable")]
    at = claims.columns[entries]
    first = np.flatnonzero(np.diff(at, prepend=-1))
    amounts = claims.amounts[entries]
    # Sums that leave 64 bits are replaced where the sum of floats says so.
    sums = np.add.reduceat(amounts, first, axis=0)
    near = np.add.reduceat(amounts.astype(np.float64), first, axis=0)
    result[at[first]] = np.where(near >= _NEARLY_MAX, AMOUNT_MAX, sums)
    return result


def _certain(
    claims: ClaimTable, waiting: Indices, available: Amounts, shape: FilterShape
) -> tuple[Indices, Indices]:
    """Drop what cannot fit and grant what fits in any case; the rest keeps waiting."""
    entries, begins = claims.entries(waiting)
    fits = shape.has_room(claims.amounts[entries] <= available[claims.columns[entries]])
    waiting = waiting[np.logical_and.reduceat(fits, begins)]
    # Sums of capped demands stay within 64 bits; a capped one exceeds all that is available.
    if not len(waiting):
        return waiting, waiting
    entries, begins = claims.entries(waiting)
    cap = _SUM_BITS // len(entries)
    if cap <= available.max():
        return waiting, waiting[:0]
    columns = claims.columns[entries]
    by_block = np.argsort(_narrow(columns), kind="stable")
    sorted_columns = columns[by_block]
    demands = np.minimum(claims.amounts[entries[by_block]], cap)
    first = np.flatnonzero(np.diff(sorted_columns, prepend=-1))
    sums = np.cumsum(demands, axis=0)
    before = sums[first] - demands[first]
    lengths = np.diff(np.append(first, len(by_block)))
    room = available[sorted_columns] + np.repeat(before, lengths, axis=0)
    sure = np.empty(len(by_block), dtype=np.bool_)
    sure[by_block] = shape.has_room(sums <= room)
    decided = np.logical_and.reduceat(sure, begins)
    counts = np.diff(np.append(begins, len(entries)))
    taken = np.repeat(decided, counts)[by_block]
    if taken.any():
        blocks = sorted_columns[first]
        spent = np.add.reduceat(np.where(taken[:, None], demands, 0), first, axis=0)
        available[blocks] = np.maximum(available[blocks] - spent, -AMOUNT_MAX)
    return waiting[~decided], waiting[decided]


def _narrow(columns: Indices) -> npt.NDArray[np.integer[Any]]:
    """16 bits where they suffice: numpy then sorts by counting."""
    return columns.astype(np.uint16) if columns.max(initial=0) < 2**16 else columns


def _one_by_one(
    claims: ClaimTable, rows: Indices, available: Amounts, shape: FilterShape
) -> list[int]:
    """The plain loop."""
    granted = []
    for row in rows.tolist():
        begin, end = claims.starts[row], claims.starts[row + 1]
        blocks = claims.columns[begin:end]
        left = available[blocks] - claims.amounts[begin:end]
        if shape.has_room(left >= 0).all():
            available[blocks] = np.maximum(left, -AMOUNT_MAX)
            granted.append(row)
    return granted
