"""Reference implementations of the ports, in memory: what the tests and the simulation run on.

Held by the contract suites to the same words as the real ones. Nothing here is durable, and nothing
here may be lenient where a real adapter is strict.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from primum import signing
from primum import verification as certificates
from primum.adapters.memory_ledger import (
    LedgerRows,
    ManualClock,
    MemoryAnchor,
    MemoryLedgerStore,
    MemoryRowStore,
)
from primum.application.ports import (
    ApplyChange,
    Clock,
    Dossier,
    RunStatus,
)
from primum.domain import names
from primum.domain.canonical import JSON, canonical_json, digest_of
from primum.domain.errors import Conflict, InvalidValue, NotFound, Refused, Unavailable
from primum.domain.governance.evidence import Evidence, evidence_from_json
from primum.domain.names import ResourceKey, derived_uuid
from primum.domain.study.plan import Plan, plan_from_json
from primum.domain.study.registration import Registration
from primum.domain.study.spec import DatasetSpec
from primum.domain.study.steps import StepContext, StepOutcome, outcome_from_json
from primum.resources.stored import StoredResource

__all__ = [
    "LedgerRows",
    "ManualClock",
    "MemoryAnchor",
    "MemoryArchive",
    "MemoryCompute",
    "MemoryDatasets",
    "MemoryEvidenceStore",
    "MemoryLedgerStore",
    "MemoryLineage",
    "MemoryPublisher",
    "MemoryResourceStore",
    "MemoryRowStore",
    "MemoryRunner",
    "MemorySigner",
]


class MemoryEvidenceStore:
    """``EvidenceStore`` in memory; kept as canonical text, so that nothing stored can change."""

    def __init__(self) -> None:
        self._plans: dict[tuple[str, int], bytes] = {}
        self._begun: dict[str, tuple[str, int, str]] = {}
        self._outcomes: dict[str, bytes] = {}
        self._evidence: dict[tuple[str, int], dict[str, bytes]] = {}
        self._facts: dict[tuple[str, str], bytes] = {}
        self._lock = threading.RLock()

    def put_plan(self, plan: Plan) -> None:
        """Store a plan once per Study generation."""
        with self._lock:
            key = (plan.study_uid, plan.generation)
            _put_once(self._plans, key, plan.to_json(), f"plan of generation {plan.generation}")

    def plan(self, study_uid: str, generation: int) -> Plan | None:
        """The plan of a Study generation."""
        body = self._plans.get((study_uid, generation))
        return None if body is None else plan_from_json(json.loads(body))

    def begin(self, outcome_id: str, *, study_uid: str, generation: int, step: str) -> None:
        """Note that a step begins."""
        with self._lock:
            self._begun.setdefault(outcome_id, (study_uid, generation, step))

    def begun(self, outcome_id: str) -> bool:
        """Whether a step of this id ever began."""
        return outcome_id in self._begun

    def record(
        self, outcome: StepOutcome, evidence: Sequence[Evidence], *, study_uid: str, generation: int
    ) -> None:
        """Store evidence and outcome together; other content is a Conflict."""
        with self._lock:
            if any((e.study_uid, e.generation) != (study_uid, generation) for e in evidence):
                raise InvalidValue("evidence", "must be of the step's Study", "another Study")
            _put_once(
                self._outcomes, outcome.outcome_id, outcome.to_json(), f"outcome {outcome.step}"
            )
            kept = self._evidence.setdefault((study_uid, generation), {})
            for item in evidence:
                kept.setdefault(item.digest, canonical_json(item.to_json()))

    def outcome(self, outcome_id: str) -> StepOutcome | None:
        """A step's outcome."""
        body = self._outcomes.get(outcome_id)
        return None if body is None else outcome_from_json(json.loads(body))

    def evidence(self, study_uid: str, generation: int) -> Sequence[Evidence]:
        """Every evidence record of a Study generation, oldest first."""
        kept = self._evidence.get((study_uid, generation), {})
        return tuple(evidence_from_json(json.loads(body)) for body in kept.values())

    def put_fact(self, kind: str, key: str, value: Mapping[str, JSON]) -> None:
        """Store a fact once."""
        with self._lock:
            _put_once(self._facts, (kind, key), value, f"{kind} {key}")

    def fact(self, kind: str, key: str) -> Mapping[str, JSON] | None:
        """A fact."""
        body = self._facts.get((kind, key))
        return None if body is None else dict(json.loads(body))

    def facts(self, kind: str) -> Sequence[tuple[str, Mapping[str, JSON]]]:
        """Every fact of a kind, oldest first, as (key, value)."""
        return tuple(
            (key, dict(json.loads(body))) for (k, key), body in self._facts.items() if k == kind
        )

    def dossier(self, study_uid: str, generation: int, *, facts: Mapping[str, str]) -> Dossier:
        """Everything about one Study generation at once."""
        with self._lock:
            plan = self.plan(study_uid, generation)
            outcomes = {
                step: self.outcome(names.outcome_id(study_uid, generation, step))
                for step in (plan.steps if plan else ())
            }
            known = {kind: self.fact(kind, key) for kind, key in facts.items()}
            return Dossier(
                plan,
                {step: found for step, found in outcomes.items() if found is not None},
                tuple(self.evidence(study_uid, generation)),
                {kind: found for kind, found in known.items() if found is not None},
            )


Key = TypeVar("Key")


def _put_once(where: dict[Key, bytes], key: Key, value: Mapping[str, JSON], name: str) -> None:
    body = canonical_json(value)
    if where.setdefault(key, body) != body:
        raise Conflict(f"{name} must stay as stored; found other content. Nothing was changed.")


class MemoryResourceStore:
    """``ResourceStore`` in memory.

    Args:
        clock: Stamps creation and deletion.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._version = 0
        self._held: dict[ResourceKey, StoredResource] = {}
        self._lock = threading.RLock()

    @contextmanager
    def _versioned(self) -> Iterator[int]:
        with self._lock:
            yield self._version + 1
            self._version += 1

    def apply(
        self,
        key: ResourceKey,
        spec: Mapping[str, JSON],
        *,
        labels: Mapping[str, str],
        owner: str = "",
    ) -> tuple[StoredResource, ApplyChange]:
        """Create or replace a spec; the generation moves only when the spec does."""
        body = json.loads(canonical_json(spec))
        with self._lock:
            before = self._held.get(key)
            if before is not None and before.deleting:
                raise Conflict(f"{key} must not be in deletion to be applied; found it is.")
            if before is None:
                return self._create(key, body, labels=labels, owner=owner), ApplyChange.CREATED
            after = replace(before, spec=body, labels=dict(labels), owner=owner or before.owner)
            if after == before:
                return _copied(before), ApplyChange.UNCHANGED
            moved = body != before.spec
            after = replace(after, generation=before.generation + moved)
            return self._put(after), ApplyChange.CONFIGURED

    def _create(
        self, key: ResourceKey, spec: Mapping[str, JSON], *, labels: Mapping[str, str], owner: str
    ) -> StoredResource:
        uid = derived_uuid("memory", str(key), str(self._version + 1))  # Repeatable simulations.
        now = self._clock.now()
        return self._put(
            StoredResource(key, uid, 1, 0, now, spec, {}, dict(labels), owner, deleting="")
        )

    def _put(self, resource: StoredResource) -> StoredResource:
        with self._versioned() as version:
            self._held[resource.key] = replace(resource, resource_version=version)
        return _copied(self._held[resource.key])

    def get(self, key: ResourceKey) -> StoredResource | None:
        """One resource."""
        held = self._held.get(key)
        return None if held is None else _copied(held)

    def list(self, kind: str, namespace: str = "", *, name: str = "") -> Sequence[StoredResource]:
        """Resources of a kind, in one namespace or all, of one name or all; by name."""
        with self._lock:
            keys = sorted(
                k
                for k in self._held
                if k.kind == kind and namespace in ("", k.namespace) and name in ("", k.name)
            )
            return tuple(_copied(self._held[key]) for key in keys)

    def set_status(self, key: ResourceKey, uid: str, status: Mapping[str, JSON]) -> None:
        """Replace the status of the resource with this uid."""
        body = json.loads(canonical_json(status))
        with self._lock:
            before = self._held.get(key)
            if before is not None and before.uid == uid and before.status != body:
                self._put(replace(before, status=body))

    def request_deletion(self, key: ResourceKey) -> StoredResource:
        """Mark for deletion; marking twice keeps the first time."""
        with self._lock:
            before = self._held.get(key)
            if before is None:
                raise NotFound(f"{key} must exist to be deleted; found none.")
            if before.deleting:
                return _copied(before)
            return self._put(replace(before, deleting=self._clock.now()))

    def remove(self, key: ResourceKey, uid: str) -> None:
        """Remove the resource with this uid."""
        with self._lock:
            before = self._held.get(key)
            if before is not None and before.uid == uid:
                del self._held[key]
                self._version += 1


def _copied(resource: StoredResource) -> StoredResource:
    """A copy whose spec and status can be changed without changing what is stored."""
    spec, status = json.loads(json.dumps([resource.spec, resource.status]))
    return replace(resource, spec=spec, status=status, labels=dict(resource.labels))


class MemoryRunner:
    """``PipelineRunner`` that runs nothing: whoever holds it decides how runs end."""

    def __init__(self) -> None:
        self.launched: dict[str, tuple[str, tuple[StepContext, ...]]] = {}
        self.statuses: dict[str, RunStatus] = {}

    def launch(self, run_id: str, *, name: str, steps: Sequence[StepContext]) -> None:
        """Note the run; launching the same id again is a no-op."""
        if run_id not in self.launched:
            self.launched[run_id] = (name, tuple(steps))
            self.statuses[run_id] = RunStatus.RUNNING

    def status(self, run_id: str) -> RunStatus:
        """How the run stands."""
        return self.statuses.get(run_id, RunStatus.UNKNOWN)

    def stop(self, run_id: str) -> None:
        """Stop the run; stopping twice is a no-op."""
        if self.statuses.get(run_id) is RunStatus.RUNNING:
            self.statuses[run_id] = RunStatus.FAILED

    def logs(self, run_id: str) -> str:
        """Nothing was printed."""
        return f"{self.status(run_id).value}\n" if run_id in self.launched else ""


class MemoryDatasets:
    """``Datasets`` that knows what it was told.

    Args:
        known: Registrations by uri.
    """

    def __init__(self, known: Mapping[str, Registration]) -> None:
        self._known = dict(known)

    def register(self, dataset: DatasetSpec) -> Registration:
        """The registration of a known dataset."""
        if dataset.uri not in self._known:
            raise NotFound(f"dataset must be known; found none at {dataset.uri}.")
        return self._known[dataset.uri]


class MemoryCompute:
    """``Compute`` in this process, over functions it was given by their entry.

    Args:
        functions: Heavy functions by ``package.module:function``.
        gpus: GPUs that there are.
    """

    def __init__(
        self,
        functions: Mapping[str, Callable[[Mapping[str, JSON]], Mapping[str, JSON]]],
        *,
        gpus: int = 0,
    ) -> None:
        self._functions = dict(functions)
        self._gpus = gpus

    def devices(self) -> int:
        """How many GPUs there are."""
        return self._gpus

    def warm(self) -> None:
        """Nothing to warm."""

    def ready(self, entry: str) -> None:
        """Whether the entry is here.

        Raises:
            Unavailable: If it is not.
        """
        if entry not in self._functions:
            raise Unavailable(f"{entry} must be on this worker; found no such function.")

    def close(self) -> None:
        """Nothing to let go of."""

    def call(self, entry: str, payload: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Run a function on a payload that went through JSON, as on a real worker."""
        self.ready(entry)
        told = json.loads(canonical_json(payload))
        return dict(json.loads(canonical_json(self._functions[entry](told))))


class MemoryLineage:
    """``Lineage`` that keeps its events."""

    def __init__(self) -> None:
        self.events: list[Mapping[str, JSON]] = []

    def emit(self, event: Mapping[str, JSON]) -> None:
        """Keep one event."""
        self.events.append(dict(event))


class MemoryArchive:
    """``Archive`` that keeps its documents."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}

    def put(self, name: str, content: bytes) -> str:
        """Keep a document under its name."""
        self.documents[name] = content
        return f"memory://{name}"


class MemorySigner:
    """``Signer`` whose key lives as long as it does."""

    def __init__(self) -> None:
        self._private, self._public = signing.generate()

    def public_key(self) -> str:
        """PEM of the Ed25519 public key."""
        return self._public

    def sign(self, payload_type: str, payload: bytes) -> Mapping[str, JSON]:
        """A DSSE envelope around the payload."""
        return signing.sign(self._private, payload_type, payload)

    def open(self, envelope: Mapping[str, JSON], payload_type: str) -> bytes:
        """Verify an envelope and give its payload."""
        return signing.verify(self._public, envelope, payload_type)


class MemoryPublisher:
    """``Publisher`` that keeps what is published.

    Args:
        public_key: The platform's public key, PEM.
    """

    def __init__(self, public_key: str) -> None:
        self._public_key = public_key
        self._revoked: set[str] = set()
        self.published: dict[ResourceKey, Mapping[str, JSON]] = {}

    def publish(
        self, release: ResourceKey, *, spec: Mapping[str, JSON], certificate: Mapping[str, JSON]
    ) -> str:
        """Keep the release; publishing the same again is a no-op.

        Raises:
            Refused: If the certificate does not hold for the artifact, or was revoked.
        """
        artifact = spec["artifact"]
        digest = str(artifact["digest"]) if isinstance(artifact, Mapping) else ""
        problems = certificates.verify_certificate(
            certificate, self._public_key, digest, release=release.name
        )
        if digest_of(certificate) in self._revoked:
            problems.append("certificate was revoked.")
        if problems:
            raise Refused("certificate must hold; found: " + " ".join(problems))
        self.published[release] = {"spec": dict(spec), "certificate": dict(certificate)}
        return f"memory://{release.namespace}/{release.name}"

    def unready(self, release: ResourceKey) -> str:
        """Why it does not answer; nothing has to start here."""
        return "" if release in self.published else "it is not published"

    def withdraw(self, release: ResourceKey) -> None:
        """Forget the release and revoke its certificate for good."""
        held = self.published.pop(release, None)
        if held is not None:
            self._revoked.add(digest_of(held["certificate"]))
