"""What a run really guarantees, from what it did and never from what was assumed.

The tightest bound of ours that is proved for what was used: exact for unsampled Gaussians, a
privacy loss distribution for a Poisson plan, Renyi bounds beside it. All take the run's parameters
as fixed before it began (privacy-theory.md 1.13). Where nothing is proved the answer is "no bound",
never an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from primum.domain.accounting import profile, rdp
from primum.domain.accounting.accountant import (
    EPSILON_PLACES,
    FLOAT_SLACK,
    Accountant,
)
from primum.domain.accounting.events import (
    NOISE_MULTIPLIER_MAX,
    NOISE_MULTIPLIER_MIN,
    Composed,
    Event,
    Gaussian,
    IndividuallyFiltered,
    Laplace,
    Repeated,
    SubsampledGaussian,
    flatten,
)
from primum.domain.accounting.pld import DELTA_MIN, PldAccountant, interval_for
from primum.domain.conformance.records import (
    Divisor,
    Mechanism,
    Phase,
    RunRecord,
    Sampling,
    Scope,
    Weighting,
)
from primum.domain.quantities import Neighbors, round_up
from primum.domain.risk.composition import rdp_subsampled_fixed_size

INFINITE = Decimal("Infinity")
GRID_MAX = 2e6  # Cells of a loss distribution, about a gigabyte; beyond it a Renyi bound has to do.
_REMOVALS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)  # Epsilons tried for half a replacement.
_WHOLE_ORDERS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64)
_DIGITS_LIMIT = 1000.0  # Order squared over 2 s^2: what the exact differences need in digits.
_NOISE_NONE = Decimal("1E-100")  # Squares below it leave the range of a float.
_ADD, _REPLACE = Neighbors.ADD_OR_REMOVE_ONE, Neighbors.REPLACE_ONE


@dataclass(frozen=True, slots=True)
class Bound:
    """An epsilon of ours.

    Args:
        epsilon: Infinite if there is no noise.
        accountant: What computed it.
        basis: What it rests on, for people.
    """

    epsilon: Decimal
    accountant: str
    basis: str


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What was really guaranteed.

    Args:
        total: The whole run; ``None`` if no bound of ours covers what was done.
        one_step: One step or round of the first phase; ``None`` likewise.
        renyi: The Renyi bound beside ``total``, if there is one for it.
        neighbors: The relation that all of them hold for.
        psi: Sensitivity over noise of all unsampled Gaussians together; ``None`` if sampled.
        why: Why there is no bound; empty if there is one.
    """

    total: Bound | None
    one_step: Bound | None
    renyi: Decimal | None
    neighbors: Neighbors
    psi: float | None
    why: str


def recompute(record: RunRecord) -> Recomputed:
    """The true guarantee of a run at the claimed delta.

    Guarantees:
        Whoever trusts the record's facts may trust the bound, whatever the record claims.

    Args:
        record: The run.

    Returns:
        The bound under the claimed neighbors where what was done allows it, else under ReplaceOne.
    """
    why = uncovered(record)
    fixed = record.sampling in (Sampling.FIXED_SIZE, Sampling.SHUFFLED)
    neighbors = _REPLACE if fixed else record.claim.neighbors
    if why:
        return Recomputed(None, None, None, neighbors, None, why)
    delta = record.claim.delta
    if record.library is not None:
        return _with_library(record, record.library, delta, neighbors)
    if record.filter_orders:
        return _filtered(record, delta, neighbors)
    first = replace(record.phases[0], steps=1)
    total, renyi, psi = _bound(record, record.executed, delta, neighbors)
    one, _, _ = _bound(record, (first,), delta, neighbors)
    return Recomputed(total, one, renyi, neighbors, psi, "")


def _filtered(record: RunRecord, delta: Decimal, neighbors: Neighbors) -> Recomputed:
    """Behind individual filters only the Renyi curve of their bound is proved."""
    bound = _sampled(record.phases)
    laplace = any(phase.mechanism is Mechanism.LAPLACE for phase in record.phases)
    if bound is None or laplace or record.microbatch > 1:
        why = "individual filters are proved for single units and Gaussian noise"
        return Recomputed(None, None, None, neighbors, None, why)
    event = IndividuallyFiltered(bound, record.filter_orders)
    reason = rdp.unsupported_by_rdp(event, neighbors)
    if reason is not None:
        return Recomputed(None, None, None, neighbors, None, reason)
    epsilon = rdp.RdpAccountant().epsilon(event, delta, neighbors)
    total = Bound(epsilon, "RDP", "Poisson sampling, individual Renyi filters")
    return Recomputed(total, None, epsilon, neighbors, None, "")


def _with_library(
    record: RunRecord, library: Event, delta: Decimal, neighbors: Neighbors
) -> Recomputed:
    """Mechanisms that only dp-accounting has: the least bound of the accountants that know all."""
    event, why = _everything(record, library), ""
    if event is None:
        return Recomputed(None, None, None, neighbors, None, "noise too small to compute with")
    found: list[Bound] = []
    accountants: tuple[Accountant, ...] = (rdp.RdpAccountant(), PldAccountant())
    for accountant in accountants:
        reason = accountant.unsupported(event, neighbors)
        if reason is None and (accountant.name == "RDP" or delta >= DELTA_MIN):
            epsilon = accountant.epsilon(event, delta, neighbors)
            found.append(Bound(epsilon, accountant.name, "curves of dp-accounting"))
        why = reason or why
    if not found:
        return Recomputed(None, None, None, neighbors, None, why)
    renyi = next((item.epsilon for item in found if item.accountant == "RDP"), None)
    least = min(found, key=lambda item: item.epsilon)
    return Recomputed(least, None, renyi, neighbors, None, "")


def _everything(record: RunRecord, library: Event) -> Event | None:
    """The phases, behind their filters if there are any, and the library's mechanisms."""
    steps = [phase for phase in record.phases if phase.mechanism is Mechanism.GAUSSIAN]
    noisy = [phase for phase in record.phases if phase.mechanism is Mechanism.LAPLACE]
    sampled, unsampled = _sampled(steps), _unsampled(noisy)
    if sampled is None or unsampled is None:
        return None
    if record.filter_orders:
        sampled = IndividuallyFiltered(sampled, record.filter_orders)
    return Composed((sampled, unsampled, library))


def uncovered(record: RunRecord) -> str:
    """Why no bound of ours covers what was done; empty if one does."""
    if record.noise_reused:
        return "two parts of the run share their noise, and their difference cancels it"
    if realized_divisor(record):
        return "the divisor of the noisy sum is private itself"
    if record.weighting is Weighting.EXAMPLES:
        return "a client's weight, and with it the sensitivity, is not bounded by the clipping"
    if record.sampling is Sampling.UNKNOWN:
        return "the record does not say how units were sampled"
    return ""


def realized_divisor(record: RunRecord) -> bool:
    """Whether the divisor gives away what the analysis keeps private.

    It does not where every batch has the same public size and units are replaced, not removed.
    """
    public = record.claim.neighbors is _REPLACE and record.sampling in (
        Sampling.FIXED_SIZE,
        Sampling.SHUFFLED,
        Sampling.FULL,
    )
    return record.divisor is Divisor.REALIZED and not public


def claimed_part(record: RunRecord, found: Recomputed) -> Bound | None:
    """The bound that answers the claim: of one round where the claim is about one round."""
    return found.one_step if record.claim.scope is Scope.PER_ROUND else found.total


def epsilon_add_or_remove(record: RunRecord) -> Bound | None:
    """What the run would guarantee under AddOrRemoveOne: what forgetting the factor 2 gives."""
    unknown = record.library is not None or uncovered(record)
    if unknown or record.sampling not in (Sampling.POISSON, Sampling.FULL):
        return None
    return _bound(record, record.executed, record.claim.delta, _ADD)[0]


_Found = tuple[Bound, Decimal | None, float | None]


def _bound(
    record: RunRecord, phases: Sequence[Phase], delta: Decimal, neighbors: Neighbors
) -> _Found:
    # A microbatch swaps one clipped vector for another: 2 clip, under either relation.
    doubled = neighbors is _REPLACE or record.microbatch > 1
    used = [_relative(phase, Decimal(2) if doubled else Decimal(1)) for phase in phases]
    if any(phase.noise_multiplier < _NOISE_NONE for phase in used):
        return Bound(INFINITE, "exact", "a step without noise"), None, math.inf
    if any(phase.mechanism is Mechanism.LAPLACE for phase in used):
        return _by_events(_unsampled(used), delta, "every step counted as unsampled")
    match record.sampling:
        case Sampling.POISSON if any(phase.sample_rate < 1 for phase in used):
            return _poisson(record, phases, delta, neighbors)
        case Sampling.FIXED_SIZE:
            return _fixed_size(record, used, delta)
        case Sampling.SHUFFLED:
            return _exact(_once_per_epoch(record, used), delta, "each unit once per epoch")
        case _:
            return _exact(used, delta, "every unit in every step")


def _relative(phase: Phase, sensitivity: Decimal) -> Phase:
    """The phase with its noise relative to the true sensitivity, in clipping bounds."""
    return replace(phase, noise_multiplier=phase.noise_multiplier / sensitivity)


def _exact(phases: Sequence[Phase], delta: Decimal, basis: str) -> _Found:
    """Composed unsampled Gaussians are one Gaussian (privacy-theory.md 1.1, 1.7)."""
    psi = math.sqrt(math.fsum(phase.steps / float(phase.noise_multiplier) ** 2 for phase in phases))
    epsilon = profile.gaussian_epsilon(delta=float(delta), psi=psi * (1 + FLOAT_SLACK))
    curve = [order * psi * psi / 2 for order in rdp.DENSE_ORDERS]
    renyi, _ = rdp.epsilon_from_rdp(curve, rdp.DENSE_ORDERS, float(delta))
    return Bound(_up(epsilon), "exact Gaussian profile", basis), _up(renyi), psi


def _up(value: float) -> Decimal:
    """Rounded up, and without the ledger's cap: a claim may be wrong by any amount."""
    if not math.isfinite(value):
        return INFINITE
    return round_up(Decimal(value * (1 + FLOAT_SLACK)), EPSILON_PLACES)


def _sampled(phases: Sequence[Phase]) -> Event | None:
    if any(not _expressible(phase) for phase in phases):
        return None
    return Composed(
        tuple(
            Repeated(SubsampledGaussian(phase.noise_multiplier, phase.sample_rate), phase.steps)
            for phase in phases
        )
    )


def _unsampled(phases: Sequence[Phase]) -> Event | None:
    if any(not _expressible(phase) for phase in phases):
        return None
    return Composed(
        tuple(
            Repeated(
                Laplace(phase.noise_multiplier)
                if phase.mechanism is Mechanism.LAPLACE
                else Gaussian(phase.noise_multiplier),
                phase.steps,
            )
            for phase in phases
        )
    )


def _expressible(phase: Phase) -> bool:
    return NOISE_MULTIPLIER_MIN <= phase.noise_multiplier <= NOISE_MULTIPLIER_MAX


def _by_events(event: Event | None, delta: Decimal, basis: str) -> _Found:
    """PLD where it is feasible, RDP beside it; relations are already in the noise multipliers."""
    if event is None:
        return Bound(INFINITE, "none", "noise too small to compute with"), None, None
    renyi = rdp.RdpAccountant().epsilon(event, delta, _ADD)
    pld: Accountant = PldAccountant()
    if delta < DELTA_MIN or not _feasible(event, renyi):
        return Bound(renyi, "RDP", basis), renyi, None
    return Bound(min(renyi, pld.epsilon(event, delta, _ADD)), "PLD", basis), renyi, None


def _poisson(
    record: RunRecord, phases: Sequence[Phase], delta: Decimal, neighbors: Neighbors
) -> _Found:
    """Poisson sampling, never worse than no sampling at all."""
    doubled = neighbors is _REPLACE or record.microbatch > 1
    used = [_relative(phase, Decimal(2) if doubled else Decimal(1)) for phase in phases]
    exact = _exact(used, delta, "every unit in every step")
    if neighbors is _ADD:
        found = _by_events(_sampled(used), delta, "Poisson sampling")
    elif record.microbatch > 1:
        return exact  # The pair below needs a step without the unit to lie in the middle.
    else:
        found = _poisson_replace(_sampled(phases), delta)
    return found if found[0].epsilon <= exact[0].epsilon else exact


def _poisson_replace(event: Event | None, delta: Decimal) -> _Found:
    """Poisson under ReplaceOne: a pair of its own (1.11), which the PLD accountant knows."""
    basis = "Poisson sampling, one unit replaced"
    if event is None:
        return Bound(INFINITE, "none", basis), None, None
    renyi = _replaced(event, delta)
    # Four times the loss of the other relation, as for the Gaussian itself, sizes the grid.
    guess = rdp.RdpAccountant().epsilon(event, delta, _ADD) * 4
    if delta < DELTA_MIN or not _feasible(event, guess):
        return Bound(renyi, "RDP", basis), renyi, None
    pld = PldAccountant().epsilon(event, delta, _REPLACE)
    return Bound(min(pld, renyi), "PLD", basis), renyi, None


def _replaced(event: Event, delta: Decimal) -> Decimal:
    """A replacement as a removal and an addition: (2 epsilon, (1 + e^epsilon) delta) (1.11)."""
    found = INFINITE
    for epsilon in _REMOVALS:
        each = delta / (1 + Decimal(epsilon).exp())
        if (removed := rdp.RdpAccountant().epsilon(event, each, _ADD)) <= Decimal(epsilon):
            found = min(found, 2 * removed)
    return found


def _feasible(event: Event, epsilon: Decimal) -> bool:
    """Whether a loss distribution of this event fits into memory."""
    rates, losses = [1.0], [float(epsilon)]
    for leaf, _ in flatten(event):
        if isinstance(leaf, SubsampledGaussian):
            rates.append(float(leaf.sample_rate))
        if isinstance(leaf, Gaussian | SubsampledGaussian | Laplace):
            noise = float(leaf.noise_multiplier)
            losses.append(2 / noise**2 + 10 / noise)
    return max(losses) / interval_for(min(rates)) <= GRID_MAX


def _once_per_epoch(record: RunRecord, phases: Sequence[Phase]) -> list[Phase]:
    """The steps that any one unit can have been in, if each epoch goes through the data once."""
    counted = []
    for index, phase in enumerate(phases):
        if record.units is not None and record.batch_size is not None:
            batches = max(1, record.units // record.batch_size)
        else:
            batches = max(1, math.floor(1 / phase.sample_rate))
        # A later phase may begin in the middle of an epoch.
        epochs = -(-phase.steps // batches) + (1 if index else 0)
        counted.append(replace(phase, steps=min(phase.steps, epochs)))
    return counted


def _fixed_size(record: RunRecord, phases: Sequence[Phase], delta: Decimal) -> _Found:
    """Fixed-size steps (Wang, Balle & Kasiviswanathan 2019); ``phases`` relative to ReplaceOne."""
    exact, exact_renyi, _ = _exact(phases, delta, "every unit in every step")
    if record.units is None or record.batch_size is None:
        return exact, exact_renyi, None
    units, batch = record.units, record.batch_size
    least = min(float(phase.noise_multiplier) for phase in phases)
    orders = [o for o in _WHOLE_ORDERS if o * o / (2 * least**2) <= _DIGITS_LIMIT]
    if not orders:
        return exact, exact_renyi, None
    curve = [
        math.fsum(
            phase.steps
            * rdp_subsampled_fixed_size(
                order=order,
                dataset_size=units,
                batch_size=batch,
                noise_multiplier_replace_one=float(phase.noise_multiplier),
            )
            for phase in phases
        )
        for order in orders
    ]
    epsilon, _ = rdp.epsilon_from_rdp(curve, [float(order) for order in orders], float(delta))
    renyi = _up(epsilon)
    if renyi >= exact.epsilon:
        return exact, min(renyi, exact_renyi or renyi), None
    return Bound(renyi, "RDP", "fixed-size sampling without replacement"), renyi, None
