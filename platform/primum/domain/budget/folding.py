"""How one more entry changes accounts and reservations.

``fold`` is the only way in which they change, so that a stored balance and a replay of the entries
cannot disagree. It must not decide: an entry that contradicts what came before it is a fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from primum.domain.accounting import charges, policies
from primum.domain.accounting.charges import Charge
from primum.domain.accounting.events import Event
from primum.domain.budget import book as books
from primum.domain.budget.book import OPEN_STATES, RULES_AT_FIRST, Account, Holding, mapping
from primum.domain.budget.entries import Entry, EntryKind, ReservationState, ReservationView
from primum.domain.budget.layout import WHOLE
from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import PrimumError, Tampered

_QUEUE_ENDS = {
    EntryKind.WITHDRAWN: ReservationState.WITHDRAWN,
    EntryKind.EXPIRED: ReservationState.EXPIRED,
}
_MAKING = (EntryKind.QUEUED, EntryKind.RESERVED, EntryKind.DENIED)


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
        return _fold_account(entry, _counted(account)), reservation
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise Tampered(
            f"Entry {entry.seq} must be readable; found {type(error).__name__}."
        ) from error
    except PrimumError as error:
        if isinstance(error, Tampered):
            raise
        raise Tampered(f"Entry {entry.seq} must be readable; {error}") from error


def _counted(
    account: Account,
    blocks: Mapping[str, Holding] | None = None,
    quotas: Mapping[tuple[str, str], Holding] | None = None,
) -> Account:
    """The account after one more entry. Written out: ``replace`` takes four times as long."""
    return Account(
        account.account_id,
        account.terms,
        account.policy,
        account.rules,
        account.identities,
        account.blocks if blocks is None else blocks,
        account.quotas if quotas is None else quotas,
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
        reservation.blocks,
        reservation.requester,
        reservation.group,
        reservation.purpose,
    )


def _charged(
    reservation: ReservationView, charged: Charge, executed: Event | None, *, reason: str
) -> ReservationView:
    """The reservation after it was charged; written out for the same reason."""
    return ReservationView(
        reservation.reservation_id,
        reservation.account_id,
        reservation.study_uid,
        reservation.generation,
        reservation.study,
        ReservationState.CHARGED,
        reservation.fence,
        reservation.lease_until,
        reservation.event,
        reservation.charge,
        charged,
        executed,
        reservation.exposed,
        reason,
        reservation.blocks,
        reservation.requester,
        reservation.group,
        reservation.purpose,
    )


def _opened(entry: Entry, account: Account | None) -> Account:
    if account is not None:
        raise Tampered(
            f"Entry {entry.seq} must not open an account twice; found {entry.account_id}."
        )
    terms = books.terms_from_json(mapping(entry.payload["asked"]))
    policy = canonical_json(entry.payload["policy"]).decode()
    blocks = {} if terms.layout else {WHOLE: _empty(policy, entry.time)}
    return Account(
        account_id=entry.account_id,
        terms=terms,
        policy=policy,
        rules=RULES_AT_FIRST,
        identities=books.identities_of(terms),
        blocks=blocks,
        quotas={},
        frozen="",
        entries=1,
        opened=entry.seq,
    )


def _empty(policy: str, added: str) -> Holding:
    nothing = policies.zero(books.recorded_policy(policy))
    return Holding(added, nothing, nothing, nothing, nothing)


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
            new = tuple(i for i in books.identities_of(terms) if i not in account.identities)
            return replace(account, terms=terms, identities=account.identities + new)
        case EntryKind.LOWERED:
            epsilon, delta = Decimal(str(asked["epsilon"])), Decimal(str(asked["delta"]))
            if epsilon > account.terms.epsilon or delta > account.terms.delta:
                raise Tampered(f"Entry {entry.seq} must lower the guarantee; found a larger one.")
            return replace(account, terms=replace(account.terms, epsilon=epsilon, delta=delta))
        case EntryKind.CONFIGURED | EntryKind.DIVIDED | EntryKind.UNLOCKED:
            return _shared_out(entry, account)
        case EntryKind.FROZEN:
            return replace(account, frozen=str(asked["reason"]))
        case EntryKind.THAWED:
            return replace(account, frozen="")
        case EntryKind.INSPECTED | EntryKind.CONSENT_WITHDRAWN:
            return account
        case _:
            raise Tampered(f"Entry {entry.seq} must name a reservation; found none.")


def _shared_out(entry: Entry, account: Account) -> Account:
    """Other rules, further blocks, or more of them unlocked."""
    asked = mapping(entry.payload["asked"])
    if entry.kind is EntryKind.CONFIGURED:
        rules = canonical_json(asked["rules"]).decode()
        books.recorded_rules(rules)
        return replace(account, rules=rules, quotas=_counts(entry))
    if entry.kind is EntryKind.DIVIDED:
        return replace(account, blocks=_divided(entry, account, asked["blocks"]))
    return with_unlocks(account, entry.payload["unlocked"], source=f"Entry {entry.seq}")


def _counts(entry: Entry) -> dict[tuple[str, str], Holding]:
    """What each quota has to count of what came before it."""
    found = {}
    for item in _items(entry.payload["counted"]):
        row = mapping(item)
        reserved, charged = books.charge_from(row["reserved"]), books.charge_from(row["charged"])
        nothing = reserved.emptied
        key = str(row["block"]), str(row["scope"])
        found[key] = Holding(str(row["added"]), nothing, nothing, reserved, charged)
    return found


def _divided(entry: Entry, account: Account, names: JSON) -> dict[str, Holding]:
    blocks = dict(account.blocks)
    for name in _items(names):
        if not account.terms.layout or str(name) in blocks:
            raise Tampered(f"Entry {entry.seq} must add new blocks to a divided account.")
        blocks[str(name)] = _empty(account.policy, entry.time)
    return blocks


def with_unlocks(account: Account, rows: JSON, *, source: str) -> Account:
    """The account once more of some blocks is unlocked.

    Args:
        account: The account before it.
        rows: What an ``Unlocked`` entry states, or will.
        source: What says so, for the message.

    Raises:
        Tampered: If more would be unlocked than the guarantee has, or something taken back.
    """
    blocks, capacity = dict(account.blocks), account.capacity
    for item in _items(rows):
        row = mapping(item)
        amounts, arrived = books.charge_from(row["amounts"]), books.charge_from(row["arrived"])
        for name in _items(row["blocks"]):
            before = blocks[str(name)]
            unlocked = before.unlocked + amounts
            pairs = zip(capacity.amounts, unlocked.amounts, strict=True)
            if any(more < 0 for _, more in amounts.amounts) or any(
                opened > max(most, held)
                for ((_, most), (_, opened)), (_, held) in zip(
                    pairs, before.unlocked.amounts, strict=True
                )
            ):
                raise Tampered(f"{source} must unlock at most what the guarantee has.")
            after = replace(before, unlocked=unlocked, arrived=before.arrived + arrived)
            blocks[str(name)] = after
    return replace(account, blocks=blocks)


def _items(value: JSON) -> Sequence[JSON]:
    if not isinstance(value, list | tuple):
        raise TypeError("expected a JSON array")
    return value


def _fold_reservation(
    entry: Entry, account: Account, reservation: ReservationView | None
) -> tuple[Account, ReservationView]:
    if reservation is None:
        if entry.kind not in _MAKING:
            raise Tampered(
                f"Entry {entry.seq} must name an open reservation of its account; found none."
            )
        return _made(entry, account)
    if reservation.account_id != account.account_id:
        raise Tampered(
            f"Entry {entry.seq} must name an open reservation of its account; found none."
        )
    if reservation.state is ReservationState.QUEUED:
        return _fold_queued(entry, account, reservation)
    if entry.kind in _MAKING:
        raise Tampered(
            f"Entry {entry.seq} must make a new reservation; found {entry.reservation_id}."
        )
    if reservation.state not in OPEN_STATES:
        raise Tampered(f"Entry {entry.seq} must not change what is {reservation.state.value}.")
    return _fold_open(entry, account, reservation)


def _fold_open(
    entry: Entry, account: Account, reservation: ReservationView
) -> tuple[Account, ReservationView]:
    match entry.kind:
        case EntryKind.EXPOSED:
            access = str(mapping(entry.payload["asked"])["access"])
            return _counted(account), _exposed(reservation, access)
        case EntryKind.CHARGED:
            if reservation.state is not ReservationState.EXPOSED:
                raise Tampered(
                    f"Entry {entry.seq} must charge what was exposed; found it unexposed."
                )
            charged = books.charge_from(entry.payload["charged"])
            executed = entry.payload["executed"]
            done = None if executed is None else books.event_from(executed)
            after = _charged(reservation, charged, done, reason=str(entry.payload["why"]))
            return _moved(account, reservation, freed=reservation.charge, spent=charged), after
        case EntryKind.RETURNED:
            if reservation.state is not ReservationState.RESERVED:
                raise Tampered(f"Entry {entry.seq} must not return what was exposed.")
            why = str(mapping(entry.payload["asked"])["reason"])
            after = replace(reservation, state=ReservationState.RETURNED, reason=why)
            return _moved(account, reservation, freed=reservation.charge), after
        case _:
            raise Tampered(f"Entry {entry.seq} must not name a reservation; found one.")


def _fold_queued(
    entry: Entry, account: Account, reservation: ReservationView
) -> tuple[Account, ReservationView]:
    """A claim that waits is granted, refused, taken back, or has waited too long."""
    if entry.kind is EntryKind.RESERVED:
        after = replace(
            reservation,
            state=ReservationState.RESERVED,
            fence=entry.seq,
            lease_until=str(entry.payload["leaseUntil"]),
        )
        return _moved(account, after, held=reservation.charge), after
    if entry.kind is EntryKind.DENIED:
        why = str(entry.payload["message"])
        denied = replace(reservation, state=ReservationState.DENIED, lease_until="", reason=why)
        return _counted(account), denied
    if entry.kind in _QUEUE_ENDS:
        why = str(mapping(entry.payload["asked"])["reason"])
        ended = replace(reservation, state=_QUEUE_ENDS[entry.kind], lease_until="", reason=why)
        return _counted(account), ended
    raise Tampered(f"Entry {entry.seq} must not change a claim that waits; found one.")


def _moved(
    account: Account,
    reservation: ReservationView,
    *,
    held: Charge | None = None,
    freed: Charge | None = None,
    spent: Charge | None = None,
) -> Account:
    """The account after amounts moved in every block of a reservation, and in its quotas."""
    blocks = dict(account.blocks)
    for name in reservation.blocks:
        blocks[name] = _after(blocks[name], held=held, freed=freed, spent=spent)
    rules = account.sharing
    if not rules.quotas:
        return _counted(account, blocks)
    quotas = dict(account.quotas)
    for key in _quota_keys(account, reservation):
        before = quotas.get(key) or _empty(account.policy, blocks[key[0]].added)
        quotas[key] = _after(before, held=held, freed=freed, spent=spent)
    return _counted(account, blocks, quotas)


def _quota_keys(account: Account, reservation: ReservationView) -> Iterable[tuple[str, str]]:
    scopes = [scope for scope, _ in account.sharing.quotas_of(reservation)]
    return [(block, scope) for block in reservation.blocks for scope in scopes]


def _after(
    holding: Holding, *, held: Charge | None, freed: Charge | None, spent: Charge | None
) -> Holding:
    reserved = holding.reserved
    if held is not None:
        reserved = reserved + held
    if freed is not None:
        reserved = less(reserved, freed)
    charged = holding.charged if spent is None else holding.charged + spent
    return Holding(holding.added, holding.unlocked, holding.arrived, reserved, charged)


_STATES = {
    EntryKind.QUEUED: ReservationState.QUEUED,
    EntryKind.RESERVED: ReservationState.RESERVED,
    EntryKind.DENIED: ReservationState.DENIED,
}


def _made(entry: Entry, account: Account) -> tuple[Account, ReservationView]:
    asked = mapping(entry.payload["asked"])
    denied = entry.kind is EntryKind.DENIED
    charge = books.charge_from(entry.payload["charge"])
    blocks = entry.payload.get("blocks")
    reservation = ReservationView(
        reservation_id=entry.reservation_id,
        account_id=account.account_id,
        study_uid=str(asked["studyUid"]),
        generation=int(str(asked["generation"])),
        study=str(asked["study"]),
        state=_STATES[entry.kind],
        fence=entry.seq,
        lease_until="" if denied else str(entry.payload["leaseUntil"]),
        event=books.event_from(asked["event"]),
        charge=charge,
        charged=None,
        executed=None,
        reason=str(entry.payload["message"]) if denied else "",
        blocks=(WHOLE,) if blocks is None else tuple(str(name) for name in _items(blocks)),
        requester=str(asked["requester"]),
        group=str(asked.get("group", "")),
        purpose=str(asked["purpose"]),
    )
    if entry.kind is EntryKind.RESERVED:
        return _moved(account, reservation, held=charge), reservation
    return _counted(account), reservation


def less(left: Charge, right: Charge) -> Charge:
    """What stays after giving back.

    Raises:
        Tampered: If more would be given back than is held; a balance is never negative.
    """
    charges.same_keys(left, right)
    pairs = zip(left.amounts, right.amounts, strict=True)
    amounts = [(key, held - amount) for (key, held), (_, amount) in pairs]
    for key, amount in amounts:
        if amount < 0:
            raise Tampered(f"A balance must not fall below 0; found {amount} at {key}.")
    return Charge(tuple(amounts))
