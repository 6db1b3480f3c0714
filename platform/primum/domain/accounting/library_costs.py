"""What an event of dp-accounting costs: the library's own curves, never rounded down.

The one place that hands library events to the library. It must not give a cost to what the library
does not support, must not let an error of its arithmetic through as a smaller cost, and imports the
library inside functions only, because that takes seconds.
"""

from __future__ import annotations

import functools
import math
from decimal import Decimal
from typing import Any

from primum.domain.accounting.library import (
    LibraryEvent,
    class_name,
    describe_library,
    nested,
)
from primum.domain.errors import UnsupportedEvent
from primum.domain.quantities import Neighbors

# Added to the library's curve for every use of a mechanism, in nats. It computes small divergences
# as logarithms of numbers next to 1, so they come out wrong by some 1e-16 and even as 0; at high
# orders log-gamma functions add some 1e-12. This is above all of it.
PADDING = 1e-11
MIXTURE_INTERVAL = 1e-3  # A mixture of Gaussians takes the library 0.1 s per 1/interval.
_DEVIATIONS = 8.0  # Beyond them lies less than 1e-15.
_TRIAL_ORDERS = (2.0, 32.0)
# The bound on a selection takes the best of the orders that are looked at (Papernot & Steinke
# 2022), so a coarse grid of a budget makes it loose. All are whole: the library computes those
# exactly, and gives up on fractional ones of many a sampled mechanism.
_SELECTION_ORDERS = (
    *map(float, range(2, 33)),
    *(40.0, 48.0, 56.0, 64.0, 80.0, 96.0, 128.0, 192.0, 256.0),
)
_CACHE_SIZE = 256
_OTHER = {
    Neighbors.ADD_OR_REMOVE_ONE: Neighbors.REPLACE_ONE,
    Neighbors.REPLACE_ONE: Neighbors.ADD_OR_REMOVE_ONE,
}


def _relation(neighbors: Neighbors) -> Any:
    import dp_accounting

    relations = dp_accounting.NeighboringRelation
    replaced = neighbors is Neighbors.REPLACE_ONE
    return relations.REPLACE_ONE if replaced else relations.ADD_OR_REMOVE_ONE


def library_object(event: LibraryEvent, *, noise_factor: float = 1.0) -> Any:
    """The library's own event.

    Real numbers are always handed over as floats: given a whole number as a noise multiplier, the
    library's sum over a sampled composition stops at the first mechanism and forgets the rest
    (version 0.6.0).

    Args:
        event: Any.
        noise_factor: Multiplies every noise multiplier.

    Returns:
        A ``dp_accounting.DpEvent``.
    """
    import dp_accounting

    made = getattr(dp_accounting.dp_event, class_name(event.name))
    found = {field: _plain(value, noise_factor) for field, value in event.parameters}
    if "noise_multiplier" in found:
        found["noise_multiplier"] *= noise_factor
    return made(**found)


def _plain(value: object, noise_factor: float) -> Any:
    if isinstance(value, LibraryEvent):
        return library_object(value, noise_factor=noise_factor)
    if isinstance(value, tuple):
        return [_plain(item, noise_factor) for item in value]
    return float(value) if isinstance(value, Decimal) else value


def _renyi_object(event: LibraryEvent, neighbors: Neighbors) -> Any:
    """The library's event for its Renyi accountant, in our convention and padded.

    The library's Renyi accountant takes noise relative to the sensitivity of the relation that it
    is asked about; ours is relative to add-or-remove-one, hence halved under ReplaceOne
    (privacy-theory.md, section 0, trap 1). Each mechanism is composed with a zCDP part that costs
    ``PADDING`` at every order, inside selections too, so that they select over a larger cost.
    """
    import dp_accounting

    events = dp_accounting.dp_event
    values: dict[str, Any] = event.fields
    replaced = neighbors is Neighbors.REPLACE_ONE
    match event.name:
        case "Composed":
            return events.ComposedDpEvent([_renyi_object(e, neighbors) for e in nested(event)])
        case "SelfComposed":
            inner = _renyi_object(values["event"], neighbors)
            return events.SelfComposedDpEvent(inner, values["count"])
        case "RepeatAndSelect":
            inner = _renyi_object(values["event"], neighbors)
            mean, shape = float(values["mean"]), float(values["shape"])
            made = events.RepeatAndSelectDpEvent(inner, mean, shape)
        case "ZCDp" if replaced:
            # Two steps of add-or-remove-one (Bun & Steinke 2016, Proposition 27, groups of two).
            made = events.ZCDpEvent(rho=4 * float(values["rho"]), xi=3 * float(values["xi"]))
        case _:
            made = library_object(event, noise_factor=0.5 if replaced else 1.0)
    return events.ComposedDpEvent([made, events.ZCDpEvent(rho=0.0, xi=PADDING)])


@functools.lru_cache(maxsize=_CACHE_SIZE)
def without_renyi_curve(event: LibraryEvent, neighbors: Neighbors) -> str | None:
    """Why there is no Renyi curve of an event, naming it; ``None`` if there is one.

    Args:
        event: Any.
        neighbors: The neighboring relation.

    Returns:
        The reason or ``None``.
    """
    if not _has_curve(event, neighbors):
        other = _OTHER[neighbors]
        remedy = "."
        if _has_curve(event, other):
            remedy = f"; it has one under {other.value}."
        elif without_loss_distribution(event, neighbors) is None:
            remedy = "; use PLD accounting, or a Basic budget."
        return (
            f"{describe_library(event)} has no Renyi curve under {neighbors.value} "
            f"in dp-accounting{remedy}"
        )
    try:
        _library_curve(event, _TRIAL_ORDERS, neighbors)
    except UnsupportedEvent as error:
        return str(error)
    return None


def _has_curve(event: LibraryEvent, neighbors: Neighbors) -> bool:
    from dp_accounting import rdp

    accountant = rdp.RdpAccountant(list(_TRIAL_ORDERS), _relation(neighbors))
    return bool(accountant.supports(_renyi_object(event, neighbors)))


@functools.lru_cache(maxsize=_CACHE_SIZE)
def renyi_curve(
    event: LibraryEvent, orders: tuple[float, ...], neighbors: Neighbors
) -> tuple[float, ...]:
    """The library's Renyi divergence of an event, padded.

    Guarantees:
        At least the library's exact figure for the event under these neighbors, up to a relative
        floating-point error below 1e-10.

    Args:
        event: Supported by ``without_renyi_curve``.
        orders: Each above 1.
        neighbors: The neighboring relation.

    Returns:
        One value per order, above 0; infinite where the library has none.

    Raises:
        UnsupportedEvent: If the library supports or computes none; names the event.
    """
    if (reason := without_renyi_curve(event, neighbors)) is not None:
        raise UnsupportedEvent(reason)
    return _library_curve(event, orders, neighbors)


def _library_curve(
    event: LibraryEvent, orders: tuple[float, ...], neighbors: Neighbors
) -> tuple[float, ...]:
    import numpy as np
    from dp_accounting import rdp

    # Divergences rise with the order: one at the next whole order is never too small.
    at = {order: float(math.ceil(order)) if _selects(event) else order for order in orders}
    grid = sorted({*at.values(), *(_SELECTION_ORDERS if _selects(event) else ())})
    accountant = rdp.RdpAccountant(grid, _relation(neighbors))
    try:
        with np.errstate(all="ignore"):  # What overflows is infinite, which is no small cost.
            accountant.compose(_renyi_object(event, neighbors))
        found = dict(zip(grid, accountant.rdp, strict=True))
        curve = tuple(float(found[at[order]]) for order in orders)
    except (ArithmeticError, ValueError) as error:
        raise UnsupportedEvent(
            f"{describe_library(event)} is beyond what dp-accounting can compute: "
            f"{type(error).__name__}."
        ) from error
    if any(math.isnan(value) or value <= 0 for value in curve):
        raise UnsupportedEvent(
            f"{describe_library(event)} is beyond what dp-accounting can compute: "
            "a divergence that is not above 0."
        )
    return curve


def _selects(event: LibraryEvent) -> bool:
    return event.name == "RepeatAndSelect" or any(_selects(part) for part in nested(event))


@functools.lru_cache(maxsize=_CACHE_SIZE)
def without_loss_distribution(event: LibraryEvent, neighbors: Neighbors) -> str | None:
    """Why there is no privacy loss distribution of an event, naming it; ``None`` if there is one.

    Args:
        event: Any.
        neighbors: The neighboring relation.

    Returns:
        The reason or ``None``.
    """
    if _has_distribution(event, neighbors):
        return None
    other = _OTHER[neighbors]
    remedy = f"; it has one under {other.value}." if _has_distribution(event, other) else "."
    return (
        f"{describe_library(event)} has no privacy loss distribution under {neighbors.value} "
        f"in dp-accounting{remedy}"
    )


def _has_distribution(event: LibraryEvent, neighbors: Neighbors) -> bool:
    from dp_accounting.pld import pld_privacy_accountant

    accountant = pld_privacy_accountant.PLDAccountant(_relation(neighbors))
    return bool(accountant.supports(library_object(event)))


def loss_distribution(event: LibraryEvent, interval: float, neighbors: Neighbors) -> Any:
    """The library's privacy loss distribution of an event, pessimistic.

    Built from the library's public constructors, not by its accountant, which composes a repeated
    randomized response once (version 0.6.0). The constructors double the sensitivity for ReplaceOne
    themselves.

    Args:
        event: Supported by ``without_loss_distribution``.
        interval: Of the grid of losses.
        neighbors: The neighboring relation.

    Returns:
        A ``PrivacyLossDistribution``.

    Raises:
        UnsupportedEvent: If the library supports or computes none; names the event.
    """
    if (reason := without_loss_distribution(event, neighbors)) is not None:
        raise UnsupportedEvent(reason)
    try:
        return _distribution(event, interval, neighbors)
    except (ArithmeticError, ValueError) as error:
        raise UnsupportedEvent(
            f"{describe_library(event)} is beyond what dp-accounting can compute: "
            f"{type(error).__name__}."
        ) from error


def _distribution(event: LibraryEvent, interval: float, neighbors: Neighbors) -> Any:
    from dp_accounting.pld import privacy_loss_distribution as pld

    if event.name in ("Composed", "SelfComposed"):
        found = pld.identity(interval)
        for part in nested(event):
            found = found.compose(_distribution(part, interval, neighbors))
        count = event.fields.get("count", 1)
        return found.self_compose(count) if isinstance(count, int) and count > 1 else found
    rate, values = 1.0, dict(event.parameters)
    name = event.name
    if name == "PoissonSampled":
        inner, rate = nested(event)[0], _real(values["sampling_probability"])
        name, values = inner.name, dict(inner.parameters)
    relation = {"neighboring_relation": _relation(neighbors)}
    grid = {"value_discretization_interval": interval}
    return _constructor(name, values, rate, relation, grid)


def _constructor(
    name: str, values: dict[str, Any], rate: float, relation: dict[str, Any], grid: dict[str, Any]
) -> Any:
    from dp_accounting.pld import privacy_loss_distribution as pld

    match name:
        case "Gaussian":
            noise = _real(values["noise_multiplier"])
            return pld.from_gaussian_mechanism(noise, sampling_prob=rate, **relation, **grid)
        case "Laplace":
            noise = _real(values["noise_multiplier"])
            return pld.from_laplace_mechanism(noise, sampling_prob=rate, **grid)
        case "DiscreteLaplace":
            scale = _real(values["noise_parameter"])
            return pld.from_discrete_laplace_mechanism(scale, values["sensitivity"], **grid)
        case "RandomizedResponse":
            flip = _real(values["noise_parameter"])
            return pld.from_randomized_response(flip, values["num_buckets"], **relation, **grid)
        case "MixtureOfGaussians":
            shifts, weights = _mixture(values)
            noise = _real(values["standard_deviation"])
            return pld.from_mixture_gaussian_mechanism(noise, shifts, weights, **grid)
        case "TruncatedSubsampledGaussian":
            numbers = {field: _real(value) for field, value in values.items()}
            sizes = {key: values[key] for key in ("dataset_size", "truncated_batch_size")}
            return pld.from_truncated_subsampled_gaussian_mechanism(
                **{**numbers, **sizes}, **relation, **grid
            )
        case _:
            raise UnsupportedEvent(f"{name} has no privacy loss distribution in dp-accounting.")


def _real(value: Any) -> float:
    return float(value)


def _mixture(values: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Shifts and weights; what the weights lack of 1 goes to the largest shift."""
    shifts = [float(shift) for shift in values["sensitivities"]]
    weights: list[Decimal] = list(values["sampling_probs"])
    weights[shifts.index(max(shifts))] += 1 - sum(weights)
    return shifts, [float(weight) for weight in weights]


def loss_width(event: LibraryEvent, count: int) -> float:
    """How wide the losses of a composed event are, roughly: for the size of a grid, never a cost.

    Args:
        event: With a loss distribution.
        count: How often it is used.

    Returns:
        Nats: mean loss, some standard deviations, and the largest single loss.
    """
    values: dict[str, Any] = event.fields
    name, rate = event.name, 1.0
    match name:
        case "Composed" | "SelfComposed":
            times = count * int(values.get("count", 1))
            return sum(loss_width(part, times) for part in nested(event))
        case "PoissonSampled":
            rate = float(values["sampling_probability"])
            name, values = values["event"].name, values["event"].fields
        case "TruncatedSubsampledGaussian":
            rate = float(values["sampling_probability"])
    if name in ("Laplace", "DiscreteLaplace", "RandomizedResponse"):
        return bounded_width(_largest_loss(name, values), rate, count)
    return gaussian_width(_shift(name, values), rate, count)


def bounded_width(largest: float, rate: float, count: int) -> float:
    """As ``loss_width``, of ``count`` losses of at most ``largest``, sampled at ``rate``."""
    square = largest * largest
    if rate < 1:
        square = min(rate * square, (rate * math.expm1(min(largest, 300.0))) ** 2)
    mean = min(square / 2, rate * largest)
    return count * mean + _DEVIATIONS * math.sqrt(count * square) + largest


def gaussian_width(shift: float, rate: float, count: int) -> float:
    """As ``loss_width``, of Gaussian noise that a unit shifts by so many deviations."""
    square = shift * shift
    if rate < 1:
        square = min(rate * square, rate * rate * math.expm1(min(square, 600.0)))
    one = shift * shift / 2 + _DEVIATIONS * shift
    return count * square / 2 + _DEVIATIONS * math.sqrt(count * square) + one


def _largest_loss(name: str, values: dict[str, Any]) -> float:
    """Of pure noise, under either relation."""
    match name:
        case "DiscreteLaplace":
            return float(values["noise_parameter"]) * int(values["sensitivity"])
        case "RandomizedResponse":
            return math.log(int(values["num_buckets"]) / float(values["noise_parameter"]))
        case _:
            return 2 / float(values["noise_multiplier"])


def _shift(name: str, values: dict[str, Any]) -> float:
    """Of Gaussian noise, under either relation."""
    match name:
        case "MixtureOfGaussians":
            return float(max(values["sensitivities"])) / float(values["standard_deviation"])
        case "TruncatedSubsampledGaussian":  # Out goes one unit, in comes another.
            return 4 / float(values["noise_multiplier"])
        case _:
            return 2 / float(values["noise_multiplier"])


def sample_rates(event: LibraryEvent) -> tuple[float, ...]:
    """The sampling rates in an event, which decide how fine a grid of losses has to be."""
    values = event.fields
    found = [rate for part in nested(event) for rate in sample_rates(part)]
    if isinstance(own := values.get("sampling_probability"), Decimal):
        found.append(float(own))
    return tuple(found)


def holds_mixture(event: LibraryEvent) -> bool:
    """Whether a mixture of Gaussians is in an event, for which a fine grid takes too long."""
    return event.name == "MixtureOfGaussians" or any(map(holds_mixture, nested(event)))
