"""The step runtime: what happens around every step's body, once, whatever crashes.

``execute`` runs in the thin process of a pipeline step: skip what stands, redeem tickets, have the
body run by a compute worker, record what it came to, tell lineage. ``work`` runs in the worker
around the body. Neither opens data, neither lets an exception's text out: only our own messages
pass, a traceback goes to the steward's log. It must not import anything heavy, and it decides
nothing about budgets: what a step cannot prove by a receipt the ledger charges in full.

A worker may be lost in the middle. What its body left for that case (``leave``) then counts, and
where the body says that it can go on, another worker is asked, a few times
(docs/decisions/0036).
"""

from __future__ import annotations

import base64
import importlib
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from primum.domain.canonical import JSON
from primum.domain.conditions import Reason
from primum.domain.errors import InvalidValue, PrimumError, Tampered, Unavailable
from primum.domain.governance.evidence import Evidence, evidence_from_json
from primum.domain.study.lineage import ReservationLink, step_ended, step_started
from primum.domain.study.plan import Treatment
from primum.domain.study.steps import (
    ArtifactRef,
    DataToken,
    Receipt,
    StepContext,
    StepOutcome,
    StepServices,
    StepStatus,
    WorkRequest,
    WorkResult,
    receipt_from_json,
    work_request_from_json,
    work_result_from_json,
)
from primum_pipelines.fan_out import FanOut, using
from primum_pipelines.progress import keep_traceback

PRELOAD: Mapping[str, Sequence[str]] = {
    "worker": (
        "numpy",
        "torch",
        "torch._dynamo",  # what a torch optimizer imports when the first one is made
        "cryptography.hazmat.primitives.ciphers",
        "safetensors.torch",
        "primum_pipelines.datasets.access",
    ),
    "quality": ("numpy", "pandas", "great_expectations", "primum_pipelines.datasets.access"),
}
"""What each kind of warm worker imports before its first call. A missing one is skipped."""

TOGETHER = frozenset({"primum_pipelines.kinds.train.step:train"})
"""Bodies that every worker of a Study runs at once, as one ``torch.distributed`` group."""

_PAUSES_SECONDS = (2.0, 15.0, 60.0)
"""Before a lost body is asked to go on. A node that was taken away is replaced within minutes, for
which a worker is waited; a body that kills its worker again and again is not asked a fourth time.
"""

_MESSAGE_LENGTH_MAX = 1024
_EXPOSED = "Exposed"
_CHARGED = Treatment.CHARGED.value
_ZERO = "0"


@dataclass(slots=True)
class _Words:
    """What a body has left for the case that it ends without a report."""

    last: Mapping[str, JSON]
    keep: Callable[[Mapping[str, JSON]], None] | None

    def leave(self, word: Mapping[str, JSON]) -> None:
        if self.keep is not None:
            self.keep(word)
        self.last = word

    @property
    def receipts(self) -> Sequence[Mapping[str, JSON]]:
        return work_result_from_json(self.last).receipts if self.last else ()


_WORDS: ContextVar[_Words | None] = ContextVar("words", default=None)


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a body ended, read from its report."""

    status: StepStatus
    reason: Reason
    message: str
    receipts: tuple[Receipt, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    artifacts: tuple[ArtifactRef, ...] = ()
    body_seconds: str = _ZERO


def now() -> str:
    """The time of a lineage event, RFC 3339 in UTC."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def execute(
    context: StepContext,
    services: StepServices,
    *,
    clock: Callable[[], str] = now,
    pause: Callable[[float], None] = time.sleep,
) -> StepOutcome:
    """Run one step, or find that it already ran.

    Args:
        context: What the step was told.
        services: What the platform lets it do.
        clock: Time of lineage events.
        pause: Waits before a lost body is asked to go on.

    Returns:
        The outcome that stands: the earlier one where there is one, else the one recorded now. A
        body that fails is an outcome too.

    Guarantees:
        The body of a step with a charged access runs at most once per outcome id once a ticket was
        redeemed, unless its worker was lost and the body itself had said how to go on without doing
        anything twice. An outcome never holds a receipt that does not name the data token it was
        given, nor a message that is not ours.

    Raises:
        Unavailable: If the platform could not be reached before anything began, or could not store
            the outcome. Running the step again is then right: it meets its earlier self.
    """
    standing = services.outcome(context.outcome_id)
    if standing is not None:
        return standing
    upstream = _upstream(context, services)
    step = _Step(context, services, upstream, clock, pause)
    if services.begun(context.outcome_id) == _EXPOSED:
        message = f"{context.step} was exposed and left no outcome; it will be charged in full."
        return step.end(_Ended(StepStatus.FAILED, Reason.STEP_LOST, message), {})
    services.lineage(step_started(context, tuple(upstream.values()), at=clock()))
    tokens: dict[str, DataToken] = {}
    try:
        services.ready(context.entry)
        for access in _accesses(context):
            tokens[access] = _redeemed(context, services, access)
        ended = _read(context, step.result(tokens), tokens)
    except Exception as error:  # noqa: BLE001 - whatever went wrong is the step's outcome
        ended = step.failed(error)
    return step.end(ended, tokens)


@dataclass(frozen=True, slots=True)
class _Step:
    """A step under way: its request to the worker, and how it is recorded."""

    context: StepContext
    services: StepServices
    upstream: Mapping[str, StepOutcome]
    clock: Callable[[], str]
    pause: Callable[[float], None]

    def result(self, tokens: dict[str, DataToken]) -> WorkResult:
        """What the body reports; another worker is asked where one was lost, if it may be.

        A body that was lost goes on from what it had left. One of a step without a charged access
        begins again: it has released nothing.

        Raises:
            Unavailable: If a worker was lost and nobody can say what it did.
        """
        left: Mapping[str, JSON] = {}
        for seconds in _PAUSES_SECONDS:
            try:
                result = self._asked(tokens, left)
                if not result.resume:
                    return result
                left = result.to_json()
            except Unavailable:
                if self._is_charged:
                    raise
            self.pause(seconds)
            try:
                self._ready_again(tokens)
            except PrimumError as error:
                if not left:
                    raise
                message = f"{result.message.rstrip('.')}; nothing went on: {error}"
                return replace(result, message=message, resume={})
        return self._asked(tokens, left)

    def _asked(self, tokens: Mapping[str, DataToken], left: Mapping[str, JSON]) -> WorkResult:
        return self.services.compute(self.context.entry, self.request(tokens, left=left))

    def _ready_again(self, tokens: dict[str, DataToken]) -> None:
        """Wait for a worker, and redeem again: so the ledger sees that what pays still stands."""
        self.services.ready(self.context.entry)
        for access in tokens:
            tokens[access] = _redeemed(self.context, self.services, access)

    @property
    def _is_charged(self) -> bool:
        return any(item["treatment"] == _CHARGED for item in _declared(self.context))

    def request(
        self, tokens: Mapping[str, DataToken], *, left: Mapping[str, JSON] | None = None
    ) -> WorkRequest:
        """What the worker gets: tokens instead of tickets, and what a lost worker left."""
        context = dict(self.context.to_json())
        context |= {"tickets": {}, "credential": ""}
        return WorkRequest(
            context=context,
            tokens={access: token.text for access, token in tokens.items()},
            public_key=self.services.public_key(),
            artifacts_uri=self._artifacts_uri(),
            data_dirs=tuple(self.services.data_dirs()),
            inputs={name: outcome.to_json() for name, outcome in self.upstream.items()},
            zone_dir=self.services.zone_dir(),
            left=left or {},
        )

    def failed(self, error: Exception) -> _Ended:
        """A failure without receipts; the traceback stays in the zone."""
        keep_traceback(self._artifacts_uri(), self.context.step, _text_of(error))
        return _Ended(StepStatus.FAILED, Reason.STEP_FAILED, scrubbed(self.context.step, error))

    def end(self, ended: _Ended, tokens: Mapping[str, DataToken]) -> StepOutcome:
        """Record evidence and outcome in one transaction, then tell lineage."""
        outcome = StepOutcome(
            outcome_id=self.context.outcome_id,
            step=self.context.step,
            status=ended.status,
            reason=ended.reason.value,
            message=ended.message[:_MESSAGE_LENGTH_MAX],
            receipts=ended.receipts,
            evidence=tuple(record.digest for record in ended.evidence),
            artifacts=ended.artifacts,
            body_seconds=ended.body_seconds,
        )
        self.services.record(outcome, ended.evidence)
        event = step_ended(
            self.context,
            tuple(self.upstream.values()),
            outcome,
            ended.evidence,
            reservations=[_link(token) for token in tokens.values()],
            at=self.clock(),
        )
        self.services.lineage(event)
        return outcome

    def _artifacts_uri(self) -> str:
        study = self.context.study
        return self.services.artifacts_uri(str(study["uid"]), int(str(study["generation"])))


def work(
    entry: str,
    payload: Mapping[str, JSON],
    *,
    leave: Callable[[Mapping[str, JSON]], None] | None = None,
    fan_out: FanOut | None = None,
) -> dict[str, JSON]:
    """Run a heavy function inside a compute worker.

    Args:
        entry: ``package.module:function``, from a ``WorkRequest`` to a ``WorkResult``.
        payload: A ``WorkRequest`` as JSON.
        leave: Takes reports that count if this process is lost before it gives its own.
        fan_out: Who may do parts of the work; ``None`` for nobody.

    Returns:
        Its ``WorkResult`` as JSON; a failed one where the function raised. No exception leaves,
        since a framework would print its text and arguments. Its receipts are then those of the
        last report that was left.
    """
    step, artifacts_uri = "step", ""
    words = _Words({}, leave)
    held = _WORDS.set(words)
    try:
        request = work_request_from_json(payload)
        words.last = request.left
        step, artifacts_uri = str(request.context["step"]), request.artifacts_uri
        with using(fan_out):
            result: WorkResult = _function(entry)(request)
        return result.to_json()
    except BaseException as error:  # noqa: BLE001 - a worker outlives whatever a body raises
        if artifacts_uri:
            keep_traceback(artifacts_uri, step, _text_of(error))
        failed = WorkResult(
            status=StepStatus.FAILED.value,
            reason=Reason.STEP_FAILED.value,
            message=scrubbed(step, error),
            receipts=words.receipts,
            evidence=(),
            artifacts=(),
            body_seconds=_ZERO,
        )
        return failed.to_json()
    finally:
        _WORDS.reset(held)


def leave(result: WorkResult) -> None:
    """Leave a report that counts if this body ends without its own: the last one that was left.

    Args:
        result: A failed report; its receipts must cover all that may run before the next one. What
            the body needs to go on elsewhere is its ``resume``.

    Raises:
        Unavailable: If it cannot be kept. Nothing that it covers may be run then.
    """
    words = _WORDS.get()
    if words is not None:
        words.leave(result.to_json())


def scrubbed(step: str, error: BaseException) -> str:
    """What may be said about a failure: our own messages, and of anything else only its type."""
    if isinstance(error, PrimumError):
        return f"{step} failed: {error}"
    return f"{step} failed: {type(error).__name__}"


def _function(entry: str) -> Callable[[WorkRequest], WorkResult]:
    module, _, name = entry.partition(":")
    if not module or not name.isidentifier():
        raise InvalidValue("entry", "must be package.module:function", entry)
    function: Callable[[WorkRequest], WorkResult] = getattr(importlib.import_module(module), name)
    return function


def _text_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _upstream(context: StepContext, services: StepServices) -> dict[str, StepOutcome]:
    found = {step: services.outcome(outcome_id) for step, outcome_id in context.upstream.items()}
    return {step: outcome for step, outcome in found.items() if outcome is not None}


def _accesses(context: StepContext) -> list[str]:
    """Names of the accesses that the plan gives to this step, in its order."""
    return [str(item["name"]) for item in _declared(context)]


def _declared(context: StepContext) -> list[Mapping[str, JSON]]:
    """The accesses that the plan gives to this step, in its order."""
    declared = context.plan.get("accesses")
    if not isinstance(declared, list | tuple):
        raise TypeError("a plan lists its accesses")
    return [item for item in declared if isinstance(item, Mapping) and item["step"] == context.step]


def _redeemed(context: StepContext, services: StepServices, access: str) -> DataToken:
    ticket = context.tickets.get(access)
    if ticket is None:
        raise Tampered(f"access {access} must come with a ticket; found none.")
    token = services.redeem(ticket)
    if token.access != access:
        raise Tampered(
            f"the ticket of access {access} must cover it; found one for {token.access}."
        )
    return token


def _read(context: StepContext, result: WorkResult, tokens: Mapping[str, DataToken]) -> _Ended:
    """Read a report strictly; a damaged one is a failed step without receipts, charged in full."""
    try:
        return _Ended(
            status=StepStatus(result.status),
            reason=Reason(result.reason),
            message=str(result.message),
            receipts=_receipts(result.receipts, tokens),
            evidence=tuple(_evidence(context, item) for item in result.evidence),
            artifacts=tuple(_artifact(item) for item in result.artifacts),
            body_seconds=_seconds(result.body_seconds),
        )
    except (PrimumError, KeyError, TypeError, ValueError, InvalidOperation) as error:
        found = f"left a damaged report ({type(error).__name__})"
        message = f"{context.step} {found}; it will be charged in full."
        return _Ended(StepStatus.FAILED, Reason.STEP_FAILED, message)


def _receipts(
    items: Sequence[Mapping[str, JSON]], tokens: Mapping[str, DataToken]
) -> tuple[Receipt, ...]:
    receipts = tuple(receipt_from_json(item) for item in items)
    if len({receipt.access for receipt in receipts}) != len(receipts):
        raise ValueError("two receipts for one access")
    for receipt in receipts:
        token = tokens[receipt.access]
        if receipt.budget != token.budget or receipt.token_id != _claims(token).get("id"):
            raise ValueError("a receipt that does not name its data token")
    return receipts


def _evidence(context: StepContext, item: Mapping[str, JSON]) -> Evidence:
    record = evidence_from_json(item)
    if (record.study_uid, record.generation) != (context.study["uid"], context.study["generation"]):
        raise ValueError("evidence of another Study")
    return record


def _artifact(item: Mapping[str, JSON]) -> ArtifactRef:
    return ArtifactRef(str(item["kind"]), str(item["uri"]), str(item["digest"]))


def _seconds(text: str) -> str:
    if not Decimal(text).is_finite():
        raise ValueError("body_seconds must be finite")
    return text


def _link(token: DataToken) -> ReservationLink:
    reservation = _claims(token).get("reservationId")
    return ReservationLink(token.budget, token.access, str(reservation or ""))


def _claims(token: DataToken) -> dict[str, Any]:
    """What a token says. The platform itself just made it; the loader is who verifies it."""
    try:
        envelope = json.loads(base64.urlsafe_b64decode(token.text + "=" * (-len(token.text) % 4)))
        claims = json.loads(base64.b64decode(envelope["payload"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Tampered("a data token must be a signed envelope; found something else.") from error
    return claims if isinstance(claims, dict) else {}
