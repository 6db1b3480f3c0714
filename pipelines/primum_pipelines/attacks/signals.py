"""What attackers see: one array of logits per model, record and query, and numbers made of it.

Everything after asking the models is array arithmetic in float64, because float32 log-odds
saturate. An attack is a function of ``Asked``; treating a shadow as the target needs no new model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

from primum_pipelines.attacks.figures import Array

Mask: TypeAlias = NDArray[np.bool_]
_TAIL = 0.025  # Of either rate, for a bound at confidence 0.95.
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
        """The same with a shadow in the target's place, and without it among the shadows.

        Also without the one that had just what it had not: with it, a record would be in and out
        unequally often, and how often would tell whether the target had it.
        """
        tried = ~self.population
        mirrored = (self.had[:, tried] != self.had[index, tried]).all(axis=1)
        others = ~mirrored & (np.arange(len(self.shadows)) != index)
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
    hits, alarms, thresholds = _rates(scores, member)
    return float(thresholds[int(np.argmax(hits - alarms))])


def calibrated_threshold(asked: Asked, scoring: Scoring) -> float:
    """The threshold that a decision is made at, fixed without the target's memberships.

    Each of some shadows is attacked with the others; the median of the thresholds with the best
    balanced accuracy.
    """
    return _balanced(_tried_on_shadows(asked, scoring))


def calibrated_thresholds(
    asked: Asked, scoring: Scoring, *, members: int, others: int
) -> tuple[float, float]:
    """That threshold, and the one that shows most: both fixed without the target's memberships.

    Args:
        asked: The models.
        scoring: The attack.
        members: So many of the target are attacked.
        others: So many non-members.

    Returns:
        The threshold of ``calibrated_threshold``; and the one whose lower bound on epsilon would be
        the largest if the target's rates were those of the shadows together.
    """
    tries = _tried_on_shadows(asked, scoring)
    scores = np.concatenate([found for found, _ in tries])
    had = np.concatenate([known for _, known in tries])
    return _balanced(tries), sharpest_threshold(scores, had, members=members, others=others)


def sharpest_threshold(scores: Array, member: Mask, *, members: int, others: int) -> float:
    """Of all midpoints between scores, the one that shows the largest epsilon.

    Args:
        scores: Of models other than the target.
        member: Which records those models had.
        members: The lower bound is for so many members, at the rates found here,
        others: and so many non-members (Jagielski et al. 2020, at confidence 0.95 and delta 0).
    """
    hits, alarms, thresholds = _rates(scores, member)
    true, false = hits * members, alarms * others
    low = np.where(true > 0, special.betaincinv(true + (true == 0), members - true + 1, _TAIL), 0)
    full = false >= others
    high = np.where(full, 1, special.betaincinv(false + 1, others - false + full, 1 - _TAIL))
    with np.errstate(divide="ignore"):
        shown = np.maximum(np.log(low) - np.log(high), np.log1p(-high) - np.log1p(-low))
    return float(thresholds[int(np.argmax(shown))])


def _tried_on_shadows(asked: Asked, scoring: Scoring) -> list[tuple[Array, Mask]]:
    """Scores of the records under some shadows as targets, and which they had."""
    tried = ~asked.population
    return [(scoring(other)[tried], had[tried]) for other, had in asked.calibrations()]


def _balanced(tries: Sequence[tuple[Array, Mask]]) -> float:
    return float(np.median([best_threshold(scores, had) for scores, had in tries]))


def _rates(scores: Array, member: Mask) -> tuple[Array, Array, Array]:
    """True and false positive rates above every midpoint between scores, and those midpoints."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(member[order]) / max(1, member.sum())
    alarms = np.cumsum(~member[order]) / max(1, (~member).sum())
    ordered = scores[order]
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # Ties stand together.
    following = np.append(ordered, ordered[-1] - 1.0)[ends + 1]
    return hits[ends], alarms[ends], (ordered[ends] + following) / 2


def _is_label(logits: Array, labels: NDArray[np.int64]) -> Mask:
    found: Mask = np.arange(logits.shape[-1]) == labels[:, None]
    return np.broadcast_to(found, logits.shape)


def _of_label(values: Array, labels: NDArray[np.int64]) -> Array:
    index = np.broadcast_to(labels[:, None], (*values.shape[:-1], 1))
    result: Array = np.take_along_axis(values, index, axis=-1)[..., 0]
    return result
