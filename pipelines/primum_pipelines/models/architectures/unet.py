"""U-Net (Ronneberger et al. 2015) with group normalization, in two and three dimensions."""

from __future__ import annotations

import torch
from torch import nn

_GROUPS = 8
_KINDS = {
    2: (nn.Conv2d, nn.MaxPool2d, nn.ConvTranspose2d),
    3: (nn.Conv3d, nn.MaxPool3d, nn.ConvTranspose3d),
}


class UNet(nn.Module):  # type: ignore[misc] # torch is not followed
    """A network that gives a class for every pixel or voxel.

    Args:
        axes: 2 or 3.
        channels: Of the image.
        classes: Number of classes.
        width: Channels of the first level, a multiple of 8; each level below has twice as many.
        levels: How often sides are halved; sides must be multiples of 2^levels.
    """

    def __init__(self, axes: int, *, channels: int, classes: int, width: int, levels: int) -> None:
        super().__init__()
        convolution, pool, transposed = _KINDS[axes]

        def double(inputs: int, outputs: int) -> nn.Sequential:
            parts: list[nn.Module] = []
            for before in (inputs, outputs):
                parts += [
                    convolution(before, outputs, 3, padding=1, bias=False),
                    nn.GroupNorm(_GROUPS, outputs),
                    nn.ReLU(),
                ]
            return nn.Sequential(*parts)

        widths = [width * 2**level for level in range(levels + 1)]
        self.down = nn.ModuleList(
            double(before, after)
            for before, after in zip([channels, *widths[:-1]], widths, strict=True)
        )
        self.halve = pool(2)
        self.rise = nn.ModuleList(
            transposed(below, above, 2, stride=2)
            for below, above in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.up = nn.ModuleList(double(2 * above, above) for above in widths[-2::-1])
        self.out = convolution(width, classes, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, classes, ...)`` of images ``(B, c, ...)``."""
        seen = []
        for level, block in enumerate(self.down):
            rows = block(rows if level == 0 else self.halve(rows))
            seen.append(rows)
        for rise, block, beside in zip(self.rise, self.up, seen[-2::-1], strict=True):
            rows = block(torch.cat([beside, rise(rows)], dim=1))
        found: torch.Tensor = self.out(rows)
        return found
