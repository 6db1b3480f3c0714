"""Weight gradients of convolutions, row by row and summed, in one, two and three dimensions.

Row by row is one convolution with a group per row: on a CPU it costs about a quarter more than the
ordinary weight gradient, where unfolding and multiplying costs three times as much.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torch.nn import grad as weight_gradients

_BY_AXES = {
    1: weight_gradients.conv1d_weight,
    2: weight_gradients.conv2d_weight,
    3: weight_gradients.conv3d_weight,
}
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, slots=True)
class ConvolutionShape:
    """What of a convolution decides its weight gradient.

    Args:
        weight: Shape of the weight.
        stride: Per axis.
        padding: Zeros per axis and side.
        dilation: Per axis.
        groups: Groups of channels.
        transposed: Whether it is a transposed convolution.
    """

    weight: torch.Size
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool

    @property
    def axes(self) -> int:
        """Number of spatial axes."""
        return len(self.weight) - 2


def shape_of(layer: nn.Module) -> ConvolutionShape:
    """The shape of a convolution layer whose input went through ``padded``."""
    axes = layer.weight.dim() - 2
    return ConvolutionShape(
        weight=layer.weight.shape,
        stride=tuple(layer.stride),
        padding=(0,) * axes if _pads_apart(layer) else tuple(layer.padding),
        dilation=tuple(layer.dilation),
        groups=layer.groups,
        transposed=isinstance(layer, _TRANSPOSED),
    )


def padded(layer: nn.Module, seen: torch.Tensor) -> torch.Tensor:
    """The input as the convolution itself meets it, where padding is more than zeros around."""
    if not _pads_apart(layer):
        return seen
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return functional.pad(seen, layer._reversed_padding_repeated_twice, mode=mode)


def per_row(shape: ConvolutionShape, seen: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Each row's weight gradient, ``(R, *weight)``.

    Args:
        shape: The convolution.
        seen: Its input ``(R, C, ...)``.
        gradient: Of its output ``(R, O, ...)``.
    """
    rows = len(seen)
    if not rows:
        return seen.new_zeros((0, *shape.weight))
    if _pointwise(shape):
        values = torch.bmm(gradient.flatten(2), seen.flatten(2).transpose(1, 2))
        return values.view(rows, *shape.weight)
    # A transposed convolution is the other's backward pass: input and output change places.
    left, right = (gradient, seen) if shape.transposed else (seen, gradient)
    found = _BY_AXES[shape.axes](
        left.reshape(1, rows * left.shape[1], *left.shape[2:]),
        (rows * shape.weight[0], *shape.weight[1:]),
        right.reshape(1, rows * right.shape[1], *right.shape[2:]),
        stride=shape.stride,
        padding=shape.padding,
        dilation=shape.dilation,
        groups=rows * shape.groups,
    )
    return found.view(rows, *shape.weight)


def summed(shape: ConvolutionShape, seen: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The weight gradient summed over rows: what ordinary training computes."""
    left, right = (gradient, seen) if shape.transposed else (seen, gradient)
    found: torch.Tensor = _BY_AXES[shape.axes](
        left,
        shape.weight,
        right,
        stride=shape.stride,
        padding=shape.padding,
        dilation=shape.dilation,
        groups=shape.groups,
    )
    return found


def windows(shape: ConvolutionShape, seen: torch.Tensor) -> torch.Tensor:
    """What the weights are multiplied with at each position: ``(R, T, C x kernel)``.

    For ordinary convolutions without groups.
    """
    zeros = [pad for length in reversed(shape.padding) for pad in (length, length)]
    found = functional.pad(seen, zeros)
    for axis in range(shape.axes):
        reach = shape.dilation[axis] * (shape.weight[2 + axis] - 1) + 1
        found = found.unfold(2 + axis, reach, shape.stride[axis])
    steps = (..., *(slice(None, None, length) for length in shape.dilation))
    found = found[steps]
    # (R, C, *positions, *kernel) to (R, *positions, C, *kernel)
    found = found.movedim(1, 1 + shape.axes)
    return found.flatten(1, shape.axes).flatten(2)


def _pointwise(shape: ConvolutionShape) -> bool:
    ones = (1,) * shape.axes
    return (
        not shape.transposed
        and shape.groups == 1
        and tuple(shape.weight[2:]) == ones
        and shape.stride == ones
        and not any(shape.padding)
    )


def _pads_apart(layer: nn.Module) -> bool:
    return layer.padding_mode != "zeros" or isinstance(layer.padding, str)
