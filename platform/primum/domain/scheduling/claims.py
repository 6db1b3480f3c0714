"""Claims on the budget of blocks. A claim is granted on all of its blocks or on none.

Which blocks it names was decided before (``domain.budget.layout``); here it must name one at least.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from primum.domain.accounting.charges import Charge
from primum.domain.errors import InvalidValue


@dataclass(frozen=True, slots=True)
class Claim:
    """A demand on several blocks.

    Args:
        claim_id: Unique; decides among claims that are equal in everything else.
        arrival: When it came, in any whole unit that all claims share.
        demands: What it takes from each block, by block id; at least one.
        weight: What granting it is worth; above 0.
    """

    claim_id: str
    arrival: int
    demands: tuple[tuple[str, Charge], ...]
    weight: float = 1.0

    def __post_init__(self) -> None:
        named = [block_id for block_id, _ in self.demands]
        if not named or len(set(named)) != len(named):
            raise InvalidValue("demands", "must name at least one block, each once", named)
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise InvalidValue("weight", "must be above 0 and finite", self.weight)
        for block_id, charge in self.demands:
            if any(amount < 0 for _, amount in charge.amounts):
                raise InvalidValue(f"demands[{block_id}]", "must be at least 0", charge.amounts)
