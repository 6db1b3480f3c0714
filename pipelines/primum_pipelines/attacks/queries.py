"""Queries about a record: itself, and copies that a model which knows it should know as well.

Augmentations are small and fixed by the seed, and the same for every model that is asked.
"""

from __future__ import annotations

import torch

_TABLE_AXES = 2
_SHIFT_MAX = 2  # Pixels; further, and an image is another one.
_NOISE = 0.05  # Of a table's scaled range [-1, 1].


def queries_of(inputs: torch.Tensor, count: int, *, generator: torch.Generator) -> torch.Tensor:
    """Queries about every record.

    Args:
        inputs: ``(n, ...)``, scaled to [-1, 1].
        count: How many; the first is the record itself.
        generator: Draws the others: shifts of images and volumes by up to two pixels with edges
            repeated, noise of 0.05 on the columns of tables.

    Returns:
        ``(count, n, ...)``.
    """
    found = [inputs]
    for _ in range(count - 1):
        if inputs.dim() > _TABLE_AXES:
            axes = range(2, inputs.dim())
            offsets = [
                int(torch.randint(-_SHIFT_MAX, _SHIFT_MAX + 1, (), generator=generator))
                for _ in axes
            ]
            shifted = inputs
            for axis, offset in zip(axes, offsets, strict=True):
                length = inputs.shape[axis]
                index = (torch.arange(length) + offset).clamp(0, length - 1)
                shifted = shifted.index_select(axis, index)
            found.append(shifted)
        else:
            noise = torch.randn(inputs.shape, generator=generator) * _NOISE
            found.append((inputs + noise).clamp(-1, 1))
    return torch.stack(found)
