"""Advance a Study: observe, decide, do one thing, show status.

Again until there is nothing to do but wait.

The only sequencer. Every action may be repeated: what it writes has an id that was decided before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from primum.application import (
    access,
    launching,
    planning,
    releasing,
    settlement,
    study_lineage,
    verdicts,
)
from primum.application.observing import Scene, observe
from primum.application.platform import Platform, generation_key
from primum.application.studystatus import study_status
from primum.domain import names
from primum.domain.conditions import Condition, ConditionType, Reason, Status
from primum.domain.errors import InvalidValue, PrimumError
from primum.domain.names import ResourceKey
from primum.domain.study.lifecycle import Action, Refusal, RunState, decide
from primum.domain.study.plan import Plan
from primum.resources.status import condition
from primum.resources.stored import StoredResource

ACTIONS_MAX = 32  # More than the longest way of a Study; a loop beyond it is a fault, not work.
_SEEN_LATER = (Action.LAUNCH, Action.STOP)  # A runner may show what was asked of it only later.
# The run may still be under way in these: what it asks for then is refused.
_BEFORE_THE_END = (Action.PLAN, Action.RESERVE, Action.LAUNCH)
_WITHDRAWN = (Reason.BUDGET_NOT_FOUND, Reason.RELEASE_NOT_FOUND)


def advance(platform: Platform, key: ResourceKey) -> Action:
    """Bring a Study as far as it goes now.

    Args:
        platform: The ports.
        key: The Study.

    Returns:
        ``WAIT`` or ``DONE``; ``DONE`` also for a Study that is gone.
    """
    asked = Action.WAIT
    for _ in range(ACTIONS_MAX):
        stored = platform.resources.get(key)
        if stored is None:
            return Action.DONE
        scene = observe(platform, stored)
        if not scene.asked_for_name:
            planning.claim_name(platform, scene.spec)
        decision = decide(scene.observed)
        show(platform, scene, decision.conditions)
        if decision.action is Action.WAIT or decision.action is asked:
            _heartbeat(platform, scene)
            return Action.WAIT
        if decision.action is Action.DONE:
            if scene.observed.run is not RunState.NOT_LAUNCHED:
                _end_run(platform, scene)
                study_lineage.study_ended(platform, scene, decision.conditions[-1])
            return Action.DONE
        if decision.action not in _BEFORE_THE_END:
            _end_run(platform, scene)
        try:
            _DO[decision.action](platform, scene)
        except planning.Blocked as blocked:
            if not _given_up(platform, scene, blocked.refusal):
                return Action.WAIT
        if decision.action is Action.REMOVE:
            return Action.DONE
        if decision.action in _SEEN_LATER:
            asked = decision.action
    raise PrimumError(f"{key} took more than {ACTIONS_MAX} actions without coming to rest")


def show(platform: Platform, scene: Scene, found: Sequence[Condition]) -> None:
    """Write the projected status, if it changed."""
    projected = study_status(platform, scene, found)
    if projected != dict(scene.stored.status):
        platform.resources.set_status(scene.stored.key, scene.stored.uid, projected)


def _end_run(platform: Platform, scene: Scene) -> None:
    if scene.observed.run is not RunState.NOT_LAUNCHED:
        access.end_run(platform.evidence, names.run_id(scene.spec.uid, scene.spec.generation))


def _heartbeat(platform: Platform, scene: Scene) -> None:
    if scene.observed.run is RunState.RUNNING:
        launching.keep_leases(platform, scene.reservations)


def _given_up(platform: Platform, scene: Scene, refusal: Refusal) -> bool:
    """Whether an input that is missing ends the Study.

    A deleted budget or Release does, once the plan is made: nobody vouches for the data any more.
    What is only not ready yet is waited for.
    """
    if scene.plan is None or refusal.reason not in _WITHDRAWN:
        return False
    planning.store_refusal(platform, scene.spec, replace(refusal, stage="Release"))
    return True


def _plan(platform: Platform, scene: Scene) -> None:
    platform.compute.warm()  # Workers start while the plan is made.
    planned = planning.plan_study(platform, scene.spec)
    planning.store_plan(platform, scene.spec, planned)


def _reserve(platform: Platform, scene: Scene) -> None:
    try:
        refusal = launching.reserve_plan(platform, scene.spec, _required(scene.plan))
    except InvalidValue as error:
        refusal = Refusal("Reserve", Reason.INVALID_SPEC, str(error))
    if refusal is not None:
        planning.store_refusal(platform, scene.spec, refusal)


def _launch(platform: Platform, scene: Scene) -> None:
    launching.launch_run(platform, scene.spec, _required(scene.plan))
    study_lineage.study_launched(platform, scene)


def _stop(platform: Platform, scene: Scene) -> None:
    platform.runner.stop(names.run_id(scene.spec.uid, scene.spec.generation))


def _settle(platform: Platform, scene: Scene) -> None:
    settlement.settle(platform, _required(scene.plan), scene.reservations, scene.outcomes)


def _freeze(platform: Platform, scene: Scene) -> None:
    settlement.freeze_incident(platform, scene.spec, scene.reservations, scene.evidence)


def _judge(platform: Platform, scene: Scene) -> None:
    plan = _required(scene.plan)
    context = planning.planning_context(platform, scene.spec)
    fact = verdicts.judge(
        platform,
        scene.spec,
        plan,
        budgets=tuple(context.datasets.values()),
        evidence=scene.evidence,
        reservations=scene.reservations,
        artifacts=releasing.artifact_digests(scene),
    )
    key = generation_key(scene.spec.uid, scene.spec.generation)
    platform.evidence.put_fact(verdicts.VERDICTS, key, fact)


def _certify(platform: Platform, scene: Scene) -> None:
    _unless_refused(platform, scene, releasing.certify(platform, scene))


def _publish(platform: Platform, scene: Scene) -> None:
    _unless_refused(platform, scene, releasing.publish(platform, scene))


def _unless_refused(platform: Platform, scene: Scene, reasons: Sequence[str]) -> None:
    if reasons:
        refusal = Refusal("Release", Reason.NOT_RELEASED, "; ".join(reasons))
        planning.store_refusal(platform, scene.spec, refusal)


def _remove(platform: Platform, scene: Scene) -> None:
    platform.forget_shadows(scene.spec.uid)
    platform.resources.remove(scene.stored.key, scene.stored.uid)


def _required(plan: Plan | None) -> Plan:
    if plan is None:
        raise PrimumError("a step of the way was taken without a plan")
    return plan


_DO: Mapping[Action, Callable[[Platform, Scene], None]] = {
    Action.PLAN: _plan,
    Action.RESERVE: _reserve,
    Action.LAUNCH: _launch,
    Action.STOP: _stop,
    Action.SETTLE: _settle,
    Action.FREEZE: _freeze,
    Action.JUDGE: _judge,
    Action.CERTIFY: _certify,
    Action.PUBLISH: _publish,
    Action.REMOVE: _remove,
}


def is_terminal(stored: StoredResource) -> bool:
    """Whether status shows the end of this generation already: nothing needs to be observed."""
    succeeded = condition(stored.status, ConditionType.SUCCEEDED)
    if succeeded is None or stored.deleting:
        return False
    return (
        succeeded.observed_generation == stored.generation
        and succeeded.status is not Status.UNKNOWN
    )
