"""Condition types and reasons, and how a set of them is updated.

A closed vocabulary that only grows (Kubernetes API conventions). ``lastTransitionTime`` moves only
when ``status`` moves. Messages are for people and never carry a record-level value.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

MESSAGE_LENGTH_MAX = 1024  # Kubernetes allows 32768; a status that nobody can read helps nobody.


class ConditionType(enum.StrEnum):
    """What a condition is about, in the order of a Study's way."""

    PLANNED = "Planned"
    BUDGET_RESERVED = "BudgetReserved"
    LAUNCHED = "Launched"
    DATA_EXPOSED = "DataExposed"
    DATA_VALIDATED = "DataValidated"
    JOB_SUCCEEDED = "JobSucceeded"
    EVALUATED = "Evaluated"
    AUDITED = "Audited"
    COMPARED = "Compared"
    BUDGET_SETTLED = "BudgetSettled"
    GATES_PASSED = "GatesPassed"
    RELEASED = "Released"
    SUCCEEDED = "Succeeded"
    READY = "Ready"


class Stage(enum.StrEnum):
    """The five stages people see."""

    PLAN = "Plan"
    RESERVE = "Reserve"
    RUN = "Run"
    CHECK = "Check"
    RELEASE = "Release"


STAGE_OF = {
    ConditionType.PLANNED: Stage.PLAN,
    ConditionType.BUDGET_RESERVED: Stage.RESERVE,
    ConditionType.LAUNCHED: Stage.RESERVE,
    ConditionType.DATA_EXPOSED: Stage.RUN,
    ConditionType.DATA_VALIDATED: Stage.RUN,
    ConditionType.JOB_SUCCEEDED: Stage.RUN,
    ConditionType.EVALUATED: Stage.CHECK,
    ConditionType.AUDITED: Stage.CHECK,
    ConditionType.BUDGET_SETTLED: Stage.CHECK,
    ConditionType.GATES_PASSED: Stage.RELEASE,
    ConditionType.RELEASED: Stage.RELEASE,
}


class Status(enum.StrEnum):
    """Kubernetes' three truth values."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Reason(enum.StrEnum):
    """Why a condition has its status. Documented in docs/conditions.md; only ever extended."""

    PENDING = "Pending"
    DONE = "Done"
    PLAN_ACCEPTED = "PlanAccepted"
    NO_MECHANISM = "NoMechanism"
    INVALID_SPEC = "InvalidSpec"
    BUDGET_NOT_FOUND = "BudgetNotFound"
    RELEASE_NOT_FOUND = "ReleaseNotFound"
    POLICY_NOT_FOUND = "PolicyNotFound"
    BUDGET_NOT_READY = "BudgetNotReady"
    DATASET_UNREADABLE = "DatasetUnreadable"
    ENDPOINT_TAKEN = "EndpointTaken"
    GATE_DENIED = "GateDenied"
    RESERVED = "Reserved"
    DENIED = "Denied"
    BUDGET_FROZEN = "BudgetFrozen"
    QUEUED = "Queued"
    QUEUE_EXPIRED = "QueueExpired"
    WAITING_FOR_DEVICES = "WaitingForDevices"
    RUN_CREATED = "RunCreated"
    TOKEN_REDEEMED = "TokenRedeemed"  # noqa: S105 - a word of the vocabulary
    EXPECTATIONS_MET = "ExpectationsMet"
    EXPECTATIONS_FAILED = "ExpectationsFailed"
    STEP_FAILED = "StepFailed"
    STEP_LOST = "StepLost"
    STEP_SUCCEEDED = "StepSucceeded"
    SKIPPED = "Skipped"
    CHARGED_BY_RECEIPT = "ChargedByReceipt"
    CHARGED_IN_FULL = "ChargedInFull"
    RETURNED = "Returned"
    AUDITS_PASSED = "AuditsPassed"
    AUDIT_FAILED = "AuditFailed"
    AUDIT_INCONCLUSIVE = "AuditInconclusive"
    CLAIM_EXCEEDED = "ClaimExceeded"
    CLAIM_VOID = "ClaimVoid"
    ALL_PASSED = "AllPassed"
    CERTIFIED = "Certified"
    NOT_RELEASED = "NotReleased"
    SERVING = "Serving"
    NOT_ANSWERING = "NotAnswering"
    REVOKED = "Revoked"
    REGISTERED = "Registered"
    WITHDRAWN = "Withdrawn"
    FIRST_RUN = "FirstRun"
    UNCHANGED = "Unchanged"
    BETTER = "Better"
    WORSE = "Worse"
    NOT_COMPARABLE = "NotComparable"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    ESTIMATE_ABOVE_DEADLINE = "EstimateAboveDeadline"
    REPLACED = "Replaced"
    DELETED = "Deleted"
    NOTHING_TO_AUDIT = "NothingToAudit"


@dataclass(frozen=True, slots=True)
class Condition:
    """One observation about a resource."""

    type: ConditionType
    status: Status
    reason: Reason
    message: str = ""
    observed_generation: int = 0
    last_transition_time: str = ""


def merged(
    before: Sequence[Condition], after: Sequence[Condition], *, now: str
) -> tuple[Condition, ...]:
    """The new list of conditions.

    Args:
        before: What status shows now.
        after: What was just observed; a type absent here keeps its earlier condition.
        now: RFC 3339 time, given to every condition whose status moved.

    Returns:
        Conditions in the order of ``ConditionType``, messages shortened.
    """
    known = {condition.type: condition for condition in before}
    for condition in after:
        earlier = known.get(condition.type)
        moved = (
            earlier is None
            or earlier.status is not condition.status
            or not earlier.last_transition_time
        )
        time = now if moved or earlier is None else earlier.last_transition_time
        message = condition.message[:MESSAGE_LENGTH_MAX]
        known[condition.type] = replace(condition, message=message, last_transition_time=time)
    return tuple(known[kind] for kind in ConditionType if kind in known)
