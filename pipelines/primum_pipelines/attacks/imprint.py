"""A malicious server's imprint layer: records read off the sum of a batch's gradients.

Fowl, Geiping, Czaja, Goldblum & Goldstein, *Robbing the Fed* (2022); methods, section 7.3. The
layer's rows all measure the same thing, its biases are that measure's quantiles, so two rows next
to each other differ by the records of one bin. It needs only the sum: averaging and secure
aggregation do not stop it, per-record clipping with noise does.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from primum_pipelines.attacks.figures import Array

_LIT = 1e-12  # A bin whose bias gradient is smaller holds nobody.


class Imprint(nn.Module):  # type: ignore[misc] # torch is not followed
    """The layer and a loss that treats every row alike.

    Args:
        quantiles: ``(k,)``, increasing: where the bins of the measure, the mean, begin.
        dimension: Numbers in a record.
    """

    def __init__(self, quantiles: Array, *, dimension: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dimension, len(quantiles))
        with torch.no_grad():
            self.linear.weight.fill_(1 / dimension)
            self.linear.bias.copy_(torch.from_numpy(-np.asarray(quantiles)))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The loss of each record, ``(n,)``."""
        found: torch.Tensor = torch.relu(self.linear(inputs.flatten(1))).sum(dim=1)
        return found


def quantiles(population: Array, bins: int) -> Array:
    """Where the bins begin: quantiles of the mean of records that the adversary has.

    Args:
        population: ``(n, d)``, not the records that are attacked.
        bins: k.

    Returns:
        ``(k,)``, increasing; the first lies below every measure that was seen.
    """
    from scipy.special import ndtri

    measure = population.mean(axis=1)
    spread = max(float(measure.std()), 1e-9)
    # A fitted normal: the empirical quantiles of few records have fewer steps than bins.
    shares = np.arange(1, bins) / bins
    inner = measure.mean() + spread * ndtri(shares)
    lowest = min(float(measure.min()), float(inner[0])) - 4 * spread
    result: Array = np.concatenate([[lowest], inner])
    return result


def gradient_sum(
    module: Imprint,
    records: torch.Tensor,
    *,
    max_grad_norm: float,
    noise_multiplier: float,
    generator: torch.Generator,
) -> tuple[Array, Array]:
    """What the server sees: the sum of clipped gradients, with noise.

    Args:
        module: The imprint layer.
        records: ``(n, d)``.
        max_grad_norm: Clipping bound; infinite does not clip.
        noise_multiplier: Of the bound; 0 adds none.
        generator: Draws the noise.

    Returns:
        Weight gradients ``(k, d)`` and bias gradients ``(k,)``, float64.
    """
    parameters = {name: value.detach().double() for name, value in module.named_parameters()}

    def loss(current: dict[str, torch.Tensor], record: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, current, (record[None],)).sum()

    wide = records.flatten(1).double()
    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, wide)
    squares = sum(part.flatten(1).square().sum(dim=1) for part in found.values())
    norms = torch.as_tensor(squares).sqrt().clamp_min(1e-12)
    factor = (max_grad_norm / norms).clamp_max(1.0)
    sums = []
    for name in ("linear.weight", "linear.bias"):
        part = found[name]
        total = (part * factor.view(-1, *(1,) * (part.dim() - 1))).sum(dim=0)
        if noise_multiplier:
            noise = torch.randn(total.shape, generator=generator, dtype=total.dtype)
            total = total + noise * noise_multiplier * max_grad_norm
        sums.append(total.numpy())
    return sums[0], sums[1]


def recover(weights: Array, biases: Array) -> Array:
    """One reconstruction per bin that holds somebody.

    Args:
        weights: Summed weight gradients, ``(k, d)``.
        biases: Summed bias gradients, ``(k,)``.

    Returns:
        ``(r, d)``: the mean of each bin's records; a record itself where it is alone in its bin.
    """
    apart = np.concatenate([weights[:-1] - weights[1:], weights[-1:]])
    counts = np.concatenate([biases[:-1] - biases[1:], biases[-1:]])
    lit = np.abs(counts) > _LIT
    result: Array = apart[lit] / counts[lit][:, None]
    return result


def expected_share(*, records: int, bins: int) -> float:
    """Share of records that are alone in their bin, ``(1 - 1/k)^(n - 1)``."""
    return float((1 - 1 / bins) ** (records - 1))
