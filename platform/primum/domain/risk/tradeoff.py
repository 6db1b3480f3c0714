"""Trade-off functions: how well the best membership test can do, at every false-positive rate.

The adversary knows everything but whether the target took part, so every practical attack lies
below these curves. H0 is "the target is absent". Curve-based bounds are to be preferred to those of
one (epsilon, delta) pair (3.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from primum.domain.accounting import pld
from primum.domain.accounting.pld import LossMasses


def tpr_upper_epsilon_delta(*, epsilon: float, delta: float, fpr: float) -> float:
    """min{1, e^epsilon FPR + delta, 1 - e^-epsilon (1 - delta - FPR)} (Wasserman & Zhou 2010)."""
    rising = math.exp(min(epsilon, 700.0)) * fpr + delta
    falling = 1 - math.exp(-epsilon) * (1 - delta - fpr)
    return max(0.0, min(1.0, rising, falling))


def tpr_laplace(*, eps0: float, fpr: float) -> float:
    """The exact curve of the Laplace mechanism (Dong, Roth & Su 2022)."""
    if fpr < math.exp(-eps0) / 2:
        return math.exp(eps0) * fpr
    if 2 * fpr <= 1:
        return 1 - math.exp(-eps0) / (4 * fpr)
    return 1 - math.exp(-eps0) * (1 - fpr)


def tpr_subsampled_one_step(*, q: float, psi: float, fpr: float) -> dict[str, float]:
    """One Poisson step in both directions, and the larger of the two (3.1)."""
    from scipy import optimize, special

    remove = float((1 - q) * fpr + q * special.ndtr(special.ndtri(fpr) + psi))
    if fpr <= 0 or fpr >= 1:
        add = float(fpr)
    else:
        low = float(special.ndtri(fpr))

        def gap(t: float) -> float:
            return float((1 - q) * special.ndtr(t) + q * special.ndtr(t - psi)) - fpr

        root = optimize.brentq(gap, low - 1e-9, low + psi + 1e-9, xtol=1e-15, rtol=1e-14)
        add = float(special.ndtr(root))
    return {"remove": remove, "add": add, "worst": max(remove, add)}


def advantage_epsilon_delta(*, epsilon: float, delta: float) -> float:
    """(e^epsilon - 1 + 2 delta)/(e^epsilon + 1)."""
    return math.tanh(epsilon / 2) + 2 * delta / (math.exp(min(epsilon, 700.0)) + 1)


def advantage_laplace(*, eps0: float) -> float:
    """1 - e^(-eps0/2)."""
    return -math.expm1(-eps0 / 2)


def auc_upper_epsilon_delta(*, epsilon: float, delta: float) -> float:
    """1 - (1 - delta)^2/(1 + e^epsilon)."""
    return 1 - (1 - delta) ** 2 / (1 + math.exp(min(epsilon, 700.0)))


def posterior_upper_pure(*, epsilon: float, prior: float) -> float:
    """Posterior of membership from a prior, at most, under pure epsilon."""
    return prior / (prior + (1 - prior) * math.exp(-epsilon))


def min_error_gaussian(*, psi: float, prior_member: float) -> float:
    """Least Bayes error against a Gaussian mechanism; symmetric in the two hypotheses."""
    from scipy import special

    if psi == 0 or prior_member in (0, 1):
        return min(prior_member, 1 - prior_member)
    log_odds = math.log((1 - prior_member) / prior_member)
    threshold = log_odds / psi + psi / 2
    false_alarm = (1 - prior_member) * special.ndtr(-threshold)
    miss = prior_member * special.ndtr(threshold - psi)
    return float(false_alarm + miss)


def dpsgd_curve(
    *, q: float, noise_multiplier: float, steps: int, fpr: Sequence[float]
) -> dict[str, Any]:
    """TPR bounds of DP-SGD at false-positive rates, and its advantage.

    By a sweep of the loss (3.2).

    Guarantees:
        Upper bounds for every adversary that sees all intermediate models, remove direction.

    Args:
        q: Poisson sampling rate.
        noise_multiplier: Relative to the add-or-remove sensitivity.
        steps: Number of steps.
        fpr: Each from 0 to 1.

    Returns:
        ``tpr`` (a list) and ``advantage``.
    """
    import numpy as np

    false, true = roc_points(q=q, noise_multiplier=noise_multiplier, steps=steps)
    return {
        "tpr": [float(rate) for rate in np.interp(np.asarray(fpr, dtype=float), false, true)],
        "advantage": dpsgd_delta(q=q, noise_multiplier=noise_multiplier, steps=steps, epsilon=0.0),
    }


def roc_points(*, q: float, noise_multiplier: float, steps: int) -> tuple[Any, Any]:
    """Rising FPR and TPR of the composed remove pair; randomized tests interpolate linearly.

    The infinity mass is part of every TPR (pessimistic); FPR masses are TPR mass times exp(-loss).
    """
    return roc_of(pld.remove_masses(q, noise_multiplier, steps))


def roc_of(loss: LossMasses) -> tuple[Any, Any]:
    """Rising FPR and TPR of composed losses; see ``roc_points``."""
    import numpy as np

    present = loss.masses[::-1]
    absent = present * np.exp(-loss.losses[::-1])
    true = np.minimum(1.0, loss.infinity_mass + np.concatenate([[0.0], np.cumsum(present)]))
    false = np.minimum(1.0, np.concatenate([[0.0], np.cumsum(absent)]))
    return np.append(false, 1.0), np.append(true, 1.0)


def dpsgd_auc(*, q: float, noise_multiplier: float, steps: int) -> float:
    """Area under the curve of ``dpsgd_curve``."""
    import numpy as np

    false, true = roc_points(q=q, noise_multiplier=noise_multiplier, steps=steps)
    return float(np.trapezoid(true, false))


def dpsgd_delta(*, q: float, noise_multiplier: float, steps: int, epsilon: float) -> float:
    """delta(epsilon) of the composed remove pair; epsilon may be negative."""
    return delta_of(pld.remove_masses(q, noise_multiplier, steps), epsilon=epsilon)


def delta_of(loss: LossMasses, *, epsilon: float) -> float:
    """delta(epsilon) of composed losses; epsilon may be negative."""
    import numpy as np

    above = loss.losses > epsilon
    part = loss.masses[above] * -np.expm1(epsilon - loss.losses[above])
    return float(min(1.0, loss.infinity_mass + part.sum()))
