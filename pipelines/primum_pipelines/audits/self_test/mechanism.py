"""The self-test of a training algorithm: subsampled Gaussian, seen from outside (methods, 6.4).

Catches a wrong noise scale, noise on part of the coordinates or steps, reused or shared noise,
missing or per-tensor clipping, noise per micro-batch, shuffled, fixed-size or block batches,
individual filters that are not enforced, and reports that differ from the plan. Accepted
false-alarm rate of one whole self-test: ``FALSE_ALARM_RATE``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

import numpy as np
from scipy import stats

from primum.domain.governance.evidence import Verdict
from primum_pipelines.audits.low_tail import tpr_bounds
from primum_pipelines.audits.self_test import statistics
from primum_pipelines.audits.self_test.filters import filter_checks, unseen_filters
from primum_pipelines.audits.self_test.statistics import Array, BoundAt, Check
from primum_pipelines.audits.self_test.toy import (
    Observed,
    ToyShape,
    UnobservableError,
    observe,
    pushed,
    toy_shape,
)
from primum_pipelines.optimization.algorithm import MechanismParameters, TrainingAlgorithm

FALSE_ALARM_RATE = 1e-4  # Of a whole self-test: one Study in ten thousand is stopped for nothing.
RUNS = 2  # Reused seeds show only between runs.
STEPS = 64  # With two runs and 1,024 coordinates more than 1e5 noise draws.
ONE_STEP_FPRS = (0.3, 0.1, 0.01)  # Thresholds fixed beforehand, from the planned noise.
COMPOSED_FPRS = (0.3, 0.05)
_CHECKS_MAX = 16  # Hypotheses that share the false-alarm rate.
LEVEL = FALSE_ALARM_RATE / _CHECKS_MAX


@dataclass(frozen=True, slots=True)
class SelfTestResult:
    """What a self-test came to.

    Args:
        verdict: Fail if any check failed; Inconclusive if something could not be seen.
        failed: Names of the failed checks.
        unresolved: Names of what could not be seen, and why.
        checks: Every check with its p-value; toy data, no patient in them.
        noise_draws: How many noise draws were looked at.
        steps: Steps of each run, and runs.
    """

    verdict: Verdict
    failed: tuple[str, ...]
    unresolved: tuple[str, ...]
    checks: tuple[Check, ...]
    noise_draws: int
    steps: int
    runs: int


def mechanism_self_test(
    algorithm: TrainingAlgorithm, mechanism: MechanismParameters
) -> SelfTestResult:
    """Whether an algorithm runs the planned subsampled Gaussian mechanism.

    Args:
        algorithm: What the Study trained with; its own ``fit`` is run.
        mechanism: The Study's planned noise multiplier (above 0), sampling rate, clipping bound and
            individual filters if it has any.

    Returns:
        The result. An algorithm that raises or hides its steps is Inconclusive, which no gate takes
        for a pass.
    """
    toy_mechanism = MechanismParameters(
        noise_multiplier=mechanism.noise_multiplier,
        sample_rate=mechanism.sample_rate,
        steps=STEPS,
        max_grad_norm=mechanism.max_grad_norm,
        clipping=mechanism.clipping,
    )
    shape = toy_shape(
        noise_multiplier=mechanism.noise_multiplier, sample_rate=mechanism.sample_rate
    )
    try:
        seen = observe(algorithm, toy_mechanism, shape=shape, runs=RUNS)
        filtered = filter_checks(algorithm, mechanism, runs=RUNS)
    except UnobservableError as problem:
        return _unseen(str(problem))
    except Exception as problem:  # noqa: BLE001 - a plug-in may raise anything; none of it is a pass
        return _unseen(f"the algorithm raised {type(problem).__name__}")
    checks = [
        *_noise_checks(seen, toy_mechanism),
        *_sampling_checks(seen, toy_mechanism, shape),
        *_curve_checks(seen, toy_mechanism),
        _report_check(seen, toy_mechanism),
        *filtered,
    ]
    failed = tuple(check.name for check in checks if check.p_value < LEVEL)
    unresolved = (*_unresolved(toy_mechanism, shape), *unseen_filters(mechanism, runs=RUNS))
    verdict = Verdict.INCONCLUSIVE if unresolved else Verdict.PASS
    return SelfTestResult(
        verdict=Verdict.FAIL if failed else verdict,
        failed=failed,
        unresolved=unresolved,
        checks=tuple(checks),
        noise_draws=seen.noise.size,
        steps=STEPS,
        runs=RUNS,
    )


def _unseen(reason: str) -> SelfTestResult:
    return SelfTestResult(Verdict.INCONCLUSIVE, (), (reason,), (), 0, STEPS, RUNS)


def _noise_checks(seen: Observed, mechanism: MechanismParameters) -> list[Check]:
    noise = seen.noise / mechanism.noise_multiplier
    return [
        Check("NoiseScale", statistics.noise_scale(noise)),
        Check("NoiseOnEveryCoordinate", statistics.noise_everywhere(noise)),
        Check("NoiseOnEveryStep", statistics.noise_every_step(noise)),
        Check("NoiseIndependentOverCoordinates", statistics.noise_independent(noise)),
        Check("NoiseFreshOverStepsAndRuns", statistics.fresh(noise)),
    ]


def _sampling_checks(
    seen: Observed, mechanism: MechanismParameters, shape: ToyShape
) -> list[Check]:
    """Participation, in sums of clipped gradients: binomial counts plus noise of known variance."""
    q, n, g = mechanism.sample_rate, shape.group_units, shape.groups
    noise = mechanism.noise_multiplier**2
    push = pushed(mechanism)
    mean, spread = n * q * push, n * q * (1 - q) * push**2
    groups = seen.groups
    batches = groups.sum(axis=1)
    totals = groups.reshape(RUNS, seen.steps, g).sum(axis=1)
    checks = [
        Check(
            "ClippedSumAsPlanned",
            statistics.mean_is(groups, mean=mean, variance=spread + noise),
        ),
        Check(
            "BatchSizePoisson",
            statistics.variance_is(batches, mean=g * mean, variance=g * (spread + noise)),
        ),
        Check(
            "GroupsSampledIndependently",
            statistics.variance_is(groups, mean=mean, variance=spread + noise),
        ),
        Check(
            "ParticipationPoisson",
            statistics.variance_is(
                totals, mean=seen.steps * mean, variance=seen.steps * (spread + noise)
            ),
        ),
    ]
    if spread > noise:
        # Directions of batch counts say something only where sampling is more than noise.
        checks.append(Check("SamplingFreshOverStepsAndRuns", statistics.fresh(groups - mean)))
    return checks


def _curve_checks(seen: Observed, mechanism: MechanismParameters) -> list[Check]:
    """The observed trade-off curve on neighboring toy data, each single unit being one neighbor.

    Units that own a coordinate are independent trials: the mechanism factorizes over coordinates.
    """
    present, absent = seen.present, seen.absent
    one_step = partial(_one_step_bound, q=mechanism.sample_rate, sigma=mechanism.noise_multiplier)
    level = LEVEL / (len(ONE_STEP_FPRS) + len(COMPOSED_FPRS))
    over = _above_anywhere(
        present,
        absent,
        std=mechanism.noise_multiplier,
        fprs=ONE_STEP_FPRS,
        bound_at=one_step,
        level=level,
    )
    whole = (RUNS, seen.steps, -1)
    composed = _above_anywhere(
        present.reshape(whole).sum(axis=1),
        absent.reshape(whole).sum(axis=1),
        std=mechanism.noise_multiplier * math.sqrt(seen.steps),
        fprs=COMPOSED_FPRS,
        bound_at=_composed_bound(mechanism),
        level=level,
    )
    # The decision was made at its level; a p-value of 0 or 1 says which.
    return [
        Check("TradeOffOfOneStep", 0.0 if over else 1.0),
        Check("TradeOffOfAllSteps", 0.0 if composed else 1.0),
    ]


def _above_anywhere(
    present: Array,
    absent: Array,
    *,
    std: float,
    fprs: tuple[float, ...],
    bound_at: BoundAt,
    level: float,
) -> bool:
    return any(
        statistics.above_curve(
            present.ravel(),
            absent.ravel(),
            threshold=std * float(stats.norm.isf(fpr)),
            bound_at=bound_at,
            level=level,
        )
        for fpr in fprs
    )


def _one_step_bound(fpr: float, *, q: float, sigma: float) -> float:
    """TPR of one Poisson-subsampled Gaussian step, remove direction (privacy-theory, 3.1)."""
    return float((1 - q) * fpr + q * stats.norm.cdf(stats.norm.ppf(fpr) + 1 / sigma))


def _composed_bound(mechanism: MechanismParameters) -> BoundAt:
    """TPR of all steps, from the composed privacy loss distribution (privacy-theory, 3.2)."""

    def bound(fpr: float) -> float:
        return tpr_bounds(mechanism, fprs=[fpr])[0]

    return bound


def _report_check(seen: Observed, mechanism: MechanismParameters) -> Check:
    """Whether the algorithm says that it did what was asked. A receipt is written from this."""
    planned = (mechanism.noise_multiplier, mechanism.sample_rate, mechanism.steps)
    true = all(
        report.sampling == "Poisson"
        and report.max_grad_norm <= mechanism.max_grad_norm
        and sum(run[2] for run in report.executed) == planned[2]
        and all(np.allclose(run[:2], planned[:2], rtol=1e-9) for run in report.executed)
        for report in seen.reports
    )
    return Check("ReportAsPlanned", 1.0 if true else 0.0)


def _unresolved(mechanism: MechanismParameters, shape: ToyShape) -> tuple[str, ...]:
    """What this toy could not have seen, by the power of its tests."""
    q = mechanism.sample_rate
    if q == 1:
        return ()  # Everybody takes part in every step: there is no sampling to test.
    visible = statistics.constant_is_visible(
        sampling=shape.group_units * q * (1 - q),
        noise=mechanism.noise_multiplier**2,
        degrees=RUNS * STEPS,
        level=LEVEL,
    )
    if visible:
        return ()
    return (f"the sampling does not show above noise multiplier {_text(mechanism)}",)


def _text(mechanism: MechanismParameters) -> str:
    return str(Decimal(f"{mechanism.noise_multiplier:.6g}"))
