"""Blocks and claims as arrays, the form in which schedulers read them.

Rows are sorted by id and keys by name, so that the order in which blocks, claims or orders were
given cannot change a decision. Packing refuses a demand whose keys are not those of its block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from primum.domain.accounting.charges import AMOUNT_MAX
from primum.domain.errors import InvalidValue, NotFound
from primum.domain.scheduling.blocks import Amounts, Block, FilterShape
from primum.domain.scheduling.claims import Claim

Indices = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BlockTable:
    """Blocks of one budget, and so of one filter.

    Args:
        ids: Block ids.
        shape: Of the filter.
        capacity: Blocks x keys; ``NEVER`` where a key is of no use.
        unlocked: Blocks x keys.
        used: Blocks x keys.
    """

    ids: tuple[str, ...]
    shape: FilterShape
    capacity: Amounts
    unlocked: Amounts
    used: Amounts

    @classmethod
    def of(cls, blocks: Sequence[Block]) -> BlockTable:
        """The table of some blocks.

        Raises:
            InvalidValue: If an id comes twice or the filters differ.
        """
        rows = sorted(blocks, key=lambda block: block.block_id)
        ids = tuple(block.block_id for block in rows)
        if not rows or len(set(ids)) != len(ids):
            raise InvalidValue("blocks", "must be at least one, each id once", ids)
        shape = rows[0].shape
        for block in rows:
            if block.shape != shape:
                raise InvalidValue("blocks", f"must share the filter {shape.keys}", block.block_id)
        parts = [
            np.array([[a for _, a in charge.amounts] for charge in column], dtype=np.int64)
            for column in (
                [b.capacity for b in rows],
                [b.unlocked for b in rows],
                [b.used for b in rows],
            )
        ]
        return cls(ids, shape, *parts)

    @property
    def available(self) -> Amounts:
        """Unlocked and not used; negative at keys that certify nothing (any more)."""
        return np.asarray(self.unlocked - np.minimum(self.used, AMOUNT_MAX))


@dataclass(frozen=True, slots=True)
class ClaimTable:
    """Claims, with the demands of each next to each other.

    Args:
        ids: Claim ids.
        arrivals: By claim.
        ranks: Position in the order of ids; decides last.
        weights: By claim.
        starts: Where the demands of each claim begin; one more than claims.
        columns: Row of the block, by demand.
        amounts: Demands x keys.
    """

    ids: tuple[str, ...]
    arrivals: Indices
    ranks: Indices
    weights: Reals
    starts: Indices
    columns: Indices
    amounts: Amounts

    @classmethod
    def of(cls, claims: Sequence[Claim], blocks: BlockTable) -> ClaimTable:
        """The table of some claims on the blocks of a table.

        Raises:
            InvalidValue: If an id comes twice, or a demand has keys that its block has not: an
                unknown order is refused, it never narrows the block.
            NotFound: If a block is not in the table.
        """
        rows = sorted(claims, key=lambda claim: claim.claim_id)
        ids = tuple(claim.claim_id for claim in rows)
        if len(set(ids)) != len(ids):
            raise InvalidValue("claims", "must have each id once", ids)
        at = {block_id: row for row, block_id in enumerate(blocks.ids)}
        starts, columns, amounts = [0], [], []
        for claim in rows:
            for block_id, charge in sorted(claim.demands):
                if block_id not in at:
                    raise NotFound(f"claim {claim.claim_id}: block {block_id} does not exist")
                if tuple(key for key, _ in charge.amounts) != blocks.shape.keys:
                    keys = [key for key, _ in charge.amounts]
                    raise InvalidValue(
                        f"claims[{claim.claim_id}]", f"must have keys {blocks.shape.keys}", keys
                    )
                columns.append(at[block_id])
                amounts.append([amount for _, amount in charge.amounts])
            starts.append(len(columns))
        return cls(
            ids,
            np.array([claim.arrival for claim in rows], dtype=np.int64),
            np.arange(len(rows), dtype=np.int64),
            np.array([claim.weight for claim in rows], dtype=np.float64),
            np.array(starts, dtype=np.int64),
            np.array(columns, dtype=np.int64),
            np.minimum(
                np.array(amounts, dtype=np.int64).reshape(-1, len(blocks.shape.keys)), AMOUNT_MAX
            ),
        )

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def owners(self) -> Indices:
        """The claim of each demand."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def entries(self, rows: Indices) -> tuple[Indices, Indices]:
        """The demands of some claims, and where the demands of each begin, without the end."""
        counts = self.starts[rows + 1] - self.starts[rows]
        begins = np.cumsum(counts) - counts
        return np.arange(int(counts.sum())) + np.repeat(self.starts[rows] - begins, counts), begins

    def take(self, rows: Indices) -> ClaimTable:
        """Some claims only, in that order; ``ids`` follow."""
        entries, begins = self.entries(rows)
        return ClaimTable(
            tuple(self.ids[row] for row in rows.tolist()),
            self.arrivals[rows],
            self.ranks[rows],
            self.weights[rows],
            np.append(begins, len(entries)),
            self.columns[entries],
            self.amounts[entries],
        )

    def all_of(self, held: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Whether something holds for all demands of a claim."""
        if not len(self):
            return np.zeros(0, dtype=np.bool_)
        return np.asarray(np.logical_and.reduceat(held, self.starts[:-1]))

    def sum_of(self, values: Reals) -> Reals:
        """The sum over the demands of a claim."""
        if not len(self):
            return np.zeros(0)
        return np.asarray(np.add.reduceat(values, self.starts[:-1]))

    def fitting(self, available: Amounts, shape: FilterShape) -> npt.NDArray[np.bool_]:
        """Whether each claim fits what is available, alone."""
        return self.all_of(shape.has_room(self.amounts <= available[self.columns]))
