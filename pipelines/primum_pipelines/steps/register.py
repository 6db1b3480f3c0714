"""Register: the one step of a run that registers a budget's dataset, in the step's own process.

It opens the dataset once, as its steward's zone does on one machine, and says who it is and how
many units it has. No ticket stands behind it, since there is no account yet; what it read is an
Inspected entry of the account that is opened by what it says. It needs no compute worker.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from decimal import Decimal

from primum.domain.canonical import JSON
from primum.domain.conditions import Reason
from primum.domain.errors import NotFound, Unavailable
from primum.domain.governance.evidence import Evidence, EvidenceKind
from primum.domain.study.registration import registration_from_json
from primum.domain.study.steps import StepContext, StepOutcome, StepServices, StepStatus
from primum_pipelines.datasets.registration import register

_MESSAGE_LENGTH_MAX = 1024
_ELSEWHERE = (NotFound.__name__, Unavailable.__name__)


def execute(context: StepContext, services: StepServices) -> StepOutcome:
    """Register the dataset that a context names, or find that it was registered by this run.

    Args:
        context: What the step was told; one dataset.
        services: What the platform lets it do.

    Returns:
        The outcome that stands, with one evidence record that holds the registration. A dataset
        that cannot be used is a failed step; its message names columns, never a value. Of what
        nobody foresaw only the type is told.
    """
    standing = services.outcome(context.outcome_id)
    if standing is not None:
        return standing
    services.begun(context.outcome_id)
    began = time.monotonic()
    answer = _answered(context, services)
    seconds = f"{Decimal(time.monotonic() - began):.3f}"
    error = answer.get("error")
    if isinstance(error, Mapping):
        reason = Reason.DATASET_UNREADABLE if error["kind"] in _ELSEWHERE else Reason.INVALID_SPEC
        outcome = _outcome(context, reason, str(error["message"]), (), seconds)
        services.record(outcome, ())
        return outcome
    evidence = Evidence(
        kind=EvidenceKind.REGISTRATION,
        name=context.step,
        study_uid=str(context.study["uid"]),
        generation=int(str(context.study["generation"])),
        subject="",
        verdict=None,
        public=registration_from_json(answer).to_json(),
        restricted={},
    )
    message = str(answer.get("message", ""))
    outcome = _outcome(context, Reason.STEP_SUCCEEDED, message, (evidence.digest,), seconds)
    services.record(outcome, (evidence,))
    return outcome


def _answered(context: StepContext, services: StepServices) -> Mapping[str, JSON]:
    (dataset,) = context.datasets.values()
    payload: dict[str, JSON] = dict(dataset) if isinstance(dataset, Mapping) else {}
    payload |= {"dataDirs": list(services.data_dirs()), "zoneDir": services.zone_dir()}
    try:
        return register(payload)
    except Exception as error:  # noqa: BLE001 - its text may hold a value of the data
        said = f"the dataset could not be read ({type(error).__name__})"
        return {"error": {"kind": NotFound.__name__, "message": said}}


def _outcome(
    context: StepContext, reason: Reason, message: str, evidence: tuple[str, ...], seconds: str
) -> StepOutcome:
    good = reason is Reason.STEP_SUCCEEDED
    return StepOutcome(
        outcome_id=context.outcome_id,
        step=context.step,
        status=StepStatus.SUCCEEDED if good else StepStatus.FAILED,
        reason=reason.value,
        message=message[:_MESSAGE_LENGTH_MAX],
        receipts=(),
        evidence=evidence,
        artifacts=(),
        body_seconds=seconds,
    )
