"""The Gaussian mechanism on complex data, such as MRI k-space (Riess et al. 2021).

``sigma_complex`` is the scale of circularly symmetric noise with E|xi|^2 = sigma^2 per coordinate,
so each real component has sigma / sqrt 2. It must not be confused with a per-component deviation:
that is a factor sqrt 2 in psi.
"""

from __future__ import annotations

import math

from primum.domain.accounting.profile import gaussian_delta
from primum.domain.errors import InvalidValue
from primum.domain.risk import gaussian


def mechanism(
    *, sensitivity: float, sigma_complex: float, epsilon: float, order: float
) -> dict[str, float]:
    """psi, delta(epsilon), and Renyi divergence (8)."""
    psi = math.sqrt(2) * sensitivity / sigma_complex
    return {
        "psi": psi,
        "delta": gaussian_delta(epsilon=epsilon, psi=psi),
        "rdp": order * psi * psi / 2,
    }


def calibrate(*, epsilon: float, delta: float, sensitivity: float) -> dict[str, float]:
    """The least noise for (epsilon, delta), in both conventions."""
    std = gaussian.sigma(epsilon=epsilon, delta=delta, sensitivity=sensitivity)
    return {"std_per_real_component": std, "sigma_complex": math.sqrt(2) * std}


def non_circular_psi(
    *, var_real: float, var_imag: float, covariance: float, sensitivity: float
) -> float:
    """Sensitivity over the square root of the least eigenvalue: the quietest phase decides."""
    center = (var_real + var_imag) / 2
    spread = math.hypot((var_real - var_imag) / 2, covariance)
    least = (var_real * var_imag - covariance * covariance) / (center + spread)
    if least <= 0:
        raise InvalidValue("covariance", "must give a positive definite matrix", covariance)
    return sensitivity / math.sqrt(least)
