"""Do groups get their own figures, the right differences, and no number where they are small?"""

from __future__ import annotations

import numpy as np
import pytest

from primum_pipelines.evaluation.figures import Scored
from primum_pipelines.evaluation.subgroups import fairness

MASKED = {"masked": "fewer than 30"}


def answers(labels, said):
    return Scored(np.array(labels), np.where(np.array(said)[:, None] == [[0, 1]], 0.9, 0.1), 1)


def three_groups():
    """Accuracies 1.0 (40 rows), 0.5 (60) and 0.75 (100)."""
    labels = np.tile([0, 1], 100)
    said, numbers = labels.copy(), np.repeat([0, 1, 2], [40, 60, 100])
    said[40:70] = 1 - said[40:70]
    said[100:125] = 1 - said[100:125]
    return answers(labels, said), {"ward": numbers}


def test_a_group_is_compared_with_the_weighted_mean_of_the_others():
    found = fairness(*three_groups())["ward"]
    assert float(found["0"]["accuracy"]["estimate"]) == 1
    assert float(found["0"]["accuracyDifference"]["estimate"]) == pytest.approx(
        1 - (60 * 0.5 + 100 * 0.75) / 160
    )
    assert float(found["1"]["accuracyDifference"]["estimate"]) == pytest.approx(
        0.5 - (40 + 75) / 140, abs=1e-6
    )
    assert float(found["0"]["sampleRatio"]) == 4
    assert float(found["gap"]["accuracy"]["estimate"]) == 0.5


def test_differences_have_intervals_that_hold_them():
    for entry in (fairness(*three_groups())["ward"][n] for n in "012"):
        shown = entry["accuracyDifference"]
        assert float(shown["lower"]) <= float(shown["estimate"]) <= float(shown["upper"])


def test_parity_and_opportunity_have_their_own_names():
    """Group 0 is always called positive, group 1 never; both have the same labels."""
    labels = np.tile([0, 1], 40)
    said = np.repeat([1, 0], 40)
    found = fairness(answers(labels, said), {"sex": np.repeat([0, 1], 40)})["sex"]
    assert float(found["0"]["statisticalParityDifference"]["estimate"]) == 1
    assert float(found["0"]["equalOpportunityDifference"]["estimate"]) == 1
    assert float(found["0"]["accuracyDifference"]["estimate"]) == 0


def test_small_groups_are_masked():
    scored = answers(np.tile([0, 1], 50), np.tile([0, 1], 50))
    found = fairness(scored, {"sex": np.array([0] * 71 + [1] * 29), "site": np.array([0, 1] * 50)})
    alone = {"masked": "no other group has 30"}
    assert found["sex"] == {"0": alone, "1": MASKED}, "one group alone has nothing beside it"
    assert found["site"]["0"] != MASKED
    mixed = fairness(scored, {"ward": np.array([0] * 35 + [1] * 36 + [2] * 29)})["ward"]
    assert mixed["2"] == MASKED
    assert set(mixed) == {"0", "1", "2", "gap"}


def test_a_rate_of_a_group_that_is_all_or_nothing_is_not_certain():
    scored = answers(np.tile([0, 1], 50), np.ones(100, dtype=np.int64))
    found = fairness(scored, {"site": np.repeat([0, 1], 50)})["site"]["0"]
    sensitivity = {name: float(value) for name, value in found["sensitivity"].items()}
    assert sensitivity["estimate"] == sensitivity["upper"] == 1
    assert 0.8 < sensitivity["lower"] < 0.9, "Wilson's of 25 of 25"
    assert found["specificity"]["lower"] == "0"
    assert float(found["specificity"]["upper"]) > 0.1


def test_a_group_without_a_class_has_no_area():
    labels = np.concatenate([np.zeros(40, dtype=np.int64), np.tile([0, 1], 20)])
    found = fairness(answers(labels, labels), {"ward": np.repeat([0, 1], 40)})["ward"]
    assert found["0"]["rocAuc"]["estimate"] == "nan"
    assert float(found["1"]["rocAuc"]["estimate"]) == 1
