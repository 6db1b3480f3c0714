"""What layers of images are made of: windows, squares, sums over places. Channels last."""

from __future__ import annotations

import torch
from torch import nn

AXES = 5  # Models, rows, height, width, channels.
_BELOW_ZERO = -1e-38


def windows(layer: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    """What a convolution multiplies: ``(n, h, w, c)`` to ``(n, h', w', kernel x c)``."""
    high, wide = size_after(layer, images.shape[1], images.shape[2])
    images = padded(layer, images)
    rows, columns = pairs(layer.kernel_size)
    step = images.stride(1), images.stride(2)
    stride, apart = pairs(layer.stride), pairs(layer.dilation)
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
    return found.reshape(len(images), high, wide, rows * columns * images.shape[3])


def padded(layer: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    """Channels-last images with the zeros that a convolution puts around."""
    down, across = pairs(layer.padding)
    if not (across or down):
        return images
    return nn.functional.pad(images, (0, 0, across, across, down, down))


def size_after(layer: nn.Conv2d, high: int, wide: int) -> tuple[int, int]:
    """Height and width after a convolution of images of this height and width."""
    down, across = pairs(layer.padding)
    kernel, stride, apart = (
        pairs(layer.kernel_size),
        pairs(layer.stride),
        pairs(layer.dilation),
    )
    found = [
        (length - apart[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        for axis, length in enumerate((high + 2 * down, wide + 2 * across))
    ]
    return found[0], found[1]


def halves(layer: nn.Module, shape: torch.Size) -> bool:
    """Whether a layer takes the largest of two by two, without a rest."""
    return (
        isinstance(layer, nn.MaxPool2d)
        and len(shape) == AXES
        and pairs(layer.kernel_size) == pairs(layer.stride) == (2, 2)
        and pairs(layer.padding) == (0, 0)
        and pairs(layer.dilation) == (1, 1)
        and not (shape[2] % 2 or shape[3] % 2)
    )


def averages(layer: nn.Module, state: torch.Tensor) -> bool:
    """Whether a layer takes means of squares that do not overlap."""
    if not isinstance(layer, nn.AvgPool2d) or state.dim() != AXES:
        return False
    side = pairs(layer.kernel_size)
    plain = not layer.ceil_mode and layer.divisor_override is None
    return (
        plain
        and side[0] == side[1]
        and pairs(layer.stride) == side
        and not any(pairs(layer.padding))
    )


def corners(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The four members of each two by two, in PyTorch's order."""
    return tuple(images[:, :, top::2, left::2] for top in (0, 1) for left in (0, 1))


def largest(members: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The largest of four."""
    first, second, third, fourth = members
    return torch.maximum(first, second).maximum(torch.maximum(third, fourth))


def hand_back(
    gradient: torch.Tensor,
    most: torch.Tensor,
    members: tuple[torch.Tensor, ...],
    places: tuple[torch.Tensor, ...],
) -> None:
    """Write the gradient at the largest of four where it came from: to the first of equal ones."""
    left = gradient.clone()
    for member, place in zip(members[:-1], places[:-1], strict=True):
        # Gradient where the difference is zero: masks of booleans are several times slower.
        torch.ops.aten.threshold_backward.grad_input(
            left, member - most, _BELOW_ZERO, grad_input=place
        )
        left.sub_(place)
    places[-1].copy_(left)  # One of them was the largest.


def where_above_zero(gradient: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """The way back through a ReLU."""
    found: torch.Tensor = torch.ops.aten.threshold_backward(gradient, output, 0)
    return found


def over_places(values: torch.Tensor) -> torch.Tensor:
    """Sums over places, ``(n, places, c)`` to ``(n, c)``, as a product: several times faster."""
    ones = values.new_ones((1, 1, values.shape[1])).expand(len(values), 1, -1)
    return torch.bmm(ones, values).squeeze(1)


def pairs(value: int | tuple[int, ...]) -> tuple[int, int]:
    """A setting of both axes of an image."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
