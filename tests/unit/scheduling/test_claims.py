"""Claims and selectors."""

from __future__ import annotations

import math

import pytest
from scheduling_instances import SHAPES, block, charge

from primum.domain.accounting.charges import Charge
from primum.domain.errors import InvalidValue, NotFound
from primum.domain.scheduling.blocks import Block, Extent
from primum.domain.scheduling.claims import Claim, Selector
from primum.domain.scheduling.tables import BlockTable, ClaimTable

ONE = charge(SHAPES[0], [1])


def days(cohort="adults", site="north", count=3):
    return [
        Block.new(
            block_id=f"{cohort}-{site}-{day}",
            extent=Extent(cohort, site, day * 10, day * 10 + 10),
            shape=SHAPES[0],
            capacity=charge(SHAPES[0], [100]),
        )
        for day in range(count)
    ]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 10, [0]),
        (9, 10, [0]),
        (9, 11, [0, 1]),
        (10, 20, [1]),
        (5, None, [0, 1, 2]),
        (None, 1, [0]),
    ],
)
def test_time_is_rounded_outwards_to_whole_blocks(start, end, expected):
    chosen = Selector(start=start, end=end).choose(days())
    assert [b.extent.start // 10 for b in chosen] == expected


def test_selector_by_cohort_and_site():
    blocks = days() + days(cohort="children") + days(site="south")
    assert len(Selector(cohorts=("adults",), sites=("south",)).choose(blocks)) == 3
    assert len(Selector(sites=("north", "south")).choose(blocks)) == 9


@pytest.mark.parametrize(
    "selector",
    [
        Selector(start=30),
        Selector(cohorts=("nobody",)),
        Selector(cohorts=("adults", "nobody")),
        Selector(sites=("north", "elsewhere")),
    ],
)
def test_an_empty_match_is_an_error_and_so_is_a_name_without_one(selector):
    with pytest.raises(NotFound, match="must match a block"):
        selector.choose(days())


def test_claim_on_chosen_blocks():
    claim = Claim.on(days(count=2), ONE, claim_id="c", arrival=7, deadline=9, owner="ann")
    assert set(claim.by_block) == {"adults-north-0", "adults-north-1"}
    assert not claim.expired(9)
    assert claim.expired(10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Claim("c", 0, ()),
        lambda: Claim("c", 0, (("b", ONE), ("b", ONE))),
        lambda: Claim("c", 0, (("b", ONE),), weight=0),
        lambda: Claim("c", 0, (("b", ONE),), weight=math.nan),
        lambda: Claim("c", 0, (("b", Charge((("a", -1),))),)),
        lambda: Selector(start=3, end=3),
    ],
)
def test_bad_claims_are_refused(make):
    with pytest.raises(InvalidValue):
        make()


def test_tables_refuse_unknown_blocks_and_double_ids():
    table = BlockTable.of([block("b", SHAPES[0], [9])])
    with pytest.raises(NotFound, match="block other does not exist"):
        ClaimTable.of([Claim("c", 0, (("other", ONE),))], table)
    with pytest.raises(InvalidValue, match="each id once"):
        ClaimTable.of([Claim("c", 0, (("b", ONE),))] * 2, table)
    with pytest.raises(InvalidValue, match="each id once"):
        BlockTable.of([block("b", SHAPES[0], [9])] * 2)
    with pytest.raises(InvalidValue, match="must share the filter"):
        BlockTable.of([block("b", SHAPES[0], [9]), block("c", SHAPES[1], [9, 9])])
