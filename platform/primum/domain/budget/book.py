"""The book: what a ledger knows at one moment, and how that is written down.

Nothing here decides whether an entry may be written (``ledger`` does) or what it changes
(``folding`` does), and nothing here reads a clock or a store.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from primum.domain.accounting import policies
from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.charges import Charge
from primum.domain.accounting.events import Event, event_from_json
from primum.domain.budget.entries import (
    AccountTerms,
    Entry,
    EntryKind,
    ReservationState,
    ReservationView,
)
from primum.domain.budget.rules import Rules, UnlockingRule, rules_from_json
from primum.domain.canonical import JSON, canonical_json, parsed_json
from primum.domain.errors import NotFound
from primum.domain.quantities import Neighbors, PrivacyUnit

HASH_OF_NOTHING = "0" * 64  # What the first entry follows.
OPEN_STATES = (ReservationState.RESERVED, ReservationState.EXPOSED)  # They hold budget.
LIVE_STATES = (ReservationState.QUEUED, *OPEN_STATES)  # They may still change.
RULES_AT_FIRST = canonical_json(Rules().to_json()).decode()
_NAME_SHOWN = 64  # Characters of a name that somebody made up, in a message.
_POLICIES_CACHED = 256  # Recorded policies kept parsed; a platform has a handful.
# Charges and events kept parsed: a plan's come back when it is charged, and most plans are repeats.
_VALUES_CACHED = 1024


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
class Holding:
    """What is held of one block, or what one quota counts of one block.

    Args:
        added: The ledger's time at which it came into being.
        unlocked: What has become available, where the rule is not Immediate; never taken back.
        arrived: What arriving claims have unlocked of that.
        reserved: Held by open reservations.
        charged: Spent for good.
    """

    added: str
    unlocked: Charge
    arrived: Charge
    reserved: Charge
    charged: Charge

    @property
    def used(self) -> Charge:
        """Reserved and charged together: what every check counts."""
        return self.reserved + self.charged


@dataclass(frozen=True, slots=True)
class Account:
    """An account as the ledger keeps it.

    Args:
        account_id: Its id.
        terms: What it promises now.
        policy: The accounting policy with the parameters it was opened with, as canonical JSON.
        rules: How its room is shared out, as canonical JSON.
        identities: Every ``uri=...`` and ``digest=...`` under which its data is known, oldest
            first.
        blocks: What is held of each block, by its name; the guarantee holds for each.
        quotas: What each quota counts, by (block, scope).
        frozen: Why nothing is granted, or empty.
        entries: How many entries it has.
        opened: Sequence number of its first entry.
    """

    account_id: str
    terms: AccountTerms
    policy: str
    rules: str
    identities: tuple[str, ...]
    blocks: Mapping[str, Holding]
    quotas: Mapping[tuple[str, str], Holding]
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
    def sharing(self) -> Rules:
        """How its room is shared out."""
        return recorded_rules(self.rules)

    @property
    def capacity(self) -> Charge:
        """What its guarantee has room for in each block."""
        return _capacity(self.policy, self.terms.epsilon, self.terms.delta)

    def available(self, holding: Holding) -> Charge:
        """What of a block's capacity has become available."""
        capacity = self.capacity
        if self.sharing.unlocking.rule is UnlockingRule.IMMEDIATE:
            return capacity
        pairs = zip(capacity.amounts, holding.unlocked.amounts, strict=True)
        return Charge(tuple([(key, min(most, open_)) for (key, most), (_, open_) in pairs]))

    def named_blocks(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """The blocks of a request, sorted; all of them where none is named.

        Raises:
            NotFound: If one does not exist, or there is none at all: a charge to nothing would be
                a free query.
        """
        chosen = tuple(sorted(set(wanted))) if wanted else tuple(sorted(self.blocks))
        unknown = [name for name in chosen if name not in self.blocks]
        if unknown or not chosen:
            found = repr(unknown[0][:_NAME_SHOWN]) if unknown else "none"
            raise NotFound(f"blocks must exist in account {self.account_id}; found {found}.")
        return chosen


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
        """Reservations that may still change whose lease or wait ended by a time, oldest first."""
        ...

    def queued(self) -> Sequence[ReservationView]:
        """Claims that wait, oldest first."""
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
def recorded_rules(text: str) -> Rules:
    """The rules of their recorded canonical JSON."""
    return rules_from_json(json.loads(text))


@functools.lru_cache(maxsize=_POLICIES_CACHED)
def _capacity(policy: str, epsilon: Decimal, delta: Decimal) -> Charge:
    return recorded_policy(policy).capacity(Guarantee(epsilon, delta))


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
    # Written out: ``replace`` takes four times as long.
    return Entry(
        entry.seq,
        entry.prev_hash,
        entry.account_id,
        entry.kind,
        entry.reservation_id,
        entry.idempotency_key,
        entry.actor,
        entry.time,
        entry.payload,
        hash_of(entry),
    )


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
    found: dict[str, JSON] = {
        "uri": terms.dataset_uri,
        "digest": terms.dataset_digest,
        "unit": terms.unit.value,
        "neighbors": terms.neighbors.value,
        "epsilon": str(terms.epsilon),
        "delta": str(terms.delta),
        "policy": terms.policy,
        "units": terms.units,
    }
    return found | ({"layout": terms.layout} if terms.layout else {})


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
        layout=str(value.get("layout", "")),
    )


def identities_of(terms: AccountTerms) -> tuple[str, ...]:
    """Under which identities a dataset is found again; content first: it is what was spent on."""
    digest = (f"digest={terms.dataset_digest}",) if terms.dataset_digest else ()
    return (*digest, f"uri={terms.dataset_uri}")


def charge_from(value: JSON) -> Charge:
    """A charge from its JSON form."""
    return _charge_of(tuple(mapping(value).items()))


@functools.lru_cache(maxsize=_VALUES_CACHED)
def _charge_of(amounts: tuple[tuple[str, JSON], ...]) -> Charge:
    return Charge.from_json(dict(amounts))


@functools.lru_cache(maxsize=_VALUES_CACHED)
def event_json(event: Event) -> Mapping[str, JSON]:
    """An event as JSON; shared, and not to be changed."""
    return event.to_json()


def event_from(value: JSON) -> Event:
    """An event from its JSON form."""
    return event_of_text(parsed_json(value))


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
