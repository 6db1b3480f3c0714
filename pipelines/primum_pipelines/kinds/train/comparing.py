"""Trains without a mechanism under an uncharged access, for comparison. Heavy.

No mechanism ran, so the receipt states none, and the evidence says that nothing is promised. Must
not be reached by a plan that claims a guarantee: such a plan has a charged access.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from primum.domain.accounting.events import NoEvent
from primum.domain.canonical import JSON, decimal_text
from primum.domain.conditions import Reason
from primum.domain.governance.evidence import EvidenceKind
from primum.domain.study.plan import Access, Plan, Treatment
from primum.domain.study.steps import (
    ArtifactRef,
    Receipt,
    StepStatus,
    WorkRequest,
    WorkResult,
)
from primum_pipelines import artifacts
from primum_pipelines.datasets.access import OtherInput, token_claims
from primum_pipelines.datasets.table import UnitTable
from primum_pipelines.datasets.units import unit_rows
from primum_pipelines.kinds.train import fitting, outcome
from primum_pipelines.kinds.train.adjusting import Adjusted, adjusted
from primum_pipelines.kinds.train.comparison import FIELD, from_plan
from primum_pipelines.kinds.training import fresh_model, model_spec
from primum_pipelines.models import artifact as model_file
from primum_pipelines.optimization.memguard import fit_guard
from primum_pipelines.optimization.ordinary import divided
from primum_pipelines.steps import records

if TYPE_CHECKING:
    from torch import nn

    from primum_pipelines.optimization.algorithm import TrainingTask


def uncharged_access(plan: Plan) -> Access | None:
    """The access of a training without a mechanism, or ``None``."""
    found = [a for a in plan.accesses if a.step == "job" and a.treatment is Treatment.UNCHARGED]
    return found[0] if found else None


def _stored(
    request: WorkRequest, module: nn.Module, task: TrainingTask, made: Adjusted
) -> ArtifactRef:
    """The model, behind the guard that was asked for."""
    defenses = from_plan(records.plan_of(request).parameters)
    if defenses is None or not defenses.mem_guard:
        return outcome.store_model(request, module, made)
    learned, apart = divided(task, defenses)
    features = task.inputs[0]
    guard = fit_guard(module, features[learned], features[apart])
    spec = replace(made.spec, guard=decimal_text(defenses.mem_guard))
    data = model_file.to_bytes(module, spec, members=made.members, guard=guard)
    return artifacts.store(request.artifacts_uri, model_file.FILE_NAME, data, kind="Model")


def train_unprotected(
    request: WorkRequest,
    access: Access,
    table: UnitTable,
    others: Sequence[OtherInput],
    *,
    seconds: Callable[[], float],
) -> WorkResult:
    """Train the planned model as anybody would, with the planned defenses.

    Args:
        request: The step's request.
        access: The uncharged access that the data was opened by.
        table: The private data.
        others: Public and synthetic inputs, which pre-train.
        seconds: Since the step began.

    Returns:
        The model, and evidence that says that no mechanism made it.
    """
    plan = records.plan_of(request)
    spec = model_spec(request, plan.parameters, table)
    module = fresh_model(spec)
    for other in others:
        fitting.fit_ordinary(module, other.table, spec, parameters=plan.parameters)
    fitting.freeze(module, plan.parameters)
    task = fitting.planned_training(
        module,
        fitting.tensors(table, spec),
        parameters=plan.parameters,
        units=unit_rows(table.units[table.train]),
        loss=fitting.planned_loss(plan.parameters, table.task),
    )
    try:
        report = fitting.planned_algorithm(plan.parameters).fit(replace(task, checkpoints=None))
    finally:
        module.requires_grad_(requires_grad=True)
    token = str(token_claims(request, access.name)["id"])
    receipts = [Receipt(access.name, access.budget, NoEvent(), {}, token)]
    if report.stopped:
        return records.report(
            message=f"training stopped: {report.stopped}",
            seconds=seconds(),
            receipts=receipts,
            status=StepStatus.FAILED,
            reason=Reason.STEP_FAILED,
        )
    made = adjusted(module, spec, report.iterates, others, parameters=plan.parameters)
    stored = _stored(request, module, task, made)
    public: dict[str, JSON] = {
        "algorithm": plan.mechanism["algorithm"],
        "reviewed": plan.mechanism["reviewed"],
        "mechanism": plan.mechanism["protection"],
        FIELD: plan.mechanism.get(FIELD, {}),
    }
    loss = fitting.mean_loss(module, table, spec, parameters=plan.parameters)
    evidence = records.record(
        request,
        EvidenceKind.TRAINING,
        name=str(plan.mechanism["algorithm"]),
        subject=stored.digest,
        verdict=None,
        public=public,
        restricted={"trainLoss": decimal_text(loss)},
    )
    return records.report(
        message=f"trained {plan.mechanism['epochs']} epochs without a mechanism, for comparison",
        seconds=seconds(),
        evidence=[evidence],
        receipts=receipts,
        artifacts=[stored],
    )
