"""Claims and tables of them."""

from __future__ import annotations

import math

import pytest
from scheduling_instances import SHAPES, block, charge

from primum.domain.accounting.charges import Charge
from primum.domain.errors import InvalidValue, NotFound
from primum.domain.scheduling.claims import Claim
from primum.domain.scheduling.tables import BlockTable, ClaimTable

ONE = charge(SHAPES[0], [1])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Claim("c", 0, ()),
        lambda: Claim("c", 0, (("b", ONE), ("b", ONE))),
        lambda: Claim("c", 0, (("b", ONE),), weight=0),
        lambda: Claim("c", 0, (("b", ONE),), weight=math.nan),
        lambda: Claim("c", 0, (("b", Charge((("a", -1),))),)),
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
