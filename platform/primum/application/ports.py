"""Ports: what the use cases need from the outside, as small Protocols.

Implementations live in ``adapters``.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from primum.resources.stored import StoredResource

if TYPE_CHECKING:  # `primum get` needs the protocols' names, not the whole domain.
    from primum.domain.accounting.events import Event
    from primum.domain.budget.entries import (
        AccountTerms,
        AccountView,
        Entry,
        Outlook,
        ReservationView,
        ReserveRequest,
        Result,
        RoundView,
    )
    from primum.domain.budget.lines import Line
    from primum.domain.budget.rules import Asker, Rules
    from primum.domain.canonical import JSON
    from primum.domain.governance.evidence import Evidence
    from primum.domain.governance.gates import StageVerdict
    from primum.domain.names import ResourceKey
    from primum.domain.study.plan import Plan
    from primum.domain.study.registration import Registration
    from primum.domain.study.spec import DatasetSpec
    from primum.domain.study.steps import StepContext, StepOutcome


class Clock(Protocol):
    """Time, as the platform sees it."""

    def now(self) -> str:
        """RFC 3339 in UTC with microseconds, e.g. ``2026-11-22T06:00:00.000000Z``.

        Sorts as text.
        """

    def after(self, seconds: float) -> str:
        """The time that many seconds from now, in the same form."""


class LedgerStore(Protocol):
    """The epsilon ledger. Every method is one durable, serializable transaction."""

    def open_account(self, terms: AccountTerms, *, actor: str) -> tuple[str, Result]:
        """Open an account, or find the one of the same dataset, unit and neighbors.

        A dataset is the same by uri or digest. A smaller guarantee lowers the account's; a larger
        one is refused with ``GuaranteeRaised``.

        Returns:
            The account id (empty when refused) and the result.
        """

    def reserve(
        self, requests: Sequence[ReserveRequest], *, lease_seconds: float, actor: str
    ) -> Result:
        """Hold every request's cost, all or none.

        A denial is written as ``Denied`` on each account. Where a budget has a queue, the claim
        waits in it until a round grants it, at most as long as the budget says.
        """

    def expose(self, reservation_id: str, *, access: str, fence: int, actor: str) -> Result:
        """Record durably that data may now be touched for an access.

        The first one moves the state to Exposed.
        """

    def extend(
        self, reservation_id: str, *, fence: int, lease_seconds: float, actor: str
    ) -> Result:
        """Move the lease of an open reservation (a heartbeat); not an entry, never shortens."""

    def charge(
        self,
        reservation_id: str,
        *,
        executed: Event | None,
        reason: str,
        actor: str,
        answered: Sequence[str] | None = None,
    ) -> Result:
        """Spend for good.

        The executed events where a trusted receipt shows them, all of it where ``None``, or where
        an access was exposed that is not among those ``answered`` for.
        """

    def give_back(self, reservation_id: str, *, reason: str, actor: str) -> Result:
        """Return a reservation that was never exposed, or take back a claim that waits."""

    def configure(self, account_id: str, rules: Rules, *, key: str, actor: str) -> Result:
        """Share an account's room out by other rules; ``REPEATED`` where they are these already."""

    def divide(self, account_id: str, blocks: Sequence[str], *, actor: str) -> Result:
        """Add the blocks of a divided dataset that are not there yet."""

    def schedule(self, *, lease_seconds: float, actor: str) -> Sequence[RoundView]:
        """Run one scheduling round over everything that waits.

        Unlocks what has become available by time, grants what the budgets' schedulers choose, and
        refuses what cannot fit any more.

        Returns:
            What the round came to on each account for which somebody waited.
        """

    def withdraw_consent(self, account_id: str, *, mark: str, key: str, actor: str) -> Result:
        """Record that a unit may not be read any more, by a mark that says nothing about it."""

    def inspect(
        self, account_id: str, *, access: str, study_uid: str, key: str, actor: str
    ) -> Result:
        """Record an access inside the steward's zone whose outputs stay Restricted."""

    def freeze(self, account_id: str, *, reason: str, key: str, actor: str) -> Result:
        """Refuse every new reservation and exposure on an account until thawed."""

    def thaw(self, account_id: str, *, reason: str, key: str, actor: str) -> Result:
        """Undo a freeze, by a steward, with a reason."""

    def expire(self, *, actor: str) -> Sequence[str]:
        """Resolve every lease that ran out: exposed ones in full, others returned.

        Claims that waited too long have expired.

        Returns their ids.
        """

    def account(self, account_id: str) -> AccountView | None:
        """An account as it stands."""

    def accounts(self) -> Sequence[AccountView]:
        """Every account, oldest first."""

    def reservation(self, reservation_id: str) -> ReservationView | None:
        """A reservation as it stands."""

    def reservations(
        self, *, account_id: str = "", study_uid: str = ""
    ) -> Sequence[ReservationView]:
        """Reservations of an account or of a Study, oldest first."""

    def entries(
        self, *, account_id: str = "", after: int = 0, limit: int = 1000
    ) -> Sequence[Entry]:
        """Entries in order of ``seq``."""

    def head(self) -> tuple[int, str]:
        """Sequence number and hash of the last entry; ``(0, "0" * 64)`` for an empty ledger."""

    def lines(self, *, after: int = 0, limit: int = 1000) -> Sequence[Line]:
        """Entries in order of ``seq``, as stored and not read; at most 10,000 at once."""

    def verify(
        self, *, public_key: str = "", outside: Mapping[str, Mapping[str, JSON]] = ...
    ) -> Sequence[str]:
        """Recompute chain and balances from the entries, and meet every checkpoint on the way.

        Args:
            public_key: Whose signature counts, PEM; without it checkpoints in entries are passed
                over.
            outside: Checkpoints that were kept elsewhere, by what to call them.

        Returns:
            Every contradiction found, or nothing.

        Raises:
            InvalidValue: If the key cannot be read.
        """

    def checkpoint(self, signer: Signer, *, actor: str) -> Mapping[str, JSON]:
        """Sign where the ledger stands, keep the envelope as an entry, and give it.

        No other writer waits for the signature. Asked again before anything else was written, it
        writes a further one.

        Raises:
            Tampered: If the ledger is older than its anchor; it is not signed then.
        """

    def checkpoint_due(self) -> bool:
        """Whether enough was written, or time passed, since the last checkpoint."""

    def signed_head(self, signer: Signer) -> Mapping[str, JSON]:
        """Sign where the ledger stands, and keep it nowhere.

        Raises:
            Tampered: If the ledger is older than its anchor.
        """

    def fits(self, account_id: str, event: Event, *, blocks: Sequence[str] = ()) -> int:
        """How many more times an event fits into what is left of every block, up to 1000.

        Answers without spending.

        Raises:
            NotFound: If a block does not exist.
        """

    def outlook(
        self,
        account_id: str,
        event: Event,
        *,
        blocks: Sequence[str] = (),
        asker: Asker | None = None,
    ) -> Outlook:
        """What would become of a request now, and when it would fit.

        Answers without spending. ``asker`` says whose quotas hold; without it they are left out.

        Raises:
            NotFound: If a block does not exist.
        """


class LedgerAnchor(Protocol):
    """Remembers the end of the ledger outside its database, so that an older copy is recognized."""

    def read(self) -> tuple[int, str] | None:
        """Sequence number and hash that were anchored last; ``None`` if nothing ever was.

        Raises:
            Tampered: If the anchor cannot be read as one.
        """

    def write(self, seq: int, digest: str) -> None:
        """Move the anchor forward, durably; a lower number than the present one is a no-op.

        Raises:
            Unavailable: If it cannot be written.
        """


@dataclass(frozen=True, slots=True)
class Dossier:
    """What is written about one Study generation, as of one moment.

    Args:
        plan: Its plan.
        outcomes: Of the plan's steps, by step.
        evidence: Every record, oldest first.
        facts: Of those that were asked for, the ones that are there, by kind.
    """

    plan: Plan | None
    outcomes: Mapping[str, StepOutcome]
    evidence: tuple[Evidence, ...]
    facts: Mapping[str, Mapping[str, JSON]]


class EvidenceStore(Protocol):
    """Plans, outcomes, evidence, verdicts and certificates.

    Facts, written once under ids decided before.
    """

    def put_plan(self, plan: Plan) -> None:
        """Store a plan once per Study generation.

        Another content under the same id is a Conflict.
        """

    def plan(self, study_uid: str, generation: int) -> Plan | None:
        """The plan of a Study generation."""

    def begin(self, outcome_id: str, *, study_uid: str, generation: int, step: str) -> None:
        """Note that a step begins."""

    def begun(self, outcome_id: str) -> bool:
        """Whether a step of this id ever began."""

    def record(
        self, outcome: StepOutcome, evidence: Sequence[Evidence], *, study_uid: str, generation: int
    ) -> None:
        """Store evidence and outcome in one transaction.

        The same again is a no-op, other content a Conflict.
        """

    def outcome(self, outcome_id: str) -> StepOutcome | None:
        """A step's outcome."""

    def evidence(self, study_uid: str, generation: int) -> Sequence[Evidence]:
        """Every evidence record of a Study generation."""

    def put_fact(self, kind: str, key: str, value: Mapping[str, JSON]) -> None:
        """Store a fact (Verdicts, Certificate, Note, Run, ...) once.

        The same again is a no-op, other content a Conflict.
        """

    def fact(self, kind: str, key: str) -> Mapping[str, JSON] | None:
        """A fact."""

    def facts(self, kind: str) -> Sequence[tuple[str, Mapping[str, JSON]]]:
        """Every fact of a kind, oldest first, as (key, value)."""

    def dossier(self, study_uid: str, generation: int, *, facts: Mapping[str, str]) -> Dossier:
        """Everything about one Study generation at once, on one snapshot.

        Args:
            study_uid: The Study.
            generation: Its generation.
            facts: Kinds of facts that are wanted, each with its key.
        """


class ApplyChange(enum.StrEnum):
    """What applying a resource did."""

    CREATED = "created"
    CONFIGURED = "configured"
    UNCHANGED = "unchanged"


class ResourceStore(Protocol):
    """Declared resources and their status, level-based."""

    def apply(
        self,
        key: ResourceKey,
        spec: Mapping[str, JSON],
        *,
        labels: Mapping[str, str],
        owner: str = "",
    ) -> tuple[StoredResource, ApplyChange]:
        """Create or replace a spec; the generation moves only when the spec does."""

    def get(self, key: ResourceKey) -> StoredResource | None:
        """One resource."""

    def list(self, kind: str, namespace: str = "", *, name: str = "") -> Sequence[StoredResource]:
        """Resources of a kind, in one namespace or all, of one name or all; by name."""

    def set_status(self, key: ResourceKey, uid: str, status: Mapping[str, JSON]) -> None:
        """Replace the status of the resource with this uid.

        A no-op where it is gone or recreated.
        """

    def request_deletion(self, key: ResourceKey) -> StoredResource:
        """Mark for deletion. The controller settles the ledger and removes it.

        Raises:
            NotFound: If it does not exist.
        """

    def remove(self, key: ResourceKey, uid: str) -> None:
        """Remove the resource with this uid."""


class RunStatus(enum.StrEnum):
    """A pipeline run as its runner reports it."""

    UNKNOWN = "Unknown"  # never launched here, or the record is lost
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class PipelineRunner(Protocol):
    """Runs one pipeline per Study generation."""

    def launch(self, run_id: str, *, name: str, steps: Sequence[StepContext]) -> None:
        """Start the run; launching the same id again while it runs or after it ended is a no-op."""

    def status(self, run_id: str) -> RunStatus:
        """How the run stands."""

    def stop(self, run_id: str) -> None:
        """Stop the run and everything it started; stopping twice is a no-op."""

    def logs(self, run_id: str) -> str:
        """What the run printed; scrubbed of record-level values by construction of the steps."""


class Compute(Protocol):
    """Warm workers that run heavy functions."""

    def warm(self) -> None:
        """Start the workers in the background; returns at once."""

    def ready(self, entry: str) -> None:
        """Wait until a worker can take this entry.

        Raises:
            Unavailable: If none can be reached in time.
        """

    def devices(self) -> int:
        """How many GPUs there are for runs, whoever has them now."""

    def call(self, entry: str, payload: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Run ``package.module:function`` with a JSON payload on a worker.

        Raises:
            Unavailable: If no worker could be reached.
        """


class Datasets(Protocol):
    """The steward's zone: registers datasets; opens none for anybody else."""

    def register(self, dataset: DatasetSpec) -> Registration:
        """Digest the dataset and count its units, in each block where it is divided.

        A layout by time ends with the newest block that may have units.

        Raises:
            NotFound: If it cannot be found, saying where it was looked for.
            InvalidValue: If it cannot be read, has no labels, or holds NaN, naming the column,
                never a value.
        """


class Lineage(Protocol):
    """Where lineage events go."""

    def emit(self, event: Mapping[str, JSON]) -> None:
        """Queue one OpenLineage event; never raises."""


class Signer(Protocol):
    """The platform's key: signs tokens, checkpoints and certificates."""

    def public_key(self) -> str:
        """PEM of the Ed25519 public key."""

    def sign(self, payload_type: str, payload: bytes) -> Mapping[str, JSON]:
        """A DSSE envelope around the payload."""

    def open(self, envelope: Mapping[str, JSON], payload_type: str) -> bytes:
        """Verify an envelope and give its payload.

        Raises:
            Tampered: If the signature, the type or the shape is wrong.
        """


class PolicyEngine(Protocol):
    """Evaluates CEL rules. Any exception in a rule is a deny."""

    def bundle(self, name: str) -> Mapping[str, JSON] | None:
        """The spec of a built-in bundle."""

    def check(self, spec: Mapping[str, JSON]) -> Sequence[str]:
        """Compile every rule; returns what is wrong, or nothing."""

    def evaluate(
        self,
        name: str,
        spec: Mapping[str, JSON],
        *,
        stage: str,
        facts: Mapping[str, JSON],
        inputs: Iterable[str],
    ) -> StageVerdict:
        """Evaluate the rules of a stage over facts."""


class Archive(Protocol):
    """Keeps signed documents where people find them."""

    def put(self, name: str, content: bytes) -> str:
        """Store a document under its name, whole or not at all; returns where.

        The same again is a no-op.
        """


class Publisher(Protocol):
    """Serves or publishes a released artifact, and takes it back."""

    def publish(
        self, release: ResourceKey, *, spec: Mapping[str, JSON], certificate: Mapping[str, JSON]
    ) -> str:
        """Make the artifact available; returns where. Publishing the same again is a no-op."""

    def unready(self, release: ResourceKey) -> str:
        """Why what was published does not answer yet; empty where it does."""

    def withdraw(self, release: ResourceKey) -> None:
        """Stop serving; a no-op if it is not served.

        Raises:
            Unavailable: If it could not be seen to have stopped; asked again, it goes on.
        """
