"""A sequence of layers, forward and back, for many models or for one.

Which layers are taken together is decided as the pass goes, by shapes and weights. Must not mix
rows or models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from primum.domain.errors import InvalidValue
from primum_pipelines.optimization.written import blocks
from primum_pipelines.optimization.written.blocks import Block, FirstBlock, Windows
from primum_pipelines.optimization.written.layers import Pass, Rows, applied, supported

Stack: TypeAlias = dict[str, torch.Tensor]

_PICTURE_AXES = 4
_TABLE_AXES = 2
_WINDOW_BYTES_MAX = 256 * 1024**2


@dataclass(frozen=True, slots=True, repr=False)
class Entered:
    """Rows as the first layer takes them.

    Args:
        values: Tables, or images channels-last, or windows of images.
    """

    values: torch.Tensor | Windows

    def only(self, rows: torch.Tensor) -> Entered:
        """Some of them, by number: ``(M, B)`` gives ``(M, B, ...)``."""
        if isinstance(self.values, Windows):
            return Entered(self.values.only(rows))
        return Entered(self.values[rows])

    def copies(self, models: int) -> Entered:
        """The same for each of M models, ``(M, n, ...)``."""
        if isinstance(self.values, Windows):
            return Entered(self.values.copies(models))
        return Entered(self.values.expand(models, *self.values.shape))


@dataclass(frozen=True, slots=True, repr=False)
class Forward:
    """What a forward pass leaves.

    Args:
        passes: In order: the first of the layers that each stands for, the name that goes before
            its parameters' own, and the pass.
        output: Of the last layer, ``(M, B, ...)``.
    """

    passes: tuple[tuple[int, str, Pass], ...]
    output: torch.Tensor

    @property
    def numbers(self) -> int:
        """How many are held at once, those of the way back included."""
        return sum(one.numbers for _, _, one in self.passes)


class Chain:
    """A sequence of layers whose passes are written out.

    Args:
        skeleton: A ``Sequential`` of Linear, Conv2d (without groups), GroupNorm and parameter-free
            layers that treat every row by itself. It says shapes, and which parameters are wanted.

    Raises:
        InvalidValue: If it is anything else.
    """

    def __init__(self, skeleton: nn.Module) -> None:
        self._layers = _pooled_first(layers_of(skeleton))
        self._wanted = frozenset(n for n, p in skeleton.named_parameters() if p.requires_grad)
        trained = (
            at
            for at, (name, layer) in enumerate(self._layers)
            if any(f"{name}.{key}" in self._wanted for key, _ in layer.named_parameters())
        )
        self._first = min(trained, default=len(self._layers))

    def takes(self, inputs: torch.Tensor) -> bool:
        """Whether rows ``(n, ...)`` are images or a table, as the first layer wants them."""
        first = self._layers[0][1]
        if isinstance(first, nn.Conv2d):
            return bool(inputs.dim() == _PICTURE_AXES)
        return isinstance(first, nn.Flatten) or bool(inputs.dim() == _TABLE_AXES)

    def entered(self, inputs: torch.Tensor) -> Entered:
        """Rows ``(n, ...)`` as the first layer takes them, once for all models."""
        first = self._layers[0][1]
        if isinstance(first, nn.Flatten):
            return Entered(inputs.flatten(1))  # As PyTorch has them: channels first.
        if inputs.dim() != _PICTURE_AXES:
            return Entered(inputs)
        images = inputs.permute(0, 2, 3, 1).contiguous()
        some = [layer for _, layer in self._layers[: blocks.LENGTH]]
        if inputs.device.type != "cpu" or not blocks.is_block(some):
            return Entered(images)
        kernel = first.kernel_size[0] * first.kernel_size[1] * images.element_size()
        if images.numel() * kernel > _WINDOW_BYTES_MAX:
            return Entered(images)
        return Entered(blocks.windows_of(some, images) or images)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def forward(self, parameters: Mapping[str, torch.Tensor], entered: Entered) -> Forward:
        """Every model's answers on its own rows.

        Args:
            parameters: Stacked by name, ``(M, ...)``.
            entered: Of M models with B rows each, ``(M, B, ...)``.
        """
        passes: list[tuple[int, str, Pass]] = []
        state, at = entered.values, 0
        while at < len(self._layers):
            prefix, length, found = self._next(at, parameters, state)
            passes.append((at, prefix, found))
            state, at = found.output, at + length
        return Forward(tuple(passes), state)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def back(self, forward: Forward, gradient: torch.Tensor) -> dict[str, Rows]:
        """Each of the M x B rows' gradient at its model's wanted parameters, by name.

        Args:
            forward: Used up by this.
            gradient: At its output.
        """
        rows: dict[str, Rows] = {}
        for at, prefix, one in reversed(forward.passes):
            found = {f"{prefix}{key}": part for key, part in one.rows(gradient).items()}
            rows |= {name: part for name, part in found.items() if name in self._wanted}
            if at <= self._first:
                break
            gradient = one.back(gradient)
        return rows

    def _next(
        self, at: int, parameters: Mapping[str, torch.Tensor], state: torch.Tensor | Windows
    ) -> tuple[str, int, Pass]:
        """What comes now: the prefix of its parameters' names, how many layers it is, and it."""
        some = self._layers[at : at + blocks.LENGTH]
        plain, names = [layer for _, layer in some], [name for name, _ in some[:2]]
        if isinstance(state, Windows):
            return "", blocks.LENGTH, FirstBlock(plain, names, parameters, state)
        together = state.device.type == "cpu" and blocks.is_block(plain)
        if together and blocks.applies(plain, names, parameters, state.shape):
            return "", blocks.LENGTH, Block(plain, names, parameters, state)
        (name, layer), *_ = some
        own = {key: parameters[f"{name}.{key}"] for key, _ in layer.named_parameters()}
        return f"{name}.", 1, applied(layer, own, state)


def layers_of(skeleton: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers of a module that can be written out, by name.

    Raises:
        InvalidValue: If it cannot be.
    """
    if type(skeleton) is not nn.Sequential:
        raise InvalidValue("model", "must be a Sequential to be stacked", type(skeleton).__name__)
    layers = list(skeleton.named_children())
    if len(layers) != len(skeleton):
        raise InvalidValue("model", "must have every layer once to be stacked", "one twice")
    images = False
    for name, layer in layers:
        if not supported(layer) or (images and isinstance(layer, nn.Linear)):
            raise InvalidValue(
                f"model layer {name}",
                "must be Conv2d without groups, GroupNorm, Linear of flat rows or parameter-free "
                "to be stacked",
                type(layer).__name__,
            )
        images = isinstance(layer, nn.Conv2d) or (images and not isinstance(layer, nn.Flatten))
    return layers


def _pooled_first(layers: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    """The largest of some values, or zero: in either order, with the same gradients."""
    found = list(layers)
    for at in range(len(found) - 1):
        if isinstance(found[at][1], nn.ReLU) and isinstance(found[at + 1][1], nn.MaxPool2d):
            found[at], found[at + 1] = found[at + 1], found[at]
    return found
