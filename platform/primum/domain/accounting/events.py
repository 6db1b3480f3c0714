"""What a mechanism did, or plans to do, to private data: immutable values with canonical JSON.

An event states facts (how much noise, which sampling, how often), never a cost; the accountants
derive the cost. Nothing here may estimate, round, or default a privacy parameter. The vocabulary
only grows: a new meaning gets a new name, because old receipts must keep their meaning.

Every noise multiplier is relative to the **add-or-remove-one** sensitivity (privacy-theory.md,
section 0); an accountant doubles the sensitivity itself when neighbors differ by a replacement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

from primum.domain.accounting.library import (
    LibraryEvent,
    describe_library,
    library_event_from_json,
    samplings,
)
from primum.domain.accounting.mechanisms import (
    NOISE_MULTIPLIER_MAX,
    NOISE_MULTIPLIER_MIN,
    Gaussian,
    Laplace,
    NoEvent,
    NonPrivate,
    RandomizedResponse,
    SubsampledGaussian,
    decimal_text,
    require_int,
)
from primum.domain.errors import InvalidValue, UnsupportedEvent

__all__ = [
    "NOISE_MULTIPLIER_MAX",
    "NOISE_MULTIPLIER_MIN",
    "Composed",
    "Event",
    "Gaussian",
    "IndividuallyFiltered",
    "Laplace",
    "Leaf",
    "LibraryEvent",
    "NoEvent",
    "NonPrivate",
    "RandomizedResponse",
    "Repeated",
    "SubsampledGaussian",
    "covers",
    "decimal_text",
    "describe",
    "event_from_json",
    "flatten",
    "samplings",
    "worst_case",
]

COUNT_MAX = 10**9  # Steps of one plan; far above any training run.
PARTS_MAX = 1000  # Parts of one composition: a plan is read by people.
DEPTH_MAX = 16  # Nesting of compositions, so that a hostile JSON cannot exhaust the stack.
ORDERS_MAX = 64  # Renyi orders that a filter counts at.
ORDER_MAX = 4096  # As in ``rdp``: the sum of a whole order has as many terms.


@dataclass(frozen=True, slots=True)
class Repeated:
    """The same event ``count`` times, each with fresh randomness.

    Args:
        event: What is repeated.
        count: How often; 0 means never.
    """

    event: Event
    count: int

    def __post_init__(self) -> None:
        _require_event("event", self.event)
        require_int("count", self.count, low=0, high=COUNT_MAX)
        _require_depth(self)

    def to_json(self) -> dict[str, Any]:
        """Canonical JSON form."""
        return {"event": "Repeated", "of": self.event.to_json(), "count": self.count}


@dataclass(frozen=True, slots=True)
class Composed:
    """Several events on the same data, each allowed to look at the results of the earlier ones.

    Args:
        events: The parts, in order.
    """

    events: tuple[Event, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.events, tuple):
            raise InvalidValue("events", "must be a tuple of events", self.events)
        if len(self.events) > PARTS_MAX:
            raise InvalidValue("events", f"must have at most {PARTS_MAX} parts", len(self.events))
        for position, event in enumerate(self.events):
            _require_event(f"events[{position}]", event)
        _require_depth(self)

    def to_json(self) -> dict[str, Any]:
        """Canonical JSON form."""
        return {"event": "Composed", "events": [event.to_json() for event in self.events]}


@dataclass(frozen=True, slots=True)
class IndividuallyFiltered:
    """Gaussian steps in which each unit took part only while its own Renyi filter let it.

    At every order of ``orders`` the sum of a unit's own costs, by the norm that its contribution
    would have had at that step, stayed at most the cost of ``bound``; from the first step that
    would have passed it at any order the unit was left out for good (Feldman & Zrnic 2021). How
    many steps were run is no part of the cost.

    Args:
        bound: What a unit that saturates the clipping bound in every step may pay at most:
            Gaussian steps, sampled or not. At least one.
        orders: Whole Renyi orders at which the filter counts; rising, each above 1.
    """

    bound: Event
    orders: tuple[int, ...]

    def __post_init__(self) -> None:
        _require_event("bound", self.bound)
        steps = flatten(self.bound)
        if not steps or not all(isinstance(leaf, _GAUSSIANS) for leaf, _ in steps):
            raise InvalidValue(
                "bound", "must be Gaussian steps, at least one", describe(self.bound)
            )
        if not isinstance(self.orders, tuple) or not 1 <= len(self.orders) <= ORDERS_MAX:
            rule = f"must be a tuple of 1 to {ORDERS_MAX} whole numbers"
            raise InvalidValue("orders", rule, str(self.orders)[:80])
        for order in self.orders:
            require_int("orders", order, low=2, high=ORDER_MAX)
        if list(self.orders) != sorted(set(self.orders)):
            raise InvalidValue("orders", "must rise", str(self.orders))
        _require_depth(self)

    def to_json(self) -> dict[str, Any]:
        """Canonical JSON form."""
        return {
            "event": "IndividuallyFiltered",
            "bound": self.bound.to_json(),
            "orders": list(self.orders),
        }


Leaf: TypeAlias = (
    NoEvent
    | NonPrivate
    | Gaussian
    | SubsampledGaussian
    | Laplace
    | RandomizedResponse
    | IndividuallyFiltered
    | LibraryEvent
)
Event: TypeAlias = Leaf | Repeated | Composed

_GAUSSIANS = (Gaussian, SubsampledGaussian)
_PLAIN = (NoEvent, NonPrivate, Laplace, RandomizedResponse, IndividuallyFiltered, LibraryEvent)
_EVENTS = (*_GAUSSIANS, *_PLAIN, Repeated, Composed)


def _require_event(field: str, value: object) -> None:
    if not isinstance(value, _EVENTS):
        raise InvalidValue(field, "must be a privacy event", type(value).__name__)


def _depth(event: Event) -> int:
    if isinstance(event, Repeated):
        return 1 + _depth(event.event)
    if isinstance(event, Composed):
        return 1 + max((_depth(part) for part in event.events), default=0)
    return 1 + _depth(event.bound) if isinstance(event, IndividuallyFiltered) else 1


def _require_depth(event: Event) -> None:
    if _depth(event) > DEPTH_MAX:
        raise InvalidValue("event", f"must nest at most {DEPTH_MAX} deep", "deeper nesting")


def _json_decimal(name: str, value: object) -> Decimal:
    if not isinstance(value, str):
        raise InvalidValue(name, 'must be a quoted decimal such as "1.31"', value)
    try:
        return Decimal(value)
    except InvalidOperation:
        raise InvalidValue(name, 'must be a quoted decimal such as "1.31"', value) from None


_FIELDS: dict[str, tuple[str, ...]] = {
    "NoEvent": (),
    "NonPrivate": (),
    "Gaussian": ("noiseMultiplier",),
    "SubsampledGaussian": ("noiseMultiplier", "sampleRate"),
    "Laplace": ("noiseMultiplier",),
    "RandomizedResponse": ("flipProbability", "buckets"),
    "Repeated": ("of", "count"),
    "Composed": ("events",),
    "IndividuallyFiltered": ("bound", "orders"),
    "LibraryEvent": ("name", "parameters"),
}


def event_from_json(value: object) -> Event:
    """The event that a canonical JSON form stands for.

    Guarantees:
        ``event_from_json(event.to_json()) == event``. Unknown names and fields are refused, never
        skipped.

    Args:
        value: What ``to_json`` gave, or the same from a file; decimals are strings.

    Returns:
        The event.

    Raises:
        UnsupportedEvent: If the event's name is not known; names it.
        InvalidValue: If a field is missing, unknown, or breaks its rule; names it.
    """
    return _from_json(value, depth=1)


def _from_json(value: object, *, depth: int) -> Event:
    if depth > DEPTH_MAX:
        raise InvalidValue("event", f"must nest at most {DEPTH_MAX} deep", "deeper nesting")
    if not isinstance(value, Mapping):
        raise InvalidValue("event", "must be an object with the key event", type(value).__name__)
    name = value.get("event")
    if not isinstance(name, str) or name not in _FIELDS:
        raise UnsupportedEvent(
            f"event must be one of {', '.join(_FIELDS)}; found {str(name)[:80]}."
        )
    expected = {"event", *_FIELDS[name]}
    for key in value:
        if key not in expected:
            raise InvalidValue(f"{name}.{key}", "must not be present", str(key))
    for key in _FIELDS[name]:
        if key not in value:
            raise InvalidValue(f"{name}.{key}", "must be present", "nothing")
    return _build(name, value, depth=depth)


def _build(name: str, value: Mapping[Any, Any], *, depth: int) -> Event:  # noqa: PLR0911 - one per event
    match name:
        case "Gaussian":
            return Gaussian(_json_decimal("noiseMultiplier", value["noiseMultiplier"]))
        case "SubsampledGaussian":
            return SubsampledGaussian(
                _json_decimal("noiseMultiplier", value["noiseMultiplier"]),
                _json_decimal("sampleRate", value["sampleRate"]),
            )
        case "Laplace":
            return Laplace(_json_decimal("noiseMultiplier", value["noiseMultiplier"]))
        case "RandomizedResponse":
            flip = _json_decimal("flipProbability", value["flipProbability"])
            return RandomizedResponse(flip, value["buckets"])
        case "Repeated":
            return Repeated(_from_json(value["of"], depth=depth + 1), value["count"])
        case "Composed":
            parts = value["events"]
            if not isinstance(parts, list | tuple) or len(parts) > PARTS_MAX:
                raise InvalidValue("events", f"must be a list of at most {PARTS_MAX} events", parts)
            return Composed(tuple(_from_json(part, depth=depth + 1) for part in parts))
        case "IndividuallyFiltered":
            orders = value["orders"]
            if not isinstance(orders, list | tuple):
                raise InvalidValue("orders", "must be a list of whole numbers", orders)
            return IndividuallyFiltered(
                _from_json(value["bound"], depth=depth + 1), tuple(orders[: ORDERS_MAX + 1])
            )
        case "LibraryEvent":
            return library_event_from_json(value)
        case "NonPrivate":
            return NonPrivate()
        case _:
            return NoEvent()


def describe(event: Event) -> str:  # noqa: PLR0911 - one per event
    """A short text for people, exact in every parameter.

    Args:
        event: Any event.

    Returns:
        Such as ``90 x Gaussian(noise multiplier 1.31) at Poisson rate 0.281``.
    """
    match event:
        case Gaussian():
            return f"Gaussian(noise multiplier {decimal_text(event.noise_multiplier)})"
        case SubsampledGaussian():
            noise = decimal_text(event.noise_multiplier)
            rate = decimal_text(event.sample_rate)
            return f"Gaussian(noise multiplier {noise}) at Poisson rate {rate}"
        case Laplace():
            return f"Laplace(noise multiplier {decimal_text(event.noise_multiplier)})"
        case RandomizedResponse():
            flip = decimal_text(event.flip_probability)
            return f"RandomizedResponse(flip probability {flip}, {event.buckets} buckets)"
        case Repeated():
            inner = describe(event.event)
            return (
                f"{event.count} x ({inner})"
                if isinstance(event.event, Composed)
                else f"{event.count} x {inner}"
            )
        case Composed():
            return " + ".join(describe(part) for part in event.events) or "nothing"
        case IndividuallyFiltered():
            orders = f"orders {event.orders[0]} to {event.orders[-1]}"
            return f"per-unit Renyi filter within ({describe(event.bound)}) at {orders}"
        case LibraryEvent():
            return f"dp-accounting {describe_library(event)}"
        case NonPrivate():
            return "use of private data without protection"
        case _:
            return "nothing"


def _leaves(event: Event, count: int) -> Iterator[tuple[Leaf, int]]:
    if isinstance(event, Repeated):
        yield from _leaves(event.event, count * event.count)
    elif isinstance(event, Composed):
        for part in event.events:
            yield from _leaves(part, count)
    elif count > 0 and not isinstance(event, NoEvent):
        yield event, count


def flatten(event: Event) -> tuple[tuple[Leaf, int], ...]:
    """The mechanisms of an event and how often each was used.

    Args:
        event: Any event.

    Returns:
        Each distinct mechanism once, in order of first use, with its total count; nothing for
        ``NoEvent``.
    """
    counts: dict[Leaf, int] = {}
    for leaf, count in _leaves(event, 1):
        counts[leaf] = counts.get(leaf, 0) + count
    return tuple(counts.items())


def worst_case(event: Event) -> Event:
    """What a unit pays that no filter spares: every filtered part replaced by its bound.

    For readers of the mechanism's parameters; it is not what was run, and a guarantee of it beyond
    Renyi orders is none of the filtered mechanism.

    Args:
        event: Any event.

    Returns:
        The same event without ``IndividuallyFiltered``.
    """
    match event:
        case Repeated():
            return Repeated(worst_case(event.event), event.count)
        case Composed():
            return Composed(tuple(worst_case(part) for part in event.events))
        case IndividuallyFiltered():
            return event.bound
        case _:
            return event


def covers(planned: Event, executed: Event) -> bool:
    """Whether what was executed is provably no more than what was planned.

    Guarantees:
        If true, every valid accountant gives ``executed`` at most the cost of ``planned``: each
        executed mechanism is matched with a planned one of at least its count that has no more
        noise and no lower sampling rate. More noise is post-processing; a lower Poisson rate is a
        mixture with the world without the unit, so joint convexity of the divergence applies. A
        plan with individual filters covers its own bound without them, and a filter of the same
        or more orders under a bound that is covered. A library event is covered by its equal
        alone. False may mean "cannot tell".

    Args:
        planned: What was reserved.
        executed: What the receipt says happened.

    Returns:
        True if it is covered.
    """
    supply = dict(flatten(planned))
    if NonPrivate() in supply:
        return True
    demand = dict(flatten(executed))
    for leaf in list(demand):  # Equal mechanisms first: the usual case, and never worse.
        _match(demand, leaf, supply, leaf)
    for filtered in [leaf for leaf in demand if isinstance(leaf, IndividuallyFiltered)]:
        for filters in [leaf for leaf in supply if isinstance(leaf, IndividuallyFiltered)]:
            if _filters_as_much(filtered, filters):
                _match(demand, filtered, supply, filters)
    for filters in [leaf for leaf in supply if isinstance(leaf, IndividuallyFiltered)]:
        left = supply.pop(filters)  # A filter that nobody wants is at least its bound.
        for leaf, count in flatten(filters.bound):
            supply[leaf] = supply.get(leaf, 0) + left * count
    for leaf in list(demand):
        for offer in sorted(supply, key=_strength):
            if _at_most(leaf, offer):
                _match(demand, leaf, supply, offer)
    return not any(demand.values())


def _filters_as_much(executed: IndividuallyFiltered, planned: IndividuallyFiltered) -> bool:
    """More orders make the chords between them lower, a smaller bound the whole curve."""
    return set(planned.orders) <= set(executed.orders) and covers(planned.bound, executed.bound)


def _match(demand: dict[Leaf, int], leaf: Leaf, supply: dict[Leaf, int], offer: Leaf) -> None:
    """Use up as much of an offer as is wanted of a mechanism."""
    used = min(demand[leaf], supply.get(offer, 0))
    demand[leaf] -= used
    if offer in supply:
        supply[offer] -= used


def _strength(leaf: Leaf) -> tuple[Decimal, Decimal]:
    """Sort key: the least revealing planned mechanism is used up first."""
    rate = leaf.sample_rate if isinstance(leaf, SubsampledGaussian) else Decimal(1)
    if isinstance(leaf, Gaussian | SubsampledGaussian | Laplace):
        return (rate, -leaf.noise_multiplier)
    return (rate, Decimal(0))


def _at_most(executed: Leaf, planned: Leaf) -> bool:
    match executed, planned:
        case ((Gaussian() | SubsampledGaussian()), (Gaussian() | SubsampledGaussian())):
            rate = executed.sample_rate if isinstance(executed, SubsampledGaussian) else Decimal(1)
            limit = planned.sample_rate if isinstance(planned, SubsampledGaussian) else Decimal(1)
            return executed.noise_multiplier >= planned.noise_multiplier and rate <= limit
        case Laplace(), Laplace():
            # A wider Laplace is not a post-processing in general, but its loss stays dominated:
            # its dominating pair is that of a smaller shift at the same scale.
            return executed.noise_multiplier >= planned.noise_multiplier
        case RandomizedResponse(), RandomizedResponse():
            same = executed.buckets == planned.buckets
            return same and executed.flip_probability >= planned.flip_probability
        case _:
            return executed == planned
