"""What each command on a reservation comes to: pure decisions over a book.

Every function looks at the book, and returns a result with the entries to write. Stores run a
decision and write its entries in one serializable transaction; they decide nothing themselves.
Nothing here may read a clock, draw a number or write; and nothing may be granted on a guess: what
cannot be shown to fit is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from primum.domain.accounting.charges import Charge
from primum.domain.accounting.events import Event, covers, describe
from primum.domain.budget import book as books
from primum.domain.budget import decisions, queueing, unlocking
from primum.domain.budget.book import OPEN_STATES, Account, Book, Draft
from primum.domain.budget.decisions import Decision
from primum.domain.budget.entries import (
    EntryKind,
    Outlook,
    ReservationState,
    ReservationView,
    Result,
    ResultCode,
)
from primum.domain.budget.filters import times_that_fit
from primum.domain.budget.rules import Asker
from primum.domain.budget.unlocking import unlock_time
from primum.domain.budget.weighing import Tally
from primum.domain.canonical import JSON

_SHOWN_MAX = 512  # Characters of an event in a message.


def expose(book: Book, reservation_id: str, *, access: str, fence: int, now: str) -> Decision:
    """Record that data may now be touched for an access.

    Guarantees:
        Stands only while the reservation is Reserved or Exposed, its lease runs, its account is not
        frozen and the fence is its own; also when the same access was exposed before, because the
        answer opens data now.

    Args:
        book: The ledger.
        reservation_id: The reservation.
        access: Name of the declared access.
        fence: The fence that the caller holds.
        now: The ledger's time.

    Returns:
        The decision.

    Raises:
        InvalidValue: If a name breaks a rule.
    """
    decisions.check_name("access", access)
    found = _found(book, reservation_id)
    if isinstance(found, Result):
        return Decision(found)
    reservation, account = found
    if account.frozen:
        return Decision(decisions.frozen(account))
    refusal = decisions.not_running(reservation, fence=fence, now=now)
    if refusal:
        return Decision(refusal)
    key = f"expose/{reservation_id}/{access}"
    asked: dict[str, JSON] = {"access": access, "fence": fence}
    earlier = decisions.before(book, account.account_id, key, asked)
    if earlier:
        return Decision(earlier)
    draft = Draft(account.account_id, EntryKind.EXPOSED, reservation_id, key, {"asked": asked})
    return Decision(Result(ResultCode.ACCEPTED), (draft,))


def extend(
    book: Book, reservation_id: str, *, fence: int, lease_seconds: float, now: str
) -> Decision:
    """Move the lease of an open reservation; never shortens it, never revives one that ended."""
    seconds = decisions.check_lease(lease_seconds)
    reservation = book.reservation(reservation_id)
    if reservation is None:
        return Decision(decisions.no_reservation(reservation_id))
    refusal = decisions.not_running(reservation, fence=fence, now=now)
    if refusal:
        return Decision(refusal)
    until = max(reservation.lease_until, decisions.later(now, seconds))
    return Decision(Result(ResultCode.ACCEPTED), lease=(reservation_id, until))


def charge(
    book: Book,
    reservation_id: str,
    *,
    executed: Event | None,
    reason: str,
    now: str,
    answered: Sequence[str] | None = None,
) -> Decision:
    """Spend an exposed reservation for good.

    Guarantees:
        The whole reservation is charged unless the executed events are provably within the reserved
        ones and cost no more at any key, and the lease still ran: an expired job is charged in
        full. Events that cost more than was reserved, or that cannot be costed, also freeze the
        account, because what was planned is not what happened.

    Args:
        book: The ledger.
        reservation_id: The reservation.
        executed: Events that a trusted receipt shows, or ``None``.
        reason: Why, for people.
        now: The ledger's time.
        answered: The exposed accesses that the caller knew when it made out what was executed, or
            ``None`` for all. One that was exposed since makes it a charge in full.

    Returns:
        The decision.
    """
    found = _found(book, reservation_id)
    if isinstance(found, Result):
        return Decision(found)
    reservation, account = found
    if executed is not None:
        decisions.check_event(executed)
    if answered is not None and not set(reservation.exposed) <= set(answered):
        executed, reason = None, f"an access was exposed meanwhile; {reason}"
    told = None if executed is None else executed.to_json()
    asked: dict[str, JSON] = {"executed": told, "reason": decisions.prose(reason)}
    key = f"charge/{reservation_id}"
    refusal = decisions.before(book, account.account_id, key, asked)
    if refusal is None and reservation.state not in OPEN_STATES:
        refusal = decisions.resolved(reservation)
    if refusal is None and reservation.state is not ReservationState.EXPOSED:
        message = (
            f"reservation {reservation_id} must be Exposed to be charged; found Reserved. "
            "Give it back instead."
        )
        refusal = Result(ResultCode.NOT_EXPOSED, message)
    if refusal is not None:
        return Decision(refusal)
    return _settled(account, reservation, key, asked, executed=executed, now=now)


def _found(book: Book, reservation_id: str) -> tuple[ReservationView, Account] | Result:
    reservation = book.reservation(reservation_id)
    if reservation is None:
        return decisions.no_reservation(reservation_id)
    account = book.account(reservation.account_id)
    if account is None:
        return decisions.no_account(reservation.account_id)
    return reservation, account


def _settled(
    account: Account,
    reservation: ReservationView,
    key: str,
    asked: Mapping[str, JSON],
    *,
    executed: Event | None,
    now: str,
) -> Decision:
    """How much is spent: all of it, unless everything speaks for less."""
    if executed is None:
        result = Result(ResultCode.ACCEPTED, "No trusted receipt: charged in full.")
        return _charged(account, reservation, key, asked, result)
    cost = _cost(account, executed)
    shown = f"The receipt shows {describe(executed)[:_SHOWN_MAX]}, which"
    if cost is None or not _at_most(cost, reservation.charge):
        message = f"{shown} costs more than was reserved: charged in full, account frozen."
        result = Result(ResultCode.CHARGE_ABOVE_RESERVATION, message)
        decision = _charged(account, reservation, key, asked, result)
        return replace(decision, drafts=(*decision.drafts, _freeze_after(reservation)))
    if not covers(reservation.event, executed):
        message = f"{shown} cannot be shown to be within the plan: charged in full."
        result = Result(ResultCode.CHARGE_ABOVE_RESERVATION, message)
        return _charged(account, reservation, key, asked, result)
    if reservation.lease_until <= now:
        result = Result(ResultCode.ACCEPTED, "The lease ran out first: charged in full.")
        return _charged(account, reservation, key, asked, result)
    return _charged(account, reservation, key, asked, Result(ResultCode.ACCEPTED), cost=cost)


def _cost(account: Account, executed: Event) -> Charge | None:
    """What executed events cost, or ``None`` where the account's policy cannot tell."""
    if account.filter.unsupported(executed, account.terms.neighbors) is not None:
        return None
    return account.filter.charge(executed, account.terms.neighbors)


def _freeze_after(reservation: ReservationView) -> Draft:
    """What happened is not what was planned: nothing more is granted until people looked."""
    name = reservation.reservation_id
    why: dict[str, JSON] = {"reason": f"Reservation {name} spent more than was planned."}
    key = f"charge/{name}/freeze"
    return Draft(reservation.account_id, EntryKind.FROZEN, "", key, {"asked": why})


def _charged(
    account: Account,
    reservation: ReservationView,
    key: str,
    asked: Mapping[str, JSON],
    result: Result,
    *,
    cost: Charge | None = None,
) -> Decision:
    payload: dict[str, JSON] = {
        "asked": dict(asked),
        "charged": books.charge_json(reservation.charge if cost is None else cost),
        "reserved": books.charge_json(reservation.charge),
        "executed": asked.get("executed"),
        "why": " ".join(part for part in (str(asked["reason"]), result.message) if part),
    }
    draft = Draft(account.account_id, EntryKind.CHARGED, reservation.reservation_id, key, payload)
    return Decision(result, (draft,))


def give_back(book: Book, reservation_id: str, *, reason: str) -> Decision:
    """Return a reservation that was never exposed, or take back a claim that waits.

    A claim on several budgets is taken back on all of them. Anything else is refused.
    """
    reservation = book.reservation(reservation_id)
    if reservation is None:
        return Decision(decisions.no_reservation(reservation_id))
    key = f"return/{reservation_id}"
    asked: dict[str, JSON] = {"reason": decisions.prose(reason)}
    earlier = decisions.before(book, reservation.account_id, key, asked)
    if earlier:
        return Decision(earlier)
    if reservation.state is ReservationState.QUEUED:
        return queueing.withdrawn(book, reservation, asked)
    if reservation.state not in OPEN_STATES:
        return Decision(decisions.resolved(reservation))
    if reservation.state is ReservationState.EXPOSED:
        message = f"reservation {reservation_id} must be unexposed to be returned; found Exposed."
        return Decision(Result(ResultCode.ALREADY_EXPOSED, message))
    return Decision(Result(ResultCode.ACCEPTED), (_returned(reservation, key, asked),))


def _returned(reservation: ReservationView, key: str, asked: Mapping[str, JSON]) -> Draft:
    payload: dict[str, JSON] = {
        "asked": dict(asked),
        "returned": books.charge_json(reservation.charge),
    }
    return Draft(
        reservation.account_id, EntryKind.RETURNED, reservation.reservation_id, key, payload
    )


def expire(book: Book, *, now: str) -> Decision:
    """Resolve every lease that ran out: what was exposed is charged in full, the rest returned.

    A claim that waited as long as it may has expired.
    """
    lapsed = book.lapsed(now)
    waited = any(reservation.state is ReservationState.QUEUED for reservation in lapsed)
    drafts = queueing.expired(book, now=now) if waited else []
    for reservation in lapsed:
        account = book.account(reservation.account_id)
        if account is None or reservation.state not in OPEN_STATES:
            continue
        key = f"expire/{reservation.reservation_id}"
        asked: dict[str, JSON] = {"reason": f"The lease ran out at {reservation.lease_until}."}
        if reservation.state is ReservationState.EXPOSED:
            full = Result(ResultCode.ACCEPTED, "Charged in full.")
            drafts += _charged(account, reservation, key, asked, full).drafts
        else:
            drafts.append(_returned(reservation, key, asked))
    return Decision(Result(ResultCode.ACCEPTED), tuple(drafts))


def outlook(
    account: Account, event: Event, *, blocks: Sequence[str], asker: Asker | None, now: str
) -> Outlook:
    """What would become of a request now; nothing is written.

    Args:
        account: The account.
        event: What would be reserved.
        blocks: Names of the blocks; empty for all that exist.
        asker: Whose quotas hold, or ``None`` to leave quotas out.
        now: The ledger's time.

    Returns:
        How often it fits into the fullest of the blocks (0 while frozen), and what is missing.

    Raises:
        NotFound: If a block does not exist.
    """
    if account.frozen:
        return Outlook(0, now=False, reason=account.frozen)
    neighbors = account.terms.neighbors
    unsupported = account.filter.unsupported(event, neighbors)
    if unsupported is not None:
        return Outlook(0, now=False, reason=unsupported)
    chosen = account.named_blocks(blocks)
    one = account.filter.charge(event, neighbors)
    held = {account.blocks[name].used for name in chosen}  # Blocks often hold the same.
    times = min(times_that_fit(account, one, used=used) for used in held)
    # A claim that waits has unlocked its share when it came.
    came = isinstance(asker, ReservationView) and asker.state is ReservationState.QUEUED
    account = unlocking.due(account, chosen, now=now) if came else account
    if not came:
        account, _ = unlocking.on_request(account, chosen, one, key="outlook", now=now)
    missing = Tally().missing(account, asker, chosen, one)
    if missing is None:
        return Outlook(times, now=True)
    unlocks = ""
    if missing.code is ResultCode.LOCKED:
        unlocks = max(unlock_time(account, name, one, now=now) for name in chosen)
    return Outlook(times, now=False, reason=missing.text, unlocks=unlocks)


def _at_most(cost: Charge, limit: Charge) -> bool:
    pairs = zip(cost.amounts, limit.amounts, strict=True)
    return all(key == other and amount <= room for (key, amount), (other, room) in pairs)
