"""Laws of decide(): whatever was observed, it answers.

What ended stays ended; nothing runs on unreserved accounts.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.domain.accounting.charges import Charge
from primum.domain.accounting.events import NoEvent
from primum.domain.budget.entries import ReservationState, ReservationView
from primum.domain.conditions import ConditionType, Reason, Status
from primum.domain.governance.evidence import Evidence, EvidenceKind, Verdict
from primum.domain.study.lifecycle import (
    Action,
    Judgment,
    Observed,
    Refusal,
    RunState,
    decide,
    incidents,
)
from primum.domain.study.plan import plan_from_json
from primum.domain.study.steps import StepOutcome, StepStatus

STEPS = ("validate", "job", "audit")
PLAN = plan_from_json(
    {
        "studyUid": "u",
        "generation": 1,
        "kind": "Train",
        "accesses": [],
        "epsilon": "1",
        "delta": "1e-5",
        "unit": "Patient",
        "neighbors": "AddOrRemoveOne",
        "mechanism": {},
        "parameters": {},
        "steps": list(STEPS),
        "maxCertifiable": None,
        "voidEdges": [],
    }
)
OPEN = (ReservationState.RESERVED, ReservationState.EXPOSED)
STATES = [*OPEN, ReservationState.CHARGED, ReservationState.RETURNED]


def reservation(state):
    charged = Charge(()) if state is ReservationState.CHARGED else None
    return ReservationView(
        "r", "a", "u", 1, "ward/s", state, 1, "", NoEvent(), Charge(()), charged, None
    )


def outcome(step, status):
    return StepOutcome(step, step, status, "StepFailed", "", (), (), ())


def record(verdict):
    return Evidence(EvidenceKind.MEMBERSHIP, "LiRA", "u", 1, "", verdict, {}, {})


refusals = st.sampled_from(["Plan", "Reserve", "Release"]).map(
    lambda s: Refusal(s, Reason.DENIED, "no")
)
judgments = st.sampled_from([Judgment(2, 2, (), "d"), Judgment(1, 2, ("no",), "d")])
observations = st.builds(
    Observed,
    generation=st.just(1),
    deleting=st.booleans(),
    wants_release=st.booleans(),
    blocked=st.none() | refusals,
    refusal=st.none() | refusals,
    plan=st.none() | st.just(PLAN),
    headline=st.just("plan"),
    reservations=st.lists(st.sampled_from(STATES).map(reservation), max_size=3),
    budgets_needed=st.integers(0, 3),
    run=st.sampled_from(RunState),
    outcomes=st.dictionaries(st.sampled_from(STEPS), st.sampled_from(StepStatus)).map(
        lambda d: {step: outcome(step, status) for step, status in d.items()}
    ),
    evidence=st.lists(st.sampled_from(Verdict).map(record), max_size=2),
    frozen=st.booleans(),
    claim_void=st.lists(st.just("edge"), max_size=1),
    judgment=st.none() | judgments,
    certified=st.sampled_from(["", "sha256:c"]),
    published=st.sampled_from(["", "http://here"]),
)


@given(observations)
def test_every_observation_has_an_answer_and_the_same_one_twice(seen):
    assert decide(seen) == decide(seen)


@given(observations)
def test_conditions_come_in_the_order_of_the_way_and_once(seen):
    kinds = [condition.type for condition in decide(seen).conditions]
    assert kinds == [kind for kind in ConditionType if kind in kinds]


@given(observations)
def test_nothing_ends_while_something_is_held(seen):
    """A Study ends or is removed only when every reservation is resolved."""
    if decide(seen).action in (Action.DONE, Action.REMOVE):
        assert not any(held.state in OPEN for held in seen.reservations)


@given(observations)
def test_nothing_is_launched_without_every_reservation_open_or_exposed(seen):
    if decide(seen).action is Action.LAUNCH:
        assert len(seen.reservations) >= seen.budgets_needed
        assert not seen.reservations or any(held.state in OPEN for held in seen.reservations)
        assert seen.run in (RunState.NOT_LAUNCHED, RunState.LOST)


@given(observations)
def test_an_incident_is_answered_before_anything_ends_or_goes_out(seen):
    if incidents(seen.evidence) and not seen.frozen and seen.plan is not None:
        assert decide(seen).action not in (
            Action.JUDGE,
            Action.CERTIFY,
            Action.PUBLISH,
            Action.REMOVE,
        )


@given(observations)
def test_nothing_is_certified_or_published_that_the_gates_denied(seen):
    if decide(seen).action in (Action.CERTIFY, Action.PUBLISH):
        assert seen.judgment is not None
        assert seen.judgment.stands
        assert seen.refusal is None
        assert not seen.deleting
        assert all(seen.outcomes[step].status is StepStatus.SUCCEEDED for step in STEPS)


@given(observations)
def test_success_is_said_only_of_what_succeeded(seen):
    last = decide(seen).conditions[-1]
    assert last.type is ConditionType.SUCCEEDED
    if last.status is Status.TRUE:
        assert decide(seen).action is Action.DONE
        assert not incidents(seen.evidence)
        assert all(step in seen.outcomes for step in STEPS)


@pytest.mark.parametrize("word", ["Failed", "Succeeded"])
@given(observations)
def test_a_record_that_is_lost_does_not_run_a_finished_study_again(word, seen):
    """Outcomes outlive the runner's memory."""
    finished = {step: outcome(step, StepStatus(word)) for step in STEPS}
    from dataclasses import replace

    assert decide(replace(seen, outcomes=finished)).action is not Action.LAUNCH
