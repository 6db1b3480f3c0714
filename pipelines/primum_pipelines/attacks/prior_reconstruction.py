"""Reconstruction with a prior: what a noisy update shows to somebody who knows such records.

Two adversaries share the prior. A malicious server makes a record's gradient the record itself,
sees it behind the Study's noise, and removes the noise (Schwethelm, Kaiser, Knolle et al., *Visual
Privacy Auditing with Diffusion Models*, 2024). An honest but curious one samples records that
explain an update of the Study's model. Every update is taken by the Study's own algorithm. Nothing
measured here leaves the worker but means and a picture for the zone.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from primum.domain.errors import InvalidValue
from primum_pipelines.attacks import guided_sampling
from primum_pipelines.attacks.figures import Array, ncc, psnr
from primum_pipelines.attacks.guided_sampling import GuidanceEffort
from primum_pipelines.attacks.likeness import (
    DATA_RANGE,
    RECOGNIZABLE,
    Likeness,
    Rebuilt,
    likeness,
    side_by_side,
)
from primum_pipelines.attacks.local_updates import LocalSteps, caused_by
from primum_pipelines.attacks.prior_records import require_apart
from primum_pipelines.attacks.reconstruction import (
    draw_trials,
    fresh_generator,
    observed_update,
    times_named,
)
from primum_pipelines.optimization.algorithm import (
    MechanismParameters,
    TrainingAlgorithm,
    TrainingTask,
)

if TYPE_CHECKING:
    from primum_pipelines.attacks.diffusion_prior import DiffusionPrior
    from primum_pipelines.attacks.linear_prior import LinearPrior
    from primum_pipelines.attacks.pool import Pool
    from primum_pipelines.audits.subject import PlannedMechanism

_PICTURES_MAX = 8


@dataclass(frozen=True, slots=True)
class PriorAttackEffort:
    """How much is tried. Public configuration.

    Args:
        candidates: Records the adversary chooses among, the target being one of them.
        trials: Releases that the malicious server denoises.
        targets: Updates that the curious server inverts, at most ``trials``.
        steps: Of each reverse process.
        restarts: Random starts per inverted update.
    """

    candidates: int
    trials: int
    targets: int
    steps: int
    restarts: int


@dataclass(frozen=True, slots=True)
class Denoised:
    """One way of removing the noise from released records. Restricted.

    Args:
        ncc: Mean correlation with the record.
        psnr: Mean peak signal-to-noise ratio in dB.
        recognizable: Share with an NCC of at least 0.5.
        named: Trials in which it is nearer to its record than to any other candidate.
    """

    ncc: float
    psnr: float
    recognizable: float
    named: int


@dataclass(frozen=True, slots=True)
class PriorReconstruction:
    """Measured figures. Restricted, but for the sample sizes.

    Args:
        candidates: Candidates really used.
        trials: Releases denoised.
        targets: Updates inverted.
        dimension: Numbers in a record.
        observed: The releases as they are, with the clipping undone.
        linear: After the best linear guess from the same public records.
        denoised: After the diffusion prior's best guess.
        sampled: After the reverse process.
        baseline: The mean of the public records: it never saw the target.
        guided: Of the curious server.
        pictures: Contact sheets; empty for tables.
    """

    candidates: int
    trials: int
    targets: int
    dimension: int
    observed: Denoised
    linear: Denoised
    denoised: Denoised
    sampled: Denoised
    baseline: Denoised
    guided: Likeness
    pictures: dict[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, repr=False)
class Priors:
    """What the adversary knows, all from the same public records.

    Args:
        diffusion: The learned prior.
        linear: The best linear one.
        records: What they were learned from.
    """

    diffusion: DiffusionPrior
    linear: LinearPrior
    records: torch.Tensor


def reconstruct_with(
    priors: Priors,
    module: nn.Module,
    whole: Pool,
    *,
    mechanism: PlannedMechanism,
    algorithm: TrainingAlgorithm,
    effort: PriorAttackEffort,
) -> PriorReconstruction:
    """Attack single updates with a prior.

    Args:
        priors: What the adversary knows.
        module: The Study's model.
        whole: All records; training ones are attacked.
        mechanism: The planned mechanism.
        algorithm: What the Study trained with.
        effort: How much to try.

    Raises:
        InvalidValue: If there are fewer than two training units, or the prior knows them.
    """
    require_apart(priors.records, whole)
    pool = whole.only(whole.members)
    if len(pool.labels) < 2:  # noqa: PLR2004 - one candidate cannot be told from itself
        raise InvalidValue("audit data", "must have at least 2 training units", len(pool.labels))
    trials = draw_trials(
        len(pool.labels),
        candidates=effort.candidates,
        trials=effort.trials,
        numbers=pool.inputs[0].numel(),
        generator=np.random.default_rng(),  # Which records are tried must not be predictable.
    )
    candidates = [_flat(pool.inputs[chosen]) for chosen in trials]
    found, picture = _released(priors, pool, trials, mechanism, algorithm, steps=effort.steps)
    ways = {name: _figures(values, candidates) for name, values in found.items()}
    guided, sheet = _guided(
        priors, module, pool, trials, mechanism=mechanism, algorithm=algorithm, effort=effort
    )
    return PriorReconstruction(
        candidates=len(trials[0]),
        trials=len(trials),
        targets=min(effort.targets, len(trials)),
        dimension=pool.inputs[0].numel(),
        guided=guided,
        pictures={"denoised.png": picture, "guided.png": sheet} if picture else {},
        **ways,
    )


def _released(
    priors: Priors,
    pool: Pool,
    trials: list[np.ndarray],
    mechanism: PlannedMechanism,
    algorithm: TrainingAlgorithm,
    *,
    steps: int,
) -> tuple[dict[str, Array], bytes]:
    """Releases of records by a malicious server, and what each prior makes of them."""
    records = pool.inputs[[int(chosen[0]) for chosen in trials]]
    # The factor that undoes the clipping is known to the adversary, which favors it.
    factor = (records.flatten(1).norm(dim=1) / mechanism.max_grad_norm).clamp_min(1.0)
    seen = torch.stack([linear_release(row, mechanism, algorithm) for row in records.flatten(1)])
    observed = (seen * factor[:, None]).view(records.shape)
    noise = mechanism.noise_multiplier * mechanism.max_grad_norm * factor
    flat = _flat(observed)
    linear = np.concatenate(
        [
            priors.linear.denoise(row[None], std=float(own))
            for row, own in zip(flat, noise, strict=True)
        ]
    )
    found = {
        "observed": flat,
        "linear": linear,
        "denoised": _flat(priors.diffusion.denoise(observed, noise=noise)),
        "sampled": _flat(priors.diffusion.reverse(observed, noise=noise, steps=steps)),
        "baseline": np.repeat(priors.linear.mean[None], len(flat), axis=0),
    }
    shape = tuple(records.shape[1:])
    if len(shape) == 1:
        return found, b""
    from primum_pipelines.evaluation import plots

    rows = {"record": _flat(records), **found}
    few = {name: values[:_PICTURES_MAX] for name, values in rows.items()}
    return found, plots.contact_sheet(few, shape=shape, low=-1, high=1)


def linear_release(
    record: torch.Tensor, mechanism: PlannedMechanism, algorithm: TrainingAlgorithm
) -> torch.Tensor:
    """One step of a single linear unit whose loss is its output: the clipped record plus noise.

    Args:
        record: ``(d,)``.
        mechanism: Noise multiplier and clipping bound; the record takes part for certain.
        algorithm: What takes the step.

    Returns:
        ``(d,)``.
    """
    unit = nn.Linear(len(record), 1, bias=False)
    nn.init.zeros_(unit.weight)
    algorithm.fit(
        TrainingTask(
            module=unit,
            inputs=(record[None].float(),),
            loss=_output,
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
    return -unit.weight.detach()[0]


def _output(module: nn.Module, records: torch.Tensor) -> torch.Tensor:
    losses: torch.Tensor = module(records)[:, 0]
    return losses


def _figures(found: Array, candidates: list[Array]) -> Denoised:
    truth = np.stack([rows[0] for rows in candidates])
    close = ncc(found, truth)
    return Denoised(
        ncc=float(close.mean()),
        psnr=float(psnr(found, truth, data_range=DATA_RANGE).mean()),
        recognizable=float((close >= RECOGNIZABLE).mean()),
        named=times_named(found, candidates),
    )


def _guided(
    priors: Priors,
    module: nn.Module,
    pool: Pool,
    trials: list[np.ndarray],
    *,
    mechanism: PlannedMechanism,
    algorithm: TrainingAlgorithm,
    effort: PriorAttackEffort,
) -> tuple[Likeness, bytes]:
    """Updates of the Study's model, inverted with the prior, with and without the noise."""
    chosen = trials[: effort.targets]
    first, shape = [int(item[0]) for item in chosen], tuple(pool.inputs.shape[1:])
    own = copy.deepcopy(module)
    local = LocalSteps(mechanism.max_grad_norm)
    caused = caused_by(own, local)
    noisy = [
        observed_update(
            own,
            pool.inputs[at : at + 1],
            pool.labels[at : at + 1],
            mechanism,
            algorithm,
            local=local,
        )
        for at in first
    ]
    clean = caused(pool.inputs[first], pool.labels[first]).detach()
    both = _flat(
        guided_sampling.sample(
            priors.diffusion,
            torch.cat([torch.stack(noisy), clean]),
            pool.labels[first].repeat(2),
            caused=caused,
            effort=GuidanceEffort(effort.steps, effort.restarts),
            generator=fresh_generator(),
        )
    )
    count = len(first)
    guess = np.repeat(priors.linear.mean[None], count, axis=0)
    parts = Rebuilt(_flat(pool.inputs[first]), both[:count], both[count:], guess)
    named = times_named(parts.found, [_flat(pool.inputs[item]) for item in chosen])
    return likeness(own, parts, shape, identified=named), side_by_side(parts, shape)


def _flat(rows: torch.Tensor) -> Array:
    result: Array = rows.flatten(1).double().numpy()
    return result
