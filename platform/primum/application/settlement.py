"""Settle a Study's reservations from what was recorded: charge what happened, return the rest.

In doubt, charge it all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from primum.application.platform import ACTOR, Platform, generation_key
from primum.application.ports import LedgerStore
from primum.domain import names
from primum.domain.accounting.events import Composed, Event, NoEvent
from primum.domain.budget.entries import ReservationState, ReservationView, Result, ResultCode
from primum.domain.errors import Refused
from primum.domain.governance.evidence import Evidence
from primum.domain.study.lifecycle import incidents
from primum.domain.study.plan import Plan, Treatment
from primum.domain.study.spec import StudySpec
from primum.domain.study.steps import StepOutcome

INCIDENT = "Incident"
CONTRADICTION = "Contradiction"
FULL_NO_RECEIPT = "no trusted receipt for an exposed access"


def settle(
    platform: Platform,
    plan: Plan,
    reservations: Sequence[ReservationView],
    outcomes: Mapping[str, StepOutcome],
) -> None:
    """Resolve every open reservation of a Study generation. Repeating it changes nothing.

    What receipts show is handed to the ledger as it is, also where it is more than was planned: the
    ledger then charges in full and freezes the account. A reservation that somebody else resolved
    meanwhile is left to the next look.

    Raises:
        Refused: If the ledger is older than its anchor and takes nothing.
    """
    for held in reservations:
        unexposed = (ReservationState.QUEUED, ReservationState.RESERVED)
        if held.state in unexposed and not held.exposed:
            reason = "ended before any data was opened"
            result = platform.ledger.give_back(held.reservation_id, reason=reason, actor=ACTOR)
            _refuse_rollback(result)
        elif held.state is ReservationState.EXPOSED:
            executed, reason = _executed(plan, held, outcomes)
            result = platform.ledger.charge(
                held.reservation_id,
                executed=executed,
                reason=reason,
                actor=ACTOR,
                answered=held.exposed,
            )
            _refuse_rollback(result)


def _refuse_rollback(result: Result) -> None:
    if result.code is ResultCode.ROLLED_BACK:
        raise Refused(f"the ledger takes nothing: {result.message}")


def freeze_incident(
    platform: Platform,
    spec: StudySpec,
    reservations: Sequence[ReservationView],
    evidence: Sequence[Evidence],
) -> None:
    """Freeze every account that a contradicted claim touched (design, section 8, rule 9).

    Once per Study generation: what a steward thaws after looking stays thawed.

    Raises:
        Refused: If the ledger did not freeze; the message carries its reason.
    """
    found = ", ".join(item.name for item in incidents(evidence))
    for held in reservations:
        reason = f"Study {held.study}: the claim was contradicted by {found}"
        key = names.derived_uuid("freeze", spec.uid, str(held.generation), held.account_id)
        freeze_account(platform.ledger, held.account_id, reason=reason, key=key)
    accounts = sorted(held.account_id for held in reservations)
    key = generation_key(spec.uid, spec.generation)
    platform.evidence.put_fact(INCIDENT, key, {"accounts": accounts})


def freeze_account(ledger: LedgerStore, account_id: str, *, reason: str, key: str) -> None:
    """Freeze an account once under a key, whatever words were used for it the first time.

    Raises:
        Refused: If the ledger did not freeze; the message carries its reason.
    """
    result = ledger.freeze(account_id, reason=reason, key=key, actor=ACTOR)
    if not result.stands and result.code is not ResultCode.KEY_REUSED:
        raise Refused(f"account {account_id} was not frozen: {result.message}")


def _executed(
    plan: Plan, held: ReservationView, outcomes: Mapping[str, StepOutcome]
) -> tuple[Event | None, str]:
    """The composition of what ran on this account; ``None`` and why where all is charged."""
    receipts = [receipt for outcome in outcomes.values() for receipt in outcome.receipts]
    events: list[Event] = []
    for access in plan.accesses:
        if access.name not in held.exposed or access.treatment is not Treatment.CHARGED:
            continue
        trusted = [
            r
            for r in receipts
            if r.access == access.name and r.budget == access.budget and r.token_id
        ]
        if len(trusted) != 1:
            return None, f"{FULL_NO_RECEIPT}: {access.name}"
        events.append(trusted[0].event)
    if not events:
        return NoEvent(), "no mechanism ran"
    return (events[0] if len(events) == 1 else Composed(tuple(events))), "as the receipts show"
