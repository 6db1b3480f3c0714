"""An account as people and plans see it: epsilons through its own accounting policy.

A view is for reading. Nothing decides by it, because its numbers are rounded.
"""

from __future__ import annotations

import functools
from decimal import Decimal

from primum.domain.accounting.charges import Charge
from primum.domain.budget.book import Account
from primum.domain.budget.entries import AccountView, BlockView, QuotaView
from primum.domain.budget.weighing import unlocked_share


def view_of(account: Account) -> AccountView:
    """An account as people see it; epsilons at its delta, spends rounded up.

    A divided account shows the epsilons of its fullest block: the guarantee holds for each block,
    and nobody is in two.
    """
    # Blocks often hold the same, and a figure costs more than looking it up.
    spent_of = functools.cache(functools.partial(_spent, account))
    blocks = tuple(_block(account, name, spent_of) for name in sorted(account.blocks))
    spent = max((block.epsilon_spent for block in blocks), default=Decimal(0))
    reserved = max((block.epsilon_reserved for block in blocks), default=Decimal(0))
    return AccountView(
        account_id=account.account_id,
        terms=account.terms,
        rules=account.sharing,
        blocks=blocks,
        quotas=_quotas(account, spent_of),
        capacity=account.capacity,
        epsilon_spent=spent,
        epsilon_reserved=reserved,
        epsilon_left=max(account.terms.epsilon - reserved, Decimal(0)),
        frozen=account.frozen,
        entries=account.entries,
    )


def _spent(account: Account, used: Charge) -> Decimal:
    return account.filter.spent_epsilon(used=used, guarantee=account.guarantee)


def _block(
    account: Account, name: str, spent_of: functools._lru_cache_wrapper[Decimal]
) -> BlockView:
    held = account.blocks[name]
    reserved = spent_of(held.used)
    return BlockView(
        name=name,
        added=held.added,
        unlocked=account.available(held),
        reserved=held.reserved,
        charged=held.charged,
        unlocked_share=unlocked_share(account, name),
        epsilon_spent=spent_of(held.charged),
        epsilon_reserved=reserved,
        epsilon_left=max(account.terms.epsilon - reserved, Decimal(0)),
    )


def _quotas(
    account: Account, spent_of: functools._lru_cache_wrapper[Decimal]
) -> tuple[QuotaView, ...]:
    by_scope = {f"{q.per.value}={q.name}": q.epsilon for q in account.sharing.quotas}
    found = []
    for (block, scope), held in sorted(account.quotas.items()):
        per = scope.partition("=")[0]
        epsilon = by_scope.get(scope, by_scope.get(f"{per}="))
        found.append(QuotaView(scope, block, epsilon, spent_of(held.used)))
    return tuple(found)
