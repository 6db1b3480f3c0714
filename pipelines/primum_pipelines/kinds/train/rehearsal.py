"""One look at a model on made-up rows, before any private row is trained on.

A model that cannot be trained privately is found here by what everybody may know, so that refusing
it tells nothing and costs nothing. Must never be given a private value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum_pipelines.datasets.table import LabelTask
from primum_pipelines.kinds.train.fitting import planned_loss
from primum_pipelines.optimization.dpsgd import DPSGD
from primum_pipelines.optimization.gradients.checks import require_apart, require_complete
from primum_pipelines.optimization.gradients.engine import engine_of
from primum_pipelines.optimization.gradients.segments import one_row_each
from primum_pipelines.optimization.settings import GradientMode

if TYPE_CHECKING:
    from torch import nn

    from primum_pipelines.datasets.table import UnitTable
    from primum_pipelines.models.artifact import ModelSpec

_ROWS = 4
_SEED = 0  # Of the made-up rows, which are nobody's.


def rehearse(
    module: nn.Module, table: UnitTable, spec: ModelSpec, *, parameters: Mapping[str, JSON]
) -> None:
    """Refuse a model whose unit gradients could not be clipped, for the built-in algorithm.

    Args:
        module: The model, in training mode.
        table: Only what kind of labels it has is looked at, and the shape of one.
        spec: Shape of a row and names of the classes.
        parameters: The plan's parameters.

    Raises:
        InvalidValue: If it mixes rows, uses a parameter where no rule sees it, or keeps something
            of the rows that pass it.
    """
    if str(parameters["algorithm"]) != DPSGD.name:
        return  # A plug-in may compute gradients in its own way.
    device = next(module.parameters()).device
    generator = torch.Generator().manual_seed(_SEED)
    features = torch.rand((_ROWS, *spec.input_shape), generator=generator) * 2 - 1
    labels = torch.zeros(
        (_ROWS, *table.labels.shape[1:]), dtype=torch.from_numpy(table.labels[:0]).dtype
    )
    if table.task is LabelTask.MULTI_CLASS:
        labels = torch.arange(_ROWS) % len(spec.classes)
    rows, segments = (features.to(device), labels.to(device)), one_row_each(_ROWS)
    loss = planned_loss(parameters, table.task)
    kept = {name: value.clone() for name, value in module.named_buffers()}
    require_apart(module, loss, rows, segments=segments)
    require_complete(
        module,
        loss,
        rows,
        weights=features.new_ones(_ROWS).to(device),
        segments=segments,
        engine=engine_of(module, GradientMode(str(parameters["gradients"]))),
        named={name: p for name, p in module.named_parameters() if p.requires_grad},
    )
    _require_unchanged(module, kept)


def _require_unchanged(module: nn.Module, kept: Mapping[str, torch.Tensor]) -> None:
    """Refuse a model that writes down what it sees: buffers are released, and get no noise."""
    for name, value in module.named_buffers():
        if name not in kept or not torch.equal(value, kept[name]):
            raise InvalidValue(
                f"model buffer {name}",
                "must stay as it is while rows pass",
                "one that changes",
                "Use layers that keep no running figures.",
            )
