"""Notes, in one forward pass, what every layer with trainable parameters was given and gave.

Gradients of outputs are asked for by autograd's own edges, so a change in place afterwards cannot
be mistaken for the layer's output. Inputs are not copied; one that was changed in place before it
is used is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from primum.domain.errors import InvalidValue
from primum_pipelines.models.layers import Folded


@dataclass(frozen=True, slots=True)
class Owner:
    """A layer with trainable parameters of its own.

    Args:
        path: Where it is in the model.
        layer: The layer.
        names: Its own trainable parameters: their name there, and the model's name for them.
        folded: Whether rows may be folded where it is.
    """

    path: str
    layer: nn.Module
    names: Mapping[str, str]
    folded: bool


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an owner.

    Args:
        owner: The layer.
        inputs: Its positional arguments, detached.
        versions: Of the inputs when it was called.
        edge: Where the gradient of its output arrives.
        slices: Into how many adjacent parts each row was folded.
        numbers: Numbers of its output.
    """

    owner: Owner
    inputs: tuple[torch.Tensor, ...]
    versions: tuple[int, ...]
    edge: GradientEdge
    slices: int
    numbers: int

    def require_untouched(self) -> None:
        """Refuse inputs that were changed in place after the layer had seen them.

        Raises:
            InvalidValue: If one was.
        """
        if tuple(part._version for part in self.inputs) != self.versions:
            raise InvalidValue(
                f"model layer {self.owner.path}",
                "must keep its input as it was given",
                "a change in place",
                "Use layers that are not inplace.",
            )


class Recorder:
    """Hooks on the layers of one model, there only while a forward pass is recorded.

    Args:
        module: The model.
        without: A part of it whose layers are left out.
    """

    def __init__(self, module: nn.Module, *, without: nn.Module | None = None) -> None:
        left_out = set() if without is None else {id(layer) for layer in without.modules()}
        self._owners = tuple(o for o in _owners(module) if id(o.layer) not in left_out)
        self.trainable = {n: p for n, p in module.named_parameters() if p.requires_grad}

    @property
    def owners(self) -> tuple[Owner, ...]:
        """Layers with trainable parameters."""
        return self._owners

    def record(
        self, losses: Callable[[], torch.Tensor], *, rows: int
    ) -> tuple[torch.Tensor, list[Call]]:
        """Run a forward pass.

        Args:
            losses: Calls the model and gives losses.
            rows: Number of rows that the model is given.

        Returns:
            What it gave, and every call of an owner whose output depends on a parameter.
        """
        calls: list[Call] = []
        handles = [
            owner.layer.register_forward_hook(_hook(owner, calls, rows)) for owner in self._owners
        ]
        try:
            found = losses()
        finally:
            for handle in handles:
                handle.remove()
        return found, calls


def _owners(module: nn.Module) -> tuple[Owner, ...]:
    named = {id(parameter): name for name, parameter in module.named_parameters()}
    folded = {
        id(inner)
        for outer in module.modules()
        if isinstance(outer, Folded)
        for inner in outer.body.modules()
    }
    found = []
    for path, layer in module.named_modules():
        names = {
            name: named[id(parameter)]
            for name, parameter in layer.named_parameters(recurse=False)
            if parameter.requires_grad
        }
        if names:
            where = path or type(layer).__name__
            found.append(Owner(where, layer, names, folded=id(layer) in folded))
    return tuple(found)


def _hook(owner: Owner, calls: list[Call], rows: int) -> Callable[..., None]:
    def note(_layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, torch.Tensor):
            raise _unknown(owner, "must give one tensor", type(output).__name__)
        if not output.requires_grad:
            return
        if not inputs or not all(isinstance(part, torch.Tensor) for part in inputs):
            raise _unknown(owner, "must be given tensors by position", "other arguments")
        slices = _slices(owner, (*inputs, output), rows)
        kept = tuple(part.detach() for part in inputs)
        calls.append(
            Call(
                owner=owner,
                inputs=kept,
                versions=tuple(part._version for part in kept),
                edge=get_gradient_edge(output),
                slices=slices,
                numbers=output.numel(),
            )
        )

    return note


def _slices(owner: Owner, tensors: tuple[torch.Tensor, ...], rows: int) -> int:
    lengths = {part.shape[0] if part.dim() else 0 for part in tensors}
    length = max(lengths)
    whole = rows > 0 and length % rows == 0
    if len(lengths) != 1 or not whole or (length != rows and not owner.folded):
        raise _unknown(owner, f"must keep {rows} rows in its first axis", str(sorted(lengths)))
    return length // rows


def _unknown(owner: Owner, rule: str, found: str) -> InvalidValue:
    return InvalidValue(
        f"model layer {owner.path}",
        rule,
        found,
        "Fold slices with models.layers.Folded, or use gradients: Functional.",
    )
