"""Charges: what a plan takes from a budget, in the whole units in which a ledger counts.

A charge has one amount per key of its policy (an order, a squared mu, an epsilon or a delta). It
must not hold a
float: amounts are integers in units of 1e-12; spends were rounded up and capacities down before
    they came here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext

from primum.domain.errors import InvalidValue

UNITS_PER_ONE = 10**12  # One nat, or a squared mu or a delta of one.
NEVER = -1  # A capacity that admits nothing, not even a charge of 0.
AMOUNT_MAX = (
    4 * 10**18
)  # Above every capacity (at most about 2e18); larger costs are stored as this.
COST_SLACK = 1e-10  # Relative; added to a computed cost to cover floating-point error.
_DIGITS = 80  # Exact arithmetic of decimals here.


@dataclass(frozen=True, slots=True)
class Charge:
    """Amounts by key, in units of 1e-12.

    A cost of ``AMOUNT_MAX`` or more is stored as ``AMOUNT_MAX``: it exceeds every capacity by
    itself, so its key admits nothing more, exactly as with the true cost.

    Args:
        amounts: Sorted by key, each key once. Costs are at least 0; a capacity may be ``NEVER``.
    """

    amounts: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        before = None
        for key, amount in self.amounts:  # One pass: a replay makes a charge per entry.
            if before is not None and key <= before:
                keys = [name for name, _ in self.amounts]
                raise InvalidValue("amounts", "must be sorted by key, each key once", keys)
            if type(amount) is not int or amount < NEVER:
                raise InvalidValue(f"amounts[{key}]", "must be a whole number from 0", amount)
            before = key

    @classmethod
    def of(cls, amounts: Mapping[str, int]) -> Charge:
        """A charge from a mapping in any order."""
        return cls(tuple(sorted(amounts.items())))

    @property
    def as_dict(self) -> dict[str, int]:
        """The amounts by key."""
        return dict(self.amounts)

    @property
    def is_zero(self) -> bool:
        """Whether every amount is 0."""
        return all(amount == 0 for _, amount in self.amounts)

    @property
    def emptied(self) -> Charge:
        """The charge of nothing with the same keys."""
        return Charge(tuple([(key, 0) for key, _ in self.amounts]))

    def __add__(self, other: Charge) -> Charge:
        pairs = zip(self.amounts, other.amounts, strict=False)
        total = [(key, left + right) for (key, left), (same, right) in pairs if key == same]
        if not len(total) == len(self.amounts) == len(other.amounts):
            same_keys(self, other)
        return Charge(tuple(total))

    def to_json(self) -> dict[str, str]:
        """Amounts as strings of digits: JSON readers that use floats must not round them."""
        return {key: str(amount) for key, amount in self.amounts}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Charge:
        """The charge that ``to_json`` gave.

        Raises:
            InvalidValue: If an amount is not a string of digits.
        """
        amounts: dict[str, int] = {}
        for key, text in value.items():
            if not isinstance(text, str) or not text.removeprefix("-").isdecimal():
                raise InvalidValue(f"amounts[{key}]", "must be a string of digits", text)
            amounts[key] = int(text)
        return cls.of(amounts)


def same_keys(*charges: Charge) -> None:
    """Refuse to mix charges of different policies or grids.

    Raises:
        InvalidValue: If the keys differ.
    """
    keys = [[key for key, _ in charge.amounts] for charge in charges]
    for other in keys[1:]:
        if other != keys[0]:
            raise InvalidValue("charge", f"must have the keys {keys[0]}", other)


def cost_units(value: float) -> int:
    """A computed cost in units, rounded up, with the floating-point slack on top.

    Args:
        value: The cost of an event that did touch private data, at least 0; may be infinite.

    Returns:
        At least 1, so that nothing that costs rounds to nothing; at most ``AMOUNT_MAX``.

    Raises:
        InvalidValue: If the value is negative or not a number.
    """
    if math.isnan(value) or value < 0:
        raise InvalidValue("cost", "must be at least 0", value)
    scaled = value * (1 + COST_SLACK) * UNITS_PER_ONE
    if scaled >= AMOUNT_MAX:
        return AMOUNT_MAX
    return max(1, math.ceil(scaled))


def units_up(value: Decimal) -> int:
    """An exact decimal in units, rounded up."""
    return _units(value, ROUND_CEILING)


def units_down(value: Decimal) -> int:
    """An exact decimal in units, rounded down."""
    return _units(value, ROUND_FLOOR)


def _units(value: Decimal, rounding: str) -> int:
    with localcontext() as context:
        context.prec = _DIGITS
        scaled = value * UNITS_PER_ONE
        return int(scaled.to_integral_value(rounding=rounding))


def decimal_of_units(units: int) -> Decimal:
    """The exact decimal that a number of units stands for."""
    with localcontext() as context:
        context.prec = _DIGITS
        return Decimal(units) / UNITS_PER_ONE
