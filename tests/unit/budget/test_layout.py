"""Is every unit in exactly one block, and is every selection rounded outwards and never empty?"""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.domain.budget.layout import (
    BLOCKS_MAX,
    BlockLayout,
    BlockSelection,
    Division,
    Period,
    layout_from_json,
)
from primum.domain.errors import InvalidValue

WARDS = BlockLayout(by=Division.COHORT, column="ward", values=("surgery", "icu"))


def day(text):
    return datetime.date.fromisoformat(text)


def by_time(period=Period.MONTH, start="2026-01-15", end=None):
    ending = None if end is None else day(end)
    return BlockLayout(
        by=Division.TIME, column="admitted", period=period, start=day(start), end=ending
    )


DAYS = st.dates(day("2024-01-01"), day("2027-12-31"))
PERIODS = st.sampled_from(Period)


@given(PERIODS, DAYS, DAYS)
def test_every_day_since_the_start_is_in_exactly_one_block(period, first, today):
    layout = by_time(period, start="2024-01-01")
    blocks = layout.blocks_until(today)
    assert len(set(blocks)) == len(blocks)
    if first <= today:
        assert layout.block_of(first.isoformat()) in blocks
        assert layout.block_of(first.isoformat()) == layout.block_of_day(first)


@given(PERIODS, DAYS)
def test_blocks_sort_as_text_in_the_order_of_time(period, today):
    blocks = by_time(period, start="2024-01-01").blocks_until(today)
    assert list(blocks) == sorted(blocks)


@given(PERIODS, DAYS, DAYS)
def test_a_later_day_only_adds_blocks(period, one, other):
    layout = by_time(period, start="2024-01-01")
    early, late = (layout.blocks_until(today) for today in sorted((one, other)))
    assert late[: len(early)] == early


@given(PERIODS, DAYS, st.integers(1, 500))
def test_a_selection_holds_the_block_of_every_day_that_was_wanted(period, start, length):
    """Rounding outwards: who reads part of a block pays for the block."""
    layout = by_time(period, start="2024-01-01")
    end = start + datetime.timedelta(days=length)
    blocks = layout.blocks_until(day("2029-12-31"))
    chosen = layout.choose(BlockSelection(start=start, end=end), blocks)
    inside = {layout.block_of_day(start + datetime.timedelta(days=n)) for n in range(length)}
    assert set(chosen) == inside
    assert list(chosen) == sorted(chosen)


@pytest.mark.parametrize(
    ("period", "block"),
    [
        (Period.DAY, "2026-08-30"),
        (Period.WEEK, "2026-W35"),
        (Period.MONTH, "2026-08"),
        (Period.QUARTER, "2026-Q3"),
        (Period.YEAR, "2026"),
    ],
)
def test_blocks_are_named_as_people_name_them(period, block):
    assert by_time(period).block_of("2026-08-30") == block
    assert by_time(period).block_of("2026-08-30T23:59:59+02:00") == block


def test_the_week_of_new_year_belongs_to_one_year():
    layout = by_time(Period.WEEK, start="2024-12-01")
    assert layout.block_of("2024-12-30") == layout.block_of("2025-01-05") == "2025-W01"


def test_a_start_is_rounded_down_and_an_end_up():
    layout = by_time(start="2026-01-15", end="2026-03-02")
    assert layout.blocks_until(day("2026-12-31")) == ("2026-01", "2026-02", "2026-03")
    assert layout.block_of("2026-01-01") == "2026-01"
    assert layout.block_of("2026-03-31") == "2026-03"
    assert layout.block_of("2025-12-31") == layout.block_of("2026-04-01") == ""


@pytest.mark.parametrize("cell", ["", "soon", "2026-13-01", "01.02.2026", "20260", "icu"])
def test_what_is_no_date_has_no_block(cell):
    assert by_time().block_of(cell) == ""


def test_a_cohort_is_found_by_its_exact_name():
    assert WARDS.block_of(" icu ") == "icu"
    assert [WARDS.block_of(cell) for cell in ("ICU", "", "dermatology")] == ["", "", ""]


def test_until_today_leaves_no_block_after_the_one_of_today():
    layout = by_time().until(day("2026-03-10"))
    assert layout.blocks_until(day("2030-01-01")) == ("2026-01", "2026-02", "2026-03")
    assert layout.block_of("2026-03-31") == "2026-03"
    assert layout.block_of("2026-04-01") == ""
    assert by_time().newest(day("2026-03-10")) == "2026-03"
    assert by_time(end="2026-02-01").newest(day("2026-03-10")) == "2026-01"
    assert WARDS.until(day("2026-03-10")) is WARDS
    assert WARDS.newest(day("2026-03-10")) == ""


def test_before_the_first_block_there_is_none():
    with pytest.raises(InvalidValue, match=r"blocks\.start must not lie after today, 2025-12-31"):
        by_time().until(day("2025-12-31"))
    assert by_time().blocks_until(day("2025-12-31")) == ()
    with pytest.raises(InvalidValue, match=r"must match a block that exists.*There is none yet"):
        by_time().choose(BlockSelection(), ())


def test_nothing_chosen_is_all_that_exist():
    assert WARDS.choose(BlockSelection(), ("surgery", "icu")) == ("icu", "surgery")
    assert by_time().choose(BlockSelection(), ("2026-02", "2026-01")) == ("2026-01", "2026-02")


@pytest.mark.parametrize(
    ("layout", "selection", "sentence"),
    [
        (WARDS, BlockSelection(("icu", "x")), "blocks.values must be of icu, surgery; found x"),
        (WARDS, BlockSelection(start=day("2026-01-01")), "blocks.from must be absent by Cohort"),
        (by_time(), BlockSelection(("icu",)), "blocks.values must be absent by Time"),
        (
            by_time(),
            BlockSelection(start=day("2027-01-01")),
            "must match a block that exists; an empty match would be a free query; found none. "
            "There are 2026-01, 2026-02.",
        ),
    ],
)
def test_a_selection_that_matches_nothing_is_refused(layout, selection, sentence):
    existing = WARDS.values if layout is WARDS else ("2026-01", "2026-02")
    with pytest.raises(InvalidValue) as caught:
        layout.choose(selection, existing)
    assert sentence in str(caught.value)


def test_a_layout_that_cannot_end_is_stopped():
    layout = by_time(Period.DAY, start="1900-01-01")
    assert len(by_time(Period.DAY, start="2020-01-01").blocks_until(day("2026-01-01"))) < BLOCKS_MAX
    with pytest.raises(InvalidValue, match="at most 4096 blocks"):
        layout.blocks_until(day("2026-01-01"))


@pytest.mark.parametrize(
    "change",
    [
        {"column": ""},
        {"values": ()},
        {"values": ("icu", "icu")},
        {"values": ("whole",)},
        {"values": ("icu ",)},
        {"values": ("a\nb",)},
        {"period": Period.DAY},
        {"end": day("2026-01-01")},
    ],
)
def test_a_wrong_cohort_layout_is_refused(change):
    with pytest.raises(InvalidValue, match=r"^blocks"):
        replace(WARDS, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"period": None},
        {"start": None},
        {"values": ("icu",)},
        {"end": day("2026-01-15")},
        {"start": day("1500-01-01")},
        {"end": day("9999-12-31")},
    ],
)
def test_a_wrong_layout_by_time_is_refused(change):
    with pytest.raises(InvalidValue, match=r"^blocks"):
        replace(by_time(), **change)


@pytest.mark.parametrize("layout", [WARDS, by_time(), by_time(end="2026-07-01")])
def test_a_layout_is_written_and_read_back(layout):
    assert layout_from_json(layout.to_json()) == layout


def test_what_is_fixed_says_how_units_are_placed_and_not_which_blocks_there_are():
    more = replace(WARDS, values=("icu", "surgery", "emergency"))
    assert more.fixed == WARDS.fixed
    assert by_time(end="2026-07-01").fixed == by_time().fixed
    assert by_time(Period.WEEK).fixed != by_time().fixed
    assert replace(WARDS, column="site").fixed != WARDS.fixed
