"""A plug-in's plan that carries budgets by sampling is refused before anything is reserved."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulated.jobs import SimulatedKind

from primum.application import planning
from primum.domain.conditions import Reason
from primum.domain.study.plan import Plan


def planned(ward, budgets):
    class Individual(SimulatedKind):
        def declare(self, study, context):
            plan = super().declare(study, context)
            return replace(plan, mechanism={**plan.mechanism, "individualBudgets": budgets})

    platform = ward.with_port(kinds=lambda: {"Simulated": Individual()})
    return planning.plan_study(platform, ward.spec(ward.study()))


def test_budgets_by_sampling_without_a_bound_on_the_excess_are_refused(ward):
    refusal = planned(ward, {"method": "Sample"})
    assert refusal.reason is Reason.INVALID_SPEC
    assert "excessBound must bound the excess vulnerability" in refusal.message


@pytest.mark.parametrize(
    "budgets", [{"method": "Scale"}, {"method": "Sample", "excessBound": "0.01"}]
)
def test_budgets_that_promise_enough_are_planned(ward, budgets):
    assert isinstance(planned(ward, budgets), Plan)
