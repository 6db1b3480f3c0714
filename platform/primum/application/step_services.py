"""What a step may ask of the platform, over the ports directly.

In a cluster the same words travel over HTTP.

Small on purpose: it is built in every step's process, so it needs no planner, no policies and no
accounting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from primum.application.access import Gatekeeper, redeem, ticket_claims
from primum.application.ports import Compute, EvidenceStore, LedgerStore, Lineage, Signer
from primum.application.settlement import CONTRADICTION, freeze_account
from primum.domain.canonical import JSON
from primum.domain.governance.evidence import Evidence
from primum.domain.names import derived_uuid
from primum.domain.study.lifecycle import incidents
from primum.domain.study.plan import Treatment
from primum.domain.study.steps import (
    DataToken,
    StepContext,
    StepOutcome,
    WorkRequest,
    WorkResult,
    work_result_from_json,
)

FRESH = "Fresh"
EXPOSED = "Exposed"


@dataclass(frozen=True, slots=True)
class DirectStepServices:
    """StepServices for one step of one run.

    Args:
        context: What the step was told.
        keeper: Redeems tickets.
        ledger: Shows what was exposed already.
        store: Outcomes and evidence.
        worker: Runs heavy functions.
        signer: Gives the public key.
        lineage_sink: Takes lineage events.
        artifacts: Folder under which Studies store artifacts.
        folders: Folders searched for dataset files.
        zone: Folder of the steward's zone.
    """

    context: StepContext
    keeper: Gatekeeper
    ledger: LedgerStore
    store: EvidenceStore
    worker: Compute
    signer: Signer
    lineage_sink: Lineage
    artifacts: str
    folders: Sequence[str]
    zone: str = ""

    @property
    def _uid(self) -> str:
        return str(self.context.study["uid"])

    @property
    def _generation(self) -> int:
        return int(str(self.context.study["generation"]))

    def outcome(self, outcome_id: str) -> StepOutcome | None:
        """See the protocol."""
        return self.store.outcome(outcome_id)

    def begun(self, outcome_id: str) -> str:
        """See the protocol.

        Only a step with a charged access can be lost: its mechanism may have run and its result may
        be out. A step that merely looks (validation, evaluation, audits) has released nothing
        before its outcome is recorded, so it is run again (docs/decisions/0005).
        """
        earlier = self.store.begun(outcome_id)
        if not earlier:
            step = self.context.step
            self.store.begin(
                outcome_id, study_uid=self._uid, generation=self._generation, step=step
            )
            return FRESH
        exposed = {
            access
            for held in self.ledger.reservations(study_uid=self._uid)
            if held.generation == self._generation
            for access in held.exposed
        }
        return EXPOSED if exposed & self._charged_accesses() else FRESH

    def redeem(self, ticket: str) -> DataToken:
        """See the protocol."""
        return redeem(self.keeper, ticket, actor=f"step/{self.context.step}")

    def record(self, outcome: StepOutcome, evidence: Sequence[Evidence]) -> None:
        """See the protocol.

        What contradicts a claim freezes its accounts before it is recorded, so that it does not
        depend on anybody still looking at the Study or the AuditRun.
        """
        contradicting = incidents(evidence)
        if contradicting:
            self._answer(", ".join(item.name for item in contradicting))
        self.store.record(outcome, evidence, study_uid=self._uid, generation=self._generation)

    def compute(self, entry: str, request: WorkRequest) -> WorkResult:
        """See the protocol."""
        return work_result_from_json(self.worker.call(entry, request.to_json()))

    def ready(self, entry: str) -> None:
        """See the protocol."""
        self.worker.ready(entry)

    def lineage(self, event: Mapping[str, JSON]) -> None:
        """See the protocol."""
        self.lineage_sink.emit(event)

    def public_key(self) -> str:
        """See the protocol."""
        return self.signer.public_key()

    def artifacts_uri(self, study_uid: str, generation: int) -> str:
        """See the protocol."""
        return f"{self.artifacts}/{study_uid}/{generation}"

    def data_dirs(self) -> Sequence[str]:
        """See the protocol."""
        return self.folders

    def zone_dir(self) -> str:
        """See the protocol."""
        return self.zone

    def _answer(self, found: str) -> None:
        study = self.context.study
        reason = f"{study['namespace']}/{study['name']}: the claim was contradicted by {found}"
        for account in sorted(self._accounts()):
            key = derived_uuid("freeze", self._uid, str(self._generation), account)
            freeze_account(self.ledger, account, reason=reason, key=key)
        audited = study.get("audits")  # Only an AuditRun attacks what another Study made.
        if audited is not None and self.store.fact(CONTRADICTION, str(audited)) is None:
            self.store.put_fact(CONTRADICTION, str(audited), {"message": reason})

    def _accounts(self) -> set[str]:
        """Every account that this step has a ticket for, or its Study a reservation on."""
        claims = [ticket_claims(self.signer, ticket) for ticket in self.context.tickets.values()]
        held = self.ledger.reservations(study_uid=self._uid)
        mine = {item.account_id for item in held if item.generation == self._generation}
        return mine | {str(item["accountId"]) for item in claims}

    def _charged_accesses(self) -> set[str]:
        listed = self.context.plan["accesses"]
        if not isinstance(listed, list | tuple):
            return set()
        return {
            str(item["name"])
            for item in listed
            if isinstance(item, Mapping)
            and item["step"] == self.context.step
            and item["treatment"] == Treatment.CHARGED.value
        }
