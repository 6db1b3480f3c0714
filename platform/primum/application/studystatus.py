"""A Study's status: a projection of plan, ledger, outcomes and Public evidence.

Never a source of truth.
"""

from __future__ import annotations

from collections.abc import Sequence

from primum.application.observing import PUBLISHED, Scene
from primum.application.platform import Platform
from primum.application.released import CERTIFICATE
from primum.domain.budget.entries import ReservationState
from primum.domain.canonical import JSON
from primum.domain.conditions import STAGE_OF, Condition, ConditionType, Stage, Status
from primum.domain.governance.headlines import public_headline
from primum.resources.status import with_conditions


def study_status(platform: Platform, scene: Scene, found: Sequence[Condition]) -> dict[str, JSON]:
    """What ``kubectl get`` and ``primum describe`` show.

    Args:
        platform: The ports.
        scene: The Study as observed.
        found: The conditions that ``decide`` made.

    Returns:
        The status mapping; only Public values.
    """
    status = with_conditions(scene.stored, found, now=platform.clock.now())
    status["stage"] = _stage(found)
    plan = scene.plan
    if plan is not None:
        status |= {
            "planDigest": plan.digest,
            "headline": scene.observed.headline,
            "epsilonClaimed": str(plan.epsilon),
            "epsilonSpent": _spent(scene),
        }
    public = _public(scene)
    if public:
        status["public"] = public
    certificate = scene.facts.get(CERTIFICATE)
    if certificate is not None:
        status |= {
            "certificateUri": str(certificate["uri"]),
            "certificateDigest": str(certificate["digest"]),
        }
    published = scene.facts.get(PUBLISHED)
    if published is not None:
        status["endpointUrl"] = str(published["url"])
    return status


def _stage(found: Sequence[Condition]) -> str:
    """The stage of the first condition that failed, else of the last one that is known."""
    shown = [c for c in found if c.type in STAGE_OF and c.status is not Status.UNKNOWN]
    ended = next((c for c in found if c.type is ConditionType.SUCCEEDED), None)
    if ended is None or ended.status is not Status.TRUE:
        failed = next((c for c in shown if c.status is Status.FALSE), None)
        if failed is not None:
            return STAGE_OF[failed.type].value
    return STAGE_OF[shown[-1].type].value if shown else Stage.PLAN.value


def _spent(scene: Scene) -> str:
    """The claim where it is charged, ``0`` where nothing was: the ledger keeps the exact events."""
    states = {held.state for held in scene.reservations}
    if ReservationState.CHARGED in states or ReservationState.EXPOSED in states:
        return str(scene.plan.epsilon) if scene.plan and _any_event(scene) else "0"
    return "0"


def _any_event(scene: Scene) -> bool:
    from primum.domain.accounting.events import NoEvent

    return any(
        held.state is ReservationState.EXPOSED or not isinstance(held.executed, NoEvent)
        for held in scene.reservations
        if held.state in (ReservationState.CHARGED, ReservationState.EXPOSED)
    )


def _public(scene: Scene) -> dict[str, JSON]:
    """Disclosed figures and verdict words, by evidence name."""
    shown: dict[str, JSON] = {}
    for item in scene.evidence:
        if item.verdict is not None:
            shown[f"verdict.{item.kind.value}.{item.name}"] = item.verdict.value
        headline = public_headline(item)
        if headline:
            shown[f"headline.{item.kind.value}.{item.name}"] = headline
    return shown
