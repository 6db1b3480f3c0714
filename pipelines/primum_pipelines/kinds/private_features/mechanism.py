"""The one Gaussian mechanism behind a table of private features (NeuralDP with a frozen extractor).

Knolle, Usynin, Ziller et al., *NeuralDP: Differentially private neural networks by design* (2021).
``release`` is the only function here that gives out anything of private data. It must be given
features that no private unit had a part in choosing, one vector per unit, and be called once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from primum.domain.errors import InvalidValue
from primum_pipelines.optimization.randomness import RandomSource, add_noise

if TYPE_CHECKING:
    from primum_pipelines.optimization.canaries import SealedCoins

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TableMechanism:
    """The mechanism, as planned: everything in it is public.

    Args:
        rows: Rows of the released table; at least the units that are put into it.
        clip: L2 bound C of what one unit adds to the table.
        label_share: Share of C squared that is kept for the label, above 0 and below 1.
        noise_multiplier: Standard deviation of the noise over C.
    """

    rows: int
    clip: float
    label_share: float
    noise_multiplier: float

    @property
    def feature_bound(self) -> float:
        """The most that the features of a unit can have of C."""
        return self.clip * math.sqrt(1 - self.label_share)

    @property
    def label_length(self) -> float:
        """What the code of a unit's label has of C."""
        return self.clip * math.sqrt(self.label_share)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on every number."""
        return self.clip * self.noise_multiplier


@dataclass(frozen=True, slots=True, repr=False)
class ReleasedTable:
    """What leaves, and what the audit of canaries is told beside it.

    Args:
        features: Noisy features, ``(rows, d)``.
        codes: Noisy label codes, ``(rows, K)``.
        canary_scores: For each canary the number at its own place, over C: N(in or out, s^2).
            Restricted; no part of the table.
    """

    features: Array
    codes: Array
    canary_scores: Array


def release(
    features: Array,
    labels: Array,
    *,
    mechanism: TableMechanism,
    source: RandomSource,
    sealed: SealedCoins | None = None,
) -> ReleasedTable:
    """Put every clipped unit at a random place of a table, and add noise to all of the table, once.

    Guarantees:
        Whatever the units are, up to ``rows`` of them, one that is added or removed changes the
        table before the noise by at most C in L2, once the places of all others are held fixed;
        their distribution does not depend on it. So with neighbors AddOrRemoveOne this is the event
        ``Gaussian(noise_multiplier)``; one that is replaced keeps its place and changes at most
        2 C, which the accountant counts for ReplaceOne by itself. Canaries are units as well, in a
        column and rows of their own, which are cut off: they cost the others nothing.

    Args:
        features: What the frozen extractor makes of each unit, ``(n, d)``.
        labels: Share of each class among a unit's rows, ``(n, K)``; rows sum to 1.
        mechanism: As planned.
        source: Draws places and noise.
        sealed: Coins of the planted canaries, or ``None``.

    Returns:
        The noisy table and the canaries' scores.

    Raises:
        InvalidValue: If there are more units than rows.
    """
    units, (count, width) = len(features), (len(labels), features.shape[1] + labels.shape[1])
    if units > mechanism.rows or count != units:
        rule = f"must have at most {mechanism.rows} training units, the rows of its table"
        raise InvalidValue("dataset", rule, "more", "Give spec.job.privateFeatures.rows.")
    coins = np.array(sealed.coins if sealed is not None else (), dtype=np.float64)
    vectors = np.zeros((units + len(coins), width + 1))
    vectors[:units, :width] = contributions(features, labels, mechanism=mechanism)
    vectors[units:, width] = coins * mechanism.clip
    vectors = clipped(vectors, bound=mechanism.clip)
    places = random_places(source, units=len(vectors), rows=mechanism.rows + len(coins))
    table = torch.zeros((mechanism.rows + len(coins), width + 1), dtype=torch.float64)
    table[torch.from_numpy(places)] = torch.from_numpy(vectors)
    add_noise(source, table, std=mechanism.noise_std)
    noisy = table.numpy()
    kept = np.ones(len(noisy), dtype=bool)
    kept[places[units:]] = False  # Which rows these are depends on no unit.
    d = features.shape[1]
    return ReleasedTable(
        features=noisy[kept, :d],
        codes=noisy[kept, d:width],
        canary_scores=noisy[places[units:], width] / mechanism.clip,
    )


def contributions(features: Array, labels: Array, *, mechanism: TableMechanism) -> Array:
    """Features and label codes of units as they go into the clip, ``(n, d + K)``.

    Features are cut to what the label leaves of C, so that the clip of both together never makes a
    label's code shorter. An extractor may overflow: what is not finite counts as zero.
    """
    finite = np.nan_to_num(features.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    kept = clipped(finite, bound=mechanism.feature_bound)
    return np.concatenate([kept, mechanism.label_length * labels], axis=1)


def clipped(vectors: Array, *, bound: float) -> Array:
    """Vectors ``(n, p)``, those longer than the bound scaled to it."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: Array = vectors * (bound / np.maximum(lengths, bound))
    return result


def random_places(source: RandomSource, *, units: int, rows: int) -> NDArray[np.int64]:
    """A row for each unit, no two the same, every such choice as likely as any other.

    Returns:
        int64 ``(units,)``, each from 0 to ``rows - 1``. Secret.
    """
    order: NDArray[np.int64] = np.argsort(source.uniform(rows), kind="stable")
    return order[:units]
