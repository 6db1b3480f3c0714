"""When a release is audited again, and why: a schedule and triggers, decided from facts. Pure.

As a CronJob decides: of several due times that passed the last one counts, the others were missed,
and what was missed is counted. A trigger compares what it watches with what that was when audits
were last begun, so that asking twice begins nothing twice.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace

from primum.domain.schedule import Schedule


class Cause(enum.StrEnum):
    """Why a release is audited again."""

    SCHEDULE = "Schedule"
    MODEL_CHANGE = "ModelChange"
    ATTACK_LIBRARY_CHANGE = "AttackLibraryChange"
    LEDGER_CHANGE = "LedgerChange"
    CONSENT_WITHDRAWAL = "ConsentWithdrawal"


class Concurrency(enum.StrEnum):
    """What becomes of audits that are due while earlier ones of the release are under way."""

    FORBID = "Forbid"  # they wait
    REPLACE = "Replace"  # the earlier ones are stopped
    ALLOW = "Allow"  # both run


@dataclass(frozen=True, slots=True)
class Rules:
    """When a release is to be audited again.

    Args:
        schedule: When in any case; ``None``: never.
        triggers: What begins audits besides.
        concurrency: See ``Concurrency``.
        starting_seconds: How long after a due time its audits may still begin; ``None``: however
            late.
    """

    schedule: Schedule | None
    triggers: frozenset[Cause]
    concurrency: Concurrency
    starting_seconds: int | None


@dataclass(frozen=True, slots=True)
class Known:
    """What is on record about earlier audits.

    Args:
        state: What each trigger watches, as it was when audits were last begun.
        until: Due times up to here are dealt with: begun or missed.
        under_way: Whether audits of the release are.
    """

    state: Mapping[Cause, str]
    until: datetime.datetime
    under_way: bool


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be done now.

    Args:
        causes: Why audits begin; empty where none do.
        due: The due time that is dealt with, or ``None``.
        missed: How many due times are given up.
        last_missed: The last of them, or ``None``.
    """

    causes: tuple[Cause, ...] = ()
    due: datetime.datetime | None = None
    missed: int = 0
    last_missed: datetime.datetime | None = None


def decide(
    rules: Rules, known: Known, *, state: Mapping[Cause, str], now: datetime.datetime
) -> Due | None:
    """What of a release's audits begins now, and what is given up.

    | found | comes to |
    | --- | --- |
    | a due time passed, in time | audits begin; due times before it are missed |
    | a due time passed, too late | it is missed |
    | what a trigger watches is not what it was | audits begin |
    | audits are under way, policy Forbid | nothing begins; what gets too late is missed |

    Args:
        rules: When it is to be audited.
        known: What is on record.
        state: What each trigger watches, as it is; what is absent on either side changed nothing.
        now: The time, UTC.

    Returns:
        What to do, or ``None`` for nothing.
    """
    last = rules.schedule.last_due(now) if rules.schedule else None
    last = None if last is None or last <= known.until else last
    late = last is not None and _is_late(rules, last, now)
    given_up = _given_up(rules.schedule, known.until, last if late else _before(last))
    missed = replace(given_up, due=last)
    if known.under_way and rules.concurrency is Concurrency.FORBID:
        return missed if late else None
    causes = _changed(rules, known, state)
    if last is not None and not late:
        return replace(missed, causes=(Cause.SCHEDULE, *causes))
    if causes:
        return replace(missed, causes=causes)
    return missed if late else None


def _before(due: datetime.datetime | None) -> datetime.datetime | None:
    return None if due is None else due - datetime.timedelta(minutes=1)


def _given_up(
    schedule: Schedule | None, after: datetime.datetime, until: datetime.datetime | None
) -> Due:
    """Every due time in between is given up."""
    count = schedule.due_count(after, until) if schedule and until and until > after else 0
    return Due(
        missed=count, last_missed=schedule.last_due(until) if schedule and until and count else None
    )


def _is_late(rules: Rules, due: datetime.datetime, now: datetime.datetime) -> bool:
    limit = rules.starting_seconds
    return limit is not None and (now - due).total_seconds() > limit


def _changed(rules: Rules, known: Known, state: Mapping[Cause, str]) -> tuple[Cause, ...]:
    return tuple(
        cause
        for cause in Cause
        if cause in rules.triggers
        and cause in state
        and state[cause] != known.state.get(cause, state[cause])
    )
