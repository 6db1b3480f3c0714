"""DP-MERF: one Gaussian release of class-wise mean random features, the rest is post-processing.

Harder, Adamczewski, Park, *DP-MERF: Differentially Private Mean Embeddings with Random Features*
(2021). ``release_sum`` is the only function here that gives out anything of private data, and it
runs one step of the reviewed training algorithm at rate 1, so that clipping, noise, canaries and
self-test are the very code that trains models. Nothing here may look at the data a second time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from primum.domain.errors import InvalidValue
from primum_pipelines.optimization.algorithm import (
    MechanismParameters,
    TrainingAlgorithm,
    TrainingReport,
    TrainingTask,
)
from primum_pipelines.optimization.canaries import HEAD_PARAMETER, SealedCoins, WithCanaries
from primum_pipelines.synthesis.embedding import COUNT_WEIGHT, FEATURES_MIN

_CHUNK_UNITS = 2048  # Units embedded at a time without a mechanism: 33 MB at two classes, D = 1000.
_SPREAD = 0.2  # Typical public difference of two values in [0, 1]; sets the kernel's length scale.
_FEATURE_WEIGHT = math.sqrt(1.0 - COUNT_WEIGHT**2)
_CANARY_GRADIENT = 1e6  # Far above the clipping bound of 1.
_NOT_A_CANARY = -1


@dataclass(frozen=True, slots=True)
class FourierFeatures:
    """Random Fourier features of a Gaussian kernel; drawn from a public seed, never from data.

    Args:
        frequencies: float32, ``(D/2, d)``, entries N(0, 1/l^2).
    """

    frequencies: torch.Tensor

    @classmethod
    def draw(cls, *, features: int, dimension: int, seed: int) -> FourierFeatures:
        """Frequencies for ``features`` features of vectors in [0, 1]^``dimension``.

        The length scale is ``0.2 sqrt(dimension)``: the distance of two vectors that differ by 0.2
        in every coordinate. A public rule; the median heuristic would look at the data.
        """
        if features < FEATURES_MIN or features % 2:
            raise InvalidValue("features", f"must be even and at least {FEATURES_MIN}", features)
        generator = torch.Generator().manual_seed(seed)
        length_scale = _SPREAD * math.sqrt(dimension)
        normal = torch.randn((features // 2, dimension), generator=generator)
        return cls(normal / length_scale)

    @property
    def count(self) -> int:
        """The number of features D."""
        return 2 * int(self.frequencies.shape[0])

    def embed(self, rows: torch.Tensor) -> torch.Tensor:
        """Features of rows ``(n, d)`` as ``(n, D)``; every row has L2 norm 1 up to float error."""
        angles = rows @ self.frequencies.T
        return torch.cat([angles.cos(), angles.sin()], dim=1) * math.sqrt(2.0 / self.count)


class Contributions:
    """What each unit adds to the embedding's sum: at most 1 in L2, however many rows it has.

    A row contributes ``(0.1, sqrt(0.99) phi(x))`` in the block of its class, of norm 1; a unit
    contributes the mean over its rows, of norm at most 1. That is the add-or-remove sensitivity.

    Args:
        features: The random features.
        rows: float32, ``(n, d)`` in [0, 1].
        labels: int64, ``(n,)``.
        units: Unit of each row, ``(n,)``.
        classes: Number of classes K.
    """

    def __init__(
        self,
        features: FourierFeatures,
        *,
        rows: np.ndarray,
        labels: np.ndarray,
        units: np.ndarray,
        classes: int,
    ) -> None:
        _, index, counts = np.unique(units, return_inverse=True, return_counts=True)
        order = np.argsort(index, kind="stable")
        self._features = features
        self._rows = rows[order]
        self._labels = labels[order]
        self._counts = counts
        self._starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self.classes = classes
        self.units = len(counts)

    @property
    def dimension(self) -> int:
        """Length of a contribution, K (1 + D)."""
        return self.classes * (1 + self._features.count)

    def of(self, units: torch.Tensor) -> torch.Tensor:
        """Contributions of units by number, float32 ``(len(units), K (1 + D))``."""
        chosen = units.numpy()
        counts = self._counts[chosen]
        owner = np.repeat(np.arange(len(chosen)), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = self._starts[chosen][owner] + within
        phi = self._features.embed(torch.from_numpy(self._rows[rows]))
        vectors = torch.cat([torch.full((len(phi), 1), COUNT_WEIGHT), _FEATURE_WEIGHT * phi], dim=1)
        vectors /= torch.from_numpy(counts[owner].astype(np.float32))[:, None]
        blocks = torch.zeros((len(chosen) * self.classes, 1 + self._features.count))
        target = torch.from_numpy(owner * self.classes + self._labels[rows])
        return blocks.index_add_(0, target, vectors).view(len(chosen), self.dimension)

    def total(self) -> torch.Tensor:
        """The sum over all units without any protection, float64 ``(K, 1 + D)``."""
        total = torch.zeros(self.dimension, dtype=torch.float64)
        for numbers in torch.arange(self.units).split(_CHUNK_UNITS):
            total += self.of(numbers).double().sum(dim=0)
        return total.view(self.classes, -1)


def release_sum(
    contributions: Contributions,
    *,
    algorithm: TrainingAlgorithm,
    noise_multiplier: float,
    expected_units: int,
    sealed: SealedCoins | None,
    seed: int | None = None,
) -> tuple[torch.Tensor, TrainingReport]:
    """The one Gaussian mechanism: noise of the planned multiplier on a sum of sensitivity 1.

    The loss of a unit is minus the product of its contribution with the parameters, so its gradient
    is minus the contribution; one step at rate 1 with clipping bound 1 sums them and adds noise.

    Guarantees:
        With neighbors AddOrRemoveOne this is the event ``Gaussian(noise_multiplier)``, if the
        algorithm is what it says; with ReplaceOne the accountant doubles the sensitivity itself.

    Args:
        contributions: Of the training units.
        algorithm: Clips, sums and adds noise.
        noise_multiplier: Above 0.
        expected_units: Public number of units; scales parameters that nobody uses.
        sealed: Coins of the planted canaries, or ``None``.
        seed: For tests on toy data only.

    Returns:
        The noisy sum, float64 ``(K, 1 + D)``, and what the algorithm says it did.
    """
    model = nn.Linear(contributions.dimension, 1, bias=False)
    present = [i for i, coin in enumerate(sealed.coins) if coin] if sealed is not None else []
    numbers = torch.cat(
        [torch.arange(contributions.units), torch.zeros(len(present), dtype=torch.int64)]
    )
    ids = torch.full((len(numbers),), _NOT_A_CANARY)
    ids[contributions.units :] = torch.tensor(present, dtype=torch.int64)
    module = model if sealed is None else WithCanaries(model, count=len(sealed.coins))

    def loss(wrapped: nn.Module, units: torch.Tensor, canaries: torch.Tensor) -> torch.Tensor:
        real = (canaries == _NOT_A_CANARY).to(torch.float32)
        vectors = contributions.of(units)
        if sealed is None:
            product: torch.Tensor = -wrapped(vectors).squeeze(1)
            return product
        products, marks = wrapped(vectors, canaries)
        combined: torch.Tensor = _CANARY_GRADIENT * marks - real * products.squeeze(1)
        return combined

    task = TrainingTask(
        module=module,
        inputs=(numbers, ids),
        loss=loss,
        expected_units=expected_units,
        mechanism=MechanismParameters(
            noise_multiplier, sample_rate=1.0, steps=1, max_grad_norm=1.0
        ),
        learning_rate=1.0,
        seed=seed,
    )
    report = algorithm.fit(task)
    sums = [v for name, v in report.update_sums.items() if not name.endswith(HEAD_PARAMETER)]
    if len(sums) != 1 or sums[0].numel() != contributions.dimension:
        rule = "must hold the update sums of the one parameter that was trained"
        raise InvalidValue("training report", rule, f"{len(sums)} of them")
    return -sums[0].detach().double().view(contributions.classes, -1), report


@dataclass(frozen=True, slots=True, repr=False)
class Embedding:
    """A class-wise embedding in normalized form.

    Args:
        means: float32, ``(K, D)``: noisy mean features of each class, of norm at most 1.
        shares: float32, ``(K,)``: noisy share of each class; above 0, sums to 1.
    """

    means: torch.Tensor
    shares: torch.Tensor


def embedding_of(noisy_sum: torch.Tensor, *, noise_multiplier: float) -> Embedding:
    """Class means and shares from a noisy sum. Post-processing.

    Args:
        noisy_sum: ``(K, 1 + D)``, as released.
        noise_multiplier: At least 0; a class count within its own noise of 0 is raised to that
            noise.

    Returns:
        The embedding.
    """
    floor = max(1.0, noise_multiplier / COUNT_WEIGHT)
    counts = (noisy_sum[:, 0] / COUNT_WEIGHT).clamp_min(floor)
    means = noisy_sum[:, 1:] / _FEATURE_WEIGHT / counts[:, None]
    norms = means.norm(dim=1, keepdim=True).clamp_min(1.0)  # A mean of unit vectors is within 1.
    return Embedding((means / norms).float(), (counts / counts.sum()).float())
