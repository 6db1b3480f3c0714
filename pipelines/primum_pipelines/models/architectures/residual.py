"""Residual networks with group and scale normalization (Klause et al. 2022).

ScaleNorm is one more normalization after the addition of a residual block: it stops the scale from
growing along the skip path.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

RESNET18_FEATURES = 512
_WIDTHS = (64, 128, 256, 512)


def groups_of(channels: int, wanted: int) -> int:
    """The largest number of groups up to ``wanted`` that divides the channels."""
    return next(count for count in range(min(wanted, channels), 0, -1) if channels % count == 0)


class Added(nn.Module):  # type: ignore[misc] # torch is not followed
    """A residual block: what goes in plus what comes out, then ScaleNorm.

    Args:
        body: The block.
        skip: What the input passes on its way around it.
        after: What follows the addition.
    """

    def __init__(self, body: nn.Module, skip: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.skip = skip
        self.after = after

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Both ways, added."""
        found: torch.Tensor = self.after(self.skip(rows) + self.body(rows))
        return found


def resnet9(*, channels: int, classes: int, groups: Sequence[int]) -> nn.Module:
    """ResNet-9 with ScaleNorm.

    Args:
        channels: Of the image.
        classes: Number of classes.
        groups: Groups of the normalizations of the four stages.
    """

    def block(inputs: int, outputs: int, count: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.GroupNorm(min(count, outputs), outputs),
            nn.Mish(),
        )

    def pooled(inputs: int, outputs: int, count: int) -> nn.Sequential:
        return nn.Sequential(*block(inputs, outputs, count), nn.MaxPool2d(2))

    def residual(width: int, count: int) -> Added:
        body = nn.Sequential(block(width, width, count), block(width, width, count))
        return Added(body, nn.Identity(), nn.GroupNorm(min(count, width), width))

    first, second, third, fourth = groups
    return nn.Sequential(
        block(channels, 64, first),
        pooled(64, 128, first),
        residual(128, second),
        pooled(128, 256, third),
        pooled(256, 256, third),
        residual(256, fourth),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1024, classes),
    )


def resnet18_body(*, channels: int, groups: int) -> nn.Module:
    """ResNet-18 (He et al. 2016) up to its 512 features, with GroupNorm and ScaleNorm.

    Args:
        channels: Of the image.
        groups: Groups of every normalization.
    """
    parts: list[nn.Module] = [
        nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False),
        nn.GroupNorm(groups_of(64, groups), 64),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]
    width = _WIDTHS[0]
    for stage, wider in enumerate(_WIDTHS):
        for stride in (1 if stage == 0 else 2, 1):
            parts.append(_basic(width, wider, stride=stride, groups=groups))
            width = wider
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def resnet18(*, channels: int, classes: int, groups: int) -> nn.Module:
    """ResNet-18 with a linear head."""
    body = resnet18_body(channels=channels, groups=groups)
    return nn.Sequential(body, nn.Linear(RESNET18_FEATURES, classes))


def _basic(inputs: int, outputs: int, *, stride: int, groups: int) -> Added:
    def norm() -> nn.Module:
        return nn.GroupNorm(groups_of(outputs, groups), outputs)

    body = nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        norm(),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        norm(),
    )
    skip: nn.Module = nn.Identity()
    if stride != 1 or inputs != outputs:
        skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), norm())
    return Added(body, skip, nn.Sequential(norm(), nn.ReLU()))
