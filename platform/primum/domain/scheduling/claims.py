"""Claims on the budget of blocks, and the selectors by which they name their blocks.

A claim is granted on all of its blocks or on none. A selector is rounded outwards to whole blocks:
who reads part of a block pays for the block. It must not match nothing, since a charge to nothing
would be a free query (ledger.md trap T3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from primum.domain.accounting.charges import Charge
from primum.domain.errors import InvalidValue, NotFound
from primum.domain.scheduling.blocks import Block


@dataclass(frozen=True, slots=True)
class Claim:
    """A demand on several blocks.

    Args:
        claim_id: Unique; decides among claims that are equal in everything else.
        arrival: When it came, in any whole unit that all claims share.
        demands: What it takes from each block, by block id; at least one.
        weight: What granting it is worth; above 0.
        deadline: Not granted after it; ``None`` if it waits forever.
        owner: Who asks.
    """

    claim_id: str
    arrival: int
    demands: tuple[tuple[str, Charge], ...]
    weight: float = 1.0
    deadline: int | None = None
    owner: str = ""

    def __post_init__(self) -> None:
        named = [block_id for block_id, _ in self.demands]
        if not named or len(set(named)) != len(named):
            raise InvalidValue("demands", "must name at least one block, each once", named)
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise InvalidValue("weight", "must be above 0 and finite", self.weight)
        for block_id, charge in self.demands:
            if any(amount < 0 for _, amount in charge.amounts):
                raise InvalidValue(f"demands[{block_id}]", "must be at least 0", charge.amounts)

    @classmethod
    def on(
        cls,
        blocks: Sequence[Block],
        charge: Charge,
        *,
        claim_id: str,
        arrival: int,
        weight: float = 1.0,
        deadline: int | None = None,
        owner: str = "",
    ) -> Claim:
        """A claim that takes the same from each of several blocks."""
        demands = tuple((block.block_id, charge) for block in blocks)
        return cls(claim_id, arrival, demands, weight, deadline, owner)

    def expired(self, now: int) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and now > self.deadline

    @property
    def by_block(self) -> Mapping[str, Charge]:
        """Demands by block id."""
        return dict(self.demands)


@dataclass(frozen=True, slots=True)
class Selector:
    """Blocks by cohort, site and time.

    Args:
        cohorts: Names; empty for all.
        sites: Names; empty for all.
        start: First moment wanted; ``None`` for from the beginning.
        end: First moment no longer wanted; ``None`` for without end.
    """

    cohorts: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    start: int | None = None
    end: int | None = None

    def __post_init__(self) -> None:
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise InvalidValue("end", f"must be after start ({self.start})", self.end)

    def matches(self, block: Block) -> bool:
        """Whether the block holds any of the data wanted."""
        extent = block.extent
        return (
            (not self.cohorts or extent.cohort in self.cohorts)
            and (not self.sites or extent.site in self.sites)
            and (self.start is None or extent.end > self.start)
            and (self.end is None or extent.start < self.end)
        )

    def choose(self, blocks: Sequence[Block]) -> tuple[Block, ...]:
        """All blocks that hold any of the data wanted, by id.

        Raises:
            NotFound: If there is none, or a cohort or a site named is in none of them.
        """
        chosen = tuple(sorted((b for b in blocks if self.matches(b)), key=lambda b: b.block_id))
        if not chosen:
            raise NotFound(f"the selector must match a block; found none for {self}")
        missing = set(self.cohorts) - {b.extent.cohort for b in chosen}
        missing |= set(self.sites) - {b.extent.site for b in chosen}
        if missing:
            raise NotFound(f"the selector must match a block for each name; none for {missing}")
        return chosen
