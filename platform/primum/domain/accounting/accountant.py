"""What an accountant is, and the guarantee it is asked about.

An accountant turns an event into the epsilon it costs at a given delta, **if the event was fixed in
advance** (privacy-theory.md, 1.13). It must not decide whether a budget admits the event; the
filters in ``policies`` do. Every figure is rounded up, so that what is reported is never less than
what was lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from primum.domain.accounting.events import Event
from primum.domain.errors import InvalidValue, UnsupportedEvent
from primum.domain.quantities import EPSILON_MAX, Neighbors, round_up

EPSILON_PLACES = 6  # Reported epsilons are multiples of 1e-6, rounded up.
EPSILON_INFINITE = Decimal("Infinity")
DELTA_MIN = Decimal("1E-300")  # Logarithms of a smaller delta leave the range of a float.
FLOAT_SLACK = 1e-9  # Relative; floating-point error of every formula here stays far below it.


@dataclass(frozen=True, slots=True)
class Guarantee:
    """An (epsilon, delta) pair. The neighbors and the privacy unit are named beside it.

    Never assumed.

    Args:
        epsilon: Above 0, at most one million.
        delta: Above 0, below 1; 0 is no guarantee that noise with Gaussian tails can give.
    """

    epsilon: Decimal
    delta: Decimal

    def __post_init__(self) -> None:
        if not isinstance(self.epsilon, Decimal) or not self.epsilon.is_finite():
            raise InvalidValue("epsilon", "must be a finite decimal", self.epsilon)
        if not 0 < self.epsilon <= EPSILON_MAX:
            raise InvalidValue(
                "epsilon", f"must be above 0 and at most {EPSILON_MAX}", self.epsilon
            )
        require_delta(self.delta)


class Accountant(Protocol):
    """Computes what an event costs if it was fixed in advance."""

    @property
    def name(self) -> str:
        """A stable name, recorded with every figure."""
        ...

    def unsupported(self, event: Event, neighbors: Neighbors) -> str | None:
        """Why this accountant cannot vouch for the event, naming the part; ``None`` if it can."""
        ...

    def epsilon(self, event: Event, delta: Decimal, neighbors: Neighbors) -> Decimal:
        """The epsilon at ``delta``, rounded up to 1e-6.

        Raises:
            UnsupportedEvent: If ``unsupported`` gives a reason.
        """
        ...


def require_delta(delta: object) -> None:
    """Refuse a delta that is not a decimal strictly between 0 and 1.

    Raises:
        InvalidValue: If so.
    """
    if not isinstance(delta, Decimal) or not delta.is_finite() or not DELTA_MIN <= delta < 1:
        raise InvalidValue("delta", "must be a decimal above 0 and below 1", delta)


def require_supported(reason: str | None) -> None:
    """Raise the reason that an accountant or a policy gave.

    Raises:
        UnsupportedEvent: If there is a reason.
    """
    if reason is not None:
        raise UnsupportedEvent(reason)


def epsilon_up(value: float) -> Decimal:
    """A computed epsilon as the decimal to report.

    Floating-point slack added, then rounded up to 1e-6.

    Args:
        value: At least 0; may be infinite.

    Returns:
        A decimal not below the exact value that the float approximates.
    """
    if value <= 0:
        return Decimal(0)
    if not math.isfinite(value) or value > float(EPSILON_MAX):
        return EPSILON_INFINITE
    return round_up(Decimal(value * (1 + FLOAT_SLACK)), EPSILON_PLACES)
