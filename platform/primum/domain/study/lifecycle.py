"""``decide``.

From everything observed about a Study to the one thing to do next, and what status shows. Pure.

Level-based: the answer depends on facts, never on how they came about, so any replica may take over
after any crash. The order of the checks is the way of a Study (design, section 4). Nothing here
waits, writes or asks.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from primum.domain.accounting.events import covers
from primum.domain.budget.book import LIVE_STATES
from primum.domain.budget.entries import ReservationState, ReservationView
from primum.domain.conditions import Condition, ConditionType, Reason, Status
from primum.domain.governance.evidence import Evidence, EvidenceKind, Verdict
from primum.domain.governance.headlines import spoken
from primum.domain.study.plan import Plan
from primum.domain.study.steps import StepOutcome, StepStatus

# A failed verdict of these kinds says that the mechanism is not what was claimed: an incident, not
# a low score.
INCIDENT_KINDS = (EvidenceKind.SELF_TEST, EvidenceKind.MEMBERSHIP, EvidenceKind.RECONSTRUCTION)


class Action(enum.StrEnum):
    """The one thing to do next."""

    PLAN = "Plan"
    RESERVE = "Reserve"
    LAUNCH = "Launch"
    WAIT = "Wait"  # for the run, for a budget, for people
    STOP = "Stop"
    SETTLE = "Settle"
    FREEZE = "Freeze"
    JUDGE = "Judge"
    CERTIFY = "Certify"
    PUBLISH = "Publish"
    REMOVE = "Remove"  # settled and marked for deletion
    DONE = "Done"


class RunState(enum.StrEnum):
    """The pipeline run as the loop knows it."""

    NOT_LAUNCHED = "NotLaunched"
    RUNNING = "Running"
    ENDED = "Ended"
    LOST = "Lost"  # launched, not ended, and nothing runs: launch again, the steps resume


@dataclass(frozen=True, slots=True)
class Refusal:
    """A final no, written once: at Plan, or at Reserve."""

    stage: str
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Judgment:
    """What the gates came to, over all stages.

    Passed rules of all rules, and the sentences of those that failed.
    """

    passed: int
    total: int
    failures: tuple[str, ...]
    digest: str

    @property
    def stands(self) -> bool:
        """Whether nothing denies the release."""
        return not self.failures


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything known about one Study generation.

    Args:
        generation: The spec's generation.
        deleting: Whether deletion was asked for.
        wants_release: Whether the spec names an endpoint or a dataset to release.
        blocked: Why it cannot be planned yet (a budget that is missing or not ready), or ``None``.
        refusal: The final no, or ``None``.
        plan: The stored plan.
        headline: The plan in one line.
        reservations: This generation's reservations.
        waiting: Why a claim waits in the queue of a budget, or empty.
        devices: Why its run cannot begin for want of GPUs, or empty.
        budgets_needed: How many accounts the plan touches.
        run: The pipeline run.
        outcomes: Step outcomes by step name.
        evidence: Evidence recorded so far.
        frozen: Whether the accounts that an incident touched were frozen for it.
        claim_void: Sentences naming the edges that make the DP claim void; empty for a valid claim.
        judgment: What the gates came to, once judged.
        certified: Digest of the certificate, or empty.
        published: Where the release is served, or empty.
    """

    generation: int
    deleting: bool
    wants_release: bool
    blocked: Refusal | None
    refusal: Refusal | None
    plan: Plan | None
    headline: str
    reservations: Sequence[ReservationView]
    budgets_needed: int
    run: RunState
    outcomes: Mapping[str, StepOutcome]
    evidence: Sequence[Evidence]
    frozen: bool
    claim_void: Sequence[str]
    judgment: Judgment | None
    certified: str
    published: str
    waiting: str = ""
    devices: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do next and what status shows meanwhile."""

    action: Action
    conditions: tuple[Condition, ...]


def incidents(evidence: Sequence[Evidence]) -> tuple[Evidence, ...]:
    """Evidence that the mechanism is not what was claimed."""
    return tuple(e for e in evidence if e.kind in INCIDENT_KINDS and e.verdict is Verdict.FAIL)


def decide(observed: Observed) -> Decision:
    """The one thing to do next for a Study.

    Args:
        observed: Everything known.

    Returns:
        The action and the conditions that status shows.
    """
    return Decision(_action(observed), _conditions(observed))


def _action(seen: Observed) -> Action:  # noqa: PLR0911 - one line per case, in order
    if seen.deleting:
        return _ending(seen, Action.REMOVE)
    if seen.refusal is not None:
        return _ending(seen, Action.DONE)
    if seen.plan is None:
        return Action.WAIT if seen.blocked else Action.PLAN
    if len(seen.reservations) < seen.budgets_needed:
        return Action.RESERVE
    if _queued(seen):
        return Action.WAIT
    if seen.reservations and _settled(seen):
        return _judging(seen)
    if not seen.reservations and (seen.run is RunState.ENDED or _run_is_over(seen)):
        return _judging(seen)
    return _running(seen)


def _running(seen: Observed) -> Action:
    if seen.run is RunState.RUNNING:
        return Action.WAIT
    if seen.run is RunState.ENDED:
        return Action.SETTLE
    if _run_is_over(seen):
        return Action.SETTLE
    return Action.WAIT if seen.devices else Action.LAUNCH


def _judging(seen: Observed) -> Action:
    if incidents(seen.evidence) and not seen.frozen:
        return Action.FREEZE
    if not _all_steps_succeeded(seen):
        # Its lease ran out under it: whatever it still does is paid for and can no longer count.
        return Action.STOP if seen.run is RunState.RUNNING else Action.DONE
    if seen.judgment is None:
        return Action.JUDGE
    if not seen.judgment.stands or not seen.wants_release:
        return Action.DONE
    if not seen.certified:
        return Action.CERTIFY
    return Action.DONE if seen.published else Action.PUBLISH


def _ending(seen: Observed, last: Action) -> Action:
    """Stop what runs and settle the ledger before anything ends for good."""
    if seen.run is RunState.RUNNING:
        return Action.STOP
    if not _settled(seen):
        return Action.SETTLE
    if incidents(seen.evidence) and not seen.frozen:
        return Action.FREEZE
    return last


def _settled(seen: Observed) -> bool:
    return all(r.state not in LIVE_STATES for r in seen.reservations)


def _queued(seen: Observed) -> bool:
    return any(r.state is ReservationState.QUEUED for r in seen.reservations)


def _run_is_over(seen: Observed) -> bool:
    """Whether the outcomes alone show that nothing is left to do, whatever became of the run."""
    failed = any(outcome.status is StepStatus.FAILED for outcome in seen.outcomes.values())
    plan = seen.plan
    return failed or (plan is not None and all(step in seen.outcomes for step in plan.steps))


def _all_steps_succeeded(seen: Observed) -> bool:
    plan = seen.plan
    return plan is not None and all(
        step in seen.outcomes and seen.outcomes[step].status is StepStatus.SUCCEEDED
        for step in plan.steps
    )


def _conditions(seen: Observed) -> tuple[Condition, ...]:
    found = [
        _planned(seen),
        *_reserved(seen),
        *_run_conditions(seen),
        *_checked(seen),
        *_released(seen),
    ]
    found.append(_succeeded(seen))
    return tuple(found)


def _condition(
    seen: Observed, kind: ConditionType, status: Status, reason: Reason, message: str = ""
) -> Condition:
    return Condition(kind, status, reason, message, observed_generation=seen.generation)


def _planned(seen: Observed) -> Condition:
    kind = ConditionType.PLANNED
    if seen.refusal is not None and seen.refusal.stage == "Plan":
        return _condition(seen, kind, Status.FALSE, seen.refusal.reason, seen.refusal.message)
    if seen.plan is not None:
        return _condition(seen, kind, Status.TRUE, Reason.PLAN_ACCEPTED, seen.headline)
    if seen.blocked is not None:
        # What is merely not there yet is no refusal: nobody has to act.
        waiting = seen.blocked.reason is Reason.PENDING
        status = Status.UNKNOWN if waiting else Status.FALSE
        return _condition(seen, kind, status, seen.blocked.reason, seen.blocked.message)
    return _condition(seen, kind, Status.UNKNOWN, Reason.PENDING)


def _reserved(seen: Observed) -> list[Condition]:
    kind = ConditionType.BUDGET_RESERVED
    if seen.refusal is not None and seen.refusal.stage == "Reserve":
        return [_condition(seen, kind, Status.FALSE, seen.refusal.reason, seen.refusal.message)]
    if not seen.reservations or seen.plan is None:
        return [_condition(seen, kind, Status.UNKNOWN, Reason.PENDING)]
    if _queued(seen):
        return [_condition(seen, kind, Status.UNKNOWN, Reason.QUEUED, seen.waiting)]
    launched = seen.run is not RunState.NOT_LAUNCHED or bool(seen.outcomes)
    held = (
        f"epsilon {seen.plan.epsilon}"
        if seen.plan.epsilon.is_finite()
        else "no epsilon: the claim is Void"
    )
    reserved = _condition(seen, kind, Status.TRUE, Reason.RESERVED, held)
    run = (
        _condition(seen, ConditionType.LAUNCHED, Status.TRUE, Reason.RUN_CREATED)
        if launched
        else _not_launched(seen)
    )
    return [reserved, run]


def _not_launched(seen: Observed) -> Condition:
    kind = ConditionType.LAUNCHED
    if seen.devices:
        return _condition(seen, kind, Status.UNKNOWN, Reason.WAITING_FOR_DEVICES, seen.devices)
    return _condition(seen, kind, Status.UNKNOWN, Reason.PENDING)


_STEP_CONDITIONS = {
    "validate": (ConditionType.DATA_VALIDATED, Reason.EXPECTATIONS_MET),
    "job": (ConditionType.JOB_SUCCEEDED, Reason.STEP_SUCCEEDED),
    "evaluate": (ConditionType.EVALUATED, Reason.STEP_SUCCEEDED),
}


def _run_conditions(seen: Observed) -> list[Condition]:
    found = []
    if any(reservation.exposed for reservation in seen.reservations):
        found.append(
            _condition(seen, ConditionType.DATA_EXPOSED, Status.TRUE, Reason.TOKEN_REDEEMED)
        )
    for step, (kind, reason) in _STEP_CONDITIONS.items():
        outcome = seen.outcomes.get(step)
        if outcome is None:
            continue
        if outcome.status is StepStatus.SUCCEEDED:
            found.append(_condition(seen, kind, Status.TRUE, reason, outcome.message))
        else:
            found.append(_condition(seen, kind, Status.FALSE, _reason(outcome), outcome.message))
    return found


def _reason(outcome: StepOutcome) -> Reason:
    try:
        return Reason(outcome.reason)
    except ValueError:  # A plug-in's word: status knows only the closed set.
        return Reason.STEP_FAILED


def _checked(seen: Observed) -> list[Condition]:
    found = []
    audit = seen.outcomes.get("audit")
    if audit is not None:
        found.append(_audited(seen, audit))
    if seen.reservations and _settled(seen):
        found.append(_settlement(seen))
    return found


def _audited(seen: Observed, outcome: StepOutcome) -> Condition:
    kind = ConditionType.AUDITED
    if outcome.status is not StepStatus.SUCCEEDED:
        return _condition(seen, kind, Status.FALSE, Reason.STEP_FAILED, outcome.message)
    if incidents(seen.evidence):
        return _condition(seen, kind, Status.FALSE, Reason.CLAIM_EXCEEDED, _contradiction(seen))
    audits = [e for e in seen.evidence if e.kind in INCIDENT_KINDS]
    open_ones = [spoken(e.name) for e in audits if e.verdict is not Verdict.PASS]
    if open_ones:
        message = f"inconclusive: {', '.join(open_ones)}"
        return _condition(seen, kind, Status.FALSE, Reason.AUDIT_INCONCLUSIVE, message)
    names = ", ".join(spoken(e.name) for e in audits)
    return _condition(seen, kind, Status.TRUE, Reason.AUDITS_PASSED, names)


def _contradiction(seen: Observed) -> str:
    names = " and ".join(spoken(item.name) for item in incidents(seen.evidence))
    return f"the claim is contradicted by {names}; every budget that was touched is frozen"


def _charged_in_full(held: ReservationView) -> bool:
    """Whether no trusted receipt within the plan decided what was charged."""
    by_receipt = held.executed is not None and covers(held.event, held.executed)
    return held.state is ReservationState.CHARGED and not by_receipt


def _settlement(seen: Observed) -> Condition:
    states = {reservation.state for reservation in seen.reservations}
    kind = ConditionType.BUDGET_SETTLED
    if states == {ReservationState.RETURNED}:
        return _condition(seen, kind, Status.TRUE, Reason.RETURNED)
    full = [r for r in seen.reservations if _charged_in_full(r)]
    if full:
        reasons = "; ".join(sorted({r.reason for r in full if r.reason}))
        return _condition(seen, kind, Status.TRUE, Reason.CHARGED_IN_FULL, reasons)
    return _condition(seen, kind, Status.TRUE, Reason.CHARGED_BY_RECEIPT)


def _released(seen: Observed) -> list[Condition]:
    found = []
    judgment = seen.judgment
    if judgment is not None:
        if judgment.stands:
            message = f"{judgment.passed} of {judgment.total} gates passed"
            found.append(
                _condition(
                    seen, ConditionType.GATES_PASSED, Status.TRUE, Reason.ALL_PASSED, message
                )
            )
        else:
            reason = Reason.CLAIM_VOID if seen.claim_void else Reason.GATE_DENIED
            message = _denial(seen, judgment)
            found.append(
                _condition(seen, ConditionType.GATES_PASSED, Status.FALSE, reason, message)
            )
    if seen.published:
        found.append(
            _condition(seen, ConditionType.RELEASED, Status.TRUE, Reason.SERVING, seen.published)
        )
    return found


def _denial(seen: Observed, judgment: Judgment) -> str:
    """Why the gates denied the release; of a Void claim also which edge made it so."""
    edges = "".join(f" Void edge: {edge.rstrip('.')}." for edge in seen.claim_void)
    return "; ".join(judgment.failures) + edges


def _succeeded(seen: Observed) -> Condition:  # noqa: PLR0911 - one line per case, in order
    kind = ConditionType.SUCCEEDED
    if seen.refusal is not None:
        return _condition(seen, kind, Status.FALSE, seen.refusal.reason, seen.refusal.message)
    if _action(seen) is not Action.DONE:
        return _condition(seen, kind, Status.UNKNOWN, Reason.PENDING)
    if incidents(seen.evidence):
        message = f"not released: {_contradiction(seen)}"
        return _condition(seen, kind, Status.FALSE, Reason.CLAIM_EXCEEDED, message)
    failed = [outcome for outcome in seen.outcomes.values() if outcome.status is StepStatus.FAILED]
    if failed:
        return _condition(seen, kind, Status.FALSE, _reason(failed[0]), failed[0].message)
    if seen.run is RunState.NOT_LAUNCHED and seen.reservations and not seen.outcomes:
        why = "; ".join(sorted({r.reason for r in seen.reservations if r.reason}))
        message = f"never launched; the reservation was given back untouched. {why}"
        return _condition(seen, kind, Status.FALSE, Reason.RETURNED, message)
    if not _all_steps_succeeded(seen):
        return _condition(
            seen, kind, Status.FALSE, Reason.STEP_LOST, "the run ended before its last step"
        )
    if seen.judgment is not None and not seen.judgment.stands:
        reason = Reason.CLAIM_VOID if seen.claim_void else Reason.NOT_RELEASED
        return _condition(seen, kind, Status.FALSE, reason, _denial(seen, seen.judgment))
    return _condition(seen, kind, Status.TRUE, Reason.DONE, seen.published)
