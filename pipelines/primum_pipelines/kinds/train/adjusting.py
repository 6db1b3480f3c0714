"""After the training: how the released model answers, as the plan asked for it.

Everything here is post-processing of what was charged, on public and released rows. Must never be
given a private table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue
from primum_pipelines.evaluation.calibration import fit_temperature
from primum_pipelines.kinds.train.answering import from_plan
from primum_pipelines.models.artifact import LoadedModel, ModelSpec, with_weights

if TYPE_CHECKING:
    import torch
    from torch import nn

    from primum_pipelines.datasets.access import OtherInput

_MEMBERS_LEAST = 2
_DIGITS = 6  # Of a temperature; more would be noise of the search.


@dataclass(frozen=True, slots=True, repr=False)
class Adjusted:
    """What the released file holds beside the last weights.

    Args:
        spec: With temperature and members.
        members: State of each member that answers; none where the last weights answer alone.
    """

    spec: ModelSpec
    members: Sequence[Mapping[str, torch.Tensor]]


def require_rows(parameters: Mapping[str, JSON], others: Sequence[OtherInput]) -> None:
    """Refuse public inputs without a held-out row, before private data is opened.

    Raises:
        InvalidValue: If a temperature is to be fitted and there is none.
    """
    if from_plan(parameters).scaled and not any((~other.table.train).any() for other in others):
        raise InvalidValue("public inputs", "must have a held-out row for the temperature", "none")


def adjusted(
    module: nn.Module,
    spec: ModelSpec,
    iterates: Sequence[Mapping[str, torch.Tensor]],
    others: Sequence[OtherInput],
    *,
    parameters: Mapping[str, JSON],
) -> Adjusted:
    """The released model as the plan wants it to answer.

    Args:
        module: The last weights.
        spec: What they are.
        iterates: The kept states of the run.
        others: Public and synthetic inputs; their held-out rows were not trained on.
        parameters: The plan's parameters.

    Raises:
        InvalidValue: If members are to answer and there are fewer than two: a training that lost
            its worker may have kept none, and a model alone would never abstain.
    """
    wanted = from_plan(parameters)
    share = wanted.abstain_below
    members = [] if share is None else list(iterates)
    if share is not None and len(members) < _MEMBERS_LEAST:
        rule = f"must have kept {_MEMBERS_LEAST} iterates, to abstain where they disagree"
        raise InvalidValue("training", rule, len(members))
    if share is not None:
        spec = replace(spec, members=len(members), agreement=decimal_text(share))
    if wanted.scaled:
        spec = replace(spec, temperature=_temperature(module, spec, members, others))
    return Adjusted(spec, members)


def _temperature(
    module: nn.Module,
    spec: ModelSpec,
    members: Sequence[Mapping[str, torch.Tensor]],
    others: Sequence[OtherInput],
) -> str:
    training = module.training
    networks = tuple(with_weights(spec, state) for state in members)
    model = LoadedModel(module.eval(), spec, networks)
    said, labels = [], []
    for other in others:
        held_out = ~other.table.train
        said.append(model.predict_proba(other.table.features[held_out]))
        labels.append(other.table.labels[held_out])
    module.train(training)
    found = fit_temperature(np.concatenate(said), np.concatenate(labels))
    return decimal_text(round(found, _DIGITS))
