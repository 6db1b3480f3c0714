"""The accounting policies there are, by name, and how a recorded one is read back.

It must not change what an old record means: a budget keeps the grid and the weights it was created
with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from primum.domain.accounting.accountant import Guarantee, require_delta, require_supported
from primum.domain.accounting.charges import NEVER, Charge
from primum.domain.accounting.events import Event
from primum.domain.accounting.policy import AccountingPolicy, zero
from primum.domain.accounting.policy_mixture import Mixture
from primum.domain.accounting.policy_rdp import RdpPolicy
from primum.domain.accounting.policy_scalar import BasicPolicy, GdpPolicy
from primum.domain.errors import InvalidValue
from primum.domain.quantities import Neighbors, parse_decimal

__all__ = [
    "NEVER",
    "POLICY_NAMES",
    "AccountingPolicy",
    "BasicPolicy",
    "Charge",
    "GdpPolicy",
    "Mixture",
    "PolicyAccountant",
    "RdpPolicy",
    "policy_from_json",
    "policy_named",
    "zero",
]

POLICY_NAMES = ("RDP", "GDP", "Basic", "Mixture")


def policy_named(name: str) -> AccountingPolicy:
    """The policy of that name with its default parameters.

    Args:
        name: ``RDP``, ``GDP``, ``Basic``, or ``Mixture``.

    Returns:
        The policy.

    Raises:
        InvalidValue: If there is none of that name.
    """
    match name:
        case "RDP":
            return RdpPolicy()
        case "GDP":
            return GdpPolicy()
        case "Basic":
            return BasicPolicy()
        case "Mixture":
            return Mixture()
        case _:
            raise InvalidValue("policy", f"must be one of {', '.join(POLICY_NAMES)}", name)


def policy_from_json(value: Mapping[str, Any]) -> AccountingPolicy:
    """The policy that a record stands for, with the parameters it was recorded with.

    Args:
        value: What ``to_json`` gave.

    Returns:
        The policy; equal to the one that was recorded.

    Raises:
        InvalidValue: If the record is not one of a policy.
    """
    try:
        match value.get("policy"):
            case "RDP":
                pairs = [(entry["order"], entry["weight"]) for entry in value["orders"]]
                return RdpPolicy(
                    tuple((parse_decimal("order", a), parse_decimal("weight", w)) for a, w in pairs)
                )
            case "Basic":
                return BasicPolicy(parse_decimal("deltaPerCharge", value["deltaPerCharge"]))
            case "Mixture":
                parts = value["components"]
                return Mixture(
                    tuple((policy_from_json(p), parse_decimal("share", p["share"])) for p in parts)
                )
            case name:
                return policy_named(str(name))
    except (KeyError, TypeError, AttributeError):
        raise InvalidValue("policy", "must be a recorded policy", str(value)) from None


@dataclass(frozen=True, slots=True)
class PolicyAccountant:
    """An accountant in a budget's own currency: the epsilon that its filter counts for one event.

    Calibrating a plan to at most the epsilon of the budget with it gives a plan that the empty
    budget admits; a plan that was calibrated to all of the budget with the dense Renyi accountant
    is not admitted.

    Args:
        policy: The filter.
        budget: The guarantee of the budget; it fixes the weights of the filter.
    """

    policy: AccountingPolicy
    budget: Guarantee

    @property
    def name(self) -> str:
        """Such as ``RDP filter``."""
        return f"{self.policy.name} filter"

    def unsupported(self, event: Event, neighbors: Neighbors) -> str | None:
        """Why the filter cannot charge the event, naming the part; ``None`` if it can."""
        return self.policy.unsupported(event, neighbors)

    def epsilon(self, event: Event, delta: Decimal, neighbors: Neighbors) -> Decimal:
        """The least epsilon at ``delta`` whose filter would admit the event alone.

        Guarantees:
            The event is (epsilon, delta)-DP, also as the first of an adaptive sequence.

        Args:
            event: The plan.
            delta: Above 0, below 1; usually that of the budget.
            neighbors: The neighboring relation.

        Returns:
            Epsilon, rounded up to 1e-6.

        Raises:
            UnsupportedEvent: If the filter cannot charge a part; names it.
        """
        require_delta(delta)
        require_supported(self.unsupported(event, neighbors))
        used = self.policy.charge(event, neighbors)
        guarantee = Guarantee(self.budget.epsilon, delta)
        return self.policy.spent_epsilon(used=used, guarantee=guarantee)
