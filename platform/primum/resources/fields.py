"""Field types that the resource models share: bounded text, quoted decimals, names.

Every type carries its rule twice: as JSON Schema, for the API server, and as a check with a
sentence for people. Nothing here knows a particular kind.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from primum.domain.quantities import EPSILON_MAX

BROKEN_RULE = (
    "broken_rule"  # Type of every error raised by our own checks; carries rule, found and remedy.
)

DECIMAL_PATTERN = r"^[0-9]{1,9}(\.[0-9]{1,18})?([eE][-+]?[0-9]{1,2})?$"
SIGNED_DECIMAL_PATTERN = r"^-?[0-9]{1,9}(\.[0-9]{1,18})?([eE][-+]?[0-9]{1,2})?$"
_SIGNED = re.compile(SIGNED_DECIMAL_PATTERN)
LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
WORD_PATTERN = r"^[A-Z][A-Za-z0-9]{0,62}$"
# A resource can be read by many: an authority with user:password@ does not belong into it.
URI_PATTERN = r"^[a-z][a-z0-9+.-]{0,30}://([^\s/@]{1,255}(/[^\s]{0,220})?|/[^\s]{1,440})$"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
WEIGHT_PATTERN = r"^(0(\.[0-9]{1,6})?|1(\.0{1,6})?)$"  # Portions of a budget stay exact in 64 bits.
DATE_PATTERN = r"^(1[89]|2[0-9])[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"
CRON_PATTERN = r"^[0-9*/,-]{1,24}( [0-9*/,-]{1,24}){2}( [0-9A-Z*/,-]{1,24}){2}$"

DECIMAL_LENGTH_MAX = 32  # 9 digits, a point, 18 digits and an exponent.
TEXT_LENGTH_MAX = 1024  # One screen of prose; a resource is not a document store.


class Part(BaseModel):
    """Base of every part of a resource: frozen, camelCase outside, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        validate_by_alias=True,
        validate_by_name=True,
        defer_build=True,  # A process that reads one kind does not pay for five.
    )


def cel(rule: str, message: str) -> dict[str, str]:
    """One rule of ``x-kubernetes-validations``.

    Args:
        rule: The CEL expression over ``self`` (and ``oldSelf``, for a transition).
        message: What the API server says where it does not hold.
    """
    return {"rule": rule, "message": message}


def with_rules(*rules: dict[str, str]) -> dict[str, Any]:
    """JSON Schema extras that carry CEL rules."""
    return {"x-kubernetes-validations": list(rules)}


def broken(rule: str, found: object, remedy: str = "") -> PydanticCustomError:
    """The error of a broken rule, as ``loading`` turns it into a sentence.

    Args:
        rule: What must hold, starting with ``must``.
        found: What was found; configuration that anyone may see.
        remedy: How to put it right; ``{field}`` stands for the field's own name.
    """
    context = {"rule": rule, "found": found, "remedy": remedy}
    return PydanticCustomError(BROKEN_RULE, "{rule}; found {found}. {remedy}", context)


def refuse_repeats(items: Sequence[object], rule: str) -> None:
    """Refuse a list that names something twice.

    Raises:
        PydanticCustomError: With the first repeated item.
    """
    seen: set[object] = set()
    for item in items:
        if item in seen:
            raise broken(rule, str(item))
        seen.add(item)


def _text(pattern: str, rule: str, length_max: int) -> Callable[[object], object]:
    compiled = re.compile(pattern)

    def check(value: object) -> object:
        if not isinstance(value, str):
            raise broken("must be text", value, "Quote it.")
        if len(value) > length_max or not compiled.fullmatch(value):
            raise broken(rule, value)
        return value

    return check


def _decimal(
    pattern: str, in_range: Callable[[Decimal], bool], rule: str
) -> Callable[[object], object]:
    compiled = re.compile(pattern)

    def check(value: object) -> object:
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise broken("must be a quoted decimal", value, f'Write {{field}}: "{value}".')
        if (
            not isinstance(value, str)
            or len(value) > DECIMAL_LENGTH_MAX
            or not compiled.fullmatch(value)
        ):
            if isinstance(value, str) and _SIGNED.fullmatch(value):
                raise broken(rule, value)  # It is a number; the rule says which are taken.
            raise broken('must be a quoted decimal such as "3.0" or "1e-5"', value)
        if not in_range(Decimal(value)):
            raise broken(rule, value)
        return value

    return check


def _decimal_schema(*rules: dict[str, str], pattern: str = DECIMAL_PATTERN) -> Any:
    extra = with_rules(*rules) if rules else None
    return Field(
        pattern=pattern, max_length=DECIMAL_LENGTH_MAX, min_length=1, json_schema_extra=extra
    )


def _text_schema(pattern: str, length_max: int) -> Any:
    return Field(pattern=pattern, max_length=length_max, min_length=1)


def _day(value: object) -> object:
    checked = _text(DATE_PATTERN, _DATE_RULE, 10)(value)
    try:
        datetime.date.fromisoformat(str(checked))
    except ValueError:
        raise broken(_DATE_RULE, value) from None
    return checked


_EPSILON_RULE = f"must be above 0 and at most {EPSILON_MAX}"
_NOT_NEGATIVE_RULE = "must be at least 0"
_WEIGHT_RULE = 'must be a quoted decimal from "0" to "1" with at most 6 digits after the point'
_DATE_RULE = 'must be a day such as "2026-01-01", in the years 1800 to 2999'
_DELTA_RULE = "must be above 0 and below 1"
_POSITIVE_RULE = "must be above 0"
_NAME_RULE = "must be a DNS label (a-z, 0-9, '-', at most 63 characters)"
_WORD_RULE = "must be one CamelCase word"
_URI_RULE = "must be scheme://path without spaces and credentials, at most 512 characters"
_DIGEST_RULE = "must be sha256: and 64 hexadecimal digits"
_CRON_RULE = "must be a cron schedule of five fields"
_PROSE_RULE = f"must have 1 to {TEXT_LENGTH_MAX} characters"

Epsilon: TypeAlias = Annotated[
    str,
    _decimal_schema(
        cel(f"double(self) > 0.0 && double(self) <= {EPSILON_MAX}.0", f"epsilon {_EPSILON_RULE}")
    ),
    BeforeValidator(
        _decimal(DECIMAL_PATTERN, lambda number: 0 < number <= EPSILON_MAX, _EPSILON_RULE)
    ),
]
Delta: TypeAlias = Annotated[
    str,
    _decimal_schema(cel("double(self) > 0.0 && double(self) < 1.0", f"delta {_DELTA_RULE}")),
    BeforeValidator(_decimal(DECIMAL_PATTERN, lambda number: 0 < number < 1, _DELTA_RULE)),
]
PositiveDecimal: TypeAlias = Annotated[
    str,
    _decimal_schema(cel("double(self) > 0.0", f"the value {_POSITIVE_RULE}")),
    BeforeValidator(_decimal(DECIMAL_PATTERN, lambda number: number > 0, _POSITIVE_RULE)),
]
UnitInterval: TypeAlias = Annotated[
    str,
    _decimal_schema(
        cel("double(self) >= 0.0 && double(self) < 1.0", "the value must be at least 0 and below 1")
    ),
    BeforeValidator(
        _decimal(DECIMAL_PATTERN, lambda number: 0 <= number < 1, "must be at least 0 and below 1")
    ),
]
Weight: TypeAlias = Annotated[
    str,
    _text_schema(WEIGHT_PATTERN, 8),
    BeforeValidator(_text(WEIGHT_PATTERN, _WEIGHT_RULE, 8)),
]
NonNegativeDecimal: TypeAlias = Annotated[
    str,
    _decimal_schema(cel("double(self) >= 0.0", f"the value {_NOT_NEGATIVE_RULE}")),
    BeforeValidator(_decimal(DECIMAL_PATTERN, lambda number: number >= 0, _NOT_NEGATIVE_RULE)),
]
Share: TypeAlias = Annotated[
    str,
    _decimal_schema(
        cel(
            "double(self) > 0.0 && double(self) <= 1.0",
            "the value must be above 0 and at most 1",
        )
    ),
    BeforeValidator(
        _decimal(DECIMAL_PATTERN, lambda number: 0 < number <= 1, "must be above 0 and at most 1")
    ),
]
SignedDecimal: TypeAlias = Annotated[
    str,
    _decimal_schema(pattern=SIGNED_DECIMAL_PATTERN),
    BeforeValidator(
        _decimal(SIGNED_DECIMAL_PATTERN, lambda number: number.is_finite(), "must be finite")
    ),
]
Name: TypeAlias = Annotated[
    str, _text_schema(LABEL_PATTERN, 63), BeforeValidator(_text(LABEL_PATTERN, _NAME_RULE, 63))
]
Word: TypeAlias = Annotated[
    str, _text_schema(WORD_PATTERN, 63), BeforeValidator(_text(WORD_PATTERN, _WORD_RULE, 63))
]
Uri: TypeAlias = Annotated[
    str, _text_schema(URI_PATTERN, 512), BeforeValidator(_text(URI_PATTERN, _URI_RULE, 512))
]
Digest: TypeAlias = Annotated[
    str, _text_schema(DIGEST_PATTERN, 71), BeforeValidator(_text(DIGEST_PATTERN, _DIGEST_RULE, 71))
]
Cron: TypeAlias = Annotated[
    str, _text_schema(CRON_PATTERN, 128), BeforeValidator(_text(CRON_PATTERN, _CRON_RULE, 128))
]
Day: TypeAlias = Annotated[
    str,
    # Text of one length in this order sorts as days do, so that CEL may compare it.
    Field(pattern=DATE_PATTERN, min_length=10, max_length=10, json_schema_extra={"format": "date"}),
    BeforeValidator(_day),
]
Prose: TypeAlias = Annotated[
    str,
    Field(min_length=1, max_length=TEXT_LENGTH_MAX),
    BeforeValidator(_text(r"(?s).+", _PROSE_RULE, TEXT_LENGTH_MAX)),
]
ShortText: TypeAlias = Annotated[
    str,
    Field(min_length=1, max_length=256),
    BeforeValidator(_text(r"(?s).+", "must have 1 to 256 characters", 256)),
]
Count: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)]
ParameterText: TypeAlias = Annotated[str, Field(max_length=256)]
Parameters: TypeAlias = Annotated[dict[str, ParameterText], Field(max_length=32)]
