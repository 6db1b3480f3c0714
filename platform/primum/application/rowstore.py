"""What the ledger's bookkeeping needs of a place that keeps its rows.

Rows are what the domain made of entries. A store keeps them and runs work on them in transactions;
it decides nothing and computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from primum.domain.budget.book import Account, Book, Head
from primum.domain.budget.entries import Entry, ReservationView
from primum.domain.budget.lines import Line
from primum.domain.budget.verification import Stated

Answer = TypeVar("Answer")


class Pages(Book, Protocol):
    """A book that can also be read at length. Everything comes from one serializable moment."""

    def accounts(self) -> Sequence[Account]:
        """Every account, oldest first."""
        ...

    def reservations(self, *, account_id: str, study_uid: str) -> Sequence[ReservationView]:
        """Reservations, oldest first; an empty id does not restrict."""
        ...

    def entries(self, *, account_id: str, after: int, limit: int) -> Sequence[Entry]:
        """Entries by sequence number; an empty id does not restrict."""
        ...

    def lines(self, *, after: int, limit: int) -> Sequence[Line]:
        """Entries by sequence number, as stored."""
        ...

    def checkpoints(self) -> Sequence[Line]:
        """Every entry that keeps a checkpoint, oldest first, as stored."""
        ...

    def last_checkpoint(self) -> Head:
        """Where the last entry that keeps a checkpoint stands; an empty head for none."""
        ...

    def hash_at(self, seq: int) -> str:
        """The hash of an entry, or empty."""
        ...

    def contradictions(self, stated: Sequence[Stated]) -> Sequence[str]:
        """What ``verification.contradictions`` finds in everything stored."""
        ...

    def chain_faults(self) -> Sequence[str]:
        """What ``verification.chain_faults`` finds in everything stored."""
        ...


class Pen(Pages, Protocol):
    """A book that can be written. Nothing is durable before the transaction ends well."""

    def once(self, check: Callable[[Pages], Answer]) -> Answer:
        """What a check finds that is made once per transaction, before anything is written."""
        ...

    def append(self, entry: Entry) -> None:
        """Add an entry."""
        ...

    def put_account(self, account: Account) -> None:
        """Replace an account's rows and the identities it is found by."""
        ...

    def put_reservation(self, reservation: ReservationView) -> None:
        """Replace a reservation's row."""
        ...

    def put_head(self, head: Head) -> None:
        """Replace the end of the chain."""
        ...


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a work will look at: a store may read it at once for several works.

    It changes how long a work takes, never what it comes to: whatever else a work asks for is read
    when it asks.

    Args:
        accounts: Accounts, by id.
        reservations: Reservations, by id; their accounts are foreseen too.
        keys: Idempotency keys, which entries of these accounts may have.
    """

    accounts: tuple[str, ...] = ()
    reservations: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


NOTHING_FORESEEN = Foreseen()


def unwatched(head: Head) -> None:
    """Nobody wants to know where the chain ends."""
    del head


class RowStore(Protocol):
    """Where rows are kept, and read and written in transactions."""

    def read(self, work: Callable[[Pages], Answer]) -> Answer:
        """Run read-only work on one snapshot."""
        ...

    def ask(self, work: Callable[[Pages], Answer]) -> Answer:
        """Run read-only work that asks for one thing of one kind of row, which may cost less.

        A second thing that it asks for may be of a later snapshot: such work is ``read``.
        """
        ...

    def write(
        self,
        work: Callable[[Pen], Answer],
        *,
        foreseen: Foreseen = NOTHING_FORESEEN,
        durable: Callable[[Head], None] = unwatched,
    ) -> Answer:
        """Run work as a part of one durable, serializable transaction.

        Guarantees:
            A transaction may hold the work of several callers, one after another; each sees what
            those before it wrote. What a work raises is its caller's alone, and nothing of it
            stays. Nobody is answered before the transaction is durable and ``durable`` has
            returned; a transaction that fails is an error for every caller in it, and nothing of it
            stays. The work may run again after a conflict.

        Args:
            work: What to do.
            foreseen: What it will look at.
            durable: Told once per transaction where the chain ends now, if it moved.
        """
        ...
