"""Clipping rules: what is left of a unit's gradient, and how much of the bound it uses.

Under every rule the L2 norm of what a unit contributes is at most the bound C, whatever its
gradient is; that is all the accounting uses. A rule sees norms and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from primum.domain.errors import InvalidValue
from primum_pipelines.optimization.settings import AUTOMATIC_STABILITY, ClippingRule

_LEAST = 1e-12


@dataclass(frozen=True, slots=True, repr=False)
class Clipped:
    """What a rule decided for U units.

    Args:
        factors: For each parameter what its gradients are multiplied with, ``(U,)``.
        lengths: Norm of what each unit contributes over C, at most 1 but for rounding, ``(U,)``.
        finite: Whether the gradient was finite; where not, the factor is zero, ``(U,)``.
        shortened: Whether any of it was made shorter, ``(U,)``.
    """

    factors: Mapping[str, torch.Tensor]
    lengths: torch.Tensor
    finite: torch.Tensor
    shortened: torch.Tensor


def clip(
    squares: Mapping[str, torch.Tensor], *, rule: ClippingRule, bound: float, layers: int
) -> Clipped:
    """Decide what is left of each unit's gradient.

    Args:
        squares: Squared norm of each parameter's share, ``(U,)`` each; at least one parameter.
        rule: The clipping rule.
        bound: C, above 0.
        layers: Number L of layers with trainable parameters in the whole model.

    Returns:
        The factors, and what they leave.

    Raises:
        InvalidValue: If nothing was given.
    """
    if not squares:
        raise InvalidValue("gradients", "must be of at least one parameter", "none")
    total = torch.stack(list(squares.values())).sum(dim=0)
    finite = torch.isfinite(total)
    if rule is ClippingRule.PER_LAYER:
        return _per_layer(squares, finite, bound=bound, layers=layers)
    norms = total.sqrt()
    if rule is ClippingRule.FLAT:
        factor = (bound / norms.clamp_min(_LEAST)).clamp_max(1.0)
        shortened = norms > bound
    else:
        factor = bound / (norms + AUTOMATIC_STABILITY)
        shortened = factor < 1
    factor = torch.where(finite, factor, 0.0)
    lengths = torch.where(finite, factor * norms / bound, 0.0)
    return Clipped(dict.fromkeys(squares, factor), lengths, finite, shortened & finite)


def layer_of(parameter: str) -> str:
    """The layer that a parameter belongs to."""
    return parameter.rpartition(".")[0]


def _per_layer(
    squares: Mapping[str, torch.Tensor], finite: torch.Tensor, *, bound: float, layers: int
) -> Clipped:
    share = bound / layers**0.5
    totals: dict[str, torch.Tensor] = {}
    for name, values in squares.items():
        layer = layer_of(name)
        totals[layer] = values if layer not in totals else totals[layer] + values
    norms = {layer: values.sqrt() for layer, values in totals.items()}
    factors = {
        layer: torch.where(finite, (share / values.clamp_min(_LEAST)).clamp_max(1.0), 0.0)
        for layer, values in norms.items()
    }
    left = torch.stack([(factors[layer] * norms[layer]).square() for layer in norms]).sum(dim=0)
    lengths = torch.where(finite, left.sqrt() / bound, 0.0)
    shortened = torch.stack([norms[layer] > share for layer in norms]).any(dim=0) & finite
    return Clipped({n: factors[layer_of(n)] for n in squares}, lengths, finite, shortened)
