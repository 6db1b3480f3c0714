"""Shadow models: many small private trainings as one batched program.

All models run stacked: parameters ``(M, ...)``, batches ``(M, B, ...)``, one optimizer over the
stack. Per-record gradient norms come from layer inputs and output gradients (ghost clipping, Li et
al. 2022, Bu et al. 2022), so no per-record gradient of a linear layer is ever stored. Shadows see
private data: they stay in the worker's memory, are never written, and die with the audit. Their
noise is drawn from torch's generator, which is fine for an attack and would not be for a release.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import nn

from primum.domain.errors import InvalidValue

if TYPE_CHECKING:
    from primum_pipelines.attacks.pool import Pool

Stack: TypeAlias = dict[str, torch.Tensor]
_TABLE_AXES = 2
_PARAMETER_FREE = (
    nn.Flatten,
    nn.ReLU,
    nn.Tanh,
    nn.MaxPool2d,
    nn.AvgPool2d,
)
_ROWS_AT_ONCE = 4096  # Rows over all stacked models: bounds memory.
_IMAGES_AT_ONCE = 256  # Unfolded images leave the processor's cache above it.


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the Study trains; the shadows do the same.

    Args:
        noise_multiplier: 0 trains without noise.
        sample_rate: Poisson rate.
        steps: Steps.
        max_grad_norm: Clipping bound; infinite trains without clipping.
        learning_rate: Step size.
        optimizer: ``SGD`` or ``Adam``.
        momentum: For SGD.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    max_grad_norm: float
    learning_rate: float
    optimizer: str = "SGD"
    momentum: float = 0.0


def complementary_halves(models: int, records: int, *, generator: torch.Generator) -> torch.Tensor:
    """Memberships in which every record is in exactly half of the models.

    Args:
        models: Even number M.
        records: Size of the pool.
        generator: Draws the halves.

    Returns:
        Booleans ``(M, records)``; rows 2j and 2j + 1 are complements.

    Raises:
        InvalidValue: If the number of models is odd.
    """
    if models % 2:
        raise InvalidValue("spec.audits.shadows", "must be even", models)
    order = torch.rand((models // 2, records), generator=generator).argsort(dim=1)
    first = order < records // 2
    return torch.stack([first, ~first], dim=1).reshape(models, records)


def train_stacked(
    build: Callable[[], nn.Module],
    pool: Pool,
    members: torch.Tensor,
    recipe: Recipe,
    *,
    generator: torch.Generator,
) -> Stack:
    """Train one model per row of ``members``, all at once.

    Args:
        build: Makes a freshly initialized module of Linear, Conv2d and GroupNorm layers.
        pool: The records.
        members: Which records each model may see, booleans ``(M, n)``.
        recipe: The Study's recipe.
        generator: Draws sampling and noise.

    Returns:
        Stacked parameters by name, each ``(M, ...)``.

    Raises:
        InvalidValue: If the module has trainable layers of another kind.
    """
    models = [build() for _ in range(len(members))]
    skeleton = models[0]
    stack = {
        name: torch.stack([dict(model.named_parameters())[name].detach() for model in models])
        for name, _ in skeleton.named_parameters()
    }
    optimizer = _optimizer(stack, recipe)
    sums = GhostSums(skeleton)
    expected = recipe.sample_rate * members.sum(dim=1).float()
    for _ in range(recipe.steps):
        rows, taken = _poisson(members, recipe.sample_rate, generator)
        total = _clipped_sums(sums, stack, pool, rows=rows, taken=taken, bound=recipe.max_grad_norm)
        for name, parameter in stack.items():
            noise = 0.0
            if recipe.noise_multiplier:
                std = recipe.noise_multiplier * recipe.max_grad_norm
                noise = torch.randn(parameter.shape, generator=generator) * std
            shape = (-1, *(1,) * (parameter.dim() - 1))
            parameter.grad = (total[name] + noise) / expected.view(shape)
        optimizer.step()
    return stack


def logits_of(
    skeleton: nn.Module, stack: Mapping[str, torch.Tensor], inputs: torch.Tensor
) -> torch.Tensor:
    """Every stacked model's logits on all records, ``(M, n, classes)``."""
    sums, models = GhostSums(skeleton), len(next(iter(stack.values())))
    with torch.no_grad():
        parts = [
            sums.logits(stack, rows.expand(models, *rows.shape))
            for rows in inputs.split(max(1, _ROWS_AT_ONCE // models))
        ]
    return torch.cat(parts, dim=1)


def _optimizer(stack: Stack, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = list(stack.values())
    match recipe.optimizer:
        case "SGD":
            return torch.optim.SGD(parameters, lr=recipe.learning_rate, momentum=recipe.momentum)
        case "Adam":
            return torch.optim.Adam(parameters, lr=recipe.learning_rate)
        case other:
            raise InvalidValue("optimizer", "must be SGD or Adam", other)


def _poisson(
    members: torch.Tensor, rate: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each model's own Poisson sample, padded to the longest: row numbers ``(M, B)`` and a mask."""
    taken = members & (torch.rand(members.shape, generator=generator) < rate)
    longest = max(1, int(taken.sum(dim=1).max()))
    rows = taken.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :longest]
    return rows, taken.gather(1, rows)


def _clipped_sums(
    sums: GhostSums,
    stack: Stack,
    pool: Pool,
    *,
    rows: torch.Tensor,
    taken: torch.Tensor,
    bound: float,
) -> Stack:
    """Sums over each model's batch of gradients clipped to ``bound``, in chunks of models."""
    at_once = _IMAGES_AT_ONCE if pool.inputs.dim() > _TABLE_AXES else _ROWS_AT_ONCE
    chunk = max(1, at_once // rows.shape[1])
    parts: list[Stack] = []
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        chosen = rows[part]
        parameters = {name: value.detach()[part] for name, value in stack.items()}
        parts.append(
            sums(
                parameters,
                pool.inputs[chosen],
                pool.labels[chosen],
                taken=taken[part],
                bound=bound,
            )
        )
    return {name: torch.cat([part[name] for part in parts]) for name in stack}


class GhostSums:
    """Clipped gradient sums of stacked models, from layer inputs and output gradients.

    Args:
        skeleton: A sequence of Linear, Conv2d (without groups), GroupNorm and parameter-free layers
            that treat every row by itself.

    Raises:
        InvalidValue: If it is anything else.
    """

    def __init__(self, skeleton: nn.Module) -> None:
        self._layers = _layers_of(skeleton)

    def logits(self, parameters: Mapping[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        """Every model's logits on its own rows: ``(M, B, ...)`` to ``(M, B, classes)``."""
        return self._forward(parameters, inputs)[0]

    def __call__(
        self,
        parameters: Mapping[str, torch.Tensor],
        inputs: torch.Tensor,
        labels: torch.Tensor,
        *,
        taken: torch.Tensor,
        bound: float,
    ) -> Stack:
        """Sums ``(M, ...)`` by parameter name; rows that are not taken count nothing."""
        with torch.enable_grad():
            logits, passes = self._forward(parameters, inputs)
            loss = nn.functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), reduction="sum"
            )
            gradients = torch.autograd.grad(loss, [item.output for item in passes])
        parts = [_part(item, gradient) for item, gradient in zip(passes, gradients, strict=True)]
        norms = torch.stack([part.squares for part in parts]).sum(dim=0).sqrt()
        factor = (bound / norms.clamp_min(1e-12)).clamp_max(1.0) * taken
        sums: Stack = {}
        for part in parts:
            sums.update(part.sums(factor))
        return sums

    def _forward(
        self, parameters: Mapping[str, torch.Tensor], inputs: torch.Tensor
    ) -> tuple[torch.Tensor, list[_Pass]]:
        state, passes = inputs, []
        for name, layer in self._layers:
            own = {
                key: parameters[f"{name}.{key}"] for key, _ in layer.named_parameters(recurse=False)
            }
            if not own:
                state = layer(state.flatten(0, 1)).unflatten(0, state.shape[:2])
                continue
            seen, state = _apply(layer, own, state)
            if not state.requires_grad and torch.is_grad_enabled():
                state.requires_grad_()
            passes.append(_Pass(name, layer, seen, state))
        return state, passes


@dataclass(frozen=True, slots=True)
class _Pass:
    """One layer's pass: what its weights were multiplied with, and what came out."""

    name: str
    layer: nn.Module
    seen: torch.Tensor
    output: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Part:
    """One layer's share: squared norms ``(M, B)``, and its sums once the factors are known."""

    squares: torch.Tensor
    sums: Callable[[torch.Tensor], Stack]


def _layers_of(skeleton: nn.Module) -> list[tuple[str, nn.Module]]:
    if not isinstance(skeleton, nn.Sequential):
        raise InvalidValue("model", "must be a Sequential for shadows", type(skeleton).__name__)
    layers = list(skeleton.named_children())
    for name, layer in layers:
        plain = isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros"
        if not (plain or isinstance(layer, (nn.Linear, nn.GroupNorm, *_PARAMETER_FREE))):
            raise InvalidValue(
                f"model layer {name}",
                "must be Linear, Conv2d without groups, GroupNorm or parameter-free for shadows",
                type(layer).__name__,
            )
    return layers


def _apply(layer: nn.Module, own: Stack, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer of every model. Convolutions are matrix products over unfolded windows.

    Returns:
        What the weights multiply: ``(M, B, in)``, ``(M, B, in x kernel, pixels)`` or the normalized
        state; and the output.
    """
    bias = own.get("bias")
    if isinstance(layer, nn.Linear):
        product = state @ own["weight"].transpose(1, 2)
        return state, product if bias is None else product + bias[:, None]
    if isinstance(layer, nn.GroupNorm):
        normal = nn.functional.group_norm(state.flatten(0, 1), layer.num_groups, eps=layer.eps)
        seen = normal.unflatten(0, state.shape[:2])
        return seen, seen * own["weight"][:, None, :, None, None] + own["bias"][
            :, None, :, None, None
        ]
    columns = nn.functional.unfold(
        state.flatten(0, 1),
        kernel_size=layer.kernel_size,
        dilation=layer.dilation,
        padding=layer.padding,
        stride=layer.stride,
    ).unflatten(0, state.shape[:2])
    product = own["weight"].flatten(2)[:, None] @ columns
    if bias is not None:
        product = product + bias[:, None, :, None]
    return columns, product.unflatten(3, _conv_size(layer, state))


def _conv_size(layer: nn.Module, state: torch.Tensor) -> tuple[int, int]:
    """Height and width after a convolution."""
    sizes = [
        (length + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        for length, pad, dilation, kernel, stride in zip(
            state.shape[-2:],
            layer.padding,
            layer.dilation,
            layer.kernel_size,
            layer.stride,
            strict=True,
        )
    ]
    return sizes[0], sizes[1]


def _part(item: _Pass, gradient: torch.Tensor) -> _Part:
    seen = item.seen.detach()
    if isinstance(item.layer, nn.Linear):
        return _linear_part(item, seen, gradient)
    if isinstance(item.layer, nn.Conv2d):
        return _stored_part(item, gradient.flatten(3) @ seen.transpose(2, 3), gradient)
    return _stored_part(item, (seen * gradient).flatten(3).sum(dim=-1), gradient)


def _linear_part(item: _Pass, seen: torch.Tensor, gradient: torch.Tensor) -> _Part:
    """A linear layer's norms are products of norms: no per-record gradient is formed."""
    energy = gradient.square().sum(dim=-1)
    squares = energy * seen.square().sum(dim=-1)
    biased = getattr(item.layer, "bias", None) is not None

    def sums(factor: torch.Tensor) -> Stack:
        weighted = gradient * factor[..., None]
        found = {f"{item.name}.weight": weighted.transpose(1, 2) @ seen}
        if biased:
            found[f"{item.name}.bias"] = weighted.sum(dim=1)
        return found

    return _Part(squares + energy if biased else squares, sums)


def _stored_part(item: _Pass, weights: torch.Tensor, gradient: torch.Tensor) -> _Part:
    """A small layer: its per-record gradients ``(M, B, ...)`` are kept."""
    own = dict(item.layer.named_parameters(recurse=False))
    biases = gradient.flatten(3).sum(dim=-1)
    squares = weights.flatten(2).square().sum(dim=-1)

    def sums(factor: torch.Tensor) -> Stack:
        total = (weights * factor.view(*factor.shape, *(1,) * (weights.dim() - 2))).sum(dim=1)
        found = {f"{item.name}.weight": total.view(len(total), *own["weight"].shape)}
        if "bias" in own:
            found[f"{item.name}.bias"] = (biases * factor[..., None]).sum(dim=1)
        return found

    return _Part(squares + biases.square().sum(dim=-1) if "bias" in own else squares, sums)
