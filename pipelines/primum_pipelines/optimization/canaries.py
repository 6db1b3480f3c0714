"""Gradient-space (Dirac) canaries: extra rows that mark the updates but not the model.

A head of one weight per canary sits beside the model. The loss of canary row j is a large constant
times weight j, so its gradient is clipped to exactly C in coordinate j and is zero in the model;
the gradient of a real row is zero in the head, so its norm, its clipping and its guarantee are as
without canaries. The rows of both kinds pass the same sampling, clipping, summing and noising,
which is what an audit needs. Utility is untouched: the model's coordinates of the noisy sum have
the same distribution with and without the head, the divisor counts real units only, and the head is
not part of the released artifact.

Coins say which canaries are in. They are sealed by a commitment before training and opened to the
audit afterwards (Steinke, Nasr, Jagielski 2023). Must not be told to the training algorithm's
author: an algorithm sees canaries only as rows.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from primum.domain.canonical import canonical_json, decimal_text, digest_of_bytes
from primum.domain.errors import InvalidValue
from primum_pipelines.optimization.losses import TaskLoss
from primum_pipelines.optimization.randomness import OperatingSystemSource
from primum_pipelines.optimization.randomness import coins as draw_coins

if TYPE_CHECKING:
    from primum_pipelines.optimization.algorithm import TrainingReport

FILE_NAME = "canaries.json"
ARTIFACT_KIND = "Canaries"
HEAD_PARAMETER = "head.weight"
MODEL_PREFIX = "model."  # Of the model's own parameters beside that head.
CANARIES_MAX = 100_000
_GRADIENT_SCALE = 1e6  # Far above any clipping bound, so that the clipped norm is C to six digits.
_SALT_BYTES = 16
_NOT_A_CANARY = -1


@dataclass(frozen=True, slots=True, repr=False)
class SealedCoins:
    """Which canaries are in; secret until the audit.

    Args:
        coins: One per canary; true for in.
        salt: Hex; keeps the commitment from being guessed.
    """

    coins: tuple[bool, ...]
    salt: str

    @property
    def commitment(self) -> str:
        """What may be published before training: SHA-256 over coins and salt."""
        return digest_of_bytes(canonical_json({"coins": self._text, "salt": self.salt}))

    @property
    def _text(self) -> str:
        return "".join("1" if coin else "0" for coin in self.coins)


def seal(count: int) -> SealedCoins:
    """Fresh fair coins from the operating system.

    Args:
        count: Number of canaries, from 1 to 100,000.
    """
    if not 1 <= count <= CANARIES_MAX:
        raise InvalidValue("canaries", f"must be from 1 to {CANARIES_MAX}", count)
    return SealedCoins(
        coins=tuple(draw_coins(OperatingSystemSource(), count)), salt=secrets.token_hex(_SALT_BYTES)
    )


def sealed_bytes(sealed: SealedCoins) -> bytes:
    """Sealed coins for a checkpoint in the steward's zone. Secret until the audit."""
    return canonical_json({"coins": [int(coin) for coin in sealed.coins], "salt": sealed.salt})


def unsealed(data: bytes) -> SealedCoins:
    """The coins that ``sealed_bytes`` gave."""
    held = json.loads(data)
    return SealedCoins(coins=tuple(bool(coin) for coin in held["coins"]), salt=str(held["salt"]))


class WithCanaries(nn.Module):  # type: ignore[misc] # torch is not followed
    """A model and, beside it, the canaries' head.

    Args:
        model: The model to train; shared, not copied.
        count: Number of canaries.
    """

    def __init__(self, model: nn.Module, *, count: int) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(count, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(
        self, features: torch.Tensor, canary_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``(B, classes)`` and each row's canary weight ``(B,)``, zero for real rows."""
        marks = nn.functional.one_hot(canary_ids + 1, self.head.in_features + 1)[:, 1:]
        return self.model(features), self.head(marks.to(features.dtype)).squeeze(1)


@dataclass(frozen=True, slots=True)
class MarkedLoss:
    """The losses of a model with canaries.

    Args:
        of_rows: The loss of real rows.
    """

    of_rows: TaskLoss

    def __call__(
        self,
        module: nn.Module,
        features: torch.Tensor,
        labels: torch.Tensor,
        canary_ids: torch.Tensor,
    ) -> torch.Tensor:
        """Losses ``(B,)``: the task's for real rows, the large linear mark for canaries."""
        outputs, marks = module(features, canary_ids)
        real = (canary_ids == _NOT_A_CANARY).to(outputs.dtype)
        return real * self.of_rows.of(outputs, labels) + _GRADIENT_SCALE * marks


def add_rows(
    features: torch.Tensor, labels: torch.Tensor, sealed: SealedCoins
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Real rows followed by one row for each canary that is in.

    Args:
        features: ``(n, ...)``.
        labels: ``(n, ...)``.
        sealed: The coins.

    Returns:
        Features, labels and canary ids of n + k rows; ids are -1 for real rows.
    """
    present = torch.tensor([i for i, coin in enumerate(sealed.coins) if coin], dtype=torch.int64)
    blank = features.new_zeros((len(present), *features.shape[1:]))
    ids = torch.cat([torch.full((len(labels),), _NOT_A_CANARY), present])
    return (
        torch.cat([features, blank]),
        torch.cat([labels, labels.new_zeros((len(present), *labels.shape[1:]))]),
        ids,
    )


def scores(report: TrainingReport) -> Sequence[float]:
    """How strongly each canary shows in the updates: the higher, the more likely it was in.

    The optimal statistic where the algorithm reports it: the log-likelihood ratio of all noisy sums
    (``presence``). Of other algorithms the canary's coordinate of the summed noisy gradients over
    C, which is N(times sampled, steps x sigma^2); without sampling the two order alike.

    Raises:
        InvalidValue: If the algorithm did not report the sums of the head.
    """
    return _of_head(report.presence) or _in_bounds(report)


def _in_bounds(report: TrainingReport) -> Sequence[float]:
    found = _of_head(report.update_sums)
    if not found:
        rule = f"must hold the update sums of {HEAD_PARAMETER}"
        raise InvalidValue("training report", rule, "none")
    return [value / report.max_grad_norm for value in found]


def _of_head(values: Mapping[str, torch.Tensor]) -> list[float]:
    """What is said of the canaries' head; empty if nothing."""
    found = [value for name, value in values.items() if name.endswith(HEAD_PARAMETER)]
    return [float(value) for value in found[0].detach().double().flatten()] if found else []


def to_bytes(sealed: SealedCoins, found: Sequence[float]) -> bytes:
    """The opened coins and the scores: the restricted artifact that the audit step reads.

    JSON ``{"format", "coins": [0 | 1], "salt", "commitment", "scores": ["decimal"]}``, in order.
    """
    return canonical_json(
        {
            "format": 1,
            "coins": [int(coin) for coin in sealed.coins],
            "salt": sealed.salt,
            "commitment": sealed.commitment,
            "scores": [decimal_text(value) for value in found],
        }
    )
