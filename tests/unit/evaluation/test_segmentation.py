"""Are figures of masks those of the textbook, by unit, and of each class?"""

from __future__ import annotations

import numpy as np
import pytest

from primum_pipelines.evaluation import segmentation
from primum_pipelines.evaluation.segmentation import Overlaps, overlaps

CLASSES = ("background", "edema", "tumor")
MASKED = {"masked": "fewer than 30"}


def counted(said, true, units=None):
    said, true = np.array(said, np.uint8), np.array(true, np.uint8)
    owners = np.arange(len(said)) if units is None else units
    names = np.array([f"u{owner}" for owner in owners])
    return Overlaps(*overlaps(said, true, classes=3), names)


def estimate(figure):
    return float(figure["estimate"])


def test_dice_and_intersection_of_a_hand_made_mask():
    """Edema: 2 of 3 said and 4 true are right; Dice 4/7, intersection over union 2/5."""
    said = [[[1, 1, 1, 0], [0, 0, 0, 2]]]
    true = [[[1, 1, 0, 0], [1, 1, 0, 2]]]
    found = segmentation.utility(counted(said, true), CLASSES)
    edema = found["classes"]["edema"]
    assert estimate(edema["dice"]) == pytest.approx(4 / 7, abs=1e-6)
    assert estimate(edema["iou"]) == pytest.approx(2 / 5)
    assert estimate(found["dice"]) == pytest.approx((4 / 7 + 1) / 2, abs=1e-6)
    assert estimate(found["accuracy"]) == pytest.approx(5 / 8)
    assert "background" not in found["classes"]


def test_slices_of_a_patient_are_one_patient():
    """Pixels are counted together, so a slice without a lesion neither counts as 0 nor as 1."""
    said = [[[1, 1, 0, 0]], [[0, 0, 0, 0]], [[1, 0, 0, 0]]]
    true = [[[1, 1, 1, 1]], [[0, 0, 0, 0]], [[1, 0, 0, 0]]]
    found = segmentation.utility(counted(said, true, units=[7, 7, 8]), CLASSES)
    assert estimate(found["dice"]) == pytest.approx((2 * 2 / 6 + 1) / 2, abs=1e-6)


def test_a_class_that_is_nowhere_has_no_value():
    none = segmentation.utility(counted([[[0, 1]]], [[[0, 1]]]), CLASSES)
    assert none["classes"]["tumor"] == MASKED
    assert estimate(none["dice"]) == 1


def test_a_class_that_one_patient_has_is_neither_shown_nor_in_the_means():
    """However many slices of it there are, and however often the model says so of others."""
    true = np.ones((120, 1, 4), np.uint8)
    said = true.copy()
    true[:80, :, 3], said[:, :, 3] = 2, 2
    owners = [0] * 80 + list(range(1, 41))
    found = segmentation.utility(counted(said, true, owners), CLASSES)
    assert found["classes"]["tumor"] == MASKED
    assert found["dice"] == found["classes"]["edema"]["dice"]
    groups = {"ward": np.repeat([0, 1], [80, 40])}
    assert segmentation.fairness(counted(said, true, owners), groups)["ward"]["0"] == MASKED


def test_intervals_are_as_wide_as_there_are_patients():
    draw = np.random.default_rng(4)
    true = np.ones((40, 1, 10), np.uint8)
    said = (draw.random((40, 1, 10)) < 0.7).astype(np.uint8)
    once = segmentation.utility(counted(said, true), CLASSES)["iou"]
    owners = np.repeat(np.arange(40), 5)
    copies = counted(np.repeat(said, 5, axis=0), np.repeat(true, 5, axis=0), owners)
    several = segmentation.utility(copies, CLASSES)["iou"]
    assert several == once
    assert float(once["lower"]) < estimate(once) < float(once["upper"])


def test_groups_are_compared_by_dice():
    true = np.ones((80, 1, 4), np.uint8)
    said = true.copy()
    said[40:, :, :2] = 0
    sexes = np.repeat([0, 1], 40)
    found = segmentation.fairness(counted(said, true), {"sex": sexes})["sex"]
    assert estimate(found["1"]["diceDifference"]) == pytest.approx(2 * 2 / 6 - 1, abs=1e-6)
    assert estimate(found["gap"]["iou"]) == pytest.approx(0.5)
