"""The ledger's reference row store, in memory, with the clock and the anchor that tests hold.

A part of ``primum.adapters.memory``, which is what others import.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from primum.application.bookkeeping import Bookkeeping
from primum.application.ports import Clock, LedgerAnchor
from primum.application.rowstore import NOTHING_FORESEEN, Foreseen, Pages, Pen, unwatched
from primum.domain.budget import lines, verification
from primum.domain.budget.book import LIVE_STATES, Account, Head
from primum.domain.budget.decisions import later
from primum.domain.budget.entries import (
    Entry,
    EntryKind,
    ReservationState,
    ReservationView,
)
from primum.domain.budget.lines import Line
from primum.domain.budget.verification import Stated
from primum.domain.errors import Conflict

Answer = TypeVar("Answer")


class ManualClock:
    """``Clock`` that moves only when told.

    Args:
        start: Where it stands, RFC 3339 in UTC with microseconds.
    """

    def __init__(self, start: str = "2026-01-01T00:00:00.000000Z") -> None:
        self._now = start

    def now(self) -> str:
        """Where it stands."""
        return self._now

    def after(self, seconds: float) -> str:
        """The time that many seconds later."""
        return later(self._now, seconds)

    def advance(self, seconds: float) -> None:
        """Move it; a negative number moves it back, as real clocks sometimes do."""
        self._now = later(self._now, seconds)


class MemoryAnchor:
    """``LedgerAnchor`` in memory."""

    def __init__(self) -> None:
        self._held: tuple[int, str] | None = None

    def read(self) -> tuple[int, str] | None:
        """What was anchored last."""
        return self._held

    def write(self, seq: int, digest: str) -> None:
        """Move it forward."""
        if self._held is None or self._held[0] < seq:
            self._held = (seq, digest)


@dataclass(slots=True)
class LedgerRows:
    """The rows of a ledger in memory; entries are kept as stored text, as a database keeps them."""

    head: Head = field(default_factory=Head)
    lines: list[Line] = field(default_factory=list)
    accounts: dict[str, Account] = field(default_factory=dict)
    reservations: dict[str, ReservationView] = field(default_factory=dict)
    keys: dict[tuple[str, str], int] = field(default_factory=dict)

    def copied(self) -> LedgerRows:
        """A copy that can be changed without changing this one."""
        return LedgerRows(
            self.head,
            list(self.lines),
            dict(self.accounts),
            dict(self.reservations),
            dict(self.keys),
        )


class _MemoryBook:
    """``Pen`` over rows in memory."""

    def __init__(self, rows: LedgerRows) -> None:
        self._rows = rows

    def head(self) -> Head:
        return self._rows.head

    def account(self, account_id: str) -> Account | None:
        return self._rows.accounts.get(account_id)

    def accounts(self) -> Sequence[Account]:
        return sorted(self._rows.accounts.values(), key=lambda account: account.opened)

    def accounts_of(self, identity: str) -> Sequence[Account]:
        return [account for account in self.accounts() if identity in account.identities]

    def reservation(self, reservation_id: str) -> ReservationView | None:
        return self._rows.reservations.get(reservation_id)

    def reservations(self, *, account_id: str, study_uid: str) -> Sequence[ReservationView]:
        return tuple(
            item
            for item in sorted(self._rows.reservations.values(), key=lambda item: item.fence)
            if account_id in ("", item.account_id) and study_uid in ("", item.study_uid)
        )

    def earlier(self, account_id: str, key: str) -> Entry | None:
        seq = self._rows.keys.get((account_id, key))
        return None if seq is None else lines.entry_of(self._rows.lines[seq - 1])

    def lapsed(self, now: str) -> Sequence[ReservationView]:
        everything = self.reservations(account_id="", study_uid="")
        return [i for i in everything if i.state in LIVE_STATES and i.lease_until <= now]

    def queued(self) -> Sequence[ReservationView]:
        everything = self.reservations(account_id="", study_uid="")
        return [item for item in everything if item.state is ReservationState.QUEUED]

    def entries(self, *, account_id: str, after: int, limit: int) -> Sequence[Entry]:
        found = [
            line
            for line in self._rows.lines
            if line.seq > after and account_id in ("", line.account_id)
        ]
        return tuple(lines.entry_of(line) for line in found[:limit])

    def lines(self, *, after: int, limit: int) -> Sequence[Line]:
        return [line for line in self._rows.lines if line.seq > after][:limit]

    def checkpoints(self) -> Sequence[Line]:
        return [line for line in self._rows.lines if line.kind == EntryKind.CHECKPOINT]

    def last_checkpoint(self) -> Head:
        kept = self.checkpoints()
        return Head(kept[-1].seq, kept[-1].hash, kept[-1].time) if kept else Head()

    def hash_at(self, seq: int) -> str:
        return next((line.hash for line in self._rows.lines if line.seq == seq), "")

    def contradictions(self, stated: Sequence[Stated]) -> Sequence[str]:
        rows = self._rows
        named = {line.reservation_id for line in rows.lines}
        cached = verification.Cached(
            head=rows.head,
            accounts=list(rows.accounts.values()),
            reservations_of=lambda names: {
                name: rows.reservations[name] for name in names if name in rows.reservations
            },
            strays=sorted(rows.reservations.keys() - named),
            identities=[(i, a.account_id) for a in rows.accounts.values() for i in a.identities],
        )
        return verification.contradictions(rows.lines, cached, stated)

    def chain_faults(self) -> Sequence[str]:
        return verification.chain_faults(self._rows.lines, self._rows.head)

    def once(self, check: Callable[[Pages], Answer]) -> Answer:
        return check(self)

    def append(self, entry: Entry) -> None:
        key = (entry.account_id, entry.idempotency_key)
        if key in self._rows.keys:
            raise Conflict(f"idempotency key must be new; found {entry.idempotency_key!r}.")
        self._rows.keys[key] = entry.seq
        self._rows.lines.append(lines.line_of(entry))

    def put_account(self, account: Account) -> None:
        self._rows.accounts[account.account_id] = account

    def put_reservation(self, reservation: ReservationView) -> None:
        self._rows.reservations[reservation.reservation_id] = reservation

    def put_head(self, head: Head) -> None:
        self._rows.head = head


class MemoryRowStore:
    """``RowStore`` in memory: one writer at a time, and a transaction that fails leaves nothing.

    Args:
        rows: The rows; may be swapped for older ones, which is what a restored backup does.
    """

    def __init__(self, rows: LedgerRows | None = None) -> None:
        self.rows = rows or LedgerRows()
        self._lock = threading.RLock()

    def read(self, work: Callable[[Pages], Answer]) -> Answer:
        """Run read-only work."""
        with self._lock:
            return work(_MemoryBook(self.rows))

    def ask(self, work: Callable[[Pages], Answer]) -> Answer:
        """The same: nothing costs less here."""
        return self.read(work)

    def write(
        self,
        work: Callable[[Pen], Answer],
        *,
        foreseen: Foreseen = NOTHING_FORESEEN,
        durable: Callable[[Head], None] = unwatched,
    ) -> Answer:
        """Run work on a copy that replaces the rows if it ends well."""
        del foreseen  # Everything is at hand.
        with self._lock:
            fresh = self.rows.copied()
            answer = work(_MemoryBook(fresh))
            before, self.rows = self.rows, fresh
            if fresh.head.seq != before.head.seq:
                durable(fresh.head)
            return answer


class MemoryLedgerStore(Bookkeeping):
    """``LedgerStore`` in memory."""

    def __init__(self, *, clock: Clock, anchor: LedgerAnchor | None = None) -> None:
        self.store = MemoryRowStore()
        super().__init__(self.store, clock=clock, anchor=anchor)
