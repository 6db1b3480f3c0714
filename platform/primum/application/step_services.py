"""What a step may ask of the platform: its rules, and the form of it over the ports directly.

In a cluster the same rules run behind the ledger API, for who shows the credential of a run; see
``step_door``.

Small on purpose: it is built in every step's process, so it needs no planner, no policies and no
accounting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from primum.application.access import Gatekeeper, redeem, ticket_claims
from primum.application.ports import Compute, EvidenceStore, LedgerStore, Lineage, Signer
from primum.application.settlement import CONTRADICTION, freeze_account
from primum.domain.canonical import JSON
from primum.domain.errors import Refused
from primum.domain.governance.evidence import Evidence
from primum.domain.names import derived_uuid, ticket_id
from primum.domain.study.credentials import RunCredential, credential_of
from primum.domain.study.lifecycle import incidents
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
class StepRules:
    """What one step of one run may ask of ledger, evidence and key.

    Args:
        scope: The step.
        keeper: Redeems tickets.
        ledger: Shows what was exposed already.
        store: Outcomes and evidence.
    """

    scope: RunCredential
    keeper: Gatekeeper
    ledger: LedgerStore
    store: EvidenceStore

    def begun(self) -> str:
        """Note durably that the step begins.

        Only a step with a charged access can be lost: its mechanism may have run and its result may
        be out. A step that merely looks (validation, evaluation, audits) has released nothing
        before its outcome is recorded, so it is run again (docs/decisions/0005).
        """
        scope = self.scope
        if not self.store.begun(scope.outcome_id):
            self.store.begin(
                scope.outcome_id,
                study_uid=scope.study_uid,
                generation=scope.generation,
                step=scope.step,
            )
            return FRESH
        return EXPOSED if self._exposed() & scope.charged else FRESH

    def redeem(self, ticket: str, *, attempt: str = "") -> DataToken:
        """Record the access durably, then mint the data token; see ``access.redeem``.

        Raises:
            Refused: If the ticket is not one of this step, or the ledger does not grant the access.
            Tampered: If it was not signed by this platform.
        """
        claims, scope = ticket_claims(self.keeper.signer, ticket), self.scope
        ours = (scope.study_uid, scope.generation)
        if (claims["studyUid"], claims["generation"]) != ours:
            raise Refused(f"a ticket of step {scope.step} must be of its run; found another's")
        if scope.accesses.get(str(claims["access"])) != claims["treatment"]:
            raise Refused(f"a ticket of step {scope.step} must cover an access of it")
        return redeem(self.keeper, ticket, actor=f"step/{scope.step}", attempt=attempt)

    def record(self, outcome: StepOutcome, evidence: Sequence[Evidence]) -> None:
        """Store evidence and outcome in one transaction; storing the same again is a no-op.

        What contradicts a claim freezes its accounts before it is recorded, so that it does not
        depend on anybody still looking at the Study or the AuditRun.

        Raises:
            Refused: If the outcome is not this step's, or a receipt names no token of it.
        """
        self.answer(evidence)
        self._check(outcome, evidence)
        scope = self.scope
        self.store.record(outcome, evidence, study_uid=scope.study_uid, generation=scope.generation)

    def answer(self, evidence: Sequence[Evidence]) -> None:
        """Freeze what a contradicted claim touched; nothing where none is contradicted."""
        contradicting = incidents(evidence)
        if not contradicting:
            return
        scope = self.scope
        found = ", ".join(item.name for item in contradicting)
        reason = f"{scope.namespace}/{scope.study}: the claim was contradicted by {found}"
        for account in sorted(self._accounts()):
            key = derived_uuid("freeze", scope.study_uid, str(scope.generation), account)
            freeze_account(self.ledger, account, reason=reason, key=key)
        # Only an AuditRun attacks what another Study made.
        if scope.audits and self.store.fact(CONTRADICTION, scope.audits) is None:
            self.store.put_fact(CONTRADICTION, scope.audits, {"message": reason})

    def _check(self, outcome: StepOutcome, evidence: Sequence[Evidence]) -> None:
        scope = self.scope
        if (outcome.outcome_id, outcome.step) != (scope.outcome_id, scope.step):
            raise Refused(f"step {scope.step} must record its own outcome; found another's")
        ours = (scope.study_uid, scope.generation)
        if any((item.study_uid, item.generation) != ours for item in evidence):
            raise Refused(f"step {scope.step} must record evidence of its run; found another's")
        if sorted(outcome.evidence) != sorted(item.digest for item in evidence):
            raise Refused(f"step {scope.step} must name the evidence that it records")
        answered = [item.access for item in outcome.receipts]
        if len(set(answered)) != len(answered) or not scope.accesses.keys() >= set(answered):
            raise Refused(f"step {scope.step} must give one receipt for an access of its own")
        for receipt in outcome.receipts:
            if receipt.token_id != ticket_id(*ours, receipt.access):
                raise Refused(f"receipt of {receipt.access} must name a data token of its run")
        if not set(answered) & scope.charged <= self._exposed():
            raise Refused(f"step {scope.step} must have opened what it gives receipts for")

    def _exposed(self) -> set[str]:
        held = self.ledger.reservations(study_uid=self.scope.study_uid)
        mine = (item for item in held if item.generation == self.scope.generation)
        return {access for item in mine for access in item.exposed}

    def _accounts(self) -> set[str]:
        """Every account that this step has a ticket for, or its Study a reservation on."""
        held = self.ledger.reservations(study_uid=self.scope.study_uid)
        mine = {item.account_id for item in held if item.generation == self.scope.generation}
        return mine | set(self.scope.accounts)


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
        attempt: The secret that this process redeems with; empty for one that never asks again.
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
    attempt: str = field(default="", repr=False)

    def outcome(self, outcome_id: str) -> StepOutcome | None:
        """See the protocol."""
        return self.store.outcome(outcome_id)

    def begun(self, outcome_id: str) -> str:  # noqa: ARG002 - the context's own, as recorded
        """See the protocol."""
        return self._rules(credential_of(self.context)).begun()

    def redeem(self, ticket: str) -> DataToken:
        """See the protocol."""
        rules = self._rules(credential_of(self.context))
        return rules.redeem(ticket, attempt=self.attempt)

    def record(self, outcome: StepOutcome, evidence: Sequence[Evidence]) -> None:
        """See the protocol."""
        claims = [ticket_claims(self.signer, ticket) for ticket in self.context.tickets.values()]
        accounts = [str(item["accountId"]) for item in claims]
        self._rules(credential_of(self.context, accounts=accounts)).record(outcome, evidence)

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

    def _rules(self, scope: RunCredential) -> StepRules:
        return StepRules(scope, self.keeper, self.ledger, self.store)
