"""What the entries of some accounts make of these accounts, and whether they may.

An entry changes one account and one reservation of it, so that a ledger can be replayed in shards:
each looks at every entry of its own accounts, in order, and at no other's. What joins them is in
``verification``; a shard of every account is the whole. It must stream: per entry it keeps a few
bytes, and in full only accounts and open reservations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from primum.domain.budget import checkpoints, folding
from primum.domain.budget.book import LIVE_STATES, Account
from primum.domain.budget.chain import AFTER_ALL, Fault, Once, Seen, damaged, is_enough
from primum.domain.budget.entries import Entry, EntryKind, ReservationView
from primum.domain.budget.lines import Line, entry_of, hash_of
from primum.domain.budget.recounting import Recount
from primum.domain.budget.weighing import Tally
from primum.domain.errors import PrimumError

_JUDGED_AT_ONCE = 500  # Reservations per look into the store; any database takes so many.

# What a store has of these reservations, by id; an error in place of what cannot be read.
Stored = Callable[[Sequence[str]], Mapping[str, "ReservationView | PrimumError"]]


@dataclass(frozen=True, slots=True)
class Ending:
    """What a shard has come to.

    Args:
        faults: What contradicts, each at its place.
        seen: Which entries it looked at.
        accounts: Its accounts as they stand, by id.
        still_open: Reservations that may still change.
        made: Every reservation that was made, by the number of its entry.
        stopped: Whether it looked no further, for it had found enough.
    """

    faults: Sequence[Fault]
    seen: Seen
    accounts: Mapping[str, Account]
    still_open: Sequence[ReservationView]
    made: Once
    stopped: bool


class Chained:
    """Looks at the content of entries against their hashes, and at their keys, and no further."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.seen = Seen()
        self._keys = Once()

    @property
    def has_enough(self) -> bool:
        """Whether it has found as much as anybody will read."""
        return is_enough(self.faults)

    def take(self, line: Line) -> bool:
        """Look at the next entry; says whether it is text at all."""
        self.seen.add(line.hash)
        try:
            if hash_of(line) != line.hash:
                text = f"Entry {line.seq} must match its hash; found changed content."
                self.faults.append(Fault(line.seq, 1, text))
            self._keys.add(line.seq, f"{line.account_id}\0{line.idempotency_key}")
        except PrimumError:
            self.faults.append(damaged(line.seq))
            return False
        return True

    def changed(self) -> dict[str, str]:
        """Nothing: it keeps no balances."""
        return {}

    def finish(self) -> Ending:
        """Look at what only the end shows."""
        stopped = self.has_enough
        for seq, earlier in self._keys.repeated():
            text = f"Entry {seq} must have a key of its own; found that of entry {earlier}."
            self.faults.append(Fault(AFTER_ALL + seq, 0, text))
        return Ending(self.faults, self.seen, {}, (), Once(), stopped)


class Shard:
    """Replays the entries of some accounts.

    Args:
        stored: Finds reservations that have ended where a store keeps them; ``None`` where nothing
            is kept beside the entries.
    """

    def __init__(self, stored: Stored | None = None) -> None:
        self._chained = Chained()
        self._stored = stored
        self._accounts: dict[str, Account] = {}
        self._open: dict[tuple[str, str], ReservationView] = {}
        self._ended: list[tuple[int, ReservationView]] = []
        self._made = Once()
        self._recount = Recount()
        self._touched: set[str] = set()
        self._told: dict[str, object] = {}

    @property
    def faults(self) -> Sequence[Fault]:
        """What was found so far."""
        return self._chained.faults

    @property
    def has_enough(self) -> bool:
        """Whether it has found as much as anybody will read."""
        return self._chained.has_enough

    def take(self, line: Line) -> Entry | None:
        """Look at the next entry; gives it, read, unless it is damaged."""
        known = len(self.faults)
        if not self._chained.take(line):
            return None
        try:
            entry = entry_of(line)
            self._fold(entry)
        except PrimumError as error:
            # Text that does not match its hash is one fault, whatever else is wrong with it.
            if len(self.faults) == known:
                self._found(line.seq, str(error))
            return None
        return entry

    def changed(self) -> dict[str, str]:
        """What balances are by now, as text by account: those that changed since the last call."""
        found = {}
        for name in self._touched:
            account = self._accounts[name]
            if self._told.get(name) is not account.blocks:
                self._told[name] = account.blocks
                found[name] = checkpoints.balance_text(account)
        self._touched.clear()
        return found

    def finish(self) -> Ending:
        """Look at what only the end shows."""
        stopped = self.has_enough
        self._flush()
        chained = self._chained.finish()
        return Ending(
            chained.faults,
            chained.seen,
            self._accounts,
            list(self._open.values()),
            self._made,
            stopped,
        )

    def _found(self, seq: int, text: str) -> None:
        self._chained.faults.append(Fault(seq, 2, text))

    def _fold(self, entry: Entry) -> None:
        if entry.kind is EntryKind.CHECKPOINT:
            checkpoints.envelope_in(entry.payload, seq=entry.seq)
        name = entry.account_id, entry.reservation_id
        before = self._accounts.get(entry.account_id)
        known = self._open.get(name) if entry.reservation_id else None
        account, reservation = folding.fold(entry, before, known)
        if entry.kind is EntryKind.RESERVED and before is not None and reservation is not None:
            self._check_room(entry, before, reservation)
        if account is not None:
            self._accounts[entry.account_id] = account
            self._touched.add(entry.account_id)
            if entry.kind is EntryKind.CONFIGURED:
                self._check_counts(entry, account)
        if reservation is None:
            return
        if known is None:
            self._made.add_alike(entry.seq, entry.reservation_id)
        if reservation.state in LIVE_STATES:
            self._open[name] = reservation
        else:
            self._open.pop(name, None)
            self._recount.take(reservation)
            if self._stored is not None:
                self._end(entry.seq, reservation)

    def _end(self, seq: int, reservation: ReservationView) -> None:
        self._ended.append((seq, reservation))
        if len(self._ended) >= _JUDGED_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        ended, self._ended = self._ended, []
        if self._stored is not None:
            found = compared([item for _, item in ended], self._stored)
            self._chained.faults += [Fault(ended[at][0], 3, text) for at, text in found]

    def _check_room(self, entry: Entry, before: Account, reservation: ReservationView) -> None:
        """Was what was reserved admitted then? Catches a ledger that was made up whole."""
        if before.frozen:
            self._found(
                entry.seq,
                f"Entry {entry.seq} must not reserve on a frozen account; "
                f"found {before.account_id}.",
            )
        missing = Tally().missing(before, reservation, reservation.blocks, reservation.charge)
        if missing is not None:
            text = f"Entry {entry.seq} must fit what its account had left; found more."
            self._found(entry.seq, text)

    def _check_counts(self, entry: Entry, after: Account) -> None:
        """Were new quotas given all that was taken before them?"""
        if not self._recount.agrees(after, self._open.values()):
            self._found(
                entry.seq,
                f"Entry {entry.seq} must give quotas what was taken before them; "
                "found other counts.",
            )


def replayed(
    shard: Shard | Chained, lines: Iterable[Line], places: Sequence[int]
) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Have a shard look at its entries, and stop at places to say what balances are.

    Args:
        shard: What replays.
        lines: Its entries, by number.
        places: Numbers of entries, its own or others', ascending.

    Yields:
        Each place, and what ``changed`` says after all entries up to it; none after the shard has
        found enough.
    """
    told = 0
    for line in lines:
        while told < len(places) and line.seq > places[told]:
            yield places[told], shard.changed()
            told += 1
        shard.take(line)
        if shard.has_enough:
            return
    for place in places[told:]:
        yield place, shard.changed()


def compared(replayed: Sequence[ReservationView], stored: Stored) -> Iterator[tuple[int, str]]:
    """What a store has of reservations that is not what their entries say.

    Args:
        replayed: As their entries left them.
        stored: Where to look.

    Yields:
        Places in ``replayed``, and sentences.
    """
    for start in range(0, len(replayed), _JUDGED_AT_ONCE):
        some = replayed[start : start + _JUDGED_AT_ONCE]
        kept = stored([item.reservation_id for item in some])
        for at, item in enumerate(some, start):
            found = kept.get(item.reservation_id)
            if isinstance(found, PrimumError):
                yield at, str(found)
                found = None
            fault = _difference(found, item)
            if fault:
                name = item.reservation_id
                yield at, f"Reservation {name} must be what its entries say; found {fault}."


def _difference(stored: ReservationView | None, replayed: ReservationView) -> str:
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


def joined(parts: Iterable[Ending]) -> Ending:
    """What shards make together, with what contradicts between them."""
    faults: list[Fault] = []
    seen = Seen()
    accounts: dict[str, Account] = {}
    still_open: list[ReservationView] = []
    made = Once()
    stopped = False
    for part in parts:
        faults += part.faults
        seen.join(part.seen)
        accounts |= part.accounts
        still_open += part.still_open
        made.join(part.made)
        stopped |= part.stopped
    for seq, earlier in made.repeated():
        text = f"Entry {seq} must make a new reservation; found that of entry {earlier}."
        faults.append(Fault(2 * AFTER_ALL + seq, 0, text))
    still_open.sort(key=lambda item: (item.reservation_id, item.account_id))
    return Ending(faults, seen, accounts, still_open, made, stopped)
