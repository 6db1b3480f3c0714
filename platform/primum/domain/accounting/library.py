"""Events of the dp-accounting library, carried in its own terms.

For mechanisms that have no event of their own here. The names, fields and meanings are those of the
library's ``dp_event`` classes (``class_name``); a closed list, written down here so
that a record keeps its meaning whatever version is installed. Nothing here may import the library,
default a parameter, or say what an event costs; ``library_costs`` does.

As everywhere in ``events``, noise is stated relative to the **add-or-remove-one** sensitivity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

from primum.domain.accounting.mechanisms import (
    BUCKETS_MAX,
    DIGITS_MAX,
    NOISE_MULTIPLIER_MAX,
    NOISE_MULTIPLIER_MIN,
    SAMPLE_RATE_MIN,
    decimal_text,
    require_int,
)
from primum.domain.errors import InvalidValue, UnsupportedEvent

NESTING_MAX = 6  # Library events inside one another; a sampled composition has three.
NODES_MAX = 64  # Library events in one event altogether.
LIST_MAX = 64  # Entries of a list of numbers.
SIZE_MAX = 10**12  # Records of a data set.
PROBABILITY_SLACK = Decimal("1E-9")  # What the probabilities of a mixture may lack of 1.

_TINY, _BIG = Decimal("1E-24"), Decimal("1E+12")

Parameter: TypeAlias = "Decimal | int | LibraryEvent | tuple[Decimal | int | LibraryEvent, ...]"


@dataclass(frozen=True, slots=True)
class _Real:
    """A decimal within limits; 0 and infinity only where they have a meaning."""

    low: Decimal
    high: Decimal
    zero: str = ""  # Why 0 is allowed; empty if it is not.
    infinity: str = ""  # Likewise.


@dataclass(frozen=True, slots=True)
class _Whole:
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class _Nested:
    """A library event."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A list of at least one."""

    of: _Real | _Whole | _Nested


_Rule: TypeAlias = _Real | _Whole | _Nested | _Row

_NOISE = _Real(NOISE_MULTIPLIER_MIN, NOISE_MULTIPLIER_MAX)
_RATE = _Real(SAMPLE_RATE_MIN, Decimal(1))
_SIZE = _Whole(1, SIZE_MAX)
_COUNT = _Whole(1, 10**9)
_FIXED_SIZE: dict[str, _Rule] = {
    "source_dataset_size": _SIZE,
    "sample_size": _SIZE,
    "event": _Nested(),
}

CLASSES: dict[str, dict[str, _Rule]] = {
    "Composed": {"events": _Row(_Nested())},
    "DiscreteLaplace": {
        "noise_parameter": _Real(Decimal("1E-6"), Decimal("1E+6")),
        "sensitivity": _Whole(1, 10**6),
    },
    "Gaussian": {"noise_multiplier": _NOISE},
    "Laplace": {"noise_multiplier": _NOISE},
    "MixtureOfGaussians": {
        "standard_deviation": _NOISE,
        "sensitivities": _Row(_Real(_TINY, _BIG, zero="a unit that is not drawn")),
        "sampling_probs": _Row(_RATE),
    },
    "PoissonSampled": {"sampling_probability": _RATE, "event": _Nested()},
    "RandomizedResponse": {
        "noise_parameter": _Real(Decimal("1E-12"), 1 - Decimal("1E-12")),
        "num_buckets": _Whole(2, BUCKETS_MAX),
    },
    "RepeatAndSelect": {
        "event": _Nested(),
        "mean": _Real(Decimal(1), Decimal("1E+6")),
        "shape": _Real(Decimal("1E-6"), Decimal("1E+6"), zero="logarithmic", infinity="Poisson"),
    },
    "SampledWithReplacement": _FIXED_SIZE,
    "SampledWithoutReplacement": _FIXED_SIZE,
    "SelfComposed": {"event": _Nested(), "count": _COUNT},
    "SingleEpochTreeAggregation": {
        "noise_multiplier": _NOISE,
        "step_counts": _Row(_COUNT),
    },
    "TruncatedSubsampledGaussian": {
        "dataset_size": _SIZE,
        "sampling_probability": _RATE,
        "truncated_batch_size": _SIZE,
        "noise_multiplier": _NOISE,
    },
    "ZCDp": {
        "rho": _Real(_TINY, _BIG, zero="no part that grows with the order"),
        "xi": _Real(_TINY, _BIG, zero="no constant part"),
    },
}

# Classes of the library that an event must not hide in itself.
REFUSED: dict[str, str] = {
    "NoOp": "Leave it out, or use the event NoEvent.",
    "NonPrivate": "Use the event NonPrivate.",
    "Unsupported": "No accountant can vouch for it.",
}


def class_name(name: str) -> str:
    """The library's class of an event: ``LaplaceDpEvent`` for ``Laplace``."""
    return f"{name}Event" if name.endswith("Dp") else f"{name}DpEvent"


@dataclass(frozen=True, slots=True)
class LibraryEvent:
    """One event of dp-accounting.

    Args:
        name: One of ``CLASSES``: the library's class without ``DpEvent``, and ``ZCDp``.
        parameters: All fields of that class in the order of ``CLASSES``, as (name, value) pairs;
            ``of`` sorts them. Numbers are exact decimals, whole numbers, or tuples of these;
            nested events are library events.
    """

    name: str
    parameters: tuple[tuple[str, Parameter], ...]

    def __post_init__(self) -> None:
        rules = _fields(self.name)
        if not isinstance(self.parameters, tuple):
            raise InvalidValue(self.name, "must have a tuple of parameters", "something else")
        if [name for name, _ in self.parameters] != list(rules):
            found = ", ".join(str(name)[:40] for name, _ in self.parameters[:20])
            raise InvalidValue(self.name, f"must have the fields {', '.join(rules)}", found)
        for field, value in self.parameters:
            _check(f"{self.name}.{field}", value, rules[field])
        _check_together(self)
        _require_size(self)

    @classmethod
    def of(cls, name: str, **parameters: Parameter) -> LibraryEvent:
        """An event from its fields by name, in any order.

        Raises:
            UnsupportedEvent: If the library has no such event, or it must not be carried.
            InvalidValue: If a field is missing, unknown, or breaks its rule.
        """
        rules = _fields(name)
        for field in parameters:
            if field not in rules:
                raise InvalidValue(f"{name}.{field}", "must not be present", field[:80])
        for field in rules:
            if field not in parameters:
                raise InvalidValue(f"{name}.{field}", "must be present", "nothing")
        return cls(name, tuple((field, parameters[field]) for field in rules))

    @property
    def fields(self) -> dict[str, Parameter]:
        """The parameters by name."""
        return dict(self.parameters)

    def to_json(self) -> dict[str, Any]:
        """Canonical JSON form; decimals are strings."""
        return {"event": "LibraryEvent", **_inner_json(self)}


def _fields(name: object) -> dict[str, _Rule]:
    if not isinstance(name, str) or name not in CLASSES:
        remedy = REFUSED.get(str(name), "")
        rule = f"LibraryEvent.name must be one of {', '.join(CLASSES)}; found {str(name)[:80]}."
        raise UnsupportedEvent(f"{rule} {remedy}".strip())
    return CLASSES[name]


def _check(field: str, value: object, rule: _Rule) -> None:
    match rule:
        case _Whole():
            require_int(field, value, low=rule.low, high=rule.high)
        case _Nested():
            if not isinstance(value, LibraryEvent):
                raise InvalidValue(field, "must be a library event", type(value).__name__)
        case _Row():
            if not isinstance(value, tuple) or not 1 <= len(value) <= LIST_MAX:
                size = len(value) if isinstance(value, tuple) else type(value).__name__
                raise InvalidValue(field, f"must be a list of 1 to {LIST_MAX}", str(size))
            for position, item in enumerate(value):
                _check(f"{field}[{position}]", item, rule.of)
        case _Real():
            _check_real(field, value, rule)


def _check_real(field: str, value: object, rule: _Real) -> None:
    if not isinstance(value, Decimal):
        raise InvalidValue(field, "must be an exact decimal", value, "Use decimal.Decimal.")
    if (value.is_zero() and rule.zero) or (value.is_infinite() and value > 0 and rule.infinity):
        return
    if not value.is_finite():
        raise InvalidValue(field, "must be finite", str(value))
    if len(value.as_tuple().digits) > DIGITS_MAX:
        raise InvalidValue(field, f"must have at most {DIGITS_MAX} digits", str(value)[:80])
    if not rule.low <= value <= rule.high:
        raise InvalidValue(field, f"must be from {rule.low} to {rule.high}", str(value))


def _check_together(event: LibraryEvent) -> None:
    """Rules over several fields of one event."""
    values: Mapping[str, Any] = event.fields
    match event.name:
        case "SampledWithReplacement" | "SampledWithoutReplacement":
            if event.name == "SampledWithoutReplacement" and (
                values["sample_size"] > values["source_dataset_size"]
            ):
                rule = "must be at most source_dataset_size"
                raise InvalidValue(f"{event.name}.sample_size", rule, values["sample_size"])
        case "MixtureOfGaussians":
            weights, shifts = values["sampling_probs"], values["sensitivities"]
            if len(weights) != len(shifts):
                rule = "must be as many as sensitivities"
                raise InvalidValue(f"{event.name}.sampling_probs", rule, len(weights))
            if not any(shifts):
                raise InvalidValue(f"{event.name}.sensitivities", "must have one above 0", "zeros")
            if not 0 <= 1 - sum(weights) <= PROBABILITY_SLACK:
                rule = f"must add up to 1, or to at most {PROBABILITY_SLACK} less"
                raise InvalidValue(f"{event.name}.sampling_probs", rule, str(sum(weights)))


def nested(event: LibraryEvent) -> tuple[LibraryEvent, ...]:
    """The events directly inside an event."""
    found: list[LibraryEvent] = []
    for _, value in event.parameters:
        items = value if isinstance(value, tuple) else (value,)
        found += [item for item in items if isinstance(item, LibraryEvent)]
    return tuple(found)


_SAMPLINGS = {
    "PoissonSampled": "Poisson",
    "TruncatedSubsampledGaussian": "Poisson",
    "SampledWithoutReplacement": "FixedSize",
    "SampledWithReplacement": "WithReplacement",
}


def samplings(event: LibraryEvent) -> frozenset[str]:
    """How units must have been drawn for an event to be what happened; empty without sampling."""
    own = {_SAMPLINGS[event.name]} if event.name in _SAMPLINGS else set()
    return frozenset(own.union(*(samplings(part) for part in nested(event))))


def _size(event: LibraryEvent) -> tuple[int, int]:
    """Nesting and number of nodes; the parts were checked when they were made."""
    inner = [_size(part) for part in nested(event)]
    nesting = 1 + max((depth for depth, _ in inner), default=0)
    return nesting, 1 + sum(nodes for _, nodes in inner)


def _require_size(event: LibraryEvent) -> None:
    nesting, nodes = _size(event)
    if nesting > NESTING_MAX:
        rule = f"must nest library events at most {NESTING_MAX} deep"
        raise InvalidValue(event.name, rule, "deeper nesting")
    if nodes > NODES_MAX:
        raise InvalidValue(event.name, f"must hold at most {NODES_MAX} library events", "more")


def _key(field: str) -> str:
    """``sampling_probability`` as the JSON key ``samplingProbability``."""
    first, *rest = field.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _value_json(value: object) -> Any:
    if isinstance(value, LibraryEvent):
        return _inner_json(value)
    if isinstance(value, tuple):
        return [_value_json(item) for item in value]
    return decimal_text(value) if isinstance(value, Decimal) else value


def _inner_json(event: LibraryEvent) -> dict[str, Any]:
    return {
        "name": event.name,
        "parameters": {_key(field): _value_json(value) for field, value in event.parameters},
    }


def library_event_from_json(value: Mapping[Any, Any]) -> LibraryEvent:
    """The event that the keys ``name`` and ``parameters`` stand for.

    Args:
        value: What ``to_json`` gave.

    Returns:
        The event.

    Raises:
        UnsupportedEvent: If the name is not one of ``CLASSES``; lists them.
        InvalidValue: If a field is missing, unknown, or breaks its rule; names it.
    """
    return _from_json({key: value.get(key) for key in ("name", "parameters")}, depth=1)


def _from_json(value: object, *, depth: int) -> LibraryEvent:
    if depth > NESTING_MAX:
        rule = f"must nest library events at most {NESTING_MAX} deep"
        raise InvalidValue("LibraryEvent", rule, "deeper nesting")
    if not isinstance(value, Mapping) or set(value) != {"name", "parameters"}:
        rule = "must be an object with name and parameters"
        raise InvalidValue("LibraryEvent", rule, type(value).__name__)
    name, given = value["name"], value["parameters"]
    rules = _fields(name)
    if not isinstance(given, Mapping):
        raise InvalidValue(f"{name}.parameters", "must be an object", type(given).__name__)
    keys = {_key(field): field for field in rules}
    for key in given:
        if key not in keys:
            raise InvalidValue(f"{name}.{str(key)[:80]}", "must not be present", str(key)[:80])
    for key in keys:
        if key not in given:
            raise InvalidValue(f"{name}.{key}", "must be present", "nothing")
    found = {
        field: _parameter(f"{name}.{key}", given[key], rules[field], depth=depth)
        for key, field in keys.items()
    }
    return LibraryEvent.of(name, **found)


def _parameter(field: str, value: object, rule: _Rule, *, depth: int) -> Any:
    match rule:
        case _Row():
            if not isinstance(value, list | tuple) or not 1 <= len(value) <= LIST_MAX:
                size = len(value) if isinstance(value, list | tuple) else type(value).__name__
                raise InvalidValue(field, f"must be a list of 1 to {LIST_MAX}", str(size))
            return tuple(
                _parameter(f"{field}[{position}]", item, rule.of, depth=depth)
                for position, item in enumerate(value)
            )
        case _Nested():
            return _from_json(value, depth=depth + 1)
        case _Real():
            if not isinstance(value, str):
                raise InvalidValue(field, 'must be a quoted decimal such as "1.31"', value)
            try:
                return Decimal(value)
            except InvalidOperation:
                rule_text = 'must be a quoted decimal such as "1.31"'
                raise InvalidValue(field, rule_text, value) from None
        case _:
            return value


def describe_library(event: LibraryEvent) -> str:
    """A short text for people, exact in every parameter.

    Args:
        event: Any.

    Returns:
        Such as ``PoissonSampled(sampling probability 0.01, event Laplace(noise multiplier 2))``.
    """
    parts = (f"{field.replace('_', ' ')} {_text(value)}" for field, value in event.parameters)
    return f"{event.name}({', '.join(parts)})"


def _text(value: object) -> str:
    if isinstance(value, LibraryEvent):
        return describe_library(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_text(item) for item in value)}]"
    return decimal_text(value) if isinstance(value, Decimal) else str(value)
