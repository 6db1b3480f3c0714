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
from primum.domain.budget.layout import WHOLE
from primum.domain.budget.rules import Rules
from primum.domain.canonical import JSON
from primum.domain.quantities import Neighbors, PrivacyUnit


class EntryKind(enum.StrEnum):
    """What an entry records."""

    OPENED = "Opened"  # an account, with its guarantee, policy and unit
    IDENTIFIED = "Identified"  # another uri, digest or declared size of the same data
    LOWERED = "Lowered"  # a smaller guarantee
    CONFIGURED = "Configured"  # other rules of unlocking, scheduling and quotas
    DIVIDED = "Divided"  # further blocks
    UNLOCKED = "Unlocked"  # budget of blocks that became available
    QUEUED = "Queued"  # a claim that waits for budget
    RESERVED = "Reserved"
    EXPOSED = "Exposed"
    CHARGED = "Charged"
    RETURNED = "Returned"
    DENIED = "Denied"
    WITHDRAWN = "Withdrawn"  # a claim taken back while it waited
    EXPIRED = "Expired"  # a claim that waited too long
    INSPECTED = "Inspected"
    CONSENT_WITHDRAWN = "ConsentWithdrawn"  # a unit may not be read any more; by an opaque mark
    FROZEN = "Frozen"
    THAWED = "Thawed"
    CHECKPOINT = "Checkpoint"


class ReservationState(enum.StrEnum):
    """Where a reservation stands.

    Charged, Returned, Denied, Withdrawn and Expired never change.
    """

    QUEUED = "Queued"
    RESERVED = "Reserved"
    EXPOSED = "Exposed"
    CHARGED = "Charged"
    RETURNED = "Returned"
    DENIED = "Denied"
    WITHDRAWN = "Withdrawn"
    EXPIRED = "Expired"


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
    LAYOUT_CHANGED = "LayoutChanged"  # and how its data is divided into blocks
    BLOCK_UNKNOWN = "BlockUnknown"
    FROZEN = "Frozen"
    EVENT_UNSUPPORTED = "EventUnsupported"
    FENCE_STALE = "FenceStale"
    ALREADY_RESOLVED = "AlreadyResolved"
    LEASE_EXPIRED = "LeaseExpired"
    ALREADY_EXPOSED = "AlreadyExposed"
    NOT_EXPOSED = "NotExposed"  # only what was exposed can be charged; give it back instead
    OVER_BUDGET = "OverBudget"
    OVER_QUOTA = "OverQuota"
    LOCKED = "Locked"  # it would fit, but not enough is unlocked, and nobody may wait
    CHARGE_ABOVE_RESERVATION = "ChargeAboveReservation"  # charged in full all the same
    QUEUED = "Queued"  # it waits for budget
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
        layout: What of its division into blocks may never change, as canonical JSON; empty for a
            dataset that is not divided.
    """

    dataset_uri: str
    dataset_digest: str
    unit: PrivacyUnit
    neighbors: Neighbors
    epsilon: Decimal
    delta: Decimal
    policy: str
    units: int
    layout: str = ""


@dataclass(frozen=True, slots=True)
class BlockView:
    """A block as people and plans see it; epsilons at the account's delta, spends rounded up.

    Args:
        name: Its name; ``whole`` where the dataset is not divided.
        added: When it came into being.
        unlocked: What has become available; the capacity where everything is unlocked at once.
        reserved: Held by open reservations.
        charged: Spent for good.
        unlocked_share: Part of the capacity that is available, in [0, 1], rounded down.
        epsilon_spent: Of what is charged.
        epsilon_reserved: Of charged and reserved together.
        epsilon_left: What is left of the guarantee, unlocked or not.
    """

    name: str
    added: str
    unlocked: Charge
    reserved: Charge
    charged: Charge
    unlocked_share: Decimal
    epsilon_spent: Decimal
    epsilon_reserved: Decimal
    epsilon_left: Decimal


@dataclass(frozen=True, slots=True)
class QuotaView:
    """What one quota counts of one block.

    Args:
        scope: Whose, such as ``Requester=ada``.
        block: Of which block.
        epsilon: The most; ``None`` where no quota holds for the scope any more.
        epsilon_used: Charged and reserved together, rounded up.
    """

    scope: str
    block: str
    epsilon: Decimal | None
    epsilon_used: Decimal


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account as people and plans see it; epsilons are those of its fullest block."""

    account_id: str
    terms: AccountTerms
    rules: Rules
    blocks: tuple[BlockView, ...]
    quotas: tuple[QuotaView, ...]
    capacity: Charge
    epsilon_spent: Decimal
    epsilon_reserved: Decimal  # of charged and reserved together
    epsilon_left: Decimal
    frozen: str
    entries: int


@dataclass(frozen=True, slots=True)
class Outlook:
    """What would become of a request now, without asking.

    Args:
        times: How many more times it fits into what is left, unlocked or not, up to 1000.
        now: Whether it would be granted at once, were nobody else waiting.
        reason: What is missing, where it would not.
        unlocks: When enough is unlocked, if nobody else takes it: a time (RFC 3339), a sentence, or
            empty where waiting does not help.
    """

    times: int
    now: bool
    reason: str = ""
    unlocks: str = ""


@dataclass(frozen=True, slots=True)
class RoundView:
    """What one scheduling round came to on one account.

    Args:
        account_id: The account.
        waiting: Claims that waited before it.
        granted: Claims that it granted.
        upper_bound: On how many any scheduler could have granted.
    """

    account_id: str
    waiting: int
    granted: int
    upper_bound: float

    @property
    def gap(self) -> float:
        """Part of the bound that was not granted: at least the true gap; 0 if nothing fits."""
        return max(0.0, 1 - self.granted / self.upper_bound) if self.upper_bound > 0 else 0.0


@dataclass(frozen=True, slots=True)
class ReservationView:
    """A reservation as it stands.

    While it waits, ``lease_until`` is the end of its wait, and ``fence`` its place in the queue.
    """

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
    blocks: tuple[str, ...] = (WHOLE,)
    requester: str = ""
    group: str = ""
    purpose: str = ""


@dataclass(frozen=True, slots=True)
class ReserveRequest:
    """Hold an event's cost on blocks of one account.

    Args:
        blocks: Names of the blocks; empty for all that exist.
        group: The group that the requester asks for.
        unit: The privacy unit that the event is meant for; ``None`` for the account's, whatever it
            is.
        neighbors: Likewise the neighbors relation.
    """

    reservation_id: str
    account_id: str
    study_uid: str
    generation: int
    study: str  # namespace/name, for people
    purpose: str
    requester: str
    event: Event = field(default_factory=NoEvent)
    blocks: tuple[str, ...] = ()
    group: str = ""
    unit: PrivacyUnit | None = None
    neighbors: Neighbors | None = None


_STANDING = (
    ResultCode.ACCEPTED,
    ResultCode.QUEUED,
    ResultCode.REPEATED,
    ResultCode.CHARGE_ABOVE_RESERVATION,
)


@dataclass(frozen=True, slots=True)
class Result:
    """What a command came to.

    Args:
        code: The result code; ``ACCEPTED``, ``QUEUED`` and ``REPEATED`` mean that it stands, and
            so does ``CHARGE_ABOVE_RESERVATION``: the whole reservation was charged, but the receipt
            showed more than was planned.
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
