"""Unit gradients by ``torch.func``: the whole model differentiated for each row by itself.

Correct for every model that ``vmap`` can run, whatever its parameters are used for; slow. Also
takes gradients of each unit at parameters of its own, which nothing else here can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from primum.domain.errors import InvalidValue
from primum_pipelines.optimization.gradients.contributions import Formed, UnitGradients
from primum_pipelines.optimization.gradients.segments import Segments


class Functional:
    """The engine for any model.

    Args:
        module: The model.
    """

    name = "functional (torch.func)"

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._names = [name for name, p in module.named_parameters() if p.requires_grad]

    def __call__(
        self,
        losses: Callable[..., torch.Tensor],
        rows: tuple[torch.Tensor, ...],
        *,
        weights: torch.Tensor,
        segments: Segments,
    ) -> UnitGradients:
        """The gradients of the units' losses at the model's parameters."""
        return self._gradients(losses, rows, weights, segments, moved=None)

    def at(
        self,
        moved: Mapping[str, torch.Tensor],
        losses: Callable[..., torch.Tensor],
        rows: tuple[torch.Tensor, ...],
        *,
        weights: torch.Tensor,
        segments: Segments,
    ) -> UnitGradients:
        """The gradients of the units' losses, each at parameters of its own.

        Args:
            moved: What is added to the model's parameters, ``(U, *shape)`` each.
            losses: ``losses(module, *rows)`` gives ``(R,)``.
            rows: Tensors with R rows.
            weights: What each row counts in its unit's loss.
            segments: Which rows are whose.
        """
        own = self._parameters()
        owners = segments.spread(torch.arange(segments.units, device=weights.device))
        stacked = {name: own[name] + moved[name][owners] for name in own}
        return self._gradients(losses, rows, weights, segments, moved=stacked)

    def _parameters(self) -> dict[str, torch.Tensor]:
        own = dict(self._module.named_parameters())
        return {name: own[name].detach() for name in self._names}

    def _gradients(
        self,
        losses: Callable[..., torch.Tensor],
        rows: tuple[torch.Tensor, ...],
        weights: torch.Tensor,
        segments: Segments,
        *,
        moved: Mapping[str, torch.Tensor] | None,
    ) -> UnitGradients:
        def of_one_row(
            parameters: Mapping[str, torch.Tensor], weight: torch.Tensor, *row: torch.Tensor
        ) -> torch.Tensor:
            bound = _Bound(self._module, parameters)
            found = losses(bound, *(part[None] for part in row))
            return (found * weight).sum()

        parameters = self._parameters() if moved is None else dict(moved)
        axes = (None if moved is None else 0, 0, *(0 for _ in rows))
        try:
            found = torch.func.vmap(
                torch.func.grad(of_one_row), in_dims=axes, randomness="different"
            )(parameters, weights, *rows)
        except RuntimeError as problem:
            raise InvalidValue(
                "model",
                "must be differentiable row by row with torch.func",
                type(problem).__name__,
                "Compose it of layers that PyTorch has, without data-dependent branches.",
            ) from problem
        parts = {name: Formed(segments.total(values)) for name, values in found.items()}
        numbers = sum(values.numel() for values in found.values())
        return UnitGradients(segments.units, parts, numbers)


class _Bound:
    """The model with other parameters, for as long as one call takes."""

    def __init__(self, module: nn.Module, parameters: Mapping[str, torch.Tensor]) -> None:
        self._module = module
        self._parameters = dict(parameters)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return torch.func.functional_call(self._module, self._parameters, inputs, named)
