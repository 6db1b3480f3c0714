"""Pure differential privacy.

Mechanisms whose epsilon holds with delta 0, and basic composition of them.

It must not give a pure epsilon to anything with Gaussian noise; those are refused by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from primum.domain.accounting import accountant as accountants
from primum.domain.accounting.events import (
    Event,
    IndividuallyFiltered,
    Laplace,
    LibraryEvent,
    NonPrivate,
    RandomizedResponse,
    describe,
    flatten,
)
from primum.domain.errors import UnsupportedEvent
from primum.domain.quantities import Neighbors

_PURE = ("Laplace", "DiscreteLaplace")  # Events of the library that are pure whatever surrounds.


def is_pure(leaf: Event) -> bool:
    """Whether a mechanism has a finite epsilon at delta 0."""
    if isinstance(leaf, LibraryEvent):
        return leaf.name in _PURE
    return isinstance(leaf, Laplace | RandomizedResponse)


def pure_epsilon(leaf: Event, neighbors: Neighbors) -> float:
    """The epsilon of a mechanism with pure differential privacy.

    Args:
        leaf: A Laplace or randomized-response event, or the library's Laplace noise.
        neighbors: Doubles the Laplace sensitivity under ReplaceOne.

    Returns:
        Nats.

    Raises:
        UnsupportedEvent: For any other event.
    """
    doubled = 2 if neighbors is Neighbors.REPLACE_ONE else 1
    match leaf:
        case Laplace():
            return doubled / float(leaf.noise_multiplier)
        case RandomizedResponse():
            wrong = float(leaf.flip_probability) / leaf.buckets
            return math.log((1 - float(leaf.flip_probability) + wrong) / wrong)
        case LibraryEvent() if leaf.name in _PURE:
            values: dict[str, Any] = leaf.fields
            if leaf.name == "Laplace":
                return doubled / float(values["noise_multiplier"])
            # The masses of two shifts differ by e^(parameter x shift) at most.
            return doubled * float(values["noise_parameter"]) * int(values["sensitivity"])
        case _:
            raise UnsupportedEvent(f"{describe(leaf)} has no pure guarantee.")


@dataclass(frozen=True, slots=True)
class BasicAccountant:
    """Sums the epsilons of pure mechanisms."""

    @property
    def name(self) -> str:
        """``Basic``."""
        return "Basic"

    def unsupported(self, event: Event, neighbors: Neighbors) -> str | None:
        """Why this accountant cannot vouch for the event, naming the part; ``None`` if it can."""
        for leaf, _ in flatten(event):
            if isinstance(leaf, NonPrivate):
                return f"{describe(leaf)} has no finite privacy cost."
            if not is_pure(leaf):
                other = "RDP" if isinstance(leaf, IndividuallyFiltered) else "RDP or PLD"
                return f"{describe(leaf)} has no pure guarantee; use {other} accounting."
            if isinstance(leaf, RandomizedResponse) and neighbors is Neighbors.ADD_OR_REMOVE_ONE:
                return (
                    f"{describe(leaf)} reveals who answered; it is private under ReplaceOne only."
                )
        return None

    def epsilon(self, event: Event, delta: Decimal, neighbors: Neighbors) -> Decimal:
        """The sum of pure epsilons, which holds at every delta.

        Guarantees:
            The event is (epsilon, 0)-DP, hence (epsilon, delta)-DP.

        Args:
            event: Pure mechanisms, repeated and composed as wanted.
            delta: Above 0, below 1.
            neighbors: The neighboring relation.

        Returns:
            Epsilon, rounded up to 1e-6.

        Raises:
            UnsupportedEvent: If a part is not pure; names it.
            InvalidValue: If delta is out of range.
        """
        accountants.require_delta(delta)
        accountants.require_supported(self.unsupported(event, neighbors))
        total = sum(pure_epsilon(leaf, neighbors) * count for leaf, count in flatten(event))
        return accountants.epsilon_up(total)
