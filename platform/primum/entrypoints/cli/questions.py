"""``primum ledger blocks | queue | burndown | forecast | spending | refusals``: what people ask.

Nothing here spends.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any

import typer

from primum.entrypoints.cli.rendering import Output

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table, json or yaml.")]
BudgetArgument = Annotated[str, typer.Argument(help="The PrivacyBudget's name, or an account id.")]
NamespaceOption = Annotated[str, typer.Option("--namespace", "-n", help="Namespace.")]
BlockOption = Annotated[str, typer.Option("--block", help="The block; default: the fullest.")]
_ROWS_SHOWN = 12  # Of a burn-down on a terminal; -o json has all.


class By(enum.StrEnum):
    """What spending is put together by."""

    REQUESTER = "requester"
    GROUP = "group"
    STUDY = "study"
    PURPOSE = "purpose"


def register(group: typer.Typer) -> None:
    """Add the commands to ``primum ledger``."""
    group.command("blocks")(blocks)
    group.command("queue")(queue)
    group.command("burndown")(burndown)
    group.command("forecast")(forecast)
    group.command("spending")(spending)
    group.command("refusals")(refusals)


def blocks(
    budget: BudgetArgument, namespace: NamespaceOption = "", output: OutputOption = Output.TABLE
) -> None:
    """Show every block of a budget: what is unlocked, spent and left.

    Example: primum ledger blocks wisconsin
    """
    from primum.entrypoints.cli import rendering

    platform, account = _account(budget, namespace)
    rows = [
        {
            "block": block.name,
            "added": block.added,
            "unlocked": str(block.unlocked_share),
            "spent": str(block.epsilon_spent),
            "spentOrHeld": str(block.epsilon_reserved),
            "left": str(block.epsilon_left),
        }
        for block in platform.ledger.account(account).blocks
    ]
    if output is not Output.TABLE:
        rendering.structured(rows, output)
        return
    shown = ("block", "unlocked", "spent", "spentOrHeld", "left")
    rendering.table(shown, [[row[name] for name in shown] for row in rows])
    print("unlocked: the part of the budget that has become available, as recorded")


def queue(
    budget: BudgetArgument, namespace: NamespaceOption = "", output: OutputOption = Output.TABLE
) -> None:
    """Show who waits for a budget, in order of arrival, and what each lacks.

    Example: primum ledger queue wisconsin
    """
    from primum.domain.budget.entries import ReservationState
    from primum.entrypoints.cli import rendering

    platform, account = _account(budget, namespace)
    waiting = [
        held
        for held in platform.ledger.reservations(account_id=account)
        if held.state is ReservationState.QUEUED
    ]
    rows = []
    for held in waiting:
        seen = platform.ledger.outlook(account, held.event, blocks=held.blocks, asker=held)
        lacks = seen.reason or "its turn"
        rows.append(
            {
                "place": held.fence,
                "study": held.study,
                "requester": held.requester,
                "until": held.lease_until,
                "lacks": lacks,
                "unlocks": seen.unlocks,
            }
        )
    if output is not Output.TABLE:
        rendering.structured(rows, output)
        return
    if not rows:
        print("nobody waits")
    for row in rows:
        print(f"{row['place']} {row['study']} ({row['requester']}), until {str(row['until'])[:19]}")
        when = f" Enough is unlocked: {row['unlocks']}." if row["unlocks"] else ""
        print(f"  waits for: {row['lacks']}{when}")


def burndown(
    budget: BudgetArgument,
    block: BlockOption = "",
    namespace: NamespaceOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Show how what is left of a budget went down.

    Example: primum ledger burndown wisconsin
    """
    from primum.application.reports import IN_ADVANCE
    from primum.entrypoints.cli import rendering

    reports, account = _asked(budget, namespace)
    found = reports.burndown(account, block=block)
    rows = [
        {
            "seq": point.seq,
            "time": point.time,
            "guarantee": str(point.guarantee),
            "spent": str(point.charged),
            "spentOrHeld": str(point.held),
            "left": str(point.left),
            "runningBound": "" if point.running_bound is None else str(point.running_bound),
        }
        for point in found.points
    ]
    if output is not Output.TABLE:
        document = {
            "account": found.account_id,
            "block": found.block,
            "points": rows,
            "runningBoundHolds": found.running_bound_holds,
            "epsilonInAdvance": None if found.in_advance is None else str(found.in_advance),
            "moreLikeTheLast": found.more,
        }
        rendering.structured(document, output)
        return
    shown = ("time", "spent", "spentOrHeld", "left", "runningBound")
    print(f"block {found.block}, the last {min(len(rows), _ROWS_SHOWN)} of {len(rows)} points")
    rendering.table(shown, [[str(row[name])[:19] for name in shown] for row in rows[-_ROWS_SHOWN:]])
    print(f"running bound: {found.running_bound_holds}")
    if found.in_advance is not None:
        print(f"{IN_ADVANCE}: epsilon {found.in_advance}; it was not")
    if found.more is not None:
        print(f"fits: {found.more} more like the last charged Study")


def forecast(
    budget: BudgetArgument, namespace: NamespaceOption = "", output: OutputOption = Output.TABLE
) -> None:
    """Say when each block of a budget runs out at the pace of its last 90 days.

    Example: primum ledger forecast wisconsin
    """
    from dataclasses import asdict

    from primum.entrypoints.cli import rendering

    reports, account = _asked(budget, namespace)
    found = reports.forecast(account)
    if output is not Output.TABLE:
        rows = [{"block": item.block, **asdict(item.forecast)} for item in found]
        rendering.structured([{**row, "prospect": row["prospect"].value} for row in rows], output)
        return
    for item in found:
        print(f"block {item.block}: {item.forecast.message}")


def spending(
    budget: BudgetArgument,
    by: Annotated[By, typer.Option("--by", help="What is put together.")] = By.REQUESTER,
    block: BlockOption = "",
    since: Annotated[str, typer.Option("--since", help="First day, as 2026-01-31.")] = "",
    until: Annotated[str, typer.Option("--until", help="Last day.")] = "",
    namespace: NamespaceOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Say who took how much of a budget: by requester, group, study or purpose.

    Example: primum ledger spending wisconsin --by purpose --since 2026-01-01
    """
    from primum.application.reports import Grouping, Sought
    from primum.entrypoints.cli import rendering

    reports, account = _asked(budget, namespace)
    sought = Sought(since=_day("--since", since), until=_day("--until", until))
    found = reports.spending(account, by=Grouping(by.value), block=block, sought=sought)
    rows = [
        {
            by.value: share.name,
            "charges": share.charges,
            "first": share.first,
            "last": share.last,
            "epsilonAlone": str(share.epsilon),
            "share": str(share.share),
        }
        for share in found.shares
    ]
    if output is not Output.TABLE:
        rendering.structured({"block": found.block, "shares": rows}, output)
        return
    rendering.table(
        [by.value, "charges", "first", "last", "epsilon alone", "share"],
        [
            [str(value)[:40] if n else str(value) for n, value in enumerate(row.values())]
            for row in rows
        ],
    )
    print(f"block {found.block}; shares add up, epsilons do not")


def refusals(
    limit: Annotated[
        int, typer.Option("--limit", help="The newest so many.", min=1, max=1000)
    ] = 20,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what the ledger refused, the newest first, with reasons.

    Example: primum ledger refusals
    """
    from primum.application import refusals as asked
    from primum.application.searching import Order
    from primum.entrypoints import bootstrap
    from primum.entrypoints.cli import rendering, session

    platform = bootstrap.platform(session.existing())
    page = asked.refused_claims(platform, order=Order.NEWEST, limit=limit)
    if output is not Output.TABLE:
        rows = [
            {
                "seq": item.seq,
                "time": item.time,
                "study": item.study,
                "requester": item.requester,
                "dataset": item.dataset,
                "blocks": list(item.blocks),
                "code": item.code,
                "reason": item.reason,
                "told": item.told,
            }
            for item in page.items
        ]
        rendering.structured(rows, output)
        return
    if not page.items:
        print("nothing was refused")
    for item in page.items:
        print(f"{item.time[:19]} {item.study} ({item.requester}): {item.code}")
        print(f"  {item.reason}")
        if item.told and item.told != item.reason:
            print(f"  told: {item.told}")


def _asked(budget: str, namespace: str) -> tuple[Any, str]:
    """What answers, and the account of a budget's name; an account's own id is taken as it is."""
    from primum.application.reports import Reports

    platform, account = _account(budget, namespace)
    return Reports(platform), account


def _account(budget: str, namespace: str) -> tuple[Any, str]:
    """The ports, and the account of a budget's name."""
    from primum.domain.errors import NotFound
    from primum.entrypoints import bootstrap
    from primum.entrypoints.cli import session

    platform = bootstrap.platform(session.existing())
    if platform.ledger.account(budget) is not None:
        return platform, budget
    key = session.only_namespace(platform.resources, "PrivacyBudget", budget, namespace)
    stored = platform.resources.get(key)
    account = str(stored.status.get("accountId", "")) if stored is not None else ""
    if not account:
        raise NotFound(f"{key} has no account yet. It is opened when the dataset is registered.")
    return platform, account


def _day(option: str, text: str) -> str:
    import datetime

    from primum.domain.errors import InvalidValue

    if not text:
        return ""
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        raise InvalidValue(option, "must be a day such as 2026-01-31", text) from None
