"""Ledger words: account terms, commands, entries, states and every result code.

Entries are append-only and hash-chained; they keep events and charge vectors, never a bare epsilon.
A reservation resolves once. Result codes are listed in the order in which they are checked.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from primum.domain.accounting.events import Event, NoEvent
from primum.domain.accounting.policies import Charge
from primum.domain.canonical import JSON
from primum.domain.quantities import Neighbors, PrivacyUnit


class EntryKind(enum.StrEnum):
    """What an entry records."""

    OPENED = "Opened"  # an account, with its guarantee, policy and unit
    IDENTIFIED = "Identified"  # another uri, digest or declared size of the same data
    LOWERED = "Lowered"  # a smaller guarantee
    RESERVED = "Reserved"
    EXPOSED = "Exposed"
    CHARGED = "Charged"
    RETURNED = "Returned"
    DENIED = "Denied"
    INSPECTED = "Inspected"
    FROZEN = "Frozen"
    THAWED = "Thawed"
    CHECKPOINT = "Checkpoint"


class ReservationState(enum.StrEnum):
    """Where a reservation stands. Charged, Returned and Denied never change."""

    RESERVED = "Reserved"
    EXPOSED = "Exposed"
    CHARGED = "Charged"
    RETURNED = "Returned"
    DENIED = "Denied"


class ResultCode(enum.StrEnum):
    """What a command came to, in the order of the checks.

    One command asks its questions in another order: ``expose`` looks at freeze, fence, state and
    lease before it says ``Repeated``, because its answer opens data now.
    """

    ROLLED_BACK = "RolledBack"  # the store is older than its anchor: nothing is written or granted
    REPEATED = "Repeated"  # the same command again: the earlier result stands
    KEY_REUSED = "KeyReused"  # same idempotency key, other content; names the field
    ACCOUNT_UNKNOWN = "AccountUnknown"
    RESERVATION_UNKNOWN = "ReservationUnknown"
    UNIT_MISMATCH = "UnitMismatch"
    GUARANTEE_RAISED = "GuaranteeRaised"
    POLICY_CHANGED = "PolicyChanged"  # an account keeps its accounting policy
    FROZEN = "Frozen"
    EVENT_UNSUPPORTED = "EventUnsupported"
    FENCE_STALE = "FenceStale"
    ALREADY_RESOLVED = "AlreadyResolved"
    LEASE_EXPIRED = "LeaseExpired"
    ALREADY_EXPOSED = "AlreadyExposed"
    NOT_EXPOSED = "NotExposed"  # only what was exposed can be charged; give it back instead
    OVER_BUDGET = "OverBudget"
    CHARGE_ABOVE_RESERVATION = "ChargeAboveReservation"  # charged in full all the same
    ACCEPTED = "Accepted"


@dataclass(frozen=True, slots=True)
class AccountTerms:
    """What an account promises, and to whom.

    Args:
        dataset_uri: Where the dataset lies.
        dataset_digest: Digest of its content manifest when it was registered.
        unit: Privacy unit.
        neighbors: Neighbors relation.
        epsilon: The guarantee's epsilon.
        delta: The guarantee's delta.
        policy: Name of the accounting policy.
        units: Declared public number of units.
    """

    dataset_uri: str
    dataset_digest: str
    unit: PrivacyUnit
    neighbors: Neighbors
    epsilon: Decimal
    delta: Decimal
    policy: str
    units: int


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account holds, as charge vectors."""

    reserved: Charge
    charged: Charge


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account as people and plans see it."""

    account_id: str
    terms: AccountTerms
    balance: Balance
    capacity: Charge
    epsilon_spent: Decimal
    epsilon_reserved: Decimal  # of charged and reserved together
    epsilon_left: Decimal
    frozen: str
    entries: int


@dataclass(frozen=True, slots=True)
class ReservationView:
    """A reservation as it stands."""

    reservation_id: str
    account_id: str
    study_uid: str
    generation: int
    study: str
    state: ReservationState
    fence: int
    lease_until: str
    event: Event
    charge: Charge
    charged: Charge | None
    executed: Event | None
    exposed: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ReserveRequest:
    """Hold an event's cost on one account."""

    reservation_id: str
    account_id: str
    study_uid: str
    generation: int
    study: str  # namespace/name, for people
    purpose: str
    requester: str
    event: Event = field(default_factory=NoEvent)


_STANDING = (ResultCode.ACCEPTED, ResultCode.REPEATED, ResultCode.CHARGE_ABOVE_RESERVATION)


@dataclass(frozen=True, slots=True)
class Result:
    """What a command came to.

    Args:
        code: The result code; ``ACCEPTED`` and ``REPEATED`` mean that it stands, and so does
            ``CHARGE_ABOVE_RESERVATION``: the whole reservation was charged, but the receipt showed
            more than was planned.
        message: For people: name, rule, found.
        seq: Sequence number of the last entry written, or of the earlier one for ``REPEATED``; 0
            for none.
        shortfall: Per account id, what was missing under which accountant, for denials.
    """

    code: ResultCode
    message: str = ""
    seq: int = 0
    shortfall: Mapping[str, str] = field(default_factory=dict)

    @property
    def stands(self) -> bool:
        """Whether the command's effect holds."""
        return self.code in _STANDING


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger.

    Args:
        seq: 1, 2, 3, ... without gaps over the whole ledger.
        prev_hash: ``hash`` of the entry before; 64 zeros for the first.
        account_id: The account, or empty for a checkpoint.
        kind: What it records.
        reservation_id: The reservation, or empty.
        idempotency_key: Unique per account.
        actor: Who asked: a role and a name, never a patient.
        time: RFC 3339, UTC, from the ledger's clock.
        payload: The command's content: events, charge vector, terms, reasons; canonical JSON.
        hash: SHA-256 over everything above.
    """

    seq: int
    prev_hash: str
    account_id: str
    kind: EntryKind
    reservation_id: str
    idempotency_key: str
    actor: str
    time: str
    payload: Mapping[str, JSON]
    hash: str
