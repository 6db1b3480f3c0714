"""Reserve a plan's whole cost, and launch its one pipeline run. Both may be repeated at will."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from primum.application import access, planning, quoting
from primum.application.platform import ACTOR, Platform
from primum.domain import names
from primum.domain.budget.entries import (
    ReservationState,
    ReservationView,
    ReserveRequest,
    ResultCode,
)
from primum.domain.canonical import JSON
from primum.domain.conditions import Reason
from primum.domain.study.jobs import PlanningContext
from primum.domain.study.lifecycle import Refusal
from primum.domain.study.plan import Plan
from primum.domain.study.spec import StudySpec
from primum.domain.study.steps import StepContext

LAUNCH = "Launch"
_WAITED_IN_VAIN = {
    ReservationState.DENIED: Reason.DENIED,
    ReservationState.EXPIRED: Reason.QUEUE_EXPIRED,
    ReservationState.WITHDRAWN: Reason.WITHDRAWN,
}
_LEASE_FRESH = 0.9  # Share of a lease up to which it need not be moved.


def reserve_plan(platform: Platform, spec: StudySpec, plan: Plan) -> Refusal | None:
    """Hold the plan's cost on every budget, all or none.

    Returns:
        The final no with what would fit, or ``None`` where the reservations stand or wait.
    """
    context = planning.planning_context(platform, spec)
    asker = quoting.asker_of(platform, spec)
    requests = [
        ReserveRequest(
            reservation_id=names.reservation_id(
                spec.uid, spec.generation, context.datasets[name].account_id
            ),
            account_id=context.datasets[name].account_id,
            study_uid=spec.uid,
            generation=spec.generation,
            study=asker.study,
            purpose=asker.purpose,
            requester=asker.requester,
            group=asker.group,
            event=event,
            blocks=context.datasets[name].blocks,
            unit=plan.unit,
            neighbors=plan.neighbors,
        )
        for name, event in planning.events_by_budget(plan).items()
    ]
    if not requests:
        return None
    result = platform.ledger.reserve(
        requests, lease_seconds=platform.conduct.lease_seconds, actor=ACTOR
    )
    if result.stands:
        return _left_the_queue(platform, spec, requests)
    if result.code is ResultCode.FROZEN:
        message = quoting.frozen(platform, context) or result.message
        return Refusal("Reserve", Reason.BUDGET_FROZEN, message)
    fit = _what_would_fit(platform, spec)
    said = (quoting.shortfall(platform, context, plan) or result.message).rstrip(".")
    return Refusal("Reserve", Reason.DENIED, f"{said}{fit}")


def _left_the_queue(
    platform: Platform, spec: StudySpec, requests: Sequence[ReserveRequest]
) -> Refusal | None:
    """The final no for a claim that waited in vain, or ``None``."""
    for request in requests:
        held = platform.ledger.reservation(request.reservation_id)
        if held is None or held.state not in _WAITED_IN_VAIN:
            continue
        reason = _WAITED_IN_VAIN[held.state]
        said = held.reason.rstrip(".")
        return Refusal("Reserve", reason, f"{said}{_what_would_fit(platform, spec)}")
    return None


def _what_would_fit(platform: Platform, spec: StudySpec) -> str:
    options = quoting.what_would_fit(platform, spec)
    return (
        f". What would fit: {', or '.join(options)}" if options else ". Nothing smaller would fit"
    )


def launch_run(platform: Platform, spec: StudySpec, plan: Plan) -> None:
    """Start the run under its derived id.

    A run that already exists is left alone, a lost one resumes.
    """
    run = names.run_id(spec.uid, spec.generation)
    context = planning.planning_context(platform, spec)
    held = {
        r.account_id: r
        for r in platform.ledger.reservations(study_uid=spec.uid)
        if r.generation == spec.generation
    }
    told = (_step_context(platform, spec, plan, context, held=held, step=s) for s in plan.steps)
    steps = [access.with_credential(platform, step) for step in told]
    platform.evidence.put_fact(LAUNCH, run, {"studyUid": spec.uid, "generation": spec.generation})
    platform.runner.launch(
        run, name=f"{spec.key.namespace}-{spec.key.name}-{spec.generation}", steps=steps
    )


def keep_leases(platform: Platform, reservations: tuple[ReservationView, ...]) -> None:
    """The heartbeat of a live run: its leases move on, once a tenth of their time is over."""
    now, whole = datetime.fromisoformat(platform.clock.now()), platform.conduct.lease_seconds
    for held in reservations:
        left = (datetime.fromisoformat(held.lease_until) - now).total_seconds()
        if left > whole * _LEASE_FRESH:
            continue  # Every move is a durable write, and the loop looks several times a second.
        platform.ledger.extend(
            held.reservation_id,
            fence=held.fence,
            lease_seconds=whole,
            actor=ACTOR,
        )


def _step_context(
    platform: Platform,
    spec: StudySpec,
    plan: Plan,
    context: PlanningContext,
    *,
    held: Mapping[str, ReservationView],
    step: str,
) -> StepContext:
    mine = [item for item in plan.accesses if item.step == step]
    tickets = {
        item.name: access.mint_ticket(
            platform,
            spec,
            item,
            context.datasets[item.budget],
            held[context.datasets[item.budget].account_id],
        )
        for item in mine
    }
    earlier = plan.steps[: plan.steps.index(step)]
    return StepContext(
        step=step,
        entry=platform.kinds()[spec.job_kind].entry(step),
        study=study_mapping(spec),
        run_id=names.run_id(spec.uid, spec.generation),
        outcome_id=names.outcome_id(spec.uid, spec.generation, step),
        plan=plan.to_json(),
        datasets={name: dataset_mapping(context, name) for name in context.datasets},
        synthetic={
            s.release: {"uri": s.uri, "digest": s.digest} for s in context.synthetic.values()
        },
        expectations=spec.expectations,
        audits=[
            {"kind": a.kind, "attack": a.attack, "parameters": dict(a.parameters)}
            for a in spec.audits
        ],
        tickets=tickets,
        upstream={name: names.outcome_id(spec.uid, spec.generation, name) for name in earlier},
        owner={"kind": "Study", "name": spec.key.name},
        resources={
            "workers": spec.workers,
            "gpusPerWorker": spec.gpus_per_worker,
            "workersPerGpu": spec.workers_per_gpu,
            "cpusPerWorker": spec.cpus_per_worker,
        },
    )


def study_mapping(spec: StudySpec) -> dict[str, JSON]:
    """How steps and lineage name a Study generation."""
    return {
        "namespace": spec.key.namespace,
        "name": spec.key.name,
        "uid": spec.uid,
        "generation": spec.generation,
        "kind": spec.job_kind,
    }


def dataset_mapping(context: PlanningContext, name: str) -> dict[str, JSON]:
    """What a step is told about a dataset: declared public facts."""
    facts = context.datasets[name]
    layout = facts.dataset.layout
    return {
        "uri": facts.dataset.uri,
        "unit": facts.dataset.unit.value,
        "units": facts.units,
        "trainUnits": facts.train_units,
        "options": dict(facts.dataset.options),
        "layout": {} if layout is None else layout.to_json(),
        "blocks": list(facts.blocks),
        "disclosures": list(facts.disclosures),
    }
