"""Reserving: what a request comes to. Granted, refused, or left to wait.

Pure decisions over a book, like ``ledger``. Nothing may be granted on a guess: what cannot be shown
to fit is refused or waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from primum.domain.accounting import policies
from primum.domain.accounting.charges import Charge
from primum.domain.budget import book as books
from primum.domain.budget import decisions, unlocking, weighing
from primum.domain.budget.book import Account, Book, Draft
from primum.domain.budget.decisions import Decision
from primum.domain.budget.entries import Entry, EntryKind, ReserveRequest, Result, ResultCode
from primum.domain.budget.layout import WHOLE
from primum.domain.budget.weighing import Missing, Tally, never_fits
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue, NotFound

_DAY_SECONDS = 86400.0


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
    readable = [_as_written(request) for request in requests]
    ordered = sorted(readable, key=lambda request: (request.account_id, request.reservation_id))
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
    for request in ordered:
        foreign = _foreign(request, accounts[request.account_id])
        if foreign:
            return Decision(foreign)
    for account in accounts.values():
        if account.frozen:
            return Decision(decisions.frozen(account))
    chosen: list[tuple[str, ...]] = []
    for request in ordered:
        try:
            chosen.append(accounts[request.account_id].named_blocks(request.blocks))
        except NotFound as error:
            return Decision(Result(ResultCode.BLOCK_UNKNOWN, str(error)))
    held = [
        _Held(request, blocks, key, content)
        for (request, key, content), blocks in zip(keyed, chosen, strict=True)
    ]
    return _admitted(held, accounts, lease_until=lease_until, now=now)


@dataclass(frozen=True, slots=True)
class _Held:
    """A request with the blocks that it matched and what will be written of it."""

    request: ReserveRequest
    blocks: tuple[str, ...]
    key: str
    asked: Mapping[str, JSON]

    def content(self, charge: Charge) -> dict[str, JSON]:
        """What is written: with the blocks as they were matched, unless there is only one."""
        found: dict[str, JSON] = {"asked": self.asked, "charge": books.charge_json(charge)}
        return found if self.blocks == (WHOLE,) else found | {"blocks": list(self.blocks)}


def _admitted(
    held: Sequence[_Held], accounts: Mapping[str, Account], *, lease_until: str, now: str
) -> Decision:
    """Granted, refused, or queued."""
    charges, unsupported = _charges(held, accounts)
    if unsupported:
        missing = {
            name: Missing(ResultCode.EVENT_UNSUPPORTED, text) for name, text in unsupported.items()
        }
        return _denied(held, charges, missing, ResultCode.EVENT_UNSUPPORTED)
    accounts, unlocks = _opened(held, charges, accounts, now=now)
    tally, missing = Tally(), {}
    for item, charge in zip(held, charges, strict=True):
        account = accounts[item.request.account_id]
        lacks = tally.missing(account, item.request, item.blocks, charge)
        if lacks is not None:
            missing[account.account_id] = lacks
        tally.hold(account, item.request, item.blocks, charge)
    queues = [account for account in accounts.values() if account.sharing.queues]
    if queues and not all(charge.is_zero for charge in charges):
        hopeless = {
            item.request.account_id: Missing(ResultCode.OVER_BUDGET, text)
            for item, charge in zip(held, charges, strict=True)
            if (text := never_fits(accounts[item.request.account_id], item.blocks, charge))
        }
        hopeless |= {
            name: lacks for name, lacks in missing.items() if lacks.code is ResultCode.OVER_QUOTA
        }
        if hopeless:
            return _denied(held, charges, hopeless, weighing.together(hopeless)[0])
        return _queued(held, charges, unlocks, queues, missing=missing, now=now)
    if missing:
        refused = _denied(held, charges, missing, weighing.together(missing)[0])
        # A claim that no unlocking could help unlocks nothing (ledger.md trap T4).
        locked = all(lacks.code is ResultCode.LOCKED for lacks in missing.values())
        return replace(refused, drafts=(*unlocks, *refused.drafts)) if locked else refused
    drafts = [
        Draft(
            item.request.account_id,
            EntryKind.RESERVED,
            item.request.reservation_id,
            item.key,
            item.content(charge) | {"leaseUntil": lease_until},
        )
        for item, charge in zip(held, charges, strict=True)
    ]
    return Decision(Result(ResultCode.ACCEPTED), (*unlocks, *drafts))


def _opened(
    held: Sequence[_Held],
    charges: Sequence[Charge],
    accounts: Mapping[str, Account],
    *,
    now: str,
) -> tuple[dict[str, Account], tuple[Draft, ...]]:
    """Accounts with everything that the requests find unlocked, one after the other."""
    found, drafts = dict(accounts), list[Draft]()
    for item, charge in zip(held, charges, strict=True):
        name = item.request.account_id
        found[name], more = unlocking.on_request(
            found[name], item.blocks, charge, key=item.key, now=now
        )
        drafts += more
    return found, tuple(drafts)


def _queued(
    held: Sequence[_Held],
    charges: Sequence[Charge],
    unlocks: Sequence[Draft],
    queues: Sequence[Account],
    *,
    missing: Mapping[str, Missing],
    now: str,
) -> Decision:
    """Let all of a claim wait, at most as long as the most patient budget says."""
    studies = {(item.request.study_uid, item.request.generation) for item in held}
    if len(studies) > 1:
        raise InvalidValue("requests", "must be of one Study where a budget queues", len(studies))
    days = max(account.sharing.scheduling.wait_days for account in queues)
    until = decisions.later(now, float(days) * _DAY_SECONDS)
    drafts = [
        Draft(
            item.request.account_id,
            EntryKind.QUEUED,
            item.request.reservation_id,
            item.key,
            item.content(charge) | {"leaseUntil": until},
        )
        for item, charge in zip(held, charges, strict=True)
    ]
    why = weighing.together(missing)[1] if missing else ""
    message = f"waits until {until} at most. {why}".strip()
    return Decision(Result(ResultCode.QUEUED, message), (*drafts, *unlocks))


def _foreign(request: ReserveRequest, account: Account) -> Result | None:
    """Refused: what was planned protects somebody else than the account does."""
    terms = account.terms
    asked = request.unit or terms.unit, request.neighbors or terms.neighbors
    if asked == (terms.unit, terms.neighbors):
        return None
    message = (
        f"unit and neighbors must be {terms.unit.value} and {terms.neighbors.value}, which account "
        f"{account.account_id} protects; found {asked[0].value} and {asked[1].value}."
    )
    return Result(ResultCode.UNIT_MISMATCH, message)


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


def _as_written(request: ReserveRequest) -> ReserveRequest:
    """The request with its prose as the entry will have it: quotas count by what is written."""
    told = [decisions.prose(text) for text in (request.study, request.purpose, request.group)]
    if told == [request.study, request.purpose, request.group]:  # Nearly always.
        return request
    return replace(request, study=told[0], purpose=told[1], group=told[2])


def _asked(request: ReserveRequest, together: Sequence[str]) -> dict[str, JSON]:
    found: dict[str, JSON] = {
        "studyUid": request.study_uid,
        "generation": request.generation,
        "study": request.study,
        "purpose": request.purpose,
        "requester": request.requester,
        "event": books.event_json(request.event),
        "together": list(together),
    }
    if request.blocks:
        found["blocks"] = sorted(set(request.blocks))
    if request.group:
        found["group"] = request.group
    return found


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
    if last.kind in (EntryKind.RESERVED, EntryKind.QUEUED):
        return decisions.repeated(last.seq)
    shortfalls = books.mapping(last.payload["shortfall"])
    return Result(
        ResultCode(str(last.payload["code"])),
        str(last.payload["message"]),
        last.seq,
        {account: str(text) for account, text in shortfalls.items()},
    )


def _charges(
    held: Sequence[_Held], accounts: Mapping[str, Account]
) -> tuple[list[Charge], dict[str, str]]:
    """Every request's charge, and per account why an event cannot be charged."""
    charges: list[Charge] = []
    unsupported: dict[str, str] = {}
    for item in held:
        account = accounts[item.request.account_id]
        policy, neighbors = account.filter, account.terms.neighbors
        reason = policy.unsupported(item.request.event, neighbors)
        if reason is not None:
            unsupported[account.account_id] = reason
            charges.append(policies.zero(policy))
        else:
            charges.append(policy.charge(item.request.event, neighbors))
    return charges, unsupported


def _denied(
    held: Sequence[_Held],
    charges: Sequence[Charge],
    missing: Mapping[str, Missing],
    code: ResultCode,
) -> Decision:
    texts = {name: item.text for name, item in missing.items()}
    message = " ".join(text for _, text in sorted(texts.items()))[: decisions.TEXT_LENGTH_MAX]
    drafts = [
        Draft(
            item.request.account_id,
            EntryKind.DENIED,
            item.request.reservation_id,
            item.key,
            item.content(charge)
            | {
                "code": code.value,
                "message": message,
                "shortfall": dict(texts),
            },
        )
        for item, charge in zip(held, charges, strict=True)
    ]
    return Decision(Result(code, message, shortfall=texts), tuple(drafts))
