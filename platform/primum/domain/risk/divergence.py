"""Comparing two mechanisms over all priors: the excess vulnerability of one over a reference.

Delta(ref || act) = max over priors of [R_ref - R_act]_+ (Kaissis et al. 2024): how much a Bayes
adversary's error falls when *act* replaces *ref*. 0 means at least as private everywhere. It must
not be read off a single (epsilon, delta).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from primum.domain.accounting import pld
from primum.domain.accounting.profile import gaussian_delta, gaussian_psi
from primum.domain.risk import gaussian, tradeoff

_GRID = 2000  # Priors on each of two grids: uniform, and uniform in log-odds.
_LOG_ODDS_MOST = 20.0
_REFINEMENTS = 60


def delta_gdp(*, mu_reference: float, mu_actual: float) -> float:
    """Phi(-mu_ref/2) - Phi(-mu_act/2), at least 0."""
    return max(0.0, (gaussian.advantage(mu_actual) - gaussian.advantage(mu_reference)) / 2)


def _greatest_gap(reference: Callable[[float], float], actual: Callable[[float], float]) -> float:
    """Max over log-odds of R_ref - R_act: a grid.

    Then golden-section search around its best points.
    """
    odds = [_LOG_ODDS_MOST * (2 * i / _GRID - 1) for i in range(_GRID + 1)]
    odds += [math.log(i / (_GRID - i)) for i in range(1, _GRID)]
    odds = sorted(set(odds))
    gaps = [reference(t) - actual(t) for t in odds]
    best = 0.0
    order = sorted(range(len(odds)), key=lambda i: -gaps[i])[:3]
    for i in order:
        low, high = odds[max(0, i - 1)], odds[min(len(odds) - 1, i + 1)]
        for _ in range(_REFINEMENTS):
            a, b = low + (high - low) * 0.382, low + (high - low) * 0.618
            if reference(a) - actual(a) < reference(b) - actual(b):
                low = a
            else:
                high = b
        best = max(best, gaps[i], reference(low) - actual(low))
    return best


def _error_from_delta(delta: Callable[[float], float]) -> Callable[[float], float]:
    """R(prior) = (1 - prior)(1 - delta(log-odds)), the prior being that of H0 (3.3)."""

    def error(log_odds: float) -> float:
        return (1 - delta(log_odds)) / (1 + math.exp(log_odds))

    return error


def delta_gaussian_to_epsilon_delta(*, epsilon: float, delta: float) -> float:
    """Cap for any mechanism: from the Gaussian calibrated to.

    Epsilon, delta) to the worst such mechanism.
    """
    psi = gaussian_psi(epsilon=epsilon, delta=delta)

    def worst(log_odds: float) -> float:
        prior = 1 / (1 + math.exp(-log_odds))
        corner = (1 - delta) / (1 + math.exp(epsilon))
        return min(prior * (1 - delta), (1 - prior) * (1 - delta), corner)

    return _greatest_gap(_error_from_delta(lambda e: gaussian_delta(epsilon=e, psi=psi)), worst)


def delta_laplace_to_gaussian(*, eps0_reference: float, mu_actual: float) -> float:
    """From a Laplace reference to a Gaussian mechanism."""
    return _greatest_gap(
        _error_from_delta(lambda e: gaussian.laplace_delta(epsilon=e, eps0=eps0_reference)),
        _error_from_delta(lambda e: gaussian_delta(epsilon=e, psi=mu_actual)),
    )


def _dpsgd_delta(q: float, noise_multiplier: float, steps: int) -> Callable[[float], float]:
    """delta(epsilon) of the remove pair with O(log n) per call, by cumulative sums."""
    import numpy as np

    loss: Any = pld.remove_masses(q, noise_multiplier, steps)
    present = np.cumsum(loss.masses[::-1])[::-1]
    absent = np.cumsum((loss.masses * np.exp(-loss.losses))[::-1])[::-1]

    def delta(epsilon: float) -> float:
        i = int(np.searchsorted(loss.losses, epsilon, side="right"))
        if i >= len(present):
            return float(loss.infinity_mass)
        return float(loss.infinity_mass + present[i] - math.exp(epsilon) * absent[i])

    return delta


def excess_vulnerability(
    *, reference: tuple[float, float], actual: tuple[float, float], steps: int
) -> dict[str, float]:
    """What a member loses off the calibration point when *actual* replaces *reference* (7.4).

    Args:
        reference: (sampling rate, noise multiplier) shown at consent.
        actual: (sampling rate, noise multiplier) that will be used.
        steps: Of both.

    Returns:
        ``delta_divergence``, both advantages, and both TPRs at FPR 1%.
    """
    result = {
        "delta_divergence": _greatest_gap(
            _error_from_delta(_dpsgd_delta(*reference, steps)),
            _error_from_delta(_dpsgd_delta(*actual, steps)),
        )
    }
    curves = {
        name: tradeoff.dpsgd_curve(q=q, noise_multiplier=noise, steps=steps, fpr=[0.01])
        for name, (q, noise) in (("reference", reference), ("actual", actual))
    }
    for name, curve in curves.items():
        result[f"advantage_{name}"] = float(curve["advantage"])
    for name, curve in curves.items():
        result[f"tpr_at_fpr_0_01_{name}"] = float(curve["tpr"][0])
    return result
