"""Lineage of a Study as a whole.

START when it is admitted, COMPLETE or FAIL when it has ended, with its gates.

Verdicts, digests and ids only. The outbox keeps one event per run and type, so repeating one is
harmless.
"""

from __future__ import annotations

from primum.application import releasing, verdicts
from primum.application.launching import study_mapping
from primum.application.observing import Scene
from primum.application.platform import Platform, generation_key
from primum.domain import names
from primum.domain.conditions import Condition, Status
from primum.domain.governance.evidence import Verdict
from primum.domain.study import lineage
from primum.domain.study.lineage import GateDecision, ReservationLink, RunState


def study_launched(platform: Platform, scene: Scene) -> None:
    """Tell that a Study was admitted and its pipeline launched."""
    at = platform.clock.now()
    platform.lineage.emit(
        lineage.study_event(
            study_mapping(scene.spec),
            RunState.START,
            at=at,
            reservations=_links(scene),
            inputs=_inputs(platform, scene),
        )
    )
    run = names.run_id(scene.spec.uid, scene.spec.generation)
    platform.lineage.emit(
        lineage.pipeline_event(study_mapping(scene.spec), run, RunState.START, at=at)
    )


def study_ended(platform: Platform, scene: Scene, succeeded: Condition) -> None:
    """Tell how a launched Study ended."""
    at, study = platform.clock.now(), study_mapping(scene.spec)
    good = succeeded.status is Status.TRUE
    state = RunState.COMPLETE if good else RunState.FAIL
    message = "" if good else succeeded.reason.value
    artifact = releasing.released_artifact(scene) if scene.observed.published else None
    run = names.run_id(scene.spec.uid, scene.spec.generation)
    whole = scene.plan is not None and all(step in scene.outcomes for step in scene.plan.steps)
    pipeline = RunState.COMPLETE if whole else RunState.FAIL
    platform.lineage.emit(
        lineage.pipeline_event(study, run, pipeline, at=at, message="" if whole else message)
    )
    platform.lineage.emit(
        lineage.study_event(
            study,
            state,
            at=at,
            reservations=_links(scene),
            gates=_gates(platform, scene),
            inputs=_inputs(platform, scene),
            outputs=(artifact,) if artifact else (),
            message=message,
        )
    )


def _links(scene: Scene) -> list[ReservationLink]:
    return [
        ReservationLink(
            budget="", access="", reservation_id=held.reservation_id, account_id=held.account_id
        )
        for held in scene.reservations
    ]


def _inputs(platform: Platform, scene: Scene) -> list[str]:
    found = []
    for held in scene.reservations:
        account = platform.ledger.account(held.account_id)
        if account is not None:
            found.append(account.terms.dataset_uri)
    return found


def _gates(platform: Platform, scene: Scene) -> list[GateDecision]:
    key = generation_key(scene.spec.uid, scene.spec.generation)
    return [
        GateDecision(
            policy=verdict.policy,
            policy_digest=verdict.policy_digest,
            stage=verdict.stage,
            verdict=Verdict.PASS if verdict.passed else Verdict.FAIL,
            inputs=verdict.inputs,
        )
        for verdict in releasing.stage_verdicts(platform.evidence.fact(verdicts.VERDICTS, key))
    ]
