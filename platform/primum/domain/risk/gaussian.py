"""The Gaussian mechanism through its sensitivity index psi, and its close relatives.

Exact profiles and summaries (privacy-theory.md 1.1, 1.2, 1.4, 1.11, 2). It must not guess an
equivalent psi for a subsampled mechanism without saying which figure was matched.
"""

from __future__ import annotations

import math

from primum.domain.accounting.profile import (
    gaussian_delta,
    gaussian_epsilon,
    gaussian_log_delta,
    gaussian_psi,
)
from primum.domain.errors import InvalidValue

__all__ = [
    "advantage",
    "auc",
    "classical_sigma",
    "gaussian_delta",
    "gaussian_epsilon",
    "gaussian_log_delta",
    "gaussian_psi",
    "laplace_delta",
    "one_step_delta_add",
    "one_step_delta_remove",
    "poisson_replace_one_step_delta",
    "psi_from_auc",
    "sigma",
    "summary",
    "tpr_at_fpr",
]


def sigma(*, epsilon: float, delta: float, sensitivity: float) -> float:
    """The least standard deviation for (epsilon, delta).

    Balle & Wang 2018, Algorithm 1), rounded safely.
    """
    if sensitivity == 0:
        return 0.0
    psi = gaussian_psi(epsilon=epsilon, delta=delta)
    return math.inf if psi == 0 else sensitivity / psi


def classical_sigma(*, epsilon: float, delta: float, sensitivity: float) -> float:
    """The textbook noise; proved for epsilon below 1 only, for reference only.

    Never for calibration.
    """
    if not 0 < epsilon < 1:
        raise InvalidValue(
            "epsilon", "must be above 0 and below 1 for the classical formula", epsilon
        )
    return sensitivity * math.sqrt(2 * math.log(1.25 / delta)) / epsilon


def laplace_delta(*, epsilon: float, eps0: float) -> float:
    """delta(epsilon) of a Laplace mechanism with pure epsilon eps0; epsilon may be negative."""
    if epsilon < 0:  # Symmetric pair: delta(-e) = 1 - exp(-e) + exp(-e) delta(e).
        return -math.expm1(epsilon) + math.exp(epsilon) * laplace_delta(epsilon=-epsilon, eps0=eps0)
    return max(0.0, -math.expm1((epsilon - eps0) / 2))


def one_step_delta_remove(*, epsilon: float, q: float, psi: float) -> float:
    """One Poisson step, remove direction: q delta_G(ln(1 + (e^epsilon - 1)/q)) (1.4)."""
    if q == 0:
        return 0.0
    shifted = math.log1p(math.expm1(epsilon) / q)
    return q * gaussian_delta(epsilon=shifted, psi=psi)


def one_step_delta_add(*, epsilon: float, q: float, psi: float) -> float:
    """One Poisson step, add direction: c delta_G(ln(e^epsilon q / c)), c = 1 - e^epsilon (1-q).

    1.4.
    """
    c = 1 - math.exp(epsilon) * (1 - q)
    if c <= 0:
        return 0.0
    return c * gaussian_delta(epsilon=epsilon + math.log(q / c), psi=psi)


def poisson_replace_one_step_delta(*, epsilon: float, q: float, psi: float) -> float:
    """One Poisson step under ReplaceOne: pair (1-q)N(0)+qN(psi) against (1-q)N(0)+qN(-psi) (1.11).

    The likelihood ratio rises with the output, so the hockey-stick integral is over a half-line.
    """
    from scipy import optimize, special

    def log_density(z: float, shift: float) -> float:
        return float(math.log1p(q * math.expm1(min(shift * z - shift * shift / 2, 700.0))))

    def excess(z: float) -> float:
        return log_density(z, psi) - log_density(z, -psi) - epsilon

    bound = 40 + epsilon / psi + psi
    if q < 1 and excess(bound) <= 0:
        return 0.0
    z = optimize.brentq(excess, -bound, bound, xtol=1e-15, rtol=1e-15)
    upper = (1 - q) * special.ndtr(-z) + q * special.ndtr(psi - z)
    lower = (1 - q) * special.ndtr(-z) + q * special.ndtr(-psi - z)
    return max(0.0, float(upper - math.exp(epsilon) * lower))


def auc(psi: float) -> float:
    """AUC of the optimal membership test: Phi(psi / sqrt 2)."""
    from scipy import special

    return float(special.ndtr(psi / math.sqrt(2)))


def advantage(psi: float) -> float:
    """The largest TPR - FPR, which is the total variation: 2 Phi(psi/2) - 1."""
    return math.erf(psi / (2 * math.sqrt(2)))


def summary(*, psi: float) -> dict[str, float]:
    """AUC, advantage, best balanced accuracy, and Kullback-Leibler divergence at psi (2)."""
    return {
        "auc": auc(psi),
        "advantage": advantage(psi),
        "max_balanced_accuracy": (1 + advantage(psi)) / 2,
        "kl": psi * psi / 2,
    }


def tpr_at_fpr(*, psi: float, fpr: float) -> float:
    """TPR of the optimal test at a false-positive rate: Phi(Phi^-1(FPR) + psi)."""
    from scipy import special

    return float(special.ndtr(special.ndtri(fpr) + psi))


def psi_from_auc(*, auc: float) -> float:
    """The psi with this AUC: sqrt 2 Phi^-1(AUC)."""
    from scipy import special

    return math.sqrt(2) * float(special.ndtri(auc))
