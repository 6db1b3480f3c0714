"""StepServices over the ledger API: what a step asks where it holds neither database nor key.

Every question may be repeated: the platform decides from ids and from the secret that this process
redeems with. Compute, artifacts and dataset files are the pod's own.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import structlog

from primum.adapters.ledger_api.client import LedgerApiClient
from primum.application.ports import Compute
from primum.domain.canonical import JSON
from primum.domain.errors import PrimumError, Tampered
from primum.domain.governance.evidence import Evidence
from primum.domain.study.steps import (
    DataToken,
    StepContext,
    StepOutcome,
    WorkRequest,
    WorkResult,
    outcome_from_json,
    work_result_from_json,
)

log = structlog.get_logger(__name__)


def _attempt() -> str:
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class HttpStepServices:
    """StepServices for one step of one run.

    Args:
        context: What the step was told, its run's credential among it.
        client: The ledger API, with that credential.
        worker: Runs heavy functions.
        artifacts: Folder under which Studies store artifacts.
        folders: Folders searched for dataset files.
        zone: Folder of the steward's zone.
        attempt: The secret that this process redeems with, and nobody else.
    """

    context: StepContext
    client: LedgerApiClient
    worker: Compute
    artifacts: str
    folders: Sequence[str]
    zone: str = ""
    attempt: str = field(default_factory=_attempt, repr=False)

    def outcome(self, outcome_id: str) -> StepOutcome | None:
        """See the protocol."""
        answer = self.client.ask("GET", self._path(f"outcomes/{quote(outcome_id, safe='')}"))
        found = answer.get("outcome", "nothing")
        if found is None:
            return None
        if not isinstance(found, Mapping):
            raise Tampered("the ledger API must give an outcome or null; found another thing")
        return outcome_from_json(found)

    def begun(self, outcome_id: str) -> str:  # noqa: ARG002 - the credential's own
        """See the protocol."""
        return _text(self.client.ask("POST", self._path("begin"), {}), "state")

    def redeem(self, ticket: str) -> DataToken:
        """See the protocol."""
        told = {"ticket": ticket, "attempt": self.attempt}
        answer = self.client.ask("POST", self._path("redeem"), told)
        names = ("text", "access", "budget", "uri")
        return DataToken(**{name: _text(answer, name) for name in names})

    def record(self, outcome: StepOutcome, evidence: Sequence[Evidence]) -> None:
        """See the protocol."""
        told = {"outcome": outcome.to_json(), "evidence": [item.to_json() for item in evidence]}
        self.client.ask("PUT", self._path("outcome"), told)

    def compute(self, entry: str, request: WorkRequest) -> WorkResult:
        """See the protocol."""
        return work_result_from_json(self.worker.call(entry, request.to_json()))

    def ready(self, entry: str) -> None:
        """See the protocol."""
        self.worker.ready(entry)

    def lineage(self, event: Mapping[str, JSON]) -> None:
        """See the protocol."""
        try:
            self.client.ask("POST", self._path("lineage"), {"event": dict(event)})
        except PrimumError as error:
            log.warning("a lineage event could not be queued", error=type(error).__name__)

    def public_key(self) -> str:
        """See the protocol."""
        return _text(self.client.ask("GET", self._path("public-key")), "publicKey")

    def artifacts_uri(self, study_uid: str, generation: int) -> str:
        """See the protocol."""
        return f"{self.artifacts}/{study_uid}/{generation}"

    def data_dirs(self) -> Sequence[str]:
        """See the protocol."""
        return self.folders

    def zone_dir(self) -> str:
        """See the protocol."""
        return self.zone

    def _path(self, question: str) -> str:
        return f"/v1/steps/{quote(self.context.outcome_id, safe='')}/{question}"


def _text(answer: Mapping[str, JSON], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str):
        raise Tampered(f"the ledger API must give {name} as text; found another thing")
    return value
