"""Is a model one for which unit gradients mean something? Looked at once, on the first units.

What is compared are figures of the model on some rows; a message shows none of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from primum.domain.errors import InvalidValue
from primum_pipelines.optimization.gradients.engine import Engine
from primum_pipelines.optimization.gradients.segments import Segments

# Other batch sizes round differently by 1e-6 or so; a loss that mixes units differs by far more.
_TOLERANCE = 1e-2
# A bias before a normalization has a gradient that is nothing but rounding.
_ROUNDING = 1e-3
_SEED = 0  # Of what dropout draws while the model is looked at, and of nothing else.


def require_apart(
    module: nn.Module,
    losses: Callable[..., torch.Tensor],
    rows: tuple[torch.Tensor, ...],
    *,
    segments: Segments,
) -> None:
    """Refuse a model or loss whose value for a unit depends on which others are in the batch.

    Args:
        module: The model.
        losses: ``losses(module, *rows)``.
        rows: Of at least two units; of fewer nothing can be told.
        segments: Which rows are whose.

    Raises:
        InvalidValue: If it gives other than one loss per row, or mixes units.
    """
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            together = losses(module, *rows)
            if together.shape != (segments.rows,):
                raise InvalidValue(
                    "loss", "must give one value per row", f"shape {tuple(together.shape)}"
                )
            half = _rows_of_half(segments)
            alone = losses(module, *(values[:half] for values in rows)) if half else together[:0]
        mixed = _reaches_others(module, losses, rows, half)
    finally:
        module.train(training)
    if mixed or not _small(alone - together[:half], _largest(together[:half])):
        raise InvalidValue(
            "loss",
            "must treat every unit by itself",
            "a loss that changes with the other units of the batch",
            "Use layers and losses that look at one row; clipping means nothing otherwise.",
        )


def require_complete(
    module: nn.Module,
    losses: Callable[..., torch.Tensor],
    rows: tuple[torch.Tensor, ...],
    *,
    weights: torch.Tensor,
    segments: Segments,
    engine: Engine,
    named: Mapping[str, nn.Parameter],
) -> None:
    """Refuse a model whose unit gradients do not add up to the gradient of the batch.

    Layers that draw random numbers, such as dropout, draw the same ones both times.

    Args:
        module: The model.
        losses: ``losses(module, *rows)``.
        rows: Some rows.
        weights: What each row counts in its unit's loss.
        segments: Which rows are whose.
        engine: What is to be checked; in float32, so that rounding hides nothing.
        named: The trainable parameters.

    Raises:
        InvalidValue: If a parameter is used in a way that its layer's rule has not seen.
    """
    device = rows[0].device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(_SEED)
        found = engine(losses, rows, weights=weights, segments=segments)
        torch.manual_seed(_SEED)
        total = (losses(module, *rows) * weights).sum()
    if not total.requires_grad:
        return
    expected = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    least = _ROUNDING * max((_largest(part) for part in expected if part is not None), default=0.0)
    less = -weights.new_ones(found.units)
    for (name, parameter), gradient in zip(named.items(), expected, strict=True):
        left = torch.zeros_like(parameter) if gradient is None else gradient.contiguous()
        size = max(_largest(left), least)
        if name in found.parts:
            found.parts[name].add_to(left, less)
        if not _small(left, size):
            raise InvalidValue(
                f"model parameter {name}",
                "must be used by its own layer alone",
                "a use elsewhere",
                "Compose the model of layers, or use gradients: Functional.",
            )


def _reaches_others(
    module: nn.Module,
    losses: Callable[..., torch.Tensor],
    rows: tuple[torch.Tensor, ...],
    half: int,
) -> bool:
    """Whether the losses of the first half change with the features of the second.

    Exact where the values hardly differ, as with Dice over a batch of lesions of one size: what a
    row does not use has a gradient of zero.
    """
    if not half or not rows[0].is_floating_point():
        return False
    features = rows[0].detach().clone().requires_grad_()
    with torch.enable_grad():
        total = losses(module, features, *rows[1:])[:half].sum()
    if not total.requires_grad:
        return False
    (found,) = torch.autograd.grad(total, (features,), allow_unused=True)
    return found is not None and _largest(found[half:]) > 0


def _rows_of_half(segments: Segments) -> int:
    half = segments.units // 2
    if segments.owners is None:
        return half * segments.rows_each
    return int((segments.owners < half).sum())


def _small(difference: torch.Tensor, size: float) -> bool:
    """Whether a difference is rounding; one that is not finite tells nothing."""
    found = _largest(difference)
    room = _TOLERANCE * size + torch.finfo(difference.dtype).tiny
    return not (math.isfinite(found) and math.isfinite(size)) or found <= room


def _largest(values: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(values, ord=math.inf)) if values.numel() else 0.0
