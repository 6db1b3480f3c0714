"""What happens around a step's body: once, in the right order, and silent about what it saw."""

from __future__ import annotations

import json
import stat
from dataclasses import replace

import pytest

from primum.domain.canonical import canonical_json
from primum.domain.errors import InvalidValue, Refused, Unavailable
from primum.domain.governance.evidence import Evidence, EvidenceKind, Verdict
from primum.domain.study.steps import StepStatus, work_request_from_json
from primum_pipelines import runtime

SECRET = "patient 42 is 63 years old"


_WITHOUT_EVENT = {
    "access": "train",
    "budget": "wisconsin",
    "event": 3,
    "facts": {},
    "tokenId": "token-train",
}


def run(context, services):
    return runtime.execute(context, services, clock=lambda: "2026-11-22T06:00:00.000000Z")


def test_effects_come_in_the_order_that_survives_a_crash(recorder, step):
    """Exposure is durable before compute; the outcome is stored before lineage says so."""
    run(step.context(), recorder)

    assert recorder.acts == [
        "begun",
        "START",
        "ready",
        "redeem ticket-train",
        "compute",
        "record",
        "COMPLETE",
    ]


def test_a_step_redeems_its_own_tickets_only(recorder, step):
    run(step.context("validate"), replace(recorder, result=step.result(receipts=())))

    assert [act for act in recorder.acts if act.startswith("redeem")] == ["redeem ticket-validate"]


def test_the_body_gets_tokens_and_no_tickets(recorder, step):
    run(step.context(), recorder)

    request = recorder.requests[0]
    assert set(request.tokens) == {"train"}
    assert request.context["tickets"] == {}
    assert "ticket-train" not in canonical_json(request.to_json()).decode()


def test_the_body_is_told_of_the_zone_that_knows_withdrawn_consents(recorder, step):
    run(step.context(), recorder)

    assert recorder.requests[0].zone_dir == "/zone"
    sent = work_request_from_json(recorder.requests[0].to_json())
    assert sent.zone_dir == "/zone"


def test_an_outcome_that_stands_is_returned_without_any_effect(recorder, step):
    first = run(step.context(), recorder)
    recorder.acts.clear()

    assert run(step.context(), recorder) == first
    assert recorder.acts == []


def test_a_step_that_was_exposed_and_left_no_outcome_is_lost_not_run_again(recorder, step):
    recorder.start = "Exposed"

    outcome = run(step.context(), recorder)

    assert (outcome.status, outcome.reason, outcome.receipts) == (StepStatus.FAILED, "StepLost", ())
    assert recorder.acts == ["begun", "record", "FAIL"]


def test_no_ticket_is_redeemed_while_no_worker_is_there(recorder, step):
    """Nothing was exposed, so the ledger returns what was held; the outcome says why."""
    recorder.faults["ready"] = Unavailable("Ray did not start")

    outcome = run(step.context(), recorder)

    assert not [act for act in recorder.acts if act.startswith("redeem")]
    assert outcome.message == "job failed: Ray did not start"


@pytest.mark.parametrize("act", ["begun", "record"])
def test_a_platform_that_cannot_be_reached_leaves_the_step_to_be_run_again(recorder, step, act):
    recorder.faults[act] = Unavailable("the database is locked")

    with pytest.raises(Unavailable):
        run(step.context(), recorder)

    assert "COMPLETE" not in recorder.acts
    assert recorder.standing == {}


def test_a_refused_ticket_is_a_failed_outcome_with_our_own_words(recorder, step):
    recorder.faults["redeem ticket-train"] = Refused(
        "the reservation of budget wisconsin is resolved"
    )

    outcome = run(step.context(), recorder)

    assert outcome.status is StepStatus.FAILED
    assert outcome.message == "job failed: the reservation of budget wisconsin is resolved"
    assert "compute" not in recorder.acts


def test_a_worker_that_dies_after_exposure_leaves_an_outcome_without_receipts(recorder, step):
    recorder.result = Unavailable("primum-worker-0 died while it worked")

    outcome = run(step.context(), recorder)

    assert (outcome.status, outcome.receipts) == (StepStatus.FAILED, ())
    assert recorder.standing[outcome.outcome_id] == outcome


class Losing(list):
    """What a worker comes to, call by call; also a recorder's ``compute``."""

    def of(self, recorder):
        def compute(entry, request):
            recorder._act("compute")
            recorder.requests.append(request)
            result = self.pop(0)
            if isinstance(result, Exception):
                raise result
            return result

        recorder.compute = compute
        return recorder


def lost_at(step, steps, **changes):
    fields = {
        "status": "Failed",
        "reason": "StepFailed",
        "message": f"training lost its worker; at most {steps} of 90 steps were run",
        "receipts": (step.receipt(facts={"steps": steps}),),
        "artifacts": (),
        "resume": {"steps": steps, "key": "00ff"},
    }
    return step.result(**{**fields, **changes})


def gone_on(context, recorder):
    waited = []
    outcome = runtime.execute(context, recorder, clock=lambda: "now", pause=waited.append)
    return outcome, waited


def test_a_lost_body_goes_on_at_another_worker(recorder, step):
    """It gets what the lost one left; the ledger is asked again whether all still stands."""
    first = lost_at(step, 20)
    outcome, waited = gone_on(step.context(), Losing([first, step.result()]).of(recorder))

    assert outcome.status is StepStatus.SUCCEEDED
    assert waited == [2.0]
    once = ["ready", "redeem ticket-train", "compute"]
    assert recorder.acts == ["begun", "START", *once, *once, "record", "COMPLETE"]
    assert [request.left for request in recorder.requests] == [{}, first.to_json()]


def test_a_body_that_loses_every_worker_is_not_asked_for_ever(recorder, step):
    lost = [lost_at(step, steps) for steps in (10, 20, 30, 40)]
    outcome, waited = gone_on(step.context(), Losing(lost).of(recorder))

    assert outcome.status is StepStatus.FAILED
    assert outcome.message == lost[-1].message
    assert outcome.receipts[0].facts == {"steps": 40}
    assert recorder.acts.count("compute") == 4
    assert waited == sorted(waited)


@pytest.mark.parametrize("act", ["ready", "redeem ticket-train"])
def test_where_nobody_can_go_on_what_was_executed_is_charged(recorder, step, act):
    """No other worker comes, or the reservation no longer stands: nothing more is run."""
    lost = Losing([lost_at(step, 20)]).of(recorder)
    real = recorder._act

    def failing(name):
        real(name)
        if name == act and recorder.acts.count(act) == 2:
            raise Refused("the account is frozen")

    recorder._act = failing
    outcome, _ = gone_on(step.context(), lost)

    assert (outcome.status, outcome.reason) == (StepStatus.FAILED, "StepFailed")
    assert outcome.message.endswith("were run; nothing went on: the account is frozen")
    assert outcome.receipts[0].facts == {"steps": 20}
    assert recorder.acts.count("compute") == 1


def test_a_worker_of_which_nobody_can_say_anything_is_charged_in_full(recorder, step):
    """Also after one that had left word: more may have been run since."""
    lost = Losing([lost_at(step, 20), Unavailable("the keeper did not answer")])
    outcome, _ = gone_on(step.context(), lost.of(recorder))

    assert (outcome.status, outcome.receipts) == (StepStatus.FAILED, ())


@pytest.mark.parametrize("lost", [1, 3])
def test_a_step_that_only_looks_begins_again(recorder, step, lost):
    """It has released nothing: a worker that is lost in an audit throws no training away."""
    looking = {**step.access("validate", "validate"), "treatment": "Disclosed"}
    context = step.context("validate", plan={"accesses": [looking]})
    gone = [Unavailable("the worker died while it worked")] * lost
    results = Losing([*gone, step.result(receipts=())])
    outcome, waited = gone_on(context, results.of(recorder))

    assert outcome.status is StepStatus.SUCCEEDED
    assert len(waited) == lost
    assert all(request.left == {} for request in recorder.requests)
    assert recorder.acts.count("redeem ticket-validate") == lost + 1


def test_a_step_that_only_looks_is_not_begun_for_ever(recorder, step):
    looking = {**step.access("validate", "validate"), "treatment": "Inspected"}
    context = step.context("validate", plan={"accesses": [looking]})
    gone = Losing([Unavailable("the worker died while it worked")] * 4)
    outcome, _ = gone_on(context, gone.of(recorder))

    assert (outcome.status, outcome.reason) == (StepStatus.FAILED, "StepFailed")
    assert recorder.acts.count("compute") == 4


def test_a_missing_ticket_fails_closed(recorder, step):
    outcome = run(step.context(tickets={}), recorder)

    assert outcome.status is StepStatus.FAILED
    assert "compute" not in recorder.acts


@pytest.mark.parametrize(
    "damage",
    [
        {"receipts": ({"access": "train"},)},
        {"receipts": (_WITHOUT_EVENT,)},
        {"status": "Perfect"},
        {"reason": "BecauseISaySo"},
        {"body_seconds": "NaN"},
        {"body_seconds": "long"},
        {"artifacts": ({"uri": "x"},)},
        {"evidence": ({"kind": "Membership"},)},
    ],
    ids=lambda damage: next(iter(damage)),
)
def test_a_damaged_report_is_a_failure_without_receipts(recorder, step, damage):
    recorder.result = step.result(**damage)

    outcome = run(step.context(), recorder)

    assert (outcome.status, outcome.receipts, outcome.evidence) == (StepStatus.FAILED, (), ())
    assert "charged in full" in outcome.message


@pytest.mark.parametrize(
    "change", [{"tokenId": "token-other"}, {"budget": "other"}, {"access": "validate"}]
)
def test_a_receipt_that_does_not_name_its_own_token_is_not_trusted(recorder, step, change):
    recorder.result = step.result(receipts=(step.receipt(**change),))

    assert run(step.context(), recorder).receipts == ()


def test_two_receipts_for_one_access_are_not_trusted(recorder, step):
    recorder.result = step.result(receipts=(step.receipt(), step.receipt()))

    assert run(step.context(), recorder).receipts == ()


def test_evidence_of_another_study_is_refused(recorder, step):
    record = Evidence(EvidenceKind.UTILITY, "u", "another", 1, "", None, {}, {})
    recorder.result = step.result(evidence=(record.to_json(),))

    assert run(step.context(), recorder).status is StepStatus.FAILED
    assert recorder.evidence == []


def test_a_foreign_exception_leaves_its_type_and_nothing_else(recorder, step, tmp_path):
    recorder.result = ValueError(SECRET)

    outcome = run(step.context(), recorder)

    assert outcome.message == "job failed: ValueError"
    assert SECRET not in canonical_json(outcome.to_json()).decode()
    assert SECRET not in json.dumps(recorder.events)


def test_a_traceback_is_kept_in_the_zone_for_its_owner_alone(recorder, step, tmp_path):
    recorder.result = ValueError(SECRET)

    run(step.context(), recorder)

    log = tmp_path / "u-1" / "1" / "restricted" / "job.log"
    assert SECRET in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_repeated_step_speaks_about_the_same_lineage_run(recorder, step):
    run(step.context(), recorder)
    recorder.standing.clear()
    run(step.context(), recorder)

    assert len({event["run"]["runId"] for event in recorder.events}) == 1
    other = step.context("audit", plan={"accesses": []}, tickets={})
    run(other, recorder)
    assert len({event["run"]["runId"] for event in recorder.events}) == 2


def test_lineage_shows_verdicts_and_digests_but_no_number_of_the_evidence(recorder, step):
    record = Evidence(
        EvidenceKind.MEMBERSHIP,
        "OneRunCanary",
        "u-1",
        1,
        "",
        Verdict.INCONCLUSIVE,
        {"maxCertifiable": "3.5"},
        {"lowerBound": "0.31337"},
    )
    recorder.result = step.result(evidence=(record.to_json(),))

    run(step.context(), recorder)

    text = json.dumps(recorder.events)
    assert record.digest in text
    assert "Inconclusive" in text
    assert "0.31337" not in text
    assert "3.5" not in text


# The worker's side.


def good(request):
    from primum.domain.study.steps import WorkResult

    return WorkResult("Succeeded", "StepSucceeded", "", (), (), (), "0.25")


def failing(request):
    raise ValueError(SECRET)


def refusing(request):
    raise InvalidValue("spec.job.train.model", "must be known", "Oracle")


def leaving(request):
    raise SystemExit(SECRET)


def failing_after_word(request):
    receipts = ({"access": "train"},)
    runtime.leave(replace(good(request), message="one", receipts=receipts, resume={"steps": 1}))
    raise ValueError(SECRET)


@pytest.fixture
def worked(recorder, step, monkeypatch, tmp_path):
    """Runs a body of this module in ``work``, as a worker would."""
    import sys
    import types

    module = types.ModuleType("bodies")
    for body in (good, failing, refusing, leaving, failing_after_word):
        setattr(module, body.__name__, body)
    monkeypatch.setitem(sys.modules, "bodies", module)
    run(step.context(), recorder)
    payload = recorder.requests[0].to_json()
    return lambda name, **how: runtime.work(f"bodies:{name}", payload, **how)


def test_a_worker_returns_the_body_s_report(worked):
    assert worked("good")["body_seconds"] == "0.25"


@pytest.mark.parametrize(("body", "kind"), [("failing", "ValueError"), ("leaving", "SystemExit")])
def test_nothing_that_a_body_raises_leaves_the_worker(worked, body, kind):
    report = worked(body)

    assert report["message"] == f"job failed: {kind}"
    assert report["receipts"] == []


def test_what_a_body_had_left_counts_where_it_raises_and_it_is_not_run_again(worked):
    words = []
    report = worked("failing_after_word", leave=words.append)

    assert [word["message"] for word in words] == ["one"]
    assert report["message"] == "job failed: ValueError"
    assert report["receipts"] == [{"access": "train"}]
    assert report["resume"] == {}


def test_our_own_refusals_pass_with_their_words(worked):
    assert worked("refusing")["message"] == (
        "job failed: spec.job.train.model must be known; found Oracle."
    )


@pytest.mark.parametrize(
    "entry", ["bodies", "bodies:", "bodies:missing", "no_such_module:run", "os:path.join"]
)
def test_an_entry_that_names_nothing_is_a_failed_report(recorder, step, entry):
    run(step.context(), recorder)

    assert runtime.work(entry, recorder.requests[0].to_json())["status"] == "Failed"


def test_a_damaged_request_is_a_failed_report():
    assert runtime.work("bodies:good", {})["status"] == "Failed"
