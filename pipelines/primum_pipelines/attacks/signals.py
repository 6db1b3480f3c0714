"""What attackers see: one array of logits per model, record and query, and numbers made of it.

Everything after asking the models is array arithmetic in float64, because float32 log-odds
saturate. An attack is a function of ``Asked``; treating a shadow as the target needs no new model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from primum_pipelines.attacks.figures import Array

Mask: TypeAlias = NDArray[np.bool_]
_CALIBRATION_TARGETS_MAX = 16  # Shadows treated as targets; more change the threshold little.


@dataclass(frozen=True, slots=True, repr=False)
class Asked:
    """Models asked about a pool of records.

    Args:
        target: Logits of the attacked model, ``(q, n, classes)``; query 0 is the record itself, the
            others are augmentations of it.
        shadows: Logits of the shadow models, ``(M, q, n, classes)``.
        had: Which shadow had which record, ``(M, n)``.
        labels: ``(n,)`` class numbers.
        population: Records that neither the target nor any shadow had, ``(n,)``; attacks may
            compare with them, and are not tried on them.
    """

    target: Array
    shadows: Array
    had: Mask
    labels: NDArray[np.int64]
    population: Mask

    def as_target(self, index: int) -> Asked:
        """The same with a shadow in the target's place, and without it among the shadows."""
        others = np.arange(len(self.shadows)) != index
        return replace(
            self, target=self.shadows[index], shadows=self.shadows[others], had=self.had[others]
        )

    def calibrations(self) -> Iterator[tuple[Asked, Mask]]:
        """Some shadows as targets, each with what it had; records of the population had nobody."""
        for index in range(min(len(self.shadows), _CALIBRATION_TARGETS_MAX)):
            yield self.as_target(index), self.had[index]


Scoring: TypeAlias = Callable[[Asked], Array]
"""Scores of every record, ``(n,)``; higher means member."""


def scaled_confidence(logits: Array, labels: NDArray[np.int64]) -> Array:
    """The scaled confidence, log p_y - log sum of the other classes' p.

    Args:
        logits: ``(..., n, classes)``.
        labels: ``(n,)``.

    Returns:
        ``(..., n)``; higher for records that a model is sure of.
    """
    own = _of_label(logits, labels)
    others = np.where(_is_label(logits, labels), -np.inf, logits)
    top = others.max(axis=-1)
    rest = top + np.log(np.exp(others - top[..., None]).sum(axis=-1))
    result: Array = own - rest
    return result


def log_probabilities(logits: Array) -> Array:
    """Log-softmax over the last axis."""
    top = logits.max(axis=-1, keepdims=True)
    result: Array = logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    return result


def label_log_probability(logits: Array, labels: NDArray[np.int64]) -> Array:
    """``log p_y``, minus the cross-entropy, ``(..., n)``."""
    return _of_label(log_probabilities(logits), labels)


def best_threshold(scores: Array, member: Mask) -> float:
    """Of all midpoints between scores, the one with the best balanced accuracy."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(member[order]) / max(1, member.sum())
    alarms = np.cumsum(~member[order]) / max(1, (~member).sum())
    ordered = scores[order]
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # Ties stand together.
    best = int(ends[np.argmax((hits - alarms)[ends])])
    following = ordered[best + 1] if best + 1 < len(ordered) else ordered[best] - 1.0
    return float((ordered[best] + following) / 2)


def calibrated_threshold(asked: Asked, scoring: Scoring) -> float:
    """The threshold that a decision is made at, fixed without the target's memberships.

    Each of some shadows is attacked with the others; the median of the thresholds with the best
    balanced accuracy.
    """
    tried = ~asked.population
    found = [
        best_threshold(scoring(other)[tried], had[tried]) for other, had in asked.calibrations()
    ]
    return float(np.median(found))


def _is_label(logits: Array, labels: NDArray[np.int64]) -> Mask:
    found: Mask = np.arange(logits.shape[-1]) == labels[:, None]
    return np.broadcast_to(found, logits.shape)


def _of_label(values: Array, labels: NDArray[np.int64]) -> Array:
    index = np.broadcast_to(labels[:, None], (*values.shape[:-1], 1))
    result: Array = np.take_along_axis(values, index, axis=-1)[..., 0]
    return result
