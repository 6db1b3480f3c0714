"""What quotas have to count of the past, counted again from the reservations themselves.

New quotas are given what was taken before them in the entry that makes them. Were that believed, a
ledger that was made up could let somebody begin anew. This keeps a few bytes per charged
reservation: hashes of who asked, and a linear fingerprint of what was charged. It must not keep
charges or names, and decides nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from primum.domain.accounting.charges import Charge
from primum.domain.budget.book import OPEN_STATES, Account
from primum.domain.budget.entries import ReservationView
from primum.domain.budget.rules import QuotaScope

# A fingerprint is the sum of amounts times secret weights, modulo this prime: other amounts have
# the same one once in 10^18 tries. Python's hashes are keyed, so that nobody can make up such.
_PRIME = 2**61 - 1
_PRINTS_CACHED = 1024  # Most charges are repeats, and then they are read as the same object.

# Reserved and charged, by block, scope and hash of its holder.
_Counted = dict[tuple[str, str, int], tuple[int, int]]


@dataclass(slots=True)
class _Charged:
    """The charged reservations of one account, by column."""

    askers: dict[QuotaScope, array[int]] = field(
        default_factory=lambda: {scope: array("q") for scope in QuotaScope}
    )
    prints: array[int] = field(default_factory=lambda: array("q"))
    blocks: array[int] = field(default_factory=lambda: array("l"))  # Numbers in ``named``.
    named: dict[tuple[str, ...], int] = field(default_factory=dict)


class Recount:
    """What was charged to every account, as far as quotas may ask."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Charged] = {}
        self._weights: dict[str, int] = {}
        self._prints: dict[int, tuple[Charge, int]] = {}

    def take(self, reservation: ReservationView) -> None:
        """Count a reservation that was charged; others hold nothing any more."""
        if reservation.charged is None:
            return
        kept = self._accounts.get(reservation.account_id)
        if kept is None:
            kept = self._accounts[reservation.account_id] = _Charged()
        for scope, value in _askers(reservation):
            kept.askers[scope].append(hash(value))
        kept.prints.append(self._print(reservation.charged))
        kept.blocks.append(kept.named.setdefault(reservation.blocks, len(kept.named)))

    def agrees(self, account: Account, still_open: Iterable[ReservationView]) -> bool:
        """Whether an account's quotas count what they have to.

        Args:
            account: The account as a change of rules left it.
            still_open: Reservations that may still change at that moment, of any account.
        """
        stated = {}
        for (block, scope), held in account.quotas.items():
            per, _, value = scope.partition("=")
            key = block, per, hash(value)
            stated[key] = self._print(held.reserved), self._print(held.charged)
        if len(stated) < len(account.quotas):
            return False
        return stated == self._counted(account, still_open)

    def _counted(self, account: Account, still_open: Iterable[ReservationView]) -> _Counted:
        found: _Counted = {}
        for item in still_open:
            if item.account_id != account.account_id or item.state not in OPEN_STATES:
                continue
            for scope, _ in account.sharing.quotas_of(item):
                per, _, value = scope.partition("=")
                _add(found, item.blocks, (per, hash(value)), (self._print(item.charge), 0))
        kept = self._accounts.get(account.account_id)
        holders: dict[QuotaScope, set[str]] = {}
        for quota in account.sharing.quotas:
            holders.setdefault(quota.per, set()).add(quota.name)
        if kept is not None:
            for per, names in holders.items():
                _add_charged(found, kept, per, names)
        return found

    def _print(self, charge: Charge) -> int:
        known = self._prints.get(id(charge))
        if known is not None and known[0] is charge:
            return known[1]
        mark = sum(self._weight(key) * amount for key, amount in charge.amounts) % _PRIME
        if len(self._prints) >= _PRINTS_CACHED:
            self._prints.clear()
        self._prints[id(charge)] = charge, mark
        return mark

    def _weight(self, key: str) -> int:
        if key not in self._weights:
            self._weights[key] = hash(f"weight of {key}") % _PRIME
        return self._weights[key]


def _add_charged(found: _Counted, kept: _Charged, per: QuotaScope, names: set[str]) -> None:
    """Everything charged to whoever has a quota: by name, or each one."""
    wanted = {hash(name) for name in names}
    sums: dict[tuple[int, int], int] = {}
    for holder, number, mark in zip(kept.askers[per], kept.blocks, kept.prints, strict=True):
        if "" in names or holder in wanted:
            sums[holder, number] = sums.get((holder, number), 0) + mark
    blocks = list(kept.named)
    for (holder, number), mark in sums.items():
        _add(found, blocks[number], (per.value, holder), (0, mark))


def _add(
    found: _Counted, blocks: Iterable[str], whose: tuple[str, int], marks: tuple[int, int]
) -> None:
    for block in blocks:
        held, spent = found.get((block, *whose), (0, 0))
        found[(block, *whose)] = (held + marks[0]) % _PRIME, (spent + marks[1]) % _PRIME


def _askers(item: ReservationView) -> tuple[tuple[QuotaScope, str], ...]:
    return (
        (QuotaScope.REQUESTER, item.requester),
        (QuotaScope.GROUP, item.group),
        (QuotaScope.STUDY, item.study),
        (QuotaScope.PURPOSE, item.purpose),
    )
