"""The membership attack as a whole: pool, stacked shadows, signals, scores, figures. Heavy.

Shadows are trained, asked once about the whole pool, and dropped. What comes back is numbers about
the attack, never a record, a score of a record, or a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from primum.domain.errors import InvalidValue
from primum_pipelines.attacks import figures, lira, shadows
from primum_pipelines.attacks.figures import Array
from primum_pipelines.attacks.pool import Pool, pool_of
from primum_pipelines.models.registry import build

if TYPE_CHECKING:
    from primum_pipelines.attacks.shadows import Recipe
    from primum_pipelines.datasets.table import UnitTable
    from primum_pipelines.models.artifact import LoadedModel


@dataclass(frozen=True, slots=True, repr=False)
class MembershipScores:
    """Scores of the attacked model's records; they stay in the worker.

    Args:
        present: Of members, ``(n_members,)``.
        absent: Of non-members, ``(n_non_members,)``.
        threshold: Calibrated on shadows.
        duplicates: Rows dropped before anything.
        loss_auc: AUC of the plain loss attack, for comparison.
    """

    present: Array
    absent: Array
    threshold: float
    duplicates: int
    loss_auc: float


def attack(
    model: LoadedModel,
    table: UnitTable,
    *,
    recipe: Recipe,
    shadow_count: int,
    pool_most: int,
) -> MembershipScores:
    """Online LiRA against the Study's own model.

    Members are its training units, non-members the held-out ones of the same split rule.

    Args:
        model: The attacked model.
        table: The private table.
        recipe: The Study's recipe; the shadows' too.
        shadow_count: Even number of shadows.
        pool_most: Largest pool; a larger one is sampled at random, both sides alike.

    Returns:
        Scores.

    Raises:
        InvalidValue: If there is no member or no non-member.
    """
    generator = torch.Generator()
    generator.seed()  # Which records are tried must not be predictable.
    pool = _sampled(pool_of(table, model.spec), pool_most, generator)
    if bool(pool.members.all()) or not bool(pool.members.any()):
        raise InvalidValue("audit data", "must have members and non-members", "one of them only")
    halves = shadows.complementary_halves(shadow_count, len(pool.labels), generator=generator)

    def fresh() -> torch.nn.Module:
        return build(
            model.spec.model,
            model.spec.parameters,
            input_shape=model.spec.input_shape,
            classes=len(model.spec.classes),
        )

    stack = shadows.train_stacked(fresh, pool, halves, recipe, generator=generator)
    signals = lira.scaled_confidence(
        shadows.logits_of(model.module, stack, pool.inputs), pool.labels
    )
    with torch.no_grad():
        own = lira.scaled_confidence(model.module(pool.inputs), pool.labels)
    had = halves.numpy()
    scores = lira.online_scores(own, signals, had)
    members = pool.members.numpy()
    return MembershipScores(
        present=scores[members],
        absent=scores[~members],
        threshold=lira.calibrated_threshold(signals, had),
        duplicates=pool.duplicates,
        loss_auc=figures.auc(own[members], own[~members]),
    )


def _sampled(pool: Pool, most: int, generator: torch.Generator) -> Pool:
    count = len(pool.labels)
    if count <= most:
        return pool
    kept = torch.from_numpy(np.sort(torch.randperm(count, generator=generator)[:most].numpy()))
    return Pool(pool.inputs[kept], pool.labels[kept], pool.members[kept], pool.duplicates)
