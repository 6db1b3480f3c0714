"""Events of dp-accounting objects, for plug-ins whose training library speaks that language.

What has an event of its own here becomes that event, which every accountant knows; everything else
is carried as a ``LibraryEvent``. It must not drop a part: what cannot be carried is refused by
name.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from primum.domain.accounting.events import (
    Composed,
    Event,
    Gaussian,
    Laplace,
    NoEvent,
    NonPrivate,
    RandomizedResponse,
    Repeated,
    SubsampledGaussian,
)
from primum.domain.accounting.library import CLASSES, REFUSED, LibraryEvent, Parameter, class_name
from primum.domain.errors import InvalidValue, UnsupportedEvent

_NAMES = {class_name(name): name for name in (*CLASSES, *REFUSED)}
_WHOLE = {
    *("sensitivity", "num_buckets", "count", "source_dataset_size", "sample_size"),
    *("step_counts", "dataset_size", "truncated_batch_size"),
}
_DEPTH_MAX = 16  # As of our own events.


def event_from_dp_accounting(value: Any) -> Event:
    """Our event for an event of dp-accounting.

    A float becomes the shortest decimal that reads back as the same float, so nothing is rounded.

    Args:
        value: A ``dp_accounting.DpEvent``; noise relative to the add-or-remove-one sensitivity.

    Returns:
        An event of ours with the same meaning.

    Raises:
        UnsupportedEvent: If the object, or a part of it, is no event of the library that can be
            carried; names it.
        InvalidValue: If a parameter breaks a rule; names it.
    """
    return _event(value, depth=1)


def _event(value: Any, *, depth: int) -> Event:  # noqa: PLR0911 - one per event
    if depth > _DEPTH_MAX:
        raise InvalidValue("event", f"must nest at most {_DEPTH_MAX} deep", "deeper nesting")
    match _name(value):
        case "NoOp":
            return NoEvent()
        case "NonPrivate":
            return NonPrivate()
        case "Composed":
            return Composed(tuple(_event(part, depth=depth + 1) for part in value.events))
        case "SelfComposed":
            return Repeated(_event(value.event, depth=depth + 1), value.count)
        case "Gaussian":
            return Gaussian(_decimal("noise_multiplier", value.noise_multiplier))
        case "Laplace":
            return Laplace(_decimal("noise_multiplier", value.noise_multiplier))
        case "RandomizedResponse":
            flip = _decimal("noise_parameter", value.noise_parameter)
            return RandomizedResponse(flip, value.num_buckets)
        case "PoissonSampled" if _name(value.event) == "Gaussian":
            noise = _decimal("noise_multiplier", value.event.noise_multiplier)
            rate = _decimal("sampling_probability", value.sampling_probability)
            return SubsampledGaussian(noise, rate)
        case _:
            return _library_event(value, depth=depth)


def _library_event(value: Any, *, depth: int) -> LibraryEvent:
    if depth > _DEPTH_MAX:
        raise InvalidValue("event", f"must nest at most {_DEPTH_MAX} deep", "deeper nesting")
    name = _name(value)
    fields = CLASSES.get(name, {})
    found = {field: _parameter(field, getattr(value, field), depth=depth) for field in fields}
    return LibraryEvent.of(name, **found)


def _name(value: Any) -> str:
    import dp_accounting

    name = type(value).__name__
    if not isinstance(value, dp_accounting.DpEvent) or name not in _NAMES:
        raise UnsupportedEvent(
            f"event must be one of dp-accounting's {', '.join(_NAMES)}; found {name[:80]}."
        )
    return _NAMES[name]


def _parameter(field: str, value: Any, *, depth: int) -> Parameter:
    if field == "step_counts" and not isinstance(value, Sequence):
        value = [value]
    if field == "event":
        return _library_event(value, depth=depth + 1)
    if field == "events":
        return tuple(_library_event(part, depth=depth + 1) for part in value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_number(field, item) for item in value)
    return _number(field, value)


def _number(field: str, value: Any) -> Decimal | int:
    return value if field in _WHOLE and isinstance(value, int) else _decimal(field, value)


def _decimal(field: str, value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValue(field, "must be a number", type(value).__name__)
    return Decimal(value) if isinstance(value, int) else Decimal(repr(float(value)))
