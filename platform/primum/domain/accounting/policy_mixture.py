"""Several filters side by side on one budget, each with a recorded share of delta.

A plan is admitted if one filter still has room. A plan that a filter cannot charge closes that
filter for good, and no other. The split must not change after the budget is created, except by a
migration that only tightens.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from primum.domain.accounting.accountant import EPSILON_INFINITE, Guarantee, require_supported
from primum.domain.accounting.charges import AMOUNT_MAX, Charge, same_keys
from primum.domain.accounting.events import Event, NonPrivate, decimal_text, describe, flatten
from primum.domain.accounting.policy import AccountingPolicy, within, zero
from primum.domain.accounting.policy_rdp import RdpPolicy
from primum.domain.accounting.policy_scalar import BasicPolicy, GdpPolicy
from primum.domain.errors import InvalidValue
from primum.domain.quantities import Neighbors

# A share w costs a filter ln(1/w) of its exponent; the Renyi filter carries the training runs.
DEFAULT_COMPONENTS: tuple[tuple[AccountingPolicy, Decimal], ...] = (
    (RdpPolicy(), Decimal("0.6")),
    (GdpPolicy(), Decimal("0.3")),
    (BasicPolicy(), Decimal("0.1")),
)


@dataclass(frozen=True, slots=True)
class Mixture:
    """A plan is admitted if one of several filters has room for everything so far and the plan.

    Guarantees:
        With delta split as recorded, the adaptively chosen sequence of all admitted plans is
        (epsilon, delta)-DP: a transcript that filter c certified at its end was within c all along,
        because amounts only grow, and the transcripts of c add at most its share of delta (union
        over the filters, ledger.md 2.4).

    Args:
        components: (policy, share of delta) pairs; shares above 0, in sum at most 1; names differ.
    """

    components: tuple[tuple[AccountingPolicy, Decimal], ...] = DEFAULT_COMPONENTS

    def __post_init__(self) -> None:
        names = [policy.name for policy, _ in self.components]
        if not names or len(set(names)) != len(names) or self.name in names:
            raise InvalidValue("components", "must be different filters, none a mixture", names)
        shares = [share for _, share in self.components]
        if any(not 0 < share <= 1 for share in shares) or sum(shares) > 1:
            raise InvalidValue("components", "must have shares above 0, in sum at most 1", shares)

    @property
    def name(self) -> str:
        """``Mixture``."""
        return "Mixture"

    def unsupported(self, event: Event, neighbors: Neighbors) -> str | None:
        """Why no filter can charge the event, naming the part; ``None`` if one can."""
        for leaf, _ in flatten(event):
            if isinstance(leaf, NonPrivate):
                return f"{describe(leaf)} has no finite privacy cost."
        reasons = [policy.unsupported(event, neighbors) for policy, _ in self.components]
        return None if None in reasons else reasons[0]

    def charge(self, event: Event, neighbors: Neighbors) -> Charge:
        """The charges of all filters; more than any capacity where a filter cannot charge the plan.

        Args:
            event: The plan.
            neighbors: The neighboring relation.

        Returns:
            Keys such as ``RDP.4``.

        Raises:
            UnsupportedEvent: If no filter can charge the plan; names the part.
        """
        require_supported(self.unsupported(event, neighbors))
        amounts: dict[str, int] = {}
        for policy, _ in self.components:
            if policy.unsupported(event, neighbors) is None:
                part = policy.charge(event, neighbors).as_dict
            else:
                part = dict.fromkeys(zero(policy).as_dict, AMOUNT_MAX)
            amounts.update({f"{policy.name}.{key}": amount for key, amount in part.items()})
        return Charge.of(amounts)

    def capacity(self, guarantee: Guarantee) -> Charge:
        """The capacities of all filters, each at its share of delta, rounded down."""
        amounts: dict[str, int] = {}
        for policy, share in self.components:
            part = policy.capacity(Guarantee(guarantee.epsilon, guarantee.delta * share))
            amounts.update({f"{policy.name}.{key}": amount for key, amount in part.amounts})
        return Charge.of(amounts)

    def admits(self, *, capacity: Charge, used: Charge, request: Charge) -> bool:
        """Whether some filter admits the request."""
        same_keys(capacity, used, request)
        return any(
            policy.admits(
                capacity=_part(policy, capacity),
                used=_part(policy, used),
                request=_part(policy, request),
            )
            for policy, _ in self.components
        )

    def spent_epsilon(self, *, used: Charge, guarantee: Guarantee) -> Decimal:
        """The least epsilon at which some filter would have admitted ``used``."""
        capacity = self.capacity(guarantee)
        same_keys(capacity, used)
        if used.is_zero:
            return Decimal(0)
        spent = EPSILON_INFINITE
        for policy, share in self.components:
            part = _part(policy, used)
            shared = Guarantee(guarantee.epsilon, guarantee.delta * share)
            spent = min(spent, policy.spent_epsilon(used=part, guarantee=shared))
        fits = self.admits(capacity=capacity, used=used, request=zero(self))
        return within(spent, guarantee) if fits else spent

    def to_json(self) -> dict[str, Any]:
        """The filters and their shares of delta."""
        return {
            "policy": self.name,
            "components": [
                {"share": decimal_text(share), **policy.to_json()}
                for policy, share in self.components
            ],
        }


def _part(policy: AccountingPolicy, charge: Charge) -> Charge:
    prefix = f"{policy.name}."
    return Charge.of(
        {key.removeprefix(prefix): n for key, n in charge.amounts if key.startswith(prefix)}
    )
