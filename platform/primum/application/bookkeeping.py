"""The ledger store: runs the domain's decisions in the transactions of a row store.

One class for every store, so that memory, SQLite and PostgreSQL cannot differ in meaning; they
differ only in how a transaction keeps rows. It must not decide anything itself, and must not write
where the store is older than its anchor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from primum.application import checkpointing
from primum.application.ports import Clock, LedgerAnchor, Signer
from primum.application.rowstore import NOTHING_FORESEEN, Foreseen, Pages, Pen, RowStore
from primum.domain.accounting.events import Event
from primum.domain.budget import (
    accounts,
    book,
    checkpoints,
    folding,
    ledger,
    queueing,
    reserving,
    views,
)
from primum.domain.budget.book import Account, Head
from primum.domain.budget.checkpoints import Checkpoint
from primum.domain.budget.decisions import Decision, check_name, no_account, repeated
from primum.domain.budget.entries import (
    AccountTerms,
    AccountView,
    Entry,
    Outlook,
    ReservationView,
    ReserveRequest,
    Result,
    ResultCode,
    RoundView,
)
from primum.domain.budget.lines import Line
from primum.domain.budget.rules import Asker, Rules
from primum.domain.canonical import JSON
from primum.domain.errors import Tampered

ENTRIES_MAX = 10_000  # Entries per page: what fits comfortably into one answer.

_NOTHING: Mapping[str, Mapping[str, JSON]] = MappingProxyType({})


class Bookkeeping:
    """``LedgerStore`` over a row store.

    Args:
        rows: Where rows are kept.
        clock: The ledger's clock; a clock that goes back is not followed.
        anchor: What remembers the end of the chain outside the store, or ``None``.
    """

    def __init__(self, rows: RowStore, *, clock: Clock, anchor: LedgerAnchor | None = None) -> None:
        self._rows = rows
        self._clock = clock
        self._anchor = anchor

    def open_account(self, terms: AccountTerms, *, actor: str) -> tuple[str, Result]:
        """Open an account, or find the one of the same data, unit and neighbors."""
        decision, result = self._decide(lambda pen, _: accounts.open_account(pen, terms), actor)
        return decision.account_id, result

    def reserve(
        self, requests: Sequence[ReserveRequest], *, lease_seconds: float, actor: str
    ) -> Result:
        """Hold every request's cost, all or none."""
        return self._decide(
            lambda pen, now: reserving.reserve(pen, requests, lease_seconds=lease_seconds, now=now),
            actor,
            Foreseen(
                accounts=tuple(request.account_id for request in requests),
                reservations=tuple(request.reservation_id for request in requests),
                keys=tuple(f"reserve/{request.reservation_id}" for request in requests),
            ),
        )[1]

    def expose(self, reservation_id: str, *, access: str, fence: int, actor: str) -> Result:
        """Record durably that data may now be touched for an access."""
        return self._decide(
            lambda pen, now: ledger.expose(
                pen, reservation_id, access=access, fence=fence, now=now
            ),
            actor,
            _of(reservation_id, f"expose/{reservation_id}/{access}"),
        )[1]

    def extend(
        self, reservation_id: str, *, fence: int, lease_seconds: float, actor: str
    ) -> Result:
        """Move the lease of an open reservation (a heartbeat)."""
        return self._decide(
            lambda pen, now: ledger.extend(
                pen, reservation_id, fence=fence, lease_seconds=lease_seconds, now=now
            ),
            actor,
            _of(reservation_id),
        )[1]

    def charge(
        self,
        reservation_id: str,
        *,
        executed: Event | None,
        reason: str,
        actor: str,
        answered: Sequence[str] | None = None,
    ) -> Result:
        """Spend for good: by receipt, or all of it."""
        return self._decide(
            lambda pen, now: ledger.charge(
                pen, reservation_id, executed=executed, reason=reason, now=now, answered=answered
            ),
            actor,
            _of(reservation_id, f"charge/{reservation_id}"),
        )[1]

    def give_back(self, reservation_id: str, *, reason: str, actor: str) -> Result:
        """Return a reservation that was never exposed."""
        return self._decide(
            lambda pen, _: ledger.give_back(pen, reservation_id, reason=reason),
            actor,
            _of(reservation_id, f"return/{reservation_id}"),
        )[1]

    def inspect(
        self, account_id: str, *, access: str, study_uid: str, key: str, actor: str
    ) -> Result:
        """Record an access whose outputs stay in the steward's zone."""
        return self._decide(
            lambda pen, _: accounts.inspect(
                pen, account_id, access=access, study_uid=study_uid, key=key
            ),
            actor,
        )[1]

    def freeze(self, account_id: str, *, reason: str, key: str, actor: str) -> Result:
        """Refuse every new reservation and exposure on an account until thawed."""
        return self._decide(
            lambda pen, _: accounts.freeze(pen, account_id, reason=reason, key=key), actor
        )[1]

    def thaw(self, account_id: str, *, reason: str, key: str, actor: str) -> Result:
        """Undo a freeze."""
        return self._decide(
            lambda pen, _: accounts.thaw(pen, account_id, reason=reason, key=key), actor
        )[1]

    def withdraw_consent(self, account_id: str, *, mark: str, key: str, actor: str) -> Result:
        """Record that a unit may not be read any more, by an opaque mark."""
        return self._decide(
            lambda pen, _: accounts.withdraw_consent(pen, account_id, mark=mark, key=key), actor
        )[1]

    def configure(self, account_id: str, rules: Rules, *, key: str, actor: str) -> Result:
        """Share an account's room out by other rules."""

        def decide(pen: Pen, _: str) -> Decision:
            held = pen.reservations(account_id=account_id, study_uid="") if rules.quotas else ()
            return accounts.configure(pen, account_id, rules, reservations=held, key=key)

        return self._decide(decide, actor)[1]

    def divide(self, account_id: str, blocks: Sequence[str], *, actor: str) -> Result:
        """Add the blocks of a divided dataset that are not there yet."""
        return self._decide(lambda pen, _: accounts.divide(pen, account_id, blocks), actor)[1]

    def schedule(self, *, lease_seconds: float, actor: str) -> Sequence[RoundView]:
        """Run one scheduling round over everything that waits; says what it came to."""
        if not self._rows.ask(lambda pages: pages.queued()):
            return ()
        now = self._clock.now()
        if self._rows.read(lambda pages: queueing.due_unlocks(pages, now=_time(pages, now))):
            self._decide(lambda pen, later: queueing.unlock(pen, now=later), actor)
        proposal = self._rows.read(queueing.propose)
        if not proposal.granted and not proposal.hopeless:
            return proposal.rounds
        decision, result = self._decide(
            lambda pen, later: queueing.grant(
                pen, proposal, lease_seconds=lease_seconds, now=later
            ),
            actor,
        )
        return queueing.came_to(proposal, decision.drafts if result.stands else ())

    def expire(self, *, actor: str) -> Sequence[str]:
        """Resolve every lease that ran out; returns their ids."""
        now = self._clock.now()
        if not self._rows.read(lambda pages: pages.lapsed(_time(pages, now))):
            return ()  # The usual case, asked every few seconds: no write lock for it.
        decision, result = self._decide(lambda pen, later: ledger.expire(pen, now=later), actor)
        return tuple(draft.reservation_id for draft in decision.drafts) if result.stands else ()

    def account(self, account_id: str) -> AccountView | None:
        """An account as it stands."""
        found = self._rows.read(lambda pages: pages.account(account_id))
        return None if found is None else views.view_of(found)

    def accounts(self) -> Sequence[AccountView]:
        """Every account, oldest first."""
        found = self._rows.read(lambda pages: pages.accounts())
        return tuple(views.view_of(item) for item in found)

    def reservation(self, reservation_id: str) -> ReservationView | None:
        """A reservation as it stands."""
        return self._rows.ask(lambda pages: pages.reservation(reservation_id))

    def reservations(
        self, *, account_id: str = "", study_uid: str = ""
    ) -> Sequence[ReservationView]:
        """Reservations of an account or of a Study, oldest first."""
        return self._rows.ask(
            lambda pages: pages.reservations(account_id=account_id, study_uid=study_uid)
        )

    def entries(
        self, *, account_id: str = "", after: int = 0, limit: int = 1000
    ) -> Sequence[Entry]:
        """Entries in order of ``seq``; at most 10,000 at once."""
        count = max(0, min(limit, ENTRIES_MAX))
        return self._rows.read(
            lambda pages: pages.entries(account_id=account_id, after=after, limit=count)
        )

    def head(self) -> tuple[int, str]:
        """Sequence number and hash of the last entry."""
        head = self._rows.ask(lambda pages: pages.head())
        return head.seq, head.hash

    def lines(self, *, after: int = 0, limit: int = 1000) -> Sequence[Line]:
        """Entries as stored, in order of ``seq``; at most 10,000 at once."""
        count = max(0, min(limit, ENTRIES_MAX))
        return self._rows.read(lambda pages: pages.lines(after=after, limit=count))

    def verify(
        self, *, public_key: str = "", outside: Mapping[str, Mapping[str, JSON]] = _NOTHING
    ) -> Sequence[str]:
        """Recompute chain and balances, and meet every checkpoint; returns what contradicts."""

        def work(pages: Pages) -> list[str]:
            rolled_back = self._rolled_back(pages)
            stated, faults = checkpointing.believed(
                pages.checkpoints(), outside, public_key=public_key
            )
            found = pages.contradictions(stated)
            return [*([rolled_back] if rolled_back else []), *faults, *found]

        return tuple(self._rows.read(work))

    def verify_chain(self) -> Sequence[str]:
        """Recompute the chain alone; returns what contradicts.

        Several times as fast as ``verify``, and blind to what entries mean: a ledger that was made
        up whole, or balances that were changed beside it, are not found.
        """

        def work(pages: Pages) -> list[str]:
            rolled_back = self._rolled_back(pages)
            return [*([rolled_back] if rolled_back else []), *pages.chain_faults()]

        return tuple(self._rows.read(work))

    def signed_head(self, signer: Signer) -> Mapping[str, JSON]:
        """A checkpoint of the ledger as it stands, signed, and kept nowhere."""

        def work(pages: Pages) -> tuple[Head, Sequence[Account]]:
            rolled_back = self._rolled_back(pages)
            if rolled_back:
                raise Tampered(rolled_back)
            return pages.head(), pages.accounts()

        head, everything = self._rows.read(work)
        return checkpointing.signed(
            signer, head, everything, time=max(self._clock.now(), head.time)
        )

    def checkpoint(self, signer: Signer, *, actor: str) -> Mapping[str, JSON]:
        """Sign where the ledger stands, and keep the envelope as an entry too."""
        # Signed outside the transaction: no writer waits for it, and the entry may come some places
        # after the one that it states.
        envelope = self.signed_head(signer)
        statement = checkpointing.opened(envelope, signer.public_key())
        result = self._decide(lambda pen, _: _kept(pen, statement, envelope), actor)[1]
        if not result.stands:
            raise Tampered(result.message)
        return envelope

    def checkpoint_due(self) -> bool:
        """Whether enough has happened since the last checkpoint."""

        def work(pages: Pages) -> tuple[Head, Head]:
            last, head = pages.last_checkpoint(), pages.head()
            first = () if last.seq else pages.lines(after=0, limit=1)
            return (Head(0, time=first[0].time) if first else last), head

        last, head = self._rows.read(work)
        return checkpoints.is_due(last, head, now=max(self._clock.now(), head.time))

    def fits(self, account_id: str, event: Event, *, blocks: Sequence[str] = ()) -> int:
        """How many more times an event fits into what is left of every block, up to 1000."""
        return self.outlook(account_id, event, blocks=blocks).times

    def outlook(
        self,
        account_id: str,
        event: Event,
        *,
        blocks: Sequence[str] = (),
        asker: Asker | None = None,
    ) -> Outlook:
        """What would become of a request now; nothing is written."""

        def work(pages: Pages) -> Outlook:
            found = pages.account(account_id)
            if found is None:
                return Outlook(0, now=False, reason=no_account(account_id).message)
            now = _time(pages, self._clock.now())
            return ledger.outlook(found, event, blocks=blocks, asker=asker, now=now)

        return self._rows.read(work)

    def _decide(
        self,
        decide: Callable[[Pen, str], Decision],
        actor: str,
        foreseen: Foreseen = NOTHING_FORESEEN,
    ) -> tuple[Decision, Result]:
        """One decision in a transaction; answered when that is durable and the anchor has moved."""
        check_name("actor", actor)

        def work(pen: Pen) -> tuple[Decision, Result]:
            # Asked before anything is written: the anchor cannot pass a transaction that is open.
            rolled_back = pen.once(self._rolled_back)
            if rolled_back:
                refusal = Result(ResultCode.ROLLED_BACK, rolled_back)
                return Decision(refusal), refusal
            head = pen.head()
            now = max(self._clock.now(), head.time)
            decision = decide(pen, now)
            if decision.lease is not None:
                _move_lease(pen, decision.lease)
            if decision.result.code is ResultCode.LEASE_EXPIRED:
                pen.put_head(replace(head, time=now))  # So that a clock going back revives nothing.
            if not decision.drafts:
                return decision, decision.result
            head = _write(pen, decision, head=head, actor=actor, time=now)
            told = decision.result
            return decision, Result(told.code, told.message, head.seq, told.shortfall)

        return self._rows.write(work, foreseen=foreseen, durable=self._anchored)

    def _anchored(self, head: Head) -> None:
        if self._anchor is not None:
            self._anchor.write(head.seq, head.hash)

    def _rolled_back(self, pages: Pages) -> str:
        """Why the store must be older than its anchor, or empty."""
        anchored = self._anchor.read() if self._anchor is not None else None
        if anchored is None:
            return ""
        seq, digest = anchored
        head = pages.head()
        if head.seq < seq:
            return (
                f"The ledger must reach its anchor at entry {seq}; found its end at {head.seq}. "
                "Restore a newer copy."
            )
        if (head.hash if head.seq == seq else pages.hash_at(seq)) != digest:
            return (
                f"Entry {seq} must be the one that was anchored; found another. "
                "Restore the anchored copy."
            )
        return ""


def _of(reservation_id: str, *keys: str) -> Foreseen:
    return Foreseen(reservations=(reservation_id,), keys=keys)


def _time(pages: Pages, now: str) -> str:
    """The ledger's time: it never goes back, whatever the clock does."""
    return max(now, pages.head().time)


def _kept(pen: Pen, statement: Checkpoint, envelope: Mapping[str, JSON]) -> Decision:
    """Keep a checkpoint; one of the same place stands already, whoever signed it first."""
    draft = checkpoints.draft_of(statement, envelope)
    earlier = pen.earlier(draft.account_id, draft.key)
    if earlier is not None:
        return Decision(repeated(earlier.seq))
    return Decision(Result(ResultCode.ACCEPTED), (draft,))


def _move_lease(pen: Pen, lease: tuple[str, str]) -> None:
    reservation_id, until = lease
    reservation = pen.reservation(reservation_id)
    if reservation is not None:
        pen.put_reservation(replace(reservation, lease_until=until))


def _write(pen: Pen, decision: Decision, *, head: Head, actor: str, time: str) -> Head:
    """Write a decision's entries and what they make of accounts and reservations."""
    touched: dict[str, Account] = {}
    for draft in decision.drafts:
        entry = book.sealed(draft, head=head, actor=actor, time=time)
        before = touched.get(draft.account_id) or pen.account(draft.account_id)
        reservation = pen.reservation(draft.reservation_id) if draft.reservation_id else None
        account, after = folding.fold(entry, before, reservation)
        pen.append(entry)
        if account is not None:
            touched[account.account_id] = account
        if after is not None:
            pen.put_reservation(after)
        head = Head(entry.seq, entry.hash, time)
    for account_id in sorted(
        touched
    ):  # One order for every writer, so that row locks cannot deadlock.
        pen.put_account(touched[account_id])
    pen.put_head(head)
    return head
