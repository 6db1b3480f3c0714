"""Evaluation statistics of models and of synthetic-image filters, with their conventions fixed.

Undefined results are ``None``, never 0 in disguise (privacy-theory.md, section 10). Nothing here
bounds privacy, except that ``p1_score`` combines an empirical attack with a utility and says so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from primum.domain.errors import InvalidValue
from primum.domain.risk.intervals import clopper_pearson_one_sided

ECE_BINS_DEFAULT = 15
_POINTS_MIN = 3  # Two points always lie on a line.
_HALF = 0.5


def p1_score(*, task_accuracy: float, attack_accuracy: float) -> float:
    """2 A (1-B)/(A + 1-B) (Paul, Cao, Zhang & Burlina 2021), as published; 0 if A = 0 or B = 1.

    The caller passes max(B, 1-B): an attacker can flip its answers.
    """
    kept = 1 - attack_accuracy
    total = task_accuracy + kept
    return 2 * task_accuracy * kept / total if total > 0 else 0.0


def statistical_parity_difference(
    *, predictions: Sequence[int], group: Sequence[Any], minority: Any, majority: Any
) -> float | None:
    """P(positive | minority) - P(positive | majority), signed; undefined for an empty group."""
    rates = []
    for name in (minority, majority):
        chosen = [p for p, g in zip(predictions, group, strict=True) if g == name]
        if not chosen:
            return None
        rates.append(sum(1 for p in chosen if p == 1) / len(chosen))
    return rates[0] - rates[1]


def pearson_r(*, x: Sequence[float], y: Sequence[float]) -> dict[str, float | None]:
    """Pearson's r and its p-value from Student's t; undefined below 3 points or for constants."""
    import numpy as np
    from scipy import special

    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(a) != len(b):
        raise InvalidValue("y", "must be as long as x", len(b))
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    if len(a) < _POINTS_MIN or scale == 0:
        return {"r": None, "p_value": None}
    r = max(-1.0, min(1.0, float(a @ b) / scale))
    if abs(r) == 1:
        return {"r": r, "p_value": 0.0}
    freedom = len(a) - 2
    t = abs(r) * math.sqrt(freedom / ((1 - r) * (1 + r)))
    return {"r": r, "p_value": 2 * float(special.stdtr(freedom, -t))}


def mcnemar(*, b: int, c: int) -> dict[str, float | None]:
    """McNemar's test from the discordant counts: exact, corrected, and plain chi-square."""
    from scipy import special

    total = b + c
    if total == 0:
        return {
            "exact_p": 1.0,
            "chi2_corrected": None,
            "chi2_corrected_p": 1.0,
            "chi2": None,
            "chi2_p": 1.0,
        }
    exact = min(1.0, 2 * float(special.bdtr(min(b, c), total, 0.5)))
    corrected = max(abs(b - c) - 1, 0) ** 2 / total
    plain = (b - c) ** 2 / total
    return {
        "exact_p": exact,
        "chi2_corrected": corrected,
        "chi2_corrected_p": float(special.chdtrc(1, corrected)),
        "chi2": plain,
        "chi2_p": float(special.chdtrc(1, plain)),
    }


def cohen_kappa(*, rater_a: Sequence[Any], rater_b: Sequence[Any]) -> float | None:
    """(p_o - p_e)/(1 - p_e), unweighted; undefined if chance agreement is certain."""
    n = len(rater_a)
    if n == 0 or n != len(rater_b):
        raise InvalidValue("rater_b", "must be as long as rater_a, and not empty", len(rater_b))
    observed = sum(1 for a, b in zip(rater_a, rater_b, strict=True) if a == b) / n
    counts_a, counts_b = Counter(rater_a), Counter(rater_b)
    chance = sum(counts_a[k] * counts_b[k] for k in counts_a) / (n * n)
    return None if chance == 1 else (observed - chance) / (1 - chance)


def mcc(*, y_true: Sequence[Any], y_pred: Sequence[Any]) -> float:
    """Multi-class Matthews correlation (Gorodkin's R_K); 0 if a marginal is constant."""
    n = len(y_true)
    correct = sum(1 for a, b in zip(y_true, y_pred, strict=True) if a == b)
    truth, predicted = Counter(y_true), Counter(y_pred)
    cross = sum(truth[k] * predicted[k] for k in truth)
    spread_t = n * n - sum(v * v for v in truth.values())
    spread_p = n * n - sum(v * v for v in predicted.values())
    if spread_t == 0 or spread_p == 0:
        return 0.0
    return (correct * n - cross) / math.sqrt(spread_t * spread_p)


def roc_auc_binary(*, y_true: Sequence[int], score: Sequence[float]) -> float | None:
    """Mann-Whitney AUC, ties counted half; undefined without both classes."""
    from scipy import stats

    ranks = stats.rankdata(score)
    positives = sum(1 for y in y_true if y == 1)
    negatives = len(y_true) - positives
    if positives == 0 or negatives == 0:
        return None
    total = math.fsum(float(r) for r, y in zip(ranks, y_true, strict=True) if y == 1)
    return (total - positives * (positives + 1) / 2) / (positives * negatives)


def roc_auc_ovr_weighted(
    *, y_true: Sequence[int], probabilities: Sequence[Sequence[float]]
) -> float | None:
    """One-vs-rest AUC weighted by class frequency.

    Undefined if a class is everything or unscored.
    """
    total = 0.0
    for label, count in Counter(y_true).items():
        part = roc_auc_binary(
            y_true=[int(y == label) for y in y_true], score=[row[label] for row in probabilities]
        )
        if part is None:
            return None
        total += part * count / len(y_true)
    return total


def _ece(confidence: Sequence[float], correct: Sequence[float], bins: int) -> float:
    """Equal-width bins; an edge belongs to the upper bin, 1.0 to the last."""
    sums: dict[int, list[float]] = {}
    for value, hit in zip(confidence, correct, strict=True):
        index = min(math.floor(value * bins + 1e-12), bins - 1)
        entry = sums.setdefault(index, [0.0, 0.0])
        entry[0] += value
        entry[1] += hit
    return math.fsum(abs(conf - hits) for conf, hits in sums.values()) / len(confidence)


def ece_multiclass(
    *, y_true: Sequence[int], probabilities: Sequence[Sequence[float]], bins: int
) -> float:
    """Expected calibration error of the top label."""
    tops = [max(range(len(row)), key=row.__getitem__) for row in probabilities]
    hits = [float(top == y) for top, y in zip(tops, y_true, strict=True)]
    return _ece([row[top] for row, top in zip(probabilities, tops, strict=True)], hits, bins)


def ece_binary(
    *, y_true: Sequence[int], probability_positive: Sequence[float], bins: int
) -> dict[str, float]:
    """Both binary conventions: of the positive probability, and of the top label."""
    tops = [max(p, 1 - p) for p in probability_positive]
    pairs = zip(probability_positive, y_true, strict=True)
    hits = [float((p >= _HALF) == (y == 1)) for p, y in pairs]
    return {
        "positive_probability": _ece(probability_positive, [float(y) for y in y_true], bins),
        "top_label": _ece(tops, hits, bins),
    }


def ambiguity_discrepancy(
    *, baseline: Sequence[Any], competing: Sequence[Sequence[Any]]
) -> dict[str, float]:
    """Predictive multiplicity (Marx, Calmon & Ustun 2020), and mean pairwise disagreement."""
    n = len(baseline)
    differs = [[a != b for a, b in zip(baseline, other, strict=True)] for other in competing]
    models = [baseline, *competing]
    pairs = [(i, j) for i in range(len(models)) for j in range(i)]
    disagree = [
        sum(1 for a, b in zip(models[i], models[j], strict=True) if a != b) / n for i, j in pairs
    ]
    return {
        "ambiguity": sum(1 for column in zip(*differs, strict=True) if any(column)) / n,
        "discrepancy": max(sum(row) for row in differs) / n,
        "mean_pairwise_disagreement": math.fsum(disagree) / len(disagree),
    }


def ensemble_abstention(
    *, predictions: Sequence[Sequence[Any]], threshold: float, y_true: Sequence[Any]
) -> dict[str, Any]:
    """Predict the mode if it is unique and reaches the threshold, else abstain (-1)."""
    decisions: list[Any] = []
    for votes in zip(*predictions, strict=True):
        ranked = Counter(votes).most_common(2)
        unique = len(ranked) == 1 or ranked[0][1] > ranked[1][1]
        enough = ranked[0][1] >= threshold * len(votes) - 1e-12
        decisions.append(ranked[0][0] if unique and enough else -1)
    kept = [(d, y) for d, y in zip(decisions, y_true, strict=True) if d != -1]
    right = sum(1 for d, y in kept if d == y)
    return {
        "decisions": decisions,
        "coverage": len(kept) / len(decisions),
        "selective_accuracy": right / len(kept) if kept else None,
    }


def fid_gaussian_moments(
    *,
    mean_a: Sequence[float],
    cov_a: Sequence[Sequence[float]],
    mean_b: Sequence[float],
    cov_b: Sequence[Sequence[float]],
) -> float:
    """Frechet distance of two Gaussians; the trace of the root by a symmetric eigenproblem."""
    import numpy as np

    first, second = np.asarray(cov_a, dtype=float), np.asarray(cov_b, dtype=float)
    gap = np.asarray(mean_a, dtype=float) - np.asarray(mean_b, dtype=float)
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ second @ root)
    trace = float(np.trace(first) + np.trace(second) - 2 * np.sqrt(np.maximum(inner, 0.0)).sum())
    return max(0.0, float(gap @ gap) + trace)


def sample_fid_and_kid(
    *, features_a: Sequence[Sequence[float]], features_b: Sequence[Sequence[float]]
) -> dict[str, float]:
    """FID with unbiased covariances, and unbiased KID with kernel.

    X.y/d + 1)^3, which may be negative.
    """
    import numpy as np

    a, b = np.asarray(features_a, dtype=float), np.asarray(features_b, dtype=float)
    fid = fid_gaussian_moments(
        mean_a=list(a.mean(axis=0)),
        cov_a=np.atleast_2d(np.cov(a.T)).tolist(),
        mean_b=list(b.mean(axis=0)),
        cov_b=np.atleast_2d(np.cov(b.T)).tolist(),
    )
    d, m, n = a.shape[1], len(a), len(b)
    within_a, within_b, across = ((x @ y.T / d + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    kid = (within_a.sum() - np.trace(within_a)) / (m * (m - 1))
    kid += (within_b.sum() - np.trace(within_b)) / (n * (n - 1))
    return {"fid": fid, "kid": float(kid - 2 * across.mean())}


def filter_sensitivity_specificity(
    *, tp: int, fn: int, tn: int, fp: int, confidence: float
) -> dict[str, Any]:
    """Copies flagged, novel images kept, each with its exact two-sided interval."""
    result: dict[str, Any] = {}
    for name, hits, trials in (("sensitivity", tp, tp + fn), ("specificity", tn, tn + fp)):
        bounds = clopper_pearson_one_sided(
            successes=hits, trials=trials, tail_probability=(1 - confidence) / 2
        )
        result[name] = hits / trials
        result[f"{name}_ci"] = [bounds["lower"], bounds["upper"]]
    return result


def filter_consistency(*, flags: Sequence[Sequence[int]]) -> dict[str, float | None]:
    """Agreement of repeated decisions on the same image: unanimous share, mean pairwise.

    Fleiss' kappa.
    """
    raters = len(flags[0])
    pairs = raters * (raters - 1)
    agreements, positive = [], 0
    for row in flags:
        ones = sum(1 for flag in row if flag)
        positive += ones
        agreements.append((ones * (ones - 1) + (raters - ones) * (raters - ones - 1)) / pairs)
    mean = math.fsum(agreements) / len(flags)
    share = positive / (raters * len(flags))
    chance = share * share + (1 - share) ** 2
    return {
        "all_agree": sum(1 for row in flags if len({bool(f) for f in row}) == 1) / len(flags),
        "pairwise_agreement": mean,
        "fleiss_kappa": None if chance == 1 else (mean - chance) / (1 - chance),
    }


def image_mse_psnr_ncc(
    *, x: Sequence[float], y: Sequence[float], data_range: float
) -> dict[str, float | None]:
    """MSE, PSNR at a declared data range (infinite for equal images), and NCC.

    Undefined for constants.
    """
    import numpy as np

    a, b = np.asarray(x, dtype=float).ravel(), np.asarray(y, dtype=float).ravel()
    mse = float(np.mean((a - b) ** 2))
    psnr = 10 * math.log10(data_range * data_range / mse) if mse > 0 else math.inf
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return {"mse": mse, "psnr": psnr, "ncc": float(a @ b) / scale if scale > 0 else None}
