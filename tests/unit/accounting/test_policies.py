"""The filters; the headroom table of ledger.md 3.1 is reproduced claim by claim."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest

from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.charges import AMOUNT_MAX, NEVER, Charge, cost_units
from primum.domain.accounting.events import (
    Gaussian,
    Laplace,
    NoEvent,
    NonPrivate,
    Repeated,
    SubsampledGaussian,
)
from primum.domain.accounting.policies import (
    POLICY_NAMES,
    BasicPolicy,
    GdpPolicy,
    Mixture,
    RdpPolicy,
    policy_from_json,
    policy_named,
    zero,
)
from primum.domain.errors import InvalidValue, UnsupportedEvent
from primum.domain.quantities import Neighbors

ADD = Neighbors.ADD_OR_REMOVE_ONE
TABLE_ORDERS = ("1.5", "1.75", "2", "2.5", "3", "4", "5", "6", "8", "16", "32", "64")


def proportional_to_f():
    """Weights as in ledger.md 2.4: w(a) in proportion to f(a) = (1/a)(1-1/a)^(a-1)."""
    f = {Decimal(a): (1 / float(a)) * (1 - 1 / float(a)) ** (float(a) - 1) for a in TABLE_ORDERS}
    total = sum(f.values())
    return RdpPolicy(tuple((a, Decimal(str(v / total * (1 - 1e-12)))) for a, v in f.items()))


def how_many(policy, guarantee, event):
    request, room = policy.charge(event, ADD).as_dict, policy.capacity(guarantee).as_dict
    return max(0, *(room[key] // request[key] for key in room))


def how_many_by_mironov(guarantee, event):
    orders = [float(a) for a in TABLE_ORDERS]
    room = [float(guarantee.epsilon) + float(guarantee.delta.ln()) / (a - 1) for a in orders]
    sigma = float(event.noise_multiplier)
    return max(int(b / (a / (2 * sigma * sigma))) for a, b in zip(orders, room, strict=True))


@pytest.mark.parametrize(
    ("epsilon", "delta", "mironov", "weighted", "one_order", "gdp"),
    [
        ("1", "1e-6", 14514, 17207, 18272, 23472),
        ("1", "1e-7", 12569, 15987, 16327, 19137),
        ("3", "1e-7", 11203, 12135, 13126, 16377),
        ("10", "1e-7", 10004, 10301, 11263, 12471),
    ],
)
def test_headroom_table(epsilon, delta, mironov, weighted, one_order, gdp):
    guarantee = Guarantee(Decimal(epsilon), Decimal(delta))
    sigma = math.sqrt(2 * math.log(1.25 / 1e-9)) / (0.01 * float(epsilon))
    event = Gaussian(Decimal(repr(sigma)))
    assert how_many_by_mironov(guarantee, event) == mironov
    assert how_many(proportional_to_f(), guarantee, event) == weighted
    single = [
        how_many(RdpPolicy(((Decimal(a), Decimal(1)),)), guarantee, event) for a in TABLE_ORDERS
    ]
    assert max(single) == one_order
    assert how_many(GdpPolicy(), guarantee, event) == gdp


def test_five_training_studies_of_epsilon_three_fit_into_eight():
    # Noise 4.158 is the least that makes q = 0.28, 90 steps (3, 1e-5)-DP by dense orders.
    policy, budget = RdpPolicy(), Guarantee(Decimal(8), Decimal("1E-5"))
    study = policy.charge(Repeated(SubsampledGaussian(Decimal("4.158"), Decimal("0.28")), 90), ADD)
    used, fitted = zero(policy), 0
    while policy.admits(capacity=policy.capacity(budget), used=used, request=study):
        used, fitted = used + study, fitted + 1
    assert fitted == 5
    assert Decimal(7) < policy.spent_epsilon(used=used, guarantee=budget) <= 8
    beyond = policy.spent_epsilon(used=used + study, guarantee=budget)
    assert beyond > 8


def test_unusable_orders_never_admit():
    policy = RdpPolicy()
    capacity = policy.capacity(Guarantee(Decimal(1), Decimal("1E-6")))
    assert capacity.as_dict["3"] == NEVER
    assert capacity.as_dict["64"] > 0
    tiny = policy.capacity(Guarantee(Decimal("0.01"), Decimal("1E-9")))
    assert set(tiny.as_dict.values()) == {NEVER}
    assert not policy.admits(capacity=tiny, used=zero(policy), request=zero(policy))


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_policies_by_name_and_from_their_record(name):
    policy = policy_named(name)
    assert policy.name == name
    assert policy_from_json(policy.to_json()) == policy
    with pytest.raises(UnsupportedEvent, match="without protection"):
        policy.charge(NonPrivate(), ADD)
    assert zero(policy).is_zero
    assert policy.charge(NoEvent(), ADD) == zero(policy)
    assert (
        policy.spent_epsilon(used=zero(policy), guarantee=Guarantee(Decimal(1), Decimal("1E-5")))
        == 0
    )


def test_unknown_policies_are_refused():
    with pytest.raises(InvalidValue, match="CLT"):
        policy_named("CLT")
    with pytest.raises(InvalidValue):
        policy_from_json({"policy": "RDP"})


def test_nothing_that_costs_rounds_to_nothing():
    event = SubsampledGaussian(Decimal("1E+12"), Decimal("1E-12"))
    for policy in (RdpPolicy(), BasicPolicy()):
        amounts = policy.charge(event, ADD).as_dict
        assert all(amount >= 1 for amount in amounts.values())
    assert GdpPolicy().charge(Gaussian(Decimal("1E+12")), ADD).as_dict == {"mu2": 1}


def test_enormous_costs_exceed_every_capacity():
    assert cost_units(math.inf) == AMOUNT_MAX
    event = Repeated(Gaussian(Decimal("1E-6")), 10**9)
    largest = Guarantee(Decimal(1000000), Decimal("0.5"))
    for policy in (RdpPolicy(), GdpPolicy(), BasicPolicy(), Mixture()):
        request = policy.charge(event, ADD)
        capacity = policy.capacity(largest)
        assert max(capacity.as_dict.values()) < AMOUNT_MAX
        assert not policy.admits(capacity=capacity, used=zero(policy), request=request)
        assert not policy.spent_epsilon(used=request, guarantee=largest).is_finite()


def test_mixture_closes_a_filter_that_cannot_charge_a_plan_and_no_other():
    policy, budget = Mixture(), Guarantee(Decimal(8), Decimal("1E-5"))
    capacity = policy.capacity(budget)
    step = policy.charge(Repeated(SubsampledGaussian(Decimal(4), Decimal("0.1")), 10), ADD)
    assert step.as_dict["GDP.mu2"] == AMOUNT_MAX
    assert policy.admits(capacity=capacity, used=zero(policy), request=step)
    assert policy.admits(
        capacity=capacity, used=step, request=policy.charge(Gaussian(Decimal(4)), ADD)
    )


def test_basic_adds_up():
    policy, budget = BasicPolicy(), Guarantee(Decimal(1), Decimal("1E-6"))
    request = policy.charge(Laplace(Decimal(10)), ADD)
    used = zero(policy)
    for _ in range(9):
        assert policy.admits(capacity=policy.capacity(budget), used=used, request=request)
        used = used + request
    assert policy.spent_epsilon(used=used, guarantee=budget) == Decimal("0.900001")


def test_charges_of_different_policies_do_not_mix():
    with pytest.raises(InvalidValue, match="keys"):
        zero(RdpPolicy()) + zero(GdpPolicy())
    with pytest.raises(InvalidValue):
        Charge((("b", 1), ("a", 1)))
    assert Charge.from_json(Charge.of({"b": 1, "a": NEVER}).to_json()).as_dict == {"a": -1, "b": 1}
