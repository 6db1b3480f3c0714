"""How batch size and epochs become a sampling rate and steps. Light; all of it is public."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

_RATE_PLACES = Decimal(
    "1E-6"
)  # Rates are multiples of 1e-6, rounded up: executed is what was planned.


def rate_of(batch_size: int, *, units: int) -> Decimal:
    """The probability that a unit is drawn for a step, rounded up.

    Args:
        batch_size: Expected units of a batch, from 1 to ``units``.
        units: Public number of training units.
    """
    return (Decimal(batch_size) / units).quantize(_RATE_PLACES, ROUND_CEILING)


def steps_of(epochs: int, *, sample_rate: Decimal) -> int:
    """Steps in which a unit is drawn so many times on average, rounded up."""
    return int((epochs / sample_rate).to_integral_value(ROUND_CEILING))
