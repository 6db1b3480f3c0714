"""The layers of stacked shadow models: forward, backward, and each row's own gradient.

State is ``(M, B, ...)``, M models with B rows each; images lie with their channels last, which is
what makes pools, norms and matrix products of small convolutions fast on a processor. Backward
passes are written out: per-row gradients are wanted, which autograd does not give. Must not mix
rows or models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import nn

Stack: TypeAlias = dict[str, torch.Tensor]
Own: TypeAlias = Mapping[str, torch.Tensor]

_IMAGE_AXES = 5
_BELOW_ZERO = -1e-38
PARAMETER_FREE = (
    nn.Flatten,
    nn.ReLU,
    nn.Tanh,
    nn.SELU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Identity,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
)


@dataclass(frozen=True, slots=True)
class Part:
    """One layer's share: squared norms ``(M, B)``, and its sums once the factors are known."""

    squares: torch.Tensor
    sums: Callable[[torch.Tensor], Stack]


class Pass(Protocol):
    """What a layer's forward pass leaves for the way back."""

    output: torch.Tensor

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        """Gradient at the layer's input."""

    def part(self, gradient: torch.Tensor) -> Part | None:
        """Gradients of the layer's own parameters, row by row."""


def supported(layer: nn.Module) -> bool:
    """Whether a layer can be stacked."""
    if isinstance(layer, nn.Conv2d):
        simple = layer.groups == 1 and layer.padding_mode == "zeros"
        return simple and not isinstance(layer.padding, str)
    if isinstance(layer, nn.GroupNorm):
        return bool(layer.affine)
    return isinstance(layer, (nn.Linear, *PARAMETER_FREE))


def applied(layer: nn.Module, own: Own, state: torch.Tensor) -> Pass:
    """One layer of every model.

    Args:
        layer: One that is ``supported``; says shapes alone.
        own: Its stacked parameters.
        state: What comes in; images channels-last.
    """
    if isinstance(layer, nn.Linear):
        return _Linear(own, state)
    if isinstance(layer, nn.Conv2d):
        seen = windows(layer, state.flatten(0, 1)).unflatten(0, state.shape[:2])
        return Convolved(layer, own, seen, image=tuple(state.shape[2:]))
    if isinstance(layer, nn.GroupNorm):
        return _Norm(layer, own, state)
    if isinstance(layer, nn.ReLU):
        return _Relu(state)
    if _halves(layer, state):
        return _Halved(state)
    return _Plain(layer, state)


def windows(layer: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    """What a convolution multiplies: ``(n, h, w, c)`` to ``(n, places, kernel x c)``."""
    down, across = _pairs(layer.padding)
    if across or down:
        images = nn.functional.pad(images, (0, 0, across, across, down, down))
    high, wide = _places(layer, images.shape[1], images.shape[2])
    rows, columns = _pairs(layer.kernel_size)
    step = [images.stride(1), images.stride(2)]
    stride, apart = _pairs(layer.stride), _pairs(layer.dilation)
    found = images.as_strided(
        (len(images), high, wide, rows, columns, images.shape[3]),
        (
            images.stride(0),
            step[0] * stride[0],
            step[1] * stride[1],
            step[0] * apart[0],
            step[1] * apart[1],
            1,
        ),
    )
    return found.reshape(len(images), high * wide, rows * columns * images.shape[3])


class _Linear:
    """Norms are products of norms: no row's gradient is formed (Goodfellow 2015)."""

    def __init__(self, own: Own, state: torch.Tensor) -> None:
        self._own, self._state = own, state
        weight = own["weight"].transpose(1, 2)
        bias = own.get("bias")
        self.output = (
            state @ weight if bias is None else torch.baddbmm(bias[:, None], state, weight)
        )

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient @ self._own["weight"]

    def part(self, gradient: torch.Tensor) -> Part:
        state, biased = self._state, "bias" in self._own
        energy = gradient.square().sum(dim=-1)
        squares = energy * state.square().sum(dim=-1)

        def sums(factor: torch.Tensor) -> Stack:
            weighted = gradient * factor[..., None]
            found = {"weight": weighted.transpose(1, 2) @ state}
            if biased:
                found["bias"] = weighted.sum(dim=1)
            return found

        return Part(squares + energy if biased else squares, sums)


class Convolved:
    """A convolution as matrix products over windows; its rows' gradients are small and formed.

    Args:
        layer: The layer, for its shape.
        own: Stacked parameters.
        seen: Windows of its input, ``(M, B, places, kernel x c)``.
        image: Height, width and channels of the input.
    """

    def __init__(
        self, layer: nn.Conv2d, own: Own, seen: torch.Tensor, *, image: tuple[int, ...]
    ) -> None:
        self._layer, self._own, self._shape = layer, own, image
        self._models, self._rows = seen.shape[:2]
        self._seen = seen.flatten(0, 1)
        self._weight = own["weight"].permute(0, 3, 4, 2, 1).flatten(1, 3)  # (M, kernel x c, out)
        flat, bias = seen.flatten(1, 2), own.get("bias")
        found = (
            torch.bmm(flat, self._weight)
            if bias is None
            else torch.baddbmm(bias[:, None], flat, self._weight)
        )
        self.output = found.view(self._models, self._rows, *_size(layer, image), -1)

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        """Gradient at the input; windows overlap, and what they give back is added up."""
        layer, (high, wide, channels) = self._layer, self._shape
        down, across = _pairs(layer.padding)
        places = gradient.flatten(0, 1).shape[1:3]
        found = torch.bmm(gradient.flatten(1, 3), self._weight.transpose(1, 2).contiguous()).view(
            -1, *places, *_pairs(layer.kernel_size), channels
        )
        total = gradient.new_zeros((len(found), high + 2 * down, wide + 2 * across, channels))
        stride, apart = _pairs(layer.stride), _pairs(layer.dilation)
        for row in range(found.shape[3]):
            for column in range(found.shape[4]):
                top, left = row * apart[0], column * apart[1]
                total[
                    :,
                    top : top + (places[0] - 1) * stride[0] + 1 : stride[0],
                    left : left + (places[1] - 1) * stride[1] + 1 : stride[1],
                ] += found[:, :, :, row, column]
        inner = total[:, down : down + high, across : across + wide]
        return inner.reshape(self._models, self._rows, high, wide, channels)

    def part(self, gradient: torch.Tensor) -> Part:
        """Gradients of the layer's own parameters, row by row."""
        flat = gradient.reshape(self._models * self._rows, -1, gradient.shape[-1])
        weights = torch.bmm(self._seen.transpose(1, 2), flat)  # (M B, kernel x c, out)
        squares = weights.flatten(1).square().sum(dim=1)
        biased = "bias" in self._own
        biases = _over_places(flat) if biased else weights.new_zeros((0,))
        if biased:
            squares = squares + biases.square().sum(dim=1)
        shape = (*_pairs(self._layer.kernel_size), self._shape[2], -1)

        def sums(factor: torch.Tensor) -> Stack:
            total = _weighted(weights, factor).view(len(factor), *shape)
            found = {"weight": total.permute(0, 4, 3, 1, 2)}
            if biased:
                found["bias"] = _weighted(biases, factor)
            return found

        return Part(squares.view(self._models, self._rows), sums)


class _Norm:
    """Group normalization over channels-last images or flat rows."""

    def __init__(self, layer: nn.GroupNorm, own: Own, state: torch.Tensor) -> None:
        self._groups, self._own = layer.num_groups, own
        self._found: tuple[torch.Tensor, torch.Tensor] | None = None
        self._shape = state.shape
        models, rows, channels = state.shape[0], state.shape[1], state.shape[-1]
        flat = state.reshape(models * rows, -1, channels)
        self._count = flat.shape[1] * channels // layer.num_groups
        mean = self._spread(self._gathered(_over_places(flat)) / self._count)
        self._centered = flat - mean[:, None]
        squares = _over_places(self._centered.square())
        variance = self._gathered(squares) / self._count
        self._scale = self._spread((variance + layer.eps).rsqrt())  # (M B, c)
        self._gain = own["weight"].repeat_interleave(rows, dim=0) * self._scale
        shift = own["bias"].repeat_interleave(rows, dim=0)
        self.output = torch.addcmul(shift[:, None], self._centered, self._gain[:, None]).view(
            self._shape
        )

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        flat = gradient.reshape(self._centered.shape)
        plain, along = self._sums(flat)
        weight = self._own["weight"].repeat_interleave(self._shape[1], dim=0)
        offset = self._spread(self._gathered(weight * plain) / self._count)
        slope = self._spread(self._gathered(weight * along) / self._count)
        constant = -(self._scale * offset)[:, None]
        pull = -(self._scale.square() * slope)[:, None]
        found = torch.addcmul(constant, self._centered, pull)
        return found.addcmul_(flat, self._gain[:, None]).view(self._shape)

    def part(self, gradient: torch.Tensor) -> Part:
        plain, along = self._sums(gradient.reshape(self._centered.shape))
        squares = (plain.square() + along.square()).sum(dim=1)

        def sums(factor: torch.Tensor) -> Stack:
            return {"weight": _weighted(along, factor), "bias": _weighted(plain, factor)}

        return Part(squares.view(self._shape[:2]), sums)

    def _sums(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Per row and channel: the gradient summed, and summed along the normalized state."""
        if self._found is None:
            along = _over_places(flat * self._centered) * self._scale
            self._found = _over_places(flat), along
        return self._found

    def _gathered(self, values: torch.Tensor) -> torch.Tensor:
        return values.unflatten(1, (self._groups, -1)).sum(dim=2)

    def _spread(self, values: torch.Tensor) -> torch.Tensor:
        channels = self._shape[-1] // self._groups
        return values.repeat_interleave(channels, dim=1)


class _Relu:
    def __init__(self, state: torch.Tensor) -> None:
        self.output = state.relu()

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.ops.aten.threshold_backward(gradient, self.output, 0)
        return found

    def part(self, gradient: torch.Tensor) -> None:  # noqa: ARG002 - it has no parameters
        return None


class _Halved:
    """Largest of two by two, of equal ones the first, as PyTorch's own."""

    def __init__(self, state: torch.Tensor) -> None:
        self._state = state
        first, second, third, fourth = _corners(state)
        upper, lower = torch.maximum(first, second), torch.maximum(third, fourth)
        self.output = torch.maximum(upper, lower)

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        total, left = torch.empty_like(self._state), gradient.clone()
        for corner, place in zip(_corners(self._state), _corners(total), strict=True):
            # Gradient where the difference is zero: masks of booleans are several times slower.
            torch.ops.aten.threshold_backward.grad_input(
                left, corner - self.output, _BELOW_ZERO, grad_input=place
            )
            left.sub_(place)
        return total

    def part(self, gradient: torch.Tensor) -> None:  # noqa: ARG002 - it has no parameters
        return None


class _Plain:
    """Any other layer without parameters: PyTorch's own way back, channels where it has them."""

    def __init__(self, layer: nn.Module, state: torch.Tensor) -> None:
        self._images = state.dim() == _IMAGE_AXES
        self._state = state
        rows = state.detach().flatten(0, 1)
        if self._images:
            rows = rows.permute(0, 3, 1, 2)
        with torch.enable_grad():
            self._given = rows.requires_grad_()
            self._found = layer(self._given)
        found = self._found.detach()
        if found.dim() == _IMAGE_AXES - 1:
            found = found.permute(0, 2, 3, 1)
        self.output = found.unflatten(0, state.shape[:2])

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        rows = gradient.flatten(0, 1)
        if self._found.dim() == _IMAGE_AXES - 1:
            rows = rows.permute(0, 3, 1, 2)
        (found,) = torch.autograd.grad(self._found, self._given, rows)
        if self._images:
            found = found.permute(0, 2, 3, 1)
        return found.reshape(self._state.shape)

    def part(self, gradient: torch.Tensor) -> None:  # noqa: ARG002 - it has no parameters
        return None


def _halves(layer: nn.Module, state: torch.Tensor) -> bool:
    """Whether a layer takes the largest of two by two, without a rest."""
    return (
        isinstance(layer, nn.MaxPool2d)
        and state.dim() == _IMAGE_AXES
        and _pairs(layer.kernel_size) == _pairs(layer.stride) == (2, 2)
        and _pairs(layer.padding) == (0, 0)
        and _pairs(layer.dilation) == (1, 1)
        and not (state.shape[2] % 2 or state.shape[3] % 2)
    )


def _corners(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The four members of each two by two, in PyTorch's order."""
    return tuple(images[:, :, top::2, left::2] for top in (0, 1) for left in (0, 1))


def _over_places(values: torch.Tensor) -> torch.Tensor:
    """Sums over places, ``(n, places, c)`` to ``(n, c)``, as a product: several times faster."""
    ones = values.new_ones((1, 1, values.shape[1])).expand(len(values), 1, -1)
    return torch.bmm(ones, values).squeeze(1)


def _weighted(values: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Rows' values ``(M B, ...)`` summed by factors ``(M, B)``: ``(M, ...)``."""
    flat = values.reshape(*factor.shape, -1)
    return torch.bmm(factor[:, None], flat).view(len(factor), *values.shape[1:])


def _size(layer: nn.Conv2d, image: tuple[int, ...]) -> tuple[int, int]:
    """Height and width after a convolution."""
    down, across = _pairs(layer.padding)
    return _places(layer, image[0] + 2 * down, image[1] + 2 * across)


def _places(layer: nn.Conv2d, high: int, wide: int) -> tuple[int, int]:
    """Places of the kernel on an image that is padded already."""
    kernel, stride, apart = (
        _pairs(layer.kernel_size),
        _pairs(layer.stride),
        _pairs(layer.dilation),
    )
    found = [
        (length - apart[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        for axis, length in enumerate((high, wide))
    ]
    return found[0], found[1]


def _pairs(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
