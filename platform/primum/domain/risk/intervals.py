"""Binomial confidence intervals. Trials must be independent.

Dependent scores have no place here.
"""

from __future__ import annotations

import math

from primum.domain.errors import InvalidValue


def _require(successes: int, trials: int) -> None:
    if trials < 1:
        raise InvalidValue("trials", "must be at least 1", trials)
    if not 0 <= successes <= trials:
        raise InvalidValue("successes", f"must be from 0 to {trials}", successes)


def clopper_pearson_one_sided(
    *, successes: int, trials: int, tail_probability: float
) -> dict[str, float]:
    """Exact bounds, each wrong with at most the tail probability (Clopper & Pearson 1934).

    Args:
        successes: From 0 to trials.
        trials: Independent trials, at least 1.
        tail_probability: Of each side, above 0 and below 1.

    Returns:
        ``lower`` and ``upper``.

    Raises:
        InvalidValue: If a count is out of range.
    """
    from scipy import special

    _require(successes, trials)
    if not 0 < tail_probability < 1:
        raise InvalidValue("tail_probability", "must be above 0 and below 1", tail_probability)
    rest = trials - successes
    lower = 0.0 if successes == 0 else special.betaincinv(successes, rest + 1, tail_probability)
    upper = 1.0 if rest == 0 else special.betainccinv(successes + 1, rest, tail_probability)
    return {"lower": float(lower), "upper": float(upper)}


def wilson(*, successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """Two-sided Wilson score interval, for display; not exact, so never for an audit's verdict."""
    from scipy import special

    _require(successes, trials)
    z = float(special.ndtri((1 + confidence) / 2))
    rate = successes / trials
    center = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    spread = math.sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2)
    half = z * spread / (1 + z * z / trials)
    return max(0.0, center - half), min(1.0, center + half)
