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
from primum_pipelines.optimization.clipping import clip, layer_of
from primum_pipelines.optimization.descent import Mover
from primum_pipelines.optimization.randomness import random_source
from primum_pipelines.optimization.settings import ClippingRule, Descent
from primum_pipelines.optimization.written.chain import Chain, Entered, Stack
from primum_pipelines.optimization.written.layers import weighted

if TYPE_CHECKING:
    from primum_pipelines.attacks.pool import Pool

_PICTURE_AXES = 4
_ROWS_AT_ONCE = 4096  # Rows over all stacked models: bounds memory.
_IMAGES_AT_ONCE = 96  # Of small images: what a step holds then stays in the processor's cache.
_ROWS_ON_GPU = 16_384


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
        executed: Steps that the Study ran of the planned ones; ``None`` for all of them.
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
    executed: int | None = None


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
    sums = ClippedSums(skeleton)
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
    for _ in range(recipe.steps if recipe.executed is None else recipe.executed):
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
    sums, models = ClippedSums(skeleton), len(next(iter(stack.values())))
    at_once = _at_once(inputs)
    chunk = max(1, at_once // len(inputs))
    found = []
    for start in range(0, models, chunk):
        part = {name: value[start : start + chunk] for name, value in stack.items()}
        own = len(next(iter(part.values())))
        answers = []
        for rows in inputs.split(max(1, at_once // own)):
            answers.append(sums.logits(part, sums.entered(rows).copies(own)))
        found.append(torch.cat(answers, dim=1))
    return torch.cat(found)


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
    sums: ClippedSums,
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


class ClippedSums:
    """Sums over each stacked model's rows of their clipped gradients.

    Args:
        skeleton: A module that ``Chain`` can write out; parameters that need no gradient are left
            as they are.

    Raises:
        InvalidValue: If it cannot.
    """

    def __init__(self, skeleton: nn.Module) -> None:
        self._chain = Chain(skeleton)
        self._layers = len({layer_of(n) for n, p in skeleton.named_parameters() if p.requires_grad})

    def entered(self, inputs: torch.Tensor) -> Entered:
        """Records as the first layer takes them, once for all models and steps."""
        return self._chain.entered(inputs)

    def logits(self, parameters: Mapping[str, torch.Tensor], entered: Entered) -> torch.Tensor:
        """Every model's logits on its own rows: ``(M, B, ...)`` to ``(M, B, classes)``."""
        return self._chain.forward(parameters, entered).output

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
            bound: Clipping bound C; infinite leaves gradients as they are.
            rule: The clipping rule.
        """
        forward = self._chain.forward(parameters, entered)
        gradient = forward.output.softmax(dim=-1)
        gradient.scatter_add_(2, labels[..., None], gradient.new_full((*labels.shape, 1), -1.0))
        rows = self._chain.back(forward, gradient)
        factors = dict.fromkeys(rows, taken.to(gradient.dtype))
        if not math.isinf(bound):
            squares = {name: part.squares() for name, part in rows.items()}
            found = clip(squares, rule=rule, bound=bound, layers=self._layers).factors
            factors = {name: found[name].view(taken.shape) * taken for name in rows}
        return {name: weighted(part, factors[name]) for name, part in rows.items()}
