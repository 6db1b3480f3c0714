"""Do the standing expectations hold for sound volumes, labels and masks, and for no others?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from primum_pipelines.datasets.table import LabelTask, UnitTable
from primum_pipelines.steps.validate import check_table

VOLUMES = UnitTable(
    features=np.full((4, 1, 2, 3, 3), 0.5, dtype=np.float32),
    labels=np.array([0, 1, 0, 1]),
    units=np.array(["a", "b", "c", "d"]),
    train=np.array([True, True, False, False]),
    classes=("no", "yes"),
)
LABELED = replace(
    VOLUMES, labels=np.array([[0, 1]] * 4, dtype=np.uint8), task=LabelTask.MULTI_LABEL
)
MASKED = replace(
    VOLUMES, labels=np.zeros((4, 2, 3, 3), dtype=np.uint8), task=LabelTask.SEGMENTATION
)


def broken(table):
    return [(check.type, check.column) for check in check_table(table, ()) if not check.held]


@pytest.mark.parametrize("table", [VOLUMES, LABELED, MASKED], ids=["volumes", "labels", "masks"])
def test_a_sound_table_holds(table):
    assert broken(table) == []


def test_a_wrong_label_and_a_wrong_mask_are_found():
    labels = LABELED.labels.copy()
    labels[2, 1] = 7
    assert broken(replace(LABELED, labels=labels)) == [("ExpectColumnValuesToBeInSet", "label.yes")]
    masks = MASKED.labels.copy()
    masks[1, 0, 0, 0] = 2
    found = broken(replace(MASKED, labels=masks))
    assert ("ExpectColumnValuesToNotBeNull", "label") in found


def test_voxels_outside_their_range_are_found():
    features = VOLUMES.features.copy()
    features[0] += 2
    assert ("ExpectColumnValuesToBeBetween", "mean") in broken(replace(VOLUMES, features=features))
