"""Parameters of an audit, as the Study gives them: checked, bounded, with safe defaults. Light."""

from __future__ import annotations

from collections.abc import Mapping

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue


def whole(parameters: Mapping[str, JSON], name: str, *, default: int, low: int, high: int) -> int:
    """A whole-number parameter of an audit.

    Raises:
        InvalidValue: If it is not a whole number in range.
    """
    value = parameters.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidValue(
            f"spec.audits.{name}", f"must be a whole number from {low} to {high}", value
        )
    return value
