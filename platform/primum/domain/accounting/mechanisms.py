"""The single mechanisms that an event is made of, each with its exact parameters.

A mechanism states facts, never a cost. Nothing here may estimate, round, or default a privacy
parameter. ``events`` composes them and gives them a canonical JSON form; import them from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from primum.domain.errors import InvalidValue

NOISE_MULTIPLIER_MIN = Decimal("1E-6")  # Below it a mechanism hides nothing, and squares overflow.
NOISE_MULTIPLIER_MAX = Decimal("1E+12")  # Above it the release is all noise.
SAMPLE_RATE_MIN = Decimal("1E-12")  # One record of the largest imaginable data set.
DIGITS_MAX = 40  # Significant digits of a parameter.
BUCKETS_MAX = 10**6  # Possible answers of a randomized response.


def require_decimal(field: str, value: object, *, low: Decimal, high: Decimal) -> None:
    """Refuse what is not an exact, finite decimal above 0 within limits.

    Raises:
        InvalidValue: If so; names the field.
    """
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


def require_int(field: str, value: object, *, low: int, high: int) -> None:
    """Refuse what is not a whole number within limits.

    Raises:
        InvalidValue: If so; names the field.
    """
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


def _require_noise_multiplier(value: object) -> None:
    require_decimal("noise_multiplier", value, low=NOISE_MULTIPLIER_MIN, high=NOISE_MULTIPLIER_MAX)


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
        require_decimal("sample_rate", self.sample_rate, low=SAMPLE_RATE_MIN, high=Decimal(1))

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
        require_decimal(
            "flip_probability", self.flip_probability, low=Decimal("1E-12"), high=Decimal(1)
        )
        if self.flip_probability == 1:
            raise InvalidValue("flip_probability", "must be below 1", str(self.flip_probability))
        require_int("buckets", self.buckets, low=2, high=BUCKETS_MAX)

    def to_json(self) -> dict[str, Any]:
        """Canonical JSON form."""
        return {
            "event": "RandomizedResponse",
            "flipProbability": decimal_text(self.flip_probability),
            "buckets": self.buckets,
        }
