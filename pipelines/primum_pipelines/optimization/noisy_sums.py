"""The one place where noise enters a training: sums of clipped gradients, plus noise, once.

Must be given what is left after clipping and nothing else, and be released once per logical batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from primum_pipelines.optimization.randomness import RandomSource, add_noise


class NoisySums:
    """Sums over the virtual batches of one logical batch, released with noise.

    Guarantees:
        If what one unit adds between two releases has L2 norm at most ``max_grad_norm`` over all
        parameters together, a release is a Gaussian mechanism with this noise multiplier.

    Args:
        shapes: A tensor of the shape, type and device of each parameter.
        noise_multiplier: Noise standard deviation over ``max_grad_norm``.
        max_grad_norm: The clipping bound.
        source: What draws the noise.
    """

    def __init__(
        self,
        shapes: Mapping[str, torch.Tensor],
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        source: RandomSource,
    ) -> None:
        self.noise_multiplier = noise_multiplier
        self.max_grad_norm = max_grad_norm
        self._source = source
        self._sums = {name: torch.zeros_like(shape) for name, shape in shapes.items()}

    @property
    def totals(self) -> Mapping[str, torch.Tensor]:
        """The sums so far, without noise: to add to, and for nothing else."""
        return self._sums

    def release(self) -> dict[str, torch.Tensor]:
        """The sums with fresh noise on every coordinate, until ``clear`` is called.

        Returns:
            The very tensors that were added to; whoever gets them may change them.
        """
        for value in self._sums.values():
            add_noise(self._source, value, std=self.noise_multiplier * self.max_grad_norm)
        return self._sums

    def clear(self) -> None:
        """Begin the next logical batch at zero."""
        for value in self._sums.values():
            value.zero_()
