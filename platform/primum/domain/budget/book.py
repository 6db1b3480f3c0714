"""The book: what a ledger knows at one moment, and how one more entry changes it.

``fold`` is the only way in which accounts and reservations change, so that a stored balance and a
replay of the entries cannot disagree. Nothing here decides whether an entry may be written
(``ledger`` does), and nothing here reads a clock or a store.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Protocol

from primum.domain.accounting import policies
from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.charges import Charge
from primum.domain.accounting.events import Event, event_from_json
from primum.domain.budget.entries import (
    AccountTerms,
    AccountView,
    Balance,
    Entry,
    EntryKind,
    ReservationState,
    ReservationView,
)
from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import PrimumError, Tampered
from primum.domain.quantities import Neighbors, PrivacyUnit

HASH_OF_NOTHING = "0" * 64  # What the first entry follows.
OPEN_STATES = (ReservationState.RESERVED, ReservationState.EXPOSED)
_POLICIES_CACHED = 256  # Recorded policies kept parsed; a platform has a handful.
# Charges and events kept parsed: a plan's come back when it is charged, and most plans are repeats.
_VALUES_CACHED = 1024
_TEXT = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain.

    Args:
        seq: Sequence number of the last entry; 0 for none.
        hash: Its hash.
        time: The latest time the ledger has acted at; it never goes back, whatever the clock does.
    """

    seq: int = 0
    hash: str = HASH_OF_NOTHING
    time: str = ""


@dataclass(frozen=True, slots=True)
class Account:
    """An account as the ledger keeps it.

    Args:
        account_id: Its id.
        terms: What it promises now.
        policy: The accounting policy with the parameters it was opened with, as canonical JSON.
        identities: Every ``uri=...`` and ``digest=...`` under which its data is known, oldest
            first.
        balance: What is held and what is spent.
        frozen: Why nothing is granted, or empty.
        entries: How many entries it has.
        opened: Sequence number of its first entry.
    """

    account_id: str
    terms: AccountTerms
    policy: str
    identities: tuple[str, ...]
    balance: Balance
    frozen: str
    entries: int
    opened: int

    @property
    def guarantee(self) -> Guarantee:
        """What it promises, as accountants want it."""
        return Guarantee(self.terms.epsilon, self.terms.delta)

    @property
    def filter(self) -> policies.AccountingPolicy:
        """The accounting policy that decides what is admitted."""
        return recorded_policy(self.policy)

    @property
    def used(self) -> Charge:
        """Reserved and charged together: what every check counts."""
        return self.balance.reserved + self.balance.charged

    @property
    def capacity(self) -> Charge:
        """What its guarantee has room for."""
        return _capacity(self.policy, self.guarantee)


class Book(Protocol):
    """What a decision may look at. All of it comes from one serializable moment."""

    def head(self) -> Head:
        """The end of the chain."""
        ...

    def account(self, account_id: str) -> Account | None:
        """An account."""
        ...

    def accounts_of(self, identity: str) -> Sequence[Account]:
        """Every account whose data is known under an identity, oldest first."""
        ...

    def reservation(self, reservation_id: str) -> ReservationView | None:
        """A reservation."""
        ...

    def earlier(self, account_id: str, key: str) -> Entry | None:
        """The entry of an account with this idempotency key."""
        ...

    def lapsed(self, now: str) -> Sequence[ReservationView]:
        """Open reservations whose lease ran out at or before a time, oldest first."""
        ...


@dataclass(frozen=True, slots=True)
class Draft:
    """An entry before it has a place in the chain."""

    account_id: str
    kind: EntryKind
    reservation_id: str
    key: str
    payload: Mapping[str, JSON]


@functools.lru_cache(maxsize=_POLICIES_CACHED)
def recorded_policy(text: str) -> policies.AccountingPolicy:
    """The accounting policy of its recorded canonical JSON."""
    return policies.policy_from_json(json.loads(text))


@functools.lru_cache(maxsize=_POLICIES_CACHED)
def _capacity(policy: str, guarantee: Guarantee) -> Charge:
    return recorded_policy(policy).capacity(guarantee)


def sealed(draft: Draft, *, head: Head, actor: str, time: str) -> Entry:
    """The entry that follows the head.

    Args:
        draft: What to write.
        head: The end of the chain so far.
        actor: Who asked.
        time: The ledger's time.

    Returns:
        The entry with its place and its hash.
    """
    entry = Entry(
        seq=head.seq + 1,
        prev_hash=head.hash,
        account_id=draft.account_id,
        kind=draft.kind,
        reservation_id=draft.reservation_id,
        idempotency_key=draft.key,
        actor=actor,
        time=time,
        payload=draft.payload,
        hash="",
    )
    return replace(entry, hash=hash_of(entry))


def hash_of(entry: Entry) -> str:
    """SHA-256 over the canonical JSON of everything but the hash, as 64 hex digits."""
    content: dict[str, JSON] = {
        "seq": entry.seq,
        "prevHash": entry.prev_hash,
        "accountId": entry.account_id,
        "kind": entry.kind.value,
        "reservationId": entry.reservation_id,
        "idempotencyKey": entry.idempotency_key,
        "actor": entry.actor,
        "time": entry.time,
        "payload": entry.payload,
    }
    return hashlib.sha256(canonical_json(content)).hexdigest()


def terms_json(terms: AccountTerms) -> dict[str, JSON]:
    """Canonical form of an account's terms."""
    return {
        "uri": terms.dataset_uri,
        "digest": terms.dataset_digest,
        "unit": terms.unit.value,
        "neighbors": terms.neighbors.value,
        "epsilon": str(terms.epsilon),
        "delta": str(terms.delta),
        "policy": terms.policy,
        "units": terms.units,
    }


def terms_from_json(value: Mapping[str, JSON]) -> AccountTerms:
    """Read terms back from their canonical form."""
    return AccountTerms(
        dataset_uri=str(value["uri"]),
        dataset_digest=str(value["digest"]),
        unit=PrivacyUnit(str(value["unit"])),
        neighbors=Neighbors(str(value["neighbors"])),
        epsilon=Decimal(str(value["epsilon"])),
        delta=Decimal(str(value["delta"])),
        policy=str(value["policy"]),
        units=int(str(value["units"])),
    )


def identities_of(terms: AccountTerms) -> tuple[str, ...]:
    """Under which identities a dataset is found again; content first: it is what was spent on."""
    digest = (f"digest={terms.dataset_digest}",) if terms.dataset_digest else ()
    return (*digest, f"uri={terms.dataset_uri}")


def fold(
    entry: Entry, account: Account | None, reservation: ReservationView | None
) -> tuple[Account | None, ReservationView | None]:
    """What an entry makes of its account and its reservation.

    Args:
        entry: The next entry.
        account: The account it names, before it; ``None`` if there is none yet.
        reservation: The reservation it names, before it; ``None`` if there is none yet.

    Returns:
        Account and reservation after it.

    Raises:
        Tampered: If the entry contradicts what came before it or cannot be read; names its sequence
            number.
    """
    try:
        if entry.kind is EntryKind.CHECKPOINT:
            return account, reservation
        if entry.kind is EntryKind.OPENED:
            return _opened(entry, account), reservation
        if account is None:
            raise Tampered(f"Entry {entry.seq} must follow the opening of its account; found none.")
        if entry.reservation_id:
            return _fold_reservation(entry, account, reservation)
        return _fold_account(entry, _counted(account, account.balance)), reservation
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise Tampered(
            f"Entry {entry.seq} must be readable; found {type(error).__name__}."
        ) from error
    except PrimumError as error:
        if isinstance(error, Tampered):
            raise
        raise Tampered(f"Entry {entry.seq} must be readable; {error}") from error


def _counted(account: Account, balance: Balance) -> Account:
    """The account after one more entry. Written out: ``replace`` takes four times as long."""
    return Account(
        account.account_id,
        account.terms,
        account.policy,
        account.identities,
        balance,
        account.frozen,
        account.entries + 1,
        account.opened,
    )


def _exposed(reservation: ReservationView, access: str) -> ReservationView:
    """The reservation after one more exposure; written out for the same reason."""
    return ReservationView(
        reservation.reservation_id,
        reservation.account_id,
        reservation.study_uid,
        reservation.generation,
        reservation.study,
        ReservationState.EXPOSED,
        reservation.fence,
        reservation.lease_until,
        reservation.event,
        reservation.charge,
        reservation.charged,
        reservation.executed,
        (*reservation.exposed, access),
        reservation.reason,
    )


def _opened(entry: Entry, account: Account | None) -> Account:
    if account is not None:
        raise Tampered(
            f"Entry {entry.seq} must not open an account twice; found {entry.account_id}."
        )
    terms = terms_from_json(mapping(entry.payload["asked"]))
    policy = canonical_json(entry.payload["policy"]).decode()
    nothing = policies.zero(recorded_policy(policy))
    return Account(
        account_id=entry.account_id,
        terms=terms,
        policy=policy,
        identities=identities_of(terms),
        balance=Balance(reserved=nothing, charged=nothing),
        frozen="",
        entries=1,
        opened=entry.seq,
    )


def _fold_account(entry: Entry, account: Account) -> Account:
    asked = mapping(entry.payload["asked"])
    match entry.kind:
        case EntryKind.IDENTIFIED:
            terms = replace(
                account.terms,
                dataset_uri=str(asked["uri"]),
                dataset_digest=str(asked["digest"]),
                units=int(str(asked["units"])),
            )
            new = tuple(item for item in identities_of(terms) if item not in account.identities)
            return replace(account, terms=terms, identities=account.identities + new)
        case EntryKind.LOWERED:
            epsilon, delta = Decimal(str(asked["epsilon"])), Decimal(str(asked["delta"]))
            if epsilon > account.terms.epsilon or delta > account.terms.delta:
                raise Tampered(f"Entry {entry.seq} must lower the guarantee; found a larger one.")
            return replace(account, terms=replace(account.terms, epsilon=epsilon, delta=delta))
        case EntryKind.FROZEN:
            return replace(account, frozen=str(asked["reason"]))
        case EntryKind.THAWED:
            return replace(account, frozen="")
        case EntryKind.INSPECTED:
            return account
        case _:
            raise Tampered(f"Entry {entry.seq} must name a reservation; found none.")


def _fold_reservation(
    entry: Entry, account: Account, reservation: ReservationView | None
) -> tuple[Account, ReservationView]:
    if entry.kind in (EntryKind.RESERVED, EntryKind.DENIED):
        if reservation is not None:
            raise Tampered(
                f"Entry {entry.seq} must make a new reservation; found {entry.reservation_id}."
            )
        return _reserved(entry, account)
    if reservation is None or reservation.account_id != account.account_id:
        raise Tampered(
            f"Entry {entry.seq} must name an open reservation of its account; found none."
        )
    if reservation.state not in OPEN_STATES:
        raise Tampered(f"Entry {entry.seq} must not change what is {reservation.state.value}.")
    balance = account.balance
    match entry.kind:
        case EntryKind.EXPOSED:
            access = str(mapping(entry.payload["asked"])["access"])
            return _counted(account, balance), _exposed(reservation, access)
        case EntryKind.CHARGED:
            if reservation.state is not ReservationState.EXPOSED:
                raise Tampered(
                    f"Entry {entry.seq} must charge what was exposed; found it unexposed."
                )
            charged = charge_from(entry.payload["charged"])
            executed = entry.payload["executed"]
            moved = Balance(less(balance.reserved, reservation.charge), balance.charged + charged)
            after = replace(
                reservation,
                state=ReservationState.CHARGED,
                charged=charged,
                executed=None if executed is None else event_from(executed),
                reason=str(entry.payload["why"]),
            )
            return _counted(account, moved), after
        case EntryKind.RETURNED:
            if reservation.state is not ReservationState.RESERVED:
                raise Tampered(f"Entry {entry.seq} must not return what was exposed.")
            freed = Balance(less(balance.reserved, reservation.charge), balance.charged)
            why = str(mapping(entry.payload["asked"])["reason"])
            after = replace(reservation, state=ReservationState.RETURNED, reason=why)
            return _counted(account, freed), after
        case _:
            raise Tampered(f"Entry {entry.seq} must not name a reservation; found one.")


def _reserved(entry: Entry, account: Account) -> tuple[Account, ReservationView]:
    asked = mapping(entry.payload["asked"])
    granted = entry.kind is EntryKind.RESERVED
    charge = charge_from(entry.payload["charge"])
    reservation = ReservationView(
        reservation_id=entry.reservation_id,
        account_id=account.account_id,
        study_uid=str(asked["studyUid"]),
        generation=int(str(asked["generation"])),
        study=str(asked["study"]),
        state=ReservationState.RESERVED if granted else ReservationState.DENIED,
        fence=entry.seq,
        lease_until=str(entry.payload["leaseUntil"]) if granted else "",
        event=event_from(asked["event"]),
        charge=charge,
        charged=None,
        executed=None,
        reason="" if granted else str(entry.payload["message"]),
    )
    balance = account.balance
    if granted:
        balance = Balance(balance.reserved + charge, balance.charged)
    return _counted(account, balance), reservation


def less(left: Charge, right: Charge) -> Charge:
    """What stays after giving back.

    Raises:
        Tampered: If more would be given back than is held; a balance is never negative.
    """
    amounts = left.as_dict
    for key, amount in right.amounts:
        amounts[key] = amounts.get(key, 0) - amount
        if amounts[key] < 0:
            raise Tampered(f"A balance must not fall below 0; found {amounts[key]} at {key}.")
    return Charge.of(amounts)


def charge_from(value: JSON) -> Charge:
    """A charge from its JSON form."""
    return _charge_of(tuple((key, str(amount)) for key, amount in mapping(value).items()))


@functools.lru_cache(maxsize=_VALUES_CACHED)
def _charge_of(amounts: tuple[tuple[str, str], ...]) -> Charge:
    return Charge.from_json(dict(amounts))


def event_from(value: JSON) -> Event:
    """An event from its JSON form."""
    return event_of_text(_TEXT.encode(value))


@functools.lru_cache(maxsize=_VALUES_CACHED)
def event_of_text(text: str) -> Event:
    """An event from stored JSON."""
    return event_from_json(json.loads(text))


@functools.lru_cache(maxsize=_VALUES_CACHED)
def charge_of_text(text: str) -> Charge:
    """A charge from stored JSON."""
    return charge_from(json.loads(text))


def charge_json(charge: Charge) -> dict[str, JSON]:
    """A charge as JSON: strings of digits."""
    return dict(charge.to_json())


def mapping(value: JSON) -> Mapping[str, JSON]:
    """A JSON object.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(value, dict | Mapping):  # What JSON gives is a dict, and is told at once.
        raise TypeError("expected a JSON object")
    return value


def view_of(account: Account) -> AccountView:
    """An account as people and plans see it; epsilons at its delta, spends rounded up."""
    spent_of = functools.partial(account.filter.spent_epsilon, guarantee=account.guarantee)
    open_and_spent = spent_of(used=account.used)
    return AccountView(
        account_id=account.account_id,
        terms=account.terms,
        balance=account.balance,
        capacity=account.capacity,
        epsilon_spent=spent_of(used=account.balance.charged),
        epsilon_reserved=open_and_spent,
        epsilon_left=max(account.terms.epsilon - open_and_spent, Decimal(0)),
        frozen=account.frozen,
        entries=account.entries,
    )
