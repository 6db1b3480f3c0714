"""Does DP-SGD do in one step exactly what its equation says, and report exactly what it did?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from primum.domain.errors import InvalidValue
from primum_pipelines.datasets.units import UnitRows
from primum_pipelines.optimization import canaries
from primum_pipelines.optimization.algorithm import (
    MechanismParameters,
    TrainingReport,
    TrainingTask,
)
from primum_pipelines.optimization.augmentation import Augmentation
from primum_pipelines.optimization.descent import NoiseCorrectedAdam
from primum_pipelines.optimization.dpsgd import DPSGD
from primum_pipelines.optimization.losses import TaskLoss
from primum_pipelines.optimization.settings import Descent, GradientMode, ScheduleShape
from primum_pipelines.optimization.virtual_batches import PartSize, virtual_batches

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


def clipped_by_unit(task):
    """The sum of clipped gradients of mean losses, unit by unit: slow and obvious."""
    total = [torch.zeros_like(p) for p in task.module.parameters()]
    for unit in range(task.units.count):
        rows = torch.from_numpy(task.units.rows_of(np.array([unit])))
        loss = task.loss(task.module, *(values[rows] for values in task.inputs)).mean()
        parts = torch.autograd.grad(loss, list(task.module.parameters()))
        norm = torch.sqrt(sum(part.square().sum() for part in parts))
        factor = min(1.0, task.mechanism.max_grad_norm / float(norm))
        total = [a + factor * b for a, b in zip(total, parts, strict=True)]
    return total


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


UNITS = UnitRows(np.array([0, 1, 4, 5, 12, 40]))


@pytest.mark.parametrize("gradients", GradientMode)
@pytest.mark.parametrize("rows_at_once", [None, 6])
def test_a_unit_of_several_rows_is_clipped_once(gradients, rows_at_once):
    """The unit of 28 rows is more than a part may have and is not cut."""
    task = make_task(units=UNITS, expected_units=5, gradients=gradients, rows_at_once=rows_at_once)
    expected = clipped_by_unit(task)
    report = DPSGD().fit(task)
    for part, noisy in zip(expected, report.update_sums.values(), strict=True):
        assert torch.allclose(noisy, part, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    rows=st.integers(1, 12),
    copies=st.integers(1, 3),
    data=st.data(),
)
def test_parts_hold_every_drawn_unit_whole_and_once(sizes, rows, copies, data):
    structure = UnitRows(np.concatenate([[0], np.cumsum(sizes)]))
    drawn = data.draw(st.lists(st.sampled_from(range(len(sizes))), unique=True))
    size = PartSize(torch.device("cpu"), rows_max=rows)
    parts = list(virtual_batches(torch.tensor(sorted(drawn), dtype=torch.int64), structure, size,
                                 copies=copies))  # fmt: skip
    assert [int(unit) for part in parts for unit in part.units] == sorted(drawn)
    for part in parts:
        assert part.segments.units == len(part.units)
        assert part.segments.rows == len(part.rows) == sum(sizes[u] for u in part.units) * copies
        assert len(part.units) == 1 or len(part.rows) <= rows
        assert part.segments.total(part.weights).tolist() == pytest.approx([1.0] * len(part.units))
        assert set(part.rows.tolist()) == set(structure.rows_of(part.units.numpy()).tolist())


def test_a_poisson_sample_is_of_units():
    """Two units of 20 rows at rate one half: a batch has 0, 20 or 40 rows, nothing between."""
    rows = []

    def loss(module, features, labels):
        rows.append(len(features))
        return row_loss(module, features, labels)

    mechanism = replace(make_task().mechanism, sample_rate=0.5, steps=12)
    units = UnitRows(np.array([0, 20, 40]))
    DPSGD().fit(make_task(units=units, mechanism=mechanism, loss=loss, rows_at_once=100))
    assert set(rows) <= {20, 40}
    assert len(rows) > 4


def test_views_of_a_row_are_averaged_before_clipping():
    """Views that do not differ are one row: the sum is that without augmentation."""
    plain, viewed = make_task(), make_task(augmentation=Augmentation(multiplicity=3))
    sums = [DPSGD().fit(task).update_sums for task in (plain, viewed)]
    for one, other in zip(*(part.values() for part in sums), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_views_move_and_mirror_pictures_each_by_itself():
    torch.manual_seed(1)
    rows = torch.arange(36.0).view(1, 1, 6, 6).repeat(200, 1, 1, 1)
    seen = Augmentation(multiplicity=4, shift=1, flip=True)(rows)
    assert seen.shape == rows.shape
    assert len({tuple(row.flatten().tolist()) for row in seen}) == 18  # 3 x 3 shifts, 2 ways
    assert torch.equal(Augmentation(multiplicity=4)(rows), rows)


def test_the_average_of_the_weights_is_what_is_released():
    """One step of decay min(d, 2/11): the release lies 9/11 of the way."""
    plain, averaged = make_task(), make_task(descent=Descent(averaging=0.999))
    start = averaged.module[0].weight.detach().clone()
    DPSGD().fit(plain)
    DPSGD().fit(averaged)
    moved = plain.module[0].weight - start
    assert torch.allclose(averaged.module[0].weight - start, moved * 9 / 11, atol=1e-6)


@pytest.mark.parametrize(
    ("descent", "expected"),
    [
        (Descent(), [1, 1, 1, 1]),
        (Descent(schedule=ScheduleShape.COSINE), [1, 0.8535534, 0.5, 0.1464466]),
        (Descent(schedule=ScheduleShape.LINEAR), [1, 0.75, 0.5, 0.25]),
        (Descent(schedule=ScheduleShape.STEP), [1, 1, 0.1, 0.01]),
        (Descent(warm_up=0.5), [1 / 3, 2 / 3, 1, 1]),
    ],
)
def test_schedules(descent, expected):
    assert [descent.rate_at(step, steps=4) for step in range(4)] == pytest.approx(expected)


def test_iterates_are_kept_over_the_last_half():
    mechanism = replace(make_task().mechanism, steps=10)
    task = make_task(mechanism=mechanism, descent=Descent(samples=3))
    report = DPSGD().fit(task)
    assert len(report.iterates) == 3
    assert torch.equal(report.iterates[-1]["0.weight"], task.module[0].weight)
    assert not torch.equal(report.iterates[0]["0.weight"], task.module[0].weight)


def test_noise_corrected_adam_takes_off_what_is_known():
    """Pure noise of the stated variance: the corrected second moment falls to its floor."""
    torch.manual_seed(2)
    weight = nn.Parameter(torch.zeros(2000))
    optimizer = NoiseCorrectedAdam([weight], lr=0.0, variance=0.25)
    for _ in range(3000):
        weight.grad = torch.randn(2000) * 0.5
        optimizer.step()
    state = optimizer.state[weight]
    fair = state["exp_avg_sq"] / (1 - 0.999 ** state["step"]) - 0.25
    assert abs(float(fair.mean())) < 0.005


def test_bias_aware_minimization_adds_the_gradients_norm():
    """g' = grad(L + lambda |g|) + O(lambda^2), per unit (methods, 2.3)."""
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(WIDTH, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    rows, labels = torch.randn(3, WIDTH).double(), torch.tensor([0, 1, 0])
    strength, parameters = 1e-4, list(module.parameters())
    expected = [torch.zeros_like(p) for p in parameters]
    for row in range(3):
        loss = row_loss(module, rows[row : row + 1], labels[row : row + 1]).sum()
        parts = torch.autograd.grad(loss, parameters, create_graph=True)
        norm = torch.sqrt(sum(part.square().sum() for part in parts))
        both = torch.autograd.grad(loss + strength * norm, parameters)
        expected = [a + b for a, b in zip(expected, both, strict=True)]
    mechanism = MechanismParameters(
        noise_multiplier=1e-12, sample_rate=1.0, steps=1, max_grad_norm=1e3
    )
    report = DPSGD().fit(
        make_task(module=module, inputs=(rows, labels), mechanism=mechanism, bias_aware=strength)
    )
    for part, noisy in zip(expected, report.update_sums.values(), strict=True):
        assert torch.allclose(noisy, part, atol=1e-7)


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
        loss=canaries.MarkedLoss(TaskLoss()),
    )


def test_a_canary_is_clipped_to_c_in_its_own_coordinate_and_leaves_the_model_alone():
    plain = make_task()
    DPSGD().fit(plain)
    task = canary_task(count=4, coins=(True, False, False, True))
    report = DPSGD().fit(task)
    scores = canaries.scores(report)
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
        canaries.scores(TrainingReport(((1.0, 0.5, 3),), 2.0, "Poisson", "torch"))
