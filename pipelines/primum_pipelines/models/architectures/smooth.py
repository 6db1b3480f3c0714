"""SmoothNet (Remerscheid et al. 2022): wide, shallow, densely connected, pooled before norms."""

from __future__ import annotations

import torch
from torch import nn

_BASE = (8, 16)  # Channels of a block of the two stages at width 1.
_KEPT_SIDE = 4
_GROUPS = 8


class Dense(nn.Module):  # type: ignore[misc] # torch is not followed
    """Every block sees all that came before it (Huang et al. 2017).

    Args:
        inputs: Channels that come in.
        width: Channels that each block adds.
        blocks: Number of blocks.
    """

    def __init__(self, inputs: int, *, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs + at * width, width, 3, padding=1, bias=False),
                nn.MaxPool2d(3, stride=1, padding=1),
                nn.GroupNorm(min(_GROUPS, width), width),
                nn.SELU(),
            )
            for at in range(blocks)
        )

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Everything so far, beside what each block makes of it."""
        for block in self.blocks:
            rows = torch.cat([rows, block(rows)], dim=1)
        return rows


class LastChannels(nn.Module):  # type: ignore[misc] # torch is not followed
    """Keeps the last channels only.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """The last channels."""
        return rows[:, -self.count :]


def smoothnet(*, channels: int, classes: int, width: int, depth: int) -> nn.Module:
    """SmoothNet.

    Args:
        channels: Of the image.
        classes: Number of classes.
        width: Multiplies the channels of a block.
        depth: Blocks of a stage.
    """
    first, second = (width * base for base in _BASE)
    wide = channels + depth * first
    half = wide // 2
    return nn.Sequential(
        Dense(channels, width=first, blocks=depth),
        nn.Conv2d(wide, half, 1, bias=False),
        nn.AvgPool2d(2),
        Dense(half, width=second, blocks=depth),
        nn.AvgPool2d(2),
        LastChannels(second),
        nn.AdaptiveAvgPool2d(_KEPT_SIDE),
        nn.Flatten(),
        nn.Linear(second * _KEPT_SIDE**2, 256),
        nn.SELU(),
        nn.Linear(256, 128),
        nn.SELU(),
        nn.Linear(128, classes),
    )
