"""Analytic gradient inversion of one linear unit: the best attack from scratch on a noisy gradient.

Riess, Schwethelm, Kaissis et al., *From Mean to Extreme* (2024); methods, section 7.2. The
adversary makes the target's gradient equal to its input, so the release is ``clip(x) + N(0, (sigma
C)^2 I)``, and undoes the clipping. Its error is exactly distributed, which anchors every other
attack from above.
"""

from __future__ import annotations

import numpy as np
import torch

from primum_pipelines.attacks.figures import Array


def linear_unit_gradients(records: torch.Tensor, *, max_grad_norm: float) -> torch.Tensor:
    """Clipped gradients of a single linear unit whose loss is its output: the records themselves.

    Computed by autograd and not by assuming it, so that the attack's premise is part of the test.

    Args:
        records: ``(n, d)``.
        max_grad_norm: Clipping bound C.

    Returns:
        ``(n, d)`` with norms of at most C.
    """

    def loss(weight: torch.Tensor, record: torch.Tensor) -> torch.Tensor:
        return weight @ record

    weight = torch.zeros(records.shape[1], dtype=records.dtype)
    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight, records)
    norms = gradients.norm(dim=1, keepdim=True).clamp_min(1e-12)
    clipped: torch.Tensor = gradients * (max_grad_norm / norms).clamp_max(1.0)
    return clipped


def invert(
    records: Array,
    *,
    noise_multiplier: float,
    max_grad_norm: float,
    releases: int,
    generator: np.random.Generator,
) -> Array:
    """Reconstruct each record from its own noisy releases.

    Guarantees:
        For records of norm at least C, MSE x N k / (sigma ||x||)^2 is chi-square with N degrees of
        freedom.

    Args:
        records: ``(n, d)``.
        noise_multiplier: sigma; 0 reconstructs exactly.
        max_grad_norm: Clipping bound C.
        releases: Independent releases k that the adversary averages.
        generator: Draws the mechanism's noise.

    Returns:
        Reconstructions, ``(n, d)``.
    """
    rows = torch.from_numpy(np.asarray(records, dtype=np.float64))
    clipped = linear_unit_gradients(rows, max_grad_norm=max_grad_norm).numpy()
    std = noise_multiplier * max_grad_norm / np.sqrt(releases)
    noisy = clipped + generator.standard_normal(clipped.shape) * std
    norms = np.linalg.norm(records, axis=1, keepdims=True)
    result: Array = noisy * np.maximum(1.0, norms / max_grad_norm)
    return result
