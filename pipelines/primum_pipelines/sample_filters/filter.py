"""What a sample filter owes. Registered under the entry-point group ``primum.sample_filters``.

A filter looks at training data, so its every use is a declared access; uncharged, it voids the
claim of what it filtered. Distances and nearest indices are record-level and must never leave the
worker. Imports nothing heavy.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

GROUP = "primum.sample_filters"


class Duplicates(enum.StrEnum):
    """What happens to exact duplicates in the reference before a threshold is taken from it."""

    KEEP = "Keep"  # the threshold may then be degenerate, which is refused
    DROP = "Drop"


@dataclass(frozen=True, slots=True, repr=False)
class Scores:
    """Distance of each candidate to the reference, and the reference row it is nearest to.

    Args:
        distances: float64, ``(n,)``, at least 0.
        nearest: int64, ``(n,)``.
    """

    distances: np.ndarray
    nearest: np.ndarray


class FittedFilter(Protocol):
    """A filter with its threshold."""

    @property
    def threshold(self) -> float:
        """Below it a candidate is rejected."""

    def score(self, candidates: np.ndarray) -> Scores:
        """Score candidates of the same shape as the reference rows."""

    def decide(self, scores: Scores) -> np.ndarray:
        """Boolean mask of what to keep, ``(n,)``."""


class SampleFilter(Protocol):
    """One way of telling copies from new samples."""

    name: str

    def fit(
        self,
        reference: np.ndarray,
        calibration: np.ndarray,
        *,
        duplicates: Duplicates,
        seed: int,
    ) -> FittedFilter:
        """Fit to the training examples.

        Args:
            reference: Training examples, one row each, values in [0, 1].
            calibration: Held-out examples of the same shape, for thresholds that need them.
            duplicates: What to do with exact duplicates in the reference.
            seed: For filters that draw at random.

        Raises:
            InvalidValue: If the threshold is degenerate, so that not even copies were rejected.
        """
