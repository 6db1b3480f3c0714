"""Membership attacks as scores of records (methods, section 5.2): higher means member.

Each is a function of ``Asked`` alone, so that one set of shadows serves all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from primum_pipelines.attacks.figures import Array
from primum_pipelines.attacks.signals import (
    Asked,
    Mask,
    Scoring,
    best_threshold,
    label_log_probability,
    log_probabilities,
    scaled_confidence,
)

_VARIANCE_FLOOR = 1e-6  # Two complementary shadows have no residuals at all.
_FREEDOM_MAX = 1e6  # Beyond it, Student's t is the normal distribution in all that a float tells.
_NEWTON_STEPS = 50
_CLASS_MIN = 20  # Records of a class, for a threshold or a population of its own.
_RATIO_MIN = 1.0  # RMIA's gamma: how much likelier than a population record.
_OFFLINE_GRID = np.linspace(0, 1, 11)
_TRAINING_ROWS_MAX = 20_000  # Of the attack classifier.
_TOP = 3  # Sorted probabilities that the attack classifier sees.


def loss(asked: Asked) -> Array:
    """Minus the cross-entropy of the record itself (Yeom et al. 2018)."""
    return label_log_probability(asked.target[0], asked.labels)


def confidence(asked: Asked) -> Array:
    """The largest probability, whatever the label (Salem et al. 2019)."""
    result: Array = log_probabilities(asked.target[0]).max(axis=-1)
    return result


def entropy(asked: Asked) -> Array:
    """Minus the entropy of the answer (Shokri et al. 2017)."""
    logs = log_probabilities(asked.target[0])
    result: Array = (np.exp(logs) * logs).sum(axis=-1)
    return result


def modified_entropy(asked: Asked) -> Array:
    """Minus the modified entropy, which knows the label (Song and Mittal 2021)."""
    logs = log_probabilities(asked.target[0])
    shares = np.exp(logs)
    own = np.arange(logs.shape[-1]) == asked.labels[:, None]
    inverse = np.log1p(-np.minimum(shares, 1 - 1e-12))
    parts = np.where(own, -(1 - shares) * logs, -shares * inverse)
    result: Array = -parts.sum(axis=-1)
    return result


def per_class(scoring: Scoring) -> Scoring:
    """The same attack with a threshold for each class, fixed on shadows as targets.

    Scores become distances to the class's threshold; a class with fewer than 20 records keeps the
    threshold of all.
    """

    def scores(asked: Asked) -> Array:
        found = scoring(asked)
        return found - _class_thresholds(asked, scoring)[asked.labels]

    return scores


def _class_thresholds(asked: Asked, scoring: Scoring) -> Array:
    tried = ~asked.population
    seen = [(scoring(other)[tried], had[tried]) for other, had in asked.calibrations()]
    labels = asked.labels[tried]
    general = float(np.median([best_threshold(scores, had) for scores, had in seen]))
    thresholds = np.full(asked.target.shape[-1], general)
    for label in np.unique(labels):
        own = labels == label
        if own.sum() >= _CLASS_MIN:
            found = [best_threshold(scores[own], had[own]) for scores, had in seen]
            thresholds[label] = float(np.median(found))
    return thresholds


def population(asked: Asked) -> Array:
    """Share of population records that the model finds harder (Ye et al. 2022, Attack P).

    Records are compared with those of their class where there are at least 20.
    """
    own = loss(asked)
    result = np.zeros(len(own))
    for label in np.unique(asked.labels):
        mine = asked.labels == label
        others = asked.population & mine
        if others.sum() < _CLASS_MIN:
            others = asked.population
        ordered = np.sort(own[others])
        low = np.searchsorted(ordered, own[mine], side="left")
        high = np.searchsorted(ordered, own[mine], side="right")
        result[mine] = (low + high) / (2 * max(1, len(ordered)))
    return result


def label_only(asked: Asked) -> Array:
    """Share of queries about a record that are answered rightly (Choquette-Choo et al. 2021).

    With one query, whether the record itself is (the gap attack).
    """
    right = asked.target.argmax(axis=-1) == asked.labels
    result: Array = right.mean(axis=0)
    return result


def lira_online(asked: Asked) -> Array:
    """The log-likelihood ratio of in and out (Carlini et al. 2022), averaged over queries.

    Likelihoods are predictive: what a further model would answer, given so many shadows.
    """
    target = scaled_confidence(asked.target, asked.labels)
    shadows = scaled_confidence(asked.shadows, asked.labels)
    ratios = []
    for query, own in enumerate(target):
        inside = _predicted(shadows[:, query], asked.had)
        outside = _predicted(shadows[:, query], ~asked.had)
        ratios.append(inside.log_density(own) - outside.log_density(own))
    result: Array = np.mean(ratios, axis=0)
    return result


def lira_offline(asked: Asked) -> Array:
    """How surprising the confidence is for a model without the record, one-sided (ibid.)."""
    target = scaled_confidence(asked.target, asked.labels)
    shadows = scaled_confidence(asked.shadows, asked.labels)
    tails = [
        _predicted(shadows[:, query], ~asked.had).log_below(own) for query, own in enumerate(target)
    ]
    result: Array = np.mean(tails, axis=0)
    return result


def reference(asked: Asked) -> Array:
    """Share of models without the record that find it harder (Ye et al. 2022, Attack R)."""
    own = loss(asked)
    others = label_log_probability(asked.shadows[:, 0], asked.labels)
    harder = ((others < own) + (others == own) / 2) * ~asked.had
    result: Array = harder.sum(axis=0) / np.maximum(1, (~asked.had).sum(axis=0))
    return result


def rmia_online(asked: Asked) -> Array:
    """Share of population records that a record's likelihood ratio dominates (Zarifzadeh 2024).

    ``P(x) = (P_in(x) + P_out(x)) / 2``; of the population, which no shadow had, ``P_out``.
    """
    shares = _label_probability(asked.shadows, asked.labels)
    out = _mean_over(shares, ~asked.had)
    had = asked.had.any(axis=0)
    return _dominance(asked, np.where(had, (_mean_over(shares, asked.had) + out) / 2, out))


def rmia_offline(asked: Asked) -> Array:
    """The same with models that did not have the record; its own share of them is estimated.

    ``P(x) = ((1 + a) P_out(x) + 1 - a) / 2``, with the a of a grid that finds a shadow's members
    best.
    """
    return _offline(asked, _best_a(asked))


def _offline(asked: Asked, a: float) -> Array:
    shares = _label_probability(asked.shadows, asked.labels)
    return _dominance(asked, ((1 + a) * _mean_over(shares, ~asked.had) + 1 - a) / 2)


def _mean_over(shares: Array, models: Mask) -> Array:
    """Mean by record over some of the shadows, ``(n,)``; 0 where there are none."""
    result: Array = (shares * models).sum(axis=0) / np.maximum(1, models.sum(axis=0))
    return result


def _best_a(asked: Asked) -> float:
    """The a with the best balanced accuracy against the first shadow, attacked with the others."""
    other, had = next(asked.calibrations())
    tried = ~asked.population

    def skill(a: float) -> float:
        scores = _offline(other, a)[tried]
        above = scores > best_threshold(scores, had[tried])
        return float(above[had[tried]].mean() - above[~had[tried]].mean())

    return float(max(_OFFLINE_GRID, key=skill))


def _dominance(asked: Asked, expected: Array) -> Array:
    floor = np.finfo(np.float64).tiny
    own = _label_probability(asked.target[None], asked.labels)[0]
    ratio = own / np.maximum(expected, floor)
    others = np.sort(ratio[asked.population])
    result: Array = np.searchsorted(others, ratio / _RATIO_MIN, side="right") / max(1, len(others))
    return result


def _label_probability(logits: Array, labels: NDArray[np.int64]) -> Array:
    """``(M, n)`` from ``(M, q, n, classes)``: probability of the label, mean over queries."""
    result: Array = np.exp(label_log_probability(logits, labels)).mean(axis=1)
    return result


def shadow_classifier(asked: Asked) -> Array:
    """A classifier of in and out, trained on what the shadows answer (Shokri et al. 2017).

    As in Paul et al. 2021: gray-box where the shadows have the target's architecture, black-box
    where they have another. It sees the sorted log-probabilities, that of the label, the scaled
    confidence and its square.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    tried = np.flatnonzero(~asked.population)
    rows = max(1, _TRAINING_ROWS_MAX // len(tried))
    chosen = asked.shadows[:rows, 0][:, tried]
    features = np.concatenate([_features(part, asked.labels[tried]) for part in chosen])
    truth = asked.had[:rows][:, tried].reshape(-1)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    model.fit(features, truth)
    result: Array = model.decision_function(_features(asked.target[0], asked.labels))
    return result


def _features(logits: Array, labels: NDArray[np.int64]) -> Array:
    logs = log_probabilities(logits)
    ordered = -np.sort(-logs, axis=-1)[:, :_TOP]
    sure = scaled_confidence(logits, labels)
    parts = [ordered, label_log_probability(logits, labels)[:, None], sure[:, None]]
    return np.concatenate([*parts, sure[:, None] ** 2], axis=1)


@dataclass(frozen=True, slots=True, repr=False)
class _Predicted:
    """What a further model would answer, by record: Student's t with mean, scale and freedom."""

    mean: Array
    scale: Array
    freedom: Array

    def log_density(self, values: Array) -> Array:
        """Up to what does not depend on the record."""
        far, half = (values - self.mean) / self.scale, (self.freedom + 1) / 2
        weight = special.gammaln(half) - special.gammaln(self.freedom / 2)
        flat = weight - np.log(self.freedom) / 2 - np.log(self.scale)
        result: Array = flat - half * np.log1p(far**2 / self.freedom)
        return result

    def log_below(self, values: Array) -> Array:
        """Log probability of an answer below, to full precision where it is nearly certain."""
        far = (values - self.mean) / self.scale
        below = np.maximum(special.stdtr(self.freedom, far), np.finfo(np.float64).tiny)
        above = np.minimum(special.stdtr(self.freedom, -far), 0.5)
        result: Array = np.where(far > 0, np.log1p(-above), np.log(below))
        return result


def _predicted(shadows: Array, chosen: Mask) -> _Predicted:
    """The predictive distribution of a further shadow's answer, from some of the shadows.

    Means by record; variances by record, moderated by those of all records: a scaled inverse
    chi-square prior whose strength is estimated from how much the variances differ (Smyth 2004,
    section 6.2), so that few shadows share what they know and many need not.

    Args:
        shadows: ``(M, n)``.
        chosen: Which of them count for which record, ``(M, n)``.
    """
    count = np.maximum(chosen.sum(axis=0), 1)
    mean = np.where(chosen, shadows, 0.0).sum(axis=0) / count
    squares = (np.where(chosen, shadows - mean, 0.0) ** 2).sum(axis=0)
    own = count - 1.0
    known = own > 0
    if not known.any():  # One shadow each: there is nothing to tell a variance by.
        scale = np.sqrt(np.full(len(count), 2 * _VARIANCE_FLOOR))
        return _Predicted(mean, scale, np.full(len(count), _FREEDOM_MAX))
    strength, common = _prior_of_variances(squares[known], own[known])
    freedom = strength + own
    variance = np.maximum((strength * common + squares) / freedom, _VARIANCE_FLOOR)
    return _Predicted(mean, np.sqrt(variance * (1 + 1 / count)), freedom)


def _prior_of_variances(squares: Array, freedom: Array) -> tuple[float, float]:
    """Degrees of freedom and scale of the prior that the variances of all records suggest."""
    pooled = float(squares.sum() / freedom.sum())
    half = freedom / 2
    logs = np.log(np.maximum(squares / freedom, _VARIANCE_FLOOR))
    logs = logs - special.digamma(half) + np.log(half)
    excess = float(np.var(logs, ddof=1) if len(logs) > 1 else 0.0)
    excess -= float(special.polygamma(1, half).mean())
    least = float(special.polygamma(1, _FREEDOM_MAX / 2))
    if excess <= least:  # They differ no more than chance lets them.
        return _FREEDOM_MAX, pooled
    strength = 2 * _inverse_trigamma(excess)
    center = float(logs.mean() + special.digamma(strength / 2) - np.log(strength / 2))
    return strength, float(np.exp(center))


def _inverse_trigamma(value: float) -> float:
    """Newton's method as in Smyth 2004, appendix: monotone from below, so it always converges."""
    found = 0.5 + 1 / value
    for _ in range(_NEWTON_STEPS):
        slope = special.polygamma(1, found)
        found += float(slope * (1 - slope / value) / special.polygamma(2, found))
    return found
