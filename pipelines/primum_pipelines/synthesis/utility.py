"""How useful synthetic samples are: train on synthetic, test on real, beside train on real.

Both classifiers are the same logistic regression; they differ in what they were trained on. Looks
at held-out real units, so every figure is Restricted unless the budget discloses Utility.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from primum.domain.canonical import JSON, decimal_text
from primum_pipelines.datasets.table import UnitTable
from primum_pipelines.evaluation import figures
from primum_pipelines.evaluation.figures import Figure, Scored
from primum_pipelines.synthesis.archive import unit_interval

_HEADLINE = ("accuracy", "rocAuc")
_ITERATIONS = 300


@dataclass(frozen=True, slots=True)
class SyntheticUtility:
    """Figures of both classifiers on held-out real units, and the class balance.

    Args:
        synthetic: Of the one trained on synthetic samples.
        real: Of the one trained on real units.
        test_rows: Number of held-out examples.
        balance: Share of each class among training examples.
    """

    synthetic: Mapping[str, Figure]
    real: Mapping[str, Figure]
    test_rows: int
    balance: Sequence[float]

    def headline(self) -> dict[str, JSON]:
        """What may leave where Utility is disclosed."""
        return {name: self.synthetic[name].to_json() for name in _HEADLINE}

    def to_json(self) -> dict[str, JSON]:
        """Everything."""
        return {
            **{name: figure.to_json() for name, figure in self.synthetic.items()},
            "trainedOnReal": {name: figure.to_json() for name, figure in self.real.items()},
            "testRows": self.test_rows,
            "classBalance": [decimal_text(share) for share in self.balance],
        }


def synthetic_utility(
    *, synthetic: UnitTable, real: UnitTable, positive: int, inverse_penalty: float = 1.0
) -> SyntheticUtility:
    """Train on synthetic and on real, test both on held-out real examples.

    Args:
        synthetic: Released samples.
        real: The private table; its training split trains the comparison, the rest is the test.
        positive: Class number that binary figures are about.
        inverse_penalty: Of both classifiers, for features scaled to [0, 1]; larger where what tells
            classes apart is a small part of that range.

    Returns:
        The figures. No model is chosen by them.
    """
    features = unit_interval(real).reshape(len(real.labels), -1)
    test, labels = features[~real.train], real.labels[~real.train]
    classes = len(real.classes)
    generated = unit_interval(synthetic).reshape(len(synthetic.labels), -1)
    known = {
        "synthetic": (generated, synthetic.labels),
        "real": (features[real.train], real.labels[real.train]),
    }
    said = {
        name: _probabilities(*rows, test, classes=classes, inverse_penalty=inverse_penalty)
        for name, rows in known.items()
    }
    counts = np.bincount(real.labels[real.train], minlength=classes)
    return SyntheticUtility(
        synthetic=figures.utility(Scored(labels, said["synthetic"], positive)),
        real=figures.utility(Scored(labels, said["real"], positive)),
        test_rows=len(labels),
        balance=tuple(float(count) / max(1, int(counts.sum())) for count in counts),
    )


def _probabilities(
    features: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    *,
    classes: int,
    inverse_penalty: float,
) -> np.ndarray:
    """Class probabilities of a logistic regression; a class it never saw gets 0."""
    from sklearn.linear_model import LogisticRegression

    answers = np.zeros((len(test), classes))
    present = np.unique(labels)
    if len(present) == 1:
        answers[:, present[0]] = 1.0
        return answers
    model = LogisticRegression(C=inverse_penalty, max_iter=_ITERATIONS).fit(features, labels)
    answers[:, model.classes_] = model.predict_proba(test)
    return answers
