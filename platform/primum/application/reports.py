"""Questions people ask about the ledger: what is left, at what pace it goes, and who spent it.

Every answer is read off the entries and spends nothing. An account is read once and then only from
where the last question ended. Whether the record is intact is not asked here: ``verify`` is.
"""

from __future__ import annotations

import enum
import functools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal

from primum.application.platform import Platform
from primum.application.ports import LedgerStore
from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.charges import Charge
from primum.domain.accounting.policies import AccountingPolicy
from primum.domain.budget import forecast as forecasts
from primum.domain.budget import odometer
from primum.domain.budget.book import Account
from primum.domain.budget.filters import times
from primum.domain.budget.forecast import Forecast
from primum.domain.budget.history import Cell, History, Point
from primum.domain.errors import NotFound, UnsupportedEvent

HISTORIES_MAX = 256  # Accounts kept read; a hospital has tens of datasets.
PAGE = 1000  # Entries per read.
FORECASTS_MAX = 200  # Blocks of one answer.
GROUPS_MAX = 1000  # Of one spending report; the rest is put together.
MORE_MAX = 1000  # Beyond it people read "plenty".
OTHERS = "(others)"
IN_ADVANCE_BY = "RDP"  # Where the policy's own accountant cannot speak for what was charged.
IN_ADVANCE = "if the plan had been fixed in advance"
AS_FILTERED = "spent of the budget, as its filter counts"
_SHARE_PLACES = Decimal("0.0001")


class Grouping(enum.StrEnum):
    """What spending is put together by."""

    REQUESTER = "requester"
    GROUP = "group"
    STUDY = "study"
    PURPOSE = "purpose"


@dataclass(frozen=True, slots=True)
class BurndownPoint:
    """How a block stood right after an entry; epsilons at the guarantee in force then.

    Args:
        seq: Number of the entry.
        time: Its time.
        guarantee: The guarantee's epsilon.
        charged: Spent for good, as the filter counts.
        held: The same with open reservations.
        left: What is left of the guarantee beside what is held.
        running_bound: The odometer of what is held, or ``None`` where none is defined.
    """

    seq: int
    time: str
    guarantee: Decimal
    charged: Decimal
    held: Decimal
    left: Decimal
    running_bound: Decimal | None


@dataclass(frozen=True, slots=True)
class Burndown:
    """How what is left of a block went down.

    Args:
        account_id: The account.
        block: The block.
        blocks: Every block, the fullest first.
        points: At most 241, oldest first; the first is the block's beginning, the last is now.
        running_bound_holds: Under which assumption the running bound holds, or why there is none.
        in_advance: What an accountant would say had everything been fixed in advance, or ``None``.
        more: How many further Studies like the last one fit; ``None`` where nothing was charged.
    """

    account_id: str
    block: str
    blocks: tuple[str, ...]
    points: tuple[BurndownPoint, ...]
    running_bound_holds: str
    in_advance: Decimal | None
    more: int | None


@dataclass(frozen=True, slots=True)
class BlockForecast:
    """When one block runs out."""

    block: str
    forecast: Forecast


@dataclass(frozen=True, slots=True)
class Share:
    """What one requester, group, Study or purpose took of a block.

    Args:
        name: Whose.
        charges: How many charges.
        first: Time of the first one.
        last: Time of the last one.
        epsilon: What they would cost alone, as the filter counts; does not add up over names.
        share: Part of everything charged to the block, in the filter's own currency; adds up.
    """

    name: str
    charges: int
    first: str
    last: str
    epsilon: Decimal
    share: Decimal


@dataclass(frozen=True, slots=True)
class Spending:
    """Who took how much of a block."""

    account_id: str
    block: str
    by: Grouping
    since: str
    until: str
    shares: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Sought:
    """Restricts a spending report; empty fields do not.

    Args:
        since: First day, ``2026-01-31``.
        until: Last day.
    """

    requester: str = ""
    group: str = ""
    study: str = ""
    purpose: str = ""
    since: str = ""
    until: str = ""

    def wants(self, cell: Cell) -> bool:
        """Whether a cell is meant."""
        named = (
            (self.requester, cell.asked.requester),
            (self.group, cell.asked.group),
            (self.study, cell.asked.study),
            (self.purpose, cell.asked.purpose),
        )
        days = (not self.since or cell.day >= self.since) and (
            not self.until or cell.day <= self.until
        )
        return days and all(wanted in ("", found) for wanted, found in named)


_EVERYTHING = Sought()


class Reports:
    """Answers from a ledger, read incrementally.

    Args:
        platform: The ports; the ledger is only read.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._ledger: LedgerStore = platform.ledger
        self._histories: OrderedDict[str, History] = OrderedDict()
        self._lock = threading.Lock()

    def burndown(self, account_id: str, *, block: str = "") -> Burndown:
        """How what is left of a block went down; of the fullest one where none is named.

        Raises:
            NotFound: If there is no such account or block.
        """
        with self._lock:
            history, account = self._read(account_id)
            ranked = _fullest_first(account)
            block = _named(account, ranked, block)
            opened = history.opened or account.guarantee
            points = history.points(block)
            show = functools.partial(_shown, account.filter, opened)
            bound = odometer.running_bound(
                account.filter, used=account.blocks[block].used, guarantee=opened
            )
            return Burndown(
                account_id,
                block,
                ranked,
                tuple(show(point) for point in points),
                bound.assumption,
                self._in_advance(history, account, block),
                _more(history, account, block),
            )

    def forecast(self, account_id: str, *, block: str = "") -> tuple[BlockForecast, ...]:
        """When a block runs out at the pace of its last months; each one where none is named.

        The fullest come first, at most 200.

        Raises:
            NotFound: If there is no such account or block.
        """
        with self._lock:
            history, account = self._read(account_id)
            now = max(self._platform.clock.now(), history.time)
            ranked = _fullest_first(account)[:FORECASTS_MAX]
            chosen = (_named(account, ranked, block),) if block else ranked
            return tuple(
                BlockForecast(name, _forecast(history, account, name, now)) for name in chosen
            )

    def spending(
        self,
        account_id: str,
        *,
        by: Grouping,
        block: str = "",
        sought: Sought = _EVERYTHING,
    ) -> Spending:
        """Who took how much of a block, the most first.

        Raises:
            NotFound: If there is no such account or block.
        """
        with self._lock:
            history, account = self._read(account_id)
            block = _named(account, _fullest_first(account), block)
            cells = [c for c in history.cells() if block in c.blocks and sought.wants(c)]
        shares = _shares(cells, by, account, account.blocks[block].charged)
        return Spending(account_id, block, by, sought.since, sought.until, shares)

    def _read(self, account_id: str) -> tuple[History, Account]:
        """The account's history up to its last entry."""
        history = self._histories.pop(account_id, None)
        if history is None or not self._continues(account_id, history):
            history = History()
        while page := self._ledger.entries(account_id=account_id, after=history.seq, limit=PAGE):
            for entry in page:
                history.take(entry)
        if history.account is None:
            raise NotFound(f"account {account_id[:64]} does not exist")
        self._histories[account_id] = history
        if len(self._histories) > HISTORIES_MAX:
            self._histories.popitem(last=False)
        return history, history.account

    def _continues(self, account_id: str, history: History) -> bool:
        """Whether the ledger still holds the entry at which a history ends."""
        found = self._ledger.entries(account_id=account_id, after=history.seq - 1, limit=1)
        return bool(found) and (found[0].seq, found[0].hash) == (history.seq, history.hash)

    def _in_advance(self, history: History, account: Account, block: str) -> Decimal | None:
        event = history.happened(block)
        if event is None:
            return None
        for name in dict.fromkeys((account.terms.policy, IN_ADVANCE_BY)):
            try:
                accountant = self._platform.accountant(name)
                return accountant.epsilon(event, account.terms.delta, account.terms.neighbors)
            except (NotFound, UnsupportedEvent):
                continue  # No accountant speaks for this policy, or not for this event.
        return None


def _fullest_first(account: Account) -> tuple[str, ...]:
    spent = functools.partial(account.filter.spent_epsilon, guarantee=account.guarantee)
    ranked = sorted(account.blocks.items(), key=lambda item: (-spent(used=item[1].used), item[0]))
    return tuple(name for name, _ in ranked)


def _named(account: Account, ranked: Sequence[str], block: str) -> str:
    if block and block not in account.blocks:
        raise NotFound(f"block {block[:64]} does not exist in account {account.account_id}")
    if not block and not ranked:
        raise NotFound(f"account {account.account_id} has no block yet")
    return block or ranked[0]


def _shown(policy: AccountingPolicy, opened: Guarantee, point: Point) -> BurndownPoint:
    guarantee = point.guarantee
    held = policy.spent_epsilon(used=point.used, guarantee=guarantee)
    return BurndownPoint(
        point.seq,
        point.time,
        guarantee.epsilon,
        policy.spent_epsilon(used=point.charged, guarantee=guarantee),
        held,
        max(guarantee.epsilon - held, Decimal(0)),
        odometer.running_bound(policy, used=point.used, guarantee=opened).epsilon,
    )


def _more(history: History, account: Account, block: str) -> int | None:
    spends = history.spends(block)
    if not spends:
        return None
    if account.frozen:
        return 0
    policy, capacity, used = account.filter, account.capacity, account.blocks[block].used
    low, high = 0, MORE_MAX
    while low < high:
        middle = (low + high + 1) // 2
        request = times(spends[-1].charge, middle)
        fits = policy.admits(capacity=capacity, used=used, request=request)
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _forecast(history: History, account: Account, block: str, now: str) -> Forecast:
    policy, capacity, used = account.filter, account.capacity, account.blocks[block].used

    def admits(request: Charge) -> bool:
        return policy.admits(capacity=capacity, used=used, request=request)

    points = history.points(block)
    began = points[0].time if points else now
    found = forecasts.forecast(history.spends(block), opened=began, now=now, admits=admits)
    if account.frozen:
        return replace(found, message=f"Frozen ({account.frozen}). {found.message}")
    return found


def _shares(
    cells: Sequence[Cell], by: Grouping, account: Account, charged: Charge
) -> tuple[Share, ...]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(getattr(cell.asked, by.value), []).append(cell)
    key = _deciding_key(account, charged)
    whole = charged.as_dict.get(key, 0)
    found = [_share(name, items, account, key, whole) for name, items in groups.items()]
    found.sort(key=lambda share: (-share.share, share.name))
    if len(found) <= GROUPS_MAX:
        return tuple(found)
    rest = [c for share in found[GROUPS_MAX:] for c in groups[share.name]]
    return (*found[:GROUPS_MAX], _share(OTHERS, rest, account, key, whole))


def _share(name: str, cells: Sequence[Cell], account: Account, key: str, whole: int) -> Share:
    total = cells[0].charge
    for cell in cells[1:]:
        total = total + cell.charge
    part = Decimal(total.as_dict.get(key, 0)) / whole if whole else Decimal(0)
    return Share(
        name,
        sum(cell.charges for cell in cells),
        min(cell.first for cell in cells),
        max(cell.last for cell in cells),
        account.filter.spent_epsilon(used=total, guarantee=account.guarantee),
        part.quantize(_SHARE_PLACES, ROUND_HALF_UP),
    )


def _deciding_key(account: Account, charged: Charge) -> str:
    """The filter's key at which the account stands: where what is charged leaves the most room.

    A filter of several orders admits while one of them has room, so the emptiest one decides.
    Basic composition needs room at every key, so its fullest one does.
    """
    capacity = account.capacity.as_dict
    filled = [
        (Decimal(amount) / capacity[key], key)
        for key, amount in charged.amounts
        if capacity.get(key, 0) > 0
    ]
    if not filled:
        return ""
    return max(filled)[1] if account.terms.policy == "Basic" else min(filled)[1]
