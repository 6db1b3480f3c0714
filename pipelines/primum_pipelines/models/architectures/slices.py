"""A two-dimensional network on every slice of a volume, and attention over slices (Ziller 2023).

One volume is one row: its slices are folded into the batch and belong to it, never to themselves.
"""

from __future__ import annotations

import torch
from torch import nn

from primum_pipelines.models.architectures.attention import Attention
from primum_pipelines.models.layers import Folded

_AXES = 3


class SliceNetwork(nn.Module):  # type: ignore[misc] # torch is not followed
    """Slice features, pooled and classified.

    Args:
        body: Maps slices ``(n, c, h, w)`` to features ``(n, features)``.
        features: Length of a slice's features.
        classes: Number of classes.
        axes: 3 to slice along all axes of a cube, 1 for the first alone.
        pooling: ``Attention``, ``Mean`` or ``Max``.
        heads: Of the attention.
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        features: int,
        classes: int,
        axes: int,
        pooling: str,
        heads: int,
    ) -> None:
        super().__init__()
        self.body = Folded(body)
        self.axes = axes
        self.pooling = pooling
        self.attention = Attention(features, heads=heads) if pooling == "Attention" else None
        self.head = nn.Linear(features, classes)

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, classes)`` of volumes ``(B, c, d, h, w)``."""
        found: torch.Tensor = self.head(self._pooled(self.features(volumes)))
        return found

    def features(self, volumes: torch.Tensor) -> torch.Tensor:
        """Features of every slice, ``(B, slices, features)``, axis by axis."""
        sides = [volumes.movedim(2 + axis, 1) for axis in range(self.axes)]
        found: torch.Tensor = self.body(torch.cat(sides, dim=1))
        return found

    def importance(self, volumes: torch.Tensor) -> torch.Tensor:
        """What share of the answer comes from each slice, ``(B, slices)``; attention only."""
        features = self.features(volumes)
        if self.attention is None:
            return torch.full(features.shape[:2], 1 / features.shape[1])
        query = features.mean(dim=1, keepdim=True)
        return self.attention.weights(query, features).mean(dim=1).squeeze(1)

    def _pooled(self, features: torch.Tensor) -> torch.Tensor:
        if self.attention is not None:
            query = features.mean(dim=1, keepdim=True)
            found: torch.Tensor = self.attention(query, features).squeeze(1)
            return found
        return features.amax(dim=1) if self.pooling == "Max" else features.mean(dim=1)


def small_body(channels: int, features: int) -> nn.Module:
    """A small network for slices."""
    half = features // 2
    return nn.Sequential(
        nn.Conv2d(channels, half, 3, stride=2, padding=1),
        nn.GroupNorm(8, half),
        nn.ReLU(),
        nn.Conv2d(half, features, 3, stride=2, padding=1),
        nn.GroupNorm(8, features),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
