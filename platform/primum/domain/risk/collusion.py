"""Individual budgets: what a member loses by the choices of others, at its own (epsilon, delta).

IDP-SGD (Boenisch et al. 2023) gives groups budgets of their own. With *Scale* a member's curve
depends on its own noise multiplier alone. With *Sample* all share one noise, which everybody's
budgets decide together: each member keeps its (epsilon, delta), and its vulnerability elsewhere on
the curve is in the hands of the others (Kaiser et al. 2026; privacy-theory.md 7.4). The reference
here is the Scale curve at the same mean rate and steps. Must not be given anybody's budget by name:
groups, shares and rates only.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.quantities import parse_decimal
from primum.domain.risk import calibrate, divergence

SHARES_TOLERANCE = 1e-6  # Shares are exact in most records; a third is not.
RATE_TOLERANCE = 0.01  # The mean rate of the groups against the stated one.
EPSILON_TOLERANCE = 1e-3  # Relative: rates and noises are given to a few digits.
GROUPS_MAX = 8  # Each costs seconds of exact accounting.
_EXPOSURES_CACHED = 64


class Method(enum.StrEnum):
    """What carries the budgets of the groups."""

    SCALE = "Scale"  # Clipping bounds; rate in common.
    SAMPLE = "Sample"  # Sampling rates; noise in common.


@dataclass(frozen=True, slots=True)
class Group:
    """Members with one budget.

    Args:
        epsilon: Their budget, above 0.
        share: Of all members, above 0, at most 1.
        sample_rate: Poisson rate of each of them.
        noise_multiplier: Standard deviation of the noise over their clipping bound.
    """

    epsilon: Decimal
    share: Decimal
    sample_rate: Decimal
    noise_multiplier: Decimal


@dataclass(frozen=True, slots=True)
class IndividualBudgets:
    """Budgets of all members.

    Args:
        method: Scale or Sample.
        groups: At least one, at most eight.
        sample_rate: Mean Poisson rate over all members.
        excess_bound: The excess vulnerability that every member was promised at most, if it was.
    """

    method: Method
    groups: tuple[Group, ...]
    sample_rate: Decimal
    excess_bound: Decimal | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.groups) <= GROUPS_MAX:
            raise InvalidValue("groups", f"must be 1 to {GROUPS_MAX}", len(self.groups))
        for group in self.groups:
            for name in ("epsilon", "share", "sample_rate", "noise_multiplier"):
                if getattr(group, name) <= 0:
                    raise InvalidValue(f"groups.{name}", "must be above 0", getattr(group, name))
            if group.sample_rate > 1:
                raise InvalidValue("groups.sample_rate", "must be at most 1", group.sample_rate)
        shares = math.fsum(float(group.share) for group in self.groups)
        if abs(shares - 1) > SHARES_TOLERANCE:
            raise InvalidValue("groups.share", "must sum to 1", f"{shares:.6g}")
        mean = math.fsum(float(group.share * group.sample_rate) for group in self.groups)
        if abs(mean - float(self.sample_rate)) > RATE_TOLERANCE * float(self.sample_rate):
            raise InvalidValue(
                "groups.sample_rate",
                f"must have the mean {self.sample_rate}",
                f"{mean:.6g}",
                "The rates of the groups, weighted by their shares, are the run's.",
            )


@dataclass(frozen=True, slots=True)
class Exposure:
    """What a member of one group is exposed to.

    Args:
        group: The group.
        epsilon: Its true epsilon at delta, by loss distribution.
        excess: Delta(reference || actual): how much a Bayes adversary's error falls, over the
            worst prior, where the others' choices replace the Scale curve; 0 with Scale.
        cap: What the excess can come to whatever the others choose, from a Gaussian with the
            same (epsilon, delta) to the worst mechanism that has it. A promise above it is none.
        advantage_reference: Membership advantage under the reference.
        advantage: Membership advantage in this run.
    """

    group: Group
    epsilon: float
    excess: float
    cap: float
    advantage_reference: float
    advantage: float

    @property
    def within(self) -> bool:
        """Whether the group's budget holds."""
        return self.epsilon <= float(self.group.epsilon) * (1 + EPSILON_TOLERANCE)


def require_excess_bound(
    mechanism: Mapping[str, JSON], *, epsilon: Decimal, delta: Decimal
) -> None:
    """Refuse a plan with budgets by sampling that does not bound what others' choices may add.

    Our own kinds have no such budgets; a plug-in's may, under ``individualBudgets`` of its plan's
    mechanism. The promise has to be below what no choice of others could exceed anyway.

    Args:
        mechanism: The plan's facts for people and receipts.
        epsilon: The plan's claim.
        delta: Of the claim.

    Raises:
        InvalidValue: If the method is neither Scale nor one with a bound that says something.
    """
    if "individualBudgets" not in mechanism:
        return
    given = mechanism["individualBudgets"]
    field = "plan.mechanism.individualBudgets"
    if not isinstance(given, Mapping):
        raise InvalidValue(field, "must be an object", type(given).__name__)
    if given.get("method") == Method.SCALE.value:
        return
    if given.get("excessBound") is None:
        raise InvalidValue(
            f"{field}.excessBound",
            "must bound the excess vulnerability that the choices of others bring to a member",
            "nothing",
            "Without it (epsilon, delta) hides what colluding members can do. Or use Scale.",
        )
    bound = parse_decimal(f"{field}.excessBound", given["excessBound"])
    cap = divergence.delta_gaussian_to_epsilon_delta(epsilon=float(epsilon), delta=float(delta))
    if not 0 < bound < Decimal(cap):
        rule = f"must be above 0 and below {cap:.6f}, which holds without any promise"
        raise InvalidValue(f"{field}.excessBound", rule, str(bound))


def exposures(budgets: IndividualBudgets, *, delta: float, steps: int) -> tuple[Exposure, ...]:
    """What each group is exposed to, exactly, on the same distributions that give its epsilon.

    Takes seconds per group. Under add-or-remove-one, with Poisson sampling.

    Args:
        budgets: The groups.
        delta: Of every budget.
        steps: Of the run.

    Returns:
        One per group, in order.

    Raises:
        InvalidValue: If a budget is out of reach of any noise.
    """
    mean, method = float(budgets.sample_rate), budgets.method
    return tuple(_exposure(group, method, mean, delta, steps) for group in budgets.groups)


@functools.lru_cache(maxsize=_EXPOSURES_CACHED)
def _exposure(group: Group, method: Method, mean: float, delta: float, steps: int) -> Exposure:
    rate, noise = float(group.sample_rate), float(group.noise_multiplier)
    budget = float(group.epsilon)
    found = calibrate.remove_epsilon(q=rate, noise_multiplier=noise, steps=steps, delta=delta)
    planned = calibrate.noise_for_epsilon(epsilon=budget, delta=delta, q=mean, steps=steps)
    figures = divergence.excess_vulnerability(
        reference=(mean, planned), actual=(rate, noise), steps=steps
    )
    # Scale differs from its own reference by rounding, never by what others choose.
    by_others = method is Method.SAMPLE
    return Exposure(
        group=group,
        epsilon=found,
        excess=figures["delta_divergence"] if by_others else 0.0,
        cap=divergence.delta_gaussian_to_epsilon_delta(epsilon=budget, delta=delta),
        advantage_reference=figures["advantage_reference"],
        advantage=figures["advantage_actual"],
    )
