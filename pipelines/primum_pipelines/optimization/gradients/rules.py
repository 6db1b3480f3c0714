"""Layer by layer: from a layer's input and the gradient of its output to parameter gradients.

A rule must be exact for every setting of its layer; a setting it does not know is left to
``by_itself``, which differentiates the layer alone and is slower. Rows are the first axis of every
tensor here, and what a layer gives for a row depends on this row and its parameters alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn
from torch.nn import functional

from primum.domain.errors import InvalidValue
from primum_pipelines.models.layers import Positions
from primum_pipelines.optimization.gradients import convolutions
from primum_pipelines.optimization.gradients.contributions import (
    Contribution,
    Formed,
    Lookup,
    Product,
)
from primum_pipelines.optimization.gradients.segments import Segments
from primum_pipelines.optimization.settings import GradientMode

Found: TypeAlias = dict[str, Contribution]

# A formed gradient is written once and read twice; in multiplications, what moving one number costs
# (measured on a CPU with AVX-512; on others the choice may be slower, never wrong).
_MOVE = 20
_FORMING_MORE = 4  # Forming costs about 1/4 more per multiplication than one product over all rows.


@dataclass(frozen=True, slots=True)
class Use:
    """One call of a layer within a forward pass, and what came back for it.

    Args:
        layer: The layer.
        inputs: Its positional arguments, detached; rows first.
        gradient: Of the sum of weighted losses with respect to its output; rows first.
        segments: Which rows are whose.
        mode: What to prefer.
    """

    layer: nn.Module
    inputs: tuple[torch.Tensor, ...]
    gradient: torch.Tensor
    segments: Segments
    mode: GradientMode

    @property
    def seen(self) -> torch.Tensor:
        """The only input of a layer that has one."""
        return self.inputs[0]


Rule: TypeAlias = Callable[[Use], Found]


def forms(use: Use, *, positions: int, outputs: int, inputs: int) -> bool:
    """Whether forming ``outputs`` x ``inputs`` numbers per unit beats Gram matrices.

    Args:
        use: Gives the mode.
        positions: Summands T of a unit's gradient.
        outputs: Length o of the left factor.
        inputs: Length d of the right factor.
    """
    if use.mode is GradientMode.FORMED:
        return True
    grams = positions**2 * (outputs + inputs)
    numbers = outputs * inputs
    if use.mode is GradientMode.GHOST:
        return numbers <= positions**2
    return positions > 1 and grams > numbers * (positions / _FORMING_MORE + _MOVE)


def _linear(use: Use) -> Found:
    weight = use.layer.weight
    right = use.seen.reshape(len(use.seen), -1, weight.shape[1])
    left = use.gradient.reshape(len(use.gradient), -1, weight.shape[0])
    found: Found = {}
    if use.layer.bias is not None and use.layer.bias.requires_grad:
        rows = left.squeeze(1) if left.shape[1] == 1 else left.sum(dim=1)
        found["bias"] = Formed(use.segments.total(rows))
    if weight.requires_grad:
        product = Product(
            use.segments.side_by_side(left), use.segments.side_by_side(right), weight.shape
        )
        formed = forms(
            use, positions=product.left.shape[1], outputs=weight.shape[0], inputs=weight.shape[1]
        )
        found["weight"] = Formed(product.formed()) if formed else product
    return found


def _convolution(use: Use) -> Found:
    layer, found = use.layer, dict[str, Contribution]()
    if layer.bias is not None and layer.bias.requires_grad:
        found["bias"] = Formed(use.segments.total(use.gradient.flatten(2).sum(dim=2)))
    if not layer.weight.requires_grad:
        return found
    shape = convolutions.shape_of(layer)
    seen = convolutions.padded(layer, use.seen)
    positions = math.prod(use.gradient.shape[2:]) * use.segments.rows_max
    outputs = layer.weight.shape[0] if not shape.transposed else layer.weight.shape[1]
    inputs = layer.weight.numel() // outputs
    plain = shape.groups == 1 and not shape.transposed
    if not plain or forms(use, positions=positions, outputs=outputs, inputs=inputs):
        rows = convolutions.per_row(shape, seen, use.gradient)
        found["weight"] = Formed(use.segments.total(rows))
        return found
    segments, gradient = use.segments, use.gradient

    def total(factors: torch.Tensor) -> torch.Tensor:
        spread = segments.spread(factors)
        scaled = gradient * spread.view(-1, *(1,) * (gradient.dim() - 1))
        return convolutions.summed(shape, seen, scaled)

    found["weight"] = Product(
        segments.side_by_side(gradient.flatten(2).transpose(1, 2)),
        segments.side_by_side(convolutions.windows(shape, seen)),
        layer.weight.shape,
        total,
    )
    return found


def _channel_norm(use: Use) -> Found:
    """GroupNorm, and InstanceNorm as one group per channel.

    Rows become channels of one row, so that the sums over a batch that PyTorch computes for scale
    and shift are those of each row.
    """
    layer, (rows, channels) = use.layer, use.seen.shape[:2]
    found: Found = {}
    if not rows:
        return found
    seen, gradient = use.seen.reshape(1, rows * channels, -1), use.gradient.contiguous()
    shape = (1, rows * channels, seen.shape[2], rows * getattr(layer, "num_groups", channels))
    _, mean, scale = torch.native_group_norm(seen, None, None, *shape, layer.eps)
    ones = seen.new_ones(rows * channels)  # The layer's own weight plays no part in this.
    _, weights, biases = torch.ops.aten.native_group_norm_backward(
        gradient.view(seen.shape), seen, mean, scale, ones, *shape, [False, True, True]
    )
    for name, values in (("weight", weights), ("bias", biases)):
        parameter = getattr(layer, name)
        if parameter is not None and parameter.requires_grad:
            found[name] = Formed(use.segments.total(values.view(rows, channels)))
    return found


def _layer_norm(use: Use) -> Found:
    layer = use.layer
    shape = layer.normalized_shape
    normal = functional.layer_norm(use.seen, shape, eps=layer.eps)
    found: Found = {}
    if layer.bias is not None and layer.bias.requires_grad:
        rows = use.gradient.reshape(len(normal), -1, *shape).sum(dim=1)
        found["bias"] = Formed(use.segments.total(rows))
    if layer.weight.requires_grad:
        rows = (use.gradient * normal).reshape(len(normal), -1, *shape).sum(dim=1)
        found["weight"] = Formed(use.segments.total(rows))
    return found


def _embedding(use: Use) -> Found:
    weight = use.layer.weight
    rows = use.seen.reshape(len(use.seen), -1, 1)
    if use.layer.padding_idx is not None:
        rows = torch.where(rows == use.layer.padding_idx, -1, rows)
    values = use.gradient.reshape(len(rows), -1, weight.shape[1])
    # Filled-up places are zero rows with zero gradients: they add nothing.
    lookup = Lookup(
        use.segments.side_by_side(rows).squeeze(2), use.segments.side_by_side(values), weight.shape
    )
    formed = use.mode is GradientMode.FORMED
    return {"weight": Formed(lookup.formed()) if formed else lookup}


def _positions(use: Use) -> Found:
    return {"values": Formed(use.segments.total(use.gradient))}


def by_itself(use: Use) -> Found:
    """The layer differentiated alone, row by row: for layers without a rule.

    Raises:
        InvalidValue: If it draws random numbers or cannot be differentiated so.
    """
    own = {n: p.detach() for n, p in use.layer.named_parameters(recurse=False) if p.requires_grad}

    def of_one_row(
        parameters: Mapping[str, torch.Tensor], gradient: torch.Tensor, *inputs: torch.Tensor
    ) -> torch.Tensor:
        rows = tuple(part[None] for part in inputs)
        output = torch.func.functional_call(use.layer, dict(parameters), rows)
        found: torch.Tensor = (output[0] * gradient).sum()
        return found

    axes = (None, 0, *(0 for _ in use.inputs))
    try:
        rows = torch.func.vmap(torch.func.grad(of_one_row), in_dims=axes, randomness="error")(
            own, use.gradient, *use.inputs
        )
    except RuntimeError as problem:
        raise InvalidValue(
            f"model layer {type(use.layer).__name__}",
            "must be differentiable row by row",
            type(problem).__name__,
            "Compose it of layers that PyTorch has, or use gradients: Functional.",
        ) from problem
    return {name: Formed(use.segments.total(values)) for name, values in rows.items()}


_RULES: Mapping[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.ConvTranspose1d: _convolution,
    nn.ConvTranspose2d: _convolution,
    nn.ConvTranspose3d: _convolution,
    nn.GroupNorm: _channel_norm,
    nn.InstanceNorm1d: _channel_norm,
    nn.InstanceNorm2d: _channel_norm,
    nn.InstanceNorm3d: _channel_norm,
    nn.LayerNorm: _layer_norm,
    nn.Embedding: _embedding,
    Positions: _positions,
}


def has_rule(layer: nn.Module) -> bool:
    """Whether a layer's gradients come from a rule and not from ``by_itself``."""
    return rule_of(layer) is not by_itself


def rule_of(layer: nn.Module) -> Rule:
    """The rule of a layer; of its exact type, because a subclass may compute something else."""
    if isinstance(layer, nn.Embedding) and (
        layer.scale_grad_by_freq or layer.max_norm is not None or layer.sparse
    ):
        raise InvalidValue(
            "model layer Embedding",
            "must not have max_norm, scale_grad_by_freq or sparse",
            "one of them",
            "They look at the whole batch.",
        )
    return _RULES.get(type(layer), by_itself)
