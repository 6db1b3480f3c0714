"""Parameters of an audit, as the Study gives them: checked, bounded, with safe defaults. Light."""

from __future__ import annotations

from collections.abc import Mapping

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue

_DIGITS_MAX = 18  # More is out of every range.


def whole(parameters: Mapping[str, JSON], name: str, *, default: int, low: int, high: int) -> int:
    """A whole-number parameter of an audit, as a number or as text of one.

    Raises:
        InvalidValue: If it is not a whole number in range.
    """
    value = parameters.get(name, default)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:_DIGITS_MAX])
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidValue(
            f"spec.audits.{name}", f"must be a whole number from {low} to {high}", value
        )
    return value


def choice(
    parameters: Mapping[str, JSON], name: str, *, default: str, options: tuple[str, ...]
) -> str:
    """A parameter that is one of a few words.

    Raises:
        InvalidValue: If it is another.
    """
    value = parameters.get(name, default)
    if value not in options:
        rule = f"must be one of {', '.join(options)}"
        raise InvalidValue(f"spec.audits.parameters.{name}", rule, value)
    return str(value)
