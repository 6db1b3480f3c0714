"""The price of releasing only the best of several private runs (Papernot & Steinke 2022).

The number of runs must be random as stated; a fixed grid of runs does not qualify and composes
instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from primum.domain.errors import InvalidValue


def truncated_negative_binomial_rdp(
    *,
    order: float,
    rdp: float,
    order_hat: float,
    rdp_hat: float,
    shape_eta: float,
    gamma: float,
) -> dict[str, float]:
    """Renyi divergence of the best of K runs, K truncated negative binomial (Theorem 2).

    Args:
        order: Above 1.
        rdp: Of one run at ``order``.
        order_hat: Above 1; the caller minimizes over its grid.
        rdp_hat: Of one run at ``order_hat``.
        shape_eta: Above -1; 1 is geometric, 0 logarithmic.
        gamma: Above 0 and below 1.

    Returns:
        ``rdp`` and ``expected_runs``.
    """
    if not 0 < gamma < 1 or shape_eta <= -1:
        found = (gamma, shape_eta)
        raise InvalidValue("gamma, shape_eta", "must be in (0, 1) and above -1", found)
    if shape_eta == 0:
        runs = (1 / gamma - 1) / math.log(1 / gamma)
    else:
        runs = shape_eta * (1 - gamma) / (gamma * (1 - gamma**shape_eta))
    extra = (1 + shape_eta) * (1 - 1 / order_hat) * rdp_hat
    extra += (1 + shape_eta) * math.log(1 / gamma) / order_hat + math.log(runs) / (order - 1)
    return {"rdp": rdp + extra, "expected_runs": runs}


def poisson_rdp(
    *,
    order: float,
    psi_single_run: float,
    expected_runs: float,
    orders_for_delta_hat: Sequence[float],
) -> float:
    """Renyi divergence of the best of Poisson(m) Gaussian runs (Theorem 6).

    R(a) + m delta^ + ln m/(a-1), with delta^ at epsilon^ = ln(1 + 1/(a-1)) read off the Renyi
    curve.
    """
    epsilon = math.log1p(1 / (order - 1))
    half = psi_single_run * psi_single_run / 2
    log_delta = min(
        (a - 1) * (a * half - epsilon) + a * math.log1p(-1 / a) - math.log(a - 1)
        for a in orders_for_delta_hat
    )
    delta = math.exp(min(0.0, log_delta))
    return order * half + expected_runs * delta + math.log(expected_runs) / (order - 1)
