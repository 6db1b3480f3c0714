"""The Renyi filter: several orders with recorded weights.

Safe when every plan depends on earlier results.

It must not use more orders than the weights pay for, nor the dense grid of the Renyi accountant.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from primum.domain.accounting import charges, rdp
from primum.domain.accounting.accountant import Guarantee, require_supported
from primum.domain.accounting.charges import NEVER, UNITS_PER_ONE, Charge
from primum.domain.accounting.events import Event, decimal_text, flatten
from primum.domain.accounting.policy import epsilon_of_units, within, zero
from primum.domain.errors import InvalidValue
from primum.domain.quantities import Neighbors

_CHARGES_CACHED = (
    1024  # Charges kept: a ledger asks for the same plan at admission, start and settlement.
)

# Orders and weights of the RDP filter. A weight w costs ln(1/w)/(order - 1) of the capacity at its
# order, so high orders get small weights almost for free. Order 4 carries most because it is the
# best order for several training runs of epsilon about 3 under a budget of epsilon about 8 at delta
# 1e-5.
DEFAULT_ORDER_WEIGHTS: tuple[tuple[Decimal, Decimal], ...] = (
    (Decimal(3), Decimal("0.15")),
    (Decimal(4), Decimal("0.40")),
    (Decimal(6), Decimal("0.20")),
    (Decimal(8), Decimal("0.12")),
    (Decimal(12), Decimal("0.06")),
    (Decimal(16), Decimal("0.04")),
    (Decimal(32), Decimal("0.02")),
    (Decimal(64), Decimal("0.01")),
)


def _log_conversion(order: float) -> float:
    """Ln f(a) with f(a) = (1/a)(1-1/a)^(a-1): (1-e^(e-l))_+ <= f(a) e^((a-1)(l-e)).

    Ledger.md 2.4.
    """
    return -math.log(order) + (order - 1) * math.log1p(-1 / order)


@dataclass(frozen=True, slots=True)
class RdpPolicy:
    """Renyi filter with several orders: some order must still have room.

    Guarantees:
        With weights fixed at the budget's creation (``weights``) and capacity B_w(a) = epsilon -
        [ln(1/delta) + ln f(a) - ln w_a]/(a-1), f(a) = (1/a)(1-1/a)^(a-1) and sum of w_a at most 1,
        the adaptively chosen sequence of all admitted plans is (epsilon, delta)-DP: the transcripts
        certified by order a add at most w_a delta (stopped supermartingale of Feldman & Zrnic 2021;
        ledger.md 2.4). A single order with weight 1 is the fixed-order filter with the tight
        conversion.

    Args:
        order_weights: (order, weight) pairs, orders rising; weights above 0 that sum to at most 1.
    """

    order_weights: tuple[tuple[Decimal, Decimal], ...] = DEFAULT_ORDER_WEIGHTS

    def __post_init__(self) -> None:
        orders = [order for order, _ in self.order_weights]
        if not orders or orders != sorted(set(orders)):
            raise InvalidValue("order_weights", "must have rising orders", orders)
        if not all(1 < order <= Decimal(rdp.ORDER_MAX) for order in orders):
            raise InvalidValue(
                "order_weights", f"must have orders in (1, {rdp.ORDER_MAX:g}]", orders
            )
        weights = [weight for _, weight in self.order_weights]
        if any(not 0 < weight <= 1 for weight in weights) or sum(weights) > 1:
            raise InvalidValue(
                "order_weights", "must have weights above 0, in sum at most 1", weights
            )

    @property
    def name(self) -> str:
        """``RDP``."""
        return "RDP"

    @property
    def orders(self) -> tuple[float, ...]:
        """The grid."""
        return tuple(float(order) for order, _ in self.order_weights)

    def unsupported(self, event: Event, neighbors: Neighbors) -> str | None:
        """Why the event cannot be charged, naming the part; ``None`` if it can."""
        return rdp.unsupported_by_rdp(event, neighbors)

    def charge(self, event: Event, neighbors: Neighbors) -> Charge:
        """The Renyi curve of the plan on the grid, rounded up.

        Args:
            event: The plan.
            neighbors: The neighboring relation.

        Returns:
            One amount per order; at least 1 at each unless the event is nothing.

        Raises:
            UnsupportedEvent: If a part has no curve; names it.
        """
        return _charge(self, event, neighbors)

    def weights(self, guarantee: Guarantee) -> dict[Decimal, float]:
        """The share of delta of each order in a budget with this guarantee.

        Fixed when the budget is created.

        Orders without room even under Mironov's conversion, epsilon - ln(1/delta)/(a-1) <= 0, are
        dropped, and their weights go to the others in proportion. The choice uses nothing but the
        guarantee.

        Args:
            guarantee: Of the budget.

        Returns:
            Weights above 0 that sum to 1 by order; orders that are dropped are absent.
        """
        log_inverse = -guarantee.delta.ln()
        usable = [
            (order, weight)
            for order, weight in self.order_weights
            if guarantee.epsilon * (order - 1) > log_inverse
        ]
        usable = usable or list(self.order_weights)
        total = float(sum(weight for _, weight in usable))
        return {order: float(weight) / total for order, weight in usable}

    def _penalties(self, guarantee: Guarantee) -> dict[Decimal, int]:
        """Epsilon - B_w(a) in units per usable order, rounded up."""
        log_inverse = -float(guarantee.delta.ln())
        result: dict[Decimal, int] = {}
        for order, weight in self.weights(guarantee).items():
            a = float(order)
            penalty = (log_inverse + _log_conversion(a) - math.log(weight)) / (a - 1)
            slack = (abs(penalty) + log_inverse) * charges.COST_SLACK
            result[order] = math.ceil((penalty + slack) * UNITS_PER_ONE)
        return result

    def capacity(self, guarantee: Guarantee) -> Charge:
        """B_w at each order, rounded down.

        ``NEVER`` where it is not positive or the order is dropped.

        Args:
            guarantee: Of the budget.

        Returns:
            One amount per order.
        """
        epsilon = charges.units_down(guarantee.epsilon)
        room = dict.fromkeys((order for order, _ in self.order_weights), NEVER)
        for order, penalty in self._penalties(guarantee).items():
            room[order] = epsilon - penalty if epsilon > penalty else NEVER
        return _by_order(room)

    def admits(self, *, capacity: Charge, used: Charge, request: Charge) -> bool:
        """Whether some order has room for what is used and the request.

        Args:
            capacity: From ``capacity``.
            used: Reserved plus charged.
            request: From ``charge``.

        Returns:
            True if it fits. Amounts only grow, so the order that fits at the end fitted all along.

        Raises:
            InvalidValue: If the keys differ.
        """
        charges.same_keys(capacity, used, request)
        return any(
            before + more <= room
            for (_, room), (_, before), (_, more) in zip(
                capacity.amounts, used.amounts, request.amounts, strict=True
            )
        )

    def spent_epsilon(self, *, used: Charge, guarantee: Guarantee) -> Decimal:
        """The least epsilon at ``guarantee.delta`` whose filter would have admitted ``used``.

        Spent of the budget, as the filter counts; not the smaller figure that an accountant would
        give had the sequence been fixed in advance. 0 only if nothing was used. At most
        ``guarantee.epsilon`` if the guarantee admits ``used``.

        Args:
            used: Reserved plus charged.
            guarantee: Of the budget.

        Returns:
            Epsilon, rounded up to 1e-6; infinite above one million.
        """
        capacity = self.capacity(guarantee)
        charges.same_keys(capacity, used)
        if used.is_zero:
            return Decimal(0)
        amounts = used.as_dict
        penalties = self._penalties(guarantee)
        # The filter also wants a positive capacity, hence the least epsilon is above the penalty
        # itself.
        least = min(amounts[decimal_text(o)] + units for o, units in penalties.items())
        spent = epsilon_of_units(max(least, 1))
        fits = self.admits(capacity=capacity, used=used, request=zero(self))
        return within(spent, guarantee) if fits else spent

    def to_json(self) -> dict[str, Any]:
        """The grid and the weights."""
        return {
            "policy": self.name,
            "orders": [
                {"order": decimal_text(order), "weight": decimal_text(weight)}
                for order, weight in self.order_weights
            ],
        }


@functools.lru_cache(maxsize=_CHARGES_CACHED)
def _charge(policy: RdpPolicy, event: Event, neighbors: Neighbors) -> Charge:
    require_supported(rdp.unsupported_by_rdp(event, neighbors))
    orders = tuple(order for order, _ in policy.order_weights)
    if not flatten(event):
        return _by_order(dict.fromkeys(orders, 0))
    curve = rdp.rdp_curve(event, policy.orders, neighbors)
    costs = zip(orders, curve, strict=True)
    return _by_order({order: charges.cost_units(value) for order, value in costs})


def _by_order(amounts: Mapping[Decimal, int]) -> Charge:
    return Charge.of({decimal_text(order): amount for order, amount in amounts.items()})
