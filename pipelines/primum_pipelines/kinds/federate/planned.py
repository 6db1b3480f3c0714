"""From a federation's plan to a site that trains: the Study's own sites, and those of its shadows.

Everything that shapes a site's mechanism was decided by the plan; must not open or store anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from primum import extensions
from primum.domain.canonical import JSON
from primum_pipelines.federation.aggregation import step_norm_max
from primum_pipelines.federation.server import SiteTerms
from primum_pipelines.federation.site import Site, SiteTask
from primum_pipelines.kinds.training import number, whole
from primum_pipelines.optimization.algorithm import MechanismParameters
from primum_pipelines.optimization.canaries import SealedCoins
from primum_pipelines.steps import records


@dataclass(frozen=True, slots=True, repr=False)
class SiteRows:
    """What one site trains on.

    Args:
        features: ``(n, ...)``, scaled by public bounds; one row per unit.
        labels: ``(n,)``.
        units: How many units the divisor counts: declared, so public.
    """

    features: torch.Tensor
    labels: torch.Tensor
    units: int


def planned_mechanism(parameters: Mapping[str, JSON], budget: str) -> MechanismParameters:
    """A site's mechanism of one round, as the plan charges it.

    Args:
        parameters: The plan's parameters.
        budget: The site's budget.
    """
    own = site_of(parameters, budget)
    return MechanismParameters(
        noise_multiplier=number(own, "noiseMultiplier"),
        sample_rate=number(own, "sampleRate"),
        steps=whole(own, "stepsPerRound"),
        max_grad_norm=number(parameters, "maxGradNorm"),
    )


def planned_site(
    parameters: Mapping[str, JSON],
    budget: str,
    rows: SiteRows,
    *,
    module: nn.Module,
    sealed: SealedCoins | None = None,
    seed: int | None = None,
) -> Site:
    """A site that runs the planned mechanism and no more rounds than planned.

    Args:
        parameters: The plan's parameters.
        budget: The site's budget.
        rows: What it trains on.
        module: Its own copy of the model.
        sealed: Coins of the canaries planted there, or ``None``.
        seed: Of sampling and noise; ``None`` draws from the operating system. Never where a
            result is released.
    """
    task = SiteTask(
        name=budget,
        features=rows.features,
        labels=rows.labels,
        mechanism=planned_mechanism(parameters, budget),
        rounds=whole(parameters, "rounds"),
        train_units=rows.units,
        learning_rate=number(parameters, "learningRate"),
        sealed=sealed,
        seed=seed,
    )
    name = str(parameters["algorithm"])
    algorithm = extensions.load("primum.training_algorithms", name)()
    return Site(task, module=module, algorithm=algorithm)


def planned_terms(
    parameters: Mapping[str, JSON], budget: str, *, units: int, module: nn.Module
) -> SiteTerms:
    """What the server knows of a site: the plan's weight, and how far a round can move the model.

    Args:
        parameters: The plan's parameters.
        budget: The site's budget.
        units: How many units the site's divisor counts.
        module: The model.
    """
    mechanism = planned_mechanism(parameters, budget)
    norm_max = step_norm_max(
        learning_rate=number(parameters, "learningRate"),
        max_grad_norm=mechanism.max_grad_norm,
        noise_multiplier=mechanism.noise_multiplier,
        sample_rate=mechanism.sample_rate,
        train_units=units,
        parameters=sum(value.numel() for value in module.parameters()),
        steps=mechanism.steps,
    )
    weight = whole(site_of(parameters, budget), "trainUnits")
    return SiteTerms(budget, weight=weight, norm_max=norm_max)


def site_of(parameters: Mapping[str, JSON], budget: str) -> Mapping[str, JSON]:
    """A site's part of the plan's parameters."""
    return records.mapping(records.mapping(parameters["sites"])[budget])
