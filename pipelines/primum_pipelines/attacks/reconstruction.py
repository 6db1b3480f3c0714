"""Reconstruction from one update of the Study's own training algorithm, on the Study's model.

Each trial lets the algorithm take a step, or a site's several local steps, on one record that
certainly takes part, and reads the noisy update off the parameters, so the noise is what the code
really adds. Nothing measured here leaves the worker but means.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from primum.domain.errors import InvalidValue
from primum_pipelines.attacks import analytic_inversion, gradient_inversion
from primum_pipelines.attacks.figures import Array, ncc
from primum_pipelines.attacks.gradient_inversion import InversionEffort
from primum_pipelines.attacks.likeness import Likeness, Rebuilt, likeness, side_by_side
from primum_pipelines.attacks.linear_prior import LinearPrior
from primum_pipelines.attacks.local_updates import LocalSteps, caused_by
from primum_pipelines.attacks.pool import Pool, pool_of
from primum_pipelines.optimization.algorithm import (
    MechanismParameters,
    TrainingAlgorithm,
    TrainingTask,
)

if TYPE_CHECKING:
    from primum_pipelines.audits.subject import PlannedMechanism
    from primum_pipelines.datasets.table import UnitTable
    from primum_pipelines.models.artifact import LoadedModel

_TOTAL_VARIATION = 0.2  # The published weight for images.
_GRADIENT_NUMBERS_MAX = 2**25  # Candidates' gradients held at once: 128 MB of float32.


@dataclass(frozen=True, slots=True)
class ReconstructionEffort:
    """How much is tried. Public configuration.

    Args:
        candidates: Records the adversary chooses among, the target being one of them.
        trials: Identification trials.
        targets: Records that the optimization attacks, at most ``trials``.
        iterations: Of the optimization.
        restarts: Of the optimization.
        local_steps: Steps that an update adds up.
        step_size: Of each, per unit of the sum of gradients; without effect for one step.
    """

    candidates: int
    trials: int
    targets: int
    iterations: int
    restarts: int
    local_steps: int = 1
    step_size: float = 0.0

    def local(self, max_grad_norm: float) -> LocalSteps:
        """How an update comes about under a clipping bound."""
        return LocalSteps(max_grad_norm, self.local_steps, self.step_size)


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """Measured figures. Restricted, but for the sample sizes.

    Args:
        candidates: Candidates really used; fewer where the data set is small.
        trials: Identification trials.
        targets: Records that the optimization attacked.
        dimension: Numbers in a record.
        identified_by_gradient: Trials in which the observed update named the right candidate.
        identified_without_noise: The same of the update without the noise: not all where records
            cause the same one.
        optimized: Figures of the optimization attack.
        ncc_analytic: Mean correlation of the analytic attack of a malicious server.
        ncc_linear_prior: The same after the best linear guess from held-out records, who such an
            attacker may well have; ``None`` where there are fewer than two.
        gradient_norm_mean: Mean norm of the clipped gradients.
        picture: Records and their reconstructions side by side; empty for tables.
    """

    candidates: int
    trials: int
    targets: int
    dimension: int
    identified_by_gradient: int
    identified_without_noise: int
    optimized: Likeness
    ncc_analytic: float
    ncc_linear_prior: float | None
    gradient_norm_mean: float
    picture: bytes = field(default=b"", repr=False)


def reconstruct(
    model: LoadedModel,
    table: UnitTable,
    *,
    mechanism: PlannedMechanism,
    algorithm: TrainingAlgorithm,
    effort: ReconstructionEffort,
) -> Reconstruction:
    """Attack single updates.

    Args:
        model: The Study's model.
        table: The private data, training rows of which are targets and candidates.
        mechanism: The planned mechanism.
        algorithm: What the Study trained with.
        effort: How much to try.

    Returns:
        Figures.

    Raises:
        InvalidValue: If there are fewer than two training units.
    """
    whole = pool_of(table, model.spec)
    pool = whole.only(whole.members)
    if len(pool.labels) < 2:  # noqa: PLR2004 - one candidate cannot be told from itself
        raise InvalidValue("audit data", "must have at least 2 training units", len(pool.labels))
    generator = np.random.default_rng()  # Which records are tried must not be predictable.
    trials = draw_trials(
        len(pool.labels),
        candidates=effort.candidates,
        trials=effort.trials,
        numbers=sum(parameter.numel() for parameter in model.module.parameters()),
        generator=generator,
    )
    module = copy.deepcopy(model.module)
    local = effort.local(mechanism.max_grad_norm)
    seen = [
        _identified(module, pool, chosen, mechanism=mechanism, algorithm=algorithm, local=local)
        for chosen in trials
    ]
    targets = min(effort.targets, len(trials))
    figures, picture = _by_optimization(
        module,
        pool.inputs,
        pool.labels,
        trials=trials[:targets],
        observed=torch.stack([item.noisy for item in seen[:targets]]),
        local=local,
        effort=effort,
    )
    records = _flat(pool.inputs[[int(chosen[0]) for chosen in trials]])
    anchor = analytic_inversion.invert(
        records,
        noise_multiplier=mechanism.noise_multiplier,
        max_grad_norm=mechanism.max_grad_norm,
        releases=1,
        generator=generator,
    )
    return Reconstruction(
        candidates=len(trials[0]),
        trials=len(trials),
        targets=targets,
        dimension=records.shape[1],
        identified_by_gradient=sum(item.right for item in seen),
        identified_without_noise=sum(item.right_without_noise for item in seen),
        ncc_analytic=float(ncc(anchor, records).mean()),
        ncc_linear_prior=_with_prior(whole.only(~whole.members), anchor, records, mechanism),
        gradient_norm_mean=float(np.mean([item.norm for item in seen])),
        optimized=figures,
        picture=picture,
    )


def _with_prior(
    others: Pool, anchor: Array, records: Array, mechanism: PlannedMechanism
) -> float | None:
    """The analytic attack's observation, denoised by what held-out records look like."""
    if len(others.labels) < 2:  # noqa: PLR2004 - a prior needs two
        return None
    prior = LinearPrior.of(_flat(others.inputs))
    norms = np.maximum(1.0, np.linalg.norm(records, axis=1) / mechanism.max_grad_norm)
    std = mechanism.noise_multiplier * mechanism.max_grad_norm * norms
    found = np.stack(
        [prior.denoise(row[None], std=float(own))[0] for row, own in zip(anchor, std, strict=True)]
    )
    return float(ncc(found, records).mean())


@dataclass(frozen=True, slots=True, repr=False)
class _Seen:
    """One trial: the observed update, whether it and the clean one named the record, its norm."""

    noisy: torch.Tensor
    right: bool
    right_without_noise: bool
    norm: float


def _identified(
    module: nn.Module,
    pool: Pool,
    chosen: np.ndarray,
    *,
    mechanism: PlannedMechanism,
    algorithm: TrainingAlgorithm,
    local: LocalSteps,
) -> _Seen:
    """Let the algorithm take its steps on the first of the candidates, and guess it."""
    inputs, labels = pool.inputs[chosen], pool.labels[chosen]
    noisy = observed_update(module, inputs[:1], labels[:1], mechanism, algorithm, local=local)
    updates = caused_by(module, local)(inputs, labels).detach()
    right, clean = (
        first_is_best(log_likelihoods(seen, updates).numpy()) for seen in (noisy, updates[0])
    )
    return _Seen(noisy, right, clean, float(updates[0].norm()))


def observed_update(
    module: nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    mechanism: PlannedMechanism,
    algorithm: TrainingAlgorithm,
    *,
    local: LocalSteps,
) -> torch.Tensor:
    """One noisy update of one record, as the Study's algorithm really makes it.

    Args:
        module: The model; left as it was.
        inputs: ``(1, ...)``.
        labels: ``(1,)``.
        mechanism: Noise multiplier and clipping bound; the record takes part for certain.
        algorithm: What takes the steps.
        local: How many, and how far each moves the parameters.

    Returns:
        ``(parameters,)``: clipped gradients along the steps plus the noise of each.
    """
    stepped = copy.deepcopy(module).train()
    before, size = _parameters(stepped), local.step_size if local.steps > 1 else 1.0
    algorithm.fit(
        TrainingTask(
            module=stepped,
            inputs=(inputs, labels),
            loss=_cross_entropy,
            expected_units=1,
            mechanism=MechanismParameters(
                noise_multiplier=mechanism.noise_multiplier,
                sample_rate=1.0,
                steps=local.steps,
                max_grad_norm=mechanism.max_grad_norm,
                clipping=mechanism.clipping,
            ),
            learning_rate=size,
        )
    )
    return (before - _parameters(stepped)) / size


def log_likelihoods(noisy: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """How well each candidate's gradient explains an observation under Gaussian noise, ``(n,)``.

    Up to a constant and a positive factor; the optimal score for equally likely candidates.
    """
    wide = candidates.double()
    return wide @ noisy.double() - wide.square().sum(dim=1) / 2


def first_is_best(scores: Array) -> bool:
    """Whether the first of several scores is strictly the largest: a tie names nobody."""
    return bool(scores[0] > scores[1:].max())


def _by_optimization(
    module: nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    *,
    trials: list[np.ndarray],
    observed: torch.Tensor,
    local: LocalSteps,
    effort: ReconstructionEffort,
) -> tuple[Likeness, bytes]:
    """The optimization attack with and without the noise, and the best guess without any update."""
    first = [int(chosen[0]) for chosen in trials]
    shape = tuple(inputs.shape[1:])
    how = InversionEffort(
        iterations=effort.iterations,
        restarts=effort.restarts,
        total_variation=_TOTAL_VARIATION if len(shape) > 1 else 0.0,
    )
    caused = caused_by(module, local)
    clean = caused(inputs[first], labels[first]).detach()
    both = gradient_inversion.invert(
        caused,
        torch.cat([observed, clean]),
        labels[first].repeat(2),
        input_shape=shape,
        effort=how,
        generator=fresh_generator(),
    )
    n, truth = len(first), _flat(inputs[first])
    found, without_noise = _flat(both[:n]), _flat(both[n:])
    # Without the update, the best guess is the mean of the candidates.
    guess = np.stack([_flat(inputs[chosen]).mean(axis=0) for chosen in trials])
    named = times_named(found, [_flat(inputs[chosen]) for chosen in trials])
    parts = Rebuilt(truth, found, without_noise, guess)
    return likeness(module, parts, shape, identified=named), side_by_side(parts, shape)


def times_named(found: Array, candidates: Sequence[Array]) -> int:
    """How many reconstructions correlate best with the first of their candidates, the record."""
    return sum(
        first_is_best(ncc(np.repeat(row[None], len(rows), axis=0), rows))
        for row, rows in zip(found, candidates, strict=True)
    )


def draw_trials(
    units: int, *, candidates: int, trials: int, numbers: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Candidates of each trial, distinct, the target first: a uniform choice among them.

    Args:
        units: Records there are.
        candidates: Of a trial, at most: fewer where their observations would not fit into memory.
        trials: How many.
        numbers: In one observation.
        generator: Draws them.
    """
    affordable = max(2, _GRADIENT_NUMBERS_MAX // max(1, numbers))
    count = min(units, candidates, affordable)
    return [generator.permutation(units)[:count] for _ in range(trials)]


def _cross_entropy(module: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(module(inputs), labels, reduction="none")


def _parameters(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1).clone() for p in module.parameters()])


def _flat(rows: torch.Tensor) -> Array:
    result: Array = rows.flatten(1).double().numpy()
    return result


def fresh_generator() -> torch.Generator:
    """A generator that nobody can predict."""
    generator = torch.Generator()
    generator.seed()
    return generator
