"""Is a unit kept whole, bounded by itself alone, and counted as one?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.domain.errors import InvalidValue
from primum_pipelines.datasets.driver import examples_max, in_train_split, known_options
from primum_pipelines.datasets.table import UnitTable
from primum_pipelines.datasets.units import UnitRows, by_unit, one_row_each, unit_rows

OWNERS = st.lists(st.integers(0, 6), min_size=1, max_size=30)


def table_of(owners, values=None, *, train=None, blocks=None):
    units = np.array([f"u{owner}" for owner in owners])
    values = range(len(owners)) if values is None else values
    return UnitTable(
        features=np.array([[value] for value in values], dtype=np.float32),
        labels=np.zeros(len(owners), dtype=np.int64),
        units=units,
        train=np.array([in_train_split(str(u)) for u in units]) if train is None else train,
        classes=("a", "b"),
        blocks=blocks,
    )


def content(table):
    return {(str(u), float(x)) for u, x in zip(table.units, table.features[:, 0], strict=True)}


@given(OWNERS, st.integers(1, 4))
def test_rows_are_grouped_and_bounded(owners, bound):
    table = by_unit(table_of(owners), examples_max=bound)
    rows = unit_rows(table.units)
    sizes = {u: min(bound, owners.count(u)) for u in set(owners)}
    assert rows.count == len(sizes)
    assert sorted(rows.sizes.tolist()) == sorted(sizes.values())


@given(OWNERS, st.integers(1, 4), st.randoms(use_true_random=False))
def test_the_choice_ignores_the_order_of_the_file(owners, bound, random):
    order = list(range(len(owners)))
    random.shuffle(order)
    first = by_unit(table_of(owners), examples_max=bound)
    again = by_unit(table_of([owners[i] for i in order], order), examples_max=bound)
    assert content(first) == content(again)


@given(OWNERS, st.integers(1, 4), st.integers(0, 6))
def test_removing_a_unit_changes_no_other(owners, bound, gone):
    """Add-or-remove-one over units: neighboring files give neighboring tables."""
    rows = [i for i, owner in enumerate(owners) if owner != gone]
    if not rows:
        return
    before = by_unit(table_of(owners), examples_max=bound)
    after = by_unit(table_of([owners[i] for i in rows], rows), examples_max=bound)
    assert content(after) == {item for item in content(before) if item[0] != f"u{gone}"}


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.data())
def test_rows_of_units_are_theirs(sizes, data):
    rows = UnitRows(np.concatenate([[0], np.cumsum(sizes)]))
    wanted = data.draw(st.lists(st.integers(0, len(sizes) - 1), unique=True))
    found = rows.rows_of(np.array(wanted, dtype=np.int64))
    expected = [row for u in wanted for row in np.flatnonzero(rows.owners == u).tolist()]
    assert found.tolist() == expected


def test_singles_come_after_the_units():
    rows = UnitRows(np.array([0, 2, 3])).with_singles(2)
    assert rows.offsets.tolist() == [0, 2, 3, 4, 5]
    assert rows.sizes.tolist() == [2, 1, 1, 1]
    assert one_row_each(3).owners.tolist() == [0, 1, 2]


@pytest.mark.parametrize("offsets", [[], [1, 2], [0, 2, 2], [0, 3, 1]])
def test_offsets_that_describe_no_units_are_refused(offsets):
    with pytest.raises(InvalidValue, match="offsets"):
        UnitRows(np.array(offsets, dtype=np.int64))


def test_a_structure_says_nothing_about_units():
    assert repr(UnitRows(np.array([0, 7]))) == "UnitRows()"


def test_rows_that_do_not_lie_side_by_side_are_refused():
    with pytest.raises(InvalidValue, match="side by side"):
        unit_rows(np.array(["a", "b", "a"]))


def test_an_empty_table_has_no_units():
    assert unit_rows(np.array([], dtype=str)).count == 0


def test_a_unit_on_both_sides_is_refused():
    with pytest.raises(InvalidValue, match="each unit on one side"):
        by_unit(table_of([1, 1], train=np.array([True, False])), examples_max=2)


def test_a_unit_in_two_blocks_is_refused():
    with pytest.raises(InvalidValue, match="each unit in one block"):
        by_unit(table_of([1, 1], blocks=np.array(["x", "y"])), examples_max=2)


@pytest.mark.parametrize("value", [0, 1001, "2", True, 1.5])
def test_a_bound_is_a_whole_number(value):
    with pytest.raises(InvalidValue, match="maxExamplesPerUnit"):
        examples_max({"maxExamplesPerUnit": value})


def test_every_driver_takes_the_bound():
    known_options({"maxExamplesPerUnit": 2}, ())
    assert examples_max({}) is None
