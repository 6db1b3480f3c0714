"""How useful synthetic samples are: train on synthetic, test on real, beside train on real.

Both classifiers are the same logistic regression; they differ in what they were trained on. Looks at
held-out real units, so every figure is Restricted unless the budget discloses Utility.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from primum.domain.canonical import JSON, decimal_text
from primum.domain.risk.intervals import wilson
from primum.domain.risk.statistics import roc_auc_binary, roc_auc_ovr_weighted
from primum_pipelines.datasets.table import UnitTable
from primum_pipelines.synthesis.archive import unit_interval

CONFIDENCE = 0.95
_RESAMPLES = 500  # For AUC intervals; the 2.5 % quantile then rests on 12 resamples.
_RESAMPLE_SEED = 0  # Of the bootstrap alone: intervals are the same at every run.
_ITERATIONS = 300
_BINARY = 2


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its interval at 95 % confidence; ``None`` where it is undefined."""

    value: float | None
    low: float | None
    high: float | None

    def to_json(self, name: str) -> dict[str, JSON]:
        """``{name, nameLow, nameHigh}`` as decimal strings."""
        parts = {name: self.value, f"{name}Low": self.low, f"{name}High": self.high}
        return {key: None if item is None else decimal_text(item) for key, item in parts.items()}


@dataclass(frozen=True, slots=True)
class SyntheticUtility:
    """Accuracy and AUC of both classifiers on held-out real units, and the class balance.

    Args:
        accuracy: Trained on synthetic.
        auc: Trained on synthetic.
        real_accuracy: Trained on real.
        real_auc: Trained on real.
        test_units: Number of held-out examples.
        balance: Share of each class among training units.
    """

    accuracy: Interval
    auc: Interval
    real_accuracy: Interval
    real_auc: Interval
    test_units: int
    balance: Sequence[float]

    def headline(self) -> dict[str, JSON]:
        """What may leave where Utility is disclosed."""
        return {**self.accuracy.to_json("accuracy"), **self.auc.to_json("auc")}

    def to_json(self) -> dict[str, JSON]:
        """Everything."""
        return {
            **self.headline(),
            **self.real_accuracy.to_json("realAccuracy"),
            **self.real_auc.to_json("realAuc"),
            "testUnits": self.test_units,
            "classBalance": [decimal_text(share) for share in self.balance],
            "confidence": decimal_text(CONFIDENCE),
        }


def synthetic_utility(*, synthetic: UnitTable, real: UnitTable) -> SyntheticUtility:
    """Train on synthetic and on real, test both on held-out real examples.

    Args:
        synthetic: Released samples.
        real: The private table; its training split trains the comparison, the rest is the test.

    Returns:
        The figures. No model is chosen by them.
    """
    features = unit_interval(real).reshape(len(real.labels), -1)
    test, labels = features[~real.train], real.labels[~real.train]
    classes = len(real.classes)
    generated = unit_interval(synthetic).reshape(len(synthetic.labels), -1)
    on_synthetic = _probabilities(generated, synthetic.labels, test, classes=classes)
    on_real = _probabilities(features[real.train], real.labels[real.train], test, classes=classes)
    counts = np.bincount(real.labels[real.train], minlength=classes)
    return SyntheticUtility(
        accuracy=accuracy_interval(labels, on_synthetic),
        auc=auc_interval(labels, on_synthetic),
        real_accuracy=accuracy_interval(labels, on_real),
        real_auc=auc_interval(labels, on_real),
        test_units=len(labels),
        balance=tuple(float(count) / max(1, int(counts.sum())) for count in counts),
    )


def accuracy_interval(labels: np.ndarray, probabilities: np.ndarray) -> Interval:
    """Share of right top answers with a Wilson interval."""
    if not len(labels):
        return Interval(None, None, None)
    right = int((probabilities.argmax(axis=1) == labels).sum())
    low, high = wilson(successes=right, trials=len(labels), confidence=CONFIDENCE)
    return Interval(right / len(labels), low, high)


def auc_interval(labels: np.ndarray, probabilities: np.ndarray) -> Interval:
    """AUC (one-vs-rest weighted for several classes), interval by stratified percentile bootstrap."""
    value = _auc(labels, probabilities)
    if value is None:
        return Interval(None, None, None)
    generator = np.random.default_rng(_RESAMPLE_SEED)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    found = []
    for _ in range(_RESAMPLES):
        rows = np.concatenate([generator.choice(group, len(group)) for group in members])
        found.append(_auc(labels[rows], probabilities[rows]))
    known = [item for item in found if item is not None]
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))


def _auc(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    if probabilities.shape[1] == _BINARY:
        return roc_auc_binary(y_true=labels.tolist(), score=probabilities[:, 1].tolist())
    return roc_auc_ovr_weighted(y_true=labels.tolist(), probabilities=probabilities.tolist())


def _probabilities(
    features: np.ndarray, labels: np.ndarray, test: np.ndarray, *, classes: int
) -> np.ndarray:
    """Class probabilities of a logistic regression; a class it never saw gets 0."""
    from sklearn.linear_model import LogisticRegression

    answers = np.zeros((len(test), classes))
    present = np.unique(labels)
    if len(present) == 1:
        answers[:, present[0]] = 1.0
        return answers
    model = LogisticRegression(max_iter=_ITERATIONS).fit(features, labels)
    answers[:, model.classes_] = model.predict_proba(test)
    return answers
