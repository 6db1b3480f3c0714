"""Audit: attack the job's result before anybody else can, beside what the plan's mechanism allows.

The mechanism self-test always runs first; then the Study's audits in their order; then the risk
corridor. The step succeeds when the audits ran: their verdicts are evidence, and gates decide. Must
not let a measured figure or an exception's text into its message, and must not take a crashed audit
for a pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from primum import extensions
from primum.domain.accounting.events import NoEvent
from primum.domain.canonical import JSON
from primum.domain.conditions import Reason
from primum.domain.errors import InvalidValue, NotFound, PrimumError, Tampered
from primum.domain.governance.evidence import REFUSED, Evidence, EvidenceKind, Verdict
from primum.domain.study.steps import ArtifactRef, Receipt, WorkRequest, WorkResult
from primum_pipelines import artifacts, fan_out
from primum_pipelines.audits import cost
from primum_pipelines.audits.audit import Finding
from primum_pipelines.audits.mechanism_self_test import MechanismSelfTest
from primum_pipelines.audits.membership import ShadowAudit
from primum_pipelines.audits.parameters import require_asked
from primum_pipelines.audits.risk_corridor import NAME as CORRIDOR
from primum_pipelines.audits.risk_corridor import risk_corridor
from primum_pipelines.audits.subject import subject_of
from primum_pipelines.datasets.access import token_claims
from primum_pipelines.progress import Progress
from primum_pipelines.steps import records

if TYPE_CHECKING:
    from primum_pipelines.audits.audit import Audit
    from primum_pipelines.audits.subject import AuditSubject

GROUP = "primum.audits"
_DIMENSION_MIN = 3  # Below it a correlation over a record's numbers means nothing.


def run(request: WorkRequest) -> WorkResult:
    """Run every audit of the Study.

    Args:
        request: The step's request; its tokens open the accesses that the plan declares for audits.

    Returns:
        One evidence record per audit, the self-test and the corridor; the message names verdicts
        only.
    """
    seconds = records.stopwatch()
    progress = Progress(request)
    subject = subject_of(request)
    planned = _planned(request)
    findings = [_self_test(subject)]
    for done, (name, kind, parameters) in enumerate(planned, start=1):
        progress.update(done, len(planned) + 1, name)
        left = _seconds_left(request, float(seconds()))
        findings.append(_audited(subject, name, kind, parameters, left=left))
    findings += _corridor(subject, findings)
    kept = [_with_pictures(request, number, item) for number, item in enumerate(findings)]
    return records.report(
        message=", ".join(f"{item.name} {item.verdict.value}" for item in findings),
        seconds=seconds(),
        evidence=_evidence(request, subject, [item for item, _ in kept]),
        receipts=_receipts(request, subject),
        artifacts=[reference for _, references in kept for reference in references],
    )


def _with_pictures(
    request: WorkRequest, number: int, finding: Finding
) -> tuple[Finding, list[ArtifactRef]]:
    """Store a finding's pictures in the zone; its Restricted side then names their digests."""
    stored = {
        name: artifacts.store(
            request.artifacts_uri,
            f"{number}-{finding.name}-{name}",
            picture,
            kind=records.PICTURE,
        )
        for name, picture in finding.pictures.items()
    }
    if not stored:
        return finding, []
    digests: dict[str, JSON] = {name: item.digest for name, item in stored.items()}
    told = replace(finding, restricted={**finding.restricted, "pictures": digests})
    return told, list(stored.values())


def _planned(request: WorkRequest) -> list[tuple[str, str, Mapping[str, JSON]]]:
    """The Study's audits as (attack, kind, parameters)."""
    items = request.context["audits"]
    if isinstance(items, str) or not isinstance(items, Sequence):
        raise InvalidValue("audits", "must be a list", type(items).__name__)
    found = []
    for value in items:
        item = records.mapping(value)
        name = str(item["attack"])
        if name != MechanismSelfTest.name:  # It runs anyway, and first.
            parameters = records.mapping(item.get("parameters") or {})
            found.append((name, str(item["kind"]), parameters))
    return found


def _self_test(subject: AuditSubject) -> Finding:
    return _contained(subject, MechanismSelfTest(), {})


def _audited(
    subject: AuditSubject,
    name: str,
    kind: str,
    parameters: Mapping[str, JSON],
    *,
    left: float,
) -> Finding:
    """One audit's finding; whatever goes wrong is a finding too, and never a pass."""
    if name not in extensions.names(GROUP):
        return _unclear(EvidenceKind(kind), name, f"audit {name} is not installed here")
    audit: Audit = extensions.load(GROUP, name)()
    if audit.kind.value != kind:
        return _unclear(EvidenceKind(kind), name, f"audit {name} is of kind {audit.kind.value}")
    return _contained(subject, audit, parameters, left=left)


def _seconds_left(request: WorkRequest, spent: float) -> float:
    """How long the step may still take; infinite where it has no deadline."""
    resources = records.mapping(request.context.get("resources") or {})
    limit = resources.get("seconds")
    return math.inf if limit is None else float(str(limit)) - spent


def _too_long(
    subject: AuditSubject, audit: Audit, parameters: Mapping[str, JSON], left: float
) -> str:
    """Why an audit is not begun, tried out on random numbers before any data is opened."""
    if math.isinf(left) or not isinstance(audit, ShadowAudit):
        return ""
    units = cost.units_of(records.mapping(subject.request.context["datasets"]))
    workers = fan_out.current().workers()
    return cost.too_long(subject, audit, parameters, units=units, seconds=left, workers=workers)


def _contained(
    subject: AuditSubject,
    audit: Audit,
    parameters: Mapping[str, JSON],
    *,
    left: float = math.inf,
) -> Finding:
    try:
        require_asked(audit, {}, kind=subject.plan.kind)  # An AuditRun may ask for any.
        refused = _too_long(subject, audit, parameters, left)
        if refused:
            found = _unclear(audit.kind, audit.name, refused)
            return replace(found, public={REFUSED: Reason.ESTIMATE_ABOVE_DEADLINE.value})
        return audit.run(subject, parameters)
    except Tampered:
        reason = "what the job recorded does not match what it left"
        return _judged(audit.kind, audit.name, Verdict.FAIL, reason)
    except InvalidValue as problem:
        # What was found stays inside: reasons are public.
        return _unclear(audit.kind, audit.name, f"{problem.field} {problem.rule}")
    except NotFound:
        return _unclear(audit.kind, audit.name, "something that the audit needs is not there")
    except PrimumError:
        raise  # A refused token or an absent platform is no statement about the model.
    except Exception as problem:  # noqa: BLE001 - an attack may fail in any way; none of it is a pass
        return _unclear(audit.kind, audit.name, f"the audit raised {type(problem).__name__}")


def _unclear(kind: EvidenceKind, name: str, reason: str) -> Finding:
    return _judged(kind, name, Verdict.INCONCLUSIVE, reason)


def _judged(kind: EvidenceKind, name: str, verdict: Verdict, reason: str) -> Finding:
    return Finding(kind=kind, name=name, verdict=verdict, public={}, reasons=(reason,))


def _corridor(subject: AuditSubject, findings: Sequence[Finding]) -> list[Finding]:
    """The corridor record, where the plan has a mechanism to draw it for."""
    if not any(mechanism.noise_multiplier for mechanism in subject.mechanisms):
        return [_unclear(EvidenceKind.RISK_CORRIDOR, CORRIDOR, "the plan charges no mechanism")]
    try:
        dimension = _dimension(subject)
    except (InvalidValue, NotFound, Tampered):
        dimension = 0  # The audits have said what is wrong with the model; the step must end.
    if dimension < _DIMENSION_MIN:
        reason = "the record's numbers are unknown or too few for a from-scratch bound"
        return [_unclear(EvidenceKind.RISK_CORRIDOR, CORRIDOR, reason)]
    return [risk_corridor(subject, dimension=dimension, findings=findings)]


def _dimension(subject: AuditSubject) -> int:
    """Numbers in one record, from the model's public shape or the dataset's description."""
    if "Model" in subject.artifacts:
        return math.prod(subject.model().spec.input_shape)
    from primum_pipelines.datasets.driver import describe

    for value in records.mapping(subject.request.context["datasets"]).values():
        dataset = records.mapping(value)
        options = records.mapping(dataset.get("options") or {})
        shape = describe(str(dataset["uri"]), options).get("inputShape")
        if isinstance(shape, list | tuple):
            return math.prod(int(str(length)) for length in shape)
    return 0


def _evidence(
    request: WorkRequest, subject: AuditSubject, findings: Sequence[Finding]
) -> list[Evidence]:
    study = records.mapping(request.context["study"])
    return [
        item.evidence(
            study_uid=str(study["uid"]),
            generation=int(str(study["generation"])),
            subject="" if item.kind is EvidenceKind.SELF_TEST else subject.digest,
        )
        for item in findings
    ]


def _receipts(request: WorkRequest, subject: AuditSubject) -> list[Receipt]:
    """Nothing was released by any audit: each opened access answers with no event."""
    return [
        Receipt(
            access.name,
            access.budget,
            NoEvent(),
            {},
            str(token_claims(request, access.name)["id"]),
        )
        for access in subject.plan.accesses
        if access.step == "audit" and request.tokens.get(access.name)
    ]
