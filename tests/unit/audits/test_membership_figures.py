"""Which subgroup is found best, and what is it called?"""

from __future__ import annotations

import numpy as np
import pytest

from primum_pipelines.audits.membership_figures import worst_subgroup
from primum_pipelines.datasets.table import UnitTable

ENOUGH = 40


def sides(seed):
    """Scores and groups of one side; members of "F" are told from the others, those of "M" not."""
    generator = np.random.default_rng(seed)
    groups = np.array(["F", "M"] * ENOUGH)
    return generator.normal(size=2 * ENOUGH), groups


def test_the_group_that_is_found_best_is_named():
    (present, inside), (absent, outside) = sides(1), sides(2)
    present = present + 3.0 * (inside == "F")
    found = worst_subgroup(present, absent, {"sex": (inside, outside)})
    assert (found["attribute"], found["group"], found["compared"]) == ("sex", "F", 2)
    assert float(found["auc"]["estimate"]) > 0.95


def test_small_groups_are_masked():
    (present, inside), (absent, outside) = sides(1), sides(2)
    few = {"sex": (inside[:20], outside[:20])}
    assert set(worst_subgroup(present[:20], absent[:20], few)) == {"masked"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [(("women", "men"), ["men", "women", "men"]), ((), ["1", "0", "1"])],
    ids=["public names", "numbers"],
)
def test_rows_know_what_their_group_is_called(names, expected):
    table = UnitTable(
        features=np.zeros((3, 1)),
        labels=np.zeros(3, dtype=np.int64),
        units=np.array(["a", "b", "c"]),
        train=np.ones(3, dtype=bool),
        classes=("no", "yes"),
        subgroups={"sex": np.array([1, 0, 1])},
        subgroup_names={"sex": names} if names else {},
    )
    assert table.named_groups("sex").tolist() == expected
