"""Figures of privacy-theory.md, without the assets; cases of golden/theory.json are named."""

from __future__ import annotations

from decimal import Decimal

import pytest

from primum.domain.accounting import calibration, profile, rdp
from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.basic import BasicAccountant
from primum.domain.accounting.events import (
    Composed,
    Gaussian,
    Laplace,
    NoEvent,
    NonPrivate,
    RandomizedResponse,
    Repeated,
    SubsampledGaussian,
)
from primum.domain.accounting.gdp import GdpAccountant
from primum.domain.accounting.pld import PldAccountant
from primum.domain.accounting.policies import PolicyAccountant, RdpPolicy
from primum.domain.accounting.rdp import RdpAccountant
from primum.domain.errors import InvalidValue, UnsupportedEvent
from primum.domain.quantities import Neighbors

ADD = Neighbors.ADD_OR_REMOVE_ONE
REPLACE = Neighbors.REPLACE_ONE
DELTA = Decimal("1E-5")
EVERY = (RdpAccountant(), PldAccountant(), GdpAccountant(), BasicAccountant())


@pytest.mark.parametrize(
    ("order", "q", "noise", "expected"),
    [  # rdp.subsampled_gaussian_poisson/00, /02, /06, /08
        (2.0, 0.01, 1.0, 0.00017181342207454794),
        (8.0, 0.001, 0.6, 3.2165377517103435),
        (1.5, 0.01, 1.0, 0.00012725374332744983),
        (10.25, 0.004, 1.3, 6.852949527711791e-05),
    ],
)
def test_subsampled_curve(order, q, noise, expected):
    assert rdp.poisson_curve(q, noise, (order,))[0] == pytest.approx(expected, rel=1e-9)


def test_gaussian_profile():
    # gaussian.delta/00, gaussian.log_delta/02, gaussian.epsilon/00, gaussian.sigma/00
    assert profile.gaussian_delta(epsilon=1, psi=1) == pytest.approx(0.12693673750664394, rel=1e-9)
    log_delta = profile.gaussian_log_delta(epsilon=700, psi=20)
    assert log_delta == pytest.approx(-317.4517154680345, rel=1e-9)
    epsilon = profile.gaussian_epsilon(delta=1e-5, psi=1)
    assert epsilon == pytest.approx(4.3771780956812245, rel=1e-8)
    assert 1 / profile.gaussian_psi(epsilon=1, delta=1e-5) == pytest.approx(3.730631634815942)


def test_gaussian_under_every_accountant():
    event = Gaussian(Decimal(1))
    exact = GdpAccountant().epsilon(event, DELTA, ADD)
    assert exact == Decimal("4.377179")  # gaussian.epsilon/00, rounded up
    assert exact <= PldAccountant().epsilon(event, DELTA, ADD) < exact + Decimal("0.001")
    # rdp.gaussian_epsilon_optimal_order/00: the best real order gives 4.728387.
    assert Decimal("4.728386") <= RdpAccountant().epsilon(event, DELTA, ADD) < Decimal("4.729")


@pytest.mark.parametrize("accountant", [RdpAccountant(), PldAccountant(), GdpAccountant()])
def test_replace_one_doubles_the_sensitivity_exactly_once(accountant):
    replaced = accountant.epsilon(Gaussian(Decimal(2)), DELTA, REPLACE)
    assert replaced == pytest.approx(
        accountant.epsilon(Gaussian(Decimal(1)), DELTA, ADD), abs=Decimal("1E-5")
    )


def test_pld_of_subsampled_run_is_tight():
    # pld.subsampled_gaussian.epsilon/00
    run = Repeated(SubsampledGaussian(Decimal(1), Decimal("0.01")), 1000)
    epsilon = float(PldAccountant().epsilon(run, DELTA, ADD))
    assert 1.828236666 * (1 - 1e-6) <= epsilon <= 1.828236666 * (1 + 2e-4)
    assert PldAccountant().epsilon(run, DELTA, ADD) <= RdpAccountant().epsilon(run, DELTA, ADD)


def test_laplace_and_randomized_response():
    assert BasicAccountant().epsilon(Repeated(Laplace(Decimal(2)), 3), DELTA, ADD) == Decimal(
        "1.500001"
    )
    assert BasicAccountant().epsilon(Laplace(Decimal(2)), DELTA, REPLACE) == Decimal("1.000001")
    response = RandomizedResponse(Decimal("0.5"), 2)  # Truth with 3/4: epsilon ln 3.
    assert BasicAccountant().epsilon(response, DELTA, REPLACE) == Decimal("1.098613")
    assert RdpAccountant().epsilon(response, DELTA, REPLACE) < Decimal("1.2")
    assert "randomized" not in str(response)


@pytest.mark.parametrize("accountant", EVERY, ids=lambda a: a.name)
def test_non_private_use_is_refused_and_nothing_is_free(accountant):
    with pytest.raises(UnsupportedEvent, match="without protection"):
        accountant.epsilon(NonPrivate(), DELTA, ADD)
    assert accountant.epsilon(Composed((NoEvent(),)), DELTA, ADD) == 0


@pytest.mark.parametrize(
    ("accountant", "event", "neighbors", "part"),
    [
        (GdpAccountant(), SubsampledGaussian(Decimal(1), Decimal("0.1")), ADD, "Poisson rate 0.1"),
        (GdpAccountant(), Laplace(Decimal(1)), ADD, "Laplace"),
        (BasicAccountant(), Gaussian(Decimal(1)), ADD, "Gaussian"),
        (RdpAccountant(), SubsampledGaussian(Decimal(1), Decimal("0.1")), REPLACE, "ReplaceOne"),
        (RdpAccountant(), RandomizedResponse(Decimal("0.5"), 2), ADD, "RandomizedResponse"),
        (PldAccountant(), RandomizedResponse(Decimal("0.5"), 2), ADD, "RandomizedResponse"),
    ],
)
def test_unsupported_parts_are_named(accountant, event, neighbors, part):
    with pytest.raises(UnsupportedEvent, match=part):
        accountant.epsilon(event, DELTA, neighbors)
    assert part in accountant.unsupported(event, neighbors)


@pytest.mark.parametrize("delta", [Decimal(0), Decimal(1), Decimal("-1"), Decimal("NaN"), 1e-5])
def test_delta_is_checked(delta):
    with pytest.raises(InvalidValue, match="delta must"):
        RdpAccountant().epsilon(Gaussian(Decimal(1)), delta, ADD)


def run_at(noise):
    return Repeated(SubsampledGaussian(noise, Decimal("0.281")), 90)


@pytest.mark.parametrize("epsilon", ["0.5", "1", "3", "8"])
def test_calibration_is_least_and_inside(epsilon):
    target = Guarantee(Decimal(epsilon), DELTA)
    noise = calibration.least_noise_multiplier(
        accountant=RdpAccountant(), event_at=run_at, target=target, neighbors=ADD
    )
    assert RdpAccountant().epsilon(run_at(noise), DELTA, ADD) <= target.epsilon
    assert RdpAccountant().epsilon(run_at(noise - Decimal("0.0001")), DELTA, ADD) > target.epsilon


def test_calibration_reference():
    # calibrate.noise_multiplier/00: Renyi accounting needs 0.6159 where PLD needs 0.5863.
    noise = calibration.least_noise_multiplier(
        accountant=RdpAccountant(),
        event_at=lambda s: Repeated(SubsampledGaussian(s, Decimal("0.01")), 1000),
        target=Guarantee(Decimal(8), DELTA),
        neighbors=ADD,
    )
    assert Decimal("0.5863") < noise <= Decimal("0.6159")


def test_calibration_in_the_currency_of_the_budget_fits_an_empty_budget():
    budget = Guarantee(Decimal(3), DELTA)
    policy = RdpPolicy()
    noise = calibration.least_noise_multiplier(
        accountant=PolicyAccountant(policy, budget),
        event_at=run_at,
        target=budget,
        neighbors=ADD,
    )
    request = policy.charge(run_at(noise), ADD)
    nothing = policy.charge(NoEvent(), ADD)
    assert policy.admits(capacity=policy.capacity(budget), used=nothing, request=request)


def test_calibration_refuses_the_unreachable():
    with pytest.raises(InvalidValue, match="reachable"):
        calibration.least_noise_multiplier(
            accountant=GdpAccountant(),
            event_at=lambda s: Repeated(Gaussian(s), 10**9),
            target=Guarantee(Decimal("0.001"), Decimal("1E-9")),
            neighbors=ADD,
        )


def test_most_steps_is_most():
    target = Guarantee(Decimal(3), DELTA)

    def event_at(steps):
        return Repeated(SubsampledGaussian(Decimal(1), Decimal("0.01")), steps)

    steps = calibration.most_steps(
        accountant=RdpAccountant(), event_at=event_at, target=target, neighbors=ADD
    )
    assert RdpAccountant().epsilon(event_at(steps), DELTA, ADD) <= 3
    assert RdpAccountant().epsilon(event_at(steps + 1), DELTA, ADD) > 3
