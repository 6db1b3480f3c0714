"""The planned stopping rule, over the data that the plan lets decide. Heavy.

Private held-out units are opened under an access of their own, which the plan charges; they are
never trained on. Must give no score of private units without its planned noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.study.plan import Access, Plan, Treatment
from primum.domain.study.steps import WorkRequest
from primum_pipelines.datasets.access import OtherInput, open_private
from primum_pipelines.datasets.checks import require_sound
from primum_pipelines.datasets.table import LabelTask, UnitTable
from primum_pipelines.kinds.train.early_stopping import FIELD, HELD_OUT
from primum_pipelines.kinds.training import number, whole
from primum_pipelines.models.artifact import ModelSpec, scale
from primum_pipelines.optimization.randomness import random_source
from primum_pipelines.optimization.settings import STOPPING_PURPOSE
from primum_pipelines.optimization.stopping import NoisyHeldOutScore, PublicScore, StoppingRule
from primum_pipelines.steps import records

if TYPE_CHECKING:
    from torch import nn


def stopping_access(plan: Plan) -> Access | None:
    """The charged access of looks at held-out units, or ``None``."""
    for access in plan.accesses:
        charged = access.step == "job" and access.treatment is Treatment.CHARGED
        if charged and access.name.split("@", 1)[0] == STOPPING_PURPOSE:
            return access
    return None


def planned_rule(
    request: WorkRequest,
    module: nn.Module,
    spec: ModelSpec,
    others: Sequence[OtherInput],
) -> StoppingRule | None:
    """The stopping rule of a plan, or ``None`` where the training runs to its end.

    Args:
        request: The step's request.
        module: The model, without what canaries bring; it is looked at while it is trained.
        spec: What the model is.
        others: The Study's public and synthetic inputs.

    Raises:
        Refused: If the data token does not cover the looks at held-out units.
        InvalidValue: If the data that is to decide is absent, or has no single class per row.
    """
    plan = records.plan_of(request)
    if FIELD not in plan.parameters:
        return None
    rule = records.mapping(plan.parameters[FIELD])
    score: PublicScore | NoisyHeldOutScore
    if rule["score"] == HELD_OUT:
        score = _private(request, plan, rule, module, spec)
    else:
        tables = [other.table for other in others if other.role.value == rule["score"]]
        score = public_score(tables, module, spec)
    return StoppingRule(every=whole(rule, "every"), patience=whole(rule, "patience"), score=score)


def public_score(tables: Sequence[UnitTable], module: nn.Module, spec: ModelSpec) -> PublicScore:
    """The accuracy on held-out rows of public or released data.

    Raises:
        InvalidValue: If there are none, or they have no single class.
    """
    features, labels = [], []
    for table in tables:
        found = _held_out(table, spec)
        features.append(found[0])
        labels.append(found[1])
    if not sum(len(part) for part in labels):
        raise InvalidValue("spec.data", "must have held-out rows to look at", "none")
    return PublicScore(module, torch.cat(features), torch.cat(labels))


def _private(
    request: WorkRequest,
    plan: Plan,
    rule: Mapping[str, JSON],
    module: nn.Module,
    spec: ModelSpec,
) -> NoisyHeldOutScore:
    access = stopping_access(plan)
    if access is None:
        raise InvalidValue("plan", "must charge the looks at held-out units", "no access for them")
    table = open_private(request, access.name)
    require_sound(table)
    return private_score(
        table,
        module,
        spec,
        expected_units=whole(rule, "heldOutUnits"),
        noise_multiplier=number(rule, "noiseMultiplier"),
    )


def private_score(
    table: UnitTable,
    module: nn.Module,
    spec: ModelSpec,
    *,
    expected_units: int,
    noise_multiplier: float,
) -> NoisyHeldOutScore:
    """The noisy accuracy on the held-out units of private data.

    Args:
        table: The private data, opened under an access that the plan charges for this.
        module: The model.
        spec: What it is.
        expected_units: Public number of held-out units.
        noise_multiplier: As planned.

    Raises:
        InvalidValue: If rows have no single class.
    """
    features, labels = _held_out(table, spec)
    _, owners = np.unique(table.units[~table.train], return_inverse=True)
    return NoisyHeldOutScore(
        module,
        features,
        labels,
        owners=torch.from_numpy(owners.astype(np.int64)),
        expected_units=expected_units,
        noise_multiplier=noise_multiplier,
        source=random_source(None),
    )


def _held_out(table: UnitTable, spec: ModelSpec) -> tuple[torch.Tensor, torch.Tensor]:
    if table.task is not LabelTask.MULTI_CLASS:
        rule = "must be one class per row for a score"
        raise InvalidValue("dataset labels", rule, table.task.value)
    features = torch.from_numpy(scale(table.features[~table.train], spec))
    return features, torch.from_numpy(table.labels[~table.train])
