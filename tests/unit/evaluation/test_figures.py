"""Are the figures those of the textbook, and do their intervals cover?"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from primum_pipelines.evaluation import figures, subgroups
from primum_pipelines.evaluation.calibration import calibration
from primum_pipelines.evaluation.figures import Scored


def scored(*, classes=2, rows=300, seed=1):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes)).round(1) + 1.5 * np.eye(classes)[labels]
    weights = np.exp(logits)
    return Scored(labels, weights / weights.sum(axis=1, keepdims=True), 0)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_figures_agree_with_an_independent_library(classes):
    rows = scored(classes=classes)
    found = figures.utility(rows)
    labels, chosen = rows.labels, rows.predictions
    assert found["accuracy"].estimate == pytest.approx(reference.accuracy_score(labels, chosen))
    balanced = reference.balanced_accuracy_score(labels, chosen)
    assert found["balancedAccuracy"].estimate == pytest.approx(balanced)
    assert found["mcc"].estimate == pytest.approx(reference.matthews_corrcoef(labels, chosen))
    recall = reference.recall_score(labels == 0, chosen == 0)
    assert found["sensitivity"].estimate == pytest.approx(recall)
    rejected = reference.recall_score(labels != 0, chosen != 0)
    assert found["specificity"].estimate == pytest.approx(rejected)
    precision = reference.average_precision_score(labels == 0, rows.probabilities[:, 0])
    assert found["averagePrecision"].estimate == pytest.approx(precision)
    if classes == 2:
        area = reference.roc_auc_score(labels == 0, rows.probabilities[:, 0])
    else:
        area = reference.roc_auc_score(
            labels, rows.probabilities, multi_class="ovr", average="weighted"
        )
    assert found["rocAuc"].estimate == pytest.approx(area)


def test_auc_of_two_distinct_ties():
    """Scores 1, 1, 2 with labels 0, 1, 1: one pair tied, one won, so 3/4."""
    area = figures.roc_auc(
        np.array([False, True, True]), np.array([1.0, 1.0, 2.0]), np.ones((1, 3))
    )
    assert area[0] == pytest.approx(0.75)


def test_wilson_matches_a_published_example():
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662."""
    figure = figures.wilson(81, 263)
    assert (figure.lower, figure.upper) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert (figures.wilson(0, 119).lower, figures.wilson(119, 119).upper) == (0, 1)


def test_brier_and_calibration_of_a_known_table():
    """Four rows said 0.8 and three were right: gap 0.05; squared errors 2 x 0.04 and 2 x 0.64."""
    probabilities = np.array([[0.8, 0.2]] * 4)
    found = calibration(Scored(np.array([0, 0, 0, 1]), probabilities, 0))
    assert found["ece"].estimate == pytest.approx(0.05)
    assert found["brier"].estimate == pytest.approx((3 * 0.08 + 1.28) / 4)


def test_a_bootstrap_interval_holds_its_estimate_and_narrows():
    small, large = figures.utility(scored(rows=80)), figures.utility(scored(rows=1500))
    for name, figure in large.items():
        assert figure.lower <= figure.estimate <= figure.upper, name
        assert figure.upper - figure.lower < small[name].upper - small[name].lower, name


def test_one_class_gives_no_area():
    rows = Scored(np.zeros(5, dtype=np.int64), np.array([[0.9, 0.1]] * 5), 0)
    assert np.isnan(figures.utility(rows)["rocAuc"].estimate)


def test_rows_of_one_unit_are_drawn_together():
    """Every row three times over tells no more about units than once: the interval stays."""
    once = scored(rows=200)
    rows = np.repeat(np.arange(200), 3)
    thrice = Scored(once.labels[rows], once.probabilities[rows], 0, rows)
    alone = Scored(once.labels[rows], once.probabilities[rows], 0)
    wide, narrow = figures.utility(thrice), figures.utility(alone)
    for name, figure in figures.utility(once).items():
        assert wide[name].estimate == pytest.approx(figure.estimate), name
        width = figure.upper - figure.lower
        assert wide[name].upper - wide[name].lower == pytest.approx(width, rel=0.2), name
        assert narrow[name].upper - narrow[name].lower < 0.75 * width, name


def test_an_answer_that_is_always_the_same_is_not_certain():
    """Two rows a unit, all said to be sick: no resample of the sick differs, and yet 25 are few."""
    labels = np.repeat([0, 1], [10, 50])
    units = np.arange(60) // 2
    always = np.tile([0.1, 0.9], (60, 1))
    found = figures.utility(Scored(labels, always, 1, units))
    assert found["sensitivity"] == figures.wilson(25, 25)
    assert found["specificity"] == figures.wilson(0, 5)
    accuracy = found["accuracy"]
    assert accuracy.lower < accuracy.estimate - 0.05 < accuracy.estimate + 0.05 < accuracy.upper


def test_every_class_of_several_has_its_own_sensitivity():
    rows = scored(classes=3)
    found = subgroups.each_class(rows, ["none", "mild", "severe"])["classes"]
    for number, name in enumerate(["none", "mild", "severe"]):
        said, true = rows.predictions == number, rows.labels == number
        recall = reference.recall_score(true, said)
        assert float(found[name]["sensitivity"]["estimate"]) == pytest.approx(recall)
        rejected = reference.recall_score(~true, ~said)
        assert float(found[name]["specificity"]["estimate"]) == pytest.approx(rejected)


def test_a_class_that_few_have_is_masked_and_two_classes_have_one_positive():
    few = np.repeat([0, 1, 2], [29, 60, 60])
    rows = Scored(few, np.eye(3)[few] * 0.7 + 0.1, 0)
    found = subgroups.each_class(rows, ["a", "b", "c"])["classes"]
    assert found["a"] == {"masked": "fewer than 30"}
    assert float(found["b"]["sensitivity"]["estimate"]) == 1
    assert subgroups.each_class(scored(), ["no", "yes"]) == {}


def test_intervals_cover():
    """The bootstrap's interval of a share over units holds the truth about 19 times of 20."""
    generator = np.random.default_rng(7)
    held = 0
    for _ in range(60):
        units = np.repeat(np.arange(100), 2)
        right = np.repeat(generator.random(100) < 0.8, 2)
        probabilities = np.where(right[:, None], [[0.9, 0.1]], [[0.1, 0.9]])
        labels = np.zeros(200, dtype=np.int64)
        rows = Scored(labels, probabilities, 0, units)
        found = figures.one_against_the_rest(rows, 0)["sensitivity"]
        held += found.lower <= 0.8 <= found.upper
    assert 51 <= held <= 60
