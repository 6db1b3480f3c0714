"""The way of a Study through the use cases, and every way in which it ends early."""

from __future__ import annotations

import functools
import json
from decimal import Decimal

import pytest
from simulated.auditor import SECRET

from primum import signing
from primum.application import (
    advance,
    launching,
    observing,
    planning,
    quoting,
    releasing,
    settlement,
    study_lineage,
    verdicts,
)
from primum.application.access import WITHDRAWAL, Gatekeeper, mint_audit_ticket, redeem
from primum.application.ports import RunStatus
from primum.domain.accounting.events import Composed, Gaussian, NoEvent
from primum.domain.budget.entries import EntryKind, ReservationState, Result, ResultCode
from primum.domain.canonical import canonical_json
from primum.domain.conditions import Reason
from primum.domain.errors import InvalidValue, PrimumError, Refused, Tampered
from primum.domain.study.lifecycle import Action, Refusal, RunState
from primum.domain.study.plan import Access, Treatment
from primum.resources.stored import unstored


def test_a_study_goes_all_the_way(released):
    key = released.key("Study", "one")
    shown = released.resources.get(key).status
    assert released.states(key) == ["Charged"]
    assert released.shown(key, "BudgetSettled") == "True ChargedByReceipt"
    assert shown["stage"] == "Release"
    assert shown["endpointUrl"] == "memory://ward/risk"
    assert shown["public"]["verdict.Membership.LiRA"] == "Pass"
    assert SECRET not in str(shown)
    assert list(released.publisher.published) == [released.key("Release", "risk")]
    assert released.get("Release", "risk").owner == released.resources.get(key).uid
    assert advance.is_terminal(released.resources.get(key))
    assert released.advance(key) is Action.DONE


def test_a_study_that_is_gone_needs_nothing(ward):
    assert ward.advance(ward.key("Study", "nobody")) is Action.DONE


def test_a_study_waits_for_its_budget_and_then_goes_on(ward):
    key = ward.study(budgets=("labs",))
    assert ward.advance(key) is Action.WAIT
    assert ward.shown(key, "Planned").startswith("False BudgetNotFound")
    assert not advance.is_terminal(ward.resources.get(key))
    ward.declare_budget("labs")
    ward.finish(key)
    assert ward.shown(key, "Succeeded").startswith("True Done")


def test_a_budget_that_is_not_registered_or_not_ready_is_waited_for(ward):
    key = ward.study(budgets=("new",))
    spec = {
        "dataset": {"uri": "sim://elsewhere", "unit": "Patient"},
        "guarantee": {"epsilon": "1.0", "delta": "1e-5"},
        "neighbors": "AddOrRemoveOne",
        "disclosures": [],
    }
    ward.resources.apply(ward.key("PrivacyBudget", "new"), spec, labels={})
    ward.advance(key)
    assert ward.shown(key, "Planned").startswith(
        "Unknown Pending: budget new is not registered yet"
    )
    ward.look_at_budgets()
    ward.advance(key)
    assert ward.shown(key, "Planned").startswith("False BudgetNotReady")


def test_a_missing_policy_and_a_missing_release_are_waited_for(ward):
    lost = ward.study("lost", policy="ours")
    ward.advance(lost)
    assert ward.shown(lost, "Planned").startswith("False PolicyNotFound")
    synthetic = ward.study(
        "syn",
        data=[{"role": "Synthetic", "release": "made"}, {"role": "Private", "budget": "scans"}],
    )
    ward.advance(synthetic)
    assert ward.shown(synthetic, "Planned").startswith("False ReleaseNotFound")


def test_a_policy_of_the_namespace_wins_over_a_bundle_of_its_name(ward):
    rule = {
        "name": "never",
        "stage": "Admission",
        "expression": "plan.epsilon < 0.0",
        "message": "Not today.",
    }
    ward.resources.apply(ward.key("GatePolicy", "clinical-default"), {"rules": [rule]}, labels={})
    key = ward.study()
    ward.finish(key)
    assert ward.shown(key, "Succeeded") == "False GateDenied: clinical-default: Not today."
    assert ward.states(key) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"privacy": None}, "False InvalidSpec: spec.privacy must say what is claimed"),
        (
            {"job": {"kind": "Elsewhere"}},
            "False InvalidSpec: job kind 'Elsewhere' is not installed",
        ),
        (
            {"budgets": ("scans", "copies")},
            "False InvalidSpec: spec.data must name each dataset once",
        ),
        (
            {"budgets": ("scans", "labs")},
            "False InvalidSpec: spec.data must use budgets of one accounting policy",
        ),
        (
            {"privacy": {"epsilon": "50", "delta": "1e-5"}, "steps": "9000"},
            "False GateDenied: clinical-default: Epsilon",
        ),
    ],
)
def test_a_study_that_cannot_be_planned_is_refused_for_good(ward, changes, said):
    for name in ("copies", "labs"):
        ward.declare_budget(name)
    key = ward.study(**changes)
    ward.finish(key)
    assert ward.shown(key, "Succeeded").startswith(said)


@pytest.mark.parametrize(
    ("message", "reason", "said"),
    [
        (
            "NoMechanism: spec.privacy must be given",
            Reason.NO_MECHANISM,
            "spec.privacy must be given",
        ),
        ("spec.job: no", Reason.INVALID_SPEC, "spec.job: no"),
        ("Denied", Reason.DENIED, "Denied"),
    ],
)
def test_a_job_kind_may_open_its_refusal_with_a_reason(message, reason, said):
    assert planning._refusal(message) == Refusal("Plan", reason, said)


def test_an_endpoint_belongs_to_the_first_study_that_asks(ward):
    first, second = ward.study("one"), ward.study("two")
    ward.finish(second if ward.resources.get(second).uid < ward.resources.get(first).uid else first)
    late = second if "Done" in ward.shown(first, "Succeeded") else first
    ward.finish(late)
    assert "False EndpointTaken" in ward.shown(late, "Succeeded")


def test_an_unstored_study_may_be_quoted_and_nothing_is_spent(ward):
    spec = ward.spec(ward.study())
    asked = quoting.quote(ward.platform, spec)
    assert (asked.fits, asked.alternatives, asked.refusal) == (True, (), "")
    assert asked.times > 1
    assert ward.states(ward.key("Study", "one")) == []
    assert list(ward.platform.evidence.facts("NameClaim/risk")) == []


def test_a_quote_knows_whose_name_it_is_and_writes_none_down(ward):
    from primum.resources.conversion import study_spec

    ward.advance(ward.study("one"))
    declared = ward.get("Study", "one").spec
    again = study_spec(unstored(ward.key("Study", "one"), declared))
    assert quoting.quote(ward.platform, again).fits
    other = study_spec(unstored(ward.key("Study", "new"), declared))
    assert quoting.quote(ward.platform, other).reason is Reason.ENDPOINT_TAKEN
    assert [claim["name"] for _, claim in ward.platform.evidence.facts("NameClaim/risk")] == ["one"]


def test_a_name_is_free_again_when_who_asked_first_gets_nothing(ward):
    first, late = ward.study("one", steps="100000"), ward.study("two")
    ward.finish(first)
    assert "False" in ward.shown(first, "Succeeded")
    ward.finish(late)
    assert "True Done" in ward.shown(late, "Succeeded")


def test_a_name_is_free_again_when_who_asked_first_is_gone_or_asks_for_another(ward):
    first, second = ward.study("one"), ward.study("two")
    ward.advance(first)
    ward.study("one", endpoint="else")
    planning.claim_name(ward.platform, ward.spec(second))
    planning._refuse_taken_name(ward.platform, ward.spec(second))
    ward.study("one")
    with pytest.raises(Refused, match="taken by Study ward/one"):
        planning._refuse_taken_name(ward.platform, ward.spec(second))
    ward.resources.remove(first, ward.resources.get(first).uid)
    planning._refuse_taken_name(ward.platform, ward.spec(second))


def test_a_quote_that_does_not_fit_says_what_is_missing(ward):
    spec = ward.spec(ward.study(steps="2000"))
    asked = quoting.quote(ward.platform, spec)
    assert not asked.fits
    assert "budget scans has" in asked.refusal
    refused = quoting.quote(ward.platform, ward.spec(ward.study("bad", privacy=None)))
    assert isinstance(refused, Refusal)


def test_what_does_not_fit_is_denied_once_and_for_all(ward):
    key = ward.study(steps="2000")
    ward.finish(key)
    assert ward.shown(key, "Succeeded").startswith("False Denied: budget scans has")
    assert "Nothing smaller would fit" in ward.shown(key, "BudgetReserved")
    assert ward.states(key) == ["Denied"]


def test_a_frozen_budget_is_said_to_be_frozen_and_by_whom(ward):
    ward.ledger.freeze(ward.account(), reason="a complaint", key="k", actor="steward/ada")
    ward.look_at_budgets()
    key = ward.study()
    ward.finish(key)
    assert ward.shown(key, "Succeeded").startswith(
        "False BudgetFrozen: budget scans is frozen (a complaint)"
    )


def test_budgets_that_became_one_dataset_after_planning_are_refused(ward):
    ward.declare_budget("labs")
    key = ward.study(budgets=("scans",))
    spec = ward.spec(key)
    plan = planning.plan_study(ward.platform, spec)
    planning.store_plan(ward.platform, spec, plan)
    ward.resources.remove(
        ward.key("PrivacyBudget", "scans"), ward.get("PrivacyBudget", "scans").uid
    )
    ward.finish(key)
    assert ward.shown(key, "Succeeded").startswith("False BudgetNotFound")


def test_a_reservation_that_cannot_be_asked_for_is_a_refusal(ward, monkeypatch):
    def refuse(*_):
        raise InvalidValue("requests", "must have distinct reservation ids", 2)

    monkeypatch.setattr(launching, "reserve_plan", refuse)
    key = ward.study()
    ward.finish(key)
    assert ward.shown(key, "BudgetReserved").startswith("False InvalidSpec: requests must have")


def test_a_budget_that_is_only_not_ready_does_not_end_a_study(ward):
    key = ward.study()
    ward.advance(key)
    while ward.runner.progress():
        pass
    stored = ward.get("PrivacyBudget", "scans")
    ward.resources.set_status(stored.key, stored.uid, {"accountId": stored.status["accountId"]})
    assert ward.advance(key) is Action.WAIT
    assert not advance.is_terminal(ward.resources.get(key))
    ward.look_at_budgets()
    ward.finish(key)
    assert ward.shown(key, "Succeeded").startswith("True Done")


def test_a_run_that_its_runner_does_not_show_yet_is_launched_once_per_look(ward):
    ward.runner.status = lambda run: RunStatus.UNKNOWN
    key = ward.study()
    assert ward.advance(key) is Action.WAIT
    assert ward.advance(key) is Action.WAIT
    assert len(ward.runner.launched) == 1


def test_a_study_that_never_comes_to_rest_is_a_fault(ward, monkeypatch):
    monkeypatch.setitem(advance._DO, Action.PLAN, lambda *_: None)
    with pytest.raises(PrimumError, match="without coming to rest"):
        ward.advance(ward.study())


def test_nothing_is_done_without_a_plan(ward):
    with pytest.raises(PrimumError, match="without a plan"):
        advance._required(None)
    scene = ward.scene(ward.study())
    with pytest.raises(PrimumError, match="nothing is certified without a plan"):
        releasing.certify(ward.platform, scene)


def test_a_live_run_keeps_its_lease(ward):
    key = ward.study()
    ward.advance(key)
    before = ward.scene(key).reservations[0].lease_until
    ward.pass_time(100)
    ward.advance(key)
    assert ward.scene(key).reservations[0].lease_until > before


def test_a_study_that_is_deleted_while_it_runs_is_stopped_settled_and_removed(ward):
    key = ward.study()
    ward.advance(key)
    ward.runner.progress()  # validate: its access is exposed
    uid = ward.resources.get(key).uid
    ward.resources.request_deletion(key)
    assert ward.advance(key) is Action.DONE
    assert ward.resources.get(key) is None
    held = ward.ledger.reservations(study_uid=uid)
    assert [(item.state, item.executed) for item in held] == [(ReservationState.CHARGED, NoEvent())]


@pytest.mark.parametrize(
    ("mood", "settled", "succeeded"),
    [
        ("fails before", "CHARGED_IN_FULL", "False StepFailed"),
        ("fails midway", "True ChargedByReceipt", "False StepFailed"),
        (
            "loses its receipt",
            "True ChargedInFull: no trusted receipt",
            "False NotReleased: Every reservation",
        ),
        (
            "damages its receipt",
            "True ChargedInFull: no trusted receipt",
            "False StepFailed: job left a damaged report",
        ),
        (
            "forges its receipt",
            "True ChargedInFull: no trusted receipt",
            "False StepFailed: job left a damaged report",
        ),
        (
            "shouts",
            "True ChargedInFull: no trusted receipt",
            "False StepFailed: job failed: ValueError",
        ),
    ],
)
def test_what_a_job_does_to_the_budget(ward, mood, settled, succeeded):
    ward.moods["job"] = mood
    key = ward.study()
    ward.finish(key)
    if settled == "CHARGED_IN_FULL":
        settled = "True ChargedInFull: no trusted receipt"
    assert ward.shown(key, "BudgetSettled").startswith(settled)
    assert ward.shown(key, "Succeeded").startswith(succeeded)
    assert ward.states(key) == ["Charged"]
    assert not ward.publisher.published
    status = ward.resources.get(key).status
    spent, claimed = Decimal(status["epsilonSpent"]), Decimal(status["epsilonClaimed"])
    in_part = mood == "fails midway"  # Its receipt shows fewer steps than were planned.
    assert (0 < spent < claimed) if in_part else spent == claimed


def test_a_job_beyond_its_plan_is_charged_in_full_and_freezes_its_account(ward):
    ward.moods["job"] = "exceeds its plan"
    key = ward.study()
    ward.finish(key)
    held = ward.scene(key).reservations[0]
    assert held.charged == held.charge
    assert ward.ledger.account(ward.account()).frozen
    assert not ward.publisher.published


def test_a_failed_expectation_ends_a_study_before_anything_is_spent(ward):
    ward.moods["validate"] = "fools itself"
    key = ward.study()
    ward.finish(key)
    assert ward.shown(key, "Succeeded").startswith("False ExpectationsFailed")
    assert ward.ledger.account(ward.account()).epsilon_spent == 0
    assert ward.resources.get(key).status["epsilonSpent"] == "0"


def test_a_contradicted_claim_freezes_and_releases_nothing(ward):
    ward.moods["audit"] = "fools itself"
    key = ward.study()
    ward.finish(key)
    assert ward.shown(key, "Succeeded").startswith("False ClaimExceeded: not released")
    assert ward.ledger.account(ward.account()).frozen
    assert not ward.publisher.published


def test_what_a_steward_thaws_after_looking_stays_thawed(ward):
    ward.moods["audit"] = "fools itself"
    key = ward.study()
    ward.finish(key)
    ward.ledger.thaw(ward.account(), reason="looked into it", key="t", actor="steward/ada")
    ward.resources.request_deletion(key)
    assert ward.advance(key) is Action.DONE
    assert ward.resources.get(key) is None
    assert not ward.ledger.account(ward.account()).frozen


def test_an_account_that_cannot_be_frozen_is_said_so(ward):
    class Older:
        def freeze(self, account_id, **_):
            return Result(ResultCode.ROLLED_BACK, "older than its anchor")

    with pytest.raises(Refused, match="was not frozen: older than its anchor"):
        settlement.freeze_account(Older(), "a", reason="r", key="k")


def test_a_ledger_that_takes_nothing_does_not_settle(ward):
    key = ward.study()
    ward.advance(key)
    scene = ward.scene(key)

    class Older:
        def give_back(self, *_, **__):
            return Result(ResultCode.ROLLED_BACK, "older than its anchor")

    with pytest.raises(Refused, match="takes nothing"):
        settlement.settle(ward.with_port(ledger=Older()), scene.plan, scene.reservations, {})


def test_what_is_resolved_is_left_alone(released):
    scene = released.scene(released.key("Study", "one"))
    before = released.ledger.head()
    settlement.settle(released.platform, scene.plan, scene.reservations, scene.outcomes)
    assert released.ledger.head() == before


def test_an_access_exposed_after_the_look_makes_it_a_charge_in_full(ward):
    key = ward.study()
    ward.advance(key)
    ward.runner.progress()
    stale = ward.scene(key)
    held = stale.reservations[0]
    ward.ledger.expose(held.reservation_id, access="train@scans", fence=held.fence, actor="zombie")
    settlement.settle(ward.platform, stale.plan, stale.reservations, stale.outcomes)
    after = ward.scene(key).reservations[0]
    assert after.state is ReservationState.CHARGED
    assert after.charged == after.charge
    assert "exposed meanwhile" in after.reason


def test_events_of_one_budget_are_composed(make, dec):
    def charged(name, sigma):
        return Access(name, "job", "scans", Treatment.CHARGED, Gaussian(dec(sigma)))

    looked = Access("look", "job", "labs", Treatment.INSPECTED)
    plan = make.plan(accesses=(charged("a", 1), charged("b", 2), looked))
    events = planning.events_by_budget(plan)
    assert events["scans"] == Composed((Gaussian(dec(1)), Gaussian(dec(2))))
    assert events["labs"] == NoEvent()


def test_receipts_of_one_account_are_composed(ward, make, dec):
    events = (Gaussian(dec(1)), Gaussian(dec(2)))
    accesses = tuple(
        Access(f"a{i}", "job", "scans", Treatment.CHARGED, e) for i, e in enumerate(events)
    )
    receipts = tuple(
        make.receipt(access=f"a{i}", budget="scans", event=e) for i, e in enumerate(events)
    )
    key = ward.study()
    ward.advance(key)
    from dataclasses import replace

    held = replace(ward.scene(key).reservations[0], exposed=("a0", "a1"))
    outcome = replace(_outcome(), receipts=receipts)
    executed, _ = settlement._executed(make.plan(accesses=accesses), held, {"job": outcome})
    assert executed == Composed(events)


def _outcome():
    from primum.domain.study.steps import StepOutcome, StepStatus

    return StepOutcome("o", "job", StepStatus.SUCCEEDED, "StepSucceeded", "", (), (), ())


def test_nothing_private_reserves_nothing(ward, make):
    assert (
        launching.reserve_plan(ward.platform, ward.spec(ward.study()), make.plan(accesses=()))
        is None
    )


# Access to data.


def keeper(ward):
    platform = ward.platform
    return Gatekeeper(platform.ledger, platform.signer, ward.clock, 60.0, platform.evidence)


def tickets(ward, key):
    ward.advance(key)
    (_, steps), *_ = ward.runner.launched
    return {step.step: dict(step.tickets) for step in steps}


def test_a_charged_ticket_gives_one_token_ever(ward):
    ticket = tickets(ward, ward.study())["job"]["train@scans"]
    token = redeem(keeper(ward), ticket, actor="step/job")
    assert (token.access, token.budget, token.uri) == ("train@scans", "scans", "sim://scans")
    with pytest.raises(Refused, match="its ticket was redeemed before"):
        redeem(keeper(ward), ticket, actor="step/job")


def test_the_process_that_redeemed_it_may_ask_again_while_the_reservation_stands(ward):
    """A training that goes on after its worker was lost; the ledger has one entry for it."""
    key = ward.study()
    ticket = tickets(ward, key)["job"]["train@scans"]
    ask = functools.partial(redeem, keeper(ward), ticket, actor="step/job")
    assert ask(attempt="this process").access == ask(attempt="this process").access
    kinds = [entry.kind for entry in ward.platform.ledger.entries()]
    assert kinds.count(EntryKind.EXPOSED) == 1
    for other in ("another process", ""):
        with pytest.raises(Refused, match="redeemed before"):
            ask(attempt=other)
    (held,) = ward.platform.ledger.reservations(study_uid=ward.spec(key).uid)
    ward.platform.ledger.charge(held.reservation_id, executed=None, reason="ended", actor="test")
    with pytest.raises(Refused, match="was not granted"):
        ask(attempt="this process")


def test_a_token_says_how_many_withdrawn_consents_the_loader_must_know_of(ward):
    """Counted when it is minted: a ticket may wait while somebody withdraws."""
    given = tickets(ward, ward.study())
    said = []
    for step, name in (("validate", "validate@scans"), ("evaluate", "evaluate@scans")):
        token = redeem(keeper(ward), given[step][name], actor="s").text
        payload = ward.platform.signer.open(signing.decode_token(token), signing.DATA_TOKEN_TYPE)
        said.append(json.loads(payload))
        for account in (ward.account(), "another"):
            mark = f"{account}/mark"
            ward.platform.evidence.put_fact(WITHDRAWAL, mark, {"account": account, "mark": "mark"})
    assert [(item["accountId"], item["withdrawn"]) for item in said] == [
        (ward.account(), 0),
        (ward.account(), 1),
    ]


def test_a_ticket_to_look_may_be_redeemed_again(ward):
    given = tickets(ward, ward.study())
    for step, name in (("validate", "validate@scans"), ("evaluate", "evaluate@scans")):
        first = redeem(keeper(ward), given[step][name], actor="s")
        assert redeem(keeper(ward), given[step][name], actor="s").access == first.access


def test_a_ticket_opens_nothing_after_its_reservation_ended(ward):
    key = ward.study()
    ticket = tickets(ward, key)["job"]["train@scans"]
    ward.pass_time(10_000)
    ward.ledger.expire(actor="loop")
    with pytest.raises(Refused, match="was not granted: AlreadyResolved"):
        redeem(keeper(ward), ticket, actor="step/job")


def test_a_ticket_that_nobody_here_signed_opens_nothing(ward, memories):
    ticket = tickets(ward, ward.study())["job"]["train@scans"]
    envelope = signing.decode_token(ticket)
    stranger = memories.MemorySigner()
    payload = ward.platform.signer.open(envelope, signing.TICKET_TYPE)
    forged = signing.encode_token(stranger.sign(signing.TICKET_TYPE, payload))
    with pytest.raises(Tampered):
        redeem(keeper(ward), forged, actor="s")
    empty = signing.encode_token(ward.platform.signer.sign(signing.TICKET_TYPE, canonical_json([])))
    with pytest.raises(Refused, match="must be a JSON object"):
        redeem(keeper(ward), empty, actor="s")


def test_an_audit_run_only_looks(ward, make):
    charged = Access("train", "job", "scans", Treatment.CHARGED)
    with pytest.raises(InvalidValue, match="must be Inspected in an AuditRun"):
        mint_audit_ticket(ward.platform, uid="u", generation=1, access=charged, facts=make.budget())


# The services of a step.


def services(ward, context):
    from primum.application.step_services import DirectStepServices

    platform = ward.platform
    return DirectStepServices(
        context,
        keeper(ward),
        platform.ledger,
        platform.evidence,
        ward._worker,
        platform.signer,
        platform.lineage,
        "memory://a",
        ("/d",),
    )


def test_a_step_is_fresh_until_its_mechanism_may_have_run(ward):
    ward.advance(ward.study())
    (_, steps), *_ = ward.runner.launched
    job = services(ward, steps[1])
    assert job.begun(steps[1].outcome_id) == "Fresh"
    assert job.begun(steps[1].outcome_id) == "Fresh"
    job.redeem(steps[1].tickets["train@scans"])
    assert job.begun(steps[1].outcome_id) == "Exposed"
    look = services(ward, steps[2])
    look.begun(steps[2].outcome_id)
    assert look.begun(steps[2].outcome_id) == "Fresh"
    assert (look.data_dirs(), look.artifacts_uri("u", 1)) == (("/d",), "memory://a/u/1")
    assert look.public_key() == ward.platform.signer.public_key()


def test_a_plan_without_accesses_charges_nothing(ward):
    from dataclasses import replace

    ward.advance(ward.study())
    (_, steps), *_ = ward.runner.launched
    empty = services(ward, replace(steps[1], plan={"accesses": None}))
    with pytest.raises(Refused, match="must cover an access of it"):
        empty.redeem(steps[1].tickets["train@scans"])
    assert [empty.begun("o"), empty.begun("o")] == ["Fresh", "Fresh"]


def test_a_contradiction_freezes_before_it_is_recorded(ward, make):
    from primum.domain.governance.evidence import Verdict

    key = ward.study()
    ward.advance(key)
    (_, steps), *_ = ward.runner.launched
    uid = ward.resources.get(key).uid
    found = make.evidence("Membership", "LiRA", Verdict.FAIL, study_uid=uid)
    with pytest.raises(Refused, match="must record its own outcome"):  # Damaged, and heard.
        services(ward, steps[3]).record(_outcome(), (found,))
    assert "contradicted by LiRA" in ward.ledger.account(ward.account()).frozen
    assert (
        ward.evidence.fact(settlement.CONTRADICTION, f"{uid}/1") is None
    )  # Its own audit, not a later one.


# Verdicts and lineage.


def test_verdicts_that_are_damaged_deny():
    damaged = verdicts.judgment_of({"stages": "all fine"})
    assert not damaged.stands
    assert verdicts.judgment_of(None) is None
    assert releasing.stage_verdicts({"stages": "all fine"}) == ()
    assert releasing.stage_verdicts(None) == ()


def test_lineage_tells_beginning_and_end_once(released):
    events = released.platform.lineage._lineage.events
    kinds = [
        (event["job"]["facets"]["jobType"]["jobType"], event["eventType"])
        for event in events
        if "job" in event
    ]
    assert ("STUDY", "START") in kinds
    assert kinds[-1] == ("STUDY", "COMPLETE")
    assert SECRET not in str(events)


def test_lineage_leaves_out_an_account_that_is_gone(released):
    scene = released.scene(released.key("Study", "one"))

    class Empty:
        def account(self, _):
            return None

    assert study_lineage._inputs(released.with_port(ledger=Empty()), scene) == []


def test_a_study_that_fails_is_a_failed_run(ward):
    ward.moods["job"] = "fails before"
    ward.finish(ward.study())
    events = ward.platform.lineage._lineage.events
    assert [event["eventType"] for event in events[-2:]] == ["FAIL", "FAIL"]


def test_observing_survives_a_planner_that_is_broken(ward, monkeypatch):
    key = ward.study()

    def broken(*_):
        raise ValueError(SECRET)

    monkeypatch.setattr(observing.planning, "planning_context", broken)
    assert ward.scene(key).observed.blocked is None
    assert ward.scene(key).observed.run is RunState.NOT_LAUNCHED
