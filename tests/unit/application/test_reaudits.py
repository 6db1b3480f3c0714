"""What was released is audited again: when, why, how often at once, and what is missed."""

from __future__ import annotations

import pytest
from simulated.jobs import ATTACK

from primum.application import access, audit_history, audits, reaudits, releases
from primum.application.ports import RunStatus
from primum.domain.errors import Conflict

DAY = 86400.0
NOON = "0 12 * * *"


def reconcile(ward):
    releases.reconcile_release(ward.platform, ward.get("Release", "risk"))


def release(ward, schedule="", **policy):
    """The Study ``one`` released as ``risk``, looked at once."""
    wanted = {"endpoint": "risk"}
    if schedule:
        wanted["auditSchedule"] = schedule
    if policy:
        wanted["auditPolicy"] = policy
    key = ward.study(release=wanted)
    ward.finish(key)
    reconcile(ward)
    return key


def runs(ward):
    return [item.key.name for item in ward.resources.list("AuditRun")]


def shown(ward):
    return ward.shown(ward.key("Release", "risk"), "Audited")


def status(ward):
    return ward.get("Release", "risk").status


def finish_runs(ward):
    """Bring every AuditRun to its end, and show it on the Release."""
    for _ in range(2):
        for item in ward.resources.list("AuditRun"):
            audits.reconcile_audit_run(ward.platform, ward.resources.get(item.key))
        ward.runner.progress()
    for item in ward.resources.list("AuditRun"):
        audits.reconcile_audit_run(ward.platform, ward.resources.get(item.key))
    reconcile(ward)


def begin_one(ward):
    """One day later the schedule's audits run."""
    ward.pass_time(DAY)
    reconcile(ward)
    (name,) = [item for item in runs(ward) if not reaudits.has_ended(ward.get("AuditRun", item))]
    audits.reconcile_audit_run(ward.platform, ward.get("AuditRun", name))
    return name


def with_library(ward, text):
    return ward.with_port(attack_library=lambda: text)


# Causes.


def test_without_a_schedule_and_a_policy_nothing_is_audited_again(released):
    released.pass_time(400 * DAY)
    reconcile(released)
    assert runs(released) == []
    assert shown(released) == ""


def test_the_schedule_says_why_and_when_next(ward):
    release(ward, NOON)
    assert shown(ward) == "Unknown Pending: none was due yet"
    assert status(ward)["nextAudit"] == "2026-03-01T12:00:00Z"
    ward.pass_time(DAY)
    reconcile(ward)
    assert runs(ward) == ["risk-202603011200-0"]
    run = ward.get("AuditRun", "risk-202603011200-0")
    assert run.spec["causes"] == ["Schedule"]
    assert status(ward)["lastAuditCauses"] == ["Schedule"]
    assert shown(ward).startswith("Unknown RunCreated: 0 of 1 audits ended (Schedule)")
    finish_runs(ward)
    assert shown(ward) == "True AuditsPassed: 1 of 1 audits ended (Schedule)"


def test_a_change_of_the_attack_library_begins_audits_once(ward):
    release(ward, triggers=["AttackLibraryChange"])
    changed = with_library(ward, "sha256:new")
    for _ in range(3):
        releases.reconcile_release(changed, ward.get("Release", "risk"))
    (name,) = runs(ward)
    assert name.startswith("risk-library-")
    assert ward.get("AuditRun", name).spec["causes"] == ["AttackLibraryChange"]


def test_a_withdrawn_consent_begins_audits(ward):
    release(ward, triggers=["ConsentWithdrawal"])
    ward.evidence.put_fact(access.WITHDRAWAL, "elsewhere", {"account": "another", "mark": "m"})
    reconcile(ward)
    assert runs(ward) == []
    ward.evidence.put_fact(access.WITHDRAWAL, "here", {"account": ward.account(), "mark": "n"})
    reconcile(ward)
    (name,) = runs(ward)
    assert ward.get("AuditRun", name).spec["causes"] == ["ConsentWithdrawal"]


def test_what_another_study_spends_begins_audits_where_that_was_asked_for(ward):
    release(ward, triggers=["LedgerChange"])
    finish_runs(ward)
    assert runs(ward) == []
    ward.finish(ward.study("two", endpoint="", steps="1"))
    reconcile(ward)
    (name,) = runs(ward)
    assert name.startswith("risk-ledger-")
    finish_runs(ward)  # What audits themselves look at is no change.
    assert runs(ward) == [name]


def test_a_changed_policy_is_a_change_of_what_the_ledger_is_held_to(ward):
    rule = {
        "name": "one",
        "stage": "Release",
        "expression": "size(study.audits) > 0",
        "message": "No.",
    }
    key = ward.key("GatePolicy", "ours")
    ward.resources.apply(key, {"rules": [rule]}, labels={})
    study = ward.study(
        policy="ours", release={"endpoint": "risk", "auditPolicy": {"triggers": ["LedgerChange"]}}
    )
    ward.finish(study)
    reconcile(ward)
    ward.resources.apply(key, {"rules": [{**rule, "name": "two"}]}, labels={})
    reconcile(ward)
    assert len(runs(ward)) == 1


def test_another_model_under_the_same_name_is_audited(ward):
    first = release(ward, triggers=["ModelChange"])
    stored = ward.get("Release", "risk")
    ward.resources.request_deletion(stored.key)
    reconcile(ward)
    ward.resources.request_deletion(first)
    ward.advance(first)
    ward.finish(
        ward.study(
            "two",
            steps="2",
            release={"endpoint": "risk", "auditPolicy": {"triggers": ["ModelChange"]}},
        )
    )
    reconcile(ward)
    (name,) = runs(ward)
    assert name.startswith("risk-model-")


def test_two_causes_at_once_are_one_set(ward):
    release(ward, NOON)
    ward.pass_time(DAY)
    releases.reconcile_release(with_library(ward, "sha256:new"), ward.get("Release", "risk"))
    (name,) = runs(ward)
    assert ward.get("AuditRun", name).spec["causes"] == ["Schedule", "AttackLibraryChange"]


def test_what_was_not_watched_before_is_not_known_to_have_changed(ward):
    release(ward, triggers=["ModelChange"])
    stored = ward.get("Release", "risk")
    spec = dict(stored.spec) | {"auditPolicy": {"triggers": ["AttackLibraryChange"]}}
    ward.resources.apply(stored.key, spec, labels={}, owner=stored.owner)
    reconcile(ward)
    assert runs(ward) == []


def test_a_lost_race_takes_what_the_other_wrote(ward):
    release(ward, NOON)
    ward.pass_time(DAY)
    stored = ward.get("Release", "risk")
    reconcile(ward)
    sets = reaudits.audit_sets(ward.evidence, stored.key)
    kept = ward.evidence.put_fact

    def late(kind, key, value):
        if kind.startswith("AuditSet") and value["at"] != sets[-1].at:
            raise Conflict("other content stands")
        kept(kind, key, value)

    older = type("Older", (), {})()
    for name in ("fact", "outcome", "evidence", "plan"):
        setattr(older, name, getattr(ward.evidence, name))
    older.put_fact = late
    asked = []

    def facts(kind):
        found = ward.evidence.facts(kind)
        asked.append(kind)
        return found[:-1] if kind.startswith("AuditSet") and asked.count(kind) == 1 else found

    older.facts = facts
    ward.pass_time(1.0)
    releases.reconcile_release(ward.with_port(evidence=older), stored)
    assert runs(ward) == ["risk-202603011200-0"]


def test_a_study_that_is_gone_is_said_not_passed_over(ward):
    key = release(ward, NOON)
    ward.resources.remove(key, ward.resources.get(key).uid)
    ward.pass_time(DAY)
    reconcile(ward)
    assert shown(ward).startswith("False NothingToAudit")


# How many at once, how late, how long.


def test_forbidden_audits_wait_and_the_due_times_between_are_counted(ward):
    release(ward, NOON, concurrencyPolicy="Forbid", activeDeadlineSeconds=604_800)
    first = begin_one(ward)
    for _ in range(3):
        ward.pass_time(DAY)
        reconcile(ward)
    assert runs(ward) == [first]
    finish_runs(ward)
    assert runs(ward) == [first, "risk-202603041200-0"]
    assert (status(ward)["missedAudits"], status(ward)["lastMissedAudit"]) == (
        2,
        "2026-03-03T12:00:00Z",
    )


def test_replaced_audits_are_stopped_and_say_so(ward):
    release(ward, NOON, concurrencyPolicy="Replace", activeDeadlineSeconds=604_800)
    first = begin_one(ward)
    second = begin_two(ward, first)
    audits.reconcile_audit_run(ward.platform, ward.get("AuditRun", first))
    key = ward.key("AuditRun", first)
    assert ward.shown(key, "Succeeded") == (
        f"False Replaced: a newer set of audits began: {second}"
    )
    assert ward.get("AuditRun", first).status["verdict"] == "Inconclusive"


def begin_two(ward, first):
    ward.pass_time(DAY)
    reconcile(ward)
    (second,) = [name for name in runs(ward) if name != first]
    return second


def test_allowed_audits_run_side_by_side(ward):
    release(ward, NOON, concurrencyPolicy="Allow", activeDeadlineSeconds=604_800)
    first = begin_one(ward)
    begin_two(ward, first)
    audits.reconcile_audit_run(ward.platform, ward.get("AuditRun", first))
    assert not reaudits.has_ended(ward.get("AuditRun", first))
    finish_runs(ward)
    assert [ward.get("AuditRun", name).status["verdict"] for name in runs(ward)] == ["Pass"] * 2


def test_what_is_too_late_is_missed_and_counted(ward):
    release(ward, NOON, startingDeadlineSeconds=600)
    ward.pass_time(3 * DAY)
    reconcile(ward)
    assert runs(ward) == []
    assert status(ward)["missedAudits"] == 3
    assert shown(ward) == "Unknown Pending: none was due yet; 3 due times were missed"
    ward.pass_time(DAY / 2 + 300)
    reconcile(ward)
    assert runs(ward) == ["risk-202603041200-0"]


def test_an_audit_that_takes_too_long_is_stopped_and_shows_nothing(ward):
    release(ward, NOON, activeDeadlineSeconds=600)
    name = begin_one(ward)
    ward.pass_time(599.0)
    audits.reconcile_audit_run(ward.platform, ward.get("AuditRun", name))
    assert not reaudits.has_ended(ward.get("AuditRun", name))
    ward.pass_time(2.0)
    audits.reconcile_audit_run(ward.platform, ward.get("AuditRun", name))
    key = ward.key("AuditRun", name)
    assert ward.shown(key, "Succeeded").startswith(
        "False DeadlineExceeded: it was stopped after 600"
    )
    assert ward.get("AuditRun", name).status["verdict"] == "Inconclusive"
    assert not ward.runner.progress()
    reconcile(ward)
    assert shown(ward).startswith("False AuditInconclusive")


def test_an_audit_whose_like_took_longer_than_its_deadline_is_not_begun(ward):
    release(ward, NOON, activeDeadlineSeconds=600)
    asked = ward.get("Study", "one").spec["audits"][0]
    parameters = {name: v for name, v in asked.items() if name not in ("kind", "attack")}
    result = audit_history.AuditResult(
        uid="earlier",
        generation=1,
        run="earlier",
        attack=asked["attack"],
        settings=audit_history.settings_digest(asked["kind"], asked["attack"], parameters),
        causes=(),
        verdict="Pass",
        reason="AuditsPassed",
        comparison="FirstRun",
        before="",
        model="",
        seconds="601",
        at="2026-03-01T00:00:00Z",
    )
    ward.evidence.put_fact("AuditResult ward/Release risk", "earlier/1", result.to_json())
    ward.pass_time(DAY)
    reconcile(ward)
    name = runs(ward)[-1]
    audits.reconcile_audit_run(ward.platform, ward.get("AuditRun", name))
    told = ward.shown(ward.key("AuditRun", name), "Succeeded")
    assert told.startswith("False EstimateAboveDeadline: LiRA is estimated at 601")
    assert "Give it a longer activeDeadlineSeconds" in told
    assert ward.get("AuditRun", name).status["verdict"] == "Inconclusive"
    assert not ward.runner.progress()
    reconcile(ward)
    assert shown(ward).startswith("False AuditInconclusive")


def test_an_outcome_that_came_in_time_counts_after_the_deadline(ward):
    release(ward, NOON, activeDeadlineSeconds=600)
    name = begin_one(ward)
    ward.runner.progress()
    ward.pass_time(700.0)
    audits.reconcile_audit_run(ward.platform, ward.get("AuditRun", name))
    assert ward.get("AuditRun", name).status["verdict"] == "Pass"


def test_ended_audits_beyond_the_limit_go_and_what_they_found_stays(ward):
    release(ward, NOON, historyLimit=2)
    for _ in range(4):
        begin_one(ward)
        finish_runs(ward)
    for item in ward.resources.list("AuditRun"):
        audits.reconcile_audit_run(ward.platform, ward.resources.get(item.key))
    assert runs(ward) == ["risk-202603031200-0", "risk-202603041200-0"]
    found = audit_history.results(ward.evidence, "ward/Release risk")
    assert [item.verdict for item in found] == ["Pass"] * 4
    assert all(ward.evidence.evidence(item.uid, item.generation) for item in found)
    reconcile(ward)
    assert len(runs(ward)) == 2


def test_a_deleted_audit_is_written_down_and_not_made_again(ward):
    release(ward, NOON)
    name = begin_one(ward)
    ward.resources.request_deletion(ward.key("AuditRun", name))
    audits.reconcile_audit_run(ward.platform, ward.get("AuditRun", name))
    reconcile(ward)
    assert runs(ward) == []
    (found,) = audit_history.results(ward.evidence, "ward/Release risk")
    assert (found.verdict, found.reason) == ("Inconclusive", "Deleted")
    assert shown(ward).startswith("False AuditInconclusive")


# Compared with the run before.


def test_the_first_audit_is_compared_with_the_studys_own(ward):
    release(ward, NOON)
    name = begin_one(ward)
    finish_runs(ward)
    found = ward.shown(ward.key("AuditRun", name), "Compared")
    assert found.startswith("Unknown NotComparable")  # The simulated attack has no interval.
    (result,) = audit_history.results(ward.evidence, "ward/Release risk")
    assert result.before == ""


@pytest.mark.parametrize(
    ("before", "now", "word"),
    [
        (("0.50", "0.60"), ("0.61", "0.70"), "Worse"),
        (("0.50", "0.60"), ("0.59", "0.70"), "Unchanged"),
        (("0.50", "0.60"), ("0.40", "0.49"), "Better"),
    ],
)
def test_a_figure_that_moved_is_one_word(ward, make, before, now, word):
    release(ward, NOON)
    name = begin_one(ward)
    first = record(ward, make, name, before)
    assert first.comparison == "NotComparable"  # The Study's own run left no interval.
    stored = ward.get("AuditRun", name)
    later = ward.resources.apply(ward.key("AuditRun", "later"), dict(stored.spec), labels={})[0]
    second = record(ward, make, later.key.name, now)
    assert (second.comparison, second.before) == (word, f"{first.uid}/1")
    assert audits._compared(stored, second).reason == word


def record(ward, make, name, interval):
    stored = ward.get("AuditRun", name)
    area = {"estimate": interval[0], "lower": interval[0], "upper": interval[1]}
    evidence = make.evidence(
        "Membership",
        ATTACK,
        study_uid=stored.uid,
        subject="sha256:model",
        restricted={"auc": area},
    )
    outcome = ward.evidence
    outcome.record(_outcome(stored, evidence), (evidence,), study_uid=stored.uid, generation=1)
    ending = audit_history.Ending("Pass", "AuditsPassed", (evidence,), "3")
    spec = ward.spec(ward.key("Study", "one"))
    return audit_history.record(ward.platform, stored, spec, ending)


def _outcome(stored, evidence):
    from primum.domain import names
    from primum.domain.study.steps import StepOutcome, StepStatus

    return StepOutcome(
        outcome_id=names.outcome_id(stored.uid, 1, "audit"),
        step="audit",
        status=StepStatus.SUCCEEDED,
        reason="StepSucceeded",
        message="",
        receipts=(),
        evidence=(evidence.digest,),
        artifacts=(),
        body_seconds="3",
    )


def test_an_attack_that_does_better_shows_on_the_release_and_freezes_nobody(ward, make):
    release(ward, NOON)
    name = begin_one(ward)
    record(ward, make, name, ("0.5", "0.6"))
    ward.pass_time(DAY)
    audits.reconcile_audit_run(ward.platform, ward.get("AuditRun", name))
    reconcile(ward)
    (second,) = [item for item in runs(ward) if item != name]
    record(ward, make, second, ("0.7", "0.8"))
    reconcile(ward)
    assert shown(ward).startswith(f"False Worse: {ATTACK} does better than before")
    assert not ward.ledger.account(ward.account()).frozen
    assert ward.publisher.published


def test_a_run_that_vanished_is_written_down(ward):
    release(ward, NOON)
    name = begin_one(ward)
    ward.runner.status = lambda run: RunStatus.FAILED
    audits.reconcile_audit_run(ward.platform, ward.get("AuditRun", name))
    (found,) = audit_history.results(ward.evidence, "ward/Release risk")
    assert found.reason == "StepFailed"


def test_what_nobody_vouches_for_any_more_keeps_no_shadows(ward):
    release(ward)
    gone = []
    platform = ward.with_port(forget_shadows=gone.append)
    releases.revoke(platform, ward.key("Release", "risk"), "a complaint")
    releases.reconcile_release(platform, ward.get("Release", "risk"))
    assert gone == [ward.get("Study", "one").uid]


def test_serving_stops_even_if_shadows_cannot_be_let_go(ward):
    release(ward)

    def stuck(study):
        raise PermissionError("not ours")

    platform = ward.with_port(forget_shadows=stuck)
    releases.revoke(platform, ward.key("Release", "risk"), "a complaint")
    with pytest.raises(PermissionError):
        releases.reconcile_release(platform, ward.get("Release", "risk"))
    assert not ward.publisher.published
    assert ward.shown(ward.key("Release", "risk"), "Ready") == "False Revoked: a complaint"


def test_an_audit_of_a_study_that_was_deleted_belongs_to_the_release(ward):
    ward.finish(ward.study())
    key = ward.key("AuditRun", "mine")
    audit = {"kind": "Membership", "attack": ATTACK}
    ward.resources.apply(key, {"study": "one", "audit": audit}, labels={})
    ward.resources.request_deletion(key)
    audits.reconcile_audit_run(ward.platform, ward.resources.get(key))
    (found,) = audit_history.results(ward.evidence, "ward/Release risk")
    assert (found.run, found.reason, found.causes) == ("mine", "Deleted", ())
