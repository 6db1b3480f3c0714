"""The GLRT adversary: knows the world without the target and the noise, not the shift's direction.

A "realistic adversary" column next to the worst case (Kaissis et al. 2022). Never a guarantee,
never for the ledger, never for calibration: knowledge of the gradient's direction restores the
worst case.
"""

from __future__ import annotations

import math

_EXACT_DIMENSION_MAX = 100_000  # Beyond, chi-squares are taken as normal: scipy's fail there.
_DEVIATIONS = 40.0  # Participation counts further away than that do not matter to any float.


def tpr_at_fpr(*, fpr: float, psi: float, dimension: int) -> float:
    """1 - F(c; non-central chi2_d(psi^2)) with c the upper FPR point of chi2_d.

    Above 100,000 dimensions by the normal approximation of both chi-squares.
    """
    from scipy import special

    if dimension == 1:
        z = float(special.ndtri(1 - fpr / 2))
        return float(special.ndtr(psi - z) + special.ndtr(-psi - z))
    return _upper_tail(_threshold(fpr, dimension), dimension, psi * psi)


def _threshold(fpr: float, dimension: int) -> float:
    """The upper FPR point of chi2_d."""
    from scipy import special, stats

    if dimension > _EXACT_DIMENSION_MAX:
        return dimension - float(special.ndtri(fpr)) * math.sqrt(2 * dimension)
    return float(stats.chi2.isf(fpr, dimension))


def _upper_tail(threshold: float, dimension: float, noncentrality: float) -> float:
    from scipy import special, stats

    if dimension > _EXACT_DIMENSION_MAX:
        spread = math.sqrt(2 * (dimension + 2 * noncentrality))
        return float(special.ndtr((dimension + noncentrality - threshold) / spread))
    if noncentrality == 0:
        return float(stats.chi2.sf(threshold, dimension))
    return float(stats.ncx2.sf(threshold, dimension, noncentrality))


def auc(*, psi: float, dimension: int) -> float:
    """Sum over j of Poisson(j; psi^2/2) P[Beta(d/2 + j, d/2) > 1/2]."""
    import numpy as np
    from scipy import special, stats

    rate = psi * psi / 2
    most = int(rate + 40 * math.sqrt(rate + 1) + 60)
    j = np.arange(most + 1)
    above = 1 - special.betainc(dimension / 2 + j, dimension / 2, 0.5)
    return float(np.sum(stats.poisson.pmf(j, rate) * above))


def _log_likelihood_ratio(x: float, psi: float, dimension: int) -> float:
    """Log of exp(-psi^2/2) 0F1(; d/2; psi^2 x/4), by its positive series."""
    import numpy as np
    from scipy import special

    argument = psi * psi * x / 4
    if argument <= 0:
        return -psi * psi / 2
    k = np.arange(int(4 * math.sqrt(argument)) + 200)
    half = dimension / 2
    terms = k * math.log(argument) - special.gammaln(k + 1)
    terms = terms - special.gammaln(half + k) + special.gammaln(half)
    return float(special.logsumexp(terms)) - psi * psi / 2


def effective_delta(*, epsilon: float, psi: float, dimension: int) -> dict[str, float]:
    """Deltas of detecting presence and absence at epsilon, and the larger.

    The curve is not symmetric (4).
    """
    from scipy import optimize, stats

    def crossing(level: float) -> float:
        high = float(dimension + psi * psi + 10)
        while _log_likelihood_ratio(high, psi, dimension) < level:
            high *= 2
        return float(
            optimize.brentq(
                lambda x: _log_likelihood_ratio(x, psi, dimension) - level, 0.0, high, xtol=1e-12
            )
        )

    c = crossing(epsilon)
    presence = _upper_tail(c, dimension, psi * psi)
    presence -= math.exp(epsilon) * float(stats.chi2.sf(c, dimension))
    absence = 0.0
    if psi * psi / 2 > epsilon:
        c = crossing(-epsilon)
        absence = float(stats.chi2.cdf(c, dimension))
        absence -= math.exp(epsilon) * float(stats.ncx2.cdf(c, dimension, psi * psi))
    presence, absence = max(0.0, presence), max(0.0, absence)
    return {
        "detect_presence": presence,
        "detect_absence": absence,
        "effective": max(presence, absence),
    }


def composed_tpr(
    *, fpr: float, psi_per_release: float, dimension: int, releases: int
) -> dict[str, float]:
    """T releases: means unknown per release, or one shared unknown mean.

    The stronger adversary.
    """
    total = math.sqrt(releases) * psi_per_release
    return {
        "unknown_mean_per_release": tpr_at_fpr(fpr=fpr, psi=total, dimension=dimension * releases),
        "shared_unknown_mean": tpr_at_fpr(fpr=fpr, psi=total, dimension=dimension),
    }


def subsampled_composed_tpr(
    *, fpr: float, psi: float, dimension: int, releases: int, q: float
) -> float:
    """Poisson participation in unknown rounds.

    The sum over k of Binom(k; T, q) P[chi2_dT(k psi^2) > c].
    """
    from scipy import stats

    threshold = _threshold(fpr, dimension * releases)
    usual = releases * q
    reach = _DEVIATIONS * (math.sqrt(usual * (1 - q)) + 1)
    counts = range(max(0, math.floor(usual - reach)), min(releases, math.ceil(usual + reach)) + 1)
    return sum(
        float(stats.binom.pmf(k, releases, q))
        * _upper_tail(threshold, dimension * releases, k * psi * psi)
        for k in counts
    )
