"""Filters in a whole training: nothing changes up to the bound, and afterwards only noise is left.

Each assertion states its false-alarm rate. Seeds are fixed, so a failure is a change of behavior.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from primum.domain.accounting.individual import FILTER_ORDERS
from primum.domain.governance.evidence import Verdict
from primum_pipelines.audits.self_test.mechanism import mechanism_self_test
from primum_pipelines.optimization.algorithm import (
    IndividualFilter,
    MechanismParameters,
    TrainingTask,
)
from primum_pipelines.optimization.dpsgd import DPSGD

MECHANISM = MechanismParameters(
    noise_multiplier=1.3, sample_rate=0.25, steps=40, max_grad_norm=0.001
)
FILTERED = replace(MECHANISM, individual=IndividualFilter(40, FILTER_ORDERS))


def trained(mechanism, *, seed):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(120, 5, generator=generator)
    labels = (features[:, 0] > 0).long()
    report = DPSGD().fit(
        TrainingTask(
            module=module,
            inputs=(features, labels),
            loss=lambda m, x, y: nn.functional.cross_entropy(m(x), y, reduction="none"),
            expected_units=120,
            mechanism=mechanism,
            learning_rate=200.0,
            seed=seed,
        )
    )
    return torch.cat([p.detach().flatten() for p in module.parameters()]), report


@pytest.mark.parametrize("seed", range(3))
def test_up_to_the_bound_training_is_ordinary_training(seed):
    """Saturated norms and as many steps as the bound: the same draws give the same weights.

    The gradients are summed in another order, so they agree to single precision.
    """
    plain, _ = trained(MECHANISM, seed=seed)
    filtered, report = trained(FILTERED, seed=seed)
    assert torch.allclose(plain, filtered, atol=1e-4)
    assert report.executed == ((1.3, 0.25, 40),)
    assert float(report.diagnostics["filteredOutShare"]) == 0


def test_after_the_bound_saturated_units_leave_nothing_but_noise():
    """With noise of 1e-9 the weights stand still to single precision once everybody has left."""
    quiet = replace(FILTERED, noise_multiplier=1e-9, steps=40)
    silent = replace(quiet, steps=60)
    stopped, _ = trained(quiet, seed=1)
    ran_on, report = trained(silent, seed=1)
    assert float(report.diagnostics["filteredOutShare"]) == 1
    assert torch.allclose(stopped, ran_on, atol=1e-6)


class Ignoring:
    """Says that it filters, and does not."""

    name = "Ignoring"
    reviewed = False
    reads = frozenset({"individualFilter"})

    def fit(self, task):
        told = task.mechanism.individual
        report = DPSGD().fit(replace(task, mechanism=replace(task.mechanism, individual=None)))
        return replace(report, individual=told)


class Silent(Ignoring):
    """Filters, and does not say so."""

    name = "Silent"

    def fit(self, task):
        return replace(DPSGD().fit(task), individual=None)


TESTED = MechanismParameters(3.78, 0.28, 100, 1.0, IndividualFilter(73, FILTER_ORDERS))


def test_the_self_test_passes_the_filters_of_the_reviewed_algorithm():
    """Fresh entropy: one run in ten thousand fails for nothing."""
    result = mechanism_self_test(DPSGD(), TESTED)
    assert result.verdict is Verdict.PASS
    assert "SaturatingUnitsLeaveAtTheirBound" in {check.name for check in result.checks}


@pytest.mark.parametrize(
    ("algorithm", "failed"),
    [
        (Ignoring(), "SaturatingUnitsLeaveAtTheirBound"),
        (Silent(), "FilterReportedAsPlanned"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_self_test_catches_filters_that_are_not_what_is_said(algorithm, failed):
    result = mechanism_self_test(algorithm, TESTED)
    assert result.verdict is Verdict.FAIL
    assert failed in result.failed


def test_without_filters_the_self_test_asks_for_none():
    names = {check.name for check in mechanism_self_test(DPSGD(), MECHANISM).checks}
    assert not names & {"SaturatingUnitsLeaveAtTheirBound", "FilterReportedAsPlanned"}
