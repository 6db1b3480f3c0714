"""Complex-valued convolutions for k-space, made of real ones.

A complex weight is two real convolutions, each applied to the real and to the imaginary part; the
gradient engine adds up both uses.
"""

from __future__ import annotations

import torch
from torch import nn


class ComplexConvolution(nn.Module):  # type: ignore[misc] # torch is not followed
    """``(a + ib)(x + iy) = (ax - by) + i(ay + bx)``.

    Args:
        inputs: Complex channels.
        outputs: Complex channels.
        kernel: Side of the kernel.
        stride: Step.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        settings = {"stride": stride, "padding": kernel // 2, "bias": False}
        self.real = nn.Conv2d(inputs, outputs, kernel, **settings)
        self.imaginary = nn.Conv2d(inputs, outputs, kernel, **settings)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows ``(B, 2, channels, h, w)``: real part, imaginary part."""
        x, y = rows.unbind(dim=1)
        return torch.stack(
            [self.real(x) - self.imaginary(y), self.real(y) + self.imaginary(x)], dim=1
        )


class ComplexNetwork(nn.Module):  # type: ignore[misc] # torch is not followed
    """Complex convolutions, magnitudes, and a head.

    Args:
        coils: Complex channels of the input, given as ``2 coils`` real channels in pairs.
        classes: Number of classes.
        width: Complex channels of the first layer, a multiple of 8.
    """

    def __init__(self, coils: int, *, classes: int, width: int) -> None:
        super().__init__()
        self.first = ComplexConvolution(coils, width, kernel=5, stride=2)
        self.first_norm = nn.GroupNorm(8, 2 * width)
        self.second = ComplexConvolution(width, 2 * width, kernel=3, stride=2)
        self.second_norm = nn.GroupNorm(8, 2 * width)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(2 * width * 16, classes)
        )

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, classes)`` of rows ``(B, 2 coils, h, w)``."""
        state = torch.stack([rows[:, 0::2], rows[:, 1::2]], dim=1)
        state = self.first(state)
        # Each part passes by itself where it is positive (Trabelsi et al. 2018, CReLU).
        state = torch.relu(self.first_norm(state.flatten(1, 2))).unflatten(1, state.shape[1:3])
        state = self.second(state)
        squares = state.square().sum(dim=1)
        # A small constant: the magnitude has no slope at zero.
        found: torch.Tensor = self.head(self.second_norm((squares + 1e-6).sqrt()))
        return found
