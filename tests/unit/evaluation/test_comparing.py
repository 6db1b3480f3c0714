"""Are the tests of two models those of the textbook?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from primum.domain.errors import InvalidValue
from primum_pipelines.evaluation import comparing, report
from primum_pipelines.evaluation.comparing import Agreement


def discordant(first, second, both=10):
    right = np.array([True] * first + [False] * second + [True] * both)
    other = np.array([False] * first + [True] * second + [True] * both)
    return comparing.mcnemar(right, other)


def test_few_discordant_rows_are_counted_exactly():
    """5 and 1: twice the chance of at most 1 in 6 fair tosses, 2 x 7 / 64."""
    found = discordant(5, 1)
    assert (found.first_only, found.second_only) == (5, 1)
    assert found.p_value == pytest.approx(14 / 64)


def test_many_discordant_rows_take_the_corrected_chi_square():
    """Agresti's approval ratings: 150 and 86; (|150 - 86| - 1)^2 / 236 = 16.82."""
    found = discordant(150, 86)
    assert found.p_value == pytest.approx(stats.chi2.sf(63**2 / 236, 1))


def test_no_difference_is_no_evidence():
    assert discordant(0, 0).p_value == 1
    assert discordant(12, 12).p_value == 1
    assert discordant(20, 20).p_value == pytest.approx(1, abs=0.2)


def test_the_test_keeps_its_level():
    generator = np.random.default_rng(2)
    called = sum(
        comparing.mcnemar(generator.random(80) < 0.7, generator.random(80) < 0.7).p_value <= 0.05
        for _ in range(400)
    )
    assert called <= 33  # 5 % of 400 is 20; more than 33 is a chance of 1 in 500.


def test_kappa_of_a_hand_made_table():
    """Cohen's 2 x 2: 20, 5, 10, 15 of 50: observed 0.7, expected 0.5, kappa 0.4."""
    first = np.repeat([0, 0, 1, 1], [20, 5, 10, 15])
    second = np.repeat([0, 1, 0, 1], [20, 5, 10, 15])
    found = comparing.cohen_kappa(first, second, classes=2)
    assert found.estimate == pytest.approx(0.4)
    assert found.lower < 0.4 < found.upper
    assert found.upper - found.lower == pytest.approx(2 * 1.96 * 0.127, rel=0.05)


@pytest.mark.parametrize("agreement", list(Agreement))
def test_kappa_agrees_with_an_independent_library(agreement):
    generator = np.random.default_rng(4)
    first = generator.integers(0, 4, 300)
    second = np.clip(first + generator.integers(-1, 2, 300), 0, 3)
    found = comparing.cohen_kappa(first, second, classes=4, agreement=agreement)
    weights = "quadratic" if agreement is Agreement.QUADRATIC else None
    assert found.estimate == pytest.approx(
        reference.cohen_kappa_score(first, second, weights=weights)
    )


def test_kappa_of_one_class_is_undefined():
    same = np.zeros(9, dtype=np.int64)
    assert math.isnan(comparing.cohen_kappa(same, same, classes=2).estimate)


def test_areas_and_their_variance_are_those_of_a_bootstrap():
    generator = np.random.default_rng(5)
    positive = generator.random(400) < 0.4
    good = positive + generator.normal(size=400)
    worse = positive + 2.5 * generator.normal(size=400)
    found = comparing.delong(positive, good, worse)
    gap = reference.roc_auc_score(positive, good) - reference.roc_auc_score(positive, worse)
    assert found.difference.estimate == pytest.approx(gap)
    drawn = []
    for _ in range(150):
        rows = generator.integers(0, 400, 400)
        areas = [reference.roc_auc_score(positive[rows], scores[rows]) for scores in (good, worse)]
        drawn.append(areas[0] - areas[1])
    half = (found.difference.upper - found.difference.lower) / 2
    assert half == pytest.approx(1.96 * np.std(drawn), rel=0.2)
    assert found.p_value < 0.001


def test_areas_of_the_same_scores_do_not_differ():
    positive = np.array([True, False] * 20)
    scores = np.random.default_rng(6).normal(size=40)
    found = comparing.delong(positive, scores, scores)
    assert (found.difference.estimate, found.p_value) == (0, 1)
    assert math.isnan(comparing.delong(np.array([True, False]), scores[:2], scores[:2]).p_value)


def test_many_comparisons_are_paid_for():
    """Holm 1979: 0.01, 0.02, 0.04 of three become 0.03, 0.04, 0.04."""
    adjusted = comparing.holm({"a": 0.01, "c": 0.04, "b": 0.02, "d": math.nan})
    assert [adjusted[name] for name in "abc"] == pytest.approx([0.03, 0.04, 0.04])
    assert math.isnan(adjusted["d"])


def test_correlation_has_fishers_interval():
    x = np.arange(10.0)
    y = x + np.random.default_rng(8).normal(size=10)
    found = comparing.pearson(x, y)
    expected = stats.pearsonr(x, y)
    assert found.estimate == pytest.approx(expected.statistic)
    interval = expected.confidence_interval(0.95)
    assert (found.lower, found.upper) == pytest.approx((interval.low, interval.high))
    assert math.isnan(comparing.pearson([1.0, 2.0, 3.0], [3.0, 5.0, 8.0]).lower)
    assert math.isnan(comparing.pearson([1.0, 1.0], [1.0, 2.0]).estimate)


def test_a_picture_takes_several_studies_at_one_epsilon():
    entries = [
        {"epsilon": "3", "estimate": estimate, "lower": "0.7", "upper": "0.9"}
        for estimate in ("0.84", "0.81", "0.8")
    ]
    found = report.picture({"SmallCNN DPSGD": entries}, figure="rocAuc", form="svg")
    assert found.startswith(b"<")


def test_rows_must_be_the_same():
    with pytest.raises(InvalidValue, match="same for both"):
        comparing.mcnemar(np.array([True]), np.array([True, False]))
