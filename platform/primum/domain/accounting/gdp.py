"""Gaussian differential privacy, exact.

Compositions of unsampled Gaussian mechanisms and nothing else.

It must never use the central-limit approximation for subsampled mechanisms, which under-reports
(privacy-theory.md 1.7); those are refused by name. Paper: Dong, Roth & Su 2022, Corollary 3.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, localcontext

from primum.domain.accounting import accountant as accountants
from primum.domain.accounting import profile
from primum.domain.accounting.events import (
    Event,
    Gaussian,
    IndividuallyFiltered,
    SubsampledGaussian,
    describe,
    flatten,
)
from primum.domain.quantities import Neighbors

_DIGITS = 80  # Every intermediate sum is exact or rounded up at this many digits.


def unsupported_by_gdp(event: Event, neighbors: Neighbors) -> str | None:
    """Why an event has no exact mu, naming the part; ``None`` if it has one.

    Args:
        event: Any event.
        neighbors: The neighboring relation; either is fine.

    Returns:
        The reason or ``None``.
    """
    del neighbors
    for leaf, _ in flatten(event):
        if isinstance(leaf, Gaussian):
            continue
        if isinstance(leaf, SubsampledGaussian) and leaf.sample_rate == 1:
            continue
        if isinstance(leaf, IndividuallyFiltered):
            return (
                f"{describe(leaf)} is bounded at Renyi orders only, which gives no mu; "
                "use RDP accounting."
            )
        return f"{describe(leaf)} is not a Gaussian mechanism over all records; use RDP accounting."
    return None


def squared_mu(event: Event, neighbors: Neighbors) -> Decimal:
    """The sum of squared mu of an event.

    Args:
        event: Unsampled Gaussians, repeated and composed as wanted.
        neighbors: ReplaceOne doubles every mu.

    Returns:
        mu squared, exact up to a last digit that is rounded up.

    Raises:
        UnsupportedEvent: If a part is anything else; names it.
    """
    accountants.require_supported(unsupported_by_gdp(event, neighbors))
    doubled = 4 if neighbors is Neighbors.REPLACE_ONE else 1
    total = Decimal(0)
    with localcontext() as context:
        context.prec = _DIGITS
        context.rounding = ROUND_CEILING
        for leaf, count in flatten(event):
            if isinstance(leaf, Gaussian | SubsampledGaussian):
                total += doubled * count / (leaf.noise_multiplier * leaf.noise_multiplier)
    return total


@dataclass(frozen=True, slots=True)
class GdpAccountant:
    """The exact accountant of unsampled Gaussians."""

    @property
    def name(self) -> str:
        """``GDP``."""
        return "GDP"

    def unsupported(self, event: Event, neighbors: Neighbors) -> str | None:
        """Why this accountant cannot vouch for the event, naming the part; ``None`` if it can."""
        return unsupported_by_gdp(event, neighbors)

    def epsilon(self, event: Event, delta: Decimal, neighbors: Neighbors) -> Decimal:
        """The exact epsilon of a composition of Gaussians.

        Guarantees:
            The event is (epsilon, delta)-DP, and no smaller epsilon differs in more than rounding.

        Args:
            event: Unsampled Gaussians, repeated and composed as wanted.
            delta: Above 0, below 1.
            neighbors: The neighboring relation.

        Returns:
            Epsilon, rounded up to 1e-6.

        Raises:
            UnsupportedEvent: If a part is anything else; names it.
            InvalidValue: If delta is out of range.
        """
        accountants.require_delta(delta)
        mu = math.sqrt(float(squared_mu(event, neighbors)) * (1 + accountants.FLOAT_SLACK))
        return accountants.epsilon_up(profile.gaussian_epsilon(delta=float(delta), psi=mu))
