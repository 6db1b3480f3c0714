"""The filters with one number per plan.

Gaussian DP (squared mu) and basic composition (epsilon and delta).

Neither may charge a subsampled mechanism by an approximation: the Gaussian filter refuses it by
name, the basic one reads a proven (epsilon, delta) off the plan's Renyi curve.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from primum.domain.accounting import charges, gdp, pld, profile, rdp
from primum.domain.accounting.accountant import (
    EPSILON_INFINITE,
    EPSILON_PLACES,
    Accountant,
    Guarantee,
    epsilon_up,
    require_delta,
    require_supported,
)
from primum.domain.accounting.basic import is_pure, pure_epsilon
from primum.domain.accounting.charges import AMOUNT_MAX, NEVER, UNITS_PER_ONE, Charge
from primum.domain.accounting.events import (
    Composed,
    Event,
    Leaf,
    LibraryEvent,
    Repeated,
    decimal_text,
    flatten,
)
from primum.domain.accounting.policy import all_fit, epsilon_of_units, within, zero
from primum.domain.errors import InvalidValue
from primum.domain.quantities import Neighbors

BASIC_DELTA_PER_CHARGE = Decimal("1E-9")


@dataclass(frozen=True, slots=True)
class GdpPolicy:
    """Gaussian-DP filter: the sum of squared mu stays at most the squared mu of the guarantee.

    Guarantees:
        The adaptively chosen sequence of all admitted plans is (epsilon, delta)-DP (Smith &
        Thakurta 2022; Koskela, Tobaben & Honkela 2023). Only unsampled Gaussian mechanisms can be
        charged, each exactly.
    """

    @property
    def name(self) -> str:
        """``GDP``."""
        return "GDP"

    def unsupported(self, event: Event, neighbors: Neighbors) -> str | None:
        """Why the event cannot be charged, naming the part; ``None`` if it can."""
        return gdp.unsupported_by_gdp(event, neighbors)

    def charge(self, event: Event, neighbors: Neighbors) -> Charge:
        """The squared mu of the plan, exact, rounded up.

        Args:
            event: The plan.
            neighbors: The neighboring relation.

        Returns:
            The key ``mu2``.

        Raises:
            UnsupportedEvent: If a part is not an unsampled Gaussian; names it.
        """
        require_supported(self.unsupported(event, neighbors))
        units = charges.units_up(gdp.squared_mu(event, neighbors))
        return Charge.of({"mu2": min(units, AMOUNT_MAX)})

    def capacity(self, guarantee: Guarantee) -> Charge:
        """The squared mu of the Gaussian mechanism that has exactly this guarantee, rounded down.

        Args:
            guarantee: Of the budget.

        Returns:
            The key ``mu2``.
        """
        mu = profile.gaussian_psi(epsilon=float(guarantee.epsilon), delta=float(guarantee.delta))
        room = math.floor(mu * mu * (1 - charges.COST_SLACK) * UNITS_PER_ONE)
        return Charge.of({"mu2": room if room > 0 else NEVER})

    def admits(self, *, capacity: Charge, used: Charge, request: Charge) -> bool:
        """Whether the sum of squared mu fits."""
        return all_fit(capacity, used, request)

    def spent_epsilon(self, *, used: Charge, guarantee: Guarantee) -> Decimal:
        """The epsilon at ``guarantee.delta`` of a Gaussian mechanism with the squared mu used."""
        capacity = self.capacity(guarantee)
        charges.same_keys(capacity, used)
        if used.is_zero:
            return Decimal(0)
        mu = math.sqrt(used.as_dict["mu2"] / UNITS_PER_ONE * (1 + charges.COST_SLACK))
        epsilon = profile.gaussian_epsilon(delta=float(guarantee.delta), psi=mu)
        spent = max(epsilon_up(epsilon), Decimal(1).scaleb(-EPSILON_PLACES))
        fits = all_fit(capacity, used, zero(self))
        return within(spent, guarantee) if fits else spent

    def to_json(self) -> dict[str, Any]:
        """Has no parameters."""
        return {"policy": self.name}


def _apart(event: Event) -> tuple[tuple[tuple[Leaf, int], ...], Event]:
    """The pure mechanisms with their counts, and everything else as one event."""
    leaves = flatten(event)
    pure = tuple((leaf, count) for leaf, count in leaves if is_pure(leaf))
    rest = Composed(tuple(Repeated(leaf, count) for leaf, count in leaves if not is_pure(leaf)))
    return pure, rest


@dataclass(frozen=True, slots=True)
class BasicPolicy:
    """Basic composition: epsilons add up, deltas add up.

    Guarantees:
        The adaptively chosen sequence of all admitted plans is (epsilon, delta)-DP (Rogers, Roth,
        Ullman & Vadhan 2016). Pure mechanisms are charged their epsilon; the rest of a plan is
        charged one (epsilon, delta) point of its Renyi curve, at ``delta_per_charge``, or of its
        privacy loss distribution if it holds a library event without such a curve.

    Args:
        delta_per_charge: Above 0, below 1; a whole number of 1e-12.
    """

    delta_per_charge: Decimal = BASIC_DELTA_PER_CHARGE

    def __post_init__(self) -> None:
        require_delta(self.delta_per_charge)
        if charges.units_down(self.delta_per_charge) != charges.units_up(self.delta_per_charge):
            raise InvalidValue(
                "delta_per_charge", "must be a multiple of 1E-12", self.delta_per_charge
            )

    @property
    def name(self) -> str:
        """``Basic``."""
        return "Basic"

    def unsupported(self, event: Event, neighbors: Neighbors) -> str | None:
        """Why the event cannot be charged, naming the part; ``None`` if it can."""
        pure, rest = _apart(event)
        own = Composed(tuple(leaf for leaf, _ in pure if not isinstance(leaf, LibraryEvent)))
        reason = rdp.unsupported_by_rdp(own, neighbors)
        return reason or self._accountant(rest, neighbors)[1]

    def _accountant(self, rest: Event, neighbors: Neighbors) -> tuple[Accountant, str | None]:
        """Who gives the point of what is not pure, and why nobody does.

        Each is sound for a plan fixed in advance, which one charge is.
        """
        renyi = rdp.RdpAccountant()
        reason = renyi.unsupported(rest, neighbors)
        library = any(isinstance(leaf, LibraryEvent) for leaf, _ in flatten(rest))
        if reason is not None and library and self.delta_per_charge >= pld.DELTA_MIN:
            losses = pld.PldAccountant()
            if losses.unsupported(rest, neighbors) is None:
                return losses, None
        return renyi, reason

    def charge(self, event: Event, neighbors: Neighbors) -> Charge:
        """An (epsilon, delta) of the plan, rounded up.

        Args:
            event: The plan, fixed in advance.
            neighbors: The neighboring relation.

        Returns:
            The keys ``delta`` and ``epsilon``.

        Raises:
            UnsupportedEvent: If a part cannot be charged; names it.
        """
        require_supported(self.unsupported(event, neighbors))
        found, rest = _apart(event)
        pure = sum(pure_epsilon(leaf, neighbors) * count for leaf, count in found)
        units = charges.cost_units(pure) if pure else 0
        if not flatten(rest):
            return Charge.of({"epsilon": units, "delta": 0})
        accountant, _ = self._accountant(rest, neighbors)
        epsilon = accountant.epsilon(rest, self.delta_per_charge, neighbors)
        units += max(1, charges.units_up(epsilon)) if epsilon.is_finite() else AMOUNT_MAX
        delta_units = charges.units_up(self.delta_per_charge)
        return Charge.of({"epsilon": min(units, AMOUNT_MAX), "delta": delta_units})

    def capacity(self, guarantee: Guarantee) -> Charge:
        """The guarantee itself, rounded down."""
        return Charge.of(
            {
                "epsilon": charges.units_down(guarantee.epsilon) or NEVER,
                "delta": charges.units_down(guarantee.delta),
            }
        )

    def admits(self, *, capacity: Charge, used: Charge, request: Charge) -> bool:
        """Whether both sums fit."""
        return all_fit(capacity, used, request)

    def spent_epsilon(self, *, used: Charge, guarantee: Guarantee) -> Decimal:
        """The sum of epsilons; infinite if the deltas exceed ``guarantee.delta``."""
        capacity = self.capacity(guarantee)
        charges.same_keys(capacity, used)
        if used.as_dict["delta"] > capacity.as_dict["delta"]:
            return EPSILON_INFINITE
        spent = epsilon_of_units(used.as_dict["epsilon"])
        fits = all_fit(capacity, used, zero(self))
        return within(spent, guarantee) if fits else spent

    def to_json(self) -> dict[str, Any]:
        """The delta of one charge."""
        return {"policy": self.name, "deltaPerCharge": decimal_text(self.delta_per_charge)}
