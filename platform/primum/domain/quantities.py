"""Exact quantities: decimal values with their rules, and the vocabularies a guarantee is stated in.

No floats: a spend rounds up, a cap rounds down, and the function that rounds says so.
"""

from __future__ import annotations

import enum
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, InvalidOperation

from primum.domain.errors import InvalidValue

EPSILON_MAX = Decimal("1000000")  # Beyond it a claim says nothing even about reconstruction.


class PrivacyUnit(enum.StrEnum):
    """Whose presence is protected."""

    PATIENT = "Patient"
    IMAGING_STUDY = "ImagingStudy"
    SERIES = "Series"
    IMAGE = "Image"
    SITE = "Site"


class Neighbors(enum.StrEnum):
    """What two neighboring data sets differ by."""

    ADD_OR_REMOVE_ONE = "AddOrRemoveOne"
    REPLACE_ONE = "ReplaceOne"


class Disclosure(enum.StrEnum):
    """What a steward lets leave the zone without a charge; always listed on the certificate."""

    UTILITY = "Utility"
    CALIBRATION = "Calibration"
    FAIRNESS = "Fairness"


def parse_decimal(field: str, value: object) -> Decimal:
    """A finite decimal from its quoted form.

    Args:
        field: The name to show in the message.
        value: A string such as ``"3.0"`` or ``"1e-5"``, or a ``Decimal``.

    Returns:
        The exact value.

    Raises:
        InvalidValue: If it is a bare number (the quoted form is shown), not a number, or not
            finite.
    """
    if isinstance(value, Decimal):
        number = value
    elif isinstance(value, str):
        try:
            number = Decimal(value.strip())
        except InvalidOperation:
            raise InvalidValue(field, 'must be a quoted decimal such as "3.0"', value) from None
    else:
        raise InvalidValue(
            field,
            "must be a quoted decimal",
            value,
            f'Write {field.rsplit(".", 1)[-1]}: "{value}".',
        )
    if not number.is_finite():
        raise InvalidValue(field, "must be finite", str(value))
    return number


def parse_epsilon(field: str, value: object) -> Decimal:
    """An epsilon: above 0 and at most one million.

    Raises:
        InvalidValue: If it is not.
    """
    number = parse_decimal(field, value)
    if not 0 < number <= EPSILON_MAX:
        raise InvalidValue(field, f"must be above 0 and at most {EPSILON_MAX}", str(value))
    return number


def parse_delta(field: str, value: object) -> Decimal:
    """A delta: above 0 and below 1.

    Raises:
        InvalidValue: If it is not.
    """
    number = parse_decimal(field, value)
    if not 0 < number < 1:
        raise InvalidValue(field, "must be above 0 and below 1", str(value))
    return number


def round_up(value: Decimal, places: int) -> Decimal:
    """The value rounded towards plus infinity: for spends and noise."""
    return value.quantize(Decimal(1).scaleb(-places), rounding=ROUND_CEILING)


def round_down(value: Decimal, places: int) -> Decimal:
    """The value rounded towards minus infinity: for caps and what is left."""
    return value.quantize(Decimal(1).scaleb(-places), rounding=ROUND_FLOOR)
