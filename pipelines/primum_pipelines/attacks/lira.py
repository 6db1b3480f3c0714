"""LiRA: likelihood-ratio membership scores from shadow models (Carlini et al. 2022), online form.

Pure array arithmetic on one matrix of signals (models x records); float64 throughout, because
float32 log-odds saturate. Descriptive curves use all thresholds; the decision threshold is
calibrated on shadows treated as targets.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from primum_pipelines.attacks.figures import Array

PER_RECORD_MODELS_MIN = (
    64  # Below it one variance is pooled over all records, one for in and one for out.
)
_VARIANCE_FLOOR = 1e-6  # Two complementary shadows have no residuals at all.
_CALIBRATION_TARGETS_MAX = 16  # Shadows treated as targets; more change the threshold little.


def scaled_confidence(logits: torch.Tensor, labels: torch.Tensor) -> Array:
    """The scaled confidence, log p_y - log sum of the other classes' p, from logits in float64.

    Args:
        logits: ``(..., n, classes)``.
        labels: ``(n,)``.

    Returns:
        ``(..., n)``; higher for records that a model is sure of.
    """
    wide = logits.double()
    index = labels.expand(wide.shape[:-1])[..., None]
    own = wide.gather(-1, index).squeeze(-1)
    others = wide.scatter(-1, index, -torch.inf).logsumexp(dim=-1)
    result: Array = (own - others).numpy()
    return result


def online_scores(target: Array, shadows: Array, members: NDArray[np.bool_]) -> Array:
    """The log-likelihood ratio log N(phi; in) - log N(phi; out) for every record.

    Args:
        target: Signals of the attacked model, ``(n,)``.
        shadows: Signals of the shadow models, ``(M, n)``.
        members: Which shadow had which record, ``(M, n)``; every record is in some and out of some.

    Returns:
        ``(n,)``; higher means member.
    """
    mean_in, variance_in = _moments(shadows, members)
    mean_out, variance_out = _moments(shadows, ~members)
    inside = -np.log(variance_in) / 2 - (target - mean_in) ** 2 / (2 * variance_in)
    outside = -np.log(variance_out) / 2 - (target - mean_out) ** 2 / (2 * variance_out)
    result: Array = inside - outside
    return result


def calibrated_threshold(shadows: Array, members: NDArray[np.bool_]) -> float:
    """The threshold that a decision is made at, fixed without the target's memberships.

    Each of some shadows is attacked with the others; the median of the thresholds with the best
    balanced accuracy.
    """
    found = []
    for index in range(min(len(shadows), _CALIBRATION_TARGETS_MAX)):
        others = np.arange(len(shadows)) != index
        scores = online_scores(shadows[index], shadows[others], members[others])
        found.append(_best_threshold(scores, members[index]))
    return float(np.median(found))


def _moments(shadows: Array, chosen: NDArray[np.bool_]) -> tuple[Array, Array]:
    count = np.maximum(chosen.sum(axis=0), 1)
    mean = np.where(chosen, shadows, 0.0).sum(axis=0) / count
    residuals = np.where(chosen, shadows - mean, 0.0) ** 2
    pooled = residuals.sum() / max(1.0, float(chosen.sum() - shadows.shape[1]))
    if len(shadows) >= PER_RECORD_MODELS_MIN:
        variance = residuals.sum(axis=0) / np.maximum(count - 1, 1)
    else:
        variance = np.full(shadows.shape[1], pooled)
    return mean, np.maximum(variance, _VARIANCE_FLOOR)


def _best_threshold(scores: Array, member: NDArray[np.bool_]) -> float:
    """Of all midpoints between scores, the one with the best balanced accuracy."""
    order = np.argsort(-scores)
    hits = np.cumsum(member[order]) / max(1, member.sum())
    alarms = np.cumsum(~member[order]) / max(1, (~member).sum())
    best = int(np.argmax(hits - alarms))
    ordered = scores[order]
    following = ordered[best + 1] if best + 1 < len(ordered) else ordered[best]
    return float((ordered[best] + following) / 2)
