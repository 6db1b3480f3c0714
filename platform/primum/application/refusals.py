"""Every no and its reason: what the ledger refused, and what was refused before it was asked.

A refusal says which account and block, how much was missing under which accountant, and what the
Study was told would fit. Read from entries and stored facts; decides and spends nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from primum.application.planning import REFUSAL
from primum.application.platform import Platform, generation_key
from primum.application.searching import Found, Order, Search, find
from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.policies import policy_named
from primum.domain.budget.book import mapping
from primum.domain.budget.entries import AccountView, EntryKind

KINDS = (EntryKind.DENIED, EntryKind.EXPIRED)
PLANS_MAX = 500  # Refused plans shown, the newest.


@dataclass(frozen=True, slots=True)
class RefusedClaim:
    """A claim that the ledger refused, or that waited too long.

    Args:
        seq: Number of the entry.
        time: Its time.
        account_id: The account.
        dataset: Its dataset's address.
        study: ``namespace/name``.
        requester: Who asked.
        group: For which group.
        purpose: For which purpose.
        blocks: Of which blocks.
        code: The result code; ``Expired`` for one that waited too long.
        reason: What was missing, under which accountant, and when it would unlock.
        epsilon: What was asked for, alone, as the account's filter counts.
        told: What the Study was told, with what would fit; empty where it was told nothing else.
    """

    seq: int
    time: str
    account_id: str
    dataset: str
    study: str
    requester: str
    group: str
    purpose: str
    blocks: tuple[str, ...]
    code: str
    reason: str
    epsilon: Decimal | None
    told: str


@dataclass(frozen=True, slots=True)
class RefusalPage:
    """A page of refused claims; ``cursor`` is where the next one begins, ``None`` at the end."""

    items: tuple[RefusedClaim, ...]
    cursor: int | None


@dataclass(frozen=True, slots=True)
class RefusedPlan:
    """A Study that was refused before the ledger was asked.

    Args:
        study: ``namespace/name``, or its uid where it was deleted.
        generation: Which generation of it.
        stage: Where it ended.
        reason: One word.
        message: What it was told.
    """

    study: str
    generation: int
    stage: str
    reason: str
    message: str


def refused_claims(
    platform: Platform,
    *,
    account_id: str = "",
    order: Order = Order.OLDEST,
    cursor: int | None = None,
    limit: int = 100,
) -> RefusalPage:
    """What the ledger refused, a page at a time."""
    search = Search(account_id=account_id, kinds=KINDS)
    page = find(platform.ledger, search, order=order, cursor=cursor, limit=limit)
    views: dict[str, AccountView | None] = {}
    items = []
    for found in page.items:
        name = found.entry.account_id
        if name not in views:
            views[name] = platform.ledger.account(name)
        items.append(_claim(platform, found, views[name]))
    return RefusalPage(tuple(items), page.cursor)


def refused_plans(platform: Platform) -> tuple[RefusedPlan, ...]:
    """Studies that never reached the ledger, the newest first; at most 500."""
    names = {s.uid: f"{s.key.namespace}/{s.key.name}" for s in platform.resources.list("Study")}
    found = [plan for plan in _plans(platform, names) if plan.stage == "Plan"]
    return tuple(reversed(found[-PLANS_MAX:]))


def _plans(platform: Platform, names: dict[str, str]) -> Iterator[RefusedPlan]:
    for key, fact in platform.evidence.facts(REFUSAL):
        uid, _, generation = key.rpartition("/")
        yield RefusedPlan(
            names.get(uid, uid),
            int(generation),
            str(fact["stage"]),
            str(fact["reason"]),
            str(fact["message"]),
        )


def _claim(platform: Platform, found: Found, view: AccountView | None) -> RefusedClaim:
    entry, reservation = found.entry, found.reservation
    waited = entry.kind is EntryKind.EXPIRED
    payload = entry.payload
    reason = str(mapping(payload["asked"])["reason"] if waited else payload["message"])
    told = ""
    if reservation is not None:
        key = generation_key(reservation.study_uid, reservation.generation)
        told = str((platform.evidence.fact(REFUSAL, key) or {}).get("message", ""))
    return RefusedClaim(
        entry.seq,
        entry.time,
        entry.account_id,
        view.terms.dataset_uri if view is not None else "",
        reservation.study if reservation is not None else "",
        reservation.requester if reservation is not None else "",
        reservation.group if reservation is not None else "",
        reservation.purpose if reservation is not None else "",
        reservation.blocks if reservation is not None else (),
        "Expired" if waited else str(payload["code"]),
        reason,
        _alone(found, view),
        told,
    )


def _alone(found: Found, view: AccountView | None) -> Decimal | None:
    """What was asked for, as the account's filter counts it alone."""
    if found.reservation is None or view is None or found.reservation.charge.is_zero:
        return None
    guarantee = Guarantee(view.terms.epsilon, view.terms.delta)
    policy = policy_named(view.terms.policy)
    return policy.spent_epsilon(used=found.reservation.charge, guarantee=guarantee)
