"""The five stages that people see: one block, one Study's status and its five lines."""

from __future__ import annotations

import pytest

from primum.resources.stages import stage_lines


def status(*rows):
    """Rows as (type, status, reason, message, seconds)."""
    return {
        "conditions": [
            {
                "type": kind,
                "status": state,
                "reason": reason,
                "message": message,
                "lastTransitionTime": f"2026-01-01T00:{seconds // 60:02}:{seconds % 60:02}.000000Z",
            }
            for kind, state, reason, message, seconds in rows
        ]
    }


PLANNED = ("Planned", "True", "PlanAccepted", "Train Logistic", 0)
RESERVED = ("BudgetReserved", "True", "Reserved", "epsilon 3", 0)
LAUNCHED = ("Launched", "True", "RunCreated", "", 1)
VALIDATED = ("DataValidated", "True", "ExpectationsMet", "6 expectations met", 5)
TRAINED = ("JobSucceeded", "True", "StepSucceeded", "72 steps", 11)
EVALUATED = ("Evaluated", "True", "StepSucceeded", "accuracy 0.95", 12)
AUDITED = ("Audited", "True", "AuditsPassed", "one run canary", 20)
GATES = ("GatesPassed", "True", "AllPassed", "9 of 9 gates passed", 21)
RELEASED = ("Released", "True", "Serving", "http://here", 21)
DONE = ("Succeeded", "True", "Done", "", 21)
ENDED = ("Succeeded", "False", "StepFailed", "", 21)
WAY = (PLANNED, RESERVED, LAUNCHED, VALIDATED, TRAINED, EVALUATED, AUDITED, GATES)


def shown(*rows):
    return [
        (line.stage.value, line.state, line.text, line.seconds)
        for line in stage_lines(status(*rows))
    ]


def test_a_study_that_was_released():
    assert shown(*WAY, RELEASED, DONE) == [
        ("Plan", "ok", "Train Logistic", None),
        ("Reserve", "ok", "epsilon 3", None),
        ("Run", "ok", "6 expectations met, 72 steps", 10.0),
        ("Check", "ok", "one run canary", 9.0),
        ("Release", "ok", "9 of 9 gates passed, certificate signed", None),
    ]


def test_a_study_with_nothing_to_release_is_fine():
    assert shown(*WAY, DONE)[-1] == ("Release", "ok", "9 of 9 gates passed", None)


def test_a_study_under_way():
    states = [state for _, state, *_ in shown(PLANNED, RESERVED, LAUNCHED, VALIDATED)]
    assert states == ["ok", "ok", "running", "waiting", "waiting"]


def test_nothing_is_known():
    assert {state for _, state, *_ in shown()} == {"waiting"}


def test_a_step_that_failed():
    wrong = ("JobSucceeded", "False", "StepFailed", "cannot read", 9)
    lines = shown(PLANNED, RESERVED, LAUNCHED, VALIDATED, wrong, ENDED)
    assert lines[2] == ("Run", "failed", "6 expectations met, step failed", 8.0)
    assert lines[3] == ("Check", "waiting", "", None)


def test_a_run_that_was_lost_halfway():
    assert shown(PLANNED, RESERVED, LAUNCHED, VALIDATED, ENDED)[2][1] == "waiting"


def test_gates_that_denied():
    denied = ("GatesPassed", "False", "GateDenied", "Every audit must pass.", 21)
    assert shown(*WAY[:-1], denied, ENDED)[-1] == ("Release", "failed", "gate denied", None)


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_time_is_shown_when_it_is_worth_it(seconds):
    quick = ("JobSucceeded", "True", "StepSucceeded", "72 steps", 1 + seconds)
    assert shown(PLANNED, RESERVED, LAUNCHED, quick)[2][3] == (1.0 if seconds else None)


def test_no_time_is_told_before_the_launch():
    pending = ("Launched", "Unknown", "Pending", "", 0)
    assert shown(PLANNED, RESERVED, pending, VALIDATED)[2][3] is None
