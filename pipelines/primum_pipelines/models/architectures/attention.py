"""Attention from plain linear layers, so that its gradients are those of linear layers."""

from __future__ import annotations

import torch
from torch import nn

from primum_pipelines.models.layers import Positions


class Attention(nn.Module):  # type: ignore[misc] # torch is not followed
    """Multi-head attention (Vaswani et al. 2017).

    Args:
        width: Of tokens; a multiple of ``heads``.
        heads: Number of heads.
    """

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """What each query ``(B, Q, width)`` finds in the tokens ``(B, T, width)``."""
        found: torch.Tensor = self.out((self.weights(queries, tokens) @ self._heads(
            self.value(tokens)
        )).transpose(1, 2).flatten(2))  # fmt: skip
        return found

    def weights(self, queries: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """How much of each token each head of a query takes, ``(B, heads, Q, T)``."""
        asked, offered = self._heads(self.query(queries)), self._heads(self.key(tokens))
        scale: float = asked.shape[-1] ** -0.5
        return torch.softmax(asked @ offered.transpose(2, 3) * scale, dim=3)

    def _heads(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


class _Block(nn.Module):  # type: ignore[misc] # torch is not followed
    """Attention and a perceptron, each after a normalization and around a skip path."""

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.before = nn.LayerNorm(width)
        self.attention = Attention(width, heads=heads)
        self.between = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The tokens ``(B, T, width)`` after the block."""
        seen = self.before(tokens)
        tokens = tokens + self.attention(seen, seen)
        found: torch.Tensor = tokens + self.perceptron(self.between(tokens))
        return found


class VisionTransformer(nn.Module):  # type: ignore[misc] # torch is not followed
    """A vision transformer (Dosovitskiy et al. 2021) whose tokens are averaged at the end.

    Args:
        shape: ``(c, h, w)`` of the image.
        classes: Number of classes.
        patch: Side of a patch.
        width: Of tokens.
        heads: Of each attention.
        blocks: Number of blocks.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        classes: int,
        patch: int,
        width: int,
        heads: int,
        blocks: int,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(shape[0], width, patch, stride=patch)
        self.places = Positions((shape[1] // patch) * (shape[2] // patch), width)
        self.blocks = nn.Sequential(*(_Block(width, heads=heads) for _ in range(blocks)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, classes)``."""
        tokens = self.places(self.patches(rows).flatten(2).transpose(1, 2))
        found: torch.Tensor = self.head(self.blocks(tokens).mean(dim=1))
        return found
