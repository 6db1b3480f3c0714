"""One function per known way of claiming more than was guaranteed; each gives a stable code.

A finding says what was found with the true value beside the claim. It must not decide the verdict,
and it must not show a seed: whoever has it has the noise.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from primum.domain.conformance import recomputing
from primum.domain.conformance.recomputing import Bound, Recomputed
from primum.domain.conformance.records import (
    Accounting,
    Divisor,
    RunRecord,
    Sampling,
    Scope,
    Weighting,
)
from primum.domain.quantities import Neighbors
from primum.domain.risk.collusion import Exposure, Method
from primum.domain.risk.composition import clt_mu_poisson
from primum.domain.risk.gaussian import gaussian_epsilon

_SAME = 0.02  # Two epsilons meant to be the same differ by rounding only.
_CLASSIC_BELOW = 1  # The classic formula is proved for epsilon below 1.


class Severity(enum.StrEnum):
    """How much of the claim is left."""

    BREAKS = "Breaks"  # The claim rests on something that was not so.
    WEAKENS = "Weakens"  # The claim's reasoning holds, its number does not.
    WARNS = "Warns"  # The number holds; somebody should look.


class Code(enum.StrEnum):
    """What can be wrong. Codes are stable: scripts and reports rely on them."""

    POISSON_NOT_USED = "PoissonNotUsed"
    SAMPLING_UNKNOWN = "SamplingUnknown"
    SENSITIVITY_BELOW_CLIP = "SensitivityBelowClip"
    REPLACE_ONE_FACTOR_TWO = "ReplaceOneFactorTwo"
    CLASSIC_GAUSSIAN = "ClassicGaussianFormula"
    PER_ROUND_AS_TOTAL = "PerRoundAsTotal"
    MICROBATCHING = "Microbatching"
    REALIZED_DIVISOR = "RealizedBatchDivision"
    UNEQUAL_WEIGHTS = "UnequalWeights"
    NOISE_REUSED = "NoiseReused"
    CENTRAL_LIMIT = "CentralLimitApproximation"
    ACCOUNTANT_MISMATCH = "AccountantMismatch"
    DELTA_TOO_LARGE = "DeltaNotBelowOneOverN"
    UNIT_MISMATCH = "UnitMismatch"
    STEPS_MISSING = "StepsMissing"
    NEIGHBORS_MISMATCH = "NeighborsMismatch"
    NO_NOISE = "NoNoise"
    CONTRADICTION = "RecordContradictsItself"
    INDIVIDUAL_BUDGET_EXCEEDED = "IndividualBudgetExceeded"
    COLLUSION = "CollusionVulnerability"
    EXCESS_ABOVE_BOUND = "ExcessAboveBound"
    EPSILON_UNDERSTATED = "EpsilonUnderstated"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Args:
        code: What.
        severity: How bad, in this record.
        message: For people.
        claimed: What the record says or assumes.
        actual: What is so.
    """

    code: Code
    severity: Severity
    message: str
    claimed: str
    actual: str


@dataclass(frozen=True, slots=True)
class Situation:
    """A record, what was recomputed, and whether the claim's numbers hold as stated."""

    record: RunRecord
    found: Recomputed
    holds: bool
    exposures: tuple[Exposure, ...] = ()

    @property
    def epsilon(self) -> str:
        """The true epsilon for people."""
        bound = recomputing.claimed_part(self.record, self.found)
        return shown(bound, self.found.neighbors)

    @property
    def claimed(self) -> str:
        """The claimed epsilon for people."""
        return f"epsilon {self.record.claim.epsilon}"

    def unless_holds(self, severity: Severity) -> Severity:
        """The severity, or a warning where the number holds all the same."""
        return Severity.WARNS if self.holds else severity


def shown(bound: Bound | None, neighbors: Neighbors) -> str:
    """A bound for people."""
    if bound is None:
        return "no bound of ours"
    value = bound.epsilon
    text = "infinite" if not value.is_finite() else format(value.normalize(), "f")
    return f"epsilon {text} ({neighbors.value})"


def _poisson(now: Situation) -> Finding | None:
    record = now.record
    fixed = record.sampling in (Sampling.FIXED_SIZE, Sampling.SHUFFLED)
    if record.assumed_sampling is not Sampling.POISSON or not fixed:
        return None
    return Finding(
        Code.POISSON_NOT_USED,
        now.unless_holds(Severity.BREAKS),
        f"The accounting assumes Poisson sampling; the batches were {record.sampling.value}. "
        "The bound for what was used holds under ReplaceOne.",
        f"{now.claimed} ({record.claim.neighbors.value}, Poisson)",
        now.epsilon,
    )


def _neighbors(now: Situation) -> Finding | None:
    record, claim = now.record, now.record.claim
    if now.found.neighbors is claim.neighbors or record.assumed_sampling is Sampling.POISSON:
        return None
    return Finding(
        Code.NEIGHBORS_MISMATCH,
        Severity.BREAKS,
        f"With {record.sampling.value} batches a bound of ours holds under ReplaceOne only.",
        f"{now.claimed} ({claim.neighbors.value})",
        now.epsilon,
    )


def _sampling_unknown(now: Situation) -> Finding | None:
    if now.record.sampling is not Sampling.UNKNOWN:
        return None
    return Finding(
        Code.SAMPLING_UNKNOWN,
        Severity.BREAKS,
        "The record does not show how units were sampled. Describe the data loader.",
        f"{now.record.assumed_sampling.value} sampling",
        "unknown sampling, no bound of ours",
    )


def _sensitivity(now: Situation) -> Finding | None:
    record = now.record
    if record.sensitivity is None or record.clip is None or record.sensitivity >= record.clip:
        return None
    return Finding(
        Code.SENSITIVITY_BELOW_CLIP,
        now.unless_holds(Severity.BREAKS),
        "The noise was calibrated to a sensitivity below the clipping bound, which alone bounds a "
        "contribution.",
        f"sensitivity {record.sensitivity}, {now.claimed}",
        f"clipping bound {record.clip}, {now.epsilon}",
    )


def _factor_two(now: Situation) -> Finding | None:
    record = now.record
    if record.claim.neighbors is not Neighbors.REPLACE_ONE or record.microbatch > 1:
        return None
    stated, clip = record.sensitivity, record.clip
    short = stated is not None and clip is not None and clip <= stated < 2 * clip
    if not short and not now.holds and record.claim.scope is Scope.TOTAL:
        single = recomputing.epsilon_add_or_remove(record)
        short = single is not None and agrees(single.epsilon, record.claim.epsilon)
    if not short:
        return None
    return Finding(
        Code.REPLACE_ONE_FACTOR_TWO,
        now.unless_holds(Severity.WEAKENS),
        "Replacing one unit moves a clipped sum by twice the clipping bound; the claim counts it "
        "once.",
        now.claimed,
        now.epsilon,
    )


def _classic(now: Situation) -> Finding | None:
    claim = now.record.claim
    if claim.accounting is not Accounting.CLASSIC or claim.epsilon < _CLASSIC_BELOW:
        return None
    return Finding(
        Code.CLASSIC_GAUSSIAN,
        now.unless_holds(Severity.WEAKENS),
        "The classic Gaussian formula is proved for epsilon below 1 only. One round, exactly, "
        "beside it.",
        now.claimed,
        shown(now.found.one_step, now.found.neighbors),
    )


def _per_round(now: Situation) -> Finding | None:
    record, one = now.record, now.found.one_step
    steps = sum(phase.steps for phase in record.executed)
    if steps == 1 or one is None:
        return None
    by_formula = record.claim.accounting is Accounting.CLASSIC
    if record.claim.scope is Scope.TOTAL and not now.holds:
        if not by_formula and not agrees(one.epsilon, record.claim.epsilon):
            return None
        severity, message = (
            Severity.WEAKENS,
            f"The claimed epsilon is that of one step; the run had {steps}.",
        )
    elif record.claim.scope is Scope.PER_ROUND:
        severity, message = (
            Severity.WARNS,
            f"The claim is about one round of {steps}; the whole run is beside it.",
        )
    else:
        return None
    return Finding(
        Code.PER_ROUND_AS_TOTAL,
        severity,
        message,
        now.claimed,
        f"{shown(now.found.total, now.found.neighbors)} over {steps} steps",
    )


def _microbatching(now: Situation) -> Finding | None:
    if now.record.microbatch == 1:
        return None
    return Finding(
        Code.MICROBATCHING,
        now.unless_holds(Severity.WEAKENS),
        f"Gradients are averaged over {now.record.microbatch} units before clipping, so one unit "
        "can turn a clipped vector around: the sensitivity is twice the clipping bound.",
        now.claimed,
        now.epsilon,
    )


def _divisor(now: Situation) -> Finding | None:
    if not recomputing.realized_divisor(now.record):
        return None
    return Finding(
        Code.REALIZED_DIVISOR,
        Severity.BREAKS,
        "The noisy sum is divided by the realized batch size, which is private. Divide by the "
        "expected size.",
        f"{Divisor.EXPECTED.value} batch size, {now.claimed}",
        "no bound of ours",
    )


def _weights(now: Situation) -> Finding | None:
    if now.record.weighting is not Weighting.EXAMPLES:
        return None
    return Finding(
        Code.UNEQUAL_WEIGHTS,
        Severity.BREAKS,
        "Clients are weighted by their number of examples; clipping bounds an equally weighted "
        "client only.",
        f"equal weights, {now.claimed}",
        "no bound of ours",
    )


def _noise_reused(now: Situation) -> Finding | None:
    if not now.record.noise_reused:
        return None
    return Finding(
        Code.NOISE_REUSED,
        Severity.BREAKS,
        "A restart or a process drew the same noise again; the difference of two such results "
        "has none.",
        f"fresh noise, {now.claimed}",
        "no bound of ours",
    )


def _central_limit(now: Situation) -> Finding | None:
    record = now.record
    sampled = any(phase.sample_rate < 1 for phase in record.phases)
    if record.claim.accounting is not Accounting.GDP or not sampled:
        return None
    return Finding(
        Code.CENTRAL_LIMIT,
        now.unless_holds(Severity.WEAKENS),
        "The GDP accountant of a sampled mechanism is a central limit theorem, not a bound"
        f"{_limit(record)}.",
        now.claimed,
        now.epsilon,
    )


def _limit(record: RunRecord) -> str:
    """What the approximation says about this run."""
    if any(phase.noise_multiplier < Decimal("0.05") for phase in record.phases):
        return ""  # e^(1/sigma^2) leaves the range of a float.
    squares = math.fsum(
        clt_mu_poisson(
            q=float(phase.sample_rate),
            noise_multiplier=float(phase.noise_multiplier),
            steps=phase.steps,
        )
        ** 2
        for phase in record.phases
    )
    epsilon = gaussian_epsilon(delta=float(record.claim.delta), psi=math.sqrt(squares))
    return f"; it gives {epsilon:.4g} here"


def _accountant(now: Situation) -> Finding | None:
    chosen, reported = now.record.calibrated_with, now.record.claim.accounting
    if chosen is Accounting.UNSTATED or chosen is reported:
        return None
    return Finding(
        Code.ACCOUNTANT_MISMATCH,
        Severity.WARNS,
        "The noise was chosen with one accountant and epsilon reported by another. State one.",
        f"{reported.value}, {now.claimed}",
        f"calibrated with {chosen.value}, {now.epsilon}",
    )


def _delta(now: Situation) -> Finding | None:
    units, delta = now.record.units, now.record.claim.delta
    if units is None or delta * units < 1:
        return None
    return Finding(
        Code.DELTA_TOO_LARGE,
        Severity.WARNS,
        "Such a delta allows a mechanism that publishes one unit outright.",
        f"delta {delta}",
        f"1/n is {1 / units:.3g} for {units} units",
    )


def _unit(now: Situation) -> Finding | None:
    record = now.record
    if record.claim.unit is record.unit:
        return None
    return Finding(
        Code.UNIT_MISMATCH,
        Severity.BREAKS,
        "The claim protects another unit than the one that was clipped and sampled.",
        f"{now.claimed} per {record.claim.unit.value}",
        f"{now.epsilon} per {record.unit.value}",
    )


def _steps(now: Situation) -> Finding | None:
    missing = now.record.missing_steps
    if not missing:
        return None
    counted = now.record.accounted_steps
    return Finding(
        Code.STEPS_MISSING,
        now.unless_holds(Severity.WEAKENS),
        f"{missing} steps ran after a checkpoint that was gone back to, or were not counted.",
        f"{counted} steps, {now.claimed}",
        f"{counted + missing} steps, {now.epsilon}",
    )


def _no_noise(now: Situation) -> Finding | None:
    if all(phase.noise_multiplier for phase in now.record.phases):
        return None
    return Finding(
        Code.NO_NOISE, Severity.BREAKS, "A step added no noise.", now.claimed, "epsilon infinite"
    )


def _contradiction(now: Situation) -> Finding | None:
    if not now.record.mismatches:
        return None
    said = "; ".join(now.record.mismatches)
    return Finding(
        Code.CONTRADICTION,
        Severity.BREAKS,
        f"The record contradicts itself: {said}.",
        now.claimed,
        now.epsilon,
    )


def _individual(now: Situation) -> Finding | None:
    over = [item for item in now.exposures if not item.within]
    if not over:
        return None
    worst = max(over, key=lambda item: item.epsilon / float(item.group.epsilon))
    return Finding(
        Code.INDIVIDUAL_BUDGET_EXCEEDED,
        Severity.WEAKENS,
        f"{len(over)} of {len(now.exposures)} groups get less than their individual budget.",
        f"epsilon {worst.group.epsilon} for {worst.group.share} of the members",
        f"epsilon {worst.epsilon:.6g}",
    )


def _collusion(now: Situation) -> Finding | None:
    budgets = now.record.individual
    if budgets is None or budgets.method is not Method.SAMPLE or not now.exposures:
        return None
    worst = max(now.exposures, key=lambda item: item.excess)
    return Finding(
        Code.COLLUSION,
        Severity.WARNS,
        "Budgets carried by sampling rates: a member keeps its (epsilon, delta), but how "
        "vulnerable it is elsewhere on the curve is decided by what the others choose. With Scale "
        "(clipping bounds) it is not. The excess is how much an adversary's error falls against "
        "Scale.",
        f"epsilon {worst.group.epsilon} for {worst.group.share} of the members, whatever others do",
        f"excess {worst.excess:.4g} here, up to {worst.cap:.4g} by others' choices; membership "
        f"advantage {worst.advantage:.4g} instead of {worst.advantage_reference:.4g}",
    )


def _excess(now: Situation) -> Finding | None:
    bound = now.record.individual.excess_bound if now.record.individual else None
    over = [item for item in now.exposures if bound is not None and item.excess > float(bound)]
    if not over:
        return None
    worst = max(over, key=lambda item: item.excess)
    return Finding(
        Code.EXCESS_ABOVE_BOUND,
        Severity.WEAKENS,
        "A member was promised a bound on the excess that others' choices bring, and this run is "
        "above it. Raise the noise, or use Scale.",
        f"excess at most {bound}",
        f"excess {worst.excess:.4g} for budget {worst.group.epsilon}",
    )


CHECKS: tuple[Callable[[Situation], Finding | None], ...] = (
    _poisson,
    _neighbors,
    _sampling_unknown,
    _sensitivity,
    _factor_two,
    _classic,
    _per_round,
    _microbatching,
    _divisor,
    _weights,
    _noise_reused,
    _central_limit,
    _accountant,
    _delta,
    _unit,
    _steps,
    _no_noise,
    _contradiction,
    _individual,
    _collusion,
    _excess,
)


def agrees(first: Decimal, second: Decimal) -> bool:
    """Whether two epsilons are the same figure, rounding apart."""
    if not first.is_finite():
        return False
    return math.isclose(float(first), float(second), rel_tol=_SAME)
