from __future__ import annotations

import json
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.calibration import least_noise_multiplier
from primum.domain.accounting.events import (
    Composed,
    Gaussian,
    Laplace,
    NoEvent,
    NonPrivate,
    RandomizedResponse,
    Repeated,
    SubsampledGaussian,
    covers,
    event_from_json,
    flatten,
)
from primum.domain.accounting.gdp import GdpAccountant
from primum.domain.accounting.policies import policy_named, zero
from primum.domain.accounting.rdp import RdpAccountant
from primum.domain.quantities import Neighbors

ADD = Neighbors.ADD_OR_REMOVE_ONE
FEW = settings(max_examples=60, deadline=None)

noises = st.decimals("0.3", "100", places=3)
rates = st.decimals("0.001", "1", places=3)
gaussians = st.builds(Gaussian, noises)
steps = st.builds(SubsampledGaussian, noises, rates)
pure = st.builds(Laplace, noises)
chargeable = st.one_of(st.just(NoEvent()), gaussians, steps, pure)
leaves = st.one_of(
    chargeable,
    st.just(NonPrivate()),
    st.builds(RandomizedResponse, st.decimals("0.01", "0.99", places=2), st.integers(2, 9)),
)


def nested(of):
    return st.recursive(
        of,
        lambda inner: st.one_of(
            st.builds(Repeated, inner, st.integers(0, 50)),
            st.builds(Composed, st.lists(inner, max_size=3).map(tuple)),
        ),
        max_leaves=4,
    )


events = nested(leaves)
plans = nested(chargeable)
gaussian_plans = nested(gaussians)
guarantees = st.builds(
    Guarantee,
    st.decimals("0.1", "30", places=2),
    st.sampled_from([Decimal("1E-4"), Decimal("1E-5"), Decimal("1E-7"), Decimal("1E-9")]),
)
policies = st.sampled_from(["RDP", "Basic", "Mixture"]).map(policy_named)


@given(events)
@FEW
def test_json_reads_back_and_is_one_text_per_event(event):
    text = json.dumps(event.to_json(), sort_keys=True)
    again = event_from_json(json.loads(text))
    assert again == event
    assert json.dumps(again.to_json(), sort_keys=True) == text


@given(events, events)
@FEW
def test_covers_is_reflexive_and_grows_with_the_plan(planned, extra):
    assert covers(planned, planned)
    assert covers(Composed((planned, extra)), planned)
    assert covers(planned, NoEvent())


@given(plans, plans)
@FEW
def test_a_covered_event_costs_at_most_the_plan(planned, executed):
    if covers(planned, executed):
        accountant = RdpAccountant()
        costs = [accountant.epsilon(event, Decimal("1E-5"), ADD) for event in (executed, planned)]
        assert costs[0] <= costs[1] + Decimal("0.000002")


@given(plans, plans)
@FEW
def test_composition_is_monotone_and_commutes(first, second):
    accountant = RdpAccountant()
    alone = accountant.epsilon(first, Decimal("1E-5"), ADD)
    both = accountant.epsilon(Composed((first, second)), Decimal("1E-5"), ADD)
    other_way = accountant.epsilon(Composed((second, first)), Decimal("1E-5"), ADD)
    assert both >= alone - Decimal("0.000002")
    assert abs(both - other_way) <= Decimal("0.000002")


@given(gaussian_plans)
@FEW
def test_renyi_is_never_below_the_exact_gaussian(plan):
    exact = GdpAccountant().epsilon(plan, Decimal("1E-5"), ADD)
    assert RdpAccountant().epsilon(plan, Decimal("1E-5"), ADD) >= exact - Decimal("0.000002")


@given(policies, plans, plans)
@FEW
def test_charges_add_up_to_at_least_the_composition(policy, first, second):
    if policy.name == "Basic":
        return  # A composition of two plans has one delta, two plans have two.
    apart = (policy.charge(first, ADD) + policy.charge(second, ADD)).as_dict
    together = policy.charge(Composed((first, second)), ADD).as_dict
    for key, amount in together.items():
        if not key.startswith("Basic"):
            # The order of float sums may differ in the last digit; the slack of a charge is 1e-10.
            assert amount <= apart[key] + apart[key] // 10**12 + 1
            assert apart[key] - amount <= max(4, apart[key] // 10**9) or amount >= 10**18


@given(policies, plans)
@FEW
def test_nothing_that_costs_rounds_to_nothing(policy, plan):
    amounts = policy.charge(plan, ADD).as_dict
    if flatten(plan):
        assert all(n >= 1 for key, n in amounts.items() if not key.endswith("delta"))
    else:
        assert policy.charge(plan, ADD) == zero(policy)


@given(policies, guarantees, st.lists(plans, max_size=6))
@FEW
def test_what_is_admitted_shows_at_most_the_guarantee(policy, guarantee, sequence):
    capacity, used = policy.capacity(guarantee), zero(policy)
    for plan in sequence:
        request = policy.charge(plan, ADD)
        before = policy.spent_epsilon(used=used, guarantee=guarantee)
        if policy.admits(capacity=capacity, used=used, request=request):
            used = used + request
            after = policy.spent_epsilon(used=used, guarantee=guarantee)
            assert before <= after <= guarantee.epsilon
        elif flatten(plan):
            refused = policy.spent_epsilon(used=used + request, guarantee=guarantee)
            assert refused > guarantee.epsilon - Decimal("0.000001")


@given(guarantees, rates, st.integers(1, 200))
@settings(max_examples=15, deadline=None)
def test_calibrated_noise_meets_its_target(target, rate, count):
    accountant = RdpAccountant()

    def event_at(noise):
        return Repeated(SubsampledGaussian(noise, rate), count)

    noise = least_noise_multiplier(
        accountant=accountant, event_at=event_at, target=target, neighbors=ADD
    )
    assert accountant.epsilon(event_at(noise), target.delta, ADD) <= target.epsilon
    assert noise.as_tuple().exponent >= -4
