"""Events behind individual filters: what they cost, whom they cover, and who refuses them."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest

from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.basic import BasicAccountant
from primum.domain.accounting.events import (
    Composed,
    Gaussian,
    IndividuallyFiltered,
    Laplace,
    NoEvent,
    NonPrivate,
    Repeated,
    SubsampledGaussian,
    covers,
    describe,
    event_from_json,
    flatten,
    worst_case,
)
from primum.domain.accounting.gdp import GdpAccountant
from primum.domain.accounting.individual import FILTER_ORDERS, step_prices
from primum.domain.accounting.pld import PldAccountant
from primum.domain.accounting.policies import RdpPolicy, policy_named
from primum.domain.accounting.rdp import RdpAccountant, rdp_curve
from primum.domain.errors import InvalidValue, UnsupportedEvent
from primum.domain.quantities import Neighbors

ADD, REPLACE = Neighbors.ADD_OR_REMOVE_ONE, Neighbors.REPLACE_ONE
STEP = SubsampledGaussian(Decimal("1.31"), Decimal("0.281"))
BOUND = Repeated(STEP, 90)
FILTERED = IndividuallyFiltered(BOUND, (2, 4, 8))
BUDGET = Guarantee(Decimal("8"), Decimal("1e-5"))


def test_json_is_canonical_and_reads_back():
    assert FILTERED.to_json() == {
        "event": "IndividuallyFiltered",
        "bound": BOUND.to_json(),
        "orders": [2, 4, 8],
    }
    plan = Repeated(Composed((FILTERED, STEP)), 3)
    assert event_from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("bound", "orders", "named"),
    [
        (BOUND, (), "orders must be a tuple of 1"),
        (BOUND, (1, 2), "orders must be a whole number from 2"),
        (BOUND, (2, 2), "orders must rise"),
        (BOUND, (4, 2), "orders must rise"),
        (BOUND, (2.5,), "orders must be a whole number"),
        (BOUND, tuple(range(2, 90)), "orders must be a tuple of 1 to 64"),
        (NoEvent(), (2,), "bound must be Gaussian steps"),
        (Laplace(Decimal(1)), (2,), "bound must be Gaussian steps"),
        (NonPrivate(), (2,), "bound must be Gaussian steps"),
        (FILTERED, (2,), "bound must be Gaussian steps"),
        ("90 steps", (2,), "bound must be a privacy event"),
    ],
)
def test_a_filter_without_a_meaning_is_refused(bound, orders, named):
    with pytest.raises(InvalidValue, match=named):
        IndividuallyFiltered(bound, orders)


@pytest.mark.parametrize("orders", ["2, 4", {"2": 4}, None, [True], ["2"]])
def test_damaged_orders_of_a_record_are_refused(orders):
    with pytest.raises(InvalidValue, match="orders"):
        event_from_json({**FILTERED.to_json(), "orders": orders})


def test_people_read_the_bound_and_the_orders():
    assert describe(FILTERED) == (
        "per-unit Renyi filter within (90 x Gaussian(noise multiplier 1.31) at Poisson rate 0.281) "
        "at orders 2 to 8"
    )


def test_it_is_one_mechanism_and_its_worst_case_is_the_bound():
    plan = Composed((FILTERED, Repeated(FILTERED, 2), STEP))
    assert dict(flatten(plan)) == {FILTERED: 3, STEP: 1}
    assert dict(flatten(worst_case(plan))) == {STEP: 271}


def test_the_curve_is_the_bounds_at_its_orders_and_a_chord_of_moments_between_them():
    orders = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
    curve = rdp_curve(FILTERED, orders, ADD)
    plain = rdp_curve(BOUND, orders, ADD)
    assert [curve[i] for i in (1, 3, 5)] == [plain[i] for i in (1, 3, 5)]
    assert curve[0] == pytest.approx(plain[1])  # Below the first order: the cost is monotone.
    assert curve[2] == pytest.approx((plain[1] + 3 * plain[3]) / 2 / 2)
    assert all(more >= less for more, less in zip(curve, plain, strict=True))


def test_beyond_the_last_order_nothing_is_promised():
    assert rdp_curve(FILTERED, (9.0,), ADD) == [math.inf]
    policy = RdpPolicy(((Decimal(16), Decimal(1)),))
    charge = policy.charge(FILTERED, ADD)
    assert not policy.admits(
        capacity=policy.capacity(BUDGET), used=policy.charge(NoEvent(), ADD), request=charge
    )


def test_the_ledgers_filter_charges_what_the_bound_costs():
    """The default orders of a plan hold those of the ledger, so filters cost nothing extra."""
    planned = IndividuallyFiltered(BOUND, FILTER_ORDERS)
    assert policy_named("RDP").charge(planned, ADD) == policy_named("RDP").charge(BOUND, ADD)


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "factor"),
    [("3.78", "0.276458", 73, "1.002"), ("20", "0.05", 400, "1.02"), ("1.31", "0.281", 90, "1.05")],
    ids=["epsilon 3", "epsilon 0.2", "epsilon 14"],
)
def test_a_plan_pays_little_for_counting_at_whole_orders(noise, rate, steps, factor):
    bound = Repeated(SubsampledGaussian(Decimal(noise), Decimal(rate)), steps)
    plain = RdpAccountant().epsilon(bound, Decimal("1e-5"), ADD)
    filtered = RdpAccountant().epsilon(
        IndividuallyFiltered(bound, FILTER_ORDERS), Decimal("1e-5"), ADD
    )
    assert plain <= filtered <= plain * Decimal(factor)


@pytest.mark.parametrize(
    ("accountant", "reason"),
    [
        (PldAccountant(), "Renyi orders only, not in its whole loss distribution"),
        (GdpAccountant(), "Renyi orders only, which gives no mu"),
        (BasicAccountant(), "no pure guarantee; use RDP accounting"),
    ],
)
def test_accountants_without_renyi_orders_refuse_by_name(accountant, reason):
    with pytest.raises(UnsupportedEvent, match="per-unit Renyi filter within") as refused:
        accountant.epsilon(Composed((FILTERED, STEP)), Decimal("1e-5"), ADD)
    assert reason in str(refused.value)


def test_replacing_a_unit_is_not_what_a_filter_counts():
    unsampled = IndividuallyFiltered(Repeated(Gaussian(Decimal(2)), 9), (2, 4))
    for refusing in (RdpAccountant(), policy_named("RDP"), policy_named("Basic")):
        assert "promises nothing under ReplaceOne" in refusing.unsupported(unsampled, REPLACE)
        assert refusing.unsupported(unsampled, ADD) is None


def test_policies_that_do_not_count_renyi_orders():
    """The Gaussian filter refuses; basic composition charges a proved point of the Renyi curve."""
    assert "Renyi orders only" in policy_named("GDP").unsupported(FILTERED, ADD)
    basic, planned = policy_named("Basic"), IndividuallyFiltered(BOUND, FILTER_ORDERS)
    assert (
        basic.charge(planned, ADD).as_dict["epsilon"]
        >= (basic.charge(BOUND, ADD).as_dict["epsilon"])
    )
    mixed = policy_named("Mixture")
    charge = mixed.charge(planned, ADD)
    assert mixed.admits(
        capacity=mixed.capacity(Guarantee(Decimal(30), Decimal("1e-5"))),
        used=mixed.charge(NoEvent(), ADD),
        request=charge,
    )


MORE_ORDERS = IndividuallyFiltered(BOUND, (2, 3, 4, 8))
OTHER = IndividuallyFiltered(Repeated(STEP, 91), (2, 4, 8))


@pytest.mark.parametrize(
    ("planned", "executed", "expected"),
    [
        (FILTERED, FILTERED, True),
        (FILTERED, BOUND, True),
        (FILTERED, Repeated(STEP, 91), False),
        (BOUND, FILTERED, False),
        (FILTERED, MORE_ORDERS, True),
        (MORE_ORDERS, FILTERED, False),
        (OTHER, FILTERED, True),
        (FILTERED, OTHER, False),
        (Repeated(FILTERED, 2), Composed((FILTERED, BOUND)), True),
        (Repeated(FILTERED, 2), Repeated(FILTERED, 3), False),
        (Repeated(FILTERED, 2), Composed((FILTERED, Repeated(STEP, 91))), False),
        (Composed((FILTERED, STEP)), Repeated(STEP, 91), True),
        (NonPrivate(), FILTERED, True),
        (FILTERED, NonPrivate(), False),
    ],
)
def test_covers(planned, executed, expected):
    assert covers(planned, executed) is expected


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sample_rate": 0.0}, "sample_rate must be above 0"),
        ({"sample_rate": 1.1}, "sample_rate must be above 0 and at most 1"),
        ({"sample_rate": math.nan}, "sample_rate must be above 0"),
        ({"noise_multiplier": 0.0}, "noise_multiplier must be finite and above 0"),
        ({"noise_multiplier": math.inf}, "noise_multiplier must be finite"),
        ({"orders": ()}, "orders must be whole numbers above 1"),
        ({"orders": (1, 2)}, "orders must be whole numbers above 1"),
        ({"orders": (2.5,)}, "orders must be whole numbers above 1"),
    ],
)
def test_prices_of_nothing_sensible_are_refused(changes, named):
    with pytest.raises(InvalidValue, match=named):
        step_prices(**{"sample_rate": 0.1, "noise_multiplier": 2.0, "orders": (2,), **changes})
