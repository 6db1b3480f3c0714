"""How the units of one logical batch are cut into parts that memory and cache can hold.

A unit is never cut. The cut changes nothing but time and memory: parts are clipped and summed, and
noise comes once per logical batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from primum_pipelines.datasets.units import UnitRows
from primum_pipelines.optimization.gradients.segments import (
    Segments,
    one_row_each,
    sized,
)

_NUMBERS_CPU = 2**22  # Activations and gradients of a part: what a core's caches can hold.
_NUMBERS_OTHER = 2**28  # 1 GB of float32: a GPU wants large parts.
_FREE_SHARE = 4  # Of a GPU's free memory a part takes a quarter: twice that while it is clipped.
_ROWS_MAX = 1024
_ROWS_FIRST = 8  # Before anything is known about how much a row needs.


@dataclass(frozen=True, slots=True, repr=False)
class VirtualBatch:
    """Units of one part and their rows.

    Args:
        units: Unit numbers.
        rows: Row numbers, unit by unit.
        segments: Which rows are whose.
        weights: What each row counts in its unit's loss: their mean, ``(R,)``.
    """

    units: torch.Tensor
    rows: torch.Tensor
    segments: Segments
    weights: torch.Tensor


class PartSize:
    """How many rows a part may have, learned from what the first parts needed.

    Args:
        device: Where the training runs.
        rows_max: A limit that is kept in any case; ``None`` leaves it to what was learned.
    """

    def __init__(self, device: torch.device, *, rows_max: int | None) -> None:
        self._numbers = _most_numbers(device)
        self._limit = _ROWS_MAX if rows_max is None else rows_max
        self.rows = min(_ROWS_FIRST, self._limit)
        self._most = 0.0

    def learn(self, *, numbers: int, rows: int) -> None:
        """Note that a part of ``rows`` rows held ``numbers`` numbers at once."""
        if rows:
            self._most = max(self._most, numbers / rows)
            self.rows = max(1, min(self._limit, int(self._numbers / max(1.0, self._most))))


def _most_numbers(device: torch.device) -> int:
    """Most numbers of a part: what suits the device, and less where its memory is short."""
    if device.type != "cuda":
        return _NUMBERS_CPU if device.type == "cpu" else _NUMBERS_OTHER
    free, _ = torch.cuda.mem_get_info(device)
    most = int(free) // (_FREE_SHARE * int(torch.float32.itemsize))
    return min(_NUMBERS_OTHER, most)


def virtual_batches(
    units: torch.Tensor, structure: UnitRows, size: PartSize, *, copies: int = 1
) -> Iterator[VirtualBatch]:
    """Parts of at most ``size.rows`` rows, or of one unit that has more.

    Args:
        units: Numbers of the units of a logical batch, int64 ``(k,)``.
        structure: Rows of each unit.
        size: Asked before each part, so that it may learn in between.
        copies: How often each row is taken, as for augmentations.
    """
    sizes = torch.from_numpy(structure.sizes)[units] * copies
    ends = sizes.cumsum(0)
    start = 0
    while start < len(units):
        before = int(ends[start - 1]) if start else 0
        fitting = int(torch.searchsorted(ends, before + size.rows, right=True))
        stop = max(start + 1, fitting)
        yield _part(units[start:stop], structure, sizes[start:stop], copies=copies)
        start = stop


def _part(
    units: torch.Tensor, structure: UnitRows, sizes: torch.Tensor, *, copies: int
) -> VirtualBatch:
    if copies == 1 and structure.count == structure.rows:
        return VirtualBatch(units, units, one_row_each(len(units)), torch.ones(len(units)))
    rows = torch.from_numpy(structure.rows_of(units.numpy()))
    if copies > 1:
        rows = rows.repeat_interleave(copies)
    weights = (1.0 / sizes.to(torch.float32)).repeat_interleave(sizes)
    return VirtualBatch(units, rows, sized(sizes), weights)
