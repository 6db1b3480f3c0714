"""The privacy profile of the Gaussian mechanism, exact, in its one parameter.

The sensitivity index psi.

Plain floating-point mathematics on which accountants, filters and risk figures build. It must not
know about events or budgets. Paper: Balle & Wang, "Improving the Gaussian mechanism", ICML 2018,
Theorem 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from primum.domain.errors import InvalidValue

_BISECTION_STEPS = 200  # Enough to bring any bracket of floats to neighboring numbers.


def _require(field: str, value: float, *, below: float = math.inf) -> None:
    if math.isnan(value) or value < 0 or value >= below:
        rule = (
            "must be at least 0" if below == math.inf else f"must be at least 0 and below {below:g}"
        )
        raise InvalidValue(field, rule, value)


def gaussian_log_delta(*, epsilon: float, psi: float) -> float:
    """The logarithm of delta(epsilon) of a Gaussian mechanism.

    Args:
        epsilon: Any real number; below 0 it gives the profile that Bayes errors need.
        psi: Sensitivity over standard deviation, at least 0.

    Returns:
        ``log delta``; minus infinity if delta is 0.

    Raises:
        InvalidValue: If psi is negative or a value is not a number.
    """
    from scipy import special

    _require("psi", psi)
    if math.isnan(epsilon):
        raise InvalidValue("epsilon", "must be a number", epsilon)
    if psi == 0:
        return -math.inf if epsilon >= 0 else math.log(-math.expm1(epsilon))
    if math.isinf(psi):
        return 0.0 if math.isinf(epsilon) is False else -math.inf
    a = psi / 2 - epsilon / psi
    b = -psi / 2 - epsilon / psi
    if a > 0:
        log_a = float(special.log_ndtr(a))
        gap = epsilon + float(special.log_ndtr(b)) - log_a
        return log_a + math.log(-math.expm1(gap)) if gap < 0 else -math.inf
    # Mills-ratio form (privacy-theory.md, 1.1): no difference of numbers hundreds of decades apart.
    ratio_a = math.sqrt(math.pi / 2) * float(special.erfcx(-a / math.sqrt(2)))
    ratio_b = math.sqrt(math.pi / 2) * float(special.erfcx(-b / math.sqrt(2)))
    if ratio_a <= ratio_b:
        return -math.inf
    return -a * a / 2 - math.log(2 * math.pi) / 2 + math.log(ratio_a - ratio_b)


def gaussian_delta(*, epsilon: float, psi: float) -> float:
    """delta(epsilon) = Phi(psi/2 - epsilon/psi) - e^epsilon Phi(-psi/2 - epsilon/psi).

    Args:
        epsilon: Any real number.
        psi: Sensitivity over standard deviation, at least 0.

    Returns:
        A probability.

    Raises:
        InvalidValue: If psi is negative or a value is not a number.
    """
    return math.exp(gaussian_log_delta(epsilon=epsilon, psi=psi))


def bisect_least(condition: Callable[[float], bool], *, low: float, high: float) -> float:
    """The least number at which a condition that stays true once true holds; conservative end.

    Args:
        condition: False up to some point, then true; true at ``high``.
        low: Where it may be false.
        high: Where it is true.

    Returns:
        The upper end of the final bracket, where the condition was seen to hold.
    """
    for _ in range(_BISECTION_STEPS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if condition(middle):
            high = middle
        else:
            low = middle
    return high


def gaussian_epsilon(*, delta: float, psi: float) -> float:
    """The epsilon of a Gaussian mechanism at delta.

    Args:
        delta: At least 0, below 1.
        psi: At least 0; may be infinite.

    Returns:
        The least epsilon, from the safe side; infinite for delta 0 or psi infinite, 0 for psi 0.

    Raises:
        InvalidValue: If an argument is out of range.
    """
    _require("delta", delta, below=1)
    _require("psi", psi)
    if psi == 0:
        return 0.0
    if delta == 0 or math.isinf(psi):
        return math.inf
    target = math.log(delta)
    if gaussian_log_delta(epsilon=0.0, psi=psi) <= target:
        return 0.0
    high = 1.0
    while gaussian_log_delta(epsilon=high, psi=psi) > target:
        high *= 2
    return bisect_least(
        lambda epsilon: gaussian_log_delta(epsilon=epsilon, psi=psi) <= target, low=0.0, high=high
    )


def gaussian_psi(*, epsilon: float, delta: float) -> float:
    """The greatest psi whose Gaussian mechanism is (epsilon, delta)-DP, from the safe side.

    Args:
        epsilon: At least 0.
        delta: Above 0, below 1.

    Returns:
        psi; the least noise is the sensitivity over it.

    Raises:
        InvalidValue: If an argument is out of range.
    """
    _require("epsilon", epsilon)
    _require("delta", delta, below=1)
    if delta == 0:
        return 0.0
    target = math.log(delta)
    high = 1.0
    while gaussian_log_delta(epsilon=epsilon, psi=high) <= target:
        high *= 2
    # The condition "too revealing" stays true once true; its last false point is the safe one.
    low = 0.0
    for _ in range(_BISECTION_STEPS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if gaussian_log_delta(epsilon=epsilon, psi=middle) <= target:
            low = middle
        else:
            high = middle
    return low
