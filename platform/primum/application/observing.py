"""Observe a Study.

Read every fact about its generation from stores and runner, into one value for ``decide``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from primum.application import devices, planning, verdicts
from primum.application.launching import LAUNCH
from primum.application.platform import Platform, generation_key
from primum.application.ports import Dossier, RunStatus
from primum.application.released import CERTIFICATE
from primum.application.settlement import INCIDENT
from primum.domain import names
from primum.domain.budget.entries import ReservationState, ReservationView
from primum.domain.canonical import JSON
from primum.domain.conditions import Reason
from primum.domain.governance.evidence import Evidence
from primum.domain.study.lifecycle import Observed, Refusal, RunState
from primum.domain.study.plan import Plan
from primum.domain.study.spec import StudySpec
from primum.domain.study.steps import StepOutcome
from primum.resources import conversion
from primum.resources.stored import StoredResource

PUBLISHED = "Published"
_FACTS = (planning.REFUSAL, INCIDENT, verdicts.VERDICTS, CERTIFICATE, PUBLISHED)
_NOT_RUNNING = (RunState.NOT_LAUNCHED, RunState.LOST)
_OVER = (RunState.ENDED, RunState.LOST)
_NEVER_HELD = (
    ReservationState.DENIED,
    ReservationState.WITHDRAWN,
    ReservationState.EXPIRED,
)


@dataclass(frozen=True, slots=True)
class Scene:
    """A Study as observed.

    The spec, the facts for ``decide``, and the records that the next action needs.
    """

    stored: StoredResource
    spec: StudySpec
    plan: Plan | None
    reservations: tuple[ReservationView, ...]
    outcomes: Mapping[str, StepOutcome]
    evidence: tuple[Evidence, ...]
    facts: Mapping[str, Mapping[str, JSON]]
    observed: Observed

    @property
    def asked_for_name(self) -> bool:
        """Whether it is written down that it asks for its release's name, if it has to be."""
        settled = self.plan is not None or self.observed.refusal is not None
        return settled or all(kind in self.facts for kind in planning.name_claims(self.spec))


def observe(platform: Platform, stored: StoredResource) -> Scene:
    """Read everything about a Study's current generation."""
    spec = conversion.study_spec(stored)
    known = _dossier(platform, spec)
    run = _run_state(platform, spec, known)
    if run in _OVER:  # Whatever it recorded is among what is read after its end.
        known = _dossier(platform, spec)
    plan, facts = known.plan, known.facts
    refusal = _refusal(facts)
    reservations = _reservations(platform, spec)
    certificate, published = facts.get(CERTIFICATE), facts.get(PUBLISHED)
    observed = Observed(
        generation=spec.generation,
        deleting=bool(stored.deleting),
        wants_release=bool(spec.endpoint or spec.dataset_release),
        blocked=_blocked(platform, spec) if plan is None and refusal is None else None,
        refusal=refusal,
        plan=plan,
        headline=_headline(platform, spec, plan),
        reservations=reservations,
        waiting=_waiting(platform, reservations),
        devices=devices.missing(platform, spec) if run in _NOT_RUNNING and plan else "",
        budgets_needed=len(planning.events_by_budget(plan)) if plan else 0,
        run=run,
        outcomes=known.outcomes,
        evidence=known.evidence,
        frozen=INCIDENT in facts,
        claim_void=verdicts.claim_of(spec, plan).void_edges if plan else (),
        judgment=verdicts.judgment_of(facts.get(verdicts.VERDICTS)),
        certified=str(certificate["digest"]) if certificate else "",
        published=str(published["url"]) if published else "",
    )
    return Scene(
        stored=stored,
        spec=spec,
        plan=plan,
        reservations=reservations,
        outcomes=known.outcomes,
        evidence=known.evidence,
        facts=facts,
        observed=observed,
    )


def _dossier(platform: Platform, spec: StudySpec) -> Dossier:
    key = generation_key(spec.uid, spec.generation)
    wanted = dict.fromkeys(_FACTS, key) | {LAUNCH: names.run_id(spec.uid, spec.generation)}
    wanted |= dict.fromkeys(planning.name_claims(spec), spec.uid)
    return platform.evidence.dossier(spec.uid, spec.generation, facts=wanted)


def _reservations(platform: Platform, spec: StudySpec) -> tuple[ReservationView, ...]:
    """This generation's reservations; what was refused, or ended in the queue, holds nothing."""
    held = platform.ledger.reservations(study_uid=spec.uid)
    return tuple(
        item
        for item in held
        if item.generation == spec.generation and item.state not in _NEVER_HELD
    )


def _waiting(platform: Platform, reservations: Sequence[ReservationView]) -> str:
    """Why a claim waits and how long it may, from the first budget that lets it wait."""
    queued = [item for item in reservations if item.state is ReservationState.QUEUED]
    for item in queued:
        seen = platform.ledger.outlook(item.account_id, item.event, blocks=item.blocks, asker=item)
        if not seen.now:
            when = f" Enough is unlocked: {seen.unlocks}." if seen.unlocks else ""
            return f"waits until {item.lease_until} at most. {seen.reason}{when}"
    return f"waits until {queued[0].lease_until} at most, for its turn" if queued else ""


def _refusal(facts: Mapping[str, Mapping[str, JSON]]) -> Refusal | None:
    fact = facts.get(planning.REFUSAL)
    if fact is None:
        return None
    return Refusal(str(fact["stage"]), Reason(str(fact["reason"])), str(fact["message"]))


def _blocked(platform: Platform, spec: StudySpec) -> Refusal | None:
    try:
        planning.planning_context(platform, spec)
    except planning.Blocked as blocked:
        return blocked.refusal
    except Exception:  # noqa: BLE001 - any other fault is the planner's to report
        return None
    return None


def _headline(platform: Platform, spec: StudySpec, plan: Plan | None) -> str:
    kind = platform.kinds().get(spec.job_kind)
    return kind.headline(plan) if plan is not None and kind is not None else ""


def _run_state(platform: Platform, spec: StudySpec, known: Dossier) -> RunState:
    if LAUNCH not in known.facts:
        return RunState.NOT_LAUNCHED
    match platform.runner.status(names.run_id(spec.uid, spec.generation)):
        case RunStatus.RUNNING:
            return RunState.RUNNING
        case RunStatus.SUCCEEDED | RunStatus.FAILED:
            return RunState.ENDED
        case _:
            return RunState.LOST
