"""Does DP-SGD do in one step exactly what its equation says, and report exactly what it did?"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from primum.domain.errors import InvalidValue
from primum_pipelines.optimization import canaries
from primum_pipelines.optimization.algorithm import MechanismParameters, TrainingTask
from primum_pipelines.optimization.dpsgd import DPSGD

ROWS, WIDTH = 40, 5


def row_loss(module, features, labels):
    return nn.functional.cross_entropy(module(features), labels, reduction="none")


def make_task(**changes):
    torch.manual_seed(0)
    mechanism = MechanismParameters(
        noise_multiplier=1e-9, sample_rate=1.0, steps=1, max_grad_norm=0.3
    )
    task = TrainingTask(
        module=nn.Sequential(nn.Linear(WIDTH, 4), nn.Tanh(), nn.Linear(4, 2)),
        inputs=(torch.randn(ROWS, WIDTH), torch.arange(ROWS) % 2),
        loss=row_loss,
        expected_units=50,
        mechanism=mechanism,
        learning_rate=1.0,
        seed=7,
    )
    return replace(task, **changes)


def clipped_sum(task):
    """The sum of clipped gradients, row by row: slow and obvious."""
    total = [torch.zeros_like(p) for p in task.module.parameters()]
    for row in range(ROWS):
        batch = [values[row : row + 1] for values in task.inputs]
        loss = task.loss(task.module, *batch).sum()
        parts = torch.autograd.grad(loss, list(task.module.parameters()))
        norm = torch.sqrt(sum(part.square().sum() for part in parts))
        factor = min(1.0, task.mechanism.max_grad_norm / float(norm))
        total = [a + factor * b for a, b in zip(total, parts, strict=True)]
    return total


def test_a_step_is_the_clipped_sum_over_the_expected_batch():
    """The divisor is rate x expected_units = 50, not the 40 rows that there are."""
    task = make_task()
    before = [p.detach().clone() for p in task.module.parameters()]
    expected = clipped_sum(task)
    report = DPSGD().fit(task)
    for start, part, parameter in zip(before, expected, task.module.parameters(), strict=True):
        assert torch.allclose(parameter, start - part / 50, atol=1e-6)
    for part, noisy in zip(expected, report.update_sums.values(), strict=True):
        assert torch.allclose(noisy, part, atol=1e-5)


def test_virtual_batches_change_nothing():
    whole = make_task()
    DPSGD().fit(whole)
    parts = make_task(rows_at_once=7)
    DPSGD().fit(parts)
    for one, other in zip(whole.module.parameters(), parts.module.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_an_empty_batch_still_gets_its_noise():
    mechanism = MechanismParameters(
        noise_multiplier=1.0, sample_rate=1e-9, steps=3, max_grad_norm=1.0
    )
    report = DPSGD().fit(make_task(mechanism=mechanism))
    assert report.executed == ((1.0, 1e-9, 3),)
    assert all(float(value.abs().min()) > 0 for value in report.update_sums.values())


def test_a_row_without_a_finite_gradient_contributes_nothing():
    task = make_task()
    broken = task.inputs[0].clone()
    broken[3] = float("nan")
    report = DPSGD().fit(replace(task, inputs=(broken, task.inputs[1])))
    assert all(bool(torch.isfinite(value).all()) for value in report.update_sums.values())


def test_the_report_is_what_ran():
    seen = []
    mechanism = MechanismParameters(
        noise_multiplier=1.3, sample_rate=0.2, steps=4, max_grad_norm=0.7
    )
    task = make_task(mechanism=mechanism, on_step=lambda done, total: seen.append((done, total)))
    report = DPSGD().fit(task)
    assert report.executed == ((1.3, 0.2, 4),)
    assert (report.max_grad_norm, report.sampling) == (0.7, "Poisson")
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert "not private" in report.generator


def test_without_a_seed_two_runs_differ():
    mechanism = replace(make_task().mechanism, noise_multiplier=1.0)
    sums = [DPSGD().fit(make_task(mechanism=mechanism, seed=None)).update_sums for _ in range(2)]
    assert not torch.equal(sums[0]["0.weight"], sums[1]["0.weight"])


def test_nothing_of_a_row_stays_behind():
    task = make_task()
    DPSGD().fit(task)
    for parameter in task.module.parameters():
        assert parameter.grad is None
        assert not hasattr(parameter, "grad_sample")
        assert not hasattr(parameter, "summed_grad")
    assert not any(module._backward_hooks for module in task.module.modules())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"noise_multiplier": float("nan")}, "noise_multiplier"),
        ({"sample_rate": 1.5}, "sample_rate"),
        ({"steps": 0}, "steps"),
        ({"max_grad_norm": -1.0}, "max_grad_norm"),
    ],
)
def test_a_mechanism_without_a_meaning_is_refused(changes, named):
    task = make_task()
    with pytest.raises(InvalidValue, match=named):
        DPSGD().fit(replace(task, mechanism=replace(task.mechanism, **changes)))


def test_batch_statistics_are_refused():
    module = nn.Sequential(nn.Linear(WIDTH, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with pytest.raises(InvalidValue, match="statistics over the batch"):
        DPSGD().fit(make_task(module=module))


def canary_task(*, count, coins):
    task = make_task()
    sealed = canaries.SealedCoins(coins=coins, salt="00")
    return replace(
        task,
        module=canaries.WithCanaries(task.module, count=count),
        inputs=canaries.add_rows(*task.inputs, sealed),
        loss=canaries.loss_with_canaries,
    )


def test_a_canary_is_clipped_to_c_in_its_own_coordinate_and_leaves_the_model_alone():
    plain = make_task()
    DPSGD().fit(plain)
    task = canary_task(count=4, coins=(True, False, False, True))
    report = DPSGD().fit(task)
    scores = canaries.scores(report.update_sums, max_grad_norm=task.mechanism.max_grad_norm)
    assert scores == pytest.approx([1, 0, 0, 1], abs=1e-4)
    for one, other in zip(plain.module.parameters(), task.module.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_coins_are_sealed():
    sealed = canaries.seal(200)
    assert 50 < sum(sealed.coins) < 150  # 7 standard deviations
    other = replace(sealed, coins=tuple(not coin for coin in sealed.coins))
    assert sealed.commitment != other.commitment
    assert "True" not in repr(sealed)


def test_an_algorithm_that_hides_its_sums_is_refused():
    with pytest.raises(InvalidValue, match="update sums"):
        canaries.scores({}, max_grad_norm=1.0)
