"""Empirical audits: lower bounds on the epsilon of a mechanism, each with its confidence.

An audit never proves privacy. A lower bound above the accounted epsilon, at the same delta, unit,
and neighbors, means a bug (privacy-theory.md 3.4). Figures that assume Gaussian DP must be labeled
so wherever they are shown.
"""

from __future__ import annotations

import functools
import math

from primum.domain.accounting.profile import gaussian_epsilon
from primum.domain.errors import InvalidValue
from primum.domain.risk.intervals import clopper_pearson_one_sided

_BISECTIONS = 100
_SIZES_CACHED = 1024  # Of audits that were planned; those of a group are much alike.
_EPSILON_MOST = 1e3  # No feasible number of trials certifies more.


def _rates(
    true_positives: int, members: int, false_positives: int, non_members: int, confidence: float
) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise InvalidValue("confidence", "must be above 0 and below 1", confidence)
    tail = (1 - confidence) / 2
    tpr = clopper_pearson_one_sided(
        successes=true_positives, trials=members, tail_probability=tail
    )["lower"]
    fpr = clopper_pearson_one_sided(
        successes=false_positives, trials=non_members, tail_probability=tail
    )["upper"]
    return tpr, fpr


def epsilon_lower_bound(
    *,
    true_positives: int,
    members: int,
    false_positives: int,
    non_members: int,
    delta: float,
    confidence: float,
) -> dict[str, float]:
    """Epsilon lower bound from one attack threshold (Jagielski, Ullman & Oprea 2020).

    Guarantees:
        If trials are independent and the threshold was chosen on other data, the mechanism is not
        (e, delta)-DP for any e below ``epsilon_lower``, except with probability 1 - confidence.

    Args:
        true_positives: Members called members.
        members: Independent trials with the target.
        false_positives: Non-members called members.
        non_members: Independent trials without the target.
        delta: Of the claim, at least 0.
        confidence: Such as 0.95; split evenly over both rates.

    Returns:
        ``epsilon_lower``, ``tpr_lower``, and ``fpr_upper``.
    """
    tpr, fpr = _rates(true_positives, members, false_positives, non_members, confidence)
    bounds = [0.0]
    if tpr > delta:
        bounds.append(math.log((tpr - delta) / fpr))
    if 1 - fpr > delta and tpr < 1:
        bounds.append(math.log((1 - fpr - delta) / (1 - tpr)))
    return {"epsilon_lower": max(bounds), "tpr_lower": tpr, "fpr_upper": fpr}


def gdp_mu_lower_bound(
    *,
    true_positives: int,
    members: int,
    false_positives: int,
    non_members: int,
    delta: float,
    confidence: float,
) -> dict[str, float]:
    """Mu lower bound (Nasr et al. 2023), valid only assuming Gaussian DP; arguments as above."""
    from scipy import special

    tpr, fpr = _rates(true_positives, members, false_positives, non_members, confidence)
    mu = max(0.0, float(special.ndtri(tpr) - special.ndtri(fpr)))
    mu = 0.0 if math.isnan(mu) else mu
    return {"mu_lower": mu, "epsilon_lower": gaussian_epsilon(delta=delta, psi=mu)}


def one_run_p_value(
    *, canaries: int, guesses: int, correct: int, epsilon: float, delta: float
) -> float:
    """The p-value of the claim "(epsilon, delta)-DP" (Steinke, Nasr & Jagielski 2023, Theorem 5.2).

    Args:
        canaries: Each included by the auditor's own fair coin.
        guesses: Made out of them; fixed before seeing the answers.
        correct: Right guesses.
        epsilon: Of the claim.
        delta: Of the claim.

    Returns:
        P[W >= v] + 2 m delta max_i P[v-i <= W < v]/i, at most 1.

    Raises:
        InvalidValue: If the counts do not nest.
    """
    import numpy as np
    from scipy import special  # scipy.stats would take a second to import, in every first plan

    if not 0 <= correct <= guesses <= canaries or canaries < 1:
        found = (correct, guesses, canaries)
        raise InvalidValue("counts", "must satisfy 0 <= correct <= guesses <= canaries", found)
    q = 1 / (1 + math.exp(-epsilon))
    tail = 1.0 if correct == 0 else float(special.betainc(correct, guesses - correct + 1, q))
    if delta == 0 or correct == 0:
        return min(1.0, tail)
    fewer = np.arange(correct - 1, -1, -1)
    log_ways = -special.betaln(guesses - fewer + 1, fewer + 1) - math.log(guesses + 1)
    # q >= 1/2, so that only the chance of a wrong guess can vanish.
    below = np.exp(log_ways + fewer * math.log(q) + special.xlogy(guesses - fewer, 1 - q))
    worst = float(np.max(np.cumsum(below) / np.arange(1, correct + 1)))
    return min(1.0, tail + 2 * canaries * delta * worst)


def one_run_epsilon_lower(
    *, canaries: int, guesses: int, correct: int, delta: float, p_value: float
) -> float:
    """The largest epsilon rejected at ``p_value``; 0 if even 0 is not rejected.

    Args:
        canaries: As in ``one_run_p_value``.
        guesses: Fixed beforehand.
        correct: Right guesses.
        delta: Of the claim.
        p_value: One minus the confidence.

    Returns:
        Epsilon, from the safe (lower) side.
    """

    def rejected(epsilon: float) -> bool:
        return (
            one_run_p_value(
                canaries=canaries, guesses=guesses, correct=correct, epsilon=epsilon, delta=delta
            )
            < p_value
        )

    if not rejected(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while rejected(high) and high < _EPSILON_MOST:
        low, high = high, high * 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low


def max_certifiable_one_run(*, guesses: int, canaries: int, delta: float, p_value: float) -> float:
    """The most that a one-run audit of this size can show: every guess right.

    A plan that asks for more power than this must be refused before any noise is spent.
    """
    return _every_guess_right(guesses, canaries, delta, p_value)


@functools.lru_cache(maxsize=_SIZES_CACHED)
def _every_guess_right(guesses: int, canaries: int, delta: float, p_value: float) -> float:
    return one_run_epsilon_lower(
        canaries=canaries, guesses=guesses, correct=guesses, delta=delta, p_value=p_value
    )


def max_certifiable_two_sided(
    *, members: int, non_members: int, delta: float, confidence: float
) -> float:
    """The most that an audit with independent trials can show: a perfect attack."""
    return epsilon_lower_bound(
        true_positives=members,
        members=members,
        false_positives=0,
        non_members=non_members,
        delta=delta,
        confidence=confidence,
    )["epsilon_lower"]


def one_run_gdp_rejected(
    *, canaries: int, correct: int, guesses: int, p_value: float, mu: float
) -> bool:
    """Whether mu-GDP is rejected (Mahloujifar, Melis & Chaudhuri 2024), membership game."""
    from scipy import special

    right = p_value * correct / canaries
    wrong = p_value * (guesses - correct) / canaries
    for i in range(correct - 1, -1, -1):
        inverse = float(special.ndtr(special.ndtri(min(right, 1.0)) - mu))
        grown = max(wrong, inverse)
        right += i / (guesses - i) * (grown - wrong)
        wrong = grown
    return right + wrong > guesses / canaries


def one_run_gdp_mu_lower(
    *, canaries: int, correct: int, guesses: int, p_value: float, delta: float
) -> dict[str, float]:
    """The largest rejected mu of a one-run audit, assuming GDP, and its epsilon at delta.

    Args:
        canaries: Each included by a fair coin.
        correct: Right guesses.
        guesses: Fixed beforehand.
        p_value: One minus the confidence.
        delta: For the epsilon.

    Returns:
        ``mu_lower`` and ``epsilon_lower``.
    """

    def rejected(mu: float) -> bool:
        return one_run_gdp_rejected(
            canaries=canaries, correct=correct, guesses=guesses, p_value=p_value, mu=mu
        )

    if not rejected(0.0):
        return {"mu_lower": 0.0, "epsilon_lower": 0.0}
    low, high = 0.0, 1.0
    while rejected(high) and high < _EPSILON_MOST:
        low, high = high, high * 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return {"mu_lower": low, "epsilon_lower": gaussian_epsilon(delta=delta, psi=low)}
