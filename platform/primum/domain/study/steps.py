"""What a step is told, what it reports, and the services it may use.

The wire format between platform and steps.

A step gets one JSON string: what to run, the ids of its effects, and one ticket per declared
access. It redeems a ticket for a data token; only a token opens data. It reports one outcome:
receipts, evidence and artifacts.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from primum.domain.accounting.events import Event, event_from_json
from primum.domain.canonical import JSON
from primum.domain.governance.evidence import Evidence

REGISTER = "register"  # The one step of a run that registers a budget's dataset.


@dataclass(frozen=True, slots=True)
class DataToken:
    """The right to open one dataset for one access, until it expires.

    Args:
        text: The signed token; the loader verifies signature, scope, fence and expiry with the
            platform's public key.
        access: The access it covers.
        budget: The budget's name.
        uri: The dataset it opens.
    """

    text: str
    access: str
    budget: str
    uri: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a mechanism really did to one dataset: what the ledger settles by.

    Args:
        access: The access it answers for.
        budget: The budget's name.
        event: The events as executed.
        facts: noiseMultiplier, sampleRate, steps, maxGradNorm, sampling, generator: as executed,
            decimal strings.
        token_id: The data token that opened the data; a receipt without one is not trusted.
    """

    access: str
    budget: str
    event: Event
    facts: Mapping[str, JSON]
    token_id: str

    def to_json(self) -> dict[str, JSON]:
        """Canonical form."""
        return {
            "access": self.access,
            "budget": self.budget,
            "event": self.event.to_json(),
            "facts": dict(self.facts),
            "tokenId": self.token_id,
        }


def receipt_from_json(value: Mapping[str, JSON]) -> Receipt:
    """Read a receipt back. Raises for a damaged one, which the caller settles in full."""
    event, facts = value["event"], value["facts"]
    if not isinstance(event, Mapping) or not isinstance(facts, Mapping):
        raise TypeError("receipt must have an event and facts")
    return Receipt(
        access=str(value["access"]),
        budget=str(value["budget"]),
        event=event_from_json(event),
        facts=dict(facts),
        token_id=str(value["tokenId"]),
    )


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """A stored artifact: what it is, where it lies, and the SHA-256 of its bytes."""

    kind: str  # Model | Dataset | Generator | Shadow
    uri: str
    digest: str


class StepStatus(enum.StrEnum):
    """How a step ended."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What a step came to; stored once under an id decided before it started.

    Args:
        outcome_id: The id.
        step: The step's name.
        status: How it ended.
        reason: A CamelCase word from the closed set of reasons.
        message: For people; no record-level value.
        receipts: What mechanisms did.
        evidence: Digests of the evidence it recorded.
        artifacts: What it stored.
        body_seconds: Time inside the step's body after imports, for the overhead figure; decimal
            string.
    """

    outcome_id: str
    step: str
    status: StepStatus
    reason: str
    message: str
    receipts: tuple[Receipt, ...]
    evidence: tuple[str, ...]
    artifacts: tuple[ArtifactRef, ...]
    body_seconds: str = "0"

    def to_json(self) -> dict[str, JSON]:
        """Canonical form."""
        return {
            "outcomeId": self.outcome_id,
            "step": self.step,
            "status": self.status.value,
            "reason": self.reason,
            "message": self.message,
            "receipts": [receipt.to_json() for receipt in self.receipts],
            "evidence": list(self.evidence),
            "artifacts": [
                {"kind": a.kind, "uri": a.uri, "digest": a.digest} for a in self.artifacts
            ],
            "bodySeconds": self.body_seconds,
        }


def outcome_from_json(value: Mapping[str, JSON]) -> StepOutcome:
    """Read an outcome back from its canonical form."""
    return StepOutcome(
        outcome_id=str(value["outcomeId"]),
        step=str(value["step"]),
        status=StepStatus(str(value["status"])),
        reason=str(value["reason"]),
        message=str(value["message"]),
        receipts=tuple(receipt_from_json(item) for item in _mappings(value["receipts"])),
        evidence=tuple(str(item) for item in _items(value["evidence"])),
        artifacts=tuple(
            ArtifactRef(str(item["kind"]), str(item["uri"]), str(item["digest"]))
            for item in _mappings(value["artifacts"])
        ),
        body_seconds=str(value["bodySeconds"]),
    )


def _object(value: Mapping[str, JSON], name: str) -> dict[str, JSON]:
    item = value[name]
    if not isinstance(item, Mapping):
        raise TypeError(f"{name} must be a JSON object")
    return dict(item)


def _items(value: JSON) -> Sequence[JSON]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise TypeError("expected a JSON array")
    return value


def _mappings(value: JSON) -> list[Mapping[str, JSON]]:
    items = [item for item in _items(value) if isinstance(item, Mapping)]
    if len(items) != len(_items(value)):
        raise TypeError("expected an array of JSON objects")
    return items


@dataclass(frozen=True, slots=True)
class StepContext:
    """Everything a step is told.

    Travels as one canonical JSON string (a KFP STRUCT would turn 1 into 1.0).

    Args:
        step: The step's name.
        entry: The heavy function, as ``package.module:function``.
        study: ``{"namespace", "name", "uid", "generation", "kind"}``.
        run_id: The run.
        outcome_id: The id its outcome will have.
        plan: The plan's canonical JSON.
        datasets: Per budget name: ``{"uri", "unit", "units", "options", "disclosures"}``.
        synthetic: Per Release name: ``{"uri", "digest"}``.
        expectations: The Study's expectations.
        audits: The Study's audits as ``{"kind", "attack", "parameters"}``.
        tickets: Per access name: the one-time ticket that is redeemed for a data token.
        upstream: Names of the steps whose outcomes this one may read.
        credential: What the step shows to the ledger API; as secret as a ticket.
        owner: The resource that the run is for, as ``{"kind", "name"}``; it lies in the Study's
            namespace and has the uid of ``study``.
        resources: What the job may use, as ``{"workers", "gpusPerWorker", "workersPerGpu",
            "cpusPerWorker"}``.
    """

    step: str
    entry: str
    study: Mapping[str, JSON]
    run_id: str
    outcome_id: str
    plan: Mapping[str, JSON]
    datasets: Mapping[str, JSON]
    synthetic: Mapping[str, JSON]
    expectations: Sequence[Mapping[str, JSON]]
    audits: Sequence[Mapping[str, JSON]]
    tickets: Mapping[str, str]
    upstream: Mapping[str, str]
    credential: str = ""
    owner: Mapping[str, JSON] = field(default_factory=dict)
    resources: Mapping[str, JSON] = field(default_factory=dict)

    def to_json(self) -> dict[str, JSON]:
        """Canonical form."""
        return {
            "step": self.step,
            "entry": self.entry,
            "study": dict(self.study),
            "runId": self.run_id,
            "outcomeId": self.outcome_id,
            "plan": dict(self.plan),
            "datasets": dict(self.datasets),
            "synthetic": dict(self.synthetic),
            "expectations": [dict(item) for item in self.expectations],
            "audits": [dict(item) for item in self.audits],
            "tickets": dict(self.tickets),
            "upstream": dict(self.upstream),
            "credential": self.credential,
            "owner": dict(self.owner),
            "resources": dict(self.resources),
        }

    @property
    def workers(self) -> int:
        """How many compute workers the step may use, at least 1."""
        return int(str(self.resources.get("workers", 1)))

    @property
    def gpus_per_worker(self) -> int:
        """Whole GPUs of each of its workers."""
        return int(str(self.resources.get("gpusPerWorker", 0)))

    @property
    def workers_per_gpu(self) -> int:
        """How many of its workers share a GPU, at least 1."""
        return int(str(self.resources.get("workersPerGpu", 1)))

    @property
    def cpus_per_worker(self) -> int:
        """Whole CPUs of each of its workers; 0 for what the place gives."""
        return int(str(self.resources.get("cpusPerWorker", 0)))

    @property
    def is_heavy(self) -> bool:
        """Whether the step is worth machines of its own: jobs, audits, and what needs a GPU.

        Validation reads tables, and never needs one.
        """
        if self.step == "evaluate":
            return self.gpus_per_worker > 0
        return self.step not in ("validate", REGISTER)


def context_from_json(value: Mapping[str, JSON]) -> StepContext:
    """Read a context back from its canonical form."""

    def mapping(name: str) -> Mapping[str, JSON]:
        item = value[name]
        if not isinstance(item, Mapping):
            raise TypeError(f"{name} must be a JSON object")
        return dict(item)

    return StepContext(
        step=str(value["step"]),
        entry=str(value["entry"]),
        study=mapping("study"),
        run_id=str(value["runId"]),
        outcome_id=str(value["outcomeId"]),
        plan=mapping("plan"),
        datasets=mapping("datasets"),
        synthetic=mapping("synthetic"),
        expectations=_mappings(value["expectations"]),
        audits=_mappings(value["audits"]),
        tickets={name: str(ticket) for name, ticket in mapping("tickets").items()},
        upstream={name: str(item) for name, item in mapping("upstream").items()},
        credential=str(value.get("credential", "")),
        owner=mapping("owner") if "owner" in value else {},
        resources=mapping("resources") if "resources" in value else {},
    )


@dataclass(frozen=True, slots=True)
class WorkRequest:
    """What a heavy function gets, inside a compute worker.

    Everything in it is JSON and travels as such.

    Args:
        context: The step's context without its tickets and its credential.
        tokens: Data tokens by access name.
        public_key: The platform's public key, PEM; the loader verifies tokens with it.
        artifacts_uri: Folder (fsspec) that this step may write artifacts to.
        data_dirs: Folders searched for dataset files.
        inputs: Outcomes of upstream steps by step name, canonical JSON.
        zone_dir: Folder of the steward's zone, where the loader finds whose consent was withdrawn;
            empty where there is none. Where the ledger knows of a withdrawal, a loader without it
            opens nothing.
        left: The report that a lost worker left of this very call, for the body to go on from;
            empty where nobody was lost.
    """

    context: Mapping[str, JSON]
    tokens: Mapping[str, str]
    public_key: str
    artifacts_uri: str
    data_dirs: Sequence[str]
    inputs: Mapping[str, JSON]
    zone_dir: str = ""
    left: Mapping[str, JSON] = field(default_factory=dict, repr=False)

    def to_json(self) -> dict[str, JSON]:
        """What travels to a worker."""
        return {
            "context": dict(self.context),
            "tokens": dict(self.tokens),
            "public_key": self.public_key,
            "artifacts_uri": self.artifacts_uri,
            "data_dirs": list(self.data_dirs),
            "inputs": dict(self.inputs),
            "zone_dir": self.zone_dir,
            "left": dict(self.left),
        }


def work_request_from_json(value: Mapping[str, JSON]) -> WorkRequest:
    """Read a request back. Raises ``KeyError`` or ``TypeError`` for a damaged one."""
    return WorkRequest(
        context=_object(value, "context"),
        tokens={name: str(token) for name, token in _object(value, "tokens").items()},
        public_key=str(value["public_key"]),
        artifacts_uri=str(value["artifacts_uri"]),
        data_dirs=tuple(str(folder) for folder in _items(value["data_dirs"])),
        inputs=_object(value, "inputs"),
        zone_dir=str(value.get("zone_dir", "")),
        left=_object(value, "left") if "left" in value else {},
    )


@dataclass(frozen=True, slots=True)
class WorkResult:
    """What a heavy function reports back.

    Args:
        status: How it ended. A failed expectation is a failed step with reason
            ``ExpectationsFailed``.
        reason: A reason word.
        message: For people; no record-level value.
        receipts: Receipts of the events that did happen, canonical JSON.
        evidence: Evidence records, canonical JSON.
        artifacts: Artifacts as ``{"kind", "uri", "digest"}``.
        body_seconds: Seconds inside the body after imports; decimal string.
        resume: Of a report that was left for the case that the worker is lost, what the body needs
            to go on elsewhere; empty where it must not be called again. It holds a secret, and goes
            nowhere but into the next call.
    """

    status: str
    reason: str
    message: str
    receipts: Sequence[Mapping[str, JSON]]
    evidence: Sequence[Mapping[str, JSON]]
    artifacts: Sequence[Mapping[str, JSON]]
    body_seconds: str
    resume: Mapping[str, JSON] = field(default_factory=dict, repr=False)

    def to_json(self) -> dict[str, JSON]:
        """What travels back from a worker."""
        return {
            "status": self.status,
            "reason": self.reason,
            "message": self.message,
            "receipts": [dict(item) for item in self.receipts],
            "evidence": [dict(item) for item in self.evidence],
            "artifacts": [dict(item) for item in self.artifacts],
            "body_seconds": self.body_seconds,
            "resume": dict(self.resume),
        }


def work_result_from_json(value: Mapping[str, JSON]) -> WorkResult:
    """Read a result back. Raises ``KeyError`` or ``TypeError`` for a damaged one."""
    return WorkResult(
        status=str(value["status"]),
        reason=str(value["reason"]),
        message=str(value["message"]),
        receipts=_mappings(value["receipts"]),
        evidence=_mappings(value["evidence"]),
        artifacts=_mappings(value["artifacts"]),
        body_seconds=str(value["body_seconds"]),
        resume=_object(value, "resume") if "resume" in value else {},
    )


class StepServices(Protocol):
    """What the step runtime may ask of the platform. In a cluster over HTTP, embedded directly."""

    def outcome(self, outcome_id: str) -> StepOutcome | None:
        """The outcome stored under an id, if any."""

    def begun(self, outcome_id: str) -> str:
        """Note durably that the step begins.

        Returns ``Fresh``, or ``Exposed`` if an earlier try redeemed a ticket.
        """

    def redeem(self, ticket: str) -> DataToken:
        """Record Exposed (or Inspected) durably, then mint the data token.

        Raises:
            Refused: If the ticket is used up, expired, of another fence, or its reservation is
                resolved.
        """

    def record(self, outcome: StepOutcome, evidence: Sequence[Evidence]) -> None:
        """Store evidence and outcome in one transaction; storing the same again is a no-op."""

    def ready(self, entry: str) -> None:
        """Wait until a compute worker can take this entry. Called before any ticket is redeemed.

        Raises:
            Unavailable: If none can be reached; nothing was exposed then.
        """

    def compute(self, entry: str, request: WorkRequest) -> WorkResult:
        """Run a heavy function on a compute worker."""

    def lineage(self, event: Mapping[str, JSON]) -> None:
        """Queue one lineage event; never fails the step."""

    def public_key(self) -> str:
        """The platform's public key, PEM."""

    def artifacts_uri(self, study_uid: str, generation: int) -> str:
        """Where the Study's artifacts go."""

    def data_dirs(self) -> Sequence[str]:
        """Folders searched for dataset files."""

    def zone_dir(self) -> str:
        """Folder of the steward's zone; see ``WorkRequest``."""
