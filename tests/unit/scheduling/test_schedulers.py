"""What the schedulers decide on instances small enough to see why."""

from __future__ import annotations

import pytest
from scheduling_instances import SHAPES, block, charge, packed

from primum.domain.errors import InvalidValue
from primum.domain.scheduling.claims import Claim
from primum.domain.scheduling.schedulers import (
    DPF,
    DPack,
    DualPrices,
    FirstComeFirstServed,
    schedule,
)

SCALAR, BOTH, ORDERS = SHAPES[0], SHAPES[1], SHAPES[2]


def claim(name, arrival, shape=SCALAR, weight=1.0, **demands):
    return Claim(
        name, arrival, tuple((b, charge(shape, row)) for b, row in demands.items()), weight
    )


def grants(scheduler, blocks, claims):
    return set(schedule(scheduler, *packed(blocks, claims)).grants)


def test_first_come_first_served_skips_what_does_not_fit():
    blocks = [block("b", SCALAR, [10])]
    claims = [claim("x", 2, b=[2]), claim("y", 0, b=[9]), claim("z", 1, b=[3])]
    assert grants(FirstComeFirstServed(), blocks, claims) == {"y"}
    assert grants(DPF(), blocks, claims) == {"x", "z"}


def test_dpf_breaks_ties_by_the_second_largest_share():
    # Both have dominant share 0.6 on the first block; only one can have it.
    blocks = [block("b", SCALAR, [10]), block("c", SCALAR, [10])]
    claims = [claim("x", 0, b=[6], c=[5]), claim("y", 1, b=[6], c=[2])]
    assert grants(DPF(), blocks, claims) == {"y"}


def test_dpf_breaks_full_ties_by_weight_then_arrival_then_id():
    blocks = [block("b", SCALAR, [10])]
    assert grants(DPF(), blocks, [claim("x", 0, b=[6]), claim("y", 1, weight=2, b=[6])]) == {"y"}
    assert grants(DPF(), blocks, [claim("y", 0, b=[6]), claim("x", 1, b=[6])]) == {"y"}
    assert grants(DPF(), blocks, [claim("y", 0, b=[6]), claim("x", 0, b=[6])]) == {"x"}


def test_dpf_leaves_orders_without_capacity_out_of_the_share():
    # x asks for much at an order that can never certify; that must not put it behind y (trap T8).
    blocks = [block("b", ORDERS, [10, 10, 0])]
    claims = [claim("x", 0, ORDERS, b=[4, 4, 99]), claim("y", 0, ORDERS, b=[7, 7, 0])]
    assert grants(DPF(), blocks, claims) == {"x"}


def test_an_order_may_be_overdrawn_while_another_certifies():
    blocks = [block("b", ORDERS, [10, 10, 10])]
    claims = [claim("x", 0, ORDERS, b=[9, 2, 9]), claim("y", 1, ORDERS, b=[9, 2, 9])]
    assert grants(FirstComeFirstServed(), blocks, claims) == {"x", "y"}
    # Nothing certifies at the first or the last order any more.
    late = claim("z", 2, ORDERS, b=[1, 7, 1])
    assert grants(FirstComeFirstServed(), blocks, [*claims, late]) == {"x", "y"}


def test_keys_that_must_fit_together():
    blocks = [block("b", BOTH, [10, 1])]
    claims = [claim("x", 0, BOTH, b=[1, 1]), claim("y", 1, BOTH, b=[1, 1])]
    assert grants(FirstComeFirstServed(), blocks, claims) == {"x"}


def test_dpack_prefers_claims_on_blocks_without_contention():
    # Under DPF the wide claim comes first; it costs two of the contended grants.
    blocks = [block("b", SCALAR, [10]), block("c", SCALAR, [10])]
    claims = [claim("wide", 0, b=[5], c=[5])]
    claims += [claim(f"b{n}", 1, b=[5]) for n in range(2)]
    claims += [claim(f"c{n}", 1, c=[5]) for n in range(2)]
    assert grants(FirstComeFirstServed(), blocks, claims) == {"wide", "b0", "c0"}
    assert grants(DPack(every=1), blocks, claims) == {"b0", "b1", "c0", "c1"}
    assert grants(DualPrices(), blocks, claims) == {"b0", "b1", "c0", "c1"}


def test_dpack_bets_on_the_key_with_most_value():
    # At the first key two small claims fit, at the second three others: it bets on three.
    blocks = [block("b", ORDERS, [10, 10, 0])]
    claims = [claim(f"first{n}", 0, ORDERS, b=[5, 90, 1]) for n in range(2)]
    claims += [claim(f"second{n}", 0, ORDERS, b=[9, 3, 1]) for n in range(3)]
    assert grants(DPack(), blocks, claims) == {"second0", "second1", "second2"}


def test_no_efficiency_is_dpf_and_the_bound_is_reported():
    blocks = [block("b", SCALAR, [10])]
    claims = [claim("heavy", 0, weight=9, b=[8]), claim("x", 0, b=[3]), claim("y", 0, b=[3])]
    fair = schedule(DualPrices(efficiency=0.0), *packed(blocks, claims))
    assert set(fair.grants) == grants(DPF(), blocks, claims) == {"x", "y"}
    best = schedule(DualPrices(efficiency=1.0), *packed(blocks, claims))
    assert (best.grants, best.weight) == (("heavy",), 9.0)
    # Fractionally: all of heavy and two thirds of a small one; whole weights round down.
    assert best.upper_bound == fair.upper_bound == 9.0
    assert best.gap == 0
    assert fair.gap == pytest.approx(1 - 2 / 9)


def test_half_efficiency_shares_the_room():
    blocks = [block("b", SCALAR, [20])]
    claims = [claim("heavy", 0, weight=9, b=[10])] + [claim(f"s{n}", 0, b=[5]) for n in range(4)]
    assert grants(DualPrices(efficiency=0.5), blocks, claims) >= {"heavy"}
    decided = schedule(DualPrices(efficiency=0.5), *packed(blocks, claims))
    assert len(decided.grants) == 3
    assert decided.utilization == 1.0


def test_nothing_fits():
    decided = schedule(DualPrices(), *packed([block("b", SCALAR, [1])], [claim("x", 0, b=[2])]))
    assert (decided.grants, decided.upper_bound, decided.gap) == ((), 0.0, 0.0)


@pytest.mark.parametrize(
    "make",
    [lambda: DPack(every=0), lambda: DualPrices(efficiency=1.5), lambda: DualPrices(passes=-1)],
)
def test_bad_parameters_are_refused(make):
    with pytest.raises(InvalidValue):
        make()
