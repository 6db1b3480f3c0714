"""Reconstruction robustness: how often an informed attacker with a prior can rebuild a record.

gamma(kappa) = TPR at FPR kappa of absent against present (Hayes et al. 2023; Kaissis et al. 2023).
gamma is only as good as kappa: a kappa of 0 means that no prior was specified, never that the model
is safe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from primum.domain.errors import InvalidValue
from primum.domain.risk import gaussian, tradeoff


def gaussian_bound(*, psi: float, kappa: float) -> float:
    """Phi(Phi^-1(kappa) + psi)."""
    return gaussian.tpr_at_fpr(psi=psi, fpr=kappa)


def gaussian_composed(*, psi_per_release: float, releases: int, kappa: float) -> float:
    """Phi(Phi^-1(kappa) + sqrt(T) psi)."""
    return gaussian_bound(psi=math.sqrt(releases) * psi_per_release, kappa=kappa)


def laplace(*, eps0: float, kappa: float) -> float:
    """The Laplace curve at FPR kappa."""
    return tradeoff.tpr_laplace(eps0=eps0, fpr=kappa)


def subsampled_one_step(*, q: float, psi: float, kappa: float) -> float:
    """(1-q) kappa + q Phi(Phi^-1(kappa) + psi)."""
    return (1 - q) * kappa + q * gaussian_bound(psi=psi, kappa=kappa)


def dpsgd(
    *, q: float, noise_multiplier: float, steps: int, kappa: Sequence[float]
) -> dict[str, Any]:
    """Gamma of DP-SGD at each kappa, by the loss sweep of ``tradeoff.dpsgd_curve``."""
    curve = tradeoff.dpsgd_curve(q=q, noise_multiplier=noise_multiplier, steps=steps, fpr=kappa)
    return {"gamma": curve["tpr"]}


def from_epsilon_delta(*, epsilon: float, delta: float, kappa: float) -> float:
    """The bound of one (epsilon, delta) pair; looser than a curve."""
    return tradeoff.tpr_upper_epsilon_delta(epsilon=epsilon, delta=delta, fpr=kappa)


def from_rdp(*, order: float, rdp: float, kappa: float) -> float:
    """(kappa e^R)^((a-1)/a), at most 1 (Balle, Cherubin & Hayes 2022)."""
    if kappa == 0:
        return 0.0
    return math.exp(min(0.0, (math.log(kappa) + rdp) * (order - 1) / order))


def kappa_uniform_candidates(*, candidates: int) -> float:
    """1/n: exact recovery among n equally likely candidates."""
    if candidates < 1:
        raise InvalidValue("candidates", "must be at least 1", candidates)
    return 1 / candidates


def kappa_gaussian_prior_mse(*, dimension: int, mse_threshold: float, prior_std: float) -> float:
    """P[chi2_N <= N eta / s^2]: guessing the mean of a Gaussian prior."""
    from scipy import special

    scaled = dimension * mse_threshold / (2 * prior_std * prior_std)
    return float(special.gammainc(dimension / 2, scaled))


def psi_for_gamma(*, kappa: float, gamma: float) -> float:
    """The total psi at which gamma is reached: Phi^-1(gamma) - Phi^-1(kappa)."""
    from scipy import special

    return float(special.ndtri(gamma) - special.ndtri(kappa))
