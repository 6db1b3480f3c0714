"""Ending a training early: by a score that no private unit decides, or by a charged noisy one.

When a training ends is seen by everybody, so what decides it is a release. A score on public or
released data is a function of the noisy weights; a score on private held-out units is a Gaussian
mechanism of its own. Must never look at a unit that is trained on, nor at held-out units without
noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from primum.domain.errors import InvalidValue
from primum_pipelines.optimization.randomness import RandomSource, add_noise
from primum_pipelines.optimization.settings import looks_planned

_ROWS_AT_ONCE = 512


class StoppingRule:
    """Ends a training once its score has not risen for some looks in a row.

    Args:
        every: Steps between two looks, at least 1.
        patience: Looks in a row without a new best score after which it is enough, at least 1.
        score: Of the model as it would be released; higher is better. Must not change it.
    """

    def __init__(self, *, every: int, patience: int, score: Callable[[nn.Module], float]) -> None:
        for name, value in (("every", every), ("patience", patience)):
            if value < 1:
                raise InvalidValue(name, "must be at least 1", value)
        self.every = every
        self._patience = patience
        self._score = score
        self._best = -math.inf
        self._in_vain = 0
        self.taken = 0
        """Looks that were begun, whatever an algorithm says of them."""

    def due(self, step: int, *, steps: int) -> bool:
        """Whether to look after so many steps; never after the last one."""
        return step < steps and step % self.every == 0

    def looks(self, executed: int, *, steps: int) -> int:
        """How many looks may have been taken by the end of so many steps.

        Args:
            executed: Steps that count as executed.
            steps: Planned steps.
        """
        return looks_planned(min(executed + 1, steps), every=self.every)

    def enough(self, module: nn.Module) -> bool:
        """Look once.

        Args:
            module: The model as it would be released.
        """
        self.taken += 1
        found = self._score(module)
        if found > self._best:
            self._best, self._in_vain = found, 0
        else:
            self._in_vain += 1
        return self._in_vain >= self._patience

    def state(self) -> dict[str, float]:
        """What a later process needs to go on; of scores that may be seen."""
        return {
            "best": self._best,
            "inVain": float(self._in_vain),
            "taken": float(self.taken),
        }

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from a state that ``state`` gave."""
        self._best, self._in_vain = float(state["best"]), int(state["inVain"])
        self.taken = int(state.get("taken", 0))


@dataclass(frozen=True, slots=True, repr=False)
class PublicScore:
    """Accuracy on rows that are public, or part of a Release: post-processing of noisy weights.

    Args:
        module: The classifier, without what canaries bring.
        features: ``(n, ...)``, scaled as the model takes them.
        labels: int64 ``(n,)``.
    """

    module: nn.Module
    features: torch.Tensor
    labels: torch.Tensor

    def __call__(self, _trained: nn.Module) -> float:
        """The accuracy, from 0 to 1."""
        return float(_right(self.module, self.features, self.labels).mean())


@dataclass(frozen=True, slots=True, repr=False)
class NoisyHeldOutScore:
    """Accuracy on private held-out units, by the Gaussian mechanism.

    Guarantees:
        Each call is a ``Gaussian(noise_multiplier)`` event on the held-out units: a unit adds the
        share of its own rows that are classified right, from 0 to 1, to a sum that gets
        ``Normal(0, noise_multiplier^2)`` and is divided by a public constant. Units that are
        trained on play no part in it.

    Args:
        module: The classifier, without what canaries bring.
        features: ``(n, ...)``, scaled as the model takes them.
        labels: int64 ``(n,)``.
        owners: Number of each row's unit, from 0 to U - 1, int64 ``(n,)``.
        expected_units: Public number of held-out units, above 0.
        noise_multiplier: Deviation of the noise on the sum over units.
        source: Draws the noise.
    """

    module: nn.Module
    features: torch.Tensor
    labels: torch.Tensor
    owners: torch.Tensor
    expected_units: int
    noise_multiplier: float
    source: RandomSource

    def __call__(self, _trained: nn.Module) -> float:
        """The noisy accuracy; may lie outside of 0 to 1."""
        right = _right(self.module, self.features, self.labels)
        units = int(self.owners.max()) + 1 if len(self.owners) else 0
        rows = torch.bincount(self.owners, minlength=units).clamp_min(1)
        shares = right.new_zeros(units).index_add_(0, self.owners, right) / rows
        total = shares.clamp(0.0, 1.0).sum().reshape(1)
        add_noise(self.source, total, std=self.noise_multiplier)
        return float(total) / self.expected_units


def _right(module: nn.Module, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """One where a row is classified right, zero elsewhere, float64 ``(n,)``."""
    device = next(module.parameters()).device
    found = []
    with torch.inference_mode():
        for rows, wanted in zip(
            features.split(_ROWS_AT_ONCE), labels.split(_ROWS_AT_ONCE), strict=True
        ):
            chosen = module(rows.to(device)).argmax(dim=1).cpu()
            found.append((chosen == wanted.cpu()).double())
    return torch.cat(found).clone()
