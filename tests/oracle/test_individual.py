"""The filter of a training step against the golden values of individual accounting.

The golden file travels with the shared assets: set PRIMUM_TEST_ASSETS to their folder.
"""

from __future__ import annotations

import json
import os
import pathlib
from decimal import Decimal

import numpy as np
import pytest

from primum.domain.accounting.individual import FULL_STEP, step_prices
from primum.domain.risk.collusion import Group, IndividualBudgets, Method, exposures
from primum_pipelines.optimization.algorithm import IndividualFilter
from primum_pipelines.optimization.individual_filter import RenyiFilter

ASSETS = os.environ.get("PRIMUM_TEST_ASSETS", "")
GOLDEN = pathlib.Path(ASSETS) / "golden" / "theory.json" if ASSETS else None
pytestmark = pytest.mark.skipif(
    GOLDEN is None or not GOLDEN.is_file(),
    reason="PRIMUM_TEST_ASSETS does not name a folder with golden/theory.json",
)


def cases(quantity):
    if GOLDEN is None or not GOLDEN.is_file():
        return []
    found = json.loads(GOLDEN.read_text())["cases"]
    return [case for case in found if case["quantity"] == quantity]


@pytest.mark.parametrize("case", cases("individual.renyi_filter"), ids=lambda case: case["id"])
def test_a_unit_takes_part_in_as_many_steps_as_the_golden_filter_lets_it(case):
    given, expected = case["inputs"], case["expected"]
    order, noise = given["order"], given["noise_multiplier"]
    full = order / (2 * noise * noise)
    bound_steps = given["rdp_budget"] / full
    if bound_steps != pytest.approx(round(bound_steps)):
        pytest.skip("the budget of this case is no whole number of full steps")
    filters = RenyiFilter(
        units=1,
        sample_rate=1.0,
        noise_multiplier=noise,
        rule=IndividualFilter(round(bound_steps), (order,)),
    )
    prices = step_prices(sample_rate=1.0, noise_multiplier=noise, orders=(order,))
    used = 0.0
    active = 0
    for norm in given["clipped_gradient_norms"]:
        ratio = np.array([norm / given["clip_norm"]])
        if not len(filters.active) or not filters.admit(np.array([0]), ratio)[0]:
            break
        active += 1
        used += prices.charges(ratio)[0, 0] / FULL_STEP * full
    assert active == expected["active_steps"]
    assert used == pytest.approx(expected["rdp_used"], rel=1e-4)
    assert used >= expected["rdp_used"] * (1 - 1e-9)


@pytest.mark.parametrize("case", cases("individual.poisson_rdp"), ids=lambda case: case["id"])
def test_prices_are_the_golden_costs_of_sampled_steps_and_never_below(case):
    from primum.domain.accounting.rdp import poisson_curve

    given = case["inputs"]
    order = int(given["order"])
    prices = step_prices(
        sample_rate=given["q"], noise_multiplier=given["noise_multiplier"], orders=(order,)
    )
    (full,) = poisson_curve(given["q"], given["noise_multiplier"], (float(order),))
    ratios = np.array(given["clipped_gradient_norms"]) / given["clip_norm"]
    total = prices.charges(ratios).sum() / FULL_STEP * full
    assert total == pytest.approx(case["expected"], rel=1e-3)
    assert total >= case["expected"] * (1 - 1e-9)


@pytest.mark.parametrize(
    "case",
    [case for case in cases("idp.excess_vulnerability") if case["id"].endswith("/00")],
    ids=lambda case: case["id"],
)
def test_the_excess_of_a_colluding_population_is_the_golden_one(case):
    """90 % of the others chose 0.25: against Scale, a member at 1 is more exposed."""
    (sample,) = (
        item["expected"]
        for item in cases("idp.sample_parameters")
        if item["inputs"]["budgets"] == [1.0, 0.25]
    )
    noise = Decimal(repr(sample["noise_multiplier"]))
    rates = [Decimal(repr(rate)) for rate in sample["rates"]]
    budgets = IndividualBudgets(
        Method.SAMPLE,
        (
            Group(Decimal(1), Decimal("0.1"), rates[0], noise),
            Group(Decimal("0.25"), Decimal("0.9"), rates[1], noise),
        ),
        Decimal("0.01"),
    )
    member, _ = exposures(budgets, delta=1e-5, steps=case["inputs"]["steps"])
    expected = case["expected"]
    assert member.excess == pytest.approx(expected["delta_divergence"], rel=2e-3)
    assert member.advantage == pytest.approx(expected["advantage_actual"], rel=1e-3)
    assert member.advantage_reference == pytest.approx(expected["advantage_reference"], rel=1e-3)
    assert member.within
    (cap,) = (
        item["expected"]
        for item in cases("divergence.delta_gaussian_to_epsilon_delta")
        if item["inputs"] == {"epsilon": 1.0, "delta": 1e-5}
    )
    assert member.cap == pytest.approx(cap, rel=1e-6)
