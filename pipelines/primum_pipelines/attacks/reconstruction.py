"""Reconstruction from one update of the Study's own training algorithm, on the Study's model.

Each trial lets the algorithm take one step on one record that certainly takes part, and reads the
noisy gradient off the parameters, so the noise is what the code really adds. Nothing measured here
leaves the worker but means.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from primum.domain.errors import InvalidValue
from primum_pipelines.attacks import analytic_inversion, gradient_inversion
from primum_pipelines.attacks.figures import Array, ncc, psnr, ssim
from primum_pipelines.attacks.gradient_inversion import InversionEffort, clipped_gradients
from primum_pipelines.attacks.linear_prior import LinearPrior
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
_DATA_RANGE = 2.0  # Inputs are scaled to [-1, 1] by public bounds.
RECOGNIZABLE = 0.5  # NCC from which people see the resemblance.
_PICTURES_MAX = 8
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
    """

    candidates: int
    trials: int
    targets: int
    iterations: int
    restarts: int


@dataclass(frozen=True, slots=True)
class OptimizedFigures:
    """What the optimization attack reached, on average over its targets. Restricted.

    Args:
        identified: Targets whose reconstruction is nearer to them than to any other candidate.
        ncc_mean: Correlation with the record, under the Study's noise.
        ncc_worst: The largest of them.
        ncc_without_noise: Without the noise: how well the attack works at all.
        ncc_baseline: Of the best guess without the update, the candidates' mean.
        psnr_mean: Peak signal-to-noise ratio in dB; likewise for the others.
        mse_mean: Mean squared error with records scaled to [0, 1]; likewise.
        ssim_mean: Structural similarity; likewise. ``None`` for tables.
        feature_distance: One minus the cosine between what the model's last hidden layer sees in
            record and reconstruction.
        recognizable: Share of targets with an NCC of at least 0.5.
    """

    identified: int
    ncc_mean: float
    ncc_worst: float
    ncc_without_noise: float
    ncc_baseline: float
    psnr_mean: float
    psnr_without_noise: float
    psnr_baseline: float
    mse_mean: float
    mse_baseline: float
    ssim_mean: float | None
    ssim_without_noise: float | None
    ssim_baseline: float | None
    feature_distance: float
    feature_distance_baseline: float
    recognizable: float
    recognizable_baseline: float


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """Measured figures. Restricted, but for the sample sizes.

    Args:
        candidates: Candidates really used; fewer where the data set is small.
        trials: Identification trials.
        targets: Records that the optimization attacked.
        dimension: Numbers in a record.
        identified_by_gradient: Trials in which the observed update named the right candidate.
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
    optimized: OptimizedFigures
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
    trials = _draw(len(pool.labels), effort, model.module, generator)
    module = copy.deepcopy(model.module)
    seen = [_identified(module, pool, chosen, mechanism, algorithm) for chosen in trials]
    targets = min(effort.targets, len(trials))
    figures, picture = _by_optimization(
        module,
        pool.inputs,
        pool.labels,
        trials=trials[:targets],
        observed=torch.stack([item.noisy for item in seen[:targets]]),
        mechanism=mechanism,
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
    """One trial: the observed update, whether it named its record, the clean gradient's norm."""

    noisy: torch.Tensor
    right: bool
    norm: float


def _identified(
    module: nn.Module,
    pool: Pool,
    chosen: np.ndarray,
    mechanism: PlannedMechanism,
    algorithm: TrainingAlgorithm,
) -> _Seen:
    """Let the algorithm take a step on the first of the candidates, and guess it."""
    inputs, labels = pool.inputs[chosen], pool.labels[chosen]
    noisy = observed_update(module, inputs[:1], labels[:1], mechanism, algorithm)
    gradients = clipped_gradients(module, inputs, labels, max_grad_norm=mechanism.max_grad_norm)
    right = first_is_best(log_likelihoods(noisy, gradients).numpy())
    return _Seen(noisy, right, float(gradients[0].norm()))


def observed_update(
    module: nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    mechanism: PlannedMechanism,
    algorithm: TrainingAlgorithm,
) -> torch.Tensor:
    """One noisy clipped gradient of one record, as the Study's algorithm really makes it.

    Args:
        module: The model; left as it was.
        inputs: ``(1, ...)``.
        labels: ``(1,)``.
        mechanism: Noise multiplier and clipping bound; the record takes part for certain.
        algorithm: What takes the step.

    Returns:
        ``(parameters,)``: clipped gradient plus noise.
    """
    stepped = copy.deepcopy(module).train()
    before = _parameters(stepped)
    algorithm.fit(
        TrainingTask(
            module=stepped,
            inputs=(inputs, labels),
            loss=_cross_entropy,
            expected_units=1,
            mechanism=MechanismParameters(
                noise_multiplier=mechanism.noise_multiplier,
                sample_rate=1.0,
                steps=1,
                max_grad_norm=mechanism.max_grad_norm,
            ),
            learning_rate=1.0,
        )
    )
    return before - _parameters(stepped)


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
    mechanism: PlannedMechanism,
    effort: ReconstructionEffort,
) -> tuple[OptimizedFigures, bytes]:
    """The optimization attack with and without the noise, and the best guess without any update."""
    first = [int(chosen[0]) for chosen in trials]
    shape = tuple(inputs.shape[1:])
    how = InversionEffort(
        iterations=effort.iterations,
        restarts=effort.restarts,
        total_variation=_TOTAL_VARIATION if len(shape) > 1 else 0.0,
    )
    clean = clipped_gradients(
        module, inputs[first], labels[first], max_grad_norm=mechanism.max_grad_norm
    )
    both = gradient_inversion.invert(
        module,
        torch.cat([observed, clean]),
        labels[first].repeat(2),
        input_shape=shape,
        effort=how,
        generator=_fresh_generator(),
    )
    n, truth = len(first), _flat(inputs[first])
    found, without_noise = _flat(both[:n]), _flat(both[n:])
    # Without the update, the best guess is the mean of the candidates.
    guess = np.stack([_flat(inputs[chosen]).mean(axis=0) for chosen in trials])
    nearest = [
        first_is_best(ncc(np.repeat(row[None], len(chosen), axis=0), _flat(inputs[chosen])))
        for row, chosen in zip(found, trials, strict=True)
    ]
    parts = _Parts(truth, found, without_noise, guess)
    return _figures(module, parts, shape, identified=sum(nearest)), _picture(parts, shape)


@dataclass(frozen=True, slots=True, repr=False)
class _Parts:
    """Records, what was made of their updates with and without noise, and the guess without one."""

    truth: Array
    found: Array
    clean: Array
    guess: Array


def _figures(
    module: nn.Module, parts: _Parts, shape: tuple[int, ...], *, identified: int
) -> OptimizedFigures:
    def similarity(values: Array) -> float | None:
        if len(shape) == 1:
            return None
        return float(ssim(values, parts.truth, shape=shape, data_range=_DATA_RANGE).mean())

    def loudness(values: Array) -> float:
        return float(psnr(values, parts.truth, data_range=_DATA_RANGE).mean())

    def error(values: Array) -> float:
        return float((((values - parts.truth) / _DATA_RANGE) ** 2).mean())

    with_noise, alone = ncc(parts.found, parts.truth), ncc(parts.guess, parts.truth)
    return OptimizedFigures(
        identified=identified,
        ncc_mean=float(with_noise.mean()),
        ncc_worst=float(with_noise.max()),
        ncc_without_noise=float(ncc(parts.clean, parts.truth).mean()),
        ncc_baseline=float(alone.mean()),
        psnr_mean=loudness(parts.found),
        psnr_without_noise=loudness(parts.clean),
        psnr_baseline=loudness(parts.guess),
        mse_mean=error(parts.found),
        mse_baseline=error(parts.guess),
        ssim_mean=similarity(parts.found),
        ssim_without_noise=similarity(parts.clean),
        ssim_baseline=similarity(parts.guess),
        feature_distance=_apart(module, parts.found, parts.truth, shape),
        feature_distance_baseline=_apart(module, parts.guess, parts.truth, shape),
        recognizable=float((with_noise >= RECOGNIZABLE).mean()),
        recognizable_baseline=float((alone >= RECOGNIZABLE).mean()),
    )


def _apart(module: nn.Module, found: Array, truth: Array, shape: tuple[int, ...]) -> float:
    """Mean distance of features: what enters the module's last linear layer."""
    last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1:]
    seen: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, told: seen.append(told[0])) for layer in last
    ]
    try:
        with torch.no_grad():
            for values in (found, truth):
                module(torch.from_numpy(values.astype(np.float32)).reshape(-1, *shape))
    finally:
        for hook in hooks:
            hook.remove()
    if not last:
        return float("nan")
    left, right = (part.reshape(len(found), -1).double() for part in seen)
    return float((1 - nn.functional.cosine_similarity(left, right, dim=1)).mean())


def _picture(parts: _Parts, shape: tuple[int, ...]) -> bytes:
    if len(shape) == 1:
        return b""
    from primum_pipelines.evaluation import plots

    rows = {"record": parts.truth, "attack": parts.found, "no noise": parts.clean}
    few = {name: values[:_PICTURES_MAX] for name, values in rows.items()}
    return plots.contact_sheet(few, shape=shape, low=-1, high=1)


def _draw(
    units: int, effort: ReconstructionEffort, module: nn.Module, generator: np.random.Generator
) -> list[np.ndarray]:
    """Candidates of each trial, distinct, the target first: a uniform choice among them."""
    parameters = sum(parameter.numel() for parameter in module.parameters())
    affordable = max(2, _GRADIENT_NUMBERS_MAX // max(1, parameters))
    count = min(units, effort.candidates, affordable)
    return [generator.permutation(units)[:count] for _ in range(effort.trials)]


def _cross_entropy(module: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(module(inputs), labels, reduction="none")


def _parameters(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1).clone() for p in module.parameters()])


def _flat(rows: torch.Tensor) -> Array:
    result: Array = rows.flatten(1).double().numpy()
    return result


def _fresh_generator() -> torch.Generator:
    generator = torch.Generator()
    generator.seed()
    return generator
