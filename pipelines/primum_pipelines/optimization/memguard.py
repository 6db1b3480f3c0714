"""Fits the attacker that MemGuard fools (Jia et al. 2019, section 4.1): no mechanism, no promise.

Must be given rows of a training that claims nothing, and their confidences never leave it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from primum_pipelines.models.guard import Attacker, guard_state

if TYPE_CHECKING:
    from torch import nn

_ROUNDS = 400
_RATE = 0.01
_KEY_BYTES = 32
_ROWS_AT_ONCE = 512


def fit_guard(
    module: nn.Module, members: torch.Tensor, others: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What a model file keeps of a guard.

    Args:
        module: The trained classifier.
        members: Rows that it was trained on, scaled, ``(n, ...)``.
        others: Rows of units that were kept apart, ``(m, ...)``.

    Returns:
        Weights of the attacker, and a fresh key.
    """
    module.eval()
    said = [_confidences(module, rows) for rows in (members, others)]
    known = torch.cat([torch.ones(len(members)), torch.zeros(len(others))])
    # Both sides count alike, however many rows they have.
    weights = torch.where(known > 0, 1 / max(1, len(members)), 1 / max(1, len(others)))
    attacker = Attacker(classes=said[0].shape[1])
    optimizer = torch.optim.Adam(attacker.parameters(), lr=_RATE)
    confidences = torch.cat(said)
    for _ in range(_ROUNDS):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            attacker(confidences), known, weight=weights, reduction="sum"
        )
        loss.backward()
        optimizer.step()
    return guard_state(attacker, os.urandom(_KEY_BYTES))


def _confidences(module: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([module(part).softmax(dim=1) for part in rows.split(_ROWS_AT_ONCE)])
