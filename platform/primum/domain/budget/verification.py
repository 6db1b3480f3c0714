"""Is the record intact? Recomputes the chain and all that follows from it; names what contradicts.

It must not trust anything but the entries and what was signed elsewhere, must go on after the first
fault, so that an officer sees the extent, and must stream: per entry it keeps a few bytes, and in
full only accounts and open reservations.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from primum.domain.budget import checkpoints, folding
from primum.domain.budget.book import HASH_OF_NOTHING, LIVE_STATES, Account, Head
from primum.domain.budget.checkpoints import Checkpoint
from primum.domain.budget.entries import Entry, EntryKind, ReservationView
from primum.domain.budget.lines import Line, entry_of, hash_of
from primum.domain.budget.recounting import Recount
from primum.domain.budget.weighing import Tally
from primum.domain.errors import PrimumError

FAULTS_MAX = 1000  # Sentences kept: a destroyed ledger needs no longer list.
_JUDGED_AT_ONCE = 500  # Reservations per look into the store; any database takes so many.


@dataclass(frozen=True, slots=True)
class Cached:
    """What a store keeps beside the entries, to be compared with their replay.

    Args:
        head: The end of the chain.
        accounts: Every account.
        reservations_of: The reservations of these ids, by id; those that are there.
        strays: Ids of reservations that no entry names.
        identities: Every (identity, account id) under which a dataset is looked up.
        faults: What could not be read at all, as sentences; may grow while the rest is read.
    """

    head: Head
    accounts: Sequence[Account]
    reservations_of: Callable[[Sequence[str]], Mapping[str, ReservationView]]
    strays: Sequence[str]
    identities: Sequence[tuple[str, str]]
    faults: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Stated:
    """A checkpoint whose signature holds, and where it was found."""

    checkpoint: Checkpoint
    source: str


class Chain:
    """Numbers, links, times, keys and hashes of the entries, as they come by."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._seq, self._hash, self._time = 0, HASH_OF_NOTHING, ""
        self._keys = _Once()

    @property
    def seq(self) -> int:
        """Number of the last entry."""
        return self._seq

    @property
    def head(self) -> Head:
        """Where the entries stand."""
        return Head(self._seq, self._hash, self._time)

    def take(self, line: Line) -> None:
        """Look at the next entry."""
        faults = self.faults
        try:
            if line.seq != self._seq + 1:
                faults.append(
                    f"Entry {self._seq + 1} must be there; "
                    f"found entry {line.seq} after {self._seq}."
                )
            if line.prev_hash != self._hash:
                faults.append(
                    f"Entry {line.seq} must follow the hash of the entry before; found another."
                )
            if line.time < self._time:
                faults.append(
                    f"Entry {line.seq} must not be older than the entry before; "
                    f"found {line.time[:40]}."
                )
            if hash_of(line) != line.hash:
                faults.append(f"Entry {line.seq} must match its hash; found changed content.")
            self._keys.add(line.seq, f"{line.account_id}\0{line.idempotency_key}")
            self._time = max(line.time, self._time)
        except PrimumError as error:
            faults.append(str(error))
        except TypeError:
            faults.append(f"Entry {line.seq} must be readable; found damaged text.")
        # The recorded hash is carried on, so that one changed entry is one fault and not a fault in
        # all that follow.
        self._seq, self._hash = line.seq, line.hash

    def finish(self) -> None:
        """Look at what only the whole chain shows."""
        for seq, earlier in self._keys.repeated():
            self.faults.append(
                f"Entry {seq} must have a key of its own; found that of entry {earlier}."
            )


class Replay:
    """What the entries make of accounts and reservations, and whether they may.

    Args:
        stated: Signed checkpoints to be met on the way.
        judge: What is wrong with reservations as they stand after their last entry, as sentences.
    """

    def __init__(
        self,
        stated: Sequence[Stated] = (),
        judge: Callable[[Sequence[ReservationView]], Iterable[str]] = lambda _: (),
    ) -> None:
        self.accounts: dict[str, Account] = {}
        self._chain = Chain()
        self._open: dict[str, ReservationView] = {}
        self._ended: list[ReservationView] = []
        self._made = _Once()
        self._recount = Recount()
        self._judge = judge
        self._digest = checkpoints.AccountsDigest()
        self._stated: dict[int, list[Stated]] = {}
        for item in stated:
            self._stated.setdefault(item.checkpoint.seq, []).append(item)
        self._meet()

    @property
    def faults(self) -> list[str]:
        """What was found so far."""
        return self._chain.faults

    @property
    def head(self) -> Head:
        """Where the entries stand."""
        return self._chain.head

    def take(self, line: Line) -> Entry | None:
        """Look at the next entry; gives it, read, unless it is damaged."""
        known = len(self.faults)
        self._chain.take(line)
        try:
            entry = entry_of(line)
            self._fold(entry)
        except PrimumError as error:
            # Text that does not match its hash is one fault, whatever else is wrong with it.
            if len(self.faults) == known:
                self.faults.append(str(error))
            entry = None
        self._meet()
        return entry

    def finish(self) -> None:
        """Look at what only the end shows."""
        self._chain.finish()
        for seq, earlier in self._made.repeated():
            self.faults.append(
                f"Entry {seq} must make a new reservation; found that of entry {earlier}."
            )
        for reservation in [*self._ended, *self._open.values()]:
            self._end(reservation)
        self._flush()
        for seq in sorted(self._stated):
            for item in self._stated[seq]:
                found = f"its end at {self.head.seq}" if seq > self.head.seq else "none"
                self.faults.append(
                    f"The ledger must hold entry {seq}, which {item.source} states; found {found}."
                )

    def _fold(self, entry: Entry) -> None:
        if entry.kind is EntryKind.CHECKPOINT:
            checkpoints.envelope_in(entry.payload, seq=entry.seq)
        name = entry.reservation_id
        before = self.accounts.get(entry.account_id)
        known = self._open.get(name) if name else None
        account, reservation = folding.fold(entry, before, known)
        if entry.kind is EntryKind.RESERVED and before is not None and reservation is not None:
            self._check_room(entry, before, reservation)
        if account is not None:
            self.accounts[account.account_id] = account
            if entry.kind is EntryKind.CONFIGURED:
                self._check_counts(entry, account)
        if reservation is None:
            return
        if known is None:
            self._made.add(entry.seq, name)
        if reservation.state in LIVE_STATES:
            self._open[name] = reservation
        else:
            self._open.pop(name, None)
            self._recount.take(reservation)
            self._end(reservation)

    def _end(self, reservation: ReservationView) -> None:
        self._ended.append(reservation)
        if len(self._ended) >= _JUDGED_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        ended, self._ended = self._ended, []
        self.faults.extend(self._judge(ended))

    def _check_room(self, entry: Entry, before: Account, reservation: ReservationView) -> None:
        """Was what was reserved admitted then? Catches a ledger that was made up whole."""
        if before.frozen:
            self.faults.append(
                f"Entry {entry.seq} must not reserve on a frozen account; "
                f"found {before.account_id}."
            )
        missing = Tally().missing(before, reservation, reservation.blocks, reservation.charge)
        if missing is not None:
            self.faults.append(f"Entry {entry.seq} must fit what its account had left; found more.")

    def _check_counts(self, entry: Entry, after: Account) -> None:
        """Were new quotas given all that was taken before them?"""
        if not self._recount.agrees(after, self._open.values()):
            self.faults.append(
                f"Entry {entry.seq} must give quotas what was taken before them; "
                "found other counts."
            )

    def _meet(self) -> None:
        """Compare with what was stated about this place."""
        if self._chain.seq not in self._stated:
            return
        for item in self._stated.pop(self.head.seq):
            if item.checkpoint.hash != self.head.hash:
                self.faults.append(
                    f"Entry {self.head.seq} must be the one that {item.source} states; "
                    "found another hash."
                )
            elif item.checkpoint.accounts != self._digest.of(self.accounts.values()):
                self.faults.append(
                    f"Balances after entry {self.head.seq} must be what {item.source} states; "
                    "found others."
                )


def chain_faults(lines: Iterable[Line]) -> tuple[str, ...]:
    """What contradicts in the entries' numbers, links, times, keys and hashes alone.

    Args:
        lines: Every entry, by sequence number.

    Returns:
        Sentences, at most 1000.
    """
    chain = Chain()
    for line in lines:
        chain.take(line)
        if len(chain.faults) >= FAULTS_MAX:
            break
    chain.finish()
    return tuple(chain.faults[:FAULTS_MAX])


def contradictions(
    lines: Iterable[Line], cached: Cached, stated: Sequence[Stated] = ()
) -> tuple[str, ...]:
    """Every contradiction between the entries themselves and between them and what is cached.

    Args:
        lines: Every entry, by sequence number.
        cached: What the store keeps beside them.
        stated: Signed checkpoints, from entries and from outside.

    Returns:
        Sentences, at most 1000; nothing for an intact ledger.
    """

    def judge(replayed: Sequence[ReservationView]) -> Iterator[str]:
        stored = cached.reservations_of([item.reservation_id for item in replayed])
        for item in replayed:
            fault = _reservation_fault(stored.get(item.reservation_id), item)
            if fault:
                yield (
                    f"Reservation {item.reservation_id} must be what its entries say; "
                    f"found {fault}."
                )

    replay = Replay(stated, judge)
    for line in lines:
        replay.take(line)
        if len(replay.faults) >= FAULTS_MAX:
            return tuple(replay.faults[:FAULTS_MAX])
    replay.finish()
    return tuple([*replay.faults, *_differences(replay, cached)][:FAULTS_MAX])


def _differences(replay: Replay, cached: Cached) -> Iterator[str]:
    yield from cached.faults
    if (cached.head.seq, cached.head.hash) != (replay.head.seq, replay.head.hash):
        yield (
            f"The chain must end at entry {cached.head.seq} as the head says; found its end at "
            f"{replay.head.seq}."
        )
    accounts = {account.account_id: account for account in cached.accounts}
    for account_id in sorted({*accounts, *replay.accounts}):
        if accounts.get(account_id) != replay.accounts.get(account_id):
            yield f"Account {account_id} must be what its entries say; found another balance."
    for reservation_id in cached.strays:
        yield (
            f"Reservation {reservation_id} must be what its entries say; found one without entries."
        )
    wanted = {(item, a.account_id) for a in replay.accounts.values() for item in a.identities}
    if wanted != set(cached.identities):
        yield "Datasets must be looked up under the identities their entries say; found others."


def _reservation_fault(stored: ReservationView | None, replayed: ReservationView) -> str:
    if stored is None:
        return "none that can be read"
    if stored == replayed:
        return ""
    for name in ReservationView.__dataclass_fields__:
        left, right = getattr(stored, name), getattr(replayed, name)
        # Heartbeats move a lease without an entry, and only ever forward.
        if left != right and not (name == "lease_until" and left > right):
            return f"another {name}"
    return ""


class _Once:
    """Words that may come once each; kept as 16 bytes, so that a million take 24 MB.

    Equal words always have equal hashes; Python's are keyed, so that nobody can make up others.
    """

    def __init__(self) -> None:
        self._seqs = array("q")
        self._words = array("q")

    def add(self, seq: int, word: str) -> None:
        self._words.append(hash(word))
        self._words.append(hash(f"{word}\0"))
        self._seqs.append(seq)

    def repeated(self) -> Iterator[tuple[int, int]]:
        """(Number of the entry, number of the entry that had the word before it)."""
        words = np.frombuffer(self._words, dtype=np.int64).reshape(-1, 2)
        order = np.lexsort((np.arange(len(words)), words[:, 1], words[:, 0]))
        same = (words[order[1:]] == words[order[:-1]]).all(axis=1)
        for place in np.flatnonzero(same):
            yield self._seqs[order[place + 1]], self._seqs[order[place]]
