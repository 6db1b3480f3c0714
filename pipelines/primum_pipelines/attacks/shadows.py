"""Shadow models as one batched program: many small private trainings at once.

All models run stacked: parameters ``(M, ...)``, batches ``(M, B, ...)``, one optimizer over the
stack. Per-record gradient norms come from layer inputs and output gradients (ghost clipping, Li et
al. 2022, Bu et al. 2022), so no per-record gradient of a linear layer is ever stored. What is done
with the noisy sums is the Study's own code. Shadows see private data: they stay in the worker's
memory, are never written, and die with the audit. Their noise is drawn from torch's generator,
which is fine for an attack and would not be for a release.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from primum.domain.errors import InvalidValue
from primum_pipelines.attacks.shadow_layers import (
    Convolved,
    Part,
    Pass,
    Stack,
    applied,
    supported,
    windows,
)
from primum_pipelines.optimization.clipping import clip
from primum_pipelines.optimization.descent import Mover
from primum_pipelines.optimization.randomness import random_source
from primum_pipelines.optimization.settings import ClippingRule, Descent

if TYPE_CHECKING:
    from primum_pipelines.attacks.pool import Pool

_PICTURE_AXES = 4
_ROWS_AT_ONCE = 4096  # Rows over all stacked models: bounds memory.
_IMAGES_AT_ONCE = 48  # Of small images: what a step holds then stays in the processor's cache.
_ROWS_ON_GPU = 16_384
_WINDOW_BYTES_MAX = 256 * 1024**2


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the Study trains, as far as stacked shadows can follow it.

    Args:
        noise_multiplier: 0 trains without noise.
        sample_rate: Poisson rate.
        steps: Steps.
        max_grad_norm: Clipping bound; infinite trains without clipping.
        learning_rate: Step size.
        optimizer: ``SGD`` or ``Adam``.
        momentum: For SGD.
        clipping: How gradients are brought to the bound.
        descent: What is done with the noisy sums.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    max_grad_norm: float
    learning_rate: float
    optimizer: str = "SGD"
    momentum: float = 0.0
    clipping: ClippingRule = ClippingRule.FLAT
    descent: Descent = field(default_factory=Descent)


@dataclass(frozen=True, slots=True, repr=False)
class Entered:
    """Records as the first layer takes them.

    Args:
        values: ``(n, ...)``; images channels-last, or their windows.
        image: Height, width and channels of images whose windows these are; empty otherwise.
    """

    values: torch.Tensor
    image: tuple[int, ...] = ()

    def only(self, rows: torch.Tensor) -> Entered:
        """Some of them, by number: ``(M, B)`` gives ``(M, B, ...)``."""
        return Entered(self.values[rows], self.image)


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
        build: Makes a module of Linear, Conv2d and GroupNorm layers with its initial weights;
            parameters that need no gradient are not trained.
        pool: The records, on the device that trains.
        members: Which records each model may see, booleans ``(M, n)``, on the CPU.
        recipe: The Study's recipe.
        generator: Draws sampling and noise.

    Returns:
        Stacked parameters by name, each ``(M, ...)``.

    Raises:
        InvalidValue: If the module has trainable layers of another kind.
    """
    device = pool.inputs.device
    models = [dict(build().named_parameters()) for _ in range(len(members))]
    skeleton = build().to(device)
    stack = {
        name: torch.stack([one[name].detach() for one in models]).to(device) for name in models[0]
    }
    moved = {
        name: nn.Parameter(stack[name])
        for name, p in skeleton.named_parameters()
        if p.requires_grad
    }
    stack |= {name: parameter.data for name, parameter in moved.items()}
    sums = GhostSums(skeleton)
    entered = sums.entered(pool.inputs)
    # The same divisor for all, as the Study's: halves are equal, or differ by one.
    units = float(members.sum()) / len(members)
    noise_std = recipe.noise_multiplier * recipe.max_grad_norm if recipe.noise_multiplier else 0.0
    mover = Mover(
        nn.Module(),
        moved,
        divisor=recipe.sample_rate * units,
        units=round(units),
        noise_std=noise_std,
        source=random_source(0),  # For Langevin dynamics alone, which are not stacked.
        optimizer=recipe.optimizer,
        learning_rate=recipe.learning_rate,
        momentum=recipe.momentum,
        descent=recipe.descent,
        steps=recipe.steps,
    )
    noise_source = generator
    if device.type != "cpu":
        noise_source = torch.Generator(device).manual_seed(int(generator.initial_seed()))
    for _ in range(recipe.steps):
        rows, taken = _poisson(members, recipe.sample_rate, generator)
        total = _clipped_sums(sums, stack, entered, pool, rows=rows, taken=taken, recipe=recipe)
        if noise_std:
            for value in total.values():
                noise = torch.randn(value.shape, generator=noise_source, device=device)
                value.add_(noise, alpha=noise_std)
        mover.move(total)
    mover.finish()
    return stack


def logits_of(
    skeleton: nn.Module, stack: Mapping[str, torch.Tensor], inputs: torch.Tensor
) -> torch.Tensor:
    """Every stacked model's logits on all records, ``(M, n, classes)``."""
    sums, models = GhostSums(skeleton), len(next(iter(stack.values())))
    at_once = _at_once(inputs)
    chunk = max(1, at_once // len(inputs))
    found = []
    for start in range(0, models, chunk):
        part = {name: value[start : start + chunk] for name, value in stack.items()}
        own = len(next(iter(part.values())))
        answers = []
        for rows in inputs.split(max(1, at_once // own)):
            entered = sums.entered(rows)
            copies = entered.values.expand(own, *entered.values.shape)
            answers.append(sums.logits(part, Entered(copies, entered.image)))
        found.append(torch.cat(answers, dim=1))
    return torch.cat(found)


def layers_of(skeleton: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers of a module that can be stacked, by name.

    Raises:
        InvalidValue: If it cannot be.
    """
    if not isinstance(skeleton, nn.Sequential):
        raise InvalidValue("model", "must be a Sequential to be stacked", type(skeleton).__name__)
    layers = list(skeleton.named_children())
    for name, layer in layers:
        if not supported(layer):
            raise InvalidValue(
                f"model layer {name}",
                "must be Linear, Conv2d without groups, GroupNorm or parameter-free to be stacked",
                type(layer).__name__,
            )
    return layers


def _pooled_first(layers: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    """The largest of some values, or zero: in either order, with the same gradients."""
    found = list(layers)
    for at in range(len(found) - 1):
        if isinstance(found[at][1], nn.ReLU) and isinstance(found[at + 1][1], nn.MaxPool2d):
            found[at], found[at + 1] = found[at + 1], found[at]
    return found


def _poisson(
    members: torch.Tensor, rate: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each model's own Poisson sample, padded to the longest: row numbers ``(M, B)`` and a mask."""
    taken = members & (torch.rand(members.shape, generator=generator) < rate)
    longest = max(1, int(taken.sum(dim=1).max()))
    rows = taken.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :longest]
    return rows, taken.gather(1, rows)


def _at_once(inputs: torch.Tensor) -> int:
    """Rows over all models that are computed at once."""
    if inputs.device.type != "cpu":
        return _ROWS_ON_GPU
    return _IMAGES_AT_ONCE if inputs.dim() >= _PICTURE_AXES else _ROWS_AT_ONCE


def _clipped_sums(
    sums: GhostSums,
    stack: Stack,
    entered: Entered,
    pool: Pool,
    *,
    rows: torch.Tensor,
    taken: torch.Tensor,
    recipe: Recipe,
) -> Stack:
    """Sums over each model's batch of clipped gradients, in chunks of models."""
    chunk = max(1, _at_once(pool.inputs) // rows.shape[1])
    parts: list[Stack] = []
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        # Padding is for the longest of all; a chunk is as long as its own longest.
        longest = max(1, int(taken[part].sum(dim=1).max()))
        chosen = rows[part, :longest].to(pool.labels.device)
        parts.append(
            sums(
                {name: value[part] for name, value in stack.items()},
                entered.only(chosen),
                pool.labels[chosen],
                taken=taken[part, :longest].to(pool.labels.device),
                bound=recipe.max_grad_norm,
                rule=recipe.clipping,
            )
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class GhostSums:
    """Clipped gradient sums of stacked models, from layer inputs and output gradients.

    Args:
        skeleton: A sequence of Linear, Conv2d (without groups), GroupNorm and parameter-free layers
            that treat every row by itself; parameters that need no gradient are left as they are.

    Raises:
        InvalidValue: If it is anything else.
    """

    def __init__(self, skeleton: nn.Module) -> None:
        self._layers = _pooled_first(layers_of(skeleton))
        trained = [
            at
            for at, (_, layer) in enumerate(self._layers)
            if any(value.requires_grad for value in layer.parameters())
        ]
        self._trained, self._first = frozenset(trained), min(trained, default=0)

    def entered(self, inputs: torch.Tensor) -> Entered:
        """Records as the first layer takes them, once for all models and steps."""
        first = self._layers[0][1]
        if inputs.dim() != _PICTURE_AXES or isinstance(first, nn.Flatten):
            return Entered(inputs)
        images = inputs.permute(0, 2, 3, 1).contiguous()
        if not isinstance(first, nn.Conv2d):
            return Entered(images)
        kernel = math.prod(first.kernel_size)
        if images.numel() * kernel * images.element_size() > _WINDOW_BYTES_MAX:
            return Entered(images)
        return Entered(windows(first, images), image=tuple(images.shape[1:]))

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def logits(self, parameters: Mapping[str, torch.Tensor], entered: Entered) -> torch.Tensor:
        """Every model's logits on its own rows: ``(M, B, ...)`` to ``(M, B, classes)``."""
        return self._forward(parameters, entered)[-1].output

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def __call__(
        self,
        parameters: Mapping[str, torch.Tensor],
        entered: Entered,
        labels: torch.Tensor,
        *,
        taken: torch.Tensor,
        bound: float,
        rule: ClippingRule = ClippingRule.FLAT,
    ) -> Stack:
        """Sums ``(M, ...)`` by parameter name; rows that are not taken count nothing.

        Args:
            parameters: Stacked parameters by name.
            entered: Rows, ``(M, B, ...)``, as ``entered`` gives them.
            labels: ``(M, B)``.
            taken: Which rows count, ``(M, B)``.
            bound: Clipping bound C.
            rule: The clipping rule.
        """
        passes = self._forward(parameters, entered)
        gradient = passes[-1].output.softmax(dim=-1)
        gradient.scatter_add_(2, labels[..., None], gradient.new_full((*labels.shape, 1), -1.0))
        parts: dict[str, Part] = {}
        for at in range(len(passes) - 1, self._first - 1, -1):
            if at in self._trained:
                part = passes[at].part(gradient)
                if part is not None:
                    parts[self._layers[at][0]] = part
            if at > self._first:
                gradient = passes[at].back(gradient)
        factors = _factors(parts, bound=bound, rule=rule)
        return {
            f"{layer}.{name}": total
            for layer, part in parts.items()
            for name, total in part.sums(factors[layer] * taken).items()
        }

    def _forward(self, parameters: Mapping[str, torch.Tensor], entered: Entered) -> list[Pass]:
        state, passes = entered.values, list[Pass]()
        for at, (name, layer) in enumerate(self._layers):
            own = {
                key: parameters[f"{name}.{key}"] for key, _ in layer.named_parameters(recurse=False)
            }
            if at == 0 and entered.image and isinstance(layer, nn.Conv2d):
                passes.append(Convolved(layer, own, state, image=entered.image))
            else:
                passes.append(applied(layer, own, state))
            state = passes[-1].output
        return passes


def _factors(
    parts: Mapping[str, Part], *, bound: float, rule: ClippingRule
) -> dict[str, torch.Tensor]:
    """What each layer's gradients are multiplied with, ``(M, B)`` by layer."""
    shape = next(iter(parts.values())).squares.shape
    squares = {f"{layer}.": part.squares.flatten() for layer, part in parts.items()}
    if math.isinf(bound):
        one = next(iter(parts.values())).squares
        return dict.fromkeys(parts, torch.ones_like(one))
    found = clip(squares, rule=rule, bound=bound, layers=len(parts))
    return {layer: found.factors[f"{layer}."].view(shape) for layer in parts}
