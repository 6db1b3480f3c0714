"""A membership attack as a whole: pool, shadows, queries, scores. Heavy.

Shadows are trained as far as the planned looks want them, asked once about the whole pool, and
dropped with the step, unless the steward keeps them in the zone; audits of one step share them.
What comes back is numbers about the attack, never a record, a score of a record, or a model.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from primum.domain.errors import InvalidValue
from primum_pipelines.attacks import figures, scorings, shadows, signals
from primum_pipelines.attacks.figures import Array
from primum_pipelines.attacks.pool import Pool, pool_of, pool_of_sites
from primum_pipelines.attacks.queries import queries_of
from primum_pipelines.attacks.shadow_cache import KeptShadows, ShadowCache, key_of
from primum_pipelines.attacks.shadow_groups import Groups
from primum_pipelines.attacks.shadow_program import Architecture
from primum_pipelines.attacks.signals import Asked, Scoring
from primum_pipelines.fan_out import Alone, FanOut

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from primum_pipelines.attacks.shadow_program import Program
    from primum_pipelines.datasets.table import UnitTable
    from primum_pipelines.models.artifact import LoadedModel, ModelSpec

_POPULATION_SHARE = 3  # One held-out record in three is compared with instead of attacked.
_OTHER = {"hidden": 64, "layers": 1}
_SEED_BITS = 62


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
        threshold: Calibrated on shadows, for the best balanced accuracy.
        sharpest: Likewise, for the largest lower bound on epsilon.
        duplicates: Rows dropped before anything.
        loss_auc: AUC of the plain loss attack, for comparison.
        task_accuracy: The model's accuracy on the non-members.
        groups: Group of each member and of each non-member, by subgroup attribute.
        shadows: How many shadows the attack used.
    """

    present: Array
    absent: Array
    threshold: float
    sharpest: float
    duplicates: int
    loss_auc: float
    task_accuracy: float
    groups: Mapping[str, tuple[NDArray[np.str_], NDArray[np.str_]]]
    shadows: int = 0


@dataclass(slots=True, repr=False)
class ShadowSet:
    """The shadows of one step that have one recipe, for all of its audits.

    Args:
        groups: What is trained of them.
        chosen: Numbers of their records in the whole pool, ``(n,)``.
        population: Which of those no model has, booleans ``(n,)``.
    """

    groups: Groups
    chosen: torch.Tensor
    population: torch.Tensor

    def kept(self) -> KeptShadows:
        """As a steward may keep them."""
        groups = self.groups
        return KeptShadows(
            groups.stack or {}, groups.members, self.chosen, self.population, groups.seed
        )


@dataclass(frozen=True, slots=True, repr=False)
class Shop:
    """Where an attack finds shadows, and who may help to train them.

    Args:
        sets: Those that earlier audits of this step have trained, by key; grows.
        cache: Where a steward may keep some; ``None`` for nowhere.
        fan_out: Who may help.
    """

    sets: dict[str, ShadowSet] = field(default_factory=dict)
    cache: ShadowCache | None = None
    fan_out: FanOut = field(default_factory=Alone)


def attack(
    model: LoadedModel,
    table: UnitTable,
    *,
    program: Program,
    effort: Effort,
    scoring: Scoring,
    looks: Sequence[int] = (),
    shop: Shop | None = None,
    others: Sequence[UnitTable] = (),
) -> Iterator[MembershipScores]:
    """Attack the Study's own model, with more shadows at each look.

    Members are its training units, non-members the held-out ones of the same split rule.

    Args:
        model: The attacked model.
        table: The private table; of a federation that of the attacked site.
        program: How the Study trains; the shadows' too.
        effort: How hard to try.
        scoring: The attack.
        looks: Numbers of shadows, rising, at which scores are wanted; all of them by default. Who
            does not ask for the next look does not train for it.
        shop: Where shadows are found, and who helps; by default nowhere and nobody.
        others: Tables of a federation's other sites, in the program's order: shadows have halves
            of them as well, and none of their records is attacked.

    Yields:
        Scores of the table's records that are not the population.

    Raises:
        InvalidValue: If there is no member or no non-member, or a shadow's weights are not finite.
    """
    shop = shop or Shop()
    generator = torch.Generator()
    generator.seed()  # Which records are tried must not be predictable.
    whole = pool_of_sites((table, *others), model.spec) if others else pool_of(table, model.spec)
    _require_both(whole)
    key = key_of(whole, program, effort=effort)
    found = _shadow_set(key, whole, program, effort, generator=generator, shop=shop)
    pool, attacked = found.groups.pool, found.groups.pool.attacked
    if pool.sites is not None:
        pool = pool.only(attacked)
    queries = queries_of(pool.inputs, effort.queries, generator=generator)
    with torch.no_grad():
        own = torch.stack([model.module(query) for query in queries]).double().numpy()
    answers: list[torch.Tensor] = []
    for count in looks or (effort.shadows,):
        known = sum(len(part) for part in answers)
        before = found.groups.trained
        stack = found.groups.train(count, fan_out=shop.fan_out)
        if shop.cache and found.groups.trained > before:
            shop.cache.store(key, found.kept())
        fresh = {name: value[known:count] for name, value in stack.items()}
        if count > known:
            told = [program.answers(fresh, query) for query in queries]
            answers.append(torch.stack(told, dim=1))
        asked = Asked(
            target=own,
            shadows=torch.cat(answers).double().numpy(),
            had=found.groups.members[:count, attacked].numpy(),
            labels=pool.labels.numpy(),
            population=found.population[attacked].numpy(),
        )
        yield _scores(asked, pool, table, scoring)


def _scores(asked: Asked, pool: Pool, table: UnitTable, scoring: Scoring) -> MembershipScores:
    scores = scoring(asked)
    member, tried = pool.members.numpy(), ~asked.population
    present, absent = member & tried, ~member & tried
    loss = scorings.loss(asked)
    right = asked.target[0].argmax(axis=-1) == asked.labels
    threshold, sharpest = signals.calibrated_thresholds(
        asked, scoring, members=int(present.sum()), others=int(absent.sum())
    )
    named = {attribute: table.named_groups(attribute) for attribute in table.subgroups}
    return MembershipScores(
        present=scores[present],
        absent=scores[absent],
        threshold=threshold,
        sharpest=sharpest,
        duplicates=pool.duplicates,
        loss_auc=figures.auc(loss[present], loss[absent]),
        task_accuracy=float(right[absent].mean()),
        groups={
            attribute: (names[pool.rows][present], names[pool.rows][absent])
            for attribute, names in named.items()
        },
        shadows=len(asked.shadows),
    )


def _shadow_set(
    key: str,
    whole: Pool,
    program: Program,
    effort: Effort,
    *,
    generator: torch.Generator,
    shop: Shop,
) -> ShadowSet:
    """The shadows of a sample of the pool: some that there are, or a plan for new ones."""
    if key in shop.sets:
        return shop.sets[key]
    known = shop.cache.load(key) if shop.cache else None
    if known is not None:
        stack = dict(known.stack)
        groups = Groups(program, whole.only(known.chosen), known.had, known.seed, stack)
        found = ShadowSet(groups, known.chosen, known.population)
    else:
        found = _planned(whole, program, effort, generator)
    shop.sets[key] = found
    return found


def _planned(
    whole: Pool, program: Program, effort: Effort, generator: torch.Generator
) -> ShadowSet:
    chosen = _sampled(whole, effort.pool, generator)
    pool = whole.only(chosen)
    _require_both(pool)
    population = torch.from_numpy(_population(pool, effort, generator))
    had = torch.zeros((effort.shadows, len(pool.labels)), dtype=torch.bool)
    for own in _of_each_site(pool):
        drawn = own & ~population
        had[:, drawn] = shadows.complementary_halves(
            effort.shadows, int(drawn.sum()), generator=generator
        )
    seed = int(torch.randint(1 << _SEED_BITS, (), generator=generator))
    return ShadowSet(Groups(program, pool, had, seed), chosen, population)


def _require_both(pool: Pool) -> None:
    own = pool.members[pool.attacked]
    if bool(own.all()) or not bool(own.any()):
        raise InvalidValue("audit data", "must have members and non-members", "one of them only")


def _of_each_site(pool: Pool) -> list[torch.Tensor]:
    """A mask of the records of each site, the attacked one first; of all where there is one."""
    if pool.sites is None:
        return [pool.attacked]
    return [pool.sites == number for number in range(int(pool.sites.max()) + 1)]


def _population(pool: Pool, effort: Effort, generator: torch.Generator) -> NDArray[np.bool_]:
    found = np.zeros(len(pool.labels), dtype=bool)
    if effort.population:
        others = np.flatnonzero((~pool.members & pool.attacked).numpy())
        order = torch.randperm(len(others), generator=generator).numpy()
        found[others[order[: len(others) // _POPULATION_SHARE]]] = True
        if not found.any():
            raise InvalidValue("audit data", "must have three non-members", str(len(others)))
    return found


def architecture_of(spec: ModelSpec, shadowing: Shadowing) -> Architecture:
    """What a shadow is, as far as the attacker knows the target."""
    name, parameters = spec.model, spec.parameters
    if shadowing is Shadowing.BLACK_BOX:
        name, parameters = ("Logistic", {}) if name == "MLP" else ("MLP", _OTHER)
    return Architecture(name, parameters, spec.input_shape, len(spec.classes))


def _sampled(pool: Pool, most: int, generator: torch.Generator) -> torch.Tensor:
    """Numbers of the records that are used, of each site so many at most, in order."""
    found = []
    for own in _of_each_site(pool):
        rows = torch.arange(len(pool.labels))[own]
        if len(rows) > most:
            rows = rows[torch.randperm(len(rows), generator=generator)[:most]]
        found.append(rows)
    return torch.cat(found).sort().values
