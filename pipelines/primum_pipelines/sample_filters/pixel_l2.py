"""PixelL2: reject a sample nearer to a training example than any two of them are to each other.

Paul, Cao, Zhang, Burlina (2021). Catches exact and nearly exact copies; misses a shift, a flip or a
change of brightness, which its evidence shows. Must never be presented as a guarantee.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from primum.domain.errors import InvalidValue
from primum_pipelines.sample_filters.filter import Duplicates, FittedFilter, Scores
from primum_pipelines.sample_filters.search import SelfMatch, nearest

_REFERENCE_MIN = 3  # A distance between two examples says nothing about a set of two.


@dataclass(frozen=True, slots=True, repr=False)
class FittedPixelL2:
    """PixelL2 with its reference and threshold."""

    reference: np.ndarray
    threshold: float

    def score(self, candidates: np.ndarray) -> Scores:
        """L2 distance to the nearest reference row."""
        return nearest(candidates, self.reference)

    def decide(self, scores: Scores) -> np.ndarray:
        """Keep what is at least as far from every training example as they are from each other."""
        keep: np.ndarray = scores.distances >= self.threshold
        return keep


class PixelL2:
    """Threshold: the smallest distance between two training examples."""

    name = "PixelL2"

    def fit(
        self,
        reference: np.ndarray,
        calibration: np.ndarray,  # noqa: ARG002 - part of the protocol; this threshold needs none
        *,
        duplicates: Duplicates,
        seed: int,  # noqa: ARG002 - part of the protocol; nothing here is random
    ) -> FittedFilter:
        """Take the threshold from the reference.

        Raises:
            InvalidValue: If the reference holds exact duplicates that were not to be dropped, or
                fewer than three different examples.
        """
        if duplicates is Duplicates.DROP:
            reference = distinct(reference)
        if len(reference) < _REFERENCE_MIN:
            raise InvalidValue(
                "sampleFilter.reference",
                f"must have at least {_REFERENCE_MIN} different training examples",
                "fewer",
            )
        within = nearest(reference, reference, self_match=SelfMatch.EXCLUDED)
        threshold = float(within.distances.min())
        if threshold <= 0.0:
            raise InvalidValue(
                "sampleFilter.threshold",
                "must be above 0, or not even exact copies are rejected",
                "0, because the training data holds exact duplicates",
                "Drop them first: sampleFilter: {deduplicate: Drop}.",
            )
        return FittedPixelL2(reference, threshold)


def distinct(rows: np.ndarray) -> np.ndarray:
    """The rows without exact duplicates, each first occurrence kept, in order."""
    flat = np.ascontiguousarray(rows.reshape(len(rows), -1))
    _, first = np.unique(flat, axis=0, return_index=True)
    return rows[np.sort(first)]
