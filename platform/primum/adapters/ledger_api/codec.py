"""Values of the ports as JSON and back, by the types that the ports declare.

One codec for every method: frozen classes travel field by field, numbers without rounding, and what
has a canonical form travels in that. Reading is strict: a missing, unknown or mistyped field is
refused, and every class checks its own rules again when it is made.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from primum.application import ports
from primum.domain.accounting.events import Event, event_from_json
from primum.domain.budget import entries, lines, rules
from primum.domain.errors import InvalidValue, PrimumError
from primum.domain.governance import evidence
from primum.domain.study import plan, steps


class _AnEvent:
    """Stands for ``Event`` in annotations: a union that has its own canonical form."""


# Aliases that are no types by themselves: JSON is passed on as it is.
_SPOKEN: Mapping[str, Any] = {"Event": _AnEvent, "JSON": Any}
# What the ports' annotations name; the ports themselves import it for type checkers only.
_NAMES: Mapping[str, Any] = {
    **{
        kind.__name__: kind
        for kind in (
            entries.AccountTerms,
            entries.AccountView,
            entries.Entry,
            entries.Outlook,
            entries.ReservationView,
            entries.ReserveRequest,
            entries.Result,
            entries.RoundView,
            lines.Line,
            rules.Asker,
            rules.Rules,
            evidence.Evidence,
            plan.Plan,
            steps.StepOutcome,
        )
    },
    **_SPOKEN,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """Who asks, as far as quotas look at it."""

    requester: str
    group: str
    study: str
    purpose: str


_CANONICAL: Mapping[Any, Callable[[Any], Any]] = {
    evidence.Evidence: evidence.evidence_from_json,
    plan.Plan: plan.plan_from_json,
    steps.StepOutcome: steps.outcome_from_json,
}
_EVENTS = frozenset(typing.get_args(Event))
_PLAIN = (str, int, float, bool, type(None))


def encode_as(kind: Any, value: Any) -> Any:
    """A value as JSON, of which only what a declared type shows is meant.

    Raises:
        InvalidValue: If it is of a kind that no port declares.
    """
    if value is not None and rules.Asker in (kind, *typing.get_args(kind)):
        value = Known(value.requester, value.group, value.study, value.purpose)
    return encode(value)


def encode(value: object) -> Any:
    """A value of a port as JSON.

    Raises:
        InvalidValue: If it is of a kind that no port declares.
    """
    kind = type(value)
    if kind in _CANONICAL or kind in _EVENTS:
        return value.to_json()  # type: ignore[attr-defined]
    if kind in _PLAIN:
        return value
    if isinstance(value, enum.Enum | Decimal):
        return str(value)
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: encode(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(name): encode(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    raise InvalidValue("value", "must be one that a port declares", kind.__name__)


def decode(kind: Any, value: Any, *, name: str = "value") -> Any:
    """The value of a declared type that ``encode`` wrote.

    Args:
        kind: The declared type.
        value: JSON.
        name: What it is called in messages.

    Raises:
        InvalidValue: If it is not of that type.
    """
    try:
        return _decode(kind, value)
    except PrimumError:
        raise
    except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        rule = "must be of its declared type"
        raise InvalidValue(name, rule, type(error).__name__) from None


def types_of(function: Callable[..., Any]) -> Mapping[str, Any]:
    """The types of a port's method by parameter, ``return`` among them."""
    return typing.get_type_hints(function, localns=dict(_NAMES))


def _decode(kind: Any, value: Any) -> Any:  # noqa: PLR0911 - one line per sort of type
    if kind is _AnEvent:
        return event_from_json(value)
    if kind is Any:
        return value
    if kind in _CANONICAL:
        return _CANONICAL[kind](value)
    if kind is rules.Asker:
        return _decode(Known, value)
    origin = typing.get_origin(kind)
    if origin is not None:
        return _generic(origin, typing.get_args(kind), value)
    if kind is Decimal:
        return _decimal(value)
    if kind in (int, float):
        return _number(kind, value)
    if kind in _PLAIN or issubclass(kind, enum.Enum):
        return _exact(kind, value)
    return _record(kind, value)


def _generic(origin: Any, inner: Sequence[Any], value: Any) -> Any:
    if origin in (typing.Union, types.UnionType):
        (one,) = [kind for kind in inner if kind is not type(None)]
        return None if value is None else _decode(one, value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {name: _decode(inner[1], item) for name, item in _of(dict, value).items()}
    items = _of(list, value)
    if origin is tuple and inner[-1] is not Ellipsis:
        return tuple(_decode(kind, item) for kind, item in zip(inner, items, strict=True))
    return tuple(_decode(inner[0], item) for item in items)


def _record(kind: Any, value: Any) -> Any:
    hints = _hints(kind)
    found = _of(dict, value) if dataclasses.is_dataclass(kind) else _listed(hints, value)
    if found.keys() != hints.keys():
        raise TypeError("other fields than declared")
    return kind(**{name: decode(hint, found[name], name=name) for name, hint in hints.items()})


def _listed(hints: Mapping[str, Any], value: Any) -> dict[str, Any]:
    """A named tuple travels as a list."""
    return dict(zip(hints, _of(list, value), strict=True))


@functools.cache
def _hints(kind: Any) -> Mapping[str, Any]:
    local = _NAMES if kind.__module__ == ports.__name__ else _SPOKEN
    module = vars(sys.modules[kind.__module__])
    return typing.get_type_hints(kind, globalns=dict(module), localns=dict(local))


def _decimal(value: Any) -> Decimal:
    try:
        return Decimal(_of(str, value))
    except InvalidOperation:
        raise TypeError("no decimal number") from None


def _number(kind: type, value: Any) -> Any:
    if type(value) not in (int, kind):
        raise TypeError("no number")
    return kind(value)


def _exact(kind: Any, value: Any) -> Any:
    return kind(value) if issubclass(kind, enum.Enum) else _of(kind, value)


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError("another type")
    return value
