"""What people ask about audits of releases. Figures are for stewards and auditors alone."""

from __future__ import annotations

from fastapi import APIRouter

from primum.application import audit_history, reaudits
from primum.application.audit_history import AuditResult
from primum.application.platform import Platform
from primum.domain.errors import NotFound
from primum.domain.governance.regression import figure
from primum.domain.names import ResourceKey
from primum.entrypoints.api import schemas
from primum.entrypoints.api.callers import (
    PROBLEMS,
    READERS,
    ZONE_READERS,
    Caller,
    Ports,
    require,
)

router = APIRouter(prefix="/v1", responses=PROBLEMS)


@router.get("/releases/{namespace}/{name}/audits", tags=["evidence"])
def list_audits(namespace: str, name: str, who: Caller, ports: Ports) -> schemas.AuditHistory:
    """List every audit of a release since it was released, and every due time that was missed.

    What was found stays when Releases and AuditRuns go.
    """
    require(who, READERS)
    key = ResourceKey("Release", namespace, name)
    subject = audit_history.release_subject(namespace, name)
    found = audit_history.results(ports.evidence, subject)
    sets = reaudits.audit_sets(ports.evidence, key)
    if not found and not sets and ports.resources.get(key) is None:
        raise NotFound(f"Release {namespace[:64]}/{name[:64]} does not exist and was never audited")
    inside = who.holds(*ZONE_READERS)
    return schemas.AuditHistory(
        audits=[_audit(item, _figure(ports, item) if inside else None) for item in found],
        missed=[
            schemas.MissedAudits(count=item.missed, until=item.last_missed)
            for item in sets
            if item.missed
        ],
    )


def _audit(item: AuditResult, shown: str | None) -> schemas.PastAudit:
    return schemas.PastAudit(
        audit_run=item.run,
        attack=item.attack,
        causes=list(item.causes),
        verdict=item.verdict,
        reason=item.reason,
        comparison=item.comparison,
        at=item.at,
        figure=shown,
    )


def _figure(ports: Platform, item: AuditResult) -> str:
    """The compared figure with its interval, as text; empty where a run left none."""
    records = tuple(ports.evidence.evidence(item.uid, item.generation))
    found = figure(audit_history.attack_evidence(records, item.attack))
    return f"{found.name} {found.lower:.3f}-{found.upper:.3f}" if found else ""
