"""Composition theorems, group privacy, odometers, and relations between conventions.

Reference figures for cards and tests (privacy-theory.md 1.3 to 1.15). The ledger's own filters are
in ``accounting.policies``; nothing here may replace them, and central-limit figures are
approximations that must be labeled so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from primum.domain.accounting import rdp
from primum.domain.accounting.profile import gaussian_delta, gaussian_epsilon, gaussian_psi
from primum.domain.errors import InvalidValue
from primum.domain.risk import gaussian

_LOG_ORDER_RANGE = (-8.0, 10.0)  # Bounds of log(order - 1) in searches (1.9).


def rdp_subsampled_poisson(*, order: float, q: float, noise_multiplier: float) -> float:
    """Renyi divergence of one Poisson-subsampled step (1.3)."""
    if q in (0, 1):
        return order * q / (2 * noise_multiplier * noise_multiplier)
    return rdp.poisson_curve(q, noise_multiplier, (float(order),))[0]


def rdp_subsampled_fixed_size(
    *, order: int, dataset_size: int, batch_size: int, noise_multiplier_replace_one: float
) -> float:
    """Fixed-size sampling without replacement (Wang, Balle & Kasiviswanathan 2019), whole orders.

    The forward differences cancel, so they are summed with exact integers scaled decimals.
    """
    alpha = int(order)
    if alpha != order or alpha <= 1:
        raise InvalidValue("order", "must be a whole number of at least 2", order)
    rate = batch_size / dataset_size
    s = noise_multiplier_replace_one
    logs = _log_forward_differences(s, alpha + (alpha % 2))
    single = 1 / (2 * s * s)
    second = min(math.log(4 * math.expm1(2 * single)), math.log(2) + 2 * single)
    terms = [0.0, 2 * math.log(rate) + math.log(math.comb(alpha, 2)) + second]
    for j in range(3, alpha + 1):
        b = (logs[2 * (j // 2)] + logs[2 * ((j + 1) // 2)]) / 2
        bound = min(math.log(4) + b, math.log(2) + (j - 1) * j * single)
        terms.append(j * math.log(rate) + math.log(math.comb(alpha, j)) + bound)
    top = max(terms)
    return (top + math.log(math.fsum(math.exp(t - top) for t in terms))) / (alpha - 1)


def _log_forward_differences(s: float, most: int) -> dict[int, float]:
    """Log |sum over k of (-1)^(l-k) C(l,k) e^(k(k-1)/(2 s^2))| for even l, with many digits."""
    from decimal import Decimal, localcontext

    with localcontext() as context:
        context.prec = 60 + 2 * most + int(most * most / (2 * s * s) / math.log(10))
        base = Decimal(1) / (2 * Decimal(s) * Decimal(s))
        values = [(k * (k - 1) * base).exp() for k in range(most + 1)]
        result: dict[int, float] = {}
        for size in range(2, most + 1, 2):
            total = sum(
                (-1) ** (size - k) * math.comb(size, k) * values[k] for k in range(size + 1)
            )
            result[size] = float(abs(Decimal(total)).ln())
    return result


def rdp_to_epsilon(*, order: float, rdp: float, delta: float, conversion: str) -> float:
    """One order's epsilon: ``canonne`` (tight, reported) or ``mironov`` (reference only) (1.5)."""
    if conversion == "mironov":
        return rdp + math.log(1 / delta) / (order - 1)
    if conversion != "canonne":
        raise InvalidValue("conversion", "must be canonne or mironov", conversion)
    return rdp + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


def gaussian_optimal_order(*, psi: float, delta: float) -> dict[str, float]:
    """The best order for a Gaussian, and its epsilon (1.5)."""
    low, high = _LOG_ORDER_RANGE
    for _ in range(200):  # d/da of the tight conversion vanishes once; its sign is that of _slope.
        middle = (low + high) / 2
        low, high = (low, middle) if _slope(middle, psi * psi / 2, delta) > 0 else (middle, high)
    order = 1 + math.exp(high)
    epsilon = rdp.epsilon_at_order(order=order, rdp=order * psi * psi / 2, delta=delta)
    return {"order": order, "epsilon": max(0.0, epsilon)}


def _slope(log_excess: float, rho: float, delta: float) -> float:
    """d/da of rho a + log((a-1)/a) - (log delta + log a)/(a-1)."""
    excess = math.exp(log_excess)
    return rho + (math.log(delta) + math.log1p(excess)) / (excess * excess)


def zcdp_to_epsilon_simple(*, rho: float, delta: float) -> float:
    """Rho + 2 sqrt(rho ln(1/delta)), for reference only."""
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


def zcdp_to_epsilon(*, rho: float, delta: float) -> float:
    """The tight conversion minimized over real orders (1.9)."""
    return gaussian_optimal_order(psi=math.sqrt(2 * rho), delta=delta)["epsilon"]


def gdp_compose(*, mus: Sequence[float]) -> float:
    """Sqrt of the sum of squares."""
    return math.hypot(*mus)


def clt_mu_poisson(*, q: float, noise_multiplier: float, steps: int) -> float:
    """Q sqrt(T (e^(1/sigma^2) - 1)): an approximation that can under-report; never for a ledger."""
    return q * math.sqrt(steps * math.expm1(1 / (noise_multiplier * noise_multiplier)))


def clt_epsilon_poisson(*, q: float, noise_multiplier: float, steps: int, delta: float) -> float:
    """The epsilon of ``clt_mu_poisson``; the same warning."""
    mu = clt_mu_poisson(q=q, noise_multiplier=noise_multiplier, steps=steps)
    return gaussian_epsilon(delta=delta, psi=mu)


def advanced_heterogeneous(*, epsilons: Sequence[float], delta_prime: float) -> float:
    """Sum e tanh(e/2) + sqrt(2 ln(1/delta') sum e^2) (Kairouz, Oh & Viswanath 2015)."""
    mean = math.fsum(epsilon * math.tanh(epsilon / 2) for epsilon in epsilons)
    spread = math.fsum(epsilon * epsilon for epsilon in epsilons)
    return mean + math.sqrt(2 * math.log(1 / delta_prime) * spread)


def optimal_homogeneous_delta(
    *, k: int, epsilon: float, delta: float, epsilon_global: float
) -> float:
    """Optimal composition of k equal (epsilon, delta) mechanisms (Kairouz, Oh & Viswanath 2015)."""
    log_total = k * math.log1p(math.exp(epsilon))
    pure = 0.0
    for index in range(k + 1):
        gap = epsilon_global + index * epsilon - (k - index) * epsilon
        if gap < 0:
            log_weight = math.lgamma(k + 1) - math.lgamma(index + 1) - math.lgamma(k - index + 1)
            pure += math.exp(log_weight + (k - index) * epsilon - log_total) * -math.expm1(gap)
    return 1 - (1 - delta) ** k * (1 - pure) if delta else pure


def group_approx(*, k: int, epsilon: float, delta: float) -> dict[str, float]:
    """(k epsilon, delta (e^(k epsilon) - 1)/(e^epsilon - 1)); very loose (1.10)."""
    factor = math.expm1(k * epsilon) / math.expm1(epsilon) if epsilon else float(k)
    return {"epsilon": k * epsilon, "delta": delta * factor}


def group_gaussian_epsilon(*, k: int, psi: float, delta: float) -> float:
    """A group of k multiplies the sensitivity: psi -> k psi."""
    return gaussian_epsilon(delta=delta, psi=k * psi)


def group_poisson_one_step_delta(
    *, epsilon: float, q: float, noise_multiplier: float, records_per_subject: int
) -> float:
    """One Poisson step for a subject with several records: Binomial mixture of shifts.

    Ganesh 2024.
    """
    from scipy import optimize, special, stats

    shifts = range(records_per_subject + 1)
    weights = [float(stats.binom.pmf(j, records_per_subject, q)) for j in shifts]
    s = noise_multiplier

    def log_ratio(z: float) -> float:
        exponents = [(2 * j * z - j * j) / (2 * s * s) for j in shifts]
        return float(special.logsumexp(exponents, b=weights))

    high = 1.0
    while log_ratio(high) < epsilon:
        high *= 2
    z = optimize.brentq(lambda t: log_ratio(t) - epsilon, -high - 100 * s, high, xtol=1e-14)
    upper = sum(w * float(special.ndtr((j - z) / s)) for j, w in zip(shifts, weights, strict=True))
    return max(0.0, upper - math.exp(epsilon) * float(special.ndtr(-z / s)))


def gaussian_delta_pair(*, epsilon: float, psi_add_remove: float) -> dict[str, float]:
    """Delta under both relations: replacement doubles psi (1.11)."""
    return {
        "add_or_remove": gaussian_delta(epsilon=epsilon, psi=psi_add_remove),
        "replace_one": gaussian_delta(epsilon=epsilon, psi=2 * psi_add_remove),
    }


def adaptive_approx_filter(
    *,
    epsilons: Sequence[float],
    deltas_each: float,
    epsilon_budget: float,
    delta_prime: float,
    delta_slack: float,
) -> dict[str, float]:
    """The fully adaptive filter for (epsilon, delta) steps (Whitehouse et al. 2023).

    Privacy theory 1.13, rule 4.
    """
    accepted, squares, bound = 0, 0.0, 0.0
    for epsilon in epsilons:
        grown = squares + epsilon * epsilon
        next_bound = math.sqrt(2 * math.log(1 / delta_prime) * grown) + grown / 2
        too_much_delta = (accepted + 1) * deltas_each > delta_slack * (1 + 1e-12)
        if next_bound > epsilon_budget or too_much_delta:
            break
        accepted, squares, bound = accepted + 1, grown, next_bound
    return {"accepted_steps": accepted, "bound_at_stop": bound}


def odometer_linear(*, v: float, delta: float, v_target: float) -> float:
    """V/2 + lambda V/2 + ln(1/delta)/lambda, lambda tuned at the target (1.13)."""
    slope = math.sqrt(2 * math.log(1 / delta) / v_target)
    return v / 2 + slope * v / 2 + math.log(1 / delta) / slope


def odometer_mixture(*, v: float, delta: float, gamma: float) -> float:
    """V/2 + sqrt(2 (V+g) ln(sqrt((V+g)/g)/delta)) (1.13)."""
    total = v + gamma
    return v / 2 + math.sqrt(2 * total * math.log(math.sqrt(total / gamma) / delta))


def rdp_fixed_order_filter(
    *, order: float, q: float, noise_multiplier: float, epsilon_budget: float, delta: float
) -> dict[str, Any]:
    """Budget, cost, and number of steps of a Renyi filter at one order (1.13 rule 2)."""
    budget = epsilon_budget - math.log1p(-1 / order)
    budget += (math.log(delta) + math.log(order)) / (order - 1)
    step = rdp_subsampled_poisson(order=order, q=q, noise_multiplier=noise_multiplier)
    return {"rdp_budget": budget, "rdp_per_step": step, "max_steps": max(0, int(budget / step))}


def natural_pld_counterexample(
    *, randomized_response_epsilon: float, epsilon: float, delta: float
) -> dict[str, float]:
    """Two steps that break "compose whole curves and stop at the target" (1.13).

    After randomized response, a Gaussian or a mechanism that reveals all with probability delta;
    each fixed sequence is (epsilon, delta)-DP, choosing by the first outcome is not.
    """
    first = randomized_response_epsilon
    likely = 1 / (1 + math.exp(-first))

    def with_gaussian(mu: float) -> float:
        plus = likely * gaussian_delta(epsilon=epsilon - first, psi=mu)
        return plus + (1 - likely) * gaussian_delta(epsilon=epsilon + first, psi=mu)

    low, high = 0.0, 50.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if with_gaussian(middle) <= delta else (low, middle)
    upper = likely * gaussian_delta(epsilon=epsilon - first, psi=low)
    branching = upper + (1 - likely) * delta
    return {
        "mu_second_step": low,
        "delta_if_branching": branching,
        "overrun_factor": branching / delta,
    }


def distributed_noise_std(
    *,
    sites: int,
    tolerated_dropouts_or_colluders: int,
    noise_multiplier: float,
    clip_norm: float,
) -> dict[str, float]:
    """What each of n sites adds so that n - t honest ones reach the target (1.15)."""
    honest = sites - tolerated_dropouts_or_colluders
    if honest < 1:
        raise InvalidValue("sites", "must exceed the tolerated dropouts or colluders", sites)
    each = noise_multiplier * clip_norm / math.sqrt(honest)
    return {"per_site_std": each, "total_std_all_present": each * math.sqrt(sites)}


def psi_from_epsilon_delta(*, epsilon: float, delta: float) -> float:
    """The psi of the Gaussian mechanism calibrated to (epsilon, delta)."""
    return gaussian_psi(epsilon=epsilon, delta=delta)


def fixed_size_replace_one_step_delta(
    *, epsilon: float, dataset_size: int, batch_size: int, psi_add_remove: float
) -> float:
    """One fixed-size step under ReplaceOne (Balle, Barthe & Gaboardi 2018)."""
    return gaussian.one_step_delta_remove(
        epsilon=epsilon, q=batch_size / dataset_size, psi=2 * psi_add_remove
    )
