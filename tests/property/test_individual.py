"""Laws of individual filters: no unit ever pays more than the bound, at any order, whatever comes.

Every law is checked against costs that are computed one by one, not against the filter's prices.
"""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from primum.domain.accounting import rdp
from primum.domain.accounting.individual import FILTER_ORDERS, FULL_STEP, step_prices
from primum_pipelines.optimization.algorithm import IndividualFilter
from primum_pipelines.optimization.individual_filter import RenyiFilter

FEW = settings(max_examples=40, deadline=None)
noises = st.floats(0.5, 30)
rates = st.sampled_from([0.001, 0.01, 0.05, 0.281, 0.9, 1.0])
norms = st.one_of(st.floats(1e-6, 1), st.floats(1, 1e6), st.sampled_from([0.0, 1e-6, 0.01, 1.0]))
order_sets = st.lists(st.sampled_from(FILTER_ORDERS), min_size=1, max_size=4, unique=True).map(
    lambda orders: tuple(sorted(orders))
)


def exact(*, rate, noise, norm, orders):
    """The unit's Renyi divergence of one step at each order, by its own noise multiplier."""
    if norm == 0:
        return np.zeros(len(orders))
    own = noise / min(norm, 1.0)
    if rate == 1:
        return np.array([order / (2 * own * own) for order in orders])
    return np.array(rdp.poisson_curve.__wrapped__(rate, own, tuple(float(o) for o in orders)))


@given(noises, rates, st.lists(norms, min_size=1, max_size=8), order_sets)
@FEW
def test_a_price_is_at_least_the_cost_and_at_most_a_full_step(noise, rate, given_norms, orders):
    prices = step_prices(sample_rate=rate, noise_multiplier=noise, orders=orders)
    full = exact(rate=rate, noise=noise, norm=1.0, orders=orders)
    charged = prices.charges(np.array(given_norms))
    for row, norm in zip(charged, given_norms, strict=True):
        cost = exact(rate=rate, noise=noise, norm=norm, orders=orders)
        assert (row / FULL_STEP * full >= cost * (1 - 1e-9)).all()
        assert (row <= FULL_STEP).all()
        if norm >= 1:
            assert (row == FULL_STEP).all()
    assert (np.diff(prices.charges(np.sort(given_norms)), axis=0) >= 0).all()


@given(noises, rates, st.lists(norms, min_size=1, max_size=30), st.integers(1, 6), order_sets)
@FEW
def test_no_unit_passes_the_bound_and_who_is_dropped_stays_dropped(
    noise, rate, path, bound_steps, orders
):
    """Individual at most worst case, at every order (relation 7 of privacy-theory.md 11)."""
    filters = RenyiFilter(
        units=1,
        sample_rate=rate,
        noise_multiplier=noise,
        rule=IndividualFilter(bound_steps, orders),
    )
    limit = bound_steps * exact(rate=rate, noise=noise, norm=1.0, orders=orders)
    paid, steps, stays = np.zeros(len(orders)), 0, True
    for norm in path:
        active = len(filters.active) == 1
        assert active is stays
        took_part = bool(filters.admit(np.array([0]), np.array([norm]))[0])
        assert not (took_part and not active)
        if took_part:
            paid += exact(rate=rate, noise=noise, norm=norm, orders=orders)
            steps += 1
        stays = took_part
        assert (paid <= limit * (1 + 1e-9)).all()
    assert steps >= min(len(path), bound_steps)
    assert filters.dropped == (0 if stays else 1)


@given(noises, rates, st.integers(1, 40), order_sets)
@FEW
def test_a_unit_that_saturates_every_step_gets_exactly_the_bound(noise, rate, bound_steps, orders):
    filters = RenyiFilter(
        units=3,
        sample_rate=rate,
        noise_multiplier=noise,
        rule=IndividualFilter(bound_steps, orders),
    )
    steps = 0
    while filters.admit(filters.active, np.full(len(filters.active), 7.0)).any():
        steps += 1
    assert steps == bound_steps
    assert filters.dropped == 3


@given(noises, rates, st.integers(1, 5))
@FEW
def test_what_is_not_a_number_is_charged_in_full_and_nothing_is_free_of_charge(
    noise, rate, bound_steps
):
    filters = RenyiFilter(
        units=4,
        sample_rate=rate,
        noise_multiplier=noise,
        rule=IndividualFilter(bound_steps, (2, 8)),
    )
    given_norms = np.array([np.nan, np.inf, 1.0, 0.0])
    for _ in range(bound_steps):
        filters.admit(filters.active, given_norms)
    assert list(filters.admit(filters.active, given_norms)) == [False, False, False, True]
    assert list(filters.active) == [3]


@given(noises, st.sampled_from([0.01, 0.281, 1.0]), st.integers(1, 4))
@FEW
def test_units_do_not_touch_each_other(noise, rate, bound_steps):
    """A unit's filter is a function of its own norms: others change nothing."""
    rule = IndividualFilter(bound_steps, (2, 4, 16))
    both = RenyiFilter(units=2, sample_rate=rate, noise_multiplier=noise, rule=rule)
    alone = RenyiFilter(units=1, sample_rate=rate, noise_multiplier=noise, rule=rule)
    generator = np.random.default_rng(3)
    for _ in range(20):
        first, second = generator.uniform(0, 1.5, 2)
        if len(alone.active) == 0:
            break
        pair = both.active
        together = both.admit(pair, np.array([first, second])[pair])
        assert bool(together[list(pair).index(0)]) is bool(
            alone.admit(np.array([0]), np.array([first]))[0]
        )
