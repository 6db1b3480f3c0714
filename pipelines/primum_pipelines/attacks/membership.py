"""A membership attack as a whole: pool, stacked shadows, queries, scores. Heavy.

Shadows are trained, asked once about the whole pool, and dropped, unless the steward keeps them in
the zone. What comes back is numbers about the attack, never a record, a score of a record, or a
model.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from primum.domain.errors import InvalidValue
from primum_pipelines.attacks import figures, scorings, shadows, signals
from primum_pipelines.attacks.figures import Array
from primum_pipelines.attacks.pool import Pool, pool_of
from primum_pipelines.attacks.queries import queries_of
from primum_pipelines.attacks.shadow_cache import KeptShadows, ShadowCache
from primum_pipelines.attacks.signals import Asked, Scoring
from primum_pipelines.models.registry import build

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from primum_pipelines.attacks.shadows import Recipe
    from primum_pipelines.datasets.table import UnitTable
    from primum_pipelines.models.artifact import LoadedModel, ModelSpec

_POPULATION_SHARE = 3  # One held-out record in three is compared with instead of attacked.
_OTHER = {"hidden": 64, "layers": 1}


class Shadowing(enum.StrEnum):
    """What the attacker knows of the target's architecture."""

    GRAY_BOX = "GrayBox"  # the same one
    BLACK_BOX = "BlackBox"  # another one


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard an attack tries.

    Args:
        shadows: Even number of shadow models.
        pool: Records at most; more are sampled, members and non-members alike.
        queries: Queries per record; 1 asks about the record alone.
        shadowing: Architecture of the shadows.
        population: Whether the attack compares with records that no model had.
    """

    shadows: int
    pool: int
    queries: int = 1
    shadowing: Shadowing = Shadowing.GRAY_BOX
    population: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class MembershipScores:
    """Scores of the attacked model's records; they stay in the worker.

    Args:
        present: Of members, ``(n_members,)``.
        absent: Of non-members, ``(n_non_members,)``.
        threshold: Calibrated on shadows.
        duplicates: Rows dropped before anything.
        loss_auc: AUC of the plain loss attack, for comparison.
        task_accuracy: The model's accuracy on the non-members.
        groups: Group number of each member and of each non-member, by subgroup attribute.
    """

    present: Array
    absent: Array
    threshold: float
    duplicates: int
    loss_auc: float
    task_accuracy: float
    groups: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]]


def attack(
    model: LoadedModel,
    table: UnitTable,
    *,
    recipe: Recipe,
    effort: Effort,
    scoring: Scoring,
    cache: ShadowCache | None = None,
) -> MembershipScores:
    """Attack the Study's own model.

    Members are its training units, non-members the held-out ones of the same split rule.

    Args:
        model: The attacked model.
        table: The private table.
        recipe: The Study's recipe; the shadows' too.
        effort: How hard to try.
        scoring: The attack.
        cache: Where shadows may be kept, if the steward keeps any.

    Returns:
        Scores of the records that are not the population.

    Raises:
        InvalidValue: If there is no member or no non-member.
    """
    generator = torch.Generator()
    generator.seed()  # Which records are tried must not be predictable.
    whole = pool_of(table, model.spec)
    if bool(whole.members.all()) or not bool(whole.members.any()):
        raise InvalidValue("audit data", "must have members and non-members", "one of them only")
    kept = _shadows(model, whole, recipe, effort, generator=generator, cache=cache)
    pool = whole.only(kept.chosen)
    asked = _ask(model, pool, kept, effort, generator)
    scores = scoring(asked)
    threshold = signals.calibrated_threshold(asked, scoring)
    member = pool.members.numpy()
    tried = ~asked.population
    present, absent = member & tried, ~member & tried
    loss = scorings.loss(asked)
    right = asked.target[0].argmax(axis=-1) == asked.labels
    groups = {
        name: (numbers[pool.rows][present], numbers[pool.rows][absent])
        for name, numbers in table.subgroups.items()
    }
    return MembershipScores(
        present=scores[present],
        absent=scores[absent],
        threshold=threshold,
        duplicates=pool.duplicates,
        loss_auc=figures.auc(loss[present], loss[absent]),
        task_accuracy=float(right[absent].mean()),
        groups=groups,
    )


def _shadows(
    model: LoadedModel,
    whole: Pool,
    recipe: Recipe,
    effort: Effort,
    *,
    generator: torch.Generator,
    cache: ShadowCache | None,
) -> KeptShadows:
    """Shadows of a sample of the pool: kept ones, or trained now."""
    key = cache.key(whole, model.spec, recipe=recipe, effort=effort) if cache else ""
    known = cache.load(key) if cache else None
    if known is not None:
        return known
    chosen = _sampled(whole, effort.pool, generator)
    pool = whole.only(chosen)
    if bool(pool.members.all()) or not bool(pool.members.any()):
        raise InvalidValue("audit data", "must have members and non-members", "one of them only")
    population = _population(pool, effort, generator)
    tried = torch.from_numpy(~population)
    had = torch.zeros((effort.shadows, len(pool.labels)), dtype=torch.bool)
    had[:, tried] = shadows.complementary_halves(
        effort.shadows, int(tried.sum()), generator=generator
    )
    fresh = builder(model.spec, effort.shadowing)
    stack = shadows.train_stacked(fresh, pool, had, recipe, generator=generator)
    trained = KeptShadows(stack, had, chosen, torch.from_numpy(population))
    if cache:
        cache.store(key, trained)
    return trained


def _ask(
    model: LoadedModel, pool: Pool, kept: KeptShadows, effort: Effort, generator: torch.Generator
) -> Asked:
    queries = queries_of(pool.inputs, effort.queries, generator=generator)
    skeleton = builder(model.spec, effort.shadowing)()
    answers = [shadows.logits_of(skeleton, kept.stack, query) for query in queries]
    with torch.no_grad():
        own = torch.stack([model.module(query) for query in queries])
    return Asked(
        target=own.double().numpy(),
        shadows=torch.stack(answers, dim=1).double().numpy(),
        had=kept.had.numpy(),
        labels=pool.labels.numpy(),
        population=kept.population.numpy(),
    )


def _population(pool: Pool, effort: Effort, generator: torch.Generator) -> NDArray[np.bool_]:
    found = np.zeros(len(pool.labels), dtype=bool)
    if effort.population:
        others = np.flatnonzero(~pool.members.numpy())
        order = torch.randperm(len(others), generator=generator).numpy()
        found[others[order[: len(others) // _POPULATION_SHARE]]] = True
        if not found.any():
            raise InvalidValue("audit data", "must have three non-members", str(len(others)))
    return found


def builder(spec: ModelSpec, shadowing: Shadowing) -> Callable[[], torch.nn.Module]:
    """What makes a fresh shadow, as far as the attacker knows the target."""
    name, parameters = spec.model, spec.parameters
    if shadowing is Shadowing.BLACK_BOX:
        name, parameters = ("Logistic", {}) if name == "MLP" else ("MLP", _OTHER)

    def fresh() -> torch.nn.Module:
        return build(name, parameters, input_shape=spec.input_shape, classes=len(spec.classes))

    return fresh


def _sampled(pool: Pool, most: int, generator: torch.Generator) -> torch.Tensor:
    """Numbers of the records that are tried, in order."""
    count = len(pool.labels)
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:most].sort().values
