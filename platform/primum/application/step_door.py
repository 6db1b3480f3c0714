"""The door of the ledger API for steps: who shows the credential of a run may ask for that run.

It checks the credential and hands on to the rules that steps on one machine are held to as well. It
must let nobody in whose run has ended, and nothing pass that a credential does not name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from primum import signing
from primum.application.access import RUN_ENDED, Gatekeeper
from primum.application.platform import Platform
from primum.application.step_services import StepRules
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue, Refused
from primum.domain.governance.evidence import Evidence
from primum.domain.study.credentials import RunCredential, credential_from_payload
from primum.domain.study.lineage import step_run_id
from primum.domain.study.steps import DataToken, StepOutcome


@dataclass(frozen=True, slots=True)
class StepDoor:
    """One step's way to the platform.

    Args:
        platform: The ports.
        scope: What its credential says.
    """

    platform: Platform
    scope: RunCredential

    def outcome(self, outcome_id: str) -> StepOutcome | None:
        """The step's own outcome, or one that it may read.

        Raises:
            Refused: If it may not.
        """
        self._under_way()
        if outcome_id not in (self.scope.outcome_id, *self.scope.readable):
            raise Refused(f"step {self.scope.step} may not read this outcome")
        return self.platform.evidence.outcome(outcome_id)

    def begun(self) -> str:
        """See ``StepRules``."""
        self._under_way()
        return self._rules.begun()

    def redeem(self, ticket: str, *, attempt: str) -> DataToken:
        """See ``StepRules``."""
        self._under_way()
        return self._rules.redeem(ticket, attempt=attempt)

    def record(self, outcome: StepOutcome, evidence: Sequence[Evidence]) -> None:
        """Record what the step came to; see ``StepRules``.

        A contradicted claim freezes its accounts also where the run has ended meanwhile.

        Raises:
            Refused: If the run has ended and this very outcome is not on record.
        """
        rules = self._rules
        rules.answer(evidence)
        if self._ended and self.platform.evidence.outcome(self.scope.outcome_id) == outcome:
            return
        self._under_way()
        rules.record(outcome, evidence)

    def lineage(self, event: Mapping[str, JSON]) -> None:
        """Queue an event about this step.

        Its last one follows its outcome, and may come when the run has ended.

        Raises:
            InvalidValue: If it is not about this step.
            Refused: If the run has ended and the step has no outcome.
        """
        run = event.get("run")
        found = run.get("runId") if isinstance(run, Mapping) else None
        if found != step_run_id(self.scope.outcome_id):
            raise InvalidValue("event.run.runId", "must be that of the step", "another")
        if self.platform.evidence.outcome(self.scope.outcome_id) is None:
            self._under_way()
        self.platform.lineage.emit(event)

    def public_key(self) -> str:
        """The platform's public key, PEM."""
        return self.platform.signer.public_key()

    @property
    def _rules(self) -> StepRules:
        ports = self.platform
        keeper = Gatekeeper(
            ports.ledger, ports.signer, ports.clock, ports.conduct.token_seconds, ports.evidence
        )
        return StepRules(self.scope, keeper, ports.ledger, ports.evidence)

    @property
    def _ended(self) -> bool:
        return self.platform.evidence.fact(RUN_ENDED, self.scope.run_id) is not None

    def _under_way(self) -> None:
        if self._ended:
            raise Refused(f"run {self.scope.run_id} has ended; its credential is void")


def step_door(platform: Platform, credential: str, *, outcome_id: str) -> StepDoor:
    """The door of the step that a credential was minted for.

    Args:
        platform: The ports.
        credential: The credential as text.
        outcome_id: Whose step is asked for.

    Raises:
        Tampered: If this platform did not sign it as a run credential.
        Refused: If it has expired, or is of another step.
    """
    envelope = signing.decode_token(credential)
    scope = credential_from_payload(platform.signer.open(envelope, signing.RUN_CREDENTIAL_TYPE))
    if scope.outcome_id != outcome_id:
        raise Refused("the credential must be of the step that is asked for; found another's")
    if scope.expires <= platform.clock.now():
        raise Refused(f"the credential of step {scope.step} has expired; launch the run again")
    return StepDoor(platform, scope)
