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

from primum.domain.errors import InvalidValue, UnsupportedEvent

NOISE_MULTIPLIER_MIN = Decimal("1E-6")  # Below it a mechanism hides nothing, and squares overflow.
NOISE_MULTIPLIER_MAX = Decimal("1E+12")  # Above it the release is all noise.
SAMPLE_RATE_MIN = Decimal("1E-12")  # One record of the largest imaginable data set.
COUNT_MAX = 10**9  # Steps of one plan; far above any training run.
PARTS_MAX = 1000  # Parts of one composition: a plan is read by people.
DEPTH_MAX = 16  # Nesting of compositions, so that a hostile JSON cannot exhaust the stack.
DIGITS_MAX = 40  # Significant digits of a parameter.
BUCKETS_MAX = 10**6  # Possible answers of a randomized response.


def _require_decimal(field: str, value: object, *, low: Decimal, high: Decimal) -> None:
    if not isinstance(value, Decimal):
        raise InvalidValue(field, "must be an exact decimal", value, "Use decimal.Decimal.")
    if not value.is_finite():
        raise InvalidValue(field, "must be finite", str(value))
    if value <= 0:
        raise InvalidValue(field, "must be above 0", str(value))
    if len(value.as_tuple().digits) > DIGITS_MAX:
        raise InvalidValue(field, f"must have at most {DIGITS_MAX} digits", str(value))
    if not low <= value <= high:
        raise InvalidValue(field, f"must be from {low} to {high}", str(value))


def _require_int(field: str, value: object, *, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidValue(field, f"must be a whole number from {low} to {high}", value)


def decimal_text(value: Decimal) -> str:
    """The one canonical text of a decimal: plain notation, no trailing zeros, exact.

    Args:
        value: Any finite decimal.

    Returns:
        Such as ``1.31``; equal decimals give equal texts.
    """
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


@dataclass(frozen=True, slots=True)
class NoEvent:
    """Nothing touched private data."""

    def to_json(self) -> dict[str, Any]:
        """Canonical JSON form."""
        return {"event": "NoEvent"}


@dataclass(frozen=True, slots=True)
class NonPrivate:
    """Private data was used without any protection: no finite amount pays for it."""

    def to_json(self) -> dict[str, Any]:
        """Canonical JSON form."""
        return {"event": "NonPrivate"}


@dataclass(frozen=True, slots=True)
class Gaussian:
    """One release with Gaussian noise over all records.

    Args:
        noise_multiplier: Standard deviation of the noise over the L2 sensitivity under add-or-
            remove-one.
    """

    noise_multiplier: Decimal

    def __post_init__(self) -> None:
        _require_noise_multiplier(self.noise_multiplier)

    def to_json(self) -> dict[str, Any]:
        """Canonical JSON form."""
        return {"event": "Gaussian", "noiseMultiplier": decimal_text(self.noise_multiplier)}


@dataclass(frozen=True, slots=True)
class SubsampledGaussian:
    """One release with Gaussian noise over a Poisson sample.

    Each unit independently at ``sample_rate``.

    Args:
        noise_multiplier: Standard deviation of the noise over the L2 sensitivity under add-or-
            remove-one.
        sample_rate: Probability that a unit takes part; above 0, at most 1. Not for shuffled
            batches.
    """

    noise_multiplier: Decimal
    sample_rate: Decimal

    def __post_init__(self) -> None:
        _require_noise_multiplier(self.noise_multiplier)
        _require_decimal("sample_rate", self.sample_rate, low=SAMPLE_RATE_MIN, high=Decimal(1))

    def to_json(self) -> dict[str, Any]:
        """Canonical JSON form."""
        return {
            "event": "SubsampledGaussian",
            "noiseMultiplier": decimal_text(self.noise_multiplier),
            "sampleRate": decimal_text(self.sample_rate),
        }


@dataclass(frozen=True, slots=True)
class Laplace:
    """One release with Laplace noise.

    Args:
        noise_multiplier: Scale of the noise over the L1 sensitivity under add-or-remove-one.
    """

    noise_multiplier: Decimal

    def __post_init__(self) -> None:
        _require_noise_multiplier(self.noise_multiplier)

    def to_json(self) -> dict[str, Any]:
        """Canonical JSON form."""
        return {"event": "Laplace", "noiseMultiplier": decimal_text(self.noise_multiplier)}


@dataclass(frozen=True, slots=True)
class RandomizedResponse:
    """Each unit's answer, replaced at ``flip_probability`` by a uniform draw from all buckets.

    The uniform draw may give the true answer again, so the truth is reported with probability
    ``1 - flip_probability + flip_probability / buckets``.

    Args:
        flip_probability: Above 0, below 1.
        buckets: Number of possible answers, at least 2.
    """

    flip_probability: Decimal
    buckets: int

    def __post_init__(self) -> None:
        _require_decimal(
            "flip_probability", self.flip_probability, low=Decimal("1E-12"), high=Decimal(1)
        )
        if self.flip_probability == 1:
            raise InvalidValue("flip_probability", "must be below 1", str(self.flip_probability))
        _require_int("buckets", self.buckets, low=2, high=BUCKETS_MAX)

    def to_json(self) -> dict[str, Any]:
        """Canonical JSON form."""
        return {
            "event": "RandomizedResponse",
            "flipProbability": decimal_text(self.flip_probability),
            "buckets": self.buckets,
        }


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
        _require_int("count", self.count, low=0, high=COUNT_MAX)
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


Leaf: TypeAlias = (
    NoEvent | NonPrivate | Gaussian | SubsampledGaussian | Laplace | RandomizedResponse
)
Event: TypeAlias = Leaf | Repeated | Composed

_LEAVES = (NoEvent, NonPrivate, Gaussian, SubsampledGaussian, Laplace, RandomizedResponse)
_EVENTS = (*_LEAVES, Repeated, Composed)


def _require_noise_multiplier(value: object) -> None:
    _require_decimal("noise_multiplier", value, low=NOISE_MULTIPLIER_MIN, high=NOISE_MULTIPLIER_MAX)


def _require_event(field: str, value: object) -> None:
    if not isinstance(value, _EVENTS):
        raise InvalidValue(field, "must be a privacy event", type(value).__name__)


def _depth(event: Event) -> int:
    if isinstance(event, Repeated):
        return 1 + _depth(event.event)
    if isinstance(event, Composed):
        return 1 + max((_depth(part) for part in event.events), default=0)
    return 1


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


def covers(planned: Event, executed: Event) -> bool:
    """Whether what was executed is provably no more than what was planned.

    Guarantees:
        If true, every valid accountant gives ``executed`` at most the cost of ``planned``: each
        executed mechanism is matched with a planned one of at least its count that has no more
        noise and no lower sampling rate. More noise is post-processing; a lower Poisson rate is a
        mixture with the world without the unit, so joint convexity of the divergence applies. False
        may mean "cannot tell".

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
        used = min(demand[leaf], supply.get(leaf, 0))
        demand[leaf] -= used
        if leaf in supply:
            supply[leaf] -= used
    for leaf, wanted in demand.items():
        missing = wanted
        for offer in sorted(supply, key=_strength):
            if missing and _at_most(leaf, offer):
                used = min(missing, supply[offer])
                supply[offer] -= used
                missing -= used
        if missing:
            return False
    return True


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
