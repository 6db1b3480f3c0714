"""Opacus' DPOptimizer with our source of randomness. Heavy; imported only when training starts.

Clipping and summing are Opacus'. Replaced is where the noise comes from, and added is that a row
whose gradient is not finite contributes nothing: one NaN would otherwise pass the clipping and void
the bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from opacus.optimizers.optimizer import DPOptimizer, _check_processed_flag, _mark_as_processed

from primum_pipelines.optimization.randomness import RandomSource, normal_like


class NoisyOptimizer(DPOptimizer):  # type: ignore[misc] # Opacus has no types
    """Sums clipped gradients of virtual batches and adds noise once per logical batch.

    ``p.grad`` holds the noisy *sum* after ``pre_step``; dividing by the public expected batch size
    is the caller's, so that no realized batch size can slip in.

    ``takes_part`` decides from the unclipped norms ``(B,)`` of a virtual batch which of its rows
    are summed; it must look at nothing else of the data. ``None`` sums all.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        source: RandomSource,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self._source = source
        self.takes_part: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.rows_seen = 0
        self.rows_clipped = 0

    def clip_and_accumulate(self) -> None:
        """Drop rows that take no part or have no finite gradient; clip and sum the others."""
        samples = self.grad_samples
        squares = [
            sample.reshape(len(sample), math.prod(sample.shape[1:])).square().sum(dim=1)
            for sample in samples
        ]
        total = torch.stack(squares, dim=1).sum(dim=1).sqrt()
        summed = torch.isfinite(total)
        if self.takes_part is not None:
            summed &= self.takes_part(total)
        if not bool(summed.all()):
            for sample in samples:
                sample[~summed] = 0.0
        self.rows_seen += int(summed.sum())
        self.rows_clipped += int((total[summed] > self.max_grad_norm).sum())
        super().clip_and_accumulate()

    def add_noise(self) -> None:
        """Noise of standard deviation noise multiplier x C on each coordinate of the sum."""
        for parameter in self.params:
            _check_processed_flag(parameter.summed_grad)
            std = self.noise_multiplier * self.max_grad_norm
            noise = normal_like(self._source, parameter.summed_grad, std=std)
            parameter.grad = (parameter.summed_grad + noise).view_as(parameter)
            _mark_as_processed(parameter.summed_grad)
