"""What stands between Studies, and what the loop does for it.

Budgets, policies, Releases and AuditRuns.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest
from simulated.jobs import ATTACK

from primum.application import (
    audit_history,
    audits,
    budgets,
    planning,
    quoting,
    releases,
    releasing,
    settlement,
    studystatus,
    verdicts,
)
from primum.application.ports import RunStatus
from primum.domain.budget.entries import Result, ResultCode
from primum.domain.errors import Conflict, InvalidValue, NotFound, PrimumError, Refused, Unavailable
from primum.domain.names import ResourceKey
from primum.domain.study.lifecycle import Action, Refusal
from primum.entrypoints import loop
from primum.resources import conversion

AUDIT = {"kind": "Membership", "attack": ATTACK}


# Budgets.


def test_a_budget_is_ready_when_its_dataset_is_registered(ward):
    shown = ward.get("PrivacyBudget", "scans").status
    assert ward.shown(ward.key("PrivacyBudget", "scans"), "Ready") == "True Registered"
    assert (shown["units"], shown["epsilonLeft"]) == (900, "3")
    version = ward.get("PrivacyBudget", "scans").resource_version
    ward.look_at_budgets()
    assert ward.get("PrivacyBudget", "scans").resource_version == version


@pytest.mark.parametrize(
    ("dataset", "delta", "said"),
    [
        ("sim://nowhere", "1e-5", "False DatasetUnreadable"),
        (
            "sim://labs",
            "0.5",
            "False InvalidSpec: PrivacyBudget ward/new: spec.guarantee.delta must be below 1/900",
        ),
    ],
)
def test_a_budget_that_cannot_be_kept_says_why(ward, dataset, delta, said):
    spec = {
        "dataset": {"uri": dataset, "unit": "Patient"},
        "guarantee": {"epsilon": "1.0", "delta": delta},
        "neighbors": "AddOrRemoveOne",
        "disclosures": [],
    }
    key = ward.key("PrivacyBudget", "new")
    ward.resources.apply(key, spec, labels={})
    ward.look_at_budgets()
    assert ward.shown(key, "Ready").startswith(said)


def test_a_promise_that_was_given_is_not_raised_by_declaring_it_again(ward):
    spec = dict(ward.get("PrivacyBudget", "scans").spec) | {
        "guarantee": {"epsilon": "9.0", "delta": "1e-5"}
    }
    ward.resources.apply(ward.key("PrivacyBudget", "again"), spec, labels={})
    ward.look_at_budgets()
    assert ward.shown(ward.key("PrivacyBudget", "again"), "Ready").startswith(
        "False InvalidSpec: guarantee.epsilon"
    )


def test_a_frozen_budget_is_not_ready(ward):
    ward.ledger.freeze(ward.account(), reason="doubt", key="k", actor="steward/ada")
    ward.look_at_budgets()
    assert ward.shown(ward.key("PrivacyBudget", "scans"), "Ready") == "False BudgetFrozen: doubt"


def test_a_budget_is_removed_when_nothing_is_held_on_it_and_what_was_spent_stays(ward):
    key = ward.study()
    ward.advance(key)
    account, budget = ward.account(), ward.key("PrivacyBudget", "scans")
    ward.resources.request_deletion(budget)
    ward.look_at_budgets()
    assert ward.resources.get(budget) is not None
    ward.finish(key)
    ward.look_at_budgets()
    assert ward.resources.get(budget) is None
    ward.declare_budget("scans")
    assert ward.account() == account
    assert ward.ledger.account(account).epsilon_spent > 0


def test_a_budget_that_was_never_registered_is_removed_at_once(ward):
    key = ward.key("PrivacyBudget", "new")
    ward.resources.apply(key, ward.get("PrivacyBudget", "scans").spec, labels={})
    ward.resources.request_deletion(key)
    ward.look_at_budgets()
    assert ward.resources.get(key) is None


def test_an_account_that_cannot_be_read_is_a_fault(ward):
    with pytest.raises(PrimumError, match="was opened and cannot be read"):
        budgets._readiness(
            ward.with_port(ledger=SimpleNamespace(account=lambda _: None)),
            conversion.budget_spec(ward.get("PrivacyBudget", "scans")),
            "a",
            Result(ResultCode.ACCEPTED),
        )


# Policies.


def policy(ward, expression):
    rule = {"name": "one", "stage": "Release", "expression": expression, "message": "No."}
    return ward.resources.apply(ward.key("GatePolicy", "ours"), {"rules": [rule]}, labels={})[0]


def test_a_policy_says_whether_its_rules_compile(ward):
    key = ward.key("GatePolicy", "ours")
    releases.reconcile_policy(ward.platform, policy(ward, "size(study.audits) > 0"))
    assert ward.shown(key, "Ready") == "True Done: every rule compiles"
    releases.reconcile_policy(ward.platform, policy(ward, "size(study.audits >"))
    assert ward.shown(key, "Ready").startswith("False InvalidSpec")
    ward.resources.request_deletion(key)
    releases.reconcile_policy(ward.platform, ward.resources.get(key))
    assert ward.resources.get(key) is None


def test_a_policy_must_exist_or_be_a_bundle(ward):
    with pytest.raises(NotFound, match=r"spec\.policy must name a GatePolicy"):
        verdicts.policy_spec(ward.platform, "ward", "nobody's")
    policy(ward, "size(study.audits) > 0")
    assert verdicts.policy_spec(ward.platform, "ward", "ours")["rules"]
    ward.resources.request_deletion(ward.key("GatePolicy", "ours"))
    with pytest.raises(NotFound):
        verdicts.policy_spec(ward.platform, "ward", "ours")


# Releases.


def reconcile(ward, name="risk"):
    releases.reconcile_release(ward.platform, ward.get("Release", name))


def revoke(ward):
    stored = ward.get("Release", "risk")
    spec = dict(stored.spec) | {"revocation": {"reason": "a complaint"}}
    ward.resources.apply(stored.key, spec, labels={}, owner=stored.owner)


def test_a_release_is_served_and_says_where(released):
    reconcile(released)
    shown = released.get("Release", "risk").status
    assert (
        released.shown(released.key("Release", "risk"), "Ready")
        == "True Serving: memory://ward/risk"
    )
    assert shown["url"] == "memory://ward/risk"
    version = released.get("Release", "risk").resource_version
    reconcile(released)
    assert released.get("Release", "risk").resource_version == version


def test_a_revoked_release_is_withdrawn_for_good(released):
    revoke(released)
    reconcile(released)
    assert not released.publisher.published
    assert released.shown(released.key("Release", "risk"), "Ready") == "False Revoked: a complaint"
    before = released.get("Release", "risk")
    releases.revoke(released.platform, before.key, "again")
    assert released.get("Release", "risk") == before


def test_a_deleted_release_is_withdrawn_and_removed(released):
    released.resources.request_deletion(released.key("Release", "risk"))
    reconcile(released)
    assert not released.publisher.published
    assert released.get("Release", "risk") is None
    releases.revoke(released.platform, released.key("Release", "risk"), "too late")


def test_a_release_without_a_certificate_is_not_served(released):
    spec = dict(released.get("Release", "risk").spec) | {
        "study": {"name": "one", "uid": "forged", "generation": 1}
    }
    key = released.key("Release", "forged")
    released.resources.apply(key, spec | {"endpoint": "forged"}, labels={})
    reconcile(released, "forged")
    assert released.shown(key, "Ready").startswith("False NotReleased: certificate must hold")
    assert key not in released.publisher.published


def test_a_release_revoked_while_it_was_being_published_is_not_served(released):
    publisher = released.platform.publisher

    class Slow:
        def publish(self, release, **kwargs):
            url = publisher.publish(release, **kwargs)
            revoke(released)
            return url

        def unready(self, release):
            return publisher.unready(release)

        def withdraw(self, release):
            publisher.withdraw(release)

    stored = released.get("Release", "risk")
    releases.reconcile_release(released.with_port(publisher=Slow()), stored)
    assert not released.publisher.published


def certified(ward):
    """A ward in which the Study ``one`` is about to be published."""
    key = ward.study()
    with (
        mock.patch.object(releasing, "publish", side_effect=Unavailable("not now")),
        pytest.raises(Unavailable),
    ):
        ward.finish(key)
    return key


def test_publishing_does_not_undo_a_revocation(ward):
    """A crash between declaring the Release and noting it as published must not bring it back."""
    key = certified(ward)
    with (
        mock.patch.object(ward.evidence, "put_fact", side_effect=Unavailable("crash")),
        pytest.raises(Unavailable),
    ):
        ward.advance(key)
    revoke(ward)
    reconcile(ward)
    ward.finish(key)
    assert ward.shown(key, "Succeeded").startswith(
        "False NotReleased: Release ward/risk was revoked"
    )
    assert "revocation" in ward.get("Release", "risk").spec
    assert not ward.publisher.published


def test_what_the_publisher_refuses_for_good_ends_the_study(ward):
    key = certified(ward)
    with mock.patch.object(
        ward.publisher, "publish", side_effect=Refused("certificate was revoked.")
    ):
        ward.finish(key)
    assert ward.shown(key, "Succeeded") == "False NotReleased: certificate was revoked."


def test_what_was_contradicted_meanwhile_is_not_published(ward):
    key = certified(ward)
    uid = ward.resources.get(key).uid
    ward.evidence.put_fact(
        settlement.CONTRADICTION, f"{uid}/1", {"message": "contradicted by LiRA"}
    )
    ward.finish(key)
    assert ward.shown(key, "Succeeded") == "False NotReleased: contradicted by LiRA"
    assert ward.get("Release", "risk") is None


def test_only_a_certified_artifact_is_published(ward):
    key = ward.study()
    ward.advance(key)
    with pytest.raises(PrimumError, match="only a certified artifact"):
        releasing.publish(ward.platform, ward.scene(key))
    assert releasing.certify(ward.platform, ward.scene(key)) == [
        "the run left no artifact of the kind that is to be released"
    ]
    assert releasing.artifact_digests(ward.scene(key)) == ()


def test_a_damaged_certificate_is_not_published(ward):
    key = certified(ward)
    scene = ward.scene(key)
    damaged = SimpleNamespace(fact=lambda *_: {"envelope": "gone"})
    with pytest.raises(PrimumError, match="stored certificate is damaged"):
        releasing.publish(ward.with_port(evidence=damaged), scene)


def test_a_study_whose_account_is_gone_is_not_certified(ward):
    key = ward.study()
    with (
        mock.patch.object(releasing, "certify", side_effect=Unavailable("not now")),
        pytest.raises(Unavailable),
    ):
        ward.finish(key)
    scene = ward.scene(key)
    ledger = SimpleNamespace(account=lambda _: None)
    reasons = releasing.certify(ward.with_port(ledger=ledger), scene)
    assert reasons == ["budget scans has no reservation of this Study any more"]


def test_a_certificate_is_refused_rather_than_weakened(ward):
    key = ward.study()
    with (
        mock.patch.object(releasing, "certify", side_effect=Unavailable("not now")),
        pytest.raises(Unavailable),
    ):
        ward.finish(key)
    ward.ledger.freeze(ward.account(), reason="doubt", key="k", actor="steward/ada")
    ward.finish(key)
    assert "Budget scans is frozen" in ward.shown(key, "Succeeded")
    assert not ward.publisher.published


def test_a_dataset_is_released_under_its_own_name(released):
    scene = released.scene(released.key("Study", "one"))
    from dataclasses import replace

    spec = replace(scene.spec, endpoint="", dataset_release="void-made", audit_schedule="0 0 * * *")
    assert releasing.released_artifact(replace(scene, spec=spec)) is None
    key = ResourceKey("Release", "ward", "void-made")
    assert releasing.release_key(spec) == key
    artifact = releasing.released_artifact(scene)
    found = releasing._release_spec(
        replace(scene, spec=spec), scene.plan, artifact, {"uri": "u", "digest": "d"}
    )
    assert (found["kind"], found["auditSchedule"], "endpoint" in found) == (
        "Dataset",
        "0 0 * * *",
        False,
    )
    void = replace(scene.plan, void_edges=("an edge",))
    stated = releasing._release_spec(
        replace(scene, plan=void), void, artifact, {"uri": "u", "digest": "d"}
    )["claim"]
    assert stated == {"standing": "Void", "voidEdges": ["an edge"]}


def test_a_certificate_that_is_no_envelope_is_none(released):
    stored = released.get("Release", "risk")
    damaged = SimpleNamespace(fact=lambda *_: {"envelope": "gone"})
    assert releases.certificate_of(released.with_port(evidence=damaged), stored) == {}


def scheduled(ward, schedule="0 0 * * *"):
    key = ward.study(release={"endpoint": "risk", "auditSchedule": schedule})
    ward.finish(key)
    reconcile(ward)
    return key


def test_an_audit_is_created_when_it_is_due_and_once(ward):
    scheduled(ward, "0 0 2 * *")
    assert ward.resources.list("AuditRun") == ()
    ward.pass_time(2 * 86400.0)
    reconcile(ward)
    reconcile(ward)
    (run,) = ward.resources.list("AuditRun")
    assert run.key.name == "risk-202603020000-0"
    assert run.spec["release"] == "risk"
    assert ward.get("Release", "risk").status["lastAudit"] == run.key.name


def test_a_schedule_that_is_never_due_creates_nothing(ward):
    scheduled(ward, "0 0 31 2 *")
    assert ward.resources.list("AuditRun") == ()


def test_no_audit_is_created_for_a_study_that_is_gone(ward):
    key = scheduled(ward, "0 0 2 * *")
    ward.resources.remove(key, ward.resources.get(key).uid)
    ward.pass_time(2 * 86400.0)
    reconcile(ward)
    assert ward.resources.list("AuditRun") == ()
    assert "lastAudit" not in ward.get("Release", "risk").status


# AuditRuns.


def audit_run(ward, name="again", **spec):
    key = ward.key("AuditRun", name)
    ward.resources.apply(key, {"audit": AUDIT, **(spec or {"release": "risk"})}, labels={})
    return key


def look_at(ward, key):
    audits.reconcile_audit_run(ward.platform, ward.resources.get(key))


def finish_audit(ward, key):
    look_at(ward, key)
    ward.runner.progress()
    look_at(ward, key)
    return ward.shown(key, "Succeeded")


@pytest.mark.parametrize("subject", [{"release": "risk"}, {"study": "one"}])
def test_an_audit_that_finds_nothing_passes_and_costs_nothing(released, subject):
    before = released.ledger.account(released.account()).epsilon_spent
    key = audit_run(released, **subject)
    assert finish_audit(released, key) == "True AuditsPassed: StepSucceeded"
    assert released.resources.get(key).status["verdict"] == "Pass"
    assert released.ledger.account(released.account()).epsilon_spent == before
    version = released.resources.get(key).resource_version
    look_at(released, key)
    assert released.resources.get(key).resource_version == version


@pytest.mark.parametrize("subject", [{"release": "risk"}, {"study": "one"}])
def test_an_audit_that_contradicts_the_claim_freezes_and_revokes(released, subject):
    released.moods["audit"] = "fools itself"
    assert finish_audit(released, audit_run(released, **subject)).startswith("False ClaimExceeded")
    assert released.ledger.account(released.account()).frozen
    reconcile(released)
    assert "revocation" in released.get("Release", "risk").spec
    assert not released.publisher.published


def test_an_attack_that_its_worker_did_not_begin_shows_nothing(released):
    released.moods["audit"] = "refuses"
    key = audit_run(released)
    told = finish_audit(released, key)
    assert told == "False EstimateAboveDeadline: it would take too long"
    assert released.resources.get(key).status["verdict"] == "Inconclusive"
    (ended,) = audit_history.results(released.evidence, "ward/Release risk")
    assert (ended.reason, ended.seconds, ended.model) == ("EstimateAboveDeadline", "0", "")


def test_a_broken_mechanism_is_not_hidden_by_an_attack_that_was_not_begun(released):
    released.moods["audit"] = "refuses, and is broken"
    assert finish_audit(released, audit_run(released)).startswith("False ClaimExceeded")
    assert released.ledger.account(released.account()).frozen


def test_a_contradiction_holds_even_if_nobody_looks_at_the_audit_again(released):
    released.moods["audit"] = "fools itself"
    key = audit_run(released)
    look_at(released, key)
    released.runner.progress()
    released.resources.remove(key, released.resources.get(key).uid)
    reconcile(released)
    reconcile(released)
    assert released.ledger.account(released.account()).frozen
    assert not released.publisher.published


def test_a_contradicted_study_without_a_release_is_frozen(ward):
    ward.finish(ward.study(endpoint=""))
    ward.moods["audit"] = "fools itself"
    finish_audit(ward, audit_run(ward, study="one"))
    assert ward.ledger.account(ward.account()).frozen


def test_a_denied_reservation_was_never_touched(released, make):
    found = (make.evidence("Membership", "LiRA"),)
    spec = released.spec(released.study("two", steps="2000", endpoint=""))
    released.finish(released.key("Study", "two"))
    stored = released.resources.apply(
        released.key("AuditRun", "x"), {"study": "two", "audit": AUDIT}, labels={}
    )[0]
    audits._incident(released.platform, stored, spec, found)
    assert not released.ledger.account(released.account()).frozen
    audits._incident(released.platform, stored, spec, found)  # The fact stands; it is written once.


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        ("shouts", "False StepFailed: audit failed: ValueError"),
        ("fails before", "False AuditInconclusive"),
        ("forges its receipt", "False AuditInconclusive"),
    ],
)
def test_an_audit_that_shows_nothing_is_no_pass(released, mood, said):
    released.moods["audit"] = mood
    assert finish_audit(released, audit_run(released)).startswith(said)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"release": "nothing"}, "spec.release must name a Release of the namespace; found none"),
        ({"study": "nothing"}, "must name a Study of the namespace; found nothing, which does not"),
        ({"study": "young"}, "has no artifact to audit"),
    ],
)
def test_an_audit_of_nothing_says_so(released, spec, said):
    released.study("young", endpoint="")
    key = audit_run(released, **spec)
    look_at(released, key)
    assert said in released.shown(key, "Succeeded")


def test_an_audit_of_a_release_whose_study_was_declared_again_is_refused(released):
    old = released.key("Study", "one")
    released.resources.remove(old, released.resources.get(old).uid)
    released.study("one", endpoint="")
    released.finish(old)
    key = audit_run(released)
    look_at(released, key)
    assert "does not exist any more" in released.shown(key, "Succeeded")


def test_an_audit_under_way_is_left_alone(released):
    key = audit_run(released)
    look_at(released, key)
    look_at(released, key)
    assert released.shown(key, "Succeeded") == "Unknown RunCreated"


def test_a_deleted_audit_is_stopped_and_removed(released):
    key = audit_run(released)
    look_at(released, key)
    released.resources.request_deletion(key)
    look_at(released, key)
    assert released.resources.get(key) is None
    assert not released.runner.progress()


def test_an_audit_that_ended_without_an_outcome_failed(released):
    key = audit_run(released)
    look_at(released, key)
    released.runner.status = lambda run: RunStatus.FAILED
    look_at(released, key)
    assert (
        released.shown(key, "Succeeded") == "False StepFailed: the audit ended without an outcome"
    )


def test_an_outcome_recorded_between_two_questions_is_not_lost(released):
    released.moods["audit"] = "fools itself"
    key = audit_run(released)
    look_at(released, key)

    def ended(run):
        released.runner.progress()
        return RunStatus.SUCCEEDED

    released.runner.status = ended
    look_at(released, key)
    assert released.shown(key, "Succeeded").startswith("False ClaimExceeded")


# Status and the loop.


def test_a_reason_that_is_not_public_stays_out_of_status(released):
    scene = released.scene(released.key("Study", "one"))
    shown = studystatus.study_status(released.platform, scene, ())
    assert shown["stage"] == "Plan"
    assert shown["epsilonSpent"] == str(scene.plan.epsilon)


def test_disclosed_figures_are_shown(released, make):
    from dataclasses import replace

    scene = released.scene(released.key("Study", "one"))
    interval = {"estimate": "0.95", "lower": "0.9", "upper": "0.98"}
    said = make.evidence("Utility", "HeldOut", None, public={"accuracy": interval})
    shown = studystatus.study_status(released.platform, replace(scene, evidence=(said,)), ())
    assert shown["public"] == {"headline.Utility.HeldOut": "accuracy 0.95 (0.90-0.98)"}
    plain = studystatus.study_status(released.platform, replace(scene, evidence=()), ())
    assert "public" not in plain


@pytest.fixture
def quiet():
    with mock.patch.object(loop, "log") as log:
        yield log


def test_a_fault_in_one_resource_does_not_stop_the_others(ward, quiet):
    good = ward.study("good", endpoint="")
    bad = ward.study("bad", endpoint="")
    control = loop.ControlLoop(ward.platform, flush_lineage=lambda: 0)
    original = loop.advance.advance

    def advance(platform, key):
        if key == bad:
            raise Conflict("somebody else wrote it")
        return original(platform, key)

    with mock.patch.object(loop.advance, "advance", advance):
        control.look()
    assert ward.shown(good, "Launched") == "True RunCreated"
    assert quiet.warning.call_args.kwargs["error"] == "somebody else wrote it"


def test_a_foreign_fault_is_told_by_its_type_alone(ward, quiet):
    ward.study()
    control = loop.ControlLoop(ward.platform, flush_lineage=lambda: 0)
    with mock.patch.object(loop.advance, "advance", side_effect=ValueError("patient-4711")):
        control.look()
    assert quiet.warning.call_args.kwargs["error"] == "ValueError"


def test_a_store_that_does_not_answer_is_asked_again(ward, quiet):
    control = loop.ControlLoop(ward.platform, flush_lineage=lambda: 0)
    with mock.patch.object(ward.ledger, "expire", side_effect=Unavailable("database is away")):
        control.look()
    assert quiet.warning.call_args.kwargs["error"] == "database is away"
    key = ward.study()
    control.look()
    assert ward.shown(key, "Launched") == "True RunCreated"


def test_two_studies_do_not_wait_for_each_other(ward):
    first, second = ward.study("one", endpoint=""), ward.study("two", endpoint="")
    assert ward.advance(first) is Action.WAIT
    assert ward.advance(second) is Action.WAIT
    assert len(ward.runner.launched) == 2


def test_noise_is_found_by_bisection(ward, make, dec):
    """The least noise that fits: a little less does not fit."""
    ward.study(steps="2000")
    spec = ward.spec(ward.key("Study", "one"))
    context = planning.planning_context(ward.platform, spec)
    kind = _noisy_kind(dec)
    found = quoting._least_fitting_noise(ward.platform, spec, kind, context)
    sigma = dec(found.mechanism["noiseMultiplier"])
    assert quoting.fitting_times(ward.platform, context, found) >= 1
    assert not quoting.fitting_times(
        ward.platform, context, kind.with_noise(spec, context, sigma * dec("0.99"))
    )


def _noisy_kind(dec):
    from dataclasses import replace

    from simulated.jobs import SimulatedKind

    from primum.domain.accounting.events import Repeated, SubsampledGaussian

    class Noisy(SimulatedKind):
        levers = {"steps": "{} steps", "absent": "{} of nothing"}  # noqa: RUF012

        def declare(self, study, context):
            return self.with_noise(study, context, dec("2"))

        def with_noise(self, study, context, noise_multiplier):
            plan = super().declare(study, context)
            event = Repeated(
                SubsampledGaussian(noise_multiplier, dec("0.1")), int(study.job.get("steps", 500))
            )
            accesses = tuple(
                replace(a, event=event) if a.step == "job" else a for a in plan.accesses
            )
            mechanism = {**plan.mechanism, "noiseMultiplier": str(noise_multiplier)}
            facts = next(iter(context.datasets.values()))
            epsilon = context.accountant.epsilon(event, study.delta, facts.neighbors)
            return replace(plan, accesses=accesses, epsilon=epsilon, mechanism=mechanism)

    return Noisy()


def test_a_denial_says_what_would_fit(ward, dec):
    """Each offer alone is granted by the ledger itself, and a little more is not."""
    kind = _noisy_kind(dec)
    platform = ward.with_port(kinds=lambda: {"Simulated": kind})
    key = ward.study(privacy={"epsilon": "9.0", "delta": "1e-5"}, steps="600")
    spec = replace(ward.spec(key), job={"steps": 600})
    before = ward.ledger.head()
    found = quoting.what_would_fit(platform, spec)
    assert found[0].startswith("noise multiplier ")
    assert found[1].endswith(")")
    steps = int(found[1].split()[0])
    assert 1 < steps < 600
    context = planning.planning_context(platform, spec)
    for number, fits in ((steps, True), (steps + 1, False)):
        plan = kind.with_noise(replace(spec, job={"steps": number}), context, dec("2"))
        assert quoting._grants(platform, spec, context, plan) is fits
    quote = quoting.quote(platform, spec)
    assert not isinstance(quote, Refusal), quote
    assert quote.alternatives == found
    assert not quote.fits
    assert ward.ledger.head() == before, "an answer spends nothing"
    ward.ledger.freeze(ward.account(), reason="doubt", key="k", actor="steward/ada")
    frozen = quoting.quote(platform, spec)
    assert "is frozen (doubt)" in frozen.refusal
    assert frozen.alternatives == ()


def test_less_than_the_job_kind_can_do_is_not_offered(ward, dec):
    class Picky(type(_noisy_kind(dec))):
        def with_noise(self, study, context, noise_multiplier):
            if int(study.job.get("steps", 500)) < 590:
                raise InvalidValue("steps", "must be many", "few")
            return super().with_noise(study, context, noise_multiplier)

    platform = ward.with_port(kinds=lambda: {"Simulated": Picky()})
    spec = replace(ward.spec(ward.study()), job={"steps": 600})
    assert [text for text in quoting.what_would_fit(platform, spec) if "steps" in text] == []


def test_an_account_that_is_gone_has_nothing_left(ward, make):
    ledger = SimpleNamespace(account=lambda _: None)
    assert quoting._left(ward.with_port(ledger=ledger), make.budget()) == 0


def test_a_registration_happens_once(ward):
    stored = ward.get("PrivacyBudget", "scans")
    from primum.resources import conversion

    class Away:
        def register(self, dataset):
            raise InvalidValue("dataset", "must be there", "nothing")

    found = budgets.registered_dataset(
        ward.with_port(datasets=Away()), conversion.budget_spec(stored)
    )
    assert found.units == 900


def test_a_quote_says_until_when_to_wait(ward, dec):
    """Room that comes with time: nothing is queued or written by asking."""
    unlocking = {"unlocking": {"rule": "PerTime", "days": "10"}}
    spec = dict(ward.get("PrivacyBudget", "scans").spec) | unlocking
    ward.resources.apply(ward.key("PrivacyBudget", "scans"), spec, labels={})
    ward.look_at_budgets()
    study = ward.spec(ward.study())
    before = ward.ledger.head(), ward.ledger.accounts()
    asked = quoting.quote(ward.platform, study)
    assert (ward.ledger.head(), ward.ledger.accounts()) == before
    assert not asked.fits
    assert asked.times > 1, "unlocked or not"
    assert "unlocked" in asked.refusal
    assert asked.waits.startswith("budget scans: wait until 2026-03-")
    until = asked.waits.split("until ")[1][:16].replace(" ", "T")
    ward.clock.advance(10 * 86400)
    assert ward.clock.now() > until
    ward.ledger.schedule(lease_seconds=60.0, actor="loop")
    later = quoting.quote(ward.platform, study)
    assert (later.fits, later.waits, later.refusal) == (True, "", "")


def test_a_quote_counts_the_quotas_of_who_asks(ward, dec):
    quota = {"quotas": [{"per": "Purpose", "epsilon": "0.01"}]}
    spec = dict(ward.get("PrivacyBudget", "scans").spec) | quota
    ward.resources.apply(ward.key("PrivacyBudget", "scans"), spec, labels={})
    ward.look_at_budgets()
    asked = quoting.quote(ward.platform, ward.spec(ward.study()))
    assert not asked.fits
    assert "quota" in asked.refusal
