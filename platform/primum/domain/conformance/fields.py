"""Fields of a foreign record, read strictly: exact numbers, no unknown names, no defaults by luck.

``snake_case`` and ``camelCase`` name the same field. A field that nobody knows is refused, because
a misspelled ``restarts`` would hide what happened.
"""

from __future__ import annotations

import difflib
import enum
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

from primum.domain.errors import InvalidValue

TEXT_MAX = 10_000_000  # Characters of one record; a history of a million phases is no record.
STEPS_MAX = 10**9
NUMBER_MAX = Decimal("1E+12")
DIGITS_MAX = 40  # Decimal digits of one number; more is no measurement.
NAME_MAX = 500  # Characters of a name or a comment.
_EXPONENT_MIN = -300

Choice = TypeVar("Choice", bound=enum.StrEnum)


def decoded(text: str) -> Any:
    """JSON with exact numbers; refuses NaN, infinities and a field given twice.

    Raises:
        InvalidValue: If it is not such JSON.
    """
    if len(text) > TEXT_MAX:
        raise InvalidValue("record", f"must have at most {TEXT_MAX} characters", len(text))
    try:
        return json.loads(
            text, parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=_once
        )
    except (ValueError, InvalidOperation, RecursionError) as error:
        raise InvalidValue(
            "record", "must be JSON", type(error).__name__, "See docs/conformance.md."
        ) from None


def _no_constant(text: str) -> None:
    raise InvalidValue("record", "must hold finite numbers only", text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InvalidValue(key, "must be given once", "twice")
        found[key] = value
    return found


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


class Fields:
    """The fields of one JSON object; remembers which were read.

    Args:
        value: The object.
        path: Its name in messages.
    """

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, Mapping):
            raise InvalidValue(path, "must be an object", type(value).__name__)
        self._path = path
        self._values: dict[str, Any] = {}
        for key, item in value.items():
            name = _camel(str(key))
            if name in self._values:
                raise InvalidValue(f"{path}.{key}", "must be given once", "two spellings")
            self._values[name] = item
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def name(self, field: str) -> str:
        """A field's name in messages."""
        return f"{self._path}.{field}"

    def raw(self, field: str) -> Any:
        """A field as it is, or ``None``."""
        self._read.add(field)
        return self._values.get(field)

    def required(self, field: str, remedy: str = "") -> Any:
        """A field as it is.

        Raises:
            InvalidValue: If it is missing.
        """
        value = self.raw(field)
        if value is None:
            raise InvalidValue(self.name(field), "must be present", "nothing", remedy)
        return value

    def decimal(self, field: str, *, high: Decimal = NUMBER_MAX) -> Decimal:
        """A required finite number, bare or quoted, from 0 to ``high``."""
        return number(self.name(field), self.required(field), high=high)

    def decimal_or_none(self, field: str) -> Decimal | None:
        """The same, or ``None`` where the record leaves it out."""
        return self.decimal(field) if field in self else self.raw(field)

    def whole(self, field: str, *, low: int = 1) -> int:
        """A required whole number of at least ``low``."""
        return whole(self.name(field), self.required(field), low=low)

    def whole_or_none(self, field: str, *, low: int = 1) -> int | None:
        """The same, or ``None`` where the record leaves it out."""
        return self.whole(field, low=low) if field in self else self.raw(field)

    def choice(self, field: str, kind: type[Choice], default: Choice | None = None) -> Choice:
        """One of a closed set, in any case and with or without underscores."""
        value = self.raw(field)
        if value is None and default is not None:
            return default
        known = {_plain(member.value): member for member in kind}
        found = known.get(_plain(value)) if isinstance(value, str) else None
        if found is None:
            rule = f"must be one of {', '.join(kind)}"
            shown = "nothing" if value is None else value
            raise InvalidValue(self.name(field), rule, shown)
        return found

    def truth(self, field: str) -> bool:
        """A required true or false."""
        value = self.required(field)
        if not isinstance(value, bool):
            raise InvalidValue(self.name(field), "must be true or false", value)
        return value

    def text(self, field: str, default: str) -> str:
        """A text for people."""
        value = self.raw(field)
        if value is None:
            return default
        return printable(self.name(field), value)

    def child(self, field: str, remedy: str = "") -> Fields:
        """A required object."""
        return Fields(self.required(field, remedy), self.name(field))

    def items(self, field: str) -> Sequence[Any]:
        """A list; empty where the record leaves it out."""
        value = self.raw(field)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise InvalidValue(self.name(field), "must be a list", type(value).__name__)
        return value

    def finish(self) -> None:
        """Refuse what nobody has read.

        Raises:
            InvalidValue: If a field is unknown; names the closest known one.
        """
        for field in self._values:
            if field not in self._read:
                close = difflib.get_close_matches(field, self._read, n=1)
                remedy = f"Did you mean {close[0]}?" if close else "Remove it."
                raise InvalidValue(self.name(field), "must be a known field", field, remedy)


def _plain(text: str) -> str:
    return text.replace("_", "").replace("-", "").lower()


def printable(field: str, value: object) -> str:
    """A text that may be shown on a terminal.

    Raises:
        InvalidValue: If it is none, or too long.
    """
    if not isinstance(value, str) or not value.isprintable() or len(value) > NAME_MAX:
        rule = f"must be a printable text of at most {NAME_MAX} characters"
        raise InvalidValue(field, rule, repr(value))
    return value


def number(field: str, value: object, *, high: Decimal = NUMBER_MAX) -> Decimal:
    """A finite number from a JSON number or a quoted decimal.

    Raises:
        InvalidValue: If it is none, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise InvalidValue(field, "must be a number", value)
    try:
        found = Decimal(value)
    except InvalidOperation:
        raise InvalidValue(field, "must be a number", value) from None
    if not found.is_finite() or not 0 <= found <= high:
        raise InvalidValue(field, f"must be a number from 0 to {high}", str(found))
    if found and found.adjusted() < _EXPONENT_MIN:
        raise InvalidValue(field, f"must be 0 or at least 1E{_EXPONENT_MIN}", str(found))
    if len(found.as_tuple().digits) > DIGITS_MAX:
        raise InvalidValue(field, f"must have at most {DIGITS_MAX} digits", str(found))
    return found


def whole(field: str, value: object, *, low: int = 1) -> int:
    """A whole number of at least ``low``.

    Raises:
        InvalidValue: If it is none, or out of range.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= STEPS_MAX:
        raise InvalidValue(field, f"must be a whole number from {low} to {STEPS_MAX}", value)
    return value
