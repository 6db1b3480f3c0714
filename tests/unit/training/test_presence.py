"""Does the white-box statistic say what noisy sums really tell, and nothing of the batches?"""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from primum.domain.risk import tradeoff  # noqa: E402
from primum_pipelines.attacks.figures import auc  # noqa: E402
from primum_pipelines.optimization import canaries  # noqa: E402
from primum_pipelines.optimization.algorithm import TrainingReport  # noqa: E402
from primum_pipelines.optimization.presence import Presence, added_up  # noqa: E402

HEAD = canaries.HEAD_PARAMETER


def presence(count, *, noise=1.5, rate=0.25, bound=2.0):
    return Presence(
        {HEAD: torch.zeros(count)}, noise_multiplier=noise, sample_rate=rate, max_grad_norm=bound
    )


def test_a_step_adds_the_log_likelihood_ratio_of_a_mixture():
    """x = 3 over a bound of 2 at sigma 1.5 and rate 1/4, by hand."""
    found = presence(1)
    for _ in range(2):
        found.add({HEAD: torch.tensor([3.0])})
    near, far = (math.exp(-((1.5 - mean) ** 2) / (2 * 1.5**2)) for mean in (1, 0))
    by_hand = 2 * math.log((0.25 * near + 0.75 * far) / far)
    assert float(found.ratios[HEAD]) == pytest.approx(by_hand, rel=1e-12)


def test_an_overflowing_sum_is_evidence_and_no_infinity():
    found = presence(2)
    found.add({HEAD: torch.tensor([1e6, -1e6])})
    assert bool(torch.isfinite(found.ratios[HEAD]).all())
    assert float(found.ratios[HEAD][1]) == pytest.approx(math.log(0.75))


def test_without_sampling_it_orders_as_the_sum_does():
    found, steps = presence(50, rate=1.0), torch.randn((4, 50), dtype=torch.float64)
    for step in steps:
        found.add({HEAD: step})
    assert torch.equal(found.ratios[HEAD].argsort(), steps.sum(dim=0).argsort())


def test_it_reaches_the_mechanisms_own_bound_and_does_not_pass_it():
    """The most powerful test of 8 steps: its AUC is that of the loss distribution. Seed fixed."""
    generator = np.random.default_rng(5)
    noise, rate, count, steps = 0.8, 0.2, 20_000, 8
    coins = generator.integers(0, 2, count)
    found = presence(count, noise=noise, rate=rate, bound=1.0)
    for _ in range(steps):
        taken = (generator.random(count) < rate) * coins
        found.add({HEAD: torch.from_numpy(taken + noise * generator.standard_normal(count))})
    scores = found.ratios[HEAD].numpy()
    bound = tradeoff.dpsgd_auc(q=rate, noise_multiplier=noise, steps=steps)
    assert auc(scores[coins == 1], scores[coins == 0]) == pytest.approx(bound, abs=0.012)


def test_canaries_are_scored_by_it_where_the_algorithm_reports_it():
    sums, ratios = {HEAD: torch.tensor([4.0, -2.0])}, {HEAD: torch.tensor([0.5, -0.25])}
    both = TrainingReport(((1.0, 0.5, 3),), 2.0, "Poisson", "torch", sums, ratios)
    assert canaries.scores(both) == [0.5, -0.25]
    alone = TrainingReport(((1.0, 0.5, 3),), 2.0, "Poisson", "torch", sums)
    assert canaries.scores(alone) == [2.0, -1.0]


def test_rounds_add_up():
    parts = [{HEAD: torch.tensor([1.0])}, {HEAD: torch.tensor([2.5])}]
    assert float(added_up(parts)[HEAD]) == 3.5
    assert added_up([{}, {}]) == {}


def test_without_noise_there_is_nothing_to_compare():
    assert presence(3, noise=0.0).ratios == {}


def test_it_goes_on_from_a_checkpoint():
    first, second = presence(2), presence(2)
    first.add({HEAD: torch.tensor([1.0, -1.0])})
    second.restore({name: ratio.clone() for name, ratio in first.ratios.items()})
    for found in (first, second):
        found.add({HEAD: torch.tensor([0.5, 3.0])})
    assert torch.equal(first.ratios[HEAD], second.ratios[HEAD])
