"""The bound on selecting the best of a random number of runs, against the exact divergence.

The best of K Gaussian runs, by their own values, has the density f(x) G'(F(x)), where G is the
generating function of K. So its Renyi divergence can be integrated, without the theorem.
"""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from scipy import integrate, stats

from primum.domain.accounting.events import Gaussian, Repeated
from primum.domain.accounting.rdp import rdp_curve
from primum.domain.accounting.selection import RandomStopping, StoppingLaw
from primum.domain.quantities import Neighbors
from primum.domain.risk.selection import truncated_negative_binomial_rdp

ADD = Neighbors.ADD_OR_REMOVE_ONE
ORDERS = (2.0, 4.0, 16.0)


def binomial(shape, gamma):
    return RandomStopping(
        StoppingLaw.TRUNCATED_NEGATIVE_BINOMIAL, shape=Decimal(shape), gamma=Decimal(gamma)
    )


def poisson(mean):
    return RandomStopping(StoppingLaw.POISSON, mean=Decimal(mean))


LAWS = {
    "logarithmic": binomial("0", "0.1"),
    "half": binomial("0.5", "0.05"),
    "geometric": binomial("1", "0.2"),
    "eta 3": binomial("3", "0.3"),
    "Poisson": poisson("4"),
}


def slope(law, x):
    """The derivative of the generating function of the number of runs (Papernot & Steinke, 2)."""
    if law.mean is not None:
        mean = float(law.mean)
        return mean * np.exp(mean * (x - 1))
    eta, gamma = float(law.shape), float(law.gamma)
    if eta == 0:
        return (1 - gamma) / (1 - (1 - gamma) * x) / -math.log(gamma)
    return eta * (1 - gamma) * (1 - (1 - gamma) * x) ** (-eta - 1) / (gamma**-eta - 1)


def exact_divergence(law, order, shift):
    """Between the best of runs around ``shift`` and around 0, standard deviation 1."""

    def log_density(x, mean):
        return stats.norm.logpdf(x, mean) + np.log(slope(law, stats.norm.cdf(x - mean)))

    def integrand(x):
        return np.exp(order * log_density(x, shift) + (1 - order) * log_density(x, 0.0))

    low, high = -12 + min(0.0, order * shift), 12 + max(0.0, order * shift)
    total, _ = integrate.quad(integrand, low, high, limit=400)
    if law.mean is not None:
        total += math.exp(-float(law.mean))  # No run: the same in both worlds.
    return math.log(total) / (order - 1)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("noise", ["3"])
def test_the_charge_is_never_below_the_exact_divergence(name, noise):
    law, shift = LAWS[name], 1 / float(noise)
    curve = rdp_curve(law.event(Gaussian(Decimal(noise))), ORDERS, ADD)
    for order, charged in zip(ORDERS, curve, strict=True):
        exact = max(exact_divergence(law, order, sign * shift) for sign in (1, -1))
        assert exact <= charged
        assert charged > order * shift**2 / 2  # Never below a single run.


@pytest.mark.parametrize("name", ["logarithmic", "geometric"])
def test_a_charge_is_not_absurdly_above_it_either(name):
    law = LAWS[name]
    (charged,) = rdp_curve(law.event(Gaussian(Decimal(2))), (8.0,), ADD)
    assert charged < 6 * exact_divergence(law, 8.0, 0.5)


@pytest.mark.parametrize(("shape", "times"), [("0", 2), ("1", 3), ("2", 4)])
def test_pure_runs_cost_two_plus_eta_times_one_as_published(shape, times):
    """Papernot & Steinke 2022, Corollary 4: (2 + eta) epsilon; Liu & Talwar 2019 for eta 1."""
    found = truncated_negative_binomial_rdp(
        order=1e12,
        rdp=0.5,
        order_hat=1e12,
        rdp_hat=0.5,
        shape_eta=float(shape),
        gamma=0.01,
    )
    assert found["rdp"] == pytest.approx(0.5 * times, rel=1e-6)


@pytest.mark.parametrize("name", LAWS)
def test_the_number_of_runs_has_the_declared_distribution(name):
    law = LAWS[name]
    cells = 4_000
    drawn = np.array([law.runs_at(Fraction(2 * cell + 1, 2 * cells)) for cell in range(cells)])
    known = _scipy(law)
    for runs in range(12):
        assert np.mean(drawn == runs) == pytest.approx(known(runs), abs=1.5 / cells)
    assert np.mean(drawn) == pytest.approx(float(law.expected_runs), rel=0.01)


def _scipy(law):
    """Probabilities of scipy's own distributions."""
    if law.mean is not None:
        return stats.poisson(float(law.mean)).pmf
    eta, gamma = float(law.shape), float(law.gamma)
    if eta == 0:
        return stats.logser(1 - gamma).pmf
    untruncated = stats.nbinom(eta, gamma)
    return lambda runs: untruncated.pmf(runs) / (1 - untruncated.pmf(0)) if runs else 0.0


@pytest.mark.parametrize(
    ("law", "mean"),
    [
        (binomial("1", "0.3"), Decimal("3.3334")),
        (binomial("0", "0.5"), Decimal("1.4427")),
        (binomial("2", "0.2"), Decimal("8.3334")),
        (poisson("7.5"), Decimal("7.5")),
    ],
)
def test_means_are_those_of_the_closed_forms_rounded_up(law, mean):
    assert law.expected_runs == mean


def test_a_fixed_number_of_runs_costs_more_than_a_random_one_of_that_mean():
    run = Repeated(Gaussian(Decimal(4)), 1)
    random = rdp_curve(binomial("0", "0.03").event(run), (8.0,), ADD)
    assert float(binomial("0", "0.03").expected_runs) > 9
    assert random < rdp_curve(Repeated(run, 9), (8.0,), ADD)
