"""A Study's status: a projection of plan, ledger, outcomes and Public evidence.

Never a source of truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from primum.application.observing import PUBLISHED, Scene
from primum.application.platform import Platform
from primum.application.released import CERTIFICATE
from primum.domain.accounting.events import NoEvent
from primum.domain.budget.entries import ReservationState, ReservationView
from primum.domain.canonical import JSON
from primum.domain.conditions import STAGE_OF, Condition, ConditionType, Stage, Status
from primum.domain.governance.headlines import public_headline
from primum.domain.study.plan import Plan
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
            "epsilonSpent": _spent(platform, scene),
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


def _spent(platform: Platform, scene: Scene) -> str:
    """What was charged for good, counted as the claim is; the ledger keeps the exact events.

    The most over the Study's budgets: its guarantee holds for each of them. A training that ended
    early may have been charged less than its plan; the claim stays that of the plan.
    """
    if scene.plan is None:
        return "0"
    spent = [_charged(platform, scene.plan, held) for held in scene.reservations]
    return str(max(spent, default=Decimal(0)))


def _charged(platform: Platform, plan: Plan, held: ReservationView) -> Decimal:
    """Never below what the ledger took: the whole claim wherever no receipt shows less."""
    if held.state is ReservationState.EXPOSED:
        return plan.epsilon
    if held.state is not ReservationState.CHARGED or isinstance(held.executed, NoEvent):
        return Decimal(0)
    account = platform.ledger.account(held.account_id)
    if held.executed is None or held.charged == held.charge or account is None:
        return plan.epsilon
    accountant = platform.accountant(account.terms.policy)
    if accountant.unsupported(held.executed, plan.neighbors) is not None:
        return plan.epsilon
    return min(plan.epsilon, accountant.epsilon(held.executed, plan.delta, plan.neighbors))


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
