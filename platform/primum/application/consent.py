"""Withdraw consents, and find what they came too late for.

A tombstone in the steward's zone blocks every later read; an entry in the ledger says that there is
one, by a mark that says nothing about the unit. No name passes the ledger, the evidence store,
lineage or a message. Nothing is unlearned here, and nothing is revoked or stopped: people decide
that with what ``impact`` shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from primum.application.access import WITHDRAWAL
from primum.application.launching import LAUNCH
from primum.application.observing import PUBLISHED
from primum.application.platform import generation_key
from primum.application.ports import Clock, EvidenceStore, LedgerStore, ResourceStore
from primum.application.released import CERTIFICATE
from primum.domain.budget.entries import Entry, EntryKind, ReservationState, ReservationView
from primum.domain.budget.layout import WHOLE
from primum.domain.canonical import JSON
from primum.domain.errors import Conflict, NotFound
from primum.domain.names import ResourceKey, run_id
from primum.domain.study import impact as tracing
from primum.domain.study.impact import AffectedStudy, KnownStudy, ReleaseFact, Standing, Traces
from primum.domain.study.spec import DatasetSpec
from primum.resources import conversion

_PAGE = 1000
_OPEN = (ReservationState.RESERVED, ReservationState.EXPOSED)


@dataclass(frozen=True, slots=True)
class Tombstone:
    """That a unit was withdrawn in the zone.

    Args:
        mark: What stands for it.
        at: RFC 3339 time.
        block: The block that it was in, or empty; stewards' business, stored in the zone alone.
    """

    mark: str
    at: str
    block: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """What the zone holds after a withdrawal.

    Args:
        named: The tombstones of the units asked for, in the order of their names.
        every: Every tombstone of the account, oldest first.
    """

    named: tuple[Tombstone, ...]
    every: tuple[Tombstone, ...]


class ConsentZone(Protocol):
    """The steward's zone: remembers whose consent was withdrawn; tells nobody else."""

    def withdraw(
        self, account_id: str, dataset: DatasetSpec, names: Sequence[str], *, at: str
    ) -> Written:
        """Write a durable tombstone for each unit, all or none.

        From then on no process opens the unit's rows. A unit that had one keeps it.

        Raises:
            InvalidValue: If a name is not a unit of the dataset; says on which line, not which.
            Tampered: If the zone's registry cannot be trusted.
            Unavailable: If it cannot be written.
        """

    def withdrawn(self, account_id: str) -> Sequence[Tombstone]:
        """The tombstones of an account, oldest first.

        Raises:
            Tampered: If the zone's registry cannot be trusted.
        """


class LineageReader(Protocol):
    """The platform's own store of lineage."""

    def events(self) -> Sequence[Mapping[str, JSON]]:
        """Every event in order."""


@dataclass(frozen=True, slots=True)
class Records:
    """What withdrawing and tracing read and write besides the zone."""

    ledger: LedgerStore
    evidence: EvidenceStore
    resources: ResourceStore
    lineage: LineageReader
    clock: Clock


@dataclass(frozen=True, slots=True)
class Running:
    """A Study that may hold rows in memory which it opened before a tombstone."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """What a withdrawal came to.

    Args:
        tombstones: One per unit, in the order in which they were named.
        running: Studies that go on with what they opened before, unless they are stopped.
    """

    tombstones: tuple[Tombstone, ...]
    running: tuple[Running, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """A withdrawal as stewards see it; ``seq`` of its ledger entry, 0 where that is missing."""

    mark: str
    at: str
    seq: int


@dataclass(frozen=True, slots=True)
class Impact:
    """What withdrawals of a budget came too late for.

    Args:
        marks: The withdrawals asked about.
        studies: Studies that may have read a withdrawn unit, and Studies that were made with what
            those released.
        looks: Looks inside the zone before that (registration, validation, audits); what they
            found stayed Restricted.
    """

    marks: tuple[str, ...]
    studies: tuple[AffectedStudy, ...]
    looks: int


def withdraw(
    records: Records, zone: ConsentZone, budget: ResourceKey, names: Sequence[str], *, actor: str
) -> Withdrawn:
    """Withdraw the consent of units of a budget's dataset.

    Guarantees:
        The tombstones are durable before the ledger says so: a crash in between leaves units that
        cannot be read and an entry that is written when the same, or any other, withdrawal of the
        budget is asked for again. Asking again withdraws nobody twice.

    Args:
        records: Ledger, evidence and resources.
        zone: The steward's zone.
        budget: The PrivacyBudget.
        names: Names of units; they go to the zone and nowhere else.
        actor: Who asked, for the ledger.

    Raises:
        NotFound: If the budget does not exist or has no account yet.
        Conflict: If the ledger does not take the entry; the units stay withdrawn.
        InvalidValue: See the zone.
    """
    account, dataset = _dataset(records, budget)
    written = zone.withdraw(account, dataset, names, at=records.clock.now())
    _note(records, account, written.every, actor=actor)
    return Withdrawn(tuple(dict.fromkeys(written.named)), _running(records, account))


def listed(records: Records, zone: ConsentZone, budget: ResourceKey) -> tuple[Listed, ...]:
    """Every withdrawal of a budget, oldest first.

    Raises:
        NotFound: If the budget does not exist or has no account yet.
        Tampered: If the zone's registry cannot be trusted.
    """
    account, _ = _dataset(records, budget)
    noted = _history(records.ledger, account).noted
    return tuple(
        Listed(item.mark, item.at, noted.get(item.mark, 0)) for item in zone.withdrawn(account)
    )


def impact(records: Records, zone: ConsentZone, budget: ResourceKey, *, mark: str = "") -> Impact:
    """Which Studies, certificates and releases a withdrawal came too late for.

    A Study that was given its first data token after the ledger's entry has read without the unit,
    and one that read other blocks has not read it. Any other that was ever exposed counts,
    whichever rows it sampled.

    Args:
        records: Ledger, evidence, resources and lineage.
        zone: The steward's zone, which knows the unit's block.
        budget: The PrivacyBudget.
        mark: One withdrawal; all of the budget where empty.

    Raises:
        NotFound: If the budget has no account yet, or the ledger has no such mark on it.
        Tampered: If the zone's registry cannot be trusted.
    """
    account, _ = _dataset(records, budget)
    history = _history(records.ledger, account)
    if mark and mark not in history.noted:
        raise NotFound(f"{budget} has no withdrawal with the mark {mark[:64]}")
    wanted = {mark: history.noted[mark]} if mark else history.noted
    blocks = {item.mark: item.block for item in zone.withdrawn(account)}
    read = [
        KnownStudy(held.study_uid, held.generation, held.study)
        for held in records.ledger.reservations(account_id=account)
        if any(
            history.exposed.get(held.reservation_id, seq) < seq
            and (WHOLE in held.blocks or blocks.get(item, "") in ("", *held.blocks))
            for item, seq in wanted.items()
        )
    ]
    studies = tracing.affected(read, _traces(records)) if read else ()
    last = max(wanted.values(), default=0)
    return Impact(tuple(wanted), studies, sum(seq < last for seq in history.looks))


def _dataset(records: Records, budget: ResourceKey) -> tuple[str, DatasetSpec]:
    stored = records.resources.get(budget)
    if stored is None:
        raise NotFound(f"{budget} does not exist")
    account = str(stored.status.get("accountId", ""))
    if not account:
        raise NotFound(f"{budget} has no account yet; wait until it is Ready")
    return account, conversion.budget_spec(stored).dataset


def _note(records: Records, account: str, tombstones: Sequence[Tombstone], *, actor: str) -> None:
    """Put every tombstone of an account on record that is not yet: also one that a crash left."""
    known = {key for key, _ in records.evidence.facts(WITHDRAWAL)}
    for item in tombstones:
        key = f"{account}/{item.mark}"
        if key in known:
            continue
        result = records.ledger.withdraw_consent(
            account, mark=item.mark, key=item.mark, actor=actor
        )
        if not result.stands:
            raise Conflict(
                f"the units are withdrawn, and the ledger did not note it: {result.code.value}. "
                f"{result.message} Ask again."
            )
        records.evidence.put_fact(WITHDRAWAL, key, {"account": account, "mark": item.mark})


@dataclass(frozen=True, slots=True)
class _History:
    """Numbers of an account's entries: per mark, of first exposures by reservation, of looks."""

    noted: dict[str, int]
    exposed: dict[str, int]
    looks: list[int]


def _history(ledger: LedgerStore, account: str) -> _History:
    found, after = _History({}, {}, []), 0
    while page := ledger.entries(account_id=account, after=after, limit=_PAGE):
        after = page[-1].seq
        for entry in page:
            if entry.kind is EntryKind.CONSENT_WITHDRAWN:
                found.noted[_mark(entry)] = entry.seq
            elif entry.kind is EntryKind.EXPOSED:
                found.exposed.setdefault(entry.reservation_id, entry.seq)
            elif entry.kind is EntryKind.INSPECTED:
                found.looks.append(entry.seq)
    return found


def _mark(entry: Entry) -> str:
    asked = entry.payload["asked"]
    return str(asked["mark"]) if isinstance(asked, Mapping) else ""


def _running(records: Records, account: str) -> tuple[Running, ...]:
    found = [
        _named(item.study)
        for item in records.ledger.reservations(account_id=account)
        if item.state in _OPEN and _exposed(item)
    ]
    return tuple(dict.fromkeys(found))


def _exposed(held: ReservationView) -> bool:
    return held.state is ReservationState.EXPOSED or bool(held.exposed)


def _named(study: str) -> Running:
    namespace, _, name = study.partition("/")
    return Running(namespace, name)


def _traces(records: Records) -> Traces:
    """What is on record about Studies, certificates, releases and what was made with them."""
    specs = [conversion.study_spec(stored) for stored in records.resources.list("Study")]
    known = [
        KnownStudy(spec.uid, spec.generation, f"{spec.key.namespace}/{spec.key.name}")
        for spec in specs
    ]
    declared = [
        (study, f"{spec.key.namespace}/{item.release}")
        for study, spec in zip(known, specs, strict=True)
        if records.evidence.fact(LAUNCH, run_id(study.uid, study.generation)) is not None
        for item in spec.inputs
        if item.release
    ]
    every = {(held.study_uid, held.generation, held.study) for held in _reservations(records)}
    return Traces(
        known=[*known, *(KnownStudy(*item) for item in sorted(every))],
        certificates={
            key: str(value["digest"]) for key, value in records.evidence.facts(CERTIFICATE)
        },
        releases=_releases(records),
        declared=declared,
        events=records.lineage.events(),
    )


def _reservations(records: Records) -> Iterator[ReservationView]:
    for account in records.ledger.accounts():
        yield from records.ledger.reservations(account_id=account.account_id)


def _releases(records: Records) -> dict[str, tuple[ReleaseFact, ...]]:
    """What each Study generation released, also where the Release was deleted since."""
    found: dict[str, dict[str, ReleaseFact]] = {}
    for key, value in records.evidence.facts(PUBLISHED):
        name = str(value["release"])
        gone = ReleaseFact(name, "", Standing.DELETED)
        found.setdefault(key, {})[name] = gone
    for stored in records.resources.list("Release"):
        spec = conversion.release_spec(stored)
        revoked = spec.revocation is not None
        fact = ReleaseFact(
            name=stored.key.name,
            kind=spec.kind.value,
            standing=Standing.REVOKED if revoked else Standing.STANDING,
        )
        key = generation_key(spec.study.uid, spec.study.generation)
        found.setdefault(key, {})[stored.key.name] = fact
    return {key: tuple(facts.values()) for key, facts in found.items()}
