"""How much noisy sums speak for a unit that pulls one coordinate: what a white-box auditor reads.

A function of what the mechanism releases and of its public facts, so post-processing. Must not be
told which batches a unit was in, or would have been in: hiding that is part of the guarantee of a
sampled mechanism, and an auditor who knew it would test another, weaker one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch


class Presence:
    """Log-likelihood ratios of presence, summed over steps.

    For a unit whose clipped gradient is the bound C in one coordinate and zero elsewhere, and whose
    batches nobody knows, a step shows ``x = noisy sum / C`` in that coordinate: N(1, sigma^2) with
    probability q and N(0, sigma^2) otherwise if the unit is in, N(0, sigma^2) if it is out. So
    ``log(1 - q + q exp((2 x - 1) / (2 sigma^2)))`` is the step's log-likelihood ratio, and its sum
    the most powerful statistic there is (Neyman and Pearson).

    Args:
        sums: The parameters whose coordinates are watched, by name.
        noise_multiplier: Relative to ``max_grad_norm``; without noise nothing is recorded.
        sample_rate: Poisson rate.
        max_grad_norm: The clipping bound.
    """

    def __init__(
        self,
        sums: Mapping[str, torch.Tensor],
        *,
        noise_multiplier: float,
        sample_rate: float,
        max_grad_norm: float,
    ) -> None:
        self._variance = noise_multiplier**2
        self._bound = max_grad_norm
        self._log_in = math.log(sample_rate) if sample_rate > 0 else -math.inf
        self._log_out = math.log1p(-sample_rate) if sample_rate < 1 else -math.inf
        known = self._variance > 0 and max_grad_norm > 0
        self.ratios: dict[str, torch.Tensor] = {
            name: torch.zeros_like(value, dtype=torch.float64)
            for name, value in (sums.items() if known else ())
        }

    def add(self, noisy: Mapping[str, torch.Tensor]) -> None:
        """One step's noisy sums."""
        for name, ratio in self.ratios.items():
            seen = noisy[name].double() / self._bound
            pull = (2 * seen - 1) / (2 * self._variance)
            stay = torch.full_like(pull, self._log_out)
            ratio.add_(torch.logaddexp(self._log_in + pull, stay))

    def restore(self, kept: Mapping[str, torch.Tensor]) -> None:
        """Go on from what a checkpoint holds."""
        for name, ratio in self.ratios.items():
            ratio.copy_(kept[name])


def added_up(parts: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The evidence of several trainings of the same units, with fresh batches and noise each."""
    found: dict[str, torch.Tensor] = {}
    for part in parts:
        for name, ratio in part.items():
            found[name] = found[name] + ratio if name in found else ratio
    return found
