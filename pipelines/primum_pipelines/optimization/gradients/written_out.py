"""A plain sequence of layers within a model, its passes written out.

Its forward pass is replaced while losses are computed, and gives its answers as a leaf: autograd
sees what comes after them, and gives the gradient there; the written way back gives the rest. What
is asked of the sequence otherwise is for the layers' own rules, not for this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from primum.domain.errors import InvalidValue
from primum_pipelines.optimization.gradients.contributions import Contribution, Formed, Product
from primum_pipelines.optimization.gradients.segments import Segments
from primum_pipelines.optimization.written.chain import Chain, Forward, layers_of
from primum_pipelines.optimization.written.layers import Rows

_FORWARD = "forward"


class AskedOtherwiseError(Exception):
    """The sequence was asked for what the written passes do not give."""


@dataclass(slots=True, repr=False)
class Answered:
    """What the sequence answered while losses were computed; nothing where it was not asked.

    Args:
        leaf: Its answers, where autograd ends.
        forward: The pass that gave them.
    """

    leaf: torch.Tensor | None = None
    forward: Forward | None = None


class WrittenOut:
    """A sequence whose passes are written out.

    Args:
        sequence: For which ``can_be_written_out``.
        prefix: What the model's names of its parameters begin with.
    """

    def __init__(self, sequence: nn.Module, *, prefix: str) -> None:
        self.sequence = sequence
        self._prefix = prefix
        self._chain = Chain(sequence)

    @contextmanager
    def answering(self, rows: int) -> Iterator[Answered]:
        """Give the sequence's answers in its place.

        Args:
            rows: How many are asked for, once.

        Raises:
            AskedOtherwiseError: If it is asked twice, for other rows, or for a gradient at them.
        """
        answered = Answered()

        def answer(inputs: torch.Tensor) -> torch.Tensor:
            unfit = not self._chain.takes(inputs) or len(inputs) != rows or inputs.requires_grad
            if answered.leaf is not None or unfit:
                raise AskedOtherwiseError
            entered = self._chain.entered(inputs).copies(1)
            answered.forward = self._chain.forward(self._parameters(), entered)
            answered.leaf = answered.forward.output[0].requires_grad_()
            return answered.leaf

        vars(self.sequence)[_FORWARD] = answer
        try:
            yield answered
        finally:
            del vars(self.sequence)[_FORWARD]

    def parts(
        self, answered: Answered, gradient: torch.Tensor, segments: Segments
    ) -> Mapping[str, Contribution]:
        """Each unit's gradient at the sequence's parameters, by the model's names for them.

        Args:
            answered: Used up by this.
            gradient: At the answers, ``(R, ...)``.
            segments: Which rows are whose.
        """
        if answered.forward is None:
            return {}
        rows = self._chain.back(answered.forward, gradient[None])
        return {f"{self._prefix}{name}": _of_units(part, segments) for name, part in rows.items()}

    def _parameters(self) -> dict[str, torch.Tensor]:
        return {name: value.detach()[None] for name, value in self.sequence.named_parameters()}


def written_part(module: nn.Module) -> WrittenOut | None:
    """The sequence within a model that is written out: the model itself, or one of its parts."""
    if can_be_written_out(module):
        return WrittenOut(module, prefix="")
    found = [
        (name, part)
        for name, part in module.named_children()
        if isinstance(part, nn.Sequential) and can_be_written_out(part)
    ]
    if len(found) != 1:
        return None
    ((name, part),) = found
    return WrittenOut(part, prefix=f"{name}.")


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
