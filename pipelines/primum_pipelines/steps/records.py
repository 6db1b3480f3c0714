"""What the steps' bodies share: reading a request, and reporting in the runtime's one form."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from primum.domain.canonical import JSON, decimal_text
from primum.domain.conditions import Reason
from primum.domain.governance.evidence import Evidence, EvidenceKind, Verdict
from primum.domain.study.plan import Access, Plan, plan_from_json
from primum.domain.study.steps import ArtifactRef, Receipt, StepStatus, WorkRequest, WorkResult

PICTURE = "Picture"
"""Kind of an artifact that shows figures; it is as restricted as they are."""


def plan_of(request: WorkRequest) -> Plan:
    """The plan that the step runs by."""
    return plan_from_json(mapping(request.context["plan"]))


def accesses_of(request: WorkRequest, step: str) -> tuple[Access, ...]:
    """The accesses that the plan gives to a step, in its order."""
    return tuple(access for access in plan_of(request).accesses if access.step == step)


def study_name(request: WorkRequest) -> str:
    """``namespace/name`` of the Study."""
    study = mapping(request.context["study"])
    return f"{study['namespace']}/{study['name']}"


def mapping(value: object) -> Mapping[str, JSON]:
    """A part of a request that must be an object.

    Raises:
        TypeError: If it is not; the request is damaged.
    """
    if not isinstance(value, Mapping):
        raise TypeError("expected a JSON object")
    return value


def texts(value: object) -> tuple[str, ...]:
    """A part of a request that must be a list, as texts.

    Raises:
        TypeError: If it is not; the request is damaged.
    """
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise TypeError("expected a JSON array")
    return tuple(str(item) for item in value)


def upstream_artifact(request: WorkRequest, step: str, kind: str) -> ArtifactRef | None:
    """The first artifact of a kind that an upstream step left, if any."""
    outcome = request.inputs.get(step)
    if not isinstance(outcome, Mapping):
        return None
    artifacts = outcome.get("artifacts")
    if isinstance(artifacts, list | tuple):
        for item in artifacts:
            if isinstance(item, Mapping) and item["kind"] == kind:
                return ArtifactRef(kind, str(item["uri"]), str(item["digest"]))
    return None


def record(
    request: WorkRequest,
    kind: EvidenceKind,
    *,
    name: str,
    subject: str,
    verdict: Verdict | None,
    public: Mapping[str, JSON],
    restricted: Mapping[str, JSON],
) -> Evidence:
    """One evidence record of this Study generation."""
    study = mapping(request.context["study"])
    return Evidence(
        kind=kind,
        name=name,
        study_uid=str(study["uid"]),
        generation=int(str(study["generation"])),
        subject=subject,
        verdict=verdict,
        public=public,
        restricted=restricted,
    )


def report(
    *,
    message: str,
    seconds: float,
    evidence: Sequence[Evidence] = (),
    receipts: Sequence[Receipt] = (),
    artifacts: Sequence[ArtifactRef] = (),
    status: StepStatus = StepStatus.SUCCEEDED,
    reason: Reason = Reason.STEP_SUCCEEDED,
) -> WorkResult:
    """A step's report."""
    return WorkResult(
        status=status.value,
        reason=reason.value,
        message=message,
        receipts=[receipt.to_json() for receipt in receipts],
        evidence=[item.to_json() for item in evidence],
        artifacts=[{"kind": a.kind, "uri": a.uri, "digest": a.digest} for a in artifacts],
        body_seconds=decimal_text(seconds),
    )


def stopwatch() -> Callable[[], float]:
    """Seconds since now; started after the imports, so that it times the body alone."""
    start = time.perf_counter()
    return lambda: time.perf_counter() - start
