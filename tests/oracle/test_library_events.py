"""What a library event costs here against dp-accounting's own epsilon, and against our events."""

from __future__ import annotations

import logging
from decimal import Decimal

import pytest

from primum.domain.accounting import library_costs, rdp
from primum.domain.accounting.events import (
    Event,
    Gaussian,
    Laplace,
    LibraryEvent,
    RandomizedResponse,
    Repeated,
    SubsampledGaussian,
)
from primum.domain.accounting.pld import PldAccountant
from primum.domain.quantities import Neighbors
from primum.domain.risk.composition import rdp_subsampled_fixed_size
from primum.domain.risk.selection import poisson_rdp, truncated_negative_binomial_rdp

ADD, REPLACE = Neighbors.ADD_OR_REMOVE_ONE, Neighbors.REPLACE_ONE
ORDERS = (3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0)
DELTAS = (Decimal("1e-4"), Decimal("1e-6"), Decimal("1e-9"))
STEPS = 50
ABOVE = 1e-8  # Relative; what padding and slack may add to the figures here.


def library(name: str, **values: object) -> LibraryEvent:
    given = {k: Decimal(str(v)) if isinstance(v, float) else v for k, v in values.items()}
    return LibraryEvent.of(name, **given)


GAUSSIAN = library("Gaussian", noise_multiplier=2.5)
POISSON = library("PoissonSampled", sampling_probability=0.05, event=GAUSSIAN)
PAIR = library("Composed", events=(GAUSSIAN, library("SelfComposed", event=GAUSSIAN, count=3)))
SAMPLED_PAIR = library("PoissonSampled", sampling_probability=0.05, event=PAIR)
LAPLACE = library("Laplace", noise_multiplier=3.0)
RESPONSE = library("RandomizedResponse", noise_parameter=0.7, num_buckets=5)


def theirs(accountant, make):
    """The library's accountant after ``STEPS`` of an event that is written in its own words."""
    import dp_accounting as dp

    logging.getLogger("absl").setLevel(logging.ERROR)
    return accountant.compose(dp.SelfComposedDpEvent(make(dp), STEPS))


RENYI = {
    "Gaussian": (GAUSSIAN, lambda dp: dp.GaussianDpEvent(2.5)),
    "PoissonSampled": (
        POISSON,
        lambda dp: dp.PoissonSampledDpEvent(0.05, dp.GaussianDpEvent(2.5)),
    ),
    "PoissonSampled composition": (
        SAMPLED_PAIR,
        lambda dp: dp.PoissonSampledDpEvent(
            0.05,
            dp.ComposedDpEvent(
                [
                    dp.GaussianDpEvent(2.5),
                    dp.SelfComposedDpEvent(dp.GaussianDpEvent(2.5), 3),
                ]
            ),
        ),
    ),
    "Laplace": (LAPLACE, lambda dp: dp.LaplaceDpEvent(3.0)),
    "ZCDp": (
        library("ZCDp", rho=0.003, xi=0.0002),
        lambda dp: dp.dp_event.ZCDpEvent(0.003, 0.0002),
    ),
    "Composed": (
        library("Composed", events=(POISSON, LAPLACE)),
        lambda dp: dp.ComposedDpEvent(
            [dp.PoissonSampledDpEvent(0.05, dp.GaussianDpEvent(2.5)), dp.LaplaceDpEvent(3.0)]
        ),
    ),
    "RepeatAndSelect geometric": (
        library("RepeatAndSelect", event=POISSON, mean=4.0, shape=1.0),
        lambda dp: dp.dp_event.RepeatAndSelectDpEvent(
            dp.PoissonSampledDpEvent(0.05, dp.GaussianDpEvent(2.5)), 4.0, 1.0
        ),
    ),
    "RepeatAndSelect Poisson": (
        LibraryEvent.of(
            "RepeatAndSelect", event=GAUSSIAN, mean=Decimal(4), shape=Decimal("Infinity")
        ),
        lambda dp: dp.dp_event.RepeatAndSelectDpEvent(dp.GaussianDpEvent(2.5), 4.0, float("inf")),
    ),
}


SELECTIONS = [name for name in RENYI if name.startswith("RepeatAndSelect")]


@pytest.mark.parametrize("name", sorted(set(RENYI) - set(SELECTIONS)))
@pytest.mark.parametrize("orders", [ORDERS, rdp.DENSE_ORDERS], ids=["ledger", "dense"])
def test_renyi_epsilons_are_the_librarys_and_never_below(name, orders):
    from dp_accounting.rdp import rdp_privacy_accountant

    event, make = RENYI[name]
    reference = theirs(rdp_privacy_accountant.RdpAccountant(orders), make)
    ours = rdp.RdpAccountant(orders)
    for delta in DELTAS:
        expected = reference.get_epsilon(float(delta))
        found = float(ours.epsilon(Repeated(event, STEPS), delta, ADD))
        assert expected <= found <= expected * (1 + ABOVE) + 2e-6
    curve = rdp.rdp_curve(Repeated(event, STEPS), orders, ADD)
    for mine, exact in zip(curve, reference.rdp, strict=True):
        assert mine >= exact * (1 - 1e-12)


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_selection_is_bounded_by_the_best_of_many_orders_whatever_grid_a_budget_has(name):
    from dp_accounting.rdp import rdp_privacy_accountant

    event, make = RENYI[name]
    grid = sorted({*ORDERS, *library_costs._SELECTION_ORDERS})
    reference = dict(
        zip(grid, theirs(rdp_privacy_accountant.RdpAccountant(grid), make).rdp, strict=True)
    )
    coarse = theirs(rdp_privacy_accountant.RdpAccountant(ORDERS), make).rdp
    found = rdp.rdp_curve(Repeated(event, STEPS), ORDERS, ADD)
    for mine, order, loose in zip(found, ORDERS, coarse, strict=True):
        assert reference[order] <= mine <= reference[order] * (1 + ABOVE)
        assert mine <= loose * (1 + ABOVE)


@pytest.mark.parametrize(
    ("event", "own"),
    [
        (GAUSSIAN, Gaussian(Decimal("2.5"))),
        (POISSON, SubsampledGaussian(Decimal("2.5"), Decimal("0.05"))),
        (LAPLACE, Laplace(Decimal("3"))),
        (RESPONSE, RandomizedResponse(Decimal("0.7"), 5)),
        (SAMPLED_PAIR, SubsampledGaussian(Decimal("1.25"), Decimal("0.05"))),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("neighbors", [ADD, REPLACE])
def test_the_librarys_words_for_our_events_cost_the_same(event: Event, own: Event, neighbors):
    """Under ReplaceOne too, where the library's Renyi accountant leaves the factor 2 to us."""
    if rdp.unsupported_by_rdp(own, neighbors) is not None:
        assert rdp.unsupported_by_rdp(event, neighbors) is not None
        return
    costs = rdp.rdp_curve(event, ORDERS, neighbors)
    assert costs == pytest.approx(rdp.rdp_curve(own, ORDERS, neighbors), rel=1e-6, abs=1e-10)
    assert all(
        cost >= exact * (1 - 1e-12)
        for cost, exact in zip(costs, rdp.rdp_curve(own, ORDERS, neighbors), strict=True)
    )


@pytest.mark.parametrize("noise", [2.5, 40.0, 1e5])
@pytest.mark.parametrize(("size", "batch"), [(1625, 64), (10000, 1), (10, 5)])
def test_fixed_size_batches_are_at_least_the_exact_differences(noise, size, batch):
    """Halved noise: the bound is stated relative to the replace-one sensitivity."""
    event = library(
        "SampledWithoutReplacement",
        source_dataset_size=size,
        sample_size=batch,
        event=library("Gaussian", noise_multiplier=noise),
    )
    orders = (2.0, 3.0, 8.0, 16.0)
    for order, found in zip(orders, rdp.rdp_curve(event, orders, REPLACE), strict=True):
        exact = rdp_subsampled_fixed_size(
            order=int(order),
            dataset_size=size,
            batch_size=batch,
            noise_multiplier_replace_one=noise / 2,
        )
        assert exact <= found * (1 + 1e-10) <= exact * (1 + 1e-9) + 1e-10


PLD = {
    "DiscreteLaplace": (
        library("DiscreteLaplace", noise_parameter=0.03, sensitivity=2),
        ADD,
        lambda dp: dp.dp_event.DiscreteLaplaceDpEvent(0.03, 2),
    ),
    "PoissonSampled Laplace": (
        library("PoissonSampled", sampling_probability=0.05, event=LAPLACE),
        ADD,
        lambda dp: dp.PoissonSampledDpEvent(0.05, dp.LaplaceDpEvent(3.0)),
    ),
    "Gaussian": (GAUSSIAN, REPLACE, lambda dp: dp.GaussianDpEvent(2.5)),
    "PoissonSampled": (
        POISSON,
        REPLACE,
        lambda dp: dp.PoissonSampledDpEvent(0.05, dp.GaussianDpEvent(2.5)),
    ),
    "TruncatedSubsampledGaussian": (
        library(
            "TruncatedSubsampledGaussian",
            dataset_size=1000,
            sampling_probability=0.05,
            truncated_batch_size=70,
            noise_multiplier=2.5,
        ),
        ADD,
        lambda dp: dp.dp_event.TruncatedSubsampledGaussianDpEvent(1000, 0.05, 70, 2.5),
    ),
}


@pytest.mark.parametrize("name", PLD)
def test_loss_distributions_are_the_librarys(name):
    import dp_accounting
    from dp_accounting.pld import pld_privacy_accountant

    event, neighbors, make = PLD[name]
    relations = dp_accounting.NeighboringRelation
    relation = relations.REPLACE_ONE if neighbors is REPLACE else relations.ADD_OR_REMOVE_ONE
    reference = theirs(pld_privacy_accountant.PLDAccountant(relation), make)
    for delta in DELTAS[:2]:
        expected = reference.get_epsilon(float(delta))
        found = float(PldAccountant().epsilon(Repeated(event, STEPS), delta, neighbors))
        assert found == pytest.approx(expected, rel=2e-4, abs=2e-6)
        assert found >= expected * (1 - 2e-4)


def test_a_repeated_answer_costs_every_time():
    """The library's accountant composes it once, however often it was asked (version 0.6.0)."""
    own = Repeated(RandomizedResponse(Decimal("0.7"), 5), 10)
    found = PldAccountant().epsilon(Repeated(RESPONSE, 10), Decimal("1e-6"), REPLACE)
    assert found == PldAccountant().epsilon(own, Decimal("1e-6"), REPLACE)
    once = PldAccountant().epsilon(RESPONSE, Decimal("1e-6"), REPLACE)
    assert found > 2 * once


def test_a_sampled_mixture_of_one_shift_is_a_sampled_gaussian():
    mixture = library(
        "MixtureOfGaussians",
        standard_deviation=2.5,
        sensitivities=(Decimal(0), Decimal(1)),
        sampling_probs=(Decimal("0.95"), Decimal("0.05")),
    )
    own = SubsampledGaussian(Decimal("2.5"), Decimal("0.05"))
    pld = PldAccountant()
    found = pld.epsilon(Repeated(mixture, STEPS), Decimal("1e-5"), ADD)
    exact = pld.epsilon(Repeated(own, STEPS), Decimal("1e-5"), ADD)
    assert exact <= found <= exact * Decimal("1.02")


def test_selections_agree_with_the_formulas_of_the_theory():
    curve = [order / (2 * 2.5**2) for order in ORDERS]
    geometric = library("RepeatAndSelect", event=GAUSSIAN, mean=4.0, shape=1.0)
    for order, cost, found in zip(
        ORDERS, curve, rdp.rdp_curve(geometric, ORDERS, ADD), strict=True
    ):
        exact = min(
            truncated_negative_binomial_rdp(
                order=order,
                rdp=cost,
                order_hat=order_hat,
                rdp_hat=rdp_hat,
                shape_eta=1.0,
                gamma=0.25,
            )["rdp"]
            for order_hat, rdp_hat in zip(ORDERS, curve, strict=True)
        )
        assert found <= exact * (1 + ABOVE)  # The library also uses that divergences rise.
    counted = LibraryEvent.of(
        "RepeatAndSelect", event=GAUSSIAN, mean=Decimal(4), shape=Decimal("Infinity")
    )
    for order, found in zip(ORDERS, rdp.rdp_curve(counted, ORDERS, ADD), strict=True):
        exact = poisson_rdp(
            order=order, psi_single_run=1 / 2.5, expected_runs=4.0, orders_for_delta_hat=ORDERS
        )
        assert found <= exact * (1 + ABOVE)
        assert found >= order / (2 * 2.5**2)
