"""Does a request fit? Weighs requests against blocks and quotas while earlier ones are still held.

Whole numbers only, and nothing here grants anything. What cannot be shown to fit does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.charges import Charge
from primum.domain.budget.book import Account
from primum.domain.budget.entries import ResultCode
from primum.domain.budget.filters import quota_shortfall, shortfall
from primum.domain.budget.layout import WHOLE
from primum.domain.budget.rules import Asker, Quota


@dataclass(frozen=True, slots=True)
class Missing:
    """What is missing for a request.

    Args:
        code: Over budget, over a quota, or only locked.
        text: For people: which block or quota, how much, under which accountant.
    """

    code: ResultCode
    text: str


class Tally:
    """What every block and quota would have used, while requests are weighed one after another."""

    def __init__(self) -> None:
        self._used: dict[tuple[str, str, str], Charge] = {}

    def missing(
        self, account: Account, asker: Asker | None, blocks: Sequence[str], charge: Charge
    ) -> Missing | None:
        """What a request lacks now, or ``None`` where it fits everywhere.

        The guarantee is asked first, then quotas, and what is locked last: only that may be worth
        waiting for.

        Args:
            account: The account as the book has it.
            asker: Whose quotas hold, or ``None`` to leave quotas out.
            blocks: Names of the blocks, each of which must have room.
            charge: What each of them would be charged.
        """
        if charge.is_zero:
            return None
        policy, capacity = account.filter, account.capacity
        for block in blocks:
            used = self._of(account, block, "")
            if not policy.admits(capacity=capacity, used=used, request=charge):
                text = shortfall(account, used=used, request=charge)
                return Missing(ResultCode.OVER_BUDGET, named(block, text))
        over = None if asker is None else self._over_quota(account, asker, blocks, charge)
        if over is not None:
            return over
        for block in blocks:
            used = self._of(account, block, "")
            available = account.available(account.blocks[block])
            if available is capacity:
                continue  # Nothing is locked: asked above.
            if not policy.admits(capacity=available, used=used, request=charge):
                text = shortfall(account, used=used, request=charge, room=available)
                return Missing(ResultCode.LOCKED, named(block, text))
        return None

    def hold(self, account: Account, asker: Asker, blocks: Sequence[str], charge: Charge) -> None:
        """Count a request as held from here on."""
        for block in blocks:
            for scope in ("", *(scope for scope, _ in account.sharing.quotas_of(asker))):
                key = account.account_id, block, scope
                self._used[key] = self._of(account, block, scope) + charge

    def let_go(self, account: Account, asker: Asker, blocks: Sequence[str], charge: Charge) -> None:
        """Undo a ``hold``."""
        for block in blocks:
            for scope in ("", *(scope for scope, _ in account.sharing.quotas_of(asker))):
                key = account.account_id, block, scope
                pairs = zip(self._used[key].amounts, charge.amounts, strict=True)
                self._used[key] = Charge(
                    tuple([(k, held - less) for (k, held), (_, less) in pairs])
                )

    def _over_quota(
        self, account: Account, asker: Asker, blocks: Sequence[str], charge: Charge
    ) -> Missing | None:
        for scope, quota in account.sharing.quotas_of(asker):
            room = _quota_room(account, quota)
            for block in blocks:
                used = self._of(account, block, scope)
                if room is None or not account.filter.admits(
                    capacity=room, used=used, request=charge
                ):
                    text = quota_shortfall(
                        account, scope=scope, epsilon=quota.epsilon, used=used, request=charge
                    )
                    return Missing(ResultCode.OVER_QUOTA, named(block, text))
        return None

    def _of(self, account: Account, block: str, scope: str) -> Charge:
        key = account.account_id, block, scope
        if key not in self._used:
            self._used[key] = _recorded(account, block, scope)
        return self._used[key]


def _recorded(account: Account, block: str, scope: str) -> Charge:
    if not scope:
        return account.blocks[block].used
    counted = account.quotas.get((block, scope))
    if counted is not None:
        return counted.used
    return account.capacity.emptied


def _quota_room(account: Account, quota: Quota) -> Charge | None:
    """What a quota has room for in each block; ``None`` where it shuts out."""
    if quota.epsilon <= 0:
        return None
    guarantee = Guarantee(min(quota.epsilon, account.terms.epsilon), account.terms.delta)
    return account.filter.capacity(guarantee)


def named(block: str, text: str) -> str:
    """A sentence about a block; the only block of a dataset needs no name."""
    return text if block == WHOLE else f"Block {block}: {text}"


def never_fits(account: Account, blocks: Sequence[str], charge: Charge) -> str:
    """Why waiting cannot help, whatever is unlocked or returned: what is charged leaves no room.

    Returns:
        For people; empty where it may yet fit.
    """
    if charge.is_zero:
        return ""
    for block in blocks:
        spent = account.blocks[block].charged
        if not account.filter.admits(capacity=account.capacity, used=spent, request=charge):
            return named(block, shortfall(account, used=spent, request=charge))
    return ""


def unlocked_share(account: Account, block: str) -> Decimal:
    """Part of a block's capacity that is available, at the key where most is; rounded down."""
    available = account.available(account.blocks[block]).as_dict
    most = account.capacity.as_dict
    shares = [Decimal(max(available[key], 0)) / most[key] for key in most if most[key] > 0]
    whole = max(shares, default=Decimal(0))
    return whole.quantize(Decimal("0.0001"), rounding="ROUND_DOWN")


def together(amounts: Mapping[str, Missing]) -> tuple[ResultCode, str, dict[str, str]]:
    """The gravest code, one message, and what is missing by account."""
    order = (ResultCode.OVER_BUDGET, ResultCode.OVER_QUOTA, ResultCode.LOCKED)
    code = min((item.code for item in amounts.values()), key=order.index)
    message = " ".join(item.text for _, item in sorted(amounts.items()))
    return code, message, {name: item.text for name, item in amounts.items()}
