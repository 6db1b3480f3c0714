"""Blocks, unlocking rules, and the shape of a filter."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduling_instances import SHAPES, block, charge, unlocked

from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.charges import NEVER, Charge
from primum.domain.accounting.policies import POLICY_NAMES, policy_named
from primum.domain.errors import InvalidValue
from primum.domain.scheduling.blocks import (
    Block,
    FilterShape,
    Hardening,
    Immediate,
    PerClaim,
    PerTime,
    Rounds,
)

GUARANTEE = Guarantee(Decimal(8), Decimal("1E-5"))


@pytest.mark.parametrize("name", POLICY_NAMES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_shape_has_room_exactly_where_the_policy_admits(name, data):
    policy = policy_named(name)
    shape, capacity = FilterShape.of(policy), policy.capacity(GUARANTEE)
    parts = data.draw(
        st.lists(st.integers(0, 12), min_size=len(shape.keys), max_size=len(shape.keys))
    )
    used = Charge(
        tuple((k, max(a, 0) * p // 10) for (k, a), p in zip(capacity.amounts, parts, strict=True))
    )
    nothing = Charge(tuple((key, 0) for key in shape.keys))
    left = np.array([r - u for (_, r), (_, u) in zip(capacity.amounts, used.amounts, strict=True)])
    admits = policy.admits(capacity=capacity, used=used, request=nothing)
    assert bool(shape.has_room(left >= 0)) == admits


def test_groups_by_policy():
    assert len(FilterShape.of(policy_named("RDP")).starts) == 8
    assert FilterShape.of(policy_named("Basic")).groups == (0, 0)
    mixture = FilterShape.of(policy_named("Mixture"))
    assert len(mixture.starts) < len(mixture.keys)


def test_new_block_has_everything_locked_and_useless_keys_at_never():
    new = Block.new(block_id="b", shape=SHAPES[2], capacity=charge(SHAPES[2], [5, 0, NEVER]))
    assert new.unlocked.as_dict == {"a": 0, "b": NEVER, "c": NEVER}
    assert unlocked(new, Immediate(), elapsed=0).unlocked.as_dict == {
        "a": 5,
        "b": NEVER,
        "c": NEVER,
    }


def test_more_than_the_capacity_cannot_be_unlocked():
    with pytest.raises(InvalidValue, match="must be at most 10"):
        block("one", SHAPES[0], [10], unlocked=[11])


@pytest.mark.parametrize(
    ("hardening", "demand", "expected"),
    [(Hardening.DEMAND, 3, 3), (Hardening.DEMAND, 50, 25), (Hardening.PUBLISHED, 3, 25)],
)
def test_per_claim_unlocks_fair_share_or_demand(hardening, demand, expected):
    locked = block("b", SHAPES[0], [100], unlocked=[0])
    after = unlocked(locked, PerClaim(4, hardening), demand=charge(SHAPES[0], [demand]))
    assert after.unlocked.as_dict == {"a": expected}


def test_per_time_is_even_and_ignores_a_clock_that_goes_back():
    rule, now = PerTime(10), block("b", SHAPES[0], [10**18 + 1], unlocked=[0])
    seen = []
    for elapsed in (3, 2, 5, 10, 99):
        now = unlocked(now, rule, elapsed=elapsed)
        seen.append(now.unlocked.as_dict["a"])
    assert seen == [3 * 10**17, 3 * 10**17, 5 * 10**17, 10**18 + 1, 10**18 + 1]


def test_rounds_with_slack_are_faster_at_first():
    rule, now, seen = Rounds(12, Decimal("0.4")), block("b", SHAPES[0], [1200], unlocked=[0]), [0]
    for number in range(1, 13):
        now = unlocked(now, rule, elapsed=number)
        seen.append(now.unlocked.as_dict["a"])
    assert np.diff(seen).tolist() == [140] * 6 + [60] * 6


@pytest.mark.parametrize(
    "make",
    [
        lambda: PerClaim(0),
        lambda: PerTime(2**31),
        lambda: Rounds(7),
        lambda: Rounds(12, Decimal("1.1")),
        lambda: FilterShape(("b", "a"), (0, 0)),
        lambda: FilterShape(("a", "b"), (0, 2)),
    ],
)
def test_bad_values_are_refused(make):
    with pytest.raises(InvalidValue):
        make()
