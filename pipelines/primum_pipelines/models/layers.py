"""Layers that our architectures share, and that the gradient engine knows. Heavy.

Each treats every row by itself. ``Folded`` is the only way in which rows may become more rows:
the engine has to know which row a slice belongs to.
"""

from __future__ import annotations

import torch
from torch import nn


class Folded(nn.Module):  # type: ignore[misc] # torch is not followed
    """Runs a body on every slice of every row: ``(B, S, ...)`` to ``(B, S, ...)``.

    Slices of a row stay adjacent, so that the gradient engine can add up what belongs to a row.

    Args:
        body: Maps ``(n, ...)`` to ``(n, ...)``, each row by itself.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Every slice through the body."""
        found: torch.Tensor = self.body(values.flatten(0, 1))
        return found.unflatten(0, values.shape[:2])


class Positions(nn.Module):  # type: ignore[misc] # torch is not followed
    """Adds a learned value to every position of a row.

    Args:
        shape: Of one row.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(shape))
        nn.init.trunc_normal_(self.values, std=0.02)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows ``(B, *shape)``, each with the learned values added."""
        return rows + self.values
