"""Whether an algorithm enforces individual filters: units that saturate the bound leave on time.

On the toy every unit pushes by exactly the clipping bound in every step, so each of them may take
part in the first ``bound_steps`` steps and in no later one. Sees toy data only.
"""

from __future__ import annotations

import math
from dataclasses import replace

from primum_pipelines.audits.self_test import statistics
from primum_pipelines.audits.self_test.statistics import Array, Check
from primum_pipelines.audits.self_test.toy import ToyShape, observe
from primum_pipelines.optimization.algorithm import (
    IndividualFilter,
    MechanismParameters,
    TrainingAlgorithm,
)
from primum_pipelines.optimization.settings import ClippingRule

STEPS = 32
BOUND_STEPS = 16  # Of the toy: half of its steps.
GROUPS = 8
SINGLES = 32
GROUP_UNITS_MAX = 2048  # A step with filters looks at every unit.
VISIBLE = 8.0  # Standard errors: beyond the level of a check by more than three.


def filter_checks(
    algorithm: TrainingAlgorithm, mechanism: MechanismParameters, *, runs: int
) -> list[Check]:
    """Check that saturating units take part before their bound is reached and never after.

    Args:
        algorithm: What the Study trained with; its own ``fit`` is run.
        mechanism: The Study's noise multiplier, sampling rate, clipping bound and filter.
        runs: Independent runs.

    Returns:
        Nothing where the mechanism has no filters.

    Raises:
        UnobservableError: If the steps cannot be seen.
    """
    if mechanism.individual is None:
        return []
    rule = IndividualFilter(BOUND_STEPS, mechanism.individual.orders)
    q, sigma = mechanism.sample_rate, mechanism.noise_multiplier
    units = _group_units(mechanism)
    # A filter looks at lengths after clipping; under flat clipping the toy's units saturate.
    toy = replace(mechanism, steps=STEPS, individual=rule, clipping=ClippingRule.FLAT)
    seen = observe(algorithm, toy, shape=ToyShape(GROUPS, units, SINGLES), runs=runs)
    mean, variance = units * q, units * q * (1 - q) + sigma**2
    before, after = _halves(seen.groups, runs=runs)
    same = all(report.individual == rule for report in seen.reports)
    return [
        Check(
            "EveryUnitTakesPartUpToItsBound",
            statistics.mean_is(before, mean=mean, variance=variance),
        ),
        Check(
            "SaturatingUnitsLeaveAtTheirBound",
            statistics.mean_is(after, mean=0.0, variance=sigma**2),
        ),
        Check("FilterReportedAsPlanned", 1.0 if same else 0.0),
    ]


def unseen_filters(mechanism: MechanismParameters, *, runs: int) -> tuple[str, ...]:
    """What this toy could not have seen of the filters, as a reason; nothing if it saw all."""
    if mechanism.individual is None:
        return ()
    push = _group_units(mechanism) * mechanism.sample_rate
    sums = runs * (STEPS - BOUND_STEPS) * GROUPS
    if push * math.sqrt(sums) / mechanism.noise_multiplier >= VISIBLE:
        return ()
    return ("a unit that stays beyond its bound does not show above the noise",)


def _group_units(mechanism: MechanismParameters) -> int:
    """Units of a group: enough that the group pushes about as much as the noise."""
    wanted = math.ceil(mechanism.noise_multiplier / mechanism.sample_rate)
    return min(GROUP_UNITS_MAX, max(1, wanted))


def _halves(sums: Array, *, runs: int) -> tuple[Array, Array]:
    """The sums of the steps up to the bound and of those after it, over all runs."""
    by_run = sums.reshape(runs, STEPS, -1)
    return by_run[:, :BOUND_STEPS], by_run[:, BOUND_STEPS:]
