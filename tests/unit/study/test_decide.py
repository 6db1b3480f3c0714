"""decide(): one line, one situation and its expected action.

One block, one condition that status shows.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from primum.domain.accounting.charges import Charge
from primum.domain.accounting.events import NoEvent
from primum.domain.budget.entries import ReservationState, ReservationView
from primum.domain.conditions import ConditionType, Reason, Status
from primum.domain.governance.evidence import Verdict
from primum.domain.study.lifecycle import Judgment, Observed, Refusal, RunState, decide
from primum.domain.study.steps import StepOutcome, StepStatus

STEPS = ("validate", "job", "evaluate", "audit")
EMPTY = Charge(())


@pytest.fixture
def seen(make):
    """Builds what was observed, from words."""

    def reservation(word):
        state, _, how = word.partition(" ")
        state = ReservationState(state)
        touched = state in (ReservationState.EXPOSED, ReservationState.CHARGED)
        return ReservationView(
            reservation_id=f"r-{word}",
            account_id="account-1",
            study_uid="study-1",
            generation=1,
            study="oncology/malignancy",
            state=state,
            fence=1,
            lease_until="",
            event=make.event,
            charge=EMPTY,
            charged=EMPTY if state is ReservationState.CHARGED else None,
            executed=NoEvent() if how == "by receipt" else None,
            exposed=("train@wisconsin",) if touched else (),
            reason="no trusted receipt" if how == "in full" else "",
        )

    def outcome(step, status="Succeeded", reason="StepSucceeded"):
        return StepOutcome(
            f"o-{step}", step, StepStatus(status), reason, f"{step} said", (), (), ()
        )

    def build(
        held=(), done=(), failed="", reason="StepFailed", run="NotLaunched", found=(), **changes
    ):
        outcomes = {step: outcome(step) for step in done}
        if failed:
            outcomes[failed] = outcome(failed, "Failed", reason)
        evidence = tuple(
            make.evidence(kind, name, Verdict(verdict)) for kind, name, verdict in found
        )
        base = Observed(
            generation=3,
            deleting=False,
            wants_release=True,
            blocked=None,
            refusal=None,
            plan=make.plan(),
            headline="Train Logistic",
            reservations=tuple(reservation(word) for word in held),
            budgets_needed=1,
            run=RunState(run),
            outcomes=outcomes,
            evidence=evidence,
            frozen=False,
            claim_void=(),
            judgment=None,
            certified="",
            published="",
        )
        return replace(base, **changes)

    return build


GOOD = Judgment(9, 9, (), "sha256:v")
BAD = Judgment(8, 9, ("Every audit asked for must have passed.",), "sha256:v")
NO = Refusal("Plan", Reason.INVALID_SPEC, "no such model")
NOT_YET = Refusal("Plan", Reason.BUDGET_NOT_FOUND, "no budget")
FAIL = (("Membership", "OneRunCanary", "Fail"),)
PAID = ("Charged by receipt",)

SITUATIONS = [
    # plan and reserve
    ("nothing is known yet", {"plan": None}, "Plan"),
    ("a budget is missing", {"plan": None, "blocked": NOT_YET}, "Wait"),
    ("planned", {}, "Reserve"),
    (
        "planned, one of two accounts reserved",
        {"held": ["Reserved"], "budgets_needed": 2},
        "Reserve",
    ),
    ("planned, but refused meanwhile by another replica", {"refusal": NO}, "Done"),
    ("refused at Plan", {"plan": None, "refusal": NO}, "Done"),
    # launch and run
    ("reserved", {"held": ["Reserved"]}, "Launch"),
    ("launched", {"held": ["Reserved"], "run": "Running"}, "Wait"),
    ("the job touches data", {"held": ["Exposed"], "run": "Running"}, "Wait"),
    ("the run's record is lost", {"held": ["Exposed"], "run": "Lost"}, "Launch"),
    ("lost after its last step", {"held": ["Exposed"], "run": "Lost", "done": STEPS}, "Settle"),
    ("lost after a failure", {"held": ["Exposed"], "run": "Lost", "failed": "job"}, "Settle"),
    ("never launched, and yet failed", {"held": ["Exposed"], "failed": "job"}, "Settle"),
    ("ended", {"held": ["Exposed"], "run": "Ended", "done": STEPS}, "Settle"),
    ("ended before anything was touched", {"held": ["Reserved"], "run": "Ended"}, "Settle"),
    (
        "one of two settled",
        {"held": [*PAID, "Exposed"], "run": "Ended", "budgets_needed": 2},
        "Settle",
    ),
    ("the lease ran out under a live run", {"held": ["Charged in full"], "run": "Running"}, "Stop"),
    ("nothing private to reserve", {"budgets_needed": 0}, "Launch"),
    ("nothing private, running", {"budgets_needed": 0, "run": "Running"}, "Wait"),
    ("nothing private, ended", {"budgets_needed": 0, "run": "Ended", "done": STEPS}, "Judge"),
    (
        "nothing private, lost at the end",
        {"budgets_needed": 0, "run": "Lost", "done": STEPS},
        "Judge",
    ),
    # check and release
    ("settled", {"held": PAID, "run": "Ended", "done": STEPS}, "Judge"),
    (
        "settled, a step failed",
        {"held": PAID, "run": "Ended", "done": STEPS[:1], "failed": "job"},
        "Done",
    ),
    (
        "settled, a step is missing",
        {"held": ["Charged in full"], "run": "Ended", "done": STEPS[:2]},
        "Done",
    ),
    ("contradicted", {"held": PAID, "run": "Ended", "done": STEPS, "found": FAIL}, "Freeze"),
    (
        "contradicted, then failed",
        {"held": PAID, "run": "Ended", "failed": "audit", "found": FAIL},
        "Freeze",
    ),
    (
        "contradicted and frozen",
        {"held": PAID, "done": STEPS, "found": FAIL, "frozen": True},
        "Judge",
    ),
    ("judged bad", {"held": PAID, "done": STEPS, "judgment": BAD}, "Done"),
    ("judged good", {"held": PAID, "done": STEPS, "judgment": GOOD}, "Certify"),
    (
        "nothing to release",
        {"held": PAID, "done": STEPS, "judgment": GOOD, "wants_release": False},
        "Done",
    ),
    (
        "certified",
        {"held": PAID, "done": STEPS, "judgment": GOOD, "certified": "sha256:c"},
        "Publish",
    ),
    (
        "published",
        {"held": PAID, "done": STEPS, "judgment": GOOD, "certified": "c", "published": "u"},
        "Done",
    ),
    (
        "refused at Release",
        {"held": PAID, "done": STEPS, "refusal": replace(NO, stage="Release")},
        "Done",
    ),
    # the end before the end
    ("deleted before anything", {"plan": None, "deleting": True}, "Remove"),
    ("deleted, reserved", {"deleting": True, "held": ["Reserved"]}, "Settle"),
    ("deleted, running", {"deleting": True, "held": ["Exposed"], "run": "Running"}, "Stop"),
    ("deleted, stopped", {"deleting": True, "held": ["Exposed"], "run": "Ended"}, "Settle"),
    ("deleted, lost", {"deleting": True, "held": ["Exposed"], "run": "Lost"}, "Settle"),
    ("deleted, settled", {"deleting": True, "held": PAID, "run": "Ended"}, "Remove"),
    ("deleted, contradicted", {"deleting": True, "held": PAID, "found": FAIL}, "Freeze"),
    ("deleted, frozen", {"deleting": True, "held": PAID, "found": FAIL, "frozen": True}, "Remove"),
    ("refused while it runs", {"refusal": NO, "held": ["Exposed"], "run": "Running"}, "Stop"),
    ("refused, still reserved", {"refusal": NO, "held": ["Reserved"]}, "Settle"),
]


@pytest.mark.parametrize(
    ("given", "action"), [row[1:] for row in SITUATIONS], ids=[row[0] for row in SITUATIONS]
)
def test_one_thing_to_do_next(seen, given, action):
    assert decide(seen(**given)).action == action


@pytest.fixture
def shows(seen):
    """What status shows of one type, as 'Status Reason: message'; empty where it shows nothing."""

    def look(kind, **given):
        found = [c for c in decide(seen(**given)).conditions if c.type is ConditionType(kind)]
        assert len(found) <= 1
        assert all(c.observed_generation == 3 for c in found)
        return (
            f"{found[0].status} {found[0].reason}: {found[0].message}".rstrip(": ") if found else ""
        )

    return look


def test_planned(shows):
    assert shows("Planned") == "True PlanAccepted: Train Logistic"
    assert shows("Planned", plan=None) == "Unknown Pending"
    assert shows("Planned", plan=None, blocked=NOT_YET) == "False BudgetNotFound: no budget"
    assert shows("Planned", plan=None, refusal=NO) == "False InvalidSpec: no such model"
    assert (
        shows("Planned", refusal=replace(NO, stage="Reserve"))
        == "True PlanAccepted: Train Logistic"
    )


def test_reserved_and_launched(shows, make):
    denied = Refusal("Reserve", Reason.DENIED, "0.2 left")
    assert shows("BudgetReserved") == "Unknown Pending"
    assert shows("BudgetReserved", refusal=denied) == "False Denied: 0.2 left"
    assert shows("BudgetReserved", held=["Reserved"]) == "True Reserved: epsilon 2.998"
    void = make.plan(epsilon=Decimal("Infinity"))
    assert (
        shows("BudgetReserved", held=["Reserved"], plan=void)
        == "True Reserved: no epsilon: the claim is Void"
    )
    assert shows("Launched") == ""
    assert shows("Launched", held=["Reserved"]) == "Unknown Pending"
    assert shows("Launched", held=["Reserved"], run="Running") == "True RunCreated"
    assert shows("Launched", held=["Exposed"], done=["validate"]) == "True RunCreated"


def test_steps_in_the_reasons_people_know(shows):
    assert shows("DataExposed", held=["Reserved"]) == ""
    assert shows("DataExposed", held=["Exposed"]) == "True TokenRedeemed"
    assert shows("DataValidated", done=["validate"]) == "True ExpectationsMet: validate said"
    failed = shows("DataValidated", failed="validate", reason="ExpectationsFailed")
    assert failed == "False ExpectationsFailed: validate said"
    assert (
        shows("JobSucceeded", failed="job", reason="SomethingOfAPlugIn")
        == "False StepFailed: job said"
    )
    assert shows("Evaluated", done=["evaluate"]) == "True StepSucceeded: evaluate said"


def test_audited(shows):
    passed = (("SelfTest", "DPSGD", "Pass"), ("Membership", "OneRunCanary", "Pass"))
    unsure = (("SelfTest", "DPSGD", "Pass"), ("Membership", "OneRunCanary", "Inconclusive"))
    assert shows("Audited") == ""
    assert shows("Audited", failed="audit") == "False StepFailed: audit said"
    assert (
        shows("Audited", done=["audit"], found=passed) == "True AuditsPassed: DPSGD, one run canary"
    )
    inconclusive = shows("Audited", done=["audit"], found=unsure)
    assert inconclusive == "False AuditInconclusive: inconclusive: one run canary"
    contradicted = shows("Audited", done=["audit"], found=FAIL)
    assert contradicted.startswith(
        "False ClaimExceeded: the claim is contradicted by one run canary"
    )


def test_settled(shows):
    assert shows("BudgetSettled", held=["Exposed"]) == ""
    assert shows("BudgetSettled", held=["Returned"]) == "True Returned"
    assert shows("BudgetSettled", held=["Charged by receipt"]) == "True ChargedByReceipt"
    assert (
        shows("BudgetSettled", held=["Charged by receipt", "Returned"]) == "True ChargedByReceipt"
    )
    assert (
        shows("BudgetSettled", held=["Charged in full"]) == "True ChargedInFull: no trusted receipt"
    )


def test_gates_and_release(shows):
    edge = "void-biopsies was made without a charge"
    assert shows("GatesPassed") == ""
    assert shows("GatesPassed", judgment=GOOD) == "True AllPassed: 9 of 9 gates passed"
    assert (
        shows("GatesPassed", judgment=BAD)
        == "False GateDenied: Every audit asked for must have passed."
    )
    void = shows("GatesPassed", judgment=BAD, claim_void=(edge,))
    assert void == f"False ClaimVoid: Every audit asked for must have passed. Void edge: {edge}."
    assert shows("Released") == ""
    assert shows("Released", published="http://here") == "True Serving: http://here"


def test_the_end_says_why(shows):
    done = {"held": PAID, "run": "Ended", "done": STEPS}
    assert shows("Succeeded") == "Unknown Pending"
    assert shows("Succeeded", refusal=NO) == "False InvalidSpec: no such model"
    released = shows("Succeeded", **done, judgment=GOOD, certified="c", published="http://here")
    assert released == "True Done: http://here"
    assert shows("Succeeded", **done, judgment=GOOD, wants_release=False) == "True Done"
    assert shows("Succeeded", **done, judgment=BAD).startswith("False NotReleased: Every audit")
    assert shows("Succeeded", **done, judgment=BAD, claim_void=("e",)).startswith(
        "False ClaimVoid: Every audit"
    )
    lost = shows("Succeeded", held=["Charged in full"], run="Ended", done=STEPS[:2])
    assert lost == "False StepLost: the run ended before its last step"
    failed = shows("Succeeded", held=["Charged in full"], run="Ended", failed="job")
    assert failed == "False StepFailed: job said"
    incident = shows("Succeeded", **done, judgment=BAD, found=FAIL, frozen=True)
    assert incident.startswith(
        "False ClaimExceeded: not released: the claim is contradicted by one run canary"
    )


def test_a_condition_that_is_unknown_never_ends_a_study(seen):
    """Whatever the situation, Succeeded is known exactly when there is nothing left to do."""
    for _, given, action in SITUATIONS:
        last = decide(seen(**given)).conditions[-1]
        assert last.type is ConditionType.SUCCEEDED
        if given.get("refusal") is None and not given.get("deleting"):
            assert (last.status is Status.UNKNOWN) == (action != "Done")
