"""What audits would cost, and which of them could not end in time."""

from __future__ import annotations

from decimal import Decimal

from primum.application import audit_costs, audit_history
from primum.application.audit_costs import AuditCost
from primum.domain.study.spec import AuditSpec

AUDIT = AuditSpec("Membership", "LiRA", {"shadows": 64})


def tried(payload):
    return [
        {
            "attack": item["attack"],
            "shadows": 64,
            "cpuSeconds": "40",
            "elapsedSeconds": "20",
            "cpus": 2,
            "gpuSeconds": "0",
            "memoryBytes": "1000",
            "method": "tried",
            "errorFactor": 3,
        }
        for item in payload["audits"]
    ]


def costs(ward, **changes):
    key = ward.key("Study", "one")
    spec = ward.spec(key)
    plan = ward.evidence.plan(spec.uid, 1)
    given = {"trial": tried, **changes}
    return audit_costs.audit_costs(ward.platform, spec, plan, [AUDIT], **given)


def test_without_a_run_on_record_the_trial_speaks(released):
    (found,) = costs(released)
    assert found == AuditCost("LiRA", Decimal(40), "tried", 64, Decimal(0), 1000, 3, Decimal(20), 2)


def test_runs_on_record_say_more_than_a_trial(released):
    settings = audit_history.settings_digest("Membership", "LiRA", {"shadows": 64})
    for number, seconds in enumerate(("9", "11", "0")):
        result = audit_history.AuditResult(
            uid=f"run-{number}",
            generation=1,
            run=f"run-{number}",
            attack="LiRA",
            settings=settings,
            causes=(),
            verdict="Pass",
            reason="AuditsPassed",
            comparison="FirstRun",
            before="",
            model="",
            seconds=seconds,
            at="2026-03-01T00:00:00Z",
        )
        kind = "AuditResult ward/Release risk"
        released.evidence.put_fact(kind, f"run-{number}/1", result.to_json())
    (found,) = costs(released)
    assert found.seconds == 11
    assert found.method == "the longest of the last 2 runs of these settings on record"


def test_what_nobody_knows_is_not_refused(released):
    def nothing(payload):
        return [{"attack": "LiRA", "method": "unknown: no shadows"}]

    found = costs(released, trial=nothing)
    assert found == (AuditCost("LiRA", None, "unknown: no shadows"),)
    assert audit_costs.too_long(found, seconds=1) == ()
    assert found[0].to_json() == {"attack": "LiRA", "method": "unknown: no shadows"}


def test_what_could_not_end_in_time_is_told_with_a_remedy():
    cost = AuditCost("LiRA", Decimal(1000), "tried", 64)
    assert audit_costs.too_long([cost], seconds=1000) == ()
    (told,) = audit_costs.too_long([cost], seconds=500)
    assert told == (
        "LiRA is estimated at 1000 s, and its deadline is 500 s. "
        "Give it a longer activeDeadlineSeconds, or at most 32 shadows."
    )
    (told,) = audit_costs.too_long([cost], seconds=20)
    assert told.endswith("Give it a longer activeDeadlineSeconds.")


def test_a_deadline_is_about_how_long_it_lasts_where_workers_share_it():
    cost = AuditCost("LiRA", Decimal(1000), "tried", 64, elapsed=Decimal(250), cpus=4)
    assert audit_costs.too_long([cost], seconds=250) == ()
    (told,) = audit_costs.too_long([cost], seconds=125)
    assert told.startswith("LiRA is estimated at 250 s")
    assert told.endswith("at most 32 shadows.")
    assert cost.to_json()["elapsedSeconds"] == "250"


def test_the_trial_knows_what_the_study_asks_for(released):
    seen = []

    def asked(payload):
        seen.append((payload["workers"], payload["cpusPerWorker"], payload["gpusPerWorker"]))
        return tried(payload)

    costs(released, trial=asked)
    key = released.key("Study", "one")
    spec = released.spec(key)
    assert seen == [(spec.workers, spec.cpus_per_worker, spec.gpus_per_worker)]
