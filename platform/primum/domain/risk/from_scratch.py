"""Reconstruction from scratch: an attacker who controls the model and has no prior on the record.

Lower edge of the risk corridor (Riess et al. 2024; closed forms in privacy-theory.md, section 6).
P[MSE <= eta] is never a bound over all attackers, and thresholds above the zero image's error mean
nothing; ``baseline_mse`` tells.
"""

from __future__ import annotations

import math

_QUADRATURE_SPAN = 12.0  # Standard deviations around the signal coordinate.


def _scaled_variance(noise_multiplier: float, target_norm: float, releases: int) -> float:
    return noise_multiplier * noise_multiplier * target_norm * target_norm / releases


def prob_mse_below(
    *,
    noise_multiplier: float,
    target_norm: float,
    dimension: int,
    releases: int,
    mse_threshold: float,
) -> float:
    """P[MSE <= eta] = P(N/2, N k eta / (2 sigma^2 |X|^2))."""
    from scipy import special

    variance = _scaled_variance(noise_multiplier, target_norm, releases)
    return float(special.gammainc(dimension / 2, dimension * mse_threshold / (2 * variance)))


def mse_moments(
    *, noise_multiplier: float, target_norm: float, dimension: int, releases: int
) -> dict[str, float]:
    """Mean and standard deviation of the attacker's MSE."""
    mean = _scaled_variance(noise_multiplier, target_norm, releases)
    return {"mean": mean, "std": mean * math.sqrt(2 / dimension)}


def mse_quantile(
    *,
    noise_multiplier: float,
    target_norm: float,
    dimension: int,
    releases: int,
    probability: float,
) -> float:
    """The MSE that the attacker undercuts with this probability."""
    from scipy import special

    variance = _scaled_variance(noise_multiplier, target_norm, releases)
    return 2 * variance / dimension * float(special.gammaincinv(dimension / 2, probability))


def expected_psnr(
    *,
    noise_multiplier: float,
    target_norm: float,
    dimension: int,
    releases: int,
    data_range: float,
) -> dict[str, float]:
    """E[PSNR] and the PSNR of E[MSE], in decibels; the first is never below the second (Jensen)."""
    from scipy import special

    variance = _scaled_variance(noise_multiplier, target_norm, releases)
    ratio = data_range * data_range / variance
    expected = 10 * math.log10(ratio * dimension / 2)
    expected -= 10 / math.log(10) * float(special.digamma(dimension / 2))
    return {"expected_psnr": expected, "psnr_of_expected_mse": 10 * math.log10(ratio)}


def prob_psnr_above(
    *,
    noise_multiplier: float,
    target_norm: float,
    dimension: int,
    releases: int,
    data_range: float,
    psnr_threshold_db: float,
) -> float:
    """P[PSNR >= tau] = P[MSE <= R^2 10^(-tau/10)]."""
    return prob_mse_below(
        noise_multiplier=noise_multiplier,
        target_norm=target_norm,
        dimension=dimension,
        releases=releases,
        mse_threshold=data_range * data_range * 10 ** (-psnr_threshold_db / 10),
    )


def ncc(
    *,
    noise_multiplier: float,
    centered_norm: float,
    target_norm: float,
    dimension: int,
    releases: int,
    ncc_threshold: float,
) -> dict[str, float]:
    """P[NCC >= c] and E[NCC]; correlation cannot be gamed by shrinking the estimate.

    Args:
        noise_multiplier: Above 0.
        centered_norm: Norm of the record minus its mean.
        target_norm: Norm of the record, or a public bound on it.
        dimension: At least 3.
        releases: Aligned releases that are averaged.
        ncc_threshold: From -1 to 1.

    Returns:
        ``prob_ncc_above`` and ``expected_ncc``.
    """
    from scipy import special

    signal = math.sqrt(releases) * centered_norm / (noise_multiplier * target_norm)
    log_ratio = special.gammaln(dimension / 2) - special.gammaln((dimension + 1) / 2)
    series = special.hyp1f1(0.5, (dimension + 1) / 2, -signal * signal / 2)
    return {
        "prob_ncc_above": _prob_ncc_above(signal, dimension, ncc_threshold),
        "expected_ncc": float(signal / math.sqrt(2) * math.exp(log_ratio) * series),
    }


def _prob_ncc_above(signal: float, dimension: int, threshold: float) -> float:
    """P[t_{N-2}(signal) >= c sqrt(N-2)/sqrt(1-c^2)] by quadrature over the signal coordinate.

    6.
    """
    from scipy import integrate, special

    if threshold < 0:  # NCC -> -NCC mirrors the signal coordinate.
        return 1 - _prob_ncc_above(-signal, dimension, -threshold)
    if threshold == 0:
        return float(special.ndtr(signal))
    factor = (1 - threshold * threshold) / (2 * threshold * threshold)
    half = (dimension - 2) / 2

    def integrand(z: float) -> float:
        density = math.exp(-((z - signal) ** 2) / 2) / math.sqrt(2 * math.pi)
        return density * float(special.gammainc(half, z * z * factor))

    low, high = max(0.0, signal - _QUADRATURE_SPAN), signal + _QUADRATURE_SPAN
    if high <= low:
        return 0.0
    edge = min(max(math.sqrt(half / factor), low), high)  # Where the inner probability rises.
    width = math.sqrt(1 / factor)
    points = sorted({min(max(edge + k * width, low), high) for k in (-6, -1, 0, 1, 6)})
    value, _ = integrate.quad(
        integrand, low, high, points=points, limit=400, epsabs=0, epsrel=1e-11
    )
    return min(1.0, float(value))


def baseline_mse(
    *, noise_multiplier: float, target_norm: float, dimension: int, releases: int
) -> dict[str, float]:
    """MSE of the unbiased attack, of an all-zero image, and of the best linear shrinkage."""
    variance = _scaled_variance(noise_multiplier, target_norm, releases)
    energy = target_norm * target_norm / dimension
    shrunk = variance * energy / (variance + energy) if variance + energy > 0 else 0.0
    return {"unbiased": variance, "zero_image": energy, "oracle_linear_shrinkage": shrunk}


def prob_mse_below_poisson(
    *,
    noise_multiplier: float,
    target_norm: float,
    dimension: int,
    steps: int,
    q: float,
    mse_threshold: float,
) -> float:
    """P[MSE <= eta] when the target joins a random Binomial(T, q) of the steps.

    Known to the attacker.
    """
    import numpy as np
    from scipy import special, stats

    joined = np.arange(1, steps + 1)
    variance = _scaled_variance(noise_multiplier, target_norm, 1)
    inner = special.gammainc(dimension / 2, dimension * joined * mse_threshold / (2 * variance))
    return float(np.sum(stats.binom.pmf(joined, steps, q) * inner))


def any_of_n(*, single_probability: float, targets: int) -> float:
    """P[any of n independent targets succeeds] = 1 - (1-p)^n."""
    if single_probability >= 1:
        return 1.0
    return -math.expm1(targets * math.log1p(-single_probability))


def noise_for_probability(
    *,
    mse_threshold: float,
    max_probability: float,
    target_norm: float,
    dimension: int,
    releases: int,
) -> float:
    """The noise multiplier at which P[MSE <= eta] is just the probability."""
    from scipy import special

    quantile = 2 * float(special.gammaincinv(dimension / 2, max_probability))
    return math.sqrt(dimension * releases * mse_threshold / quantile) / target_norm
