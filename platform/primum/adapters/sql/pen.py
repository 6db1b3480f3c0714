"""The pen of one transaction in a database: reads once, writes late, and undoes one work at a time.

What works write is gathered, and goes to the database in bulk when the transaction ends or when
somebody has to find it there. It decides nothing, and must never show one work what another one
wrote and then failed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from primum.application.rowstore import Foreseen, Pages, Pen
from primum.domain.budget.book import Account, Head
from primum.domain.budget.entries import Entry, ReservationView
from primum.domain.budget.lines import Line
from primum.domain.budget.verification import Stated
from primum.domain.errors import Conflict

Answer = TypeVar("Answer")
_Key = tuple[str, str]  # An account's id and an idempotency key.


@dataclass(slots=True)
class Batch:
    """Writes: every entry in the order of the chain, of everything else the newest."""

    head: Head | None = None
    entries: dict[_Key, Entry] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)
    reservations: dict[str, ReservationView] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was written."""
        return not (self.head or self.entries or self.accounts or self.reservations)

    def take(self, later: Batch) -> None:
        """Add what was written later."""
        self.head = later.head or self.head
        self.entries.update(later.entries)
        self.accounts.update(later.accounts)
        self.reservations.update(later.reservations)


@dataclass(frozen=True, slots=True)
class Found:
    """What was foreseen and is there."""

    accounts: Mapping[str, Account]
    reservations: Mapping[str, ReservationView]
    entries: Mapping[_Key, Entry]


class Undo(Protocol):
    """A place in a transaction to which it can go back."""

    def commit(self) -> None:
        """Keep what came after it."""
        ...

    def rollback(self) -> None:
        """Drop what came after it."""
        ...


class Rows(Pages, Protocol):
    """What the pen needs of a database, within one transaction."""

    def find(self, foreseen: Foreseen, known: Collection[str]) -> Found:
        """Read what is foreseen, in bulk, but for the accounts that are known."""
        ...

    def put(self, batch: Batch, stored: Mapping[str, Account | None]) -> None:
        """Write in bulk; ``stored`` is how the batch's accounts stand in the database."""
        ...

    def mark(self) -> Undo:
        """Remember this place of the transaction."""
        ...


class LatePen:
    """``Pen`` over one transaction, used by one work after another.

    Args:
        rows: The rows, already locked against every other writer.
        accounts: Accounts that are known to stand so in the database.
    """

    def __init__(self, rows: Rows, accounts: Mapping[str, Account]) -> None:
        self._rows = rows
        # Read, or written by works that ended well.
        self._known = Batch(rows.head(), accounts=dict(accounts))
        self._absent: set[Hashable] = set()  # Looked for, and not there.
        # Accounts as they stand in the database.
        self._stored: dict[str, Account | None] = dict(accounts)
        self._kept = Batch()  # Written by works that ended well, and not in the database yet.
        self._work = _Work()
        self._checks: dict[Hashable, Any] = {}

    def foresee(self, foreseen: Foreseen) -> None:
        """Read at once what works will look at."""
        found = self._rows.find(foreseen, self._known.accounts.keys())
        self._known.accounts.update(found.accounts)
        self._stored.update(found.accounts)
        self._known.reservations.update(found.reservations)
        self._known.entries.update(found.entries)
        self._absent.update(set(foreseen.reservations) - found.reservations.keys())
        accounts = {*foreseen.accounts, *(r.account_id for r in found.reservations.values())}
        words = {(account, key) for account in accounts for key in foreseen.keys}
        self._absent.update(words - found.entries.keys())

    def run(self, work: Callable[[Pen], Answer]) -> Answer:
        """Run a work; what it wrote stays if it ends well, and only then."""
        self._work = _Work()
        try:
            answer = work(self)
        except BaseException:
            self._drop()
            raise
        if self._work.undo is not None:
            self._work.undo.commit()
        self._known.take(self._work.written)
        self._kept.take(self._work.pending)
        self._work = _Work()
        return answer

    @property
    def known(self) -> Mapping[str, Account]:
        """Accounts as they stand after all works that ended well."""
        return self._known.accounts

    def flush(self) -> None:
        """Write what works that ended well have left."""
        batch, self._kept = self._kept, Batch()
        self._put(batch)

    def once(self, check: Callable[[Pages], Answer]) -> Answer:
        """What a check finds that is made once per transaction."""
        if check not in self._checks:
            self._checks[check] = check(self)
        answer: Answer = self._checks[check]
        return answer

    def head(self) -> Head:
        """The end of the chain, with what is not in the database yet."""
        head = self._work.written.head or self._known.head
        return self._rows.head() if head is None else head

    def account(self, account_id: str) -> Account | None:
        """An account, as the last work left it."""
        found = self._work.written.accounts.get(account_id) or self._known.accounts.get(account_id)
        if found is None:
            found = self._rows.account(account_id)
            self._stored[account_id] = found
            if found is not None:
                self._known.accounts[account_id] = found
        return found

    def reservation(self, reservation_id: str) -> ReservationView | None:
        """A reservation, as the last work left it."""
        written, known = self._work.written.reservations, self._known.reservations
        found = written.get(reservation_id) or known.get(reservation_id)
        if found is None and reservation_id not in self._absent:
            found = self._rows.reservation(reservation_id)
            if found is None:
                self._absent.add(reservation_id)
            else:
                known[reservation_id] = found
        return found

    def earlier(self, account_id: str, key: str) -> Entry | None:
        """The entry of an account with this idempotency key."""
        word = account_id, key
        found = self._work.written.entries.get(word) or self._known.entries.get(word)
        if found is None and word not in self._absent:
            found = self._rows.earlier(account_id, key)
            if found is None:
                self._absent.add(word)
            else:
                self._known.entries[word] = found
        return found

    def accounts(self) -> Sequence[Account]:
        """Every account, oldest first."""
        return self._settled().accounts()

    def accounts_of(self, identity: str) -> Sequence[Account]:
        """Every account whose data is known under an identity, oldest first."""
        return self._settled().accounts_of(identity)

    def reservations(self, *, account_id: str, study_uid: str) -> Sequence[ReservationView]:
        """Reservations, oldest first."""
        return self._settled().reservations(account_id=account_id, study_uid=study_uid)

    def lapsed(self, now: str) -> Sequence[ReservationView]:
        """Reservations that may still change whose lease or wait ended, oldest first."""
        return self._settled().lapsed(now)

    def queued(self) -> Sequence[ReservationView]:
        """Claims that wait, oldest first."""
        return self._settled().queued()

    def entries(self, *, account_id: str, after: int, limit: int) -> Sequence[Entry]:
        """Entries by sequence number."""
        return self._settled().entries(account_id=account_id, after=after, limit=limit)

    def lines(self, *, after: int, limit: int) -> Sequence[Line]:
        """Entries by sequence number, as stored."""
        return self._settled().lines(after=after, limit=limit)

    def checkpoints(self) -> Sequence[Line]:
        """Every entry that keeps a checkpoint, as stored."""
        return self._settled().checkpoints()

    def last_checkpoint(self) -> Head:
        """Where the last entry that keeps a checkpoint stands."""
        return self._settled().last_checkpoint()

    def hash_at(self, seq: int) -> str:
        """The hash of an entry, or empty."""
        return self._settled().hash_at(seq)

    def contradictions(self, stated: Sequence[Stated]) -> Sequence[str]:
        """What ``verification.contradictions`` finds in everything stored."""
        return self._settled().contradictions(stated)

    def chain_faults(self) -> Sequence[str]:
        """What ``verification.chain_faults`` finds in everything stored."""
        return self._settled().chain_faults()

    def append(self, entry: Entry) -> None:
        """Add an entry.

        Raises:
            Conflict: If its account has one with its idempotency key.
        """
        word = entry.account_id, entry.idempotency_key
        if word in self._work.written.entries or word in self._known.entries:
            raise Conflict(f"idempotency key must be new; found {entry.idempotency_key!r}.")
        self._work.written.entries[word] = self._work.pending.entries[word] = entry

    def put_account(self, account: Account) -> None:
        """Replace an account."""
        self.account(account.account_id)  # What changes of it is found by what is stored.
        written, pending = self._work.written, self._work.pending
        written.accounts[account.account_id] = pending.accounts[account.account_id] = account

    def put_reservation(self, reservation: ReservationView) -> None:
        """Replace a reservation."""
        name, written, pending = reservation.reservation_id, self._work.written, self._work.pending
        written.reservations[name] = pending.reservations[name] = reservation

    def put_head(self, head: Head) -> None:
        """Move the end of the chain."""
        self._work.written.head = self._work.pending.head = head

    def _settled(self) -> Rows:
        """The database, after everything written so far has got there."""
        self.flush()
        if not self._work.pending.is_empty:
            if self._work.undo is None:
                self._work.undo = self._rows.mark()
            batch, self._work.pending = self._work.pending, Batch()
            for name in batch.accounts:
                self._work.stored.setdefault(name, self._stored[name])
            self._put(batch)
        return self._rows

    def _put(self, batch: Batch) -> None:
        if not batch.is_empty:
            self._rows.put(batch, self._stored)
            self._stored.update(batch.accounts)

    def _drop(self) -> None:
        """Forget what a failed work wrote."""
        if self._work.undo is not None:
            self._stored.update(self._work.stored)
            self._work.undo.rollback()
        self._work = _Work()


@dataclass(slots=True)
class _Work:
    """What the present work has done so far.

    Args:
        written: Everything it wrote.
        pending: What of that is not in the database yet.
        undo: The place before the first of its writes that is, or ``None``.
        stored: How the accounts among those stood in the database at that place.
    """

    written: Batch = field(default_factory=Batch)
    pending: Batch = field(default_factory=Batch)
    undo: Undo | None = None
    stored: dict[str, Account | None] = field(default_factory=dict)
