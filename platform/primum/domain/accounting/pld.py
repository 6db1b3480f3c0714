"""Privacy loss distributions: the tightest epsilon of one plan that was fixed in advance.

dp-accounting does the numerical work, pessimistically (connect-the-dots, Doroshenko et al. 2022).
Nothing here may be composed across plans that were chosen one after the other: whole distributions
are no valid filter (privacy-theory.md 1.13).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from primum.domain.accounting import accountant as accountants
from primum.domain.accounting import library_costs
from primum.domain.accounting.events import (
    Event,
    Gaussian,
    IndividuallyFiltered,
    Laplace,
    Leaf,
    LibraryEvent,
    NonPrivate,
    RandomizedResponse,
    SubsampledGaussian,
    describe,
    flatten,
)
from primum.domain.errors import InvalidValue
from primum.domain.quantities import Neighbors

if TYPE_CHECKING:
    from numpy.typing import NDArray

INTERVAL_MAX = 1e-4  # Right for most runs; the error is of the order of its square.
INTERVAL_MIN = 2e-6  # Finer grids are slow, and rounding then dominates the tails.
INTERVALS_PER_RATE = 10  # A step's loss is never below ln(1 - q), so the grid must be finer than q.
DELTA_MIN = Decimal("1E-13")  # The noise of a Fourier transform is about 1e-16.
CELLS_MAX = 2e6  # Losses of a plan with library events; composing them takes some gigabyte.
_DISTRIBUTIONS_CACHED = 32  # Composed distributions kept; each is some megabytes.


def interval_for(sample_rate: float) -> float:
    """The grid of privacy losses for the lowest sampling rate in a plan."""
    return min(INTERVAL_MAX, max(INTERVAL_MIN, sample_rate / INTERVALS_PER_RATE))


def unsupported_by_pld(event: Event, neighbors: Neighbors) -> str | None:
    """Why an event has no privacy loss distribution here, naming the part; ``None`` if it has one.

    Args:
        event: Any event.
        neighbors: The neighboring relation.

    Returns:
        The reason or ``None``.
    """
    for leaf, _ in flatten(event):
        if isinstance(leaf, NonPrivate):
            return f"{describe(leaf)} has no finite privacy cost."
        if isinstance(leaf, IndividuallyFiltered):
            # Whole loss distributions are no valid filter (privacy-theory.md 1.13): a unit that is
            # stopped by what it saw may cross the bound's distribution where its orders do not.
            return (
                f"{describe(leaf)} is bounded at Renyi orders only, not in its whole loss "
                "distribution; use RDP accounting."
            )
        if isinstance(leaf, RandomizedResponse) and neighbors is Neighbors.ADD_OR_REMOVE_ONE:
            return f"{describe(leaf)} reveals who answered; it is private under ReplaceOne only."
        if isinstance(leaf, LibraryEvent):
            reason = library_costs.without_loss_distribution(leaf, neighbors)
            if reason is not None:
                return reason
    return _too_wide(flatten(event))


def _too_wide(leaves: tuple[tuple[Leaf, int], ...]) -> str | None:
    """Plans with library events reach the ledger's admission: their grid must fit into memory."""
    carried = [leaf for leaf, _ in leaves if isinstance(leaf, LibraryEvent)]
    if not carried:
        return None
    width = 0.0
    for leaf, count in leaves:
        if isinstance(leaf, LibraryEvent):
            width += library_costs.loss_width(leaf, count)
        if isinstance(leaf, Gaussian | SubsampledGaussian | Laplace):
            rate = float(leaf.sample_rate) if isinstance(leaf, SubsampledGaussian) else 1.0
            pure = isinstance(leaf, Laplace)
            wide = library_costs.bounded_width if pure else library_costs.gaussian_width
            width += wide(2 / float(leaf.noise_multiplier), rate, count)
    if width <= CELLS_MAX * _interval(leaves):
        return None
    return (
        f"{describe(carried[0])}, with what is beside it, needs more than {CELLS_MAX:.0e} losses "
        "on the grid of a loss distribution."
    )


def gaussian_step(
    *, sample_rate: float, noise_multiplier: float, interval: float, neighbors: Neighbors
) -> Any:
    """The dp-accounting distribution of one Gaussian step, Poisson-sampled if the rate is below 1.

    The library doubles the sensitivity for ReplaceOne itself (privacy-theory.md, section 0, trap
    1).
    """
    import dp_accounting
    from dp_accounting.pld import privacy_loss_distribution

    relation = dp_accounting.NeighboringRelation
    return privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier,
        pessimistic_estimate=True,
        value_discretization_interval=interval,
        sampling_prob=sample_rate,
        neighboring_relation=(
            relation.REPLACE_ONE
            if neighbors is Neighbors.REPLACE_ONE
            else relation.ADD_OR_REMOVE_ONE
        ),
    )


def _leaf_distribution(leaf: Leaf, interval: float, neighbors: Neighbors) -> Any:
    import dp_accounting
    from dp_accounting.pld import privacy_loss_distribution

    match leaf:
        case Gaussian() | SubsampledGaussian():
            rate = leaf.sample_rate if isinstance(leaf, SubsampledGaussian) else Decimal(1)
            return gaussian_step(
                sample_rate=float(rate),
                noise_multiplier=float(leaf.noise_multiplier),
                interval=interval,
                neighbors=neighbors,
            )
        case Laplace():
            doubled = 2 if neighbors is Neighbors.REPLACE_ONE else 1
            return privacy_loss_distribution.from_laplace_mechanism(
                float(leaf.noise_multiplier),
                sensitivity=doubled,
                value_discretization_interval=interval,
            )
        case RandomizedResponse():
            return privacy_loss_distribution.from_randomized_response(
                float(leaf.flip_probability),
                leaf.buckets,
                value_discretization_interval=interval,
                neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE,
            )
        case LibraryEvent():
            return library_costs.loss_distribution(leaf, interval, neighbors)
        case _:
            return privacy_loss_distribution.identity(interval)


def _interval(leaves: tuple[tuple[Leaf, int], ...]) -> float:
    rates = [1.0]
    coarse = 0.0
    for leaf, _ in leaves:
        if isinstance(leaf, SubsampledGaussian):
            rates.append(float(leaf.sample_rate))
        if isinstance(leaf, LibraryEvent):
            rates += library_costs.sample_rates(leaf)
            if library_costs.holds_mixture(leaf):
                coarse = library_costs.MIXTURE_INTERVAL  # Any grid is pessimistic; this one fits.
    return max(coarse, interval_for(min(rates)))


@functools.lru_cache(maxsize=_DISTRIBUTIONS_CACHED)
def composed(event: Event, neighbors: Neighbors) -> Any:
    """The dp-accounting distribution of a whole plan, pessimistic; both directions.

    Args:
        event: Supported by ``unsupported_by_pld``.
        neighbors: The neighboring relation.

    Returns:
        A ``PrivacyLossDistribution``.

    Raises:
        UnsupportedEvent: If a part has none; names it.
    """
    from dp_accounting.pld import privacy_loss_distribution

    accountants.require_supported(unsupported_by_pld(event, neighbors))
    leaves = flatten(event)
    interval = _interval(leaves)
    total: Any = None
    for leaf, count in leaves:
        part = _leaf_distribution(leaf, interval, neighbors)
        part = part.self_compose(count) if count > 1 else part
        total = part if total is None else total.compose(part)
    return privacy_loss_distribution.identity(interval) if total is None else total


@dataclass(frozen=True, slots=True)
class LossMasses:
    """The privacy loss of a plan in the remove direction on a grid.

    For figures that need the whole curve.

    Args:
        losses: Rising grid of losses.
        masses: Probability of each loss when the target is present.
        infinity_mass: Probability of an unbounded loss, an upper bound.
    """

    losses: NDArray[Any]
    masses: NDArray[Any]
    infinity_mass: float


@functools.lru_cache(maxsize=_DISTRIBUTIONS_CACHED)
def remove_masses(sample_rate: float, noise_multiplier: float, steps: int) -> LossMasses:
    """The composed losses of DP-SGD when H0 is "the target is absent".

    Args:
        sample_rate: Above 0, at most 1.
        noise_multiplier: Above 0.
        steps: At least 1.

    Returns:
        Pessimistic masses; the reverse direction is masses * exp(-losses), never a separate grid
        (3.2).
    """
    if steps < 1:
        raise InvalidValue("steps", "must be at least 1", steps)
    single = gaussian_step(
        sample_rate=sample_rate,
        noise_multiplier=noise_multiplier,
        interval=interval_for(sample_rate),
        neighbors=Neighbors.ADD_OR_REMOVE_ONE,
    )
    # The library has no public way to one direction's masses; composing one halves the time.
    return _masses_of(single._pmf_remove.self_compose(steps, 1e-15))


@functools.lru_cache(maxsize=_DISTRIBUTIONS_CACHED)
def event_masses(event: Event) -> LossMasses:
    """The composed losses of a whole plan when H0 is "the target is absent".

    Args:
        event: Supported by ``unsupported_by_pld`` under AddOrRemoveOne.

    Returns:
        Pessimistic masses.

    Raises:
        UnsupportedEvent: If a part has none; names it.
    """
    leaves = flatten(event)
    leaf, count = leaves[0] if len(leaves) == 1 else (None, 0)
    if isinstance(leaf, SubsampledGaussian):
        return remove_masses(float(leaf.sample_rate), float(leaf.noise_multiplier), count)
    return _masses_of(composed(event, Neighbors.ADD_OR_REMOVE_ONE)._pmf_remove)


def _masses_of(distribution: Any) -> LossMasses:
    import numpy as np

    pmf = distribution.to_dense_pmf()
    losses = (pmf._lower_loss + np.arange(len(pmf._probs))) * pmf._discretization
    return LossMasses(losses, np.maximum(pmf._probs, 0.0), float(pmf._infinity_mass))


@dataclass(frozen=True, slots=True)
class PldAccountant:
    """The accountant on privacy loss distributions; valid for a pre-registered plan."""

    @property
    def name(self) -> str:
        """``PLD``."""
        return "PLD"

    def unsupported(self, event: Event, neighbors: Neighbors) -> str | None:
        """Why this accountant cannot vouch for the event, naming the part; ``None`` if it can."""
        return unsupported_by_pld(event, neighbors)

    def epsilon(self, event: Event, delta: Decimal, neighbors: Neighbors) -> Decimal:
        """The epsilon of a plan fixed in advance, the larger of both directions.

        Guarantees:
            The event is (epsilon, delta)-DP for units that differ as ``neighbors`` says.

        Args:
            event: The whole plan.
            delta: At least 1e-13, below 1.
            neighbors: The neighboring relation.

        Returns:
            Epsilon, rounded up to 1e-6.

        Raises:
            UnsupportedEvent: If a part has no distribution; names it.
            InvalidValue: If delta is out of range.
        """
        accountants.require_delta(delta)
        if delta < DELTA_MIN:
            raise InvalidValue(
                "delta", f"must be at least {DELTA_MIN} for PLD", delta, "Use RDP accounting."
            )
        accountants.require_supported(unsupported_by_pld(event, neighbors))
        if not flatten(event):
            return Decimal(0)
        distribution = composed(event, neighbors)
        return accountants.epsilon_up(float(distribution.get_epsilon_for_delta(float(delta))))
