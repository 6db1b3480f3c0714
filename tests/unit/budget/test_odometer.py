"""The running bound: the odometers of privacy-theory.md 1.13, and where none is defined."""

from __future__ import annotations

import math
import random
from decimal import Decimal

import pytest

from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.charges import UNITS_PER_ONE, Charge
from primum.domain.accounting.events import Gaussian, Laplace, Repeated, SubsampledGaussian
from primum.domain.accounting.policies import Mixture, policy_named, zero
from primum.domain.accounting.policy_rdp import RdpPolicy
from primum.domain.accounting.policy_scalar import BasicPolicy, GdpPolicy
from primum.domain.budget.odometer import HOLDS_ALWAYS, running_bound
from primum.domain.quantities import Neighbors
from primum.domain.risk.composition import odometer_linear, odometer_mixture

OPENED = Guarantee(Decimal("8"), Decimal("1e-5"))
ADD = Neighbors.ADD_OR_REMOVE_ONE


def used(policy, *events):
    total = zero(policy)
    for event in events:
        total = total + policy.charge(event, ADD)
    return total


@pytest.mark.parametrize("name", ["RDP", "GDP", "Basic"])
def test_nothing_used_is_nothing_lost(name):
    policy = policy_named(name)
    found = running_bound(policy, used=zero(policy), guarantee=OPENED)
    assert (found.epsilon, found.assumption) == (0, HOLDS_ALWAYS)


def test_one_order_is_the_linear_odometer():
    """A Gaussian has R(a) = a V / 2: Ville at order 1 + lambda is ``odometer.linear`` (golden)."""
    v_target, delta = 1.0, 1e-6
    order = 1 + math.sqrt(2 * math.log(1 / delta) / v_target)
    policy = RdpPolicy(((Decimal(order), Decimal(1)),))
    v = 0.5
    spent = Charge(
        tuple((key, round(order * v / 2 * UNITS_PER_ONE)) for key, _ in zero(policy).amounts)
    )
    found = running_bound(policy, used=spent, guarantee=Guarantee(Decimal(9), Decimal("1e-6")))
    wanted = odometer_linear(v=v, delta=delta, v_target=v_target)
    assert float(found.epsilon) == pytest.approx(wanted, abs=2e-6)
    assert wanted == pytest.approx(4.192391, abs=1e-6)


def test_gaussians_have_the_mixture_odometer():
    policy = GdpPolicy()
    spent = used(policy, Gaussian(Decimal("2")), Gaussian(Decimal("2")))
    found = running_bound(policy, used=spent, guarantee=OPENED)
    room = policy.capacity(OPENED).as_dict["mu2"] / UNITS_PER_ONE
    gamma = room / (2 * math.log(1e5))
    assert float(found.epsilon) == pytest.approx(
        odometer_mixture(v=0.5, delta=1e-5, gamma=gamma), abs=2e-6
    )
    assert "except with probability delta 0.00001" in found.assumption


def test_pure_epsilons_add_up_and_points_with_a_delta_have_no_bound():
    policy = BasicPolicy()
    pure = used(policy, Laplace(Decimal("2")), Laplace(Decimal("2")))
    assert running_bound(policy, used=pure, guarantee=OPENED).epsilon == pytest.approx(
        Decimal(1), abs=Decimal("1e-5")
    )
    mixed = pure + policy.charge(Gaussian(Decimal("3")), ADD)
    found = running_bound(policy, used=mixed, guarantee=OPENED)
    assert found.epsilon is None
    assert "no running bound is defined" in found.assumption


def test_a_mixture_takes_the_least_of_what_is_defined():
    mixture = Mixture()
    spent = used(mixture, Gaussian(Decimal("4")))
    parts = []
    for policy, share in mixture.components:
        own = Charge.of(
            {k.partition(".")[2]: n for k, n in spent.amounts if k.startswith(f"{policy.name}.")}
        )
        shared = Guarantee(OPENED.epsilon, OPENED.delta * share)
        parts.append(running_bound(policy, used=own, guarantee=shared).epsilon)
    found = running_bound(mixture, used=spent, guarantee=OPENED).epsilon
    assert found == min(part for part in parts if part is not None)
    # A subsampled step closes the Gaussian filter; the others still say something.
    closed = spent + mixture.charge(SubsampledGaussian(Decimal("2"), Decimal("0.1")), ADD)
    assert running_bound(mixture, used=closed, guarantee=OPENED).epsilon > found


def test_the_running_bound_never_falls_and_is_above_what_the_filter_counts_of_the_end():
    policy = policy_named("RDP")
    step = Repeated(SubsampledGaussian(Decimal("2"), Decimal("0.1")), 50)
    total, before = zero(policy), Decimal(0)
    for _ in range(6):
        total = total + policy.charge(step, ADD)
        bound = running_bound(policy, used=total, guarantee=OPENED).epsilon
        assert bound > before
        assert bound > policy.spent_epsilon(used=total, guarantee=OPENED)
        before = bound


def test_the_bound_holds_along_whole_adaptive_paths():
    """An analyst who stops at the worst moment, 4000 times: the loss passes the bound at most as
    often as delta allows. The loss of a Gaussian with mu is N(mu^2/2, mu^2). False alarm of this
    test: below 1e-6 (binomial tail at delta 0.05)."""
    guarantee = Guarantee(Decimal("3"), Decimal("0.05"))
    policy, draw = GdpPolicy(), random.Random(7)
    paths, passed = 4000, 0
    bounds = {}
    for _ in range(paths):
        loss, spent = 0.0, 0
        for _ in range(40):
            mu2 = 0.01 if loss > 0.5 else 0.04  # What comes next depends on what came out.
            loss += draw.gauss(mu2 / 2, math.sqrt(mu2))
            spent += round(mu2 * UNITS_PER_ONE)
            if spent not in bounds:
                charge = Charge.of({"mu2": spent})
                found = running_bound(policy, used=charge, guarantee=guarantee)
                bounds[spent] = float(found.epsilon)
            if loss > bounds[spent]:
                passed += 1
                break
    allowed = 0.05 * paths
    assert passed <= allowed + 5 * math.sqrt(allowed)
