"""``kubectl primum ledger``: who spent what on what, what is left, and whether that is intact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from primum.entrypoints.cli import rendering
from primum.entrypoints.cli.exits import Exit
from primum.entrypoints.cli.kubectl.connection import (
    Cluster,
    Listing,
    ListingOption,
    OutputOption,
)
from primum.entrypoints.cli.questions import By
from primum.entrypoints.cli.rendering import Output

BudgetArgument = Annotated[str, typer.Argument(help="The PrivacyBudget's name, or an account id.")]
BlockOption = Annotated[str, typer.Option("--block", help="The block; default: the fullest.")]
LimitOption = Annotated[int, typer.Option("--limit", help="At most so many.", min=1, max=1000)]
_ROWS_SHOWN = 12  # Of a burn-down on a terminal; -o json has all.


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="Who spent what, what is left, and whether the record is intact.", no_args_is_help=True
    )
    for command in (accounts, entries, reservations, burndown, forecast, spending, refusals):
        group.command(command.__name__)(command)
    group.command("verify")(verify)
    app.add_typer(group, name="ledger")


def accounts(context: typer.Context, output: ListingOption = Listing.TABLE) -> None:
    """Show every account: what was promised, what is spent, what is left.

    Example: kubectl primum ledger accounts
    """
    cluster: Cluster = context.obj
    found = cluster.ledger.rows("/v1/accounts")
    shown = ("datasetUri", "unit", "policy", "epsilon", "epsilonCharged", "epsilonLeft", "frozen")
    if output is Listing.NAME:  # What every other command takes for a budget.
        _names(found, "accountId")
        return
    _print(found, output.plain, shown)


def entries(
    context: typer.Context,
    after: Annotated[int, typer.Option("--after", help="Only entries after this number.")] = 0,
    limit: LimitOption = 100,
    study: Annotated[str, typer.Option("--study", help="Part of the Study's name.")] = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Show entries in order.

    Example: kubectl primum ledger entries --study malignancy
    """
    cluster: Cluster = context.obj
    asked = {"after": after, "limit": limit, "study": study}
    found = cluster.ledger.ask("GET", f"/v1/entries?{urlencode(asked)}")["items"]
    _print(found, output, ("seq", "time", "kind", "accountId", "reservationId", "actor", "hash"))


def reservations(
    context: typer.Context, budget: BudgetArgument, output: ListingOption = Listing.TABLE
) -> None:
    """Show what is held of a budget, and who waits for it.

    Example: kubectl primum ledger reservations wisconsin
    """
    cluster: Cluster = context.obj
    found = cluster.ledger.rows(f"/v1/accounts/{cluster.account(budget)}/reservations")
    if output is Listing.NAME:
        _names(found, "reservationId")
        return
    _print(found, output.plain, ("state", "study", "requester", "epsilonAlone", "until"))


def burndown(
    context: typer.Context,
    budget: BudgetArgument,
    block: BlockOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Show how what is left of a budget went down.

    Example: kubectl primum ledger burndown wisconsin
    """
    cluster: Cluster = context.obj
    query = urlencode({"block": block})
    found = cluster.ledger.ask("GET", f"/v1/accounts/{cluster.account(budget)}/burndown?{query}")
    if output is not Output.TABLE:
        rendering.structured(found, output)
        return
    points = found["points"]
    few = min(len(points), _ROWS_SHOWN)
    print(f"block {found['block']}, the last {few} of {len(points)} points")
    shown = ("time", "epsilonCharged", "epsilonReserved", "epsilonLeft", "runningBound")
    _print(points[-_ROWS_SHOWN:], output, shown)
    print(f"running bound: {found['runningBoundHolds']}")


def forecast(
    context: typer.Context, budget: BudgetArgument, output: OutputOption = Output.TABLE
) -> None:
    """Say when each block of a budget runs out at the pace of its last 90 days.

    Example: kubectl primum ledger forecast wisconsin
    """
    cluster: Cluster = context.obj
    found = cluster.ledger.rows(f"/v1/accounts/{cluster.account(budget)}/forecast")
    if output is not Output.TABLE:
        rendering.structured(found, output)
        return
    for item in found:
        print(f"block {item['block']}: {item['message']}")


def spending(
    context: typer.Context,
    budget: BudgetArgument,
    by: Annotated[By, typer.Option("--by", help="What is put together.")] = By.REQUESTER,
    block: BlockOption = "",
    since: Annotated[str, typer.Option("--since", help="First day, as 2026-01-31.")] = "",
    until: Annotated[str, typer.Option("--until", help="Last day.")] = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Say who took how much of a budget: by requester, group, study or purpose.

    Example: kubectl primum ledger spending wisconsin --by purpose
    """
    cluster: Cluster = context.obj
    query = urlencode({"by": by.value, "block": block, "since": since, "until": until})
    found = cluster.ledger.ask("GET", f"/v1/accounts/{cluster.account(budget)}/spending?{query}")
    if output is not Output.TABLE:
        rendering.structured(found, output)
        return
    _print(found["shares"], output, ("name", "charges", "first", "last", "epsilonAlone", "share"))
    print(f"block {found['block']}; shares add up, epsilons do not")


def refusals(
    context: typer.Context,
    budget: Annotated[str, typer.Argument(help="A PrivacyBudget, or all.")] = "",
    limit: LimitOption = 100,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what the ledger refused, with reasons.

    Example: kubectl primum ledger refusals wisconsin
    """
    cluster: Cluster = context.obj
    account = cluster.account(budget) if budget else ""
    query = urlencode({"account": account, "limit": limit})
    found = cluster.ledger.ask("GET", f"/v1/refusals?{query}")["items"]
    _print(found, output, ("time", "study", "requester", "code", "epsilonAlone", "reason"))


def verify(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Have the chain and every balance recomputed; exit 6 if anything contradicts.

    Example: kubectl primum ledger verify
    """
    cluster: Cluster = context.obj
    found = cluster.ledger.ask("GET", "/v1/verification")
    if output is not Output.TABLE:
        rendering.structured(found, output)
    elif found["contradictions"]:
        for sentence in found["contradictions"]:
            print(sentence)
    else:
        print(f"intact: {found['entries']} entries, head {found['head'][:16]}")
    if found["contradictions"]:
        raise typer.Exit(Exit.TAMPERED)


def _print(rows: Sequence[dict[str, Any]], output: Output, shown: Sequence[str]) -> None:
    if output is not Output.TABLE:
        rendering.structured(rows, output)
        return
    rendering.table(shown, [[_cell(row[name]) for name in shown] for row in rows])


def _names(rows: Sequence[dict[str, Any]], field: str) -> None:
    for row in rows:
        print(row[field])


def _cell(value: object) -> str:
    """A cell of a table; -o json has the whole."""
    return "-" if value in (None, "") else str(value)[:60]
