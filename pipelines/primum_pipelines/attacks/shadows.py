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
_ROWS_AT_ONCE = 4096  # Rows over all stacked models: bounds the memory of unfolded convolutions.


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
    sums = _GhostSums(skeleton, pool.inputs[:1])
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

    def one(parameters: Stack) -> torch.Tensor:
        result: torch.Tensor = torch.func.functional_call(skeleton, parameters, (inputs,))
        return result

    with torch.no_grad():
        frozen = {name: value.detach() for name, value in stack.items()}
        return torch.func.vmap(one, chunk_size=8)(frozen)


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
    sums: _GhostSums,
    stack: Stack,
    pool: Pool,
    *,
    rows: torch.Tensor,
    taken: torch.Tensor,
    bound: float,
) -> Stack:
    """Sums over each model's batch of gradients clipped to ``bound``, in chunks of models."""
    chunk = max(1, _ROWS_AT_ONCE // rows.shape[1])
    parts: list[Stack] = []
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        chosen = rows[part]
        parameters = {name: value.detach()[part] for name, value in stack.items()}
        parts.append(sums(parameters, pool.inputs[chosen], pool.labels[chosen], taken[part], bound))
    return {name: torch.cat([part[name] for part in parts]) for name in stack}


class _GhostSums:
    """Clipped gradient sums of stacked models from layer inputs and output gradients."""

    def __init__(self, skeleton: nn.Module, example: torch.Tensor) -> None:
        self._skeleton = skeleton
        self._layers = {
            name: layer
            for name, layer in skeleton.named_modules()
            if list(layer.parameters(recurse=False))
        }
        for name, layer in self._layers.items():
            plain_conv = isinstance(layer, nn.Conv2d) and layer.groups == 1
            if not (plain_conv or isinstance(layer, nn.Linear | nn.GroupNorm)):
                raise InvalidValue(
                    f"model layer {name}",
                    "must be Linear, Conv2d without groups, or GroupNorm for stacked shadows",
                    type(layer).__name__,
                )
        self._shapes = self._output_shapes(example)

    def _output_shapes(self, example: torch.Tensor) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}

        def note(name: str) -> Callable[..., None]:
            def hook(_layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
                shapes[name] = tuple(output.shape[1:])

            return hook

        handles = [layer.register_forward_hook(note(name)) for name, layer in self._layers.items()]
        with torch.no_grad():
            self._skeleton(example)
        for handle in handles:
            handle.remove()
        return shapes

    def __call__(
        self,
        parameters: Stack,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        taken: torch.Tensor,
        bound: float,
    ) -> Stack:
        """Sums ``(M, ...)`` by parameter name; rows that are not taken count nothing."""
        gradients, seen = self._backward(parameters, inputs, labels)
        parts = [
            _part(layer, name, seen[name], gradients[name]) for name, layer in self._layers.items()
        ]
        norms = torch.stack([part.squares for part in parts]).sum(dim=0).sqrt()
        factor = (bound / norms.clamp_min(1e-12)).clamp_max(1.0) * taken
        sums: Stack = {}
        for part in parts:
            sums.update(part.sums(factor))
        return sums

    def _backward(
        self, parameters: Stack, inputs: torch.Tensor, labels: torch.Tensor
    ) -> tuple[Stack, Stack]:
        """Gradients of each layer's outputs, and each layer's inputs: ``(M, B, ...)`` each."""
        nudges = {
            name: torch.zeros((inputs.shape[1], *shape)) for name, shape in self._shapes.items()
        }

        def one(
            nudge: Stack, current: Stack, rows: torch.Tensor, targets: torch.Tensor
        ) -> tuple[torch.Tensor, Stack]:
            seen: Stack = {}

            def hook_of(name: str) -> Callable[..., torch.Tensor]:
                def hook(
                    _layer: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor
                ) -> torch.Tensor:
                    seen[name] = given[0]
                    return output + nudge[name]

                return hook

            handles = [
                layer.register_forward_hook(hook_of(name)) for name, layer in self._layers.items()
            ]
            try:
                logits = torch.func.functional_call(self._skeleton, current, (rows,))
            finally:
                for handle in handles:
                    handle.remove()
            return nn.functional.cross_entropy(logits, targets, reduction="sum"), seen

        differentiate = torch.func.grad(one, has_aux=True)
        result: tuple[Stack, Stack] = torch.func.vmap(differentiate, in_dims=(None, 0, 0, 0))(
            nudges, parameters, inputs, labels
        )
        return result


@dataclass(frozen=True, slots=True)
class _Part:
    """One layer's share: squared norms ``(M, B)``, and its sums once the factors are known."""

    squares: torch.Tensor
    sums: Callable[[torch.Tensor], Stack]


def _part(layer: nn.Module, name: str, seen: torch.Tensor, gradient: torch.Tensor) -> _Part:
    prefix = f"{name}." if name else ""
    if isinstance(layer, nn.Linear):
        return _linear_part(layer, prefix, seen, gradient)
    if isinstance(layer, nn.Conv2d):
        return _stored_part(layer, prefix, _conv_gradients(layer, seen, gradient), gradient)
    return _stored_part(layer, prefix, _norm_gradients(layer, seen, gradient), gradient)


def _linear_part(
    layer: nn.Linear, prefix: str, seen: torch.Tensor, gradient: torch.Tensor
) -> _Part:
    """A linear layer's norms are products of norms: no per-record gradient is formed."""
    energy = gradient.square().sum(dim=-1)
    squares = energy * seen.square().sum(dim=-1)

    def sums(factor: torch.Tensor) -> Stack:
        weighted = gradient * factor[..., None]
        found = {f"{prefix}weight": weighted.transpose(1, 2) @ seen}
        if layer.bias is not None:
            found[f"{prefix}bias"] = weighted.sum(dim=1)
        return found

    return _Part(squares + energy if layer.bias is not None else squares, sums)


def _stored_part(
    layer: nn.Module, prefix: str, weights: torch.Tensor, gradient: torch.Tensor
) -> _Part:
    """A small layer: its per-record gradients ``(M, B, ...)`` are kept."""
    own = dict(layer.named_parameters(recurse=False))
    biases = gradient.flatten(3).sum(dim=-1)
    squares = weights.flatten(2).square().sum(dim=-1)

    def sums(factor: torch.Tensor) -> Stack:
        total = (weights * factor.view(*factor.shape, *(1,) * (weights.dim() - 2))).sum(dim=1)
        found = {f"{prefix}weight": total.view(len(total), *own["weight"].shape)}
        if "bias" in own:
            found[f"{prefix}bias"] = (biases * factor[..., None]).sum(dim=1)
        return found

    return _Part(squares + biases.square().sum(dim=-1) if "bias" in own else squares, sums)


def _conv_gradients(layer: nn.Conv2d, seen: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Per-record gradients of a convolution's weight, ``(M, B, out, in x kernel)``."""
    m, b = seen.shape[:2]
    columns = nn.functional.unfold(
        seen.flatten(0, 1),
        kernel_size=layer.kernel_size,
        dilation=layer.dilation,
        padding=layer.padding,
        stride=layer.stride,
    )
    outputs = gradient.flatten(0, 1).flatten(2)
    return (outputs @ columns.transpose(1, 2)).view(m, b, outputs.shape[1], columns.shape[1])


def _norm_gradients(layer: nn.Module, seen: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Per-record gradients of a group norm's scale, ``(M, B, channels)``."""
    if not isinstance(layer, nn.GroupNorm):
        raise InvalidValue("layer", "must be GroupNorm", type(layer).__name__)
    m, b = seen.shape[:2]
    normal = nn.functional.group_norm(seen.flatten(0, 1), layer.num_groups, eps=layer.eps)
    return (normal * gradient.flatten(0, 1)).flatten(2).sum(dim=-1).view(m, b, -1)
