"""Is the noise of DP-SGD what its receipt says? Seen from outside, through the noisy sums.

Each assertion states its false-alarm rate. Seeds are fixed, so a failure is a change of behavior.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from primum.domain.governance.evidence import Verdict
from primum_pipelines.audits.self_test.mechanism import mechanism_self_test
from primum_pipelines.optimization import clipping, noisy_sums, randomness
from primum_pipelines.optimization.algorithm import MechanismParameters, TrainingTask
from primum_pipelines.optimization.dpsgd import DPSGD
from primum_pipelines.optimization.randomness import OperatingSystemSource, SeededSource
from primum_pipelines.optimization.settings import ClippingRule

SIGMA, CLIP, STEPS = 1.7, 0.4, 60


class Known(nn.Module):
    """Every row pushes the one weight of ``push``, and none moves ``still``."""

    def __init__(self):
        super().__init__()
        self.push = nn.Linear(1, 1, bias=False)
        self.still = nn.Linear(50, 40, bias=False)

    def forward(self, rows):
        return 1000 * self.push(rows).squeeze(1) + 0.0 * self.still(torch.zeros(len(rows), 50)).sum(
            1
        )


def trained(*, rate, rows, seed):
    """Sums per step of the pushed weight and of the still ones, in clipping bounds."""
    module, path = Known(), []
    mechanism = MechanismParameters(
        noise_multiplier=SIGMA, sample_rate=rate, steps=STEPS, max_grad_norm=CLIP
    )

    def snapshot(done=0, planned=0):
        path.append((module.push.weight.item(), module.still.weight.detach().clone()))

    snapshot()
    DPSGD().fit(
        TrainingTask(
            module=module,
            inputs=(torch.ones(rows, 1),),
            loss=lambda m, x: m(x),
            expected_units=rows,
            mechanism=mechanism,
            learning_rate=rate * rows / CLIP,
            seed=seed,
            on_step=snapshot,
        )
    )
    pushed = -np.diff([point[0] for point in path])
    still = -np.diff(torch.stack([point[1] for point in path]).double().numpy(), axis=0)
    return pushed, still.reshape(-1)


def test_noise_has_the_planned_deviation():
    """120,000 values: the deviation is within 5 standard errors (false alarm 6e-7)."""
    _, still = trained(rate=0.5, rows=20, seed=11)
    error = SIGMA / math.sqrt(2 * len(still))
    assert abs(still.std() - SIGMA) < 5 * error
    assert abs(still.mean()) < 5 * SIGMA / math.sqrt(len(still))


def test_noise_is_normal_and_independent():
    """Kolmogorov-Smirnov and lag-one correlation, each at a false alarm of 1e-6."""
    _, still = trained(rate=0.5, rows=20, seed=12)
    assert stats.kstest(still / SIGMA, "norm").pvalue > 1e-6
    per_step = still.reshape(STEPS, -1)
    lag = (per_step[1:] * per_step[:-1]).mean() / SIGMA**2
    assert abs(lag) < 4.9 / math.sqrt(per_step[1:].size)


def test_batches_are_poisson():
    """The pushed weight counts the batch: mean qn, variance q(1-q)n + sigma^2, 5 errors each."""
    rate, rows = 0.3, 4000
    counts, _ = trained(rate=rate, rows=rows, seed=13)
    variance = rate * (1 - rate) * rows + SIGMA**2
    assert abs(counts.mean() - rate * rows) < 5 * math.sqrt(variance / STEPS)
    assert abs(counts.var(ddof=1) / variance - 1) < 5 * math.sqrt(2 / (STEPS - 1))


def test_each_row_counts_its_clipping_bound():
    """Full batches of n rows push by n bounds, whatever their raw gradient of 1000."""
    counts, _ = trained(rate=1.0, rows=500, seed=14)
    assert abs(counts.mean() - 500) < 5 * SIGMA / math.sqrt(STEPS)


def test_the_operating_systems_noise_is_standard_normal():
    """Fresh entropy on every run: false alarm 1e-9 per check."""
    source = OperatingSystemSource()
    values = source.normal(200_000)
    assert stats.kstest(values, "norm").pvalue > 1e-9
    assert abs(values.var() - 1) < 6.2 * math.sqrt(2 / len(values))
    uniform = source.uniform(200_000)
    assert stats.kstest(uniform, "uniform").pvalue > 1e-9
    assert uniform.min() >= 0
    assert uniform.max() < 1


def test_a_seeded_source_repeats_itself():
    one, other = SeededSource(5), SeededSource(5)
    assert np.array_equal(one.normal(10), other.normal(10))
    assert not np.array_equal(one.uniform(10), SeededSource(6).uniform(10))


MECHANISM = MechanismParameters(
    noise_multiplier=1.31, sample_rate=0.281, steps=90, max_grad_norm=1.0
)


ADD_NOISE, RIGHT_CLIP = randomness.add_noise, clipping.clip


def shuffled(source, *, rows, rate):
    """A fixed share of the rows in random order, as an ordinary data loader takes it."""
    order = np.argsort(source.uniform(rows))
    return torch.from_numpy(np.sort(order[: round(rows * rate)]))


def quieter(source, value, *, std):
    ADD_NOISE(source, value, std=std / 2)


def unclipped(squares, **given):
    found = RIGHT_CLIP(squares, **given)
    ones = {name: torch.ones_like(factor) for name, factor in found.factors.items()}
    return replace(found, factors=ones)


def same_seed(_seed):
    return SeededSource(7)


@pytest.mark.parametrize(
    ("module", "name", "broken", "check"),
    [
        (randomness, "poisson_sample", shuffled, "BatchSizePoisson"),
        (noisy_sums, "add_noise", quieter, "NoiseScale"),
        (clipping, "clip", unclipped, "ClippedSumAsPlanned"),
        (randomness, "random_source", same_seed, "NoiseFreshOverStepsAndRuns"),
    ],
    ids=["shuffled sampler", "half the noise", "clipping off", "reused seed"],
)
@pytest.mark.parametrize("rule", [ClippingRule.FLAT, ClippingRule.AUTOMATIC])
def test_the_self_test_catches_a_broken_part(monkeypatch, module, name, broken, check, rule):
    """The platform's own algorithm with one part broken (methods, 6.4)."""
    monkeypatch.setattr(module, name, broken)
    result = mechanism_self_test(DPSGD(), replace(MECHANISM, clipping=rule))
    assert result.verdict is Verdict.FAIL
    assert check in result.failed


@pytest.mark.parametrize("rule", ClippingRule)
def test_the_self_test_passes_every_clipping_rule(rule):
    """Accepted false-alarm rate: 1e-4 for each."""
    mechanism = replace(MECHANISM, clipping=rule, max_grad_norm=0.05)
    result = mechanism_self_test(DPSGD(), mechanism)
    assert result.failed == ()
    assert result.verdict is Verdict.PASS
