"""The self-test of one Gaussian release: a function that adds noise once to a sum.

For mechanisms that are one function call and not a training algorithm. Accepted false-alarm rate as
in ``mechanism``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from primum.domain.governance.evidence import Verdict
from primum_pipelines.audits.self_test import statistics
from primum_pipelines.audits.self_test.mechanism import FALSE_ALARM_RATE, SelfTestResult
from primum_pipelines.audits.self_test.statistics import Array, Check

COORDINATES = 1024  # A power of two, for the test of independence.
DRAWS = 128  # Times 1,024 coordinates: more than 1e5 noise draws.
SHIFT = 1000.0  # A total far from zero: noise must not depend on it.
_CHECKS = 8
LEVEL = FALSE_ALARM_RATE / _CHECKS


def gaussian_release_self_test(
    release: Callable[[Array], Array], *, noise_multiplier: float
) -> SelfTestResult:
    """Whether a function releases its argument plus fresh N(0, noise_multiplier^2) noise.

    Args:
        release: Maps a sum ``(1024,)`` to its release ``(1024,)``, in units of the sensitivity.
        noise_multiplier: The planned noise multiplier, above 0.

    Returns:
        The result. A release that raises or changes shape is Inconclusive.
    """
    totals = np.zeros((DRAWS, COORDINATES))
    totals[DRAWS // 2 :] = SHIFT
    try:
        seen = np.stack([np.asarray(release(total), dtype=np.float64) for total in totals])
        noise = (seen - totals) / noise_multiplier
    except Exception as problem:  # noqa: BLE001 - a plug-in may raise anything; none of it is a pass
        reason = f"the release raised {type(problem).__name__}"
        return SelfTestResult(Verdict.INCONCLUSIVE, (), (reason,), (), 0, 1, DRAWS)
    checks = (
        Check("NoiseScale", statistics.noise_scale(noise)),
        Check("NoiseOnEveryCoordinate", statistics.noise_everywhere(noise)),
        Check("NoiseOnEveryRelease", statistics.noise_every_step(noise)),
        Check("NoiseIndependentOverCoordinates", statistics.noise_independent(noise)),
        Check("NoiseFreshOverReleases", statistics.fresh(noise)),
        Check("SumUnbiased", statistics.mean_is(noise, mean=0.0, variance=1.0)),
    )
    failed = tuple(check.name for check in checks if not check.p_value >= LEVEL)
    return SelfTestResult(
        verdict=Verdict.FAIL if failed else Verdict.PASS,
        failed=failed,
        unresolved=(),
        checks=checks,
        noise_draws=noise.size,
        steps=1,
        runs=DRAWS,
    )
