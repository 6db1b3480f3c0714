"""Are figures of several labels those of each label by itself, and masked where they are few?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from primum_pipelines.evaluation import figures, several_labels
from primum_pipelines.evaluation.several_labels import Answers

NAMES = ("edema", "effusion", "fracture")


def estimate(figure):
    return float(figure["estimate"])


@pytest.fixture
def answers():
    """Edema is seen, effusion is guessed, fractures are three."""
    draw = np.random.default_rng(6)
    labels = np.stack([np.arange(200) % 2, draw.integers(0, 2, 200), np.arange(200) < 3], axis=1)
    stated = np.stack(
        [np.where(labels[:, 0] == 1, 0.8, 0.1), draw.uniform(size=200), np.full(200, 0.1)], axis=1
    )
    return Answers(labels.astype(np.uint8), stated, np.array([f"u{n}" for n in range(200)]))


def test_each_label_has_its_own_area_and_rates(answers):
    found = several_labels.utility(answers, NAMES)
    edema = found["labels"]["edema"]
    assert [estimate(edema[name]) for name in ("rocAuc", "sensitivity", "specificity")] == [1, 1, 1]
    effusion = found["labels"]["effusion"]
    ones = np.ones((1, 200))
    area = figures.roc_auc(answers.labels[:, 1] == 1, answers.probabilities[:, 1], ones)
    assert estimate(effusion["rocAuc"]) == pytest.approx(float(area[0]), abs=1e-6)
    right = (answers.probabilities >= 0.5) == (answers.labels == 1)
    assert estimate(found["accuracy"]) == pytest.approx(right.mean(), abs=1e-6)
    assert estimate(found["exactMatch"]) == pytest.approx(right.all(axis=1).mean(), abs=1e-6)


def test_a_rare_label_is_masked_and_not_in_the_means(answers):
    found = several_labels.utility(answers, NAMES)
    assert found["labels"]["fracture"] == {"masked": "fewer than 30"}
    parts = [estimate(found["labels"][name]["rocAuc"]) for name in NAMES[:2]]
    assert estimate(found["rocAuc"]) == pytest.approx(sum(parts) / 2, abs=1e-6)
    often = answers.labels[:, :2].sum(axis=0)
    weighted = float(np.array(parts) @ often / often.sum())
    assert estimate(found["weightedRocAuc"]) == pytest.approx(weighted, abs=1e-6)


def test_nothing_is_measured_of_labels_that_are_all_rare(answers):
    few = Answers(answers.labels[:40], answers.probabilities[:40], answers.units[:40])
    found = several_labels.utility(few, NAMES)
    assert found["rocAuc"]["estimate"] == "nan"
    assert found["accuracy"]["estimate"] != "nan"


def test_many_images_of_a_patient_are_one(answers):
    """Every second image has edema, and all of those are of one patient."""
    owners = np.where(answers.labels[:, 0] == 1, "u0", answers.units)
    found = several_labels.utility(replace(answers, units=owners), NAMES)
    assert found["labels"]["edema"] == {"masked": "fewer than 30"}


def test_calibration_of_a_label_by_hand(answers):
    """Where 0.8 and 0.1 are stated of what always and never is, the error is 0.2 and 0.1."""
    found = several_labels.calibration(answers, NAMES)
    edema = found["labels"]["edema"]
    assert estimate(edema["ece"]) == pytest.approx(0.15)
    assert estimate(edema["brier"]) == pytest.approx((0.04 + 0.01) / 2)
    assert found["labels"]["fracture"] == {"masked": "fewer than 30"}


def test_groups_are_compared_by_their_mean_area(answers):
    blind = answers.probabilities.copy()
    blind[100:, 0] = 0.5
    seen = Answers(answers.labels, blind, answers.units)
    found = several_labels.fairness(seen, {"ward": np.repeat([0, 1], 100)})["ward"]
    assert estimate(found["1"]["rocAucDifference"]) < -0.1
    assert found["gap"]["rocAuc"]["estimate"] != "nan"
