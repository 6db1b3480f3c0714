"""What the kinds that train models share: the planned model, fresh, and what a mechanism ran.

Must not open data or decide anything: the plan did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
import torch

from primum.domain.accounting.events import (
    Composed,
    Event,
    IndividuallyFiltered,
    Repeated,
    SubsampledGaussian,
)
from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue
from primum_pipelines.models.artifact import ModelSpec
from primum_pipelines.models.registry import build
from primum_pipelines.steps import records

if TYPE_CHECKING:
    from torch import nn

    from primum.domain.study.steps import WorkRequest
    from primum_pipelines.datasets.access import OtherInput
    from primum_pipelines.datasets.table import UnitTable
    from primum_pipelines.optimization.algorithm import TrainingReport

INITIAL_SEED = 0
"""Of the initial weights, which are public; sampling and noise never use it."""


def model_spec(request: WorkRequest, parameters: Mapping[str, JSON], table: UnitTable) -> ModelSpec:
    """What the planned model is, for a table's public columns, classes and bounds.

    Args:
        request: The step's request; names the Study.
        parameters: The plan's parameters.
        table: The data whose public description the model keeps.
    """

    def bounds(values: np.ndarray | None) -> tuple[str, ...]:
        return () if values is None else tuple(decimal_text(float(value)) for value in values)

    return ModelSpec(
        model=str(parameters["model"]),
        parameters=records.mapping(parameters["modelParameters"]),
        input_shape=tuple(table.features.shape[1:]),
        classes=table.classes,
        positive=str(parameters.get("positive", table.classes[-1])),
        feature_names=table.feature_names,
        feature_low=bounds(table.feature_low),
        feature_high=bounds(table.feature_high),
        study=records.study_name(request),
        task=table.task,
    )


def fresh_model(spec: ModelSpec) -> nn.Module:
    """The model with its public initial weights, the same ones every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(INITIAL_SEED)
        return build(
            spec.model, spec.parameters, input_shape=spec.input_shape, classes=len(spec.classes)
        )


def require_same_form(others: Sequence[OtherInput], table: UnitTable) -> None:
    """Refuse public and released inputs that a model of the private data could not learn from.

    Args:
        others: What nobody's privacy is spent on.
        table: The private data; only its public form is looked at.

    Raises:
        InvalidValue: If rows have another shape, classes another number, or a value is missing.
    """
    shape, classes = tuple(table.features.shape[1:]), len(table.classes)
    for other in others:
        if other.table.features.shape[1:] != shape or len(other.table.classes) != classes:
            rule = f"must have rows of shape {shape} and {classes} classes, as the private data has"
            raise InvalidValue(f"input {other.name}", rule, "others")
        if not np.isfinite(other.table.features).all():
            raise InvalidValue(f"input {other.name}", "must have no missing value", "one")


def executed_event(report: TrainingReport, parameters: Mapping[str, JSON]) -> Event:
    """The events that an algorithm says it ran.

    Guarantees:
        A figure equal to the planned one is stated as planned; any other is stated exactly as
        executed, digit by digit. Filters are stated where the algorithm says that it enforced them,
        with one noise multiplier and rate throughout, and more steps ran than the bound has;
        otherwise every step counts for every unit.

    Args:
        report: The algorithm's report.
        parameters: The plan's parameters.
    """
    events = []
    for noise, rate, count in report.executed:
        step = SubsampledGaussian(
            _exact(noise, planned=str(parameters["noiseMultiplier"])),
            _exact(rate, planned=str(parameters["sampleRate"])),
        )
        events.append(Repeated(step, count))
    rule = report.individual
    if rule is not None and len(events) == 1 and events[0].count > rule.bound_steps:
        return IndividuallyFiltered(Repeated(events[0].event, rule.bound_steps), rule.orders)
    return events[0] if len(events) == 1 else Composed(tuple(events))


def _exact(value: float, *, planned: str) -> Decimal:
    return Decimal(planned) if value == float(planned) else Decimal(repr(float(value)))


def whole(parameters: Mapping[str, JSON], name: str) -> int:
    """A whole number of the plan's parameters."""
    return int(str(parameters[name]))


def number(parameters: Mapping[str, JSON], name: str) -> float:
    """A decimal of the plan's parameters."""
    return float(str(parameters[name]))
