"""Noise for a target: an epsilon by PLD, an advantage, a TPR, or individual budgets.

Searches on exact curves (privacy-theory.md 1.12, 3.5, 7.4); each answer is the end of its bracket
where the target was seen to hold. It must not be used to fill a ledger: ``accounting.calibration``
rounds and recomputes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from primum.domain.accounting import pld, rdp
from primum.domain.errors import InvalidValue
from primum.domain.quantities import Neighbors
from primum.domain.risk import composition, tradeoff

_TOLERANCE = 2e-5  # Relative, of the answer.
_SEARCH_INTERVAL_LOW_NOISE = 2e-4  # Below noise 1, where losses are large and grids long.
_EVALUATIONS_MAX = 60
_NOISE_RANGE = (0.02, 1e4)
_RENYI_TOLERANCE = 1e-3
_RATE_LEAST = 1e-9
_RENYI_ORDERS = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0, 24.0, 32.0, 64.0, 256.0)


def _least(
    excess: Callable[[float], float],
    guess: float,
    limits: tuple[float, float],
    *,
    tolerance: float = _TOLERANCE,
    step: float = 0.1,
) -> float:
    """The least x with excess(x) <= 0, excess falling; bracket by steps, then Illinois on log x."""
    low = high = math.log(guess)
    f_low = f_high = excess(guess)
    while f_high > 0:
        low, f_low = high, f_high
        high += step
        step *= 2
        if high > math.log(limits[1]) + 1:
            raise InvalidValue("target", f"must be reachable below {limits[1]:g}", guess)
        f_high = excess(math.exp(high))
    while f_low <= 0:
        high, f_high = low, f_low
        low -= step
        step *= 2
        if low < math.log(limits[0]) - 1:
            return math.exp(high)
        f_low = excess(math.exp(low))
    weight_low, weight_high = f_low, f_high
    for _ in range(_EVALUATIONS_MAX):
        if high - low <= tolerance:
            break
        middle = low + (high - low) * weight_low / (weight_low - weight_high)
        # Never closer to an end than a share of the tolerance, so that the bracket itself shrinks.
        middle = min(max(middle, low + tolerance / 2), high - tolerance / 2)
        value = excess(math.exp(middle))
        if value > 0:
            low, weight_low, weight_high = middle, value, weight_high / 2
        else:
            high, weight_high, weight_low = middle, value, weight_low / 2
    return math.exp(high)


def pld_figures(*, q: float, noise_multiplier: float, steps: int, neighbors: Neighbors) -> Any:
    """The composed dp-accounting distribution of DP-SGD with float parameters."""
    single = pld.gaussian_step(
        sample_rate=q,
        noise_multiplier=noise_multiplier,
        interval=pld.interval_for(q),
        neighbors=neighbors,
    )
    return single.self_compose(steps)


def remove_epsilon(
    *,
    q: float,
    noise_multiplier: float,
    steps: int,
    delta: float,
    interval: float | None = None,
) -> float:
    """The epsilon at delta of the remove pair.

    The larger for Poisson sampling in every known case.
    """
    single = pld.gaussian_step(
        sample_rate=q,
        noise_multiplier=noise_multiplier,
        interval=pld.interval_for(q) if interval is None else interval,
        neighbors=Neighbors.ADD_OR_REMOVE_ONE,
    )
    pmf = single._pmf_remove.self_compose(steps, 1e-15)
    return float(pmf.get_epsilon_for_delta(delta))


def _renyi_noise(*, epsilon: float, delta: float, q: float, steps: int) -> float:
    """The noise that Renyi accounting asks for, some per cent too much; a quick start."""
    low, high = _NOISE_RANGE
    while high / low > 1 + _RENYI_TOLERANCE:
        middle = math.sqrt(low * high)
        curve = [
            steps * composition.rdp_subsampled_poisson(order=a, q=q, noise_multiplier=middle)
            for a in _RENYI_ORDERS
        ]
        found, _ = rdp.epsilon_from_rdp(curve, _RENYI_ORDERS, delta)
        low, high = (low, middle) if found <= epsilon else (middle, high)
    return high


def _renyi_rate(*, epsilon: float, delta: float, noise_multiplier: float, steps: int) -> float:
    """The sampling rate that Renyi accounting allows, some per cent too low; a quick start."""
    low, high = _RATE_LEAST, 1.0
    while high / low > 1 + _RENYI_TOLERANCE:
        middle = math.sqrt(low * high)
        curve = [
            steps
            * composition.rdp_subsampled_poisson(
                order=a, q=middle, noise_multiplier=noise_multiplier
            )
            for a in _RENYI_ORDERS
        ]
        found, _ = rdp.epsilon_from_rdp(curve, _RENYI_ORDERS, delta)
        low, high = (middle, high) if found <= epsilon else (low, middle)
    return low


def noise_for_epsilon(*, epsilon: float, delta: float, q: float, steps: int) -> float:
    """The least noise multiplier whose PLD epsilon is at most epsilon."""

    def excess(noise: float) -> float:
        found = remove_epsilon(q=q, noise_multiplier=noise, steps=steps, delta=delta)
        return math.log(max(found, 1e-9) / epsilon)

    guess = 0.95 * _renyi_noise(epsilon=epsilon, delta=delta, q=q, steps=steps)
    return _least(excess, guess, _NOISE_RANGE, step=0.03)


def noise_for_advantage(*, advantage: float, q: float, steps: int) -> float:
    """The least noise multiplier with at most this advantage."""

    def excess(noise: float) -> float:
        found = tradeoff.dpsgd_delta(q=q, noise_multiplier=noise, steps=steps, epsilon=0.0)
        return math.log(max(found, 1e-12) / advantage)

    return _least(excess, 1.0, _NOISE_RANGE)


def noise_for_tpr_at_fpr(*, fpr: float, tpr: float, q: float, steps: int) -> float:
    """The least noise multiplier with at most this TPR at this FPR.

    Also for reconstruction at kappa = FPR.
    """
    if tpr <= fpr:
        raise InvalidValue("tpr", "must be above fpr", tpr)

    def excess(noise: float) -> float:
        curve = tradeoff.dpsgd_curve(q=q, noise_multiplier=noise, steps=steps, fpr=[fpr])
        found = float(curve["tpr"][0])
        return math.log(max(found - fpr, 1e-12) / (tpr - fpr))

    return _least(excess, 1.0, _NOISE_RANGE)


def scale_parameters(
    *,
    budgets: Sequence[float],
    ratios: Sequence[float],
    delta: float,
    q: float,
    steps: int,
) -> dict[str, Any]:
    """Individual budgets by clipping: sigma_p per group, shared noise 1/sum(r_p/sigma_p).

    7.4, Scale.
    """
    noises = {
        budget: noise_for_epsilon(epsilon=budget, delta=delta, q=q, steps=steps)
        for budget in sorted(set(budgets))
    }
    group = [noises[budget] for budget in budgets]
    shared = 1 / math.fsum(r / s for r, s in zip(ratios, group, strict=True))
    return {
        "group_noise_multiplier": group,
        "shared_noise_multiplier": shared,
        "clip_factor": [shared / s for s in group],
    }


def sample_parameters(
    *,
    budgets: Sequence[float],
    ratios: Sequence[float],
    delta: float,
    expected_rate: float,
    steps: int,
) -> dict[str, Any]:
    """Individual budgets by sampling rates: one sigma.

    Q_p per group with sum r_p q_p as wanted (7.4, Sample).
    """
    rates: dict[float, float] = {}

    def rate_for(budget: float, noise: float) -> float:
        def excess(inverse_rate: float) -> float:
            rate = min(1.0, 1 / inverse_rate)
            found = remove_epsilon(
                q=rate,
                noise_multiplier=noise,
                steps=steps,
                delta=delta,
                interval=pld.INTERVAL_MAX if noise >= 1 else _SEARCH_INTERVAL_LOW_NOISE,
            )
            return math.log(max(found, 1e-9) / budget)

        start = rates.get(budget) or _renyi_rate(
            epsilon=budget, delta=delta, noise_multiplier=noise, steps=steps
        )
        return 1 / _least(excess, 1 / start, (1.0, 1e9), tolerance=2e-4, step=0.02)

    def shortage(noise: float) -> float:
        for budget in sorted(set(budgets)):
            rates[budget] = rate_for(budget, noise)
        mean = math.fsum(r * rates[b] for r, b in zip(ratios, budgets, strict=True))
        return math.log(expected_rate / mean)

    guess = _renyi_noise(
        epsilon=math.fsum(r * b for r, b in zip(ratios, budgets, strict=True)),
        delta=delta,
        q=expected_rate,
        steps=steps,
    )
    noise = _least(shortage, guess, _NOISE_RANGE, tolerance=2e-4)
    shortage(noise)
    return {"noise_multiplier": noise, "rates": [rates[budget] for budget in budgets]}
