"""Per-subject privacy loss and its attribution to features, for inside the trust boundary only.

Individual losses are functions of private data: they must not be shown, logged, or stored outside
(privacy-theory.md 7). Without a filter, a sum over adaptively produced norms is a description and
no guarantee.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from primum.domain.accounting.profile import gaussian_epsilon
from primum.domain.risk.composition import rdp_subsampled_poisson


def _psi_squared(norms: Sequence[float], clip_norm: float, noise_multiplier: float) -> list[float]:
    return [(min(norm, clip_norm) / (noise_multiplier * clip_norm)) ** 2 for norm in norms]


def full_batch(
    *,
    clipped_gradient_norms: Sequence[float],
    clip_norm: float,
    noise_multiplier: float,
    order: float,
    delta: float,
) -> dict[str, float]:
    """psi, Renyi divergence, and epsilon of one subject in full-batch training.

    For norms fixed in advance.
    """
    squared = math.fsum(_psi_squared(clipped_gradient_norms, clip_norm, noise_multiplier))
    psi = math.sqrt(squared)
    return {
        "psi_individual": psi,
        "rdp_individual": order * squared / 2,
        "epsilon_individual": gaussian_epsilon(delta=delta, psi=psi),
    }


def poisson_rdp(
    *,
    clipped_gradient_norms: Sequence[float],
    clip_norm: float,
    noise_multiplier: float,
    q: float,
    order: float,
) -> float:
    """The subject's Renyi divergence under Poisson sampling.

    Charged at every step, drawn or not.
    """
    total = 0.0
    for norm in clipped_gradient_norms:
        if norm > 0:
            noise = noise_multiplier * clip_norm / min(norm, clip_norm)
            total += rdp_subsampled_poisson(order=order, q=q, noise_multiplier=noise)
    return total


def renyi_filter(
    *,
    clipped_gradient_norms: Sequence[float],
    clip_norm: float,
    noise_multiplier: float,
    order: float,
    rdp_budget: float,
) -> dict[str, float]:
    """Steps until the subject is dropped for good, and what was used (Feldman & Zrnic 2021)."""
    used, active = 0.0, 0
    for squared in _psi_squared(clipped_gradient_norms, clip_norm, noise_multiplier):
        cost = order * squared / 2
        if used + cost > rdp_budget * (1 + 1e-12):
            break
        used, active = used + cost, active + 1
    return {"active_steps": active, "rdp_used": used}


def logistic_gradient_norm(
    *,
    theta: Sequence[float],
    x: Sequence[float],
    y: int,
    clip_norm: float,
    noise_multiplier: float,
) -> dict[str, object]:
    """Gradient norm of a logistic loss without bias, its derivative by input.

    And each input's share (7.2).
    """
    logit = math.fsum(a * b for a, b in zip(theta, x, strict=True))
    s = 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
    length = math.hypot(*x)
    norm = abs(s - y) * length
    if norm == 0:
        zeros = [0.0] * len(x)
        partial, gradient, share = zeros, zeros, zeros
    else:
        sign = 1.0 if s > y else -1.0
        partial = [
            sign * s * (1 - s) * t * length + abs(s - y) * v / length
            for t, v in zip(theta, x, strict=True)
        ]
        scale = (noise_multiplier * clip_norm) ** 2
        gradient = [norm * value / scale for value in partial]
        total = math.fsum(abs(value) for value in partial)
        share = [abs(value) / total if total else 0.0 for value in partial]
    return {
        "gradient_norm": norm,
        "partial_sensitivity": partial,
        "privacy_loss_gradient": gradient,
        "share": share,
    }
