"""Is the record intact? Recomputes the chain and all that follows from it; names what contradicts.

Works on stored text, not on parsed values, so that a changed byte is found even where it would
parse to the same. It must not trust anything but the entries, and must go on after the first fault,
so that an officer sees the extent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from primum.domain.budget import book as books
from primum.domain.budget.book import Account, Head
from primum.domain.budget.entries import Entry, EntryKind, ReservationView
from primum.domain.canonical import canonical_json
from primum.domain.errors import PrimumError, Tampered

FAULTS_MAX = 1000  # Sentences kept: a destroyed ledger needs no longer list.


@dataclass(frozen=True, slots=True)
class Line:
    """An entry as stored: its columns as text."""

    seq: int
    prev_hash: str
    account_id: str
    kind: str
    reservation_id: str
    idempotency_key: str
    actor: str
    time: str
    payload: str
    hash: str


@dataclass(frozen=True, slots=True)
class Cached:
    """What a store keeps beside the entries, to be compared with their replay.

    Args:
        head: The end of the chain.
        accounts: Every account.
        reservations: Every reservation.
        identities: Every (identity, account id) under which a dataset is looked up.
        faults: What could not be read at all, as sentences.
    """

    head: Head
    accounts: Sequence[Account]
    reservations: Sequence[ReservationView]
    identities: Sequence[tuple[str, str]]
    faults: Sequence[str] = ()


@dataclass(slots=True)
class _Replay:
    head: Head = field(default_factory=Head)
    accounts: dict[str, Account] = field(default_factory=dict)
    reservations: dict[str, ReservationView] = field(default_factory=dict)
    keys: set[tuple[str, str]] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)


def line_of(entry: Entry) -> Line:
    """An entry as it is stored."""
    return Line(
        seq=entry.seq,
        prev_hash=entry.prev_hash,
        account_id=entry.account_id,
        kind=entry.kind.value,
        reservation_id=entry.reservation_id,
        idempotency_key=entry.idempotency_key,
        actor=entry.actor,
        time=entry.time,
        payload=canonical_json(entry.payload).decode(),
        hash=entry.hash,
    )


def entry_of(line: Line) -> Entry:
    """A stored entry, read.

    Raises:
        Tampered: If it cannot be read.
    """
    try:
        payload = json.loads(line.payload)
        return Entry(
            seq=line.seq,
            prev_hash=line.prev_hash,
            account_id=line.account_id,
            kind=EntryKind(line.kind),
            reservation_id=line.reservation_id,
            idempotency_key=line.idempotency_key,
            actor=line.actor,
            time=line.time,
            payload=books.mapping(payload),
            hash=line.hash,
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise Tampered(f"Entry {line.seq} must be readable; found damaged text.") from error


def contradictions(lines: Iterable[Line], cached: Cached) -> tuple[str, ...]:
    """Every contradiction between the entries themselves and between them and what is cached.

    Args:
        lines: Every entry, by sequence number.
        cached: What the store keeps beside them.

    Returns:
        Sentences, at most 1000; nothing for an intact ledger.
    """
    replay = _Replay(faults=list(cached.faults))
    for line in lines:
        _take(replay, line)
        if len(replay.faults) >= FAULTS_MAX:
            return tuple(replay.faults[:FAULTS_MAX])
    _compare(replay, cached)
    return tuple(replay.faults[:FAULTS_MAX])


def _take(replay: _Replay, line: Line) -> None:
    faults, head = replay.faults, replay.head
    if line.seq != head.seq + 1:
        faults.append(
            f"Entry {head.seq + 1} must be there; found entry {line.seq} after {head.seq}."
        )
    if line.prev_hash != head.hash:
        faults.append(f"Entry {line.seq} must follow the hash of the entry before; found another.")
    if line.time < head.time:
        faults.append(
            f"Entry {line.seq} must not be older than the entry before; found {line.time[:40]}."
        )
    # The recorded hash is carried on, so that one changed entry is one fault and not a fault in all
    # that follow.
    replay.head = Head(line.seq, line.hash, max(line.time, head.time))
    if (line.account_id, line.idempotency_key) in replay.keys:
        faults.append(
            f"Entry {line.seq} must have a key of its own; found {line.idempotency_key!r}."
        )
    replay.keys.add((line.account_id, line.idempotency_key))
    try:
        entry = entry_of(line)
        if (
            books.hash_of(entry) != line.hash
            or canonical_json(entry.payload).decode() != line.payload
        ):
            faults.append(f"Entry {line.seq} must match its hash; found changed content.")
        account, reservation = books.fold(
            entry,
            replay.accounts.get(line.account_id),
            replay.reservations.get(line.reservation_id),
        )
    except PrimumError as error:
        faults.append(str(error))
        return
    if entry.kind is EntryKind.RESERVED and reservation is not None:
        _check_room(replay, entry, reservation)
    if account is not None:
        replay.accounts[account.account_id] = account
    if reservation is not None:
        replay.reservations[reservation.reservation_id] = reservation


def _check_room(replay: _Replay, entry: Entry, reservation: ReservationView) -> None:
    """Was what was reserved admitted at that moment? Catches a ledger that was made up whole."""
    before = replay.accounts[entry.account_id]
    if before.frozen:
        replay.faults.append(
            f"Entry {entry.seq} must not reserve on a frozen account; found {before.account_id}."
        )
    if reservation.charge.is_zero:
        return
    if not before.filter.admits(
        capacity=before.capacity, used=before.used, request=reservation.charge
    ):
        replay.faults.append(f"Entry {entry.seq} must fit what its account had left; found more.")


def _compare(replay: _Replay, cached: Cached) -> None:
    faults = replay.faults
    if (cached.head.seq, cached.head.hash) != (replay.head.seq, replay.head.hash):
        faults.append(
            f"The chain must end at entry {cached.head.seq} as the head says; found its end at "
            f"{replay.head.seq}."
        )
    accounts = {account.account_id: account for account in cached.accounts}
    for account_id in sorted({*accounts, *replay.accounts}):
        if accounts.get(account_id) != replay.accounts.get(account_id):
            faults.append(
                f"Account {account_id} must be what its entries say; found another balance."
            )
    reservations = {item.reservation_id: item for item in cached.reservations}
    for reservation_id in sorted({*reservations, *replay.reservations}):
        fault = _reservation_fault(
            reservations.get(reservation_id), replay.reservations.get(reservation_id)
        )
        if fault:
            faults.append(
                f"Reservation {reservation_id} must be what its entries say; found {fault}."
            )
    wanted = {(item, a.account_id) for a in replay.accounts.values() for item in a.identities}
    if wanted != set(cached.identities):
        faults.append(
            "Datasets must be looked up under the identities their entries say; found others."
        )


def _reservation_fault(stored: ReservationView | None, replayed: ReservationView | None) -> str:
    if stored is None:
        return "none"
    if replayed is None:
        return "one without entries"
    for name in ReservationView.__dataclass_fields__:
        left, right = getattr(stored, name), getattr(replayed, name)
        # Heartbeats move a lease without an entry, and only ever forward.
        if left != right and not (name == "lease_until" and left > right):
            return f"another {name}"
    return ""
