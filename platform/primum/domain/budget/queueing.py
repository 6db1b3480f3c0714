"""The queue: claims that wait for budget, the rounds that grant them, and the other ways out.

A round is proposed on a snapshot and granted in a later transaction, which weighs every claim anew:
what no longer fits stays in the queue. So the slow part holds nobody up, and nothing is granted on
an old look. A claim is granted on all of its budgets and blocks or on none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from primum.domain.accounting.charges import AMOUNT_MAX, Charge
from primum.domain.budget import book as books
from primum.domain.budget import decisions, unlocking
from primum.domain.budget.book import Account, Book, Draft
from primum.domain.budget.decisions import Decision
from primum.domain.budget.entries import (
    EntryKind,
    ReservationView,
    Result,
    ResultCode,
    RoundView,
)
from primum.domain.budget.layout import WHOLE
from primum.domain.budget.rules import SchedulerName, Scheduling
from primum.domain.budget.weighing import Tally, never_fits
from primum.domain.canonical import JSON
from primum.domain.errors import Tampered

if TYPE_CHECKING:
    from primum.domain.scheduling.schedulers import Scheduler


@dataclass(frozen=True, slots=True)
class WaitingClaim:
    """A claim with all of its reservations, one per account.

    Args:
        parts: Its reservations, oldest first.
    """

    parts: tuple[ReservationView, ...]

    @property
    def name(self) -> str:
        """Study and generation; unique among the claims that wait."""
        return f"{self.parts[0].study_uid}/{self.parts[0].generation}"

    @property
    def arrival(self) -> int:
        """Its place in the queue."""
        return self.parts[0].fence

    @property
    def until(self) -> str:
        """How long it waits; all of it, also where its reservations came one after another."""
        return min(part.lease_until for part in self.parts)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a round would grant.

    Args:
        granted: Names of claims, in the order of granting.
        hopeless: Names of claims that cannot fit any more, whatever is unlocked or returned.
        rounds: What the round comes to on each account.
    """

    granted: tuple[str, ...]
    hopeless: tuple[str, ...]
    rounds: tuple[RoundView, ...]


def waiting(book: Book) -> tuple[WaitingClaim, ...]:
    """Every claim that waits, oldest first."""
    found: dict[tuple[str, int], list[ReservationView]] = {}
    for part in book.queued():
        found.setdefault((part.study_uid, part.generation), []).append(part)
    return tuple(WaitingClaim(tuple(parts)) for parts in found.values())


def due_unlocks(book: Book, *, now: str) -> tuple[Draft, ...]:
    """What has become available by time on accounts for which somebody waits."""
    names = sorted({part.account_id for part in book.queued()})
    accounts = [account for name in names if (account := book.account(name)) is not None]
    drafts = (unlocking.by_time(account, now=now) for account in accounts)
    return tuple(draft for draft in drafts if draft is not None)


def unlock(book: Book, *, now: str) -> Decision:
    """Write what has become available by time."""
    return Decision(Result(ResultCode.ACCEPTED), due_unlocks(book, now=now))


def propose(book: Book) -> Proposal:
    """What a round would grant, each account by its own scheduler.

    A claim on several accounts is granted where all of their schedulers grant it; what is left is
    filled up in order of arrival, so that no claim that would still fit is left waiting.

    Args:
        book: The ledger.
    """
    claims = waiting(book)
    accounts = _accounts(book, claims)
    thawed = [c for c in claims if not any(accounts[p.account_id].frozen for p in c.parts)]
    hopeless = [c for c in thawed if _is_hopeless(c, accounts)]
    candidates = [c for c in thawed if c not in hopeless]
    agreed, rounds = _agreed(candidates, accounts)
    tally = Tally()
    order = [*sorted(agreed, key=_arrival)]
    order += [c for c in sorted(candidates, key=_arrival) if c not in agreed]
    granted = [claim for claim in order if _hold(tally, claim, accounts)]
    views = [
        replace(view, granted=sum(_touches(claim, view.account_id) for claim in granted))
        for view in rounds
    ]
    return Proposal(
        tuple(claim.name for claim in granted),
        tuple(claim.name for claim in hopeless),
        tuple(views),
    )


def _arrival(claim: WaitingClaim) -> int:
    return claim.arrival


def _touches(claim: WaitingClaim, account_id: str) -> bool:
    return any(part.account_id == account_id for part in claim.parts)


def _accounts(book: Book, claims: Sequence[WaitingClaim]) -> dict[str, Account]:
    found: dict[str, Account] = {}
    for name in sorted({part.account_id for claim in claims for part in claim.parts}):
        account = book.account(name)
        if account is None:
            raise Tampered(f"A claim must wait for an account that is open; found {name}.")
        found[name] = account
    return found


def _is_hopeless(claim: WaitingClaim, accounts: Mapping[str, Account]) -> bool:
    return any(never_fits(accounts[p.account_id], p.blocks, p.charge) for p in claim.parts)


def _hold(tally: Tally, claim: WaitingClaim, accounts: Mapping[str, Account]) -> bool:
    """Whether a claim fits on top of what the tally holds; if so it is held too."""
    held: list[ReservationView] = []
    for part in claim.parts:  # Each on top of those before it: two may be on one account.
        account = accounts[part.account_id]
        if tally.missing(account, part, part.blocks, part.charge) is not None:
            for other in held:
                tally.let_go(accounts[other.account_id], other, other.blocks, other.charge)
            return False
        tally.hold(account, part, part.blocks, part.charge)
        held.append(part)
    return True


def _agreed(
    candidates: Sequence[WaitingClaim], accounts: Mapping[str, Account]
) -> tuple[list[WaitingClaim], list[RoundView]]:
    """The claims that every one of their accounts' schedulers grants, and the first rounds.

    Claims that only some of them grant are left out and the schedulers asked again, until all
    agree: each time there are fewer candidates, so this ends.
    """
    left, rounds = list(candidates), list[RoundView]()
    while True:
        granted: dict[str, set[str]] = {}
        found = []
        for name, account in accounts.items():
            mine = [claim for claim in left if _touches(claim, name)]
            if mine:
                granted[name], view = _round(account, mine)
                found.append(view)
        rounds = rounds or found
        split = [
            claim
            for claim in left
            if len({claim.name in granted[part.account_id] for part in claim.parts}) > 1
        ]
        if not split:
            return [c for c in left if c.name in granted[c.parts[0].account_id]], rounds
        left = [claim for claim in left if claim not in split]


def _round(account: Account, claims: Sequence[WaitingClaim]) -> tuple[set[str], RoundView]:
    """One account's scheduler over the claims that wait for it."""
    from primum.domain.scheduling.blocks import Block, FilterShape
    from primum.domain.scheduling.claims import Claim
    from primum.domain.scheduling.schedulers import schedule
    from primum.domain.scheduling.tables import BlockTable, ClaimTable

    shape, capacity = FilterShape.of(account.filter), account.capacity
    wanted = sorted(
        {
            b
            for claim in claims
            for part in claim.parts
            if part.account_id == account.account_id
            for b in part.blocks
        }
    )
    blocks = []
    for name in wanted:
        fresh = Block.new(block_id=name, shape=shape, capacity=capacity)
        holding = account.blocks[name]
        room = account.available(holding).as_dict
        unlocked = [
            (key, room[key] if least == 0 else least) for key, least in fresh.unlocked.amounts
        ]
        blocks.append(
            replace(fresh, unlocked=Charge(tuple(unlocked)), used=_countable(holding.used))
        )
    table = BlockTable.of(blocks)
    asked = [
        Claim(claim.name, claim.arrival, _demands(claim, account.account_id)) for claim in claims
    ]
    found = schedule(_scheduler(account.sharing.scheduling), table, ClaimTable.of(asked, table))
    view = RoundView(account.account_id, len(claims), len(found.grants), found.upper_bound)
    return set(found.grants), view


def _demands(claim: WaitingClaim, account_id: str) -> tuple[tuple[str, Charge], ...]:
    """What a claim takes of each block of an account, all of its parts together."""
    found: dict[str, Charge] = {}
    for part in claim.parts:
        if part.account_id == account_id:
            for block in part.blocks:
                before = found.get(block)
                found[block] = part.charge if before is None else before + part.charge
    return tuple((block, _countable(charge)) for block, charge in found.items())


def _countable(charge: Charge) -> Charge:
    """The charge within 64 bits: what passes ``AMOUNT_MAX`` passes every capacity."""
    return Charge(tuple([(key, min(amount, AMOUNT_MAX)) for key, amount in charge.amounts]))


def _scheduler(scheduling: Scheduling) -> Scheduler:
    from primum.domain.scheduling import schedulers

    match scheduling.scheduler:
        case SchedulerName.FCFS:
            return schedulers.FirstComeFirstServed()
        case SchedulerName.DPF:
            return schedulers.DPF()
        case SchedulerName.DPACK:
            return schedulers.DPack()
        case SchedulerName.DUAL_PRICES:
            return schedulers.DualPrices(efficiency=float(scheduling.efficiency))


def grant(book: Book, proposal: Proposal, *, lease_seconds: float, now: str) -> Decision:
    """Write what a round proposed, as far as it still holds.

    Guarantees:
        Every grant fits the guarantee, the quotas and what is unlocked, on top of everything
        reserved and charged at this very moment; anything else goes on waiting.

    Args:
        book: The ledger now.
        proposal: From ``propose``, on any earlier look.
        lease_seconds: How long grants are held without a heartbeat.
        now: The ledger's time.
    """
    lease_until = decisions.later(now, decisions.check_lease(lease_seconds))
    claims = {claim.name: claim for claim in waiting(book)}
    accounts = _accounts(book, list(claims.values()))
    tally, drafts = Tally(), list[Draft]()
    for name in proposal.granted:
        claim = claims.get(name)
        if claim is None or any(accounts[p.account_id].frozen for p in claim.parts):
            continue
        if claim.until > now and _hold(tally, claim, accounts):
            drafts += [_granted(part, lease_until) for part in claim.parts]
    for name in proposal.hopeless:
        claim = claims.get(name)
        if claim is not None and _is_hopeless(claim, accounts):
            drafts += _refused(claim, accounts)
    return Decision(Result(ResultCode.ACCEPTED), tuple(drafts))


def came_to(proposal: Proposal, drafts: Sequence[Draft]) -> tuple[RoundView, ...]:
    """The rounds of a proposal with what was granted of it in the end.

    Args:
        proposal: From ``propose``.
        drafts: The entries that ``grant`` came to and that stand.
    """
    granted: dict[str, set[str]] = {}
    for draft in drafts:
        if draft.kind is EntryKind.RESERVED:
            asked = books.mapping(draft.payload["asked"])
            claim = f"{asked['studyUid']}/{asked['generation']}"
            granted.setdefault(draft.account_id, set()).add(claim)
    return tuple(
        replace(view, granted=len(granted.get(view.account_id, ()))) for view in proposal.rounds
    )


def _granted(part: ReservationView, lease_until: str) -> Draft:
    payload: dict[str, JSON] = {
        "asked": {
            "place": part.fence,
            "studyUid": part.study_uid,
            "generation": part.generation,
        },
        "charge": books.charge_json(part.charge),
        "leaseUntil": lease_until,
    }
    if part.blocks != (WHOLE,):  # Stated again, so that balances can be followed entry by entry.
        payload["blocks"] = list(part.blocks)
    key = f"grant/{part.reservation_id}"
    return Draft(part.account_id, EntryKind.RESERVED, part.reservation_id, key, payload)


def _refused(claim: WaitingClaim, accounts: Mapping[str, Account]) -> list[Draft]:
    missing = {
        part.account_id: text
        for part in claim.parts
        if (text := never_fits(accounts[part.account_id], part.blocks, part.charge))
    }
    message = " ".join(text for _, text in sorted(missing.items()))[: decisions.TEXT_LENGTH_MAX]
    return [
        Draft(
            part.account_id,
            EntryKind.DENIED,
            part.reservation_id,
            f"refuse/{part.reservation_id}",
            {
                "asked": {"place": part.fence},
                "charge": books.charge_json(part.charge),
                "code": ResultCode.OVER_BUDGET.value,
                "message": message,
                "shortfall": dict(missing),
            },
        )
        for part in claim.parts
    ]


def withdrawn(book: Book, part: ReservationView, asked: Mapping[str, JSON]) -> Decision:
    """Take a claim back while it waits, on all of its accounts."""
    mine = (part.study_uid, part.generation)
    drafts = [
        Draft(
            other.account_id,
            EntryKind.WITHDRAWN,
            other.reservation_id,
            f"return/{other.reservation_id}",
            {"asked": dict(asked)},
        )
        for other in book.queued()
        if (other.study_uid, other.generation) == mine
    ]
    return Decision(Result(ResultCode.ACCEPTED), tuple(drafts))


def expired(book: Book, *, now: str) -> list[Draft]:
    """Claims that waited as long as they may; each ends on all of its accounts."""
    return [
        Draft(
            part.account_id,
            EntryKind.EXPIRED,
            part.reservation_id,
            f"expire/{part.reservation_id}",
            {"asked": {"reason": f"It waited until {claim.until}."}},
        )
        for claim in waiting(book)
        if claim.until <= now
        for part in claim.parts
    ]
