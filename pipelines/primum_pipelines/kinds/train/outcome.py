"""What is stored and said about a private training that ran.

Nothing measured leaves but the noisy weights: loss, share of clipped gradients and canary scores
are Restricted. Must not train.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

from primum.domain.accounting.events import NoEvent, Repeated, covers
from primum.domain.canonical import JSON, decimal_text
from primum.domain.governance.evidence import Evidence, EvidenceKind
from primum.domain.study.plan import Access, Treatment
from primum.domain.study.steps import ArtifactRef, Receipt, WorkRequest
from primum_pipelines import artifacts
from primum_pipelines.datasets.access import token_claims
from primum_pipelines.kinds.train import early_stopping, run_record, search
from primum_pipelines.kinds.train.adjusting import Adjusted
from primum_pipelines.kinds.train.fitting import Trained
from primum_pipelines.kinds.train.run_record import RunRecord
from primum_pipelines.kinds.train.stopping import stopping_access
from primum_pipelines.kinds.training import executed_event, whole
from primum_pipelines.models import artifact as model_file
from primum_pipelines.models import ensemble
from primum_pipelines.models.artifact import ModelSpec
from primum_pipelines.optimization import canaries
from primum_pipelines.optimization.algorithm import TrainingReport
from primum_pipelines.steps import records

if TYPE_CHECKING:
    import torch
    from torch import nn


def receipts(request: WorkRequest, access: Access, report: TrainingReport) -> list[Receipt]:
    """What the mechanisms did under each charged access, as the ledger may take it.

    A training that ended before its planned steps ended by what it had seen of its own noisy
    weights. It is stated as executed where the account's filter is sound for steps that are chosen
    so, and as planned elsewhere.

    Args:
        request: The step's request.
        access: The access that the training ran under.
        report: What the algorithm says it ran.
    """
    found = [_training(request, access, report)]
    stop = stopping_access(records.plan_of(request))
    if stop is not None:
        found.append(_looks(request, stop, report))
    return found


def nothing_ran(request: WorkRequest) -> list[Receipt]:
    """Receipts of a training that was refused before it looked at anything."""
    plan = records.plan_of(request)
    return [
        Receipt(
            access=access.name,
            budget=access.budget,
            event=NoEvent(),
            facts={},
            token_id=str(token_claims(request, access.name)["id"]),
        )
        for access in plan.accesses
        if access.step == "job" and access.treatment is Treatment.CHARGED
    ]


def _looks(request: WorkRequest, access: Access, report: TrainingReport) -> Receipt:
    """Looks at held-out units, each of them a Gaussian mechanism."""
    parameters = records.plan_of(request).parameters
    event = access.event
    ran = any(count for _, _, count in report.executed)
    # That no look was taken may be known by what the weights had become: as for the steps, it is
    # less to pay only where the account's filter is sound for that.
    if not report.looks and (not ran or parameters.get("chargedAsExecuted")):
        event = NoEvent()
    elif parameters.get("chargedAsExecuted") and isinstance(event, Repeated):
        event = Repeated(event.event, report.looks)
    return Receipt(
        access=access.name,
        budget=access.budget,
        event=event,
        facts={"looks": report.looks, "generator": report.generator},
        token_id=str(token_claims(request, access.name)["id"]),
    )


def with_why(said: str, request: WorkRequest, report: TrainingReport) -> str:
    """What is said of a training that ended early, and why it is charged as planned if it is."""
    parameters = records.plan_of(request).parameters
    early = 0 < sum(count for _, _, count in report.executed) < whole(parameters, "steps")
    if not early or parameters.get("chargedAsExecuted"):
        return said
    why = "All planned steps are charged: the budget's accounting is sound for fixed plans alone."
    return f"{said.rstrip('.')}. {why}"


def _training(request: WorkRequest, access: Access, report: TrainingReport) -> Receipt:
    """What the mechanism did under the access; cites the token that opened the data."""
    parameters = records.plan_of(request).parameters
    claims = token_claims(request, access.name)
    event = executed_event(report, parameters)
    executed = sum(count for _, _, count in report.executed)
    if not executed:
        event = NoEvent()
    early = 0 < executed < whole(parameters, "steps")
    if early and not parameters.get("chargedAsExecuted") and covers(access.event, event):
        event = access.event
    return Receipt(
        access=access.name,
        budget=access.budget,
        event=event,
        facts={
            "noiseMultiplier": ", ".join(plain(noise) for noise, _, _ in report.executed),
            "sampleRate": ", ".join(plain(rate) for _, rate, _ in report.executed),
            "steps": sum(count for _, _, count in report.executed),
            "maxGradNorm": plain(report.max_grad_norm),
            "clippedPer": records.plan_of(request).unit.value,
            "clipping": report.clipping.value,
            "gradients": report.gradients,
            "sampling": report.sampling,
            "generator": report.generator,
            "workers": report.workers,
            **({"lostSteps": report.lost} if report.lost else {}),
        },
        token_id=str(claims["id"]),
    )


def plain(value: float) -> str:
    """A float as the shortest decimal that reads back as the same float."""
    return decimal_text(Decimal(repr(float(value))))


def store_canaries(request: WorkRequest, trained: Trained) -> list[ArtifactRef]:
    """The canaries' coins and scores, where the training had some."""
    if trained.sealed is None:
        return []
    found = canaries.scores(trained.report)
    data = canaries.to_bytes(trained.sealed, found)
    kind = canaries.ARTIFACT_KIND
    return [artifacts.store(request.artifacts_uri, canaries.FILE_NAME, data, kind=kind)]


def stored(
    request: WorkRequest,
    trained: Trained,
    module: nn.Module,
    made: Adjusted,
    *,
    chosen: Mapping[str, JSON] | None = None,
) -> list[ArtifactRef]:
    """Everything that a training leaves, the model first.

    Args:
        request: The step's request.
        trained: The training that made the model.
        module: The model.
        made: The model as it is to answer.
        chosen: Of a search the winner's point.
    """
    return [
        store_model(request, module, made),
        *store_canaries(request, trained),
        *store_ensemble(request, trained, module, made.spec),
        *store_run(request, trained, chosen or {}),
    ]


def store_run(
    request: WorkRequest, trained: Trained, chosen: Mapping[str, JSON]
) -> list[ArtifactRef]:
    """What the plan left to the run, for shadows that follow it; none where it left nothing."""
    if not {search.FIELD, early_stopping.FIELD} & set(records.plan_of(request).parameters):
        return []
    steps = sum(count for _, _, count in trained.report.executed)
    data, kind = RunRecord(chosen, steps).to_bytes(), run_record.ARTIFACT_KIND
    return [artifacts.store(request.artifacts_uri, run_record.FILE_NAME, data, kind=kind)]


def store_model(request: WorkRequest, module: nn.Module, made: Adjusted) -> ArtifactRef:
    """The model that may be released, as it is to answer."""
    data = model_file.to_bytes(module, made.spec, members=made.members)
    return artifacts.store(request.artifacts_uri, model_file.FILE_NAME, data, kind="Model")


def iterates(trained: Trained, module: nn.Module) -> list[Mapping[str, torch.Tensor]]:
    """The kept iterates without what canaries brought; the charge of the run covers them."""
    prefix = "" if trained.sealed is None else canaries.MODEL_PREFIX
    names = list(module.state_dict())
    return [{name: state[f"{prefix}{name}"] for name in names} for state in trained.report.iterates]


def store_ensemble(
    request: WorkRequest, trained: Trained, module: nn.Module, spec: ModelSpec
) -> list[ArtifactRef]:
    """The kept iterates as a file of the zone, where they do not answer themselves."""
    states = iterates(trained, module)
    if spec.members or len(states) < 2:  # noqa: PLR2004 - one is a model
        return []
    data, kind = ensemble.to_bytes(states, spec), ensemble.ARTIFACT_KIND
    return [artifacts.store(request.artifacts_uri, ensemble.FILE_NAME, data, kind=kind)]


def evidence(
    request: WorkRequest, trained: Trained, subject: str, *, loss: float, access: Access
) -> Evidence:
    """Training evidence: planned and executed events; the loss stays restricted."""
    plan, report = records.plan_of(request), trained.report
    public: dict[str, JSON] = {
        "planned": access.event.to_json(),
        "executed": executed_event(report, plan.parameters).to_json(),
        "workers": report.workers,
    }
    if report.lost:
        public["lostSteps"] = report.lost
    if "earlyStopping" in plan.mechanism:
        public["looks"] = report.looks
    return training_record(request, trained, subject, loss=loss, public=public)


def training_record(
    request: WorkRequest,
    trained: Trained,
    subject: str,
    *,
    loss: float,
    public: Mapping[str, JSON],
) -> Evidence:
    """Evidence of the training that made the released model.

    Args:
        request: The step's request.
        trained: That training.
        subject: Digest of the model.
        loss: Its mean on the training units; stays restricted.
        public: What is to be said of all that ran, beside what every training says.
    """
    plan, report = records.plan_of(request), trained.report
    said: dict[str, JSON] = {
        **public,
        "algorithm": plan.mechanism["algorithm"],
        "reviewed": plan.mechanism["reviewed"],
        "maxGradNorm": plain(report.max_grad_norm),
        "clipping": report.clipping.value,
        "gradients": report.gradients,
        "sampling": report.sampling,
        "generator": report.generator,
        "canaries": plan.mechanism["canaries"],
    }
    if trained.sealed is not None:
        said["canaryCommitment"] = trained.sealed.commitment
    return records.record(
        request,
        EvidenceKind.TRAINING,
        name=str(plan.mechanism["algorithm"]),
        subject=subject,
        verdict=None,
        public=said,
        restricted={
            "trainLoss": decimal_text(loss),
            **{name: str(value) for name, value in report.diagnostics.items()},
        },
    )
