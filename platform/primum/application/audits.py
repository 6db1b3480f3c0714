"""AuditRuns: attack an artifact again, on schedule, because something changed, or by hand.

A contradicted claim freezes and revokes. Whatever becomes of a run is written down.

An audit only looks: its access is Inspected inside the steward's zone, costs no epsilon, and its
figures stay Restricted. It runs the Study's own audit step over the Study's recorded artifacts,
under ids of its own.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace

from primum.application import audit_costs, audit_history, planning, releases
from primum.application.access import end_run, mint_audit_ticket, with_credential
from primum.application.audit_history import AuditResult, Ending
from primum.application.launching import LAUNCH, dataset_mapping
from primum.application.platform import Platform, generation_key
from primum.application.ports import RunStatus
from primum.application.reaudits import STOPPED, has_ended
from primum.application.settlement import CONTRADICTION, freeze_account
from primum.domain import names
from primum.domain.budget.entries import ReservationState
from primum.domain.canonical import JSON
from primum.domain.conditions import Condition, ConditionType, Reason, Status
from primum.domain.errors import InvalidValue, NotFound
from primum.domain.governance.evidence import REFUSED, Evidence, Verdict
from primum.domain.governance.regression import Comparison
from primum.domain.names import ResourceKey
from primum.domain.study.jobs import PlanningContext
from primum.domain.study.lifecycle import incidents
from primum.domain.study.plan import Plan, Treatment
from primum.domain.study.spec import AuditSpec, StudySpec
from primum.domain.study.steps import StepContext, StepOutcome, StepStatus
from primum.resources import conversion, status
from primum.resources.stored import StoredResource

STEP = "audit"


def reconcile_audit_run(platform: Platform, stored: StoredResource) -> None:
    """Do what one AuditRun needs now and write its status."""
    if stored.deleting:
        _end(platform, stored)
        platform.runner.stop(names.run_id(stored.uid, stored.generation))
        if not has_ended(stored):
            _note(platform, stored, _known_study(platform, stored), Reason.DELETED)
        platform.resources.remove(stored.key, stored.uid)
        return
    if has_ended(stored):
        return
    try:
        spec = _audited_study(platform, stored)
        plan = _plan_of(platform, spec)
    except (NotFound, InvalidValue) as error:
        _note(platform, stored, _known_study(platform, stored), Reason.INVALID_SPEC)
        _show(platform, stored, Status.FALSE, Reason.INVALID_SPEC, str(error))
        return
    outcome = platform.evidence.outcome(names.outcome_id(stored.uid, stored.generation, STEP))
    if outcome is not None:
        _conclude(platform, stored, spec, outcome)
        return
    stopped = _to_be_stopped(platform, stored)
    if stopped is None:
        _keep_running(platform, stored, spec, plan)
        return
    _end(platform, stored)
    platform.runner.stop(names.run_id(stored.uid, stored.generation))
    # Asked again: it may have recorded its outcome before it was stopped.
    outcome = platform.evidence.outcome(names.outcome_id(stored.uid, stored.generation, STEP))
    if outcome is not None:
        _conclude(platform, stored, spec, outcome)
        return
    reason, message = stopped
    _note(platform, stored, spec, reason)
    verdict: dict[str, JSON] = {"verdict": Verdict.INCONCLUSIVE.value}
    _show(platform, stored, Status.FALSE, reason, message, extra=verdict)


def _seconds_left(platform: Platform, stored: StoredResource) -> float:
    """How long a run may still take; its deadline counts from its creation."""
    limit = conversion.audit_run_spec(stored).active_deadline_seconds
    now = datetime.datetime.fromisoformat(platform.clock.now())
    return limit - (now - datetime.datetime.fromisoformat(stored.created)).total_seconds()


def _known_too_long(platform: Platform, stored: StoredResource, spec: StudySpec) -> str:
    """Why a run is not begun, from what runs of the same settings took; empty where it is.

    What has no run on record is tried out by the worker, before it opens anything.
    """
    audit = conversion.audit_run_spec(stored).audit
    asked = AuditSpec(audit.kind.value, audit.attack, audit.settings())
    subject = audit_history.subject_of(stored, spec)
    known = audit_history.results(platform.evidence, subject)
    cost = audit_costs.recorded(audit_costs.AuditCost(audit.attack, None, ""), asked, known)
    left = int(_seconds_left(platform, stored))
    return "".join(audit_costs.too_long([cost], seconds=left))


def _refuse(platform: Platform, stored: StoredResource, spec: StudySpec, message: str) -> None:
    """End a run that was not begun: Inconclusive, and no run that others are compared with."""
    reason = Reason.ESTIMATE_ABOVE_DEADLINE
    _note(platform, stored, spec, reason)
    verdict: dict[str, JSON] = {"verdict": Verdict.INCONCLUSIVE.value}
    _show(platform, stored, Status.FALSE, reason, message, extra=verdict)


def _to_be_stopped(platform: Platform, stored: StoredResource) -> tuple[Reason, str] | None:
    """Why a run without an outcome is to end now, or ``None``: a newer set, or its deadline."""
    fact = platform.evidence.fact(STOPPED, generation_key(stored.uid, stored.generation))
    if fact is not None:
        return Reason.REPLACED, str(fact["message"])
    limit = conversion.audit_run_spec(stored).active_deadline_seconds
    if _seconds_left(platform, stored) >= 0:
        return None
    found = f"it was stopped after {limit} seconds, as spec.activeDeadlineSeconds says"
    return Reason.DEADLINE_EXCEEDED, f"{found}; an audit that did not end shows nothing"


def _note(
    platform: Platform, stored: StoredResource, spec: StudySpec | None, reason: Reason
) -> None:
    """Write down that a run ended without a verdict of its own."""
    ending = Ending(verdict=Verdict.INCONCLUSIVE.value, reason=reason.value)
    audit_history.record(platform, stored, spec, ending)


def _audited_study(platform: Platform, stored: StoredResource) -> StudySpec:
    """The Study whose artifact is audited.

    Raises:
        NotFound: If the release or the Study does not exist.
    """
    namespace = stored.key.namespace
    made_by = None
    name = stored.spec.get("study")
    if not isinstance(name, str):
        release = platform.resources.get(
            ResourceKey("Release", namespace, str(stored.spec.get("release")))
        )
        if release is None:
            raise NotFound(
                f"{stored.key}: spec.release must name a Release of the namespace; found none"
            )
        made_by = conversion.release_spec(release).study
        name = made_by.name
    found = platform.resources.get(ResourceKey("Study", namespace, name))
    if found is None and made_by is None:
        raise NotFound(
            f"{stored.key}: spec.study must name a Study of the namespace; found {name}, which "
            "does not exist"
        )
    if found is None or (made_by and (made_by.uid, made_by.generation) != _identity(found)):
        raise NotFound(
            f"{stored.key}: the Study {name} does not exist any more; "
            "its artifact cannot be audited again"
        )
    return conversion.study_spec(found)


def _known_study(platform: Platform, stored: StoredResource) -> StudySpec | None:
    try:
        return _audited_study(platform, stored)
    except (NotFound, InvalidValue):
        return None


def _identity(study: StoredResource) -> tuple[str, int]:
    return study.uid, study.generation


def _plan_of(platform: Platform, spec: StudySpec) -> Plan:
    plan = platform.evidence.plan(spec.uid, spec.generation)
    job = platform.evidence.outcome(names.outcome_id(spec.uid, spec.generation, "job"))
    if plan is None or job is None or job.status is not StepStatus.SUCCEEDED:
        raise NotFound(f"{spec.key} has no artifact to audit: its job has not succeeded")
    return plan


def _keep_running(platform: Platform, stored: StoredResource, spec: StudySpec, plan: Plan) -> None:
    run = names.run_id(stored.uid, stored.generation)
    state = platform.runner.status(run)
    if state in (RunStatus.SUCCEEDED, RunStatus.FAILED):
        _end(platform, stored)
        # Asked again: it may have recorded its outcome between the last two questions.
        outcome = platform.evidence.outcome(names.outcome_id(stored.uid, stored.generation, STEP))
        if outcome is not None:
            _conclude(platform, stored, spec, outcome)
            return
        message = "the audit ended without an outcome"
        _note(platform, stored, spec, Reason.STEP_FAILED)
        _show(platform, stored, Status.FALSE, Reason.STEP_FAILED, message)
        return
    if state is RunStatus.RUNNING:
        return
    begun = platform.evidence.fact(LAUNCH, run) is not None
    refused = "" if begun else _known_too_long(platform, stored, spec)
    if refused:
        _refuse(platform, stored, spec, refused)
        return
    platform.compute.warm()
    platform.evidence.put_fact(
        LAUNCH, run, {"studyUid": stored.uid, "generation": stored.generation}
    )
    context = with_credential(platform, _step_context(platform, stored, spec, plan))
    platform.runner.launch(run, name=f"{stored.key.namespace}-{stored.key.name}", steps=[context])
    _show(platform, stored, Status.UNKNOWN, Reason.RUN_CREATED, "")


def _step_context(
    platform: Platform, stored: StoredResource, spec: StudySpec, plan: Plan
) -> StepContext:
    context = planning.planning_context(platform, spec)
    own = _own_plan(stored, plan)
    audit = conversion.audit_run_spec(stored).audit
    asked: dict[str, JSON] = {
        "kind": audit.kind.value,
        "attack": audit.attack,
        "parameters": audit.settings(),
    }
    return StepContext(
        step=STEP,
        entry=platform.kinds()[spec.job_kind].entry(STEP),
        study={
            "namespace": spec.key.namespace,
            "name": spec.key.name,
            "uid": stored.uid,
            "generation": stored.generation,
            "kind": spec.job_kind,
            "audits": generation_key(spec.uid, spec.generation),
        },
        run_id=names.run_id(stored.uid, stored.generation),
        outcome_id=names.outcome_id(stored.uid, stored.generation, STEP),
        plan=own.to_json(),
        datasets={name: dataset_mapping(context, name) for name in context.datasets},
        synthetic={
            item.release: {"uri": item.uri, "digest": item.digest}
            for item in context.synthetic.values()
        },
        expectations=(),
        audits=[asked],
        tickets=_tickets(platform, stored, own, context),
        upstream={"job": names.outcome_id(spec.uid, spec.generation, "job")},
        owner={"kind": stored.key.kind, "name": stored.key.name},
        resources={
            # One GPU trains all shadows; CPUs share them.
            "workers": 1 if spec.gpus_per_worker else spec.workers,
            "gpusPerWorker": spec.gpus_per_worker,
            "cpusPerWorker": spec.cpus_per_worker,
            "seconds": conversion.audit_run_spec(stored).active_deadline_seconds,
        },
    )


def _own_plan(stored: StoredResource, plan: Plan) -> Plan:
    """The Study's plan as this run sees it: its audit accesses only, under this run's identity."""
    accesses = tuple(
        replace(a, treatment=Treatment.INSPECTED) for a in plan.accesses if a.step == STEP
    )
    return replace(
        plan, study_uid=stored.uid, generation=stored.generation, accesses=accesses, steps=(STEP,)
    )


def _tickets(
    platform: Platform, stored: StoredResource, plan: Plan, context: PlanningContext
) -> dict[str, str]:
    return {
        access.name: mint_audit_ticket(
            platform,
            uid=stored.uid,
            generation=stored.generation,
            access=access,
            facts=context.datasets[access.budget],
        )
        for access in plan.accesses
    }


def _conclude(
    platform: Platform, stored: StoredResource, spec: StudySpec, outcome: StepOutcome
) -> None:
    _end(platform, stored)
    evidence = tuple(platform.evidence.evidence(stored.uid, stored.generation))
    if outcome.status is not StepStatus.SUCCEEDED:
        _note(platform, stored, spec, Reason.STEP_FAILED)
        _show(platform, stored, Status.FALSE, Reason.STEP_FAILED, outcome.message)
        return
    failed = incidents(evidence)
    refused = _refused(evidence)
    if refused and not failed:  # The self-test ran whatever became of the attack.
        _refuse(platform, stored, spec, refused)
        return
    if failed:
        _incident(platform, stored, spec, failed)
    verdict = _overall(evidence)
    reason = {Verdict.PASS: Reason.AUDITS_PASSED, Verdict.FAIL: Reason.CLAIM_EXCEEDED}.get(
        verdict, Reason.AUDIT_INCONCLUSIVE
    )
    good = Status.TRUE if verdict is Verdict.PASS else Status.FALSE
    ending = Ending(verdict.value, reason.value, evidence, outcome.body_seconds)
    result = audit_history.record(platform, stored, spec, ending)
    extra: dict[str, JSON] = {"verdict": verdict.value, "comparison": result.comparison}
    if evidence:
        extra["evidence"] = evidence[-1].digest
    _show(
        platform,
        stored,
        good,
        reason,
        outcome.message,
        also=_compared(stored, result),
        extra=extra,
    )


def _refused(evidence: Sequence[Evidence]) -> str:
    """Why the worker did not begin the attack, in its words; empty where it did."""
    for item in evidence:
        reasons = item.public.get("reasons")
        if item.public.get(REFUSED) and isinstance(reasons, list | tuple):
            return "; ".join(str(reason) for reason in reasons)
    return ""


_GOT_WORSE = "the attack does better than the run before it, by more than both 95 % intervals allow"
_COMPARED = {
    Comparison.FIRST_RUN: (Status.TRUE, Reason.FIRST_RUN, "there is no earlier run of this attack"),
    Comparison.UNCHANGED: (
        Status.TRUE,
        Reason.UNCHANGED,
        "its interval meets that of the run before",
    ),
    Comparison.BETTER: (Status.TRUE, Reason.BETTER, "the attack does worse than the run before it"),
    Comparison.WORSE: (Status.FALSE, Reason.WORSE, _GOT_WORSE),
    Comparison.NOT_COMPARABLE: (
        Status.UNKNOWN,
        Reason.NOT_COMPARABLE,
        "one of the two runs left no figure with an interval",
    ),
}


def _compared(stored: StoredResource, result: AuditResult) -> Condition:
    """The comparison as a condition; nobody is frozen for it, and somebody should look."""
    state, reason, message = _COMPARED[Comparison(result.comparison)]
    return Condition(
        ConditionType.COMPARED, state, reason, message, observed_generation=stored.generation
    )


def _end(platform: Platform, stored: StoredResource) -> None:
    run = names.run_id(stored.uid, stored.generation)
    if platform.evidence.fact(LAUNCH, run) is not None:
        end_run(platform.evidence, run)


def _incident(
    platform: Platform, stored: StoredResource, spec: StudySpec, failed: Sequence[Evidence]
) -> None:
    """A claim contradicted after release.

    Freeze every account the Study touched, and revoke what it released.
    """
    found = ", ".join(item.name for item in failed)
    fact = generation_key(spec.uid, spec.generation)
    if platform.evidence.fact(CONTRADICTION, fact) is None:  # What is not out yet never gets out.
        message = f"the claim was contradicted by {found} of {stored.key}"
        platform.evidence.put_fact(CONTRADICTION, fact, {"message": message})
    for held in platform.ledger.reservations(study_uid=spec.uid):
        if held.state is ReservationState.DENIED:
            continue
        reason = f"{stored.key}: the claim of {spec.key} was contradicted by {found}"
        key = names.derived_uuid("freeze", stored.uid, held.account_id)
        freeze_account(platform.ledger, held.account_id, reason=reason, key=key)
    name = stored.spec.get("release") or spec.endpoint or spec.dataset_release
    if name:
        released = ResourceKey("Release", stored.key.namespace, str(name))
        releases.revoke(platform, released, f"contradicted by audit {stored.key.name}: {found}")


def _overall(evidence: Sequence[Evidence]) -> Verdict:
    verdicts = {item.verdict for item in evidence if item.verdict is not None}
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    return Verdict.PASS if verdicts == {Verdict.PASS} else Verdict.INCONCLUSIVE


def _show(
    platform: Platform,
    stored: StoredResource,
    state: Status,
    reason: Reason,
    message: str,
    *,
    also: Condition | None = None,
    extra: Mapping[str, JSON] | None = None,
) -> None:
    condition = Condition(
        ConditionType.SUCCEEDED, state, reason, message, observed_generation=stored.generation
    )
    found = (condition,) if also is None else (also, condition)
    shown = status.with_conditions(stored, found, now=platform.clock.now()) | dict(extra or {})
    if shown != dict(stored.status):
        platform.resources.set_status(stored.key, stored.uid, shown)
