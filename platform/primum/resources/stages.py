"""The five stages that people see, told from a Study's conditions.

Pure; only what status already shows.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from primum.domain.canonical import JSON
from primum.domain.conditions import Condition, ConditionType, Reason, Stage, Status
from primum.domain.governance.headlines import spoken
from primum.resources.status import conditions_of

SECONDS_WORTH_SHOWING = 1.0


@dataclass(frozen=True, slots=True)
class StageLine:
    """One stage: what it came to in words, how long it took, and how it stands.

    Args:
        stage: The stage.
        text: What happened.
        seconds: Wall time, or ``None`` where it is not worth showing.
        state: ``ok``, ``failed``, ``running`` or ``waiting``.
    """

    stage: Stage
    text: str
    seconds: float | None
    state: str


# What a stage consists of, in order, and the condition whose time it starts from.
_PARTS: Mapping[Stage, tuple[tuple[ConditionType, ...], ConditionType | None]] = {
    Stage.PLAN: ((ConditionType.PLANNED,), None),
    Stage.RESERVE: ((ConditionType.BUDGET_RESERVED,), None),
    Stage.RUN: (
        (ConditionType.DATA_VALIDATED, ConditionType.JOB_SUCCEEDED),
        ConditionType.LAUNCHED,
    ),
    Stage.CHECK: ((ConditionType.EVALUATED, ConditionType.AUDITED), ConditionType.JOB_SUCCEEDED),
    Stage.RELEASE: ((ConditionType.GATES_PASSED, ConditionType.RELEASED), None),
}
_LAST: Mapping[Stage, ConditionType] = {
    Stage.PLAN: ConditionType.PLANNED,
    Stage.RESERVE: ConditionType.BUDGET_RESERVED,
    Stage.RUN: ConditionType.JOB_SUCCEEDED,
    Stage.CHECK: ConditionType.AUDITED,
    Stage.RELEASE: ConditionType.RELEASED,
}


def stage_lines(status: Mapping[str, JSON]) -> tuple[StageLine, ...]:
    """Every stage of a Study, as far as it got.

    Args:
        status: The Study's status.

    Returns:
        Five lines.
    """
    known = {condition.type: condition for condition in conditions_of(status)}
    ended = known.get(ConditionType.SUCCEEDED)
    over = ended is not None and ended.status is not Status.UNKNOWN
    return tuple(_line(stage, known, over=over) for stage in Stage)


def _line(stage: Stage, known: Mapping[ConditionType, Condition], *, over: bool) -> StageLine:
    kinds, start = _PARTS[stage]
    parts = [
        known[kind] for kind in kinds if kind in known and known[kind].status is not Status.UNKNOWN
    ]
    text = ", ".join(part.message for part in parts if part.message)
    if stage is Stage.RELEASE:
        text = _release_text(parts)
    if stage is Stage.CHECK:  # What was attacked says more than that it was evaluated.
        text = ", ".join(p.message for p in parts if p.type is ConditionType.AUDITED)
    wrong = [part for part in parts if part.status is Status.FALSE]
    failed = bool(wrong)
    if failed:
        text = ", ".join(
            [
                *(p.message for p in parts if p not in wrong and p.message),
                spoken(wrong[0].reason.value),
            ]
        )
    last = known.get(_LAST[stage])
    done = last is not None and last.status is Status.TRUE
    unserved = stage is Stage.RELEASE and over and bool(parts) and not failed
    state = (
        "failed"
        if failed
        else "ok"
        if done or unserved
        else "waiting"
        if over or not parts
        else "running"
    )
    return StageLine(stage, text, _seconds(known.get(start) if start else None, parts), state)


def _release_text(parts: Sequence[Condition]) -> str:
    gates = [part.message for part in parts if part.type is ConditionType.GATES_PASSED]
    signed = any(
        part.type is ConditionType.RELEASED and part.status is Status.TRUE for part in parts
    )
    return ", ".join([*gates, *(["certificate signed"] if signed else [])])


def _seconds(start: Condition | None, parts: Sequence[Condition]) -> float | None:
    if start is None or not parts or start.reason is Reason.PENDING:
        return None
    times = [datetime.datetime.fromisoformat(part.last_transition_time) for part in parts]
    seconds = (
        max(times) - datetime.datetime.fromisoformat(start.last_transition_time)
    ).total_seconds()
    return seconds if seconds >= SECONDS_WORTH_SHOWING else None
