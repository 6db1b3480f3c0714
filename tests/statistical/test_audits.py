"""Do the audits catch every broken mechanism, and leave a right one alone?

The exact DP-SGD here is written by hand, independent of the platform's, and is broken in one way
per test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

torch = pytest.importorskip("torch")

from primum.domain.governance.evidence import Verdict  # noqa: E402
from primum_pipelines.audits.self_test.mechanism import mechanism_self_test  # noqa: E402
from primum_pipelines.optimization.algorithm import (  # noqa: E402
    MechanismParameters,
    TrainingReport,
    TrainingTask,
)


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
    "shuffle": "ParticipationPoisson",
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
