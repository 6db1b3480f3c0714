"""Do the audits catch every broken mechanism, and leave a right one alone?

The exact DP-SGD here is written by hand, independent of the platform's, and is broken in one way
per test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import stats

torch = pytest.importorskip("torch")

from primum.domain.governance.evidence import Verdict  # noqa: E402
from primum.domain.risk import from_scratch  # noqa: E402
from primum_pipelines.attacks import analytic_inversion, scorings, signals  # noqa: E402
from primum_pipelines.attacks.figures import auc  # noqa: E402
from primum_pipelines.attacks.pool import Pool  # noqa: E402
from primum_pipelines.attacks.shadows import (  # noqa: E402
    Recipe,
    complementary_halves,
    logits_of,
    train_stacked,
)
from primum_pipelines.audits.one_run_canary import Canaries, measure  # noqa: E402
from primum_pipelines.audits.self_test.mechanism import mechanism_self_test  # noqa: E402
from primum_pipelines.audits.self_test.release import gaussian_release_self_test  # noqa: E402
from primum_pipelines.audits.subject import PlannedMechanism  # noqa: E402
from primum_pipelines.optimization.algorithm import (  # noqa: E402
    MechanismParameters,
    TrainingReport,
    TrainingTask,
)
from primum_pipelines.optimization.presence import Presence  # noqa: E402


@dataclass
class HandWrittenDPSGD:
    """DP-SGD in thirty lines, with per-unit gradients by vmap. ``bug`` breaks one thing."""

    bug: str = ""
    name: str = "HandWritten"
    reviewed: bool = True

    def fit(self, task: TrainingTask) -> TrainingReport:
        plan = task.mechanism
        generator = torch.Generator()
        if self.bug == "reused seed":
            generator.manual_seed(7)
        elif task.seed is None:
            generator.seed()
        else:
            generator.manual_seed(task.seed)
        names = [name for name, _ in task.module.named_parameters()]
        units = len(task.inputs[0])
        order: list[int] = []
        for step in range(plan.steps):
            batch = self._batch(units, plan, order, generator)
            sums = self._clipped_sums(task, names, batch)
            for name, parameter in task.module.named_parameters():
                noise = self._noise(parameter, plan, generator, step, len(batch))
                divisor = plan.sample_rate * task.expected_units
                with torch.no_grad():
                    parameter.sub_(task.learning_rate * (sums[name] + noise) / divisor)
            if task.on_step is not None:
                task.on_step(step + 1, plan.steps)
        executed = ((plan.noise_multiplier, plan.sample_rate, plan.steps),)
        return TrainingReport(executed, plan.max_grad_norm, "Poisson", "torch")

    def _batch(self, units, plan, order, generator):
        size = round(units * plan.sample_rate)
        if self.bug == "shuffle":
            if len(order) < size:
                order[:] = torch.randperm(units, generator=generator).tolist()
            taken, order[:] = order[:size], order[size:]
            return torch.tensor(taken)
        if self.bug == "fixed size":
            return torch.randperm(units, generator=generator)[:size]
        if self.bug == "blocks":
            start = int(torch.randint(units, (1,), generator=generator))
            return (torch.arange(size) + start) % units
        if self.bug == "double rate":
            return (torch.rand(units, generator=generator) < 2 * plan.sample_rate).nonzero()[:, 0]
        return (torch.rand(units, generator=generator) < plan.sample_rate).nonzero()[:, 0]

    def _clipped_sums(self, task, names, batch):
        rows = tuple(tensor[batch] for tensor in task.inputs)
        parameters = {name: p.detach() for name, p in task.module.named_parameters()}

        def one(current, *row):
            class Bound:
                def __call__(self, *inputs):
                    return torch.func.functional_call(task.module, current, inputs)

            return task.loss(Bound(), *(part[None] for part in row)).sum()

        grads = torch.func.vmap(torch.func.grad(one), in_dims=(None, *(0,) * len(rows)))(
            parameters, *rows
        )
        bound = task.mechanism.max_grad_norm
        norms = {n: g.flatten(1).norm(dim=1) for n, g in grads.items()}
        total = torch.stack(list(norms.values())).norm(dim=0)
        sums = {}
        for name in names:
            norm = norms[name] if self.bug == "per-tensor clip" else total
            factor = (bound / norm.clamp_min(1e-12)).clamp_max(1.0)
            if self.bug == "clip off":
                factor = torch.ones_like(factor)
            sums[name] = torch.einsum("b,b...->...", factor, grads[name])
        return sums

    def _noise(self, parameter, plan, generator, step, batch_size):
        sigma = plan.noise_multiplier * plan.max_grad_norm
        noise = torch.randn(parameter.shape, generator=generator) * sigma
        if self.bug == "no noise" or (self.bug == "every second step" and step % 2):
            return noise * 0
        if self.bug == "half noise":
            return noise / 2
        if self.bug == "noise per micro-batch":
            return noise * math.sqrt(max(1, math.ceil(batch_size / 64)))
        if self.bug == "noise on half the coordinates":
            keep = torch.arange(noise.numel()).reshape(noise.shape) % 2
            return noise * keep * math.sqrt(2)
        if self.bug == "shared noise":
            return torch.full_like(noise, float(noise.flatten()[0]))
        return noise


MECHANISM = MechanismParameters(
    noise_multiplier=1.31, sample_rate=0.281, steps=90, max_grad_norm=1.0
)
BUGS = {
    "shuffle": "BatchSizePoisson",
    "fixed size": "BatchSizePoisson",
    "blocks": "BatchSizePoisson",
    "double rate": "ClippedSumAsPlanned",
    "half noise": "NoiseScale",
    "no noise": "NoiseScale",
    "every second step": "NoiseOnEveryStep",
    "clip off": "ClippedSumAsPlanned",
    "per-tensor clip": "ClippedSumAsPlanned",
    "reused seed": "NoiseFreshOverStepsAndRuns",
    "noise on half the coordinates": "NoiseOnEveryCoordinate",
    "shared noise": "NoiseIndependentOverCoordinates",
    "noise per micro-batch": "NoiseScale",
}


@pytest.mark.parametrize(("bug", "check"), BUGS.items())
def test_self_test_catches(bug: str, check: str) -> None:
    """Each bug fails, and by the check made for it."""
    result = mechanism_self_test(HandWrittenDPSGD(bug), MECHANISM)
    assert result.verdict is Verdict.FAIL
    assert check in result.failed


@pytest.mark.parametrize(
    ("noise_multiplier", "sample_rate", "max_grad_norm"),
    [(1.31, 0.281, 1.0), (0.7, 0.01, 0.1), (4.0, 0.05, 2.5), (1.0, 1.0, 1.0)],
)
def test_self_test_passes_an_exact_mechanism(
    noise_multiplier: float, sample_rate: float, max_grad_norm: float
) -> None:
    """Accepted false-alarm rate: 1e-4 for each of the four."""
    mechanism = MechanismParameters(noise_multiplier, sample_rate, 90, max_grad_norm)
    result = mechanism_self_test(HandWrittenDPSGD(), mechanism)
    assert result.failed == ()
    assert result.verdict is Verdict.PASS
    assert result.noise_draws >= 100_000


def test_self_test_passes_the_platforms_algorithm() -> None:
    """Accepted false-alarm rate: 1e-4."""
    pytest.importorskip("opacus")
    from primum_pipelines.optimization.dpsgd import DPSGD

    assert mechanism_self_test(DPSGD(), MECHANISM).failed == ()


def test_self_test_takes_no_hidden_steps_for_a_pass() -> None:
    class Hidden(HandWrittenDPSGD):
        def fit(self, task):
            return super().fit(replace(task, on_step=None))

    result = mechanism_self_test(Hidden(), MECHANISM)
    assert result.verdict is Verdict.INCONCLUSIVE


def test_self_test_catches_a_report_that_differs_from_the_plan() -> None:
    class Boaster(HandWrittenDPSGD):
        def fit(self, task):
            report = super().fit(task)
            return replace(report, executed=((9.0, *report.executed[0][1:]),))

    assert mechanism_self_test(Boaster(), MECHANISM).failed == ("ReportAsPlanned",)


@pytest.mark.parametrize(
    ("release", "verdict"),
    [
        ("right", Verdict.PASS),
        ("half noise", Verdict.FAIL),
        ("no noise", Verdict.FAIL),
        ("same seed", Verdict.FAIL),
        ("scaled by the sum", Verdict.FAIL),
        ("wrong shape", Verdict.INCONCLUSIVE),
    ],
)
def test_release_self_test(release: str, verdict: Verdict) -> None:
    """One Gaussian release; accepted false-alarm rate 1e-4."""
    generator = np.random.default_rng(1)

    def run(total):
        source = np.random.default_rng(3) if release == "same seed" else generator
        noise = source.standard_normal(total.shape) * 2.5
        return {
            "half noise": total + noise / 2,
            "no noise": total,
            "scaled by the sum": total + noise * (1 + total / 1000),
            "wrong shape": (total + noise)[:5],
        }.get(release, total + noise)

    assert gaussian_release_self_test(run, noise_multiplier=2.5).verdict is verdict


def test_analytic_inversion_meets_the_from_scratch_bound() -> None:
    """4,000 draws; MSE N / (sigma ||x||)^2 is chi-square. False alarm 1 %, seed fixed."""
    generator = np.random.default_rng(11)
    records = np.tile(generator.uniform(-1, 1, 784), (4000, 1))
    found = analytic_inversion.invert(
        records, noise_multiplier=0.7, max_grad_norm=1.0, releases=1, generator=generator
    )
    scale = (0.7 * np.linalg.norm(records[0])) ** 2
    chi_square = ((found - records) ** 2).mean(axis=1) * 784 / scale
    assert stats.kstest(chi_square, stats.chi2(784).cdf).pvalue > 0.01
    bound = from_scratch.mse_moments(
        noise_multiplier=0.7,
        target_norm=float(np.linalg.norm(records[0])),
        dimension=784,
        releases=1,
    )
    assert ((found - records) ** 2).mean() == pytest.approx(bound["mean"], rel=0.01)


def test_analytic_inversion_without_noise_is_exact() -> None:
    generator = np.random.default_rng(2)
    records = generator.uniform(-1, 1, (20, 30))
    found = analytic_inversion.invert(
        records, noise_multiplier=0.0, max_grad_norm=1.0, releases=1, generator=generator
    )
    assert np.allclose(found, records)


def one_run(*, noise_multiplier: float, canaries: int, seed: int, planned: PlannedMechanism):
    """Canary scores straight from the definition of the mechanism, each step on its own."""
    generator = np.random.default_rng(seed)
    coins = generator.integers(0, 2, canaries)
    presence = Presence(
        {"head": torch.zeros(canaries)},
        noise_multiplier=planned.noise_multiplier,
        sample_rate=planned.sample_rate,
        max_grad_norm=1.0,
    )
    for _ in range(planned.steps):
        taken = (generator.random(canaries) < planned.sample_rate) * coins
        noisy = taken + generator.standard_normal(canaries) * noise_multiplier
        presence.add({"head": torch.from_numpy(noisy)})
    scores = presence.ratios["head"].tolist()
    return Canaries(tuple(coins.tolist()), tuple(scores))


PLANNED = PlannedMechanism(
    budget="b", noise_multiplier=3.7762, sample_rate=0.281, steps=72, max_grad_norm=1.0
)
FEW_STEPS = PlannedMechanism(
    budget="b", noise_multiplier=0.8848, sample_rate=0.5, steps=4, max_grad_norm=1.0
)


@pytest.mark.parametrize(
    ("planned", "claim", "canaries"), [(PLANNED, 3.0, 100), (FEW_STEPS, 8.0, 2000)]
)
def test_one_run_audit_contradicts_a_true_claim_in_at_most_5_percent(
    planned, claim, canaries
) -> None:
    """200 seeded null runs at the true claim; 5 % plus binomial slack is 19 of 200."""
    above = tail = 0
    for seed in range(200):
        figures = measure(
            one_run(
                noise_multiplier=planned.noise_multiplier,
                canaries=canaries,
                seed=seed,
                planned=planned,
            ),
            mechanism=planned,
            claim=claim,
            delta=1e-5,
        )
        above += figures.epsilon_lower > claim
        tail += figures.low_tail.tpr_lower > figures.low_tail.bound
    assert above + tail <= 19


@pytest.mark.parametrize("seed", range(5))
def test_one_run_audit_catches_missing_noise_at_claim_1(seed: int) -> None:
    """Sigma = 0 with 500 canaries against a claim of 1."""
    figures = measure(
        one_run(noise_multiplier=0.0, canaries=500, seed=seed, planned=PLANNED),
        mechanism=PLANNED,
        claim=1.0,
        delta=1e-5,
    )
    assert figures.epsilon_lower > 1.0
    assert figures.low_tail.tpr_lower > figures.low_tail.bound


@pytest.mark.parametrize("planned", [FEW_STEPS, PlannedMechanism("b", 0.936, 0.1, 100, 1.0)])
def test_looking_at_every_step_shows_more_than_looking_at_their_sum(planned) -> None:
    """Both at a claim of 8, 2,000 canaries, means of five seeds."""
    found: dict[str, list[float]] = {"steps": [], "sum": []}
    for seed in range(5):
        seen = one_run(
            noise_multiplier=planned.noise_multiplier, canaries=2000, seed=seed, planned=planned
        )
        generator = np.random.default_rng(seed)
        taken = generator.binomial(planned.steps, planned.sample_rate, 2000) * np.array(seen.coins)
        noise = generator.standard_normal(2000) * planned.noise_multiplier
        summed = Canaries(seen.coins, tuple((taken + noise * math.sqrt(planned.steps)).tolist()))
        for name, scores in (("steps", seen), ("sum", summed)):
            figures = measure(scores, mechanism=planned, claim=8.0, delta=1e-5)
            found[name].append(figures.epsilon_lower)
    assert np.mean(found["steps"]) > np.mean(found["sum"]) + 0.15


def overfitted(*, noise_multiplier: float, seed: int = 0):
    """Shadows and one target on random labels: a model can only memorize them."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn((240, 100), generator=generator)
    labels = torch.randint(0, 2, (240,), generator=generator)
    members = torch.ones(240, dtype=torch.bool)
    pool = Pool(inputs, labels, members, 0)
    recipe = Recipe(
        noise_multiplier=noise_multiplier,
        sample_rate=0.5,
        steps=60,
        max_grad_norm=1.0,
        learning_rate=2.0,
    )
    halves = complementary_halves(66, 240, generator=generator)

    def build():
        linear = torch.nn.Linear(100, 2)
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
        return torch.nn.Sequential(linear)

    stack = train_stacked(build, pool, halves, recipe, generator=generator)
    logits = logits_of(build(), stack, inputs).double().numpy()[:, None]
    asked = signals.Asked(
        target=logits[0],
        shadows=logits[2:],
        had=halves[2:].numpy(),
        labels=labels.numpy(),
        population=np.zeros(240, dtype=bool),
    )
    return asked, halves[0].numpy()


def found_by(scoring, asked, truth):
    scores = scoring(asked)
    return auc(scores[truth], scores[~truth])


def test_attacks_find_members_of_an_overfitted_model_in_the_published_order() -> None:
    """Fixed seed. The ordering that must hold: loss attack <= offline <= online LiRA."""
    asked, truth = overfitted(noise_multiplier=0.0)
    by_loss = found_by(scorings.loss, asked, truth)
    offline = found_by(scorings.lira_offline, asked, truth)
    online = found_by(scorings.lira_online, asked, truth)
    assert online > 0.75
    assert by_loss <= offline + 0.02
    assert offline <= online + 0.02
    for scoring in (scorings.reference, scorings.shadow_classifier, scorings.modified_entropy):
        assert found_by(scoring, asked, truth) > 0.6, scoring
    threshold = signals.calibrated_threshold(asked, scorings.lira_online)
    assert ((scorings.lira_online(asked) > threshold) == truth).mean() > 0.65


@pytest.mark.parametrize(
    "scoring",
    [scorings.loss, scorings.lira_online, scorings.lira_offline, scorings.reference],
)
def test_attacks_find_nothing_under_strong_noise(scoring) -> None:
    """Fixed seed; 120 against 120 records, so an AUC of 0.5 has a standard error of 0.037."""
    assert 0.35 < found_by(scoring, *overfitted(noise_multiplier=30.0)) < 0.65
