"""Are the figures those of the textbook, and do their intervals cover?"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from primum_pipelines.steps import metrics
from primum_pipelines.steps.evaluate import fairness
from primum_pipelines.steps.metrics import Scored


def scored(*, classes=2, rows=300, seed=1):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes)).round(1) + 1.5 * np.eye(classes)[labels]
    weights = np.exp(logits)
    return Scored(labels, weights / weights.sum(axis=1, keepdims=True), 0)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_figures_agree_with_an_independent_library(classes):
    rows = scored(classes=classes)
    found = metrics.utility(rows)
    labels, chosen = rows.labels, rows.predictions
    assert found["accuracy"].estimate == pytest.approx(reference.accuracy_score(labels, chosen))
    balanced = reference.balanced_accuracy_score(labels, chosen)
    assert found["balancedAccuracy"].estimate == pytest.approx(balanced)
    assert found["mcc"].estimate == pytest.approx(reference.matthews_corrcoef(labels, chosen))
    recall = reference.recall_score(labels == 0, chosen == 0)
    assert found["sensitivity"].estimate == pytest.approx(recall)
    rejected = reference.recall_score(labels != 0, chosen != 0)
    assert found["specificity"].estimate == pytest.approx(rejected)
    if classes == 2:
        area = reference.roc_auc_score(labels == 0, rows.probabilities[:, 0])
    else:
        area = reference.roc_auc_score(
            labels, rows.probabilities, multi_class="ovr", average="weighted"
        )
    assert found["rocAuc"].estimate == pytest.approx(area)


def test_auc_of_two_distinct_ties():
    """Scores 1, 1, 2 with labels 0, 1, 1: one pair tied, one won, so 3/4."""
    area = metrics.roc_auc(
        np.array([False, True, True]), np.array([1.0, 1.0, 2.0]), np.ones((1, 3))
    )
    assert area[0] == pytest.approx(0.75)


def test_wilson_matches_a_published_example():
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662."""
    figure = metrics.wilson(81, 263)
    assert (figure.lower, figure.upper) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_brier_and_calibration_of_a_known_table():
    """Four rows said 0.8 and three were right: gap 0.05; squared errors 2 x 0.04 and 2 x 0.64."""
    probabilities = np.array([[0.8, 0.2]] * 4)
    found = metrics.calibration(Scored(np.array([0, 0, 0, 1]), probabilities, 0))
    assert found["ece"].estimate == pytest.approx(0.05)
    assert found["brier"].estimate == pytest.approx((3 * 0.08 + 1.28) / 4)


def test_a_bootstrap_interval_holds_its_estimate_and_narrows():
    small, large = metrics.utility(scored(rows=80)), metrics.utility(scored(rows=1500))
    for name, figure in large.items():
        assert figure.lower <= figure.estimate <= figure.upper, name
        assert figure.upper - figure.lower < small[name].upper - small[name].lower, name


def test_one_class_gives_no_area():
    rows = Scored(np.zeros(5, dtype=np.int64), np.array([[0.9, 0.1]] * 5), 0)
    assert np.isnan(metrics.utility(rows)["rocAuc"].estimate)


def test_small_groups_are_masked():
    rows = scored(rows=100)
    groups = {"sex": np.array([0] * 71 + [1] * 29), "site": np.array([0, 1] * 50)}
    found = fairness(rows, groups)
    assert found["sex"] == {
        "0": {"masked": "fewer than 30"},
        "1": {"masked": "fewer than 30"},
    }
    gaps = [float(found["site"][n]["statisticalParityDifference"]) for n in ("0", "1")]
    assert gaps[0] == pytest.approx(-gaps[1])
