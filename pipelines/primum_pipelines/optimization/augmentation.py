"""Augmentation multiplicity: several views of a row, averaged before clipping (De et al. 2022).

A view depends on its own row and on random numbers alone, so a unit still contributes one clipped
gradient and the sampling rate stays what it is. Views are drawn from torch's generator: they need
not be secret.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_IMAGE_AXES = 2
_FLIP = 0.5


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How views of a row are made.

    Args:
        multiplicity: Views of each row, at least 1.
        shift: Most pixels by which a view is moved along each axis; edges are repeated.
        flip: Whether a view may be mirrored left to right.
    """

    multiplicity: int
    shift: int = 0
    flip: bool = False

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """One view of each row.

        Args:
            rows: ``(R, c, ..., h, w)``; each row already as often as it has views.
        """
        if self.flip:
            mirrored = torch.rand(len(rows), device=rows.device) < _FLIP
            shape = (-1, *(1,) * (rows.dim() - 1))
            rows = torch.where(mirrored.view(shape), rows.flip(-1), rows)
        for axis in range(rows.dim() - _IMAGE_AXES, rows.dim()):
            rows = self._moved(rows, axis)
        return rows

    def _moved(self, rows: torch.Tensor, axis: int) -> torch.Tensor:
        if not self.shift:
            return rows
        length = rows.shape[axis]
        by = torch.randint(-self.shift, self.shift + 1, (len(rows),), device=rows.device)
        places = (torch.arange(length, device=rows.device) + by[:, None]).clamp(0, length - 1)
        shape = [len(rows)] + [1] * (rows.dim() - 1)
        shape[axis] = length
        return rows.gather(axis, places.view(shape).expand(rows.shape))
