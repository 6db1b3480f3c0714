"""Collects what a job's body found, in the order in which it finds it, for one report at the end.

A failed body still reports the receipts of what had happened by then. Light; must not decide
anything.
"""

from __future__ import annotations

from collections.abc import Mapping

from primum.domain.accounting.events import Event
from primum.domain.canonical import JSON
from primum.domain.conditions import Reason
from primum.domain.governance.evidence import Evidence, EvidenceKind, Verdict
from primum.domain.study.plan import Access, Plan
from primum.domain.study.steps import ArtifactRef, Receipt, StepStatus, WorkRequest, WorkResult
from primum_pipelines.datasets.access import token_claims
from primum_pipelines.steps import records


class StepReport:
    """What a body found so far; make it when the body starts, after its imports.

    Args:
        request: The step's request.
    """

    def __init__(self, request: WorkRequest) -> None:
        self._request = request
        self._seconds = records.stopwatch()
        self.plan: Plan = records.plan_of(request)
        self._receipts: list[Receipt] = []
        self._evidence: list[Evidence] = []
        self._artifacts: list[ArtifactRef] = []

    def accesses(self, purpose: str) -> tuple[Access, ...]:
        """The plan's accesses of a purpose, such as ``train``, in the plan's order."""
        return tuple(a for a in self.plan.accesses if a.name.split("@", 1)[0] == purpose)

    def add_receipt(self, access: Access, event: Event, facts: Mapping[str, JSON]) -> None:
        """Say what a mechanism did under an access; cites the token that opened the data."""
        token = str(token_claims(self._request, access.name)["id"])
        self._receipts.append(Receipt(access.name, access.budget, event, dict(facts), token))

    def add_evidence(
        self,
        kind: EvidenceKind,
        name: str,
        *,
        subject: str = "",
        verdict: Verdict | None = None,
        public: Mapping[str, JSON],
        restricted: Mapping[str, JSON],
    ) -> None:
        """Record one result."""
        found = records.record(
            self._request,
            kind,
            name=name,
            subject=subject,
            verdict=verdict,
            public=public,
            restricted=restricted,
        )
        self._evidence.append(found)

    def add_artifact(self, artifact: ArtifactRef) -> None:
        """Record what was stored."""
        self._artifacts.append(artifact)

    def succeeded(self, message: str) -> WorkResult:
        """The result of a body that did its work."""
        return self._result(StepStatus.SUCCEEDED, Reason.STEP_SUCCEEDED, message)

    def failed(self, message: str) -> WorkResult:
        """The result of a body that ended early."""
        return self._result(StepStatus.FAILED, Reason.STEP_FAILED, message)

    def _result(self, status: StepStatus, reason: Reason, message: str) -> WorkResult:
        return records.report(
            message=message,
            seconds=self._seconds(),
            evidence=self._evidence,
            receipts=self._receipts,
            artifacts=self._artifacts,
            status=status,
            reason=reason,
        )


def discloses(request: WorkRequest, budget: str, disclosure: str) -> bool:
    """Whether a budget's steward lets figures of a kind leave without a charge."""
    dataset = records.mapping(records.mapping(request.context["datasets"])[budget])
    return disclosure in records.texts(dataset.get("disclosures", ()))
