"""What each command on a reservation comes to: pure decisions over a book.

Every function looks at the book, and returns a result with the entries to write. Stores run a
decision and write its entries in one serializable transaction; they decide nothing themselves.
Nothing here may read a clock, draw a number or write; and nothing may be granted on a guess: what
cannot be shown to fit is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from primum.domain.accounting import policies
from primum.domain.accounting.charges import Charge
from primum.domain.accounting.events import Event, covers, describe
from primum.domain.budget import book as books
from primum.domain.budget import decisions
from primum.domain.budget.book import OPEN_STATES, Account, Book, Draft
from primum.domain.budget.decisions import Decision
from primum.domain.budget.entries import (
    Entry,
    EntryKind,
    ReservationState,
    ReservationView,
    ReserveRequest,
    Result,
    ResultCode,
)
from primum.domain.budget.filters import shortfall, times_that_fit
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue

_SHOWN_MAX = 512  # Characters of an event in a message.


def reserve(
    book: Book, requests: Sequence[ReserveRequest], *, lease_seconds: float, now: str
) -> Decision:
    """Hold every request's cost, all or none.

    Guarantees:
        After it, every account's policy admits what is reserved and charged together. A request
        whose charge is zero (disclosed accesses only) is always granted, so that its exposure has
        somewhere to be recorded. A denial is final for its reservation ids, and repeating it gives
        the same denial. A frozen account writes nothing: the same request may come again after the
        thaw.

    Args:
        book: The ledger.
        requests: One per account, at most 256.
        lease_seconds: How long they are held without a heartbeat.
        now: The ledger's time.

    Returns:
        The decision.

    Raises:
        InvalidValue: If a request breaks a rule.
    """
    _check_requests(requests)
    lease_until = decisions.later(now, decisions.check_lease(lease_seconds))
    ordered = sorted(requests, key=lambda request: (request.account_id, request.reservation_id))
    together = [request.reservation_id for request in ordered]
    asked = [_asked(request, together) for request in ordered]
    keyed = [(r, f"reserve/{r.reservation_id}", a) for r, a in zip(ordered, asked, strict=True)]
    repeated = _reserved_before(book, keyed)
    if repeated:
        return Decision(repeated)
    accounts: dict[str, Account] = {}
    for request in ordered:
        account = book.account(request.account_id)
        if account is None:
            return Decision(decisions.no_account(request.account_id))
        accounts[request.account_id] = account
    for account in accounts.values():
        if account.frozen:
            return Decision(decisions.frozen(account))
    charges, missing, code = _weighed(ordered, accounts)
    if missing:
        return _denied(keyed, charges, missing, code)
    drafts = [
        Draft(
            request.account_id,
            EntryKind.RESERVED,
            request.reservation_id,
            key,
            {"asked": content, "charge": books.charge_json(charge), "leaseUntil": lease_until},
        )
        for (request, key, content), charge in zip(keyed, charges, strict=True)
    ]
    return Decision(Result(ResultCode.ACCEPTED), tuple(drafts))


def _check_requests(requests: Sequence[ReserveRequest]) -> None:
    if not 1 <= len(requests) <= decisions.REQUESTS_MAX:
        raise InvalidValue("requests", f"must be 1 to {decisions.REQUESTS_MAX}", len(requests))
    for request in requests:
        decisions.check_name("reservation_id", request.reservation_id)
        decisions.check_name("account_id", request.account_id)
        decisions.check_name("study_uid", request.study_uid)
        decisions.check_name("requester", request.requester)
        if not isinstance(request.generation, int) or request.generation < 0:
            raise InvalidValue("generation", "must be a whole number from 0", request.generation)
        decisions.check_event(request.event)
    if len({request.reservation_id for request in requests}) < len(requests):
        raise InvalidValue("requests", "must have distinct reservation ids", len(requests))


def _asked(request: ReserveRequest, together: Sequence[str]) -> dict[str, JSON]:
    return {
        "studyUid": request.study_uid,
        "generation": request.generation,
        "study": decisions.prose(request.study),
        "purpose": decisions.prose(request.purpose),
        "requester": request.requester,
        "event": request.event.to_json(),
        "together": list(together),
    }


_Keyed = Sequence[tuple[ReserveRequest, str, Mapping[str, JSON]]]


def _reserved_before(book: Book, keyed: _Keyed) -> Result | None:
    """The earlier result, a refusal where the same id comes with other content, or nothing."""
    found: list[Entry] = []
    for request, key, content in keyed:
        earlier = book.earlier(request.account_id, key)
        if earlier is None:
            if book.reservation(request.reservation_id) is not None:
                return decisions.key_reused(key, "accountId")
            continue
        field = decisions.differing(earlier, content)
        if field:
            return decisions.key_reused(key, field)
        found.append(earlier)
    if not found:
        return None
    last = found[-1]
    if last.kind is EntryKind.RESERVED:
        return decisions.repeated(last.seq)
    shortfalls = books.mapping(last.payload["shortfall"])
    return Result(
        ResultCode(str(last.payload["code"])),
        str(last.payload["message"]),
        last.seq,
        {account: str(text) for account, text in shortfalls.items()},
    )


def _weighed(
    ordered: Sequence[ReserveRequest], accounts: Mapping[str, Account]
) -> tuple[list[Charge], dict[str, str], ResultCode]:
    """Every request's charge, and per account what is missing."""
    charges: list[Charge] = []
    unsupported: dict[str, str] = {}
    missing: dict[str, str] = {}
    held: dict[str, Charge] = {}
    for request in ordered:
        account = accounts[request.account_id]
        policy = account.filter
        reason = policy.unsupported(request.event, account.terms.neighbors)
        if reason is not None:
            unsupported[account.account_id] = reason
            charges.append(policies.zero(policy))
            continue
        charge = policy.charge(request.event, account.terms.neighbors)
        used = held.get(account.account_id, account.used)
        if not charge.is_zero and not policy.admits(
            capacity=account.capacity, used=used, request=charge
        ):
            missing[account.account_id] = shortfall(account, used=used, request=charge)
        held[account.account_id] = used + charge
        charges.append(charge)
    if unsupported:
        return charges, unsupported, ResultCode.EVENT_UNSUPPORTED
    return charges, missing, ResultCode.OVER_BUDGET


def _denied(
    keyed: _Keyed, charges: Sequence[Charge], missing: Mapping[str, str], code: ResultCode
) -> Decision:
    message = " ".join(text for _, text in sorted(missing.items()))[: decisions.TEXT_LENGTH_MAX]
    drafts = [
        Draft(
            request.account_id,
            EntryKind.DENIED,
            request.reservation_id,
            key,
            {
                "asked": content,
                "charge": books.charge_json(charge),
                "code": code.value,
                "message": message,
                "shortfall": dict(missing),
            },
        )
        for (request, key, content), charge in zip(keyed, charges, strict=True)
    ]
    return Decision(Result(code, message, shortfall=dict(missing)), tuple(drafts))


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
    """Return a reservation that was never exposed; anything else is refused."""
    reservation = book.reservation(reservation_id)
    if reservation is None:
        return Decision(decisions.no_reservation(reservation_id))
    key = f"return/{reservation_id}"
    asked: dict[str, JSON] = {"reason": decisions.prose(reason)}
    earlier = decisions.before(book, reservation.account_id, key, asked)
    if earlier:
        return Decision(earlier)
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
    """Resolve every lease that ran out: what was exposed is charged in full, the rest returned."""
    drafts: list[Draft] = []
    for reservation in book.lapsed(now):
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


def fits(account: Account, event: Event) -> int:
    """How many more times an event fits into what is left, up to 1000; 0 while frozen."""
    if account.frozen or account.filter.unsupported(event, account.terms.neighbors) is not None:
        return 0
    one = account.filter.charge(event, account.terms.neighbors)
    return times_that_fit(account, one)


def _at_most(cost: Charge, limit: Charge) -> bool:
    pairs = zip(cost.amounts, limit.amounts, strict=True)
    return all(key == other and amount <= room for (key, amount), (other, room) in pairs)
