"""A plan with budgets by sampling states what others' choices may add, or is refused."""

from __future__ import annotations

from decimal import Decimal

import pytest

from primum.domain.errors import InvalidValue
from primum.domain.risk.collusion import Group, IndividualBudgets, Method, require_excess_bound


def required(individual_budgets):
    require_excess_bound(
        {"individualBudgets": individual_budgets}, epsilon=Decimal(1), delta=Decimal("1e-5")
    )


@pytest.mark.parametrize(
    "budgets",
    [{"method": "Scale"}, {"method": "Sample", "excessBound": "0.01"}],
    ids=["by clipping", "by sampling, bounded"],
)
def test_budgets_that_others_cannot_turn_against_a_member_are_taken(budgets):
    required(budgets)


def test_a_plan_without_individual_budgets_owes_nothing():
    require_excess_bound({"steps": 3}, epsilon=Decimal(1), delta=Decimal("1e-5"))


@pytest.mark.parametrize(
    ("budgets", "named"),
    [
        ({"method": "Sample"}, "excessBound must bound the excess vulnerability"),
        ({}, "excessBound must bound the excess vulnerability"),
        ({"method": "Auction"}, "excessBound must bound the excess vulnerability"),
        ({"method": "Sample", "excessBound": "0"}, "must be above 0 and below 0.177752"),
        ({"method": "Sample", "excessBound": "0.2"}, "must be above 0 and below 0.177752"),
        ({"method": "Sample", "excessBound": 0.01}, "excessBound must be a quoted decimal"),
        ("Sample", "individualBudgets must be an object"),
    ],
)
def test_budgets_without_a_bound_that_says_something_are_refused(budgets, named):
    with pytest.raises(InvalidValue, match=named):
        required(budgets)


def test_nobody_is_drawn_more_than_surely():
    group = Group(Decimal(1), Decimal(1), Decimal("1.1"), Decimal(2))
    with pytest.raises(InvalidValue, match="sample_rate must be at most 1"):
        IndividualBudgets(Method.SAMPLE, (group,), Decimal("1.1"))
