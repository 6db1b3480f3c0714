"""The imprint attack on the Study's own training algorithm: what a malicious server would read off.

Each trial lets the algorithm take one step of an imprint layer on a batch, as a server that swapped
the architecture would, and looks for the target among candidates. What comes back is numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from primum.domain.errors import InvalidValue
from primum_pipelines.attacks import imprint
from primum_pipelines.attacks.figures import Array, ncc, psnr
from primum_pipelines.attacks.pool import Pool, pool_of
from primum_pipelines.attacks.reconstruction import first_is_best
from primum_pipelines.optimization.algorithm import (
    MechanismParameters,
    TrainingAlgorithm,
    TrainingTask,
)

if TYPE_CHECKING:
    from primum_pipelines.audits.subject import PlannedMechanism
    from primum_pipelines.datasets.table import UnitTable
    from primum_pipelines.models.artifact import ModelSpec

_DATA_RANGE = 2.0  # Inputs are scaled to [-1, 1] by public bounds.
_SMALL_STEP = 1e-4  # The layer's weights are about 1e-3, of which float32 keeps seven digits.
RECOVERED_DECIBELS = 30.0  # People cannot tell such a picture from its record.


@dataclass(frozen=True, slots=True)
class ImprintEffort:
    """How much is tried. Public configuration.

    Args:
        batch: Records of one step.
        bins: Rows of the imprint layer.
        candidates: Records the adversary chooses among, the target being one of them.
        trials: Updates that are attacked.
        local_steps: Steps that an update adds up; the whole batch takes part in each.
    """

    batch: int
    bins: int
    candidates: int
    trials: int
    local_steps: int = 1


@dataclass(frozen=True, slots=True)
class Imprinted:
    """Measured figures. Restricted, but for the sample sizes.

    Args:
        batch: Records of one step; fewer where the data set is small.
        candidates: Candidates really used.
        trials: Steps attacked.
        share_recovered: Share of a batch recovered from the Study's noisy sums.
        share_without_noise: The same without clipping and noise: how well the attack works at all.
        expected_share: What theory says of the latter for records that fill the bins evenly.
        identified: Trials in which the target's reconstruction named it among the candidates.
    """

    batch: int
    candidates: int
    trials: int
    share_recovered: float
    share_without_noise: float
    expected_share: float
    identified: int


def imprint_attack(
    table: UnitTable,
    spec: ModelSpec,
    *,
    mechanism: PlannedMechanism,
    algorithm: TrainingAlgorithm,
    effort: ImprintEffort,
) -> Imprinted:
    """Attack steps on training records, with bins fitted to held-out ones.

    Raises:
        InvalidValue: If there are fewer than two training or two held-out units.
    """
    pool = pool_of(table, spec)
    own, others = pool.only(pool.members), pool.only(~pool.members)
    if min(len(own.labels), len(others.labels)) < 2:  # noqa: PLR2004 - one cannot be told from itself
        counts = f"{len(own.labels)} and {len(others.labels)}"
        raise InvalidValue("audit data", "must have 2 training and 2 held-out units", counts)
    begins = imprint.quantiles(_flat(others), effort.bins)
    generator = np.random.default_rng()  # Which records are tried must not be predictable.
    candidates = min(len(own.labels), effort.candidates)
    batch = 1 + min(len(own.labels) - candidates, effort.batch - 1)
    noisy, clean, identified = [], [], 0
    for _ in range(effort.trials):
        order = generator.permutation(len(own.labels))
        # The target is a uniform choice among the candidates; the rest of the batch is others.
        rest = order[candidates : candidates + batch - 1]
        records = own.inputs[np.concatenate([order[:1], rest])].flatten(1)
        layer = imprint.Imprint(begins, dimension=records.shape[1])
        found = imprint.recover(
            *_update(layer, records, mechanism, algorithm, steps=effort.local_steps)
        )
        truth = records.double().numpy()
        noisy.append(_recovered(found, truth))
        exact = imprint.gradient_sum(
            layer,
            records,
            max_grad_norm=float("inf"),
            noise_multiplier=0.0,
            generator=torch.Generator(),
        )
        clean.append(_recovered(imprint.recover(*exact), truth))
        scores = [
            _best_match(found, row) for row in _flat(own.only(torch.from_numpy(order[:candidates])))
        ]
        identified += first_is_best(np.array(scores))
    return Imprinted(
        batch=batch,
        candidates=candidates,
        trials=effort.trials,
        share_recovered=float(np.mean(noisy)),
        share_without_noise=float(np.mean(clean)),
        expected_share=imprint.expected_share(records=batch, bins=effort.bins),
        identified=identified,
    )


def _update(
    layer: imprint.Imprint,
    records: torch.Tensor,
    mechanism: PlannedMechanism,
    algorithm: TrainingAlgorithm,
    *,
    steps: int,
) -> tuple[Array, Array]:
    """The noisy clipped sums of all steps together, read off the parameters.

    Of several steps each is small, so that the layer measures at the last as at the first: the
    server chooses how far a step goes.
    """
    size = 1.0 if steps == 1 else _SMALL_STEP
    before = [value.detach().double().clone() for value in layer.parameters()]
    algorithm.fit(
        TrainingTask(
            module=layer,
            inputs=(records.float(),),
            loss=_own_loss,
            expected_units=len(records),
            mechanism=MechanismParameters(
                noise_multiplier=mechanism.noise_multiplier,
                sample_rate=1.0,
                steps=steps,
                max_grad_norm=mechanism.max_grad_norm,
                clipping=mechanism.clipping,
            ),
            learning_rate=size * len(records),  # The step divides by the batch: sums come back.
        )
    )
    moved = [
        ((old - value.detach().double()) / size).numpy()
        for old, value in zip(before, layer.parameters(), strict=True)
    ]
    with torch.no_grad():
        for value, old in zip(layer.parameters(), before, strict=True):
            value.copy_(old)
    return moved[0], moved[1]


def _own_loss(module: torch.nn.Module, records: torch.Tensor) -> torch.Tensor:
    losses: torch.Tensor = module(records)
    return losses


def _recovered(found: Array, truth: Array) -> float:
    if not len(found):
        return 0.0
    best = [
        psnr(found, np.repeat(row[None], len(found), axis=0), data_range=_DATA_RANGE).max()
        for row in truth
    ]
    return float((np.array(best) > RECOVERED_DECIBELS).mean())


def _best_match(found: Array, record: Array) -> float:
    if not len(found):
        return 0.0
    return float(ncc(found, np.repeat(record[None], len(found), axis=0)).max())


def _flat(pool: Pool) -> Array:
    result: Array = pool.inputs.flatten(1).double().numpy()
    return result
