"""Train, heavy half: opens the data by its token, trains, stores, and says what really ran.

Everything that shapes the mechanism was decided by the plan. Nothing measured leaves but the noisy
weights: loss, share of clipped gradients and canary scores are Restricted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from primum.domain.canonical import JSON
from primum.domain.conditions import Reason
from primum.domain.errors import InvalidValue
from primum.domain.governance.evidence import EvidenceKind
from primum.domain.study.plan import Plan, Treatment
from primum.domain.study.steps import StepStatus, WorkRequest, WorkResult
from primum_pipelines.datasets.access import OtherInput, open_others, open_private
from primum_pipelines.datasets.checks import require_sound
from primum_pipelines.datasets.table import LabelTask, UnitTable
from primum_pipelines.kinds.train import (
    comparing,
    fitting,
    lost,
    outcome,
    searched,
    sharing,
    trials,
)
from primum_pipelines.kinds.train.adjusting import adjusted, require_rows
from primum_pipelines.kinds.train.rehearsal import rehearse
from primum_pipelines.kinds.train.search import FIELD as SEARCH
from primum_pipelines.kinds.train.stopping import planned_rule
from primum_pipelines.kinds.training import fresh_model, model_spec, require_same_form, whole
from primum_pipelines.models.artifact import ModelSpec
from primum_pipelines.steps import records


def train(request: WorkRequest) -> WorkResult:
    """Train the planned model under the planned mechanism.

    Args:
        request: The step's request; its data token opens the one private dataset.

    Returns:
        Model and canaries as artifacts, a receipt of the executed events, and Training evidence.

    Raises:
        Refused: If the data token does not cover the access.
        InvalidValue: If the data is unsound or the model cannot take it.
    """
    with sharing.own_threads(request):
        return _train(request)


def _train(request: WorkRequest) -> WorkResult:
    seconds = records.stopwatch()
    plan = records.plan_of(request)
    others = open_others(request)
    require_rows(plan.parameters, others)
    charged = [a for a in plan.accesses if a.step == "job" and a.treatment is Treatment.CHARGED]
    if not charged:
        return _without_mechanism(request, plan, others, seconds=seconds)
    access, group = charged[0], sharing.planned_group(plan.parameters)
    training = lost.continuation(request)
    lost.says_nothing_ran(request, group, training)
    table = open_private(request, access.name)
    require_sound(table)
    spec = model_spec(request, plan.parameters, table)
    try:
        require_same_form(others, table)
        module = fresh_model(spec)
        _require_outputs(module, table, spec)
        rehearse(module, table, spec, parameters=plan.parameters)
    except InvalidValue as problem:
        return _refused(request, problem, seconds=seconds())
    if SEARCH in plan.parameters:
        return searched.search(trials.inputs_of(request, table, others), access, seconds=seconds)
    for other in others if not group.rank else ():  # The others get the first worker's weights.
        fitting.fit_ordinary(module, other.table, spec, parameters=plan.parameters)
    module.to(sharing.own_device(request))
    rule = planned_rule(request, module, spec, others)
    table = sharing.own_rows(table, group)
    trained = fitting.fit_privately(
        request,
        plan.parameters,
        module,
        table,
        spec,
        stopping=rule,
        group=group,
        on_begin=lost.leaves_word(request, access, group, rule=rule, training=training),
        training=training,
    )
    if trained.report.stopped:
        report = trained.report
        return lost.stopped(request, access, report, seconds=seconds(), training=training)
    loss = fitting.mean_loss(module, table, spec, parameters=plan.parameters, group=group)
    module.cpu()
    if group.rank:
        return sharing.helped(seconds=seconds())
    kept = outcome.iterates(trained, module)
    made = adjusted(module, spec, kept, others, parameters=plan.parameters)
    stored = outcome.stored(request, trained, module, made)
    evidence = outcome.evidence(request, trained, stored[0].digest, loss=loss, access=access)
    steps = sum(count for _, _, count in trained.report.executed)
    return records.report(
        message=f"trained {steps} of {plan.mechanism['steps']} steps"
        + (f"; {trained.report.lost} were lost with a worker" if trained.report.lost else ""),
        seconds=seconds(),
        evidence=[evidence],
        receipts=outcome.receipts(request, access, trained.report),
        artifacts=stored,
    )


def _without_mechanism(
    request: WorkRequest, plan: Plan, others: Sequence[OtherInput], *, seconds: Callable[[], float]
) -> WorkResult:
    """For comparison, on private data under an uncharged access; or on no private data at all."""
    access = comparing.uncharged_access(plan)
    if access is None:
        return _train_released(request, plan.parameters, others, seconds())
    table = open_private(request, access.name)
    require_sound(table)
    return comparing.train_unprotected(request, access, table, others, seconds=seconds)


def _refused(request: WorkRequest, problem: InvalidValue, *, seconds: float) -> WorkResult:
    """What public facts were enough to refuse: no mechanism ran, and the receipts say so."""
    return records.report(
        message=f"training was refused before its first step: {problem}",
        seconds=seconds,
        receipts=outcome.nothing_ran(request),
        status=StepStatus.FAILED,
        reason=Reason.STEP_FAILED,
    )


def _train_released(
    request: WorkRequest,
    parameters: Mapping[str, JSON],
    others: Sequence[OtherInput],
    before_seconds: float,
) -> WorkResult:
    """Ordinary training on public and released data: no token and no receipt."""
    seconds = records.stopwatch()
    tables = [other.table for other in others]
    spec = model_spec(request, parameters, tables[0])
    module = fresh_model(spec)
    epochs = whole(parameters, "epochs")
    for table in tables:
        fitting.fit_ordinary(module, table, spec, parameters=parameters)
    made = adjusted(module, spec, (), others, parameters=parameters)
    stored = outcome.store_model(request, module, made)
    evidence = records.record(
        request,
        EvidenceKind.TRAINING,
        name="PostProcessing",
        subject=stored.digest,
        verdict=None,
        public={"model": spec.model, "epochs": epochs, "mechanism": "none: no private data"},
        restricted={},
    )
    return records.report(
        message=f"trained {epochs} epochs on public and released data",
        seconds=before_seconds + seconds(),
        evidence=[evidence],
        artifacts=[stored],
    )


def _require_outputs(module: nn.Module, table: UnitTable, spec: ModelSpec) -> None:
    """Refuse a model that does not answer for the table's labels."""
    with torch.inference_mode():
        given = tuple(module(torch.zeros((1, *spec.input_shape))).shape[1:])
    wanted: tuple[int, ...] = (len(spec.classes),)
    if table.task is LabelTask.SEGMENTATION:
        wanted = (*wanted, *spec.input_shape[1:])
    if given != wanted:
        rule = f"must give outputs of shape {wanted} for labels of kind {table.task}"
        raise InvalidValue(spec.model, rule, f"outputs of shape {given}")
