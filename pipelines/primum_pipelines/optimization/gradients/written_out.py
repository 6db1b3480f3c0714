"""Unit gradients of plain sequences of layers, by passes that are written out.

The model's forward pass is replaced while the losses are computed, so that autograd sees the losses
alone: it gives the gradient at the model's answers, and the written way back gives the rest. A loss
that asks more of the model than one answer to its rows is left to another engine.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from primum.domain.errors import InvalidValue
from primum_pipelines.optimization.gradients.contributions import (
    Contribution,
    Formed,
    Product,
    UnitGradients,
)
from primum_pipelines.optimization.gradients.segments import Segments
from primum_pipelines.optimization.written.chain import Chain, Forward, layers_of
from primum_pipelines.optimization.written.layers import Rows

_FORWARD = "forward"


class WrittenOut:
    """The engine for sequences of layers, in float32.

    Guarantees:
        Norms are of the very numbers that are summed. What it gives is what autograd gives but for
        rounding; ``require_complete`` compares both in every training.

    Args:
        module: The model; ``can_be_written_out``.
    """

    name = "written out"

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._chain = Chain(module)

    def __call__(
        self,
        losses: Callable[..., torch.Tensor],
        rows: tuple[torch.Tensor, ...],
        *,
        weights: torch.Tensor,
        segments: Segments,
    ) -> UnitGradients | None:
        """The gradients of the units' losses; ``None`` where another engine is needed."""
        passed: list[tuple[Forward, torch.Tensor]] = []

        def answer(inputs: torch.Tensor) -> torch.Tensor:
            if passed or inputs is not rows[0] or not self._chain.takes(inputs):
                raise _AskedOtherwiseError
            forward = self._chain.forward(self._parameters(), self._chain.entered(inputs).copies(1))
            passed.append((forward, forward.output[0].requires_grad_()))
            return passed[0][1]

        vars(self._module)[_FORWARD] = answer
        try:
            total = (losses(self._module, *rows) * weights).sum()
        except _AskedOtherwiseError:
            return None
        finally:
            del vars(self._module)[_FORWARD]
        if not passed or not total.requires_grad:
            return None
        ((forward, answers),) = passed
        trained = [p for p in self._module.parameters() if p.requires_grad]
        gradient, *others = torch.autograd.grad(total, [answers, *trained], allow_unused=True)
        if gradient is None or any(other is not None for other in others):
            return None  # Some parameter is used elsewhere: for the other engine to say.
        parts = {
            name: _of_units(part, segments)
            for name, part in self._chain.back(forward, gradient[None]).items()
        }
        return UnitGradients(segments.units, parts, forward.numbers)

    def _parameters(self) -> dict[str, torch.Tensor]:
        return {name: value.detach()[None] for name, value in self._module.named_parameters()}


class _AskedOtherwiseError(Exception):
    """A loss asks of the model what the written passes do not give."""


def can_be_written_out(module: nn.Module) -> bool:
    """Whether a model's passes can be: a sequence of known layers, on a processor."""
    parameters = list(module.parameters())
    if any(value.device.type != "cpu" or value.dtype is not torch.float32 for value in parameters):
        return False
    if len(parameters) != len(list(module.named_parameters(remove_duplicate=False))):
        return False
    try:
        layers_of(module)
    except InvalidValue:
        return False
    return True


def _of_units(rows: Rows, segments: Segments) -> Contribution:
    """Gradients of rows as those of their units."""
    if isinstance(rows, Product):
        left, right = (segments.side_by_side(part) for part in (rows.left, rows.right))
        return Product(left, right, rows.shape)
    return Formed(segments.total(rows.values), rows.order)
