"""``primum ledger``: accounts, entries, and whether the record is intact."""

from __future__ import annotations

from typing import Annotated

import typer

from primum.entrypoints.cli.exits import Exit
from primum.entrypoints.cli.rendering import Output

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table, json or yaml.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="Who spent what, what is left, and whether the record is intact.", no_args_is_help=True
    )
    group.command("accounts")(accounts)
    group.command("entries")(entries)
    group.command("verify")(verify)
    group.command("thaw")(thaw)
    app.add_typer(group, name="ledger")


def accounts(output: OutputOption = Output.TABLE) -> None:
    """Show every account: what was promised, what is spent, what is left.

    Example: primum ledger accounts
    """
    from primum.entrypoints.cli import rendering, session

    stores = session.open_stores(session.existing())
    rows = [
        {
            "account": view.account_id,
            "dataset": view.terms.dataset_uri,
            "unit": view.terms.unit.value,
            "neighbors": view.terms.neighbors.value,
            "policy": view.terms.policy,
            "epsilon": str(view.terms.epsilon),
            "delta": str(view.terms.delta),
            "spent": str(view.epsilon_spent),
            "spentOrHeld": str(view.epsilon_reserved),
            "left": str(view.epsilon_left),
            "frozen": view.frozen or "no",
        }
        for view in stores.ledger.accounts()
    ]
    if output is not Output.TABLE:
        rendering.structured(rows, output)
        return
    shown = ("dataset", "unit", "policy", "epsilon", "spent", "left", "frozen")
    rendering.table(shown, [[row[name] for name in shown] for row in rows])
    print("spent: as the accounting policy counts Studies that were chosen one after the other")


def entries(
    after: Annotated[int, typer.Option("--after", help="Only entries after this number.")] = 0,
    limit: Annotated[
        int, typer.Option("--limit", help="At most this many.", min=1, max=100_000)
    ] = 1000,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show entries in order.

    Example: primum ledger entries --after 100 -o json
    """
    from primum.entrypoints.cli import rendering, session

    stores = session.open_stores(session.existing())
    found = stores.ledger.entries(after=after, limit=limit)
    if output is not Output.TABLE:
        rendering.structured([entry_document(entry) for entry in found], output)
        return
    rows = [
        [
            str(e.seq),
            e.time[:19],
            e.kind.value,
            e.account_id[:8],
            e.reservation_id[:8],
            e.actor,
            e.hash[:12],
        ]
        for e in found
    ]
    rendering.table(["seq", "time", "kind", "account", "reservation", "actor", "hash"], rows)


def verify(output: OutputOption = Output.TABLE) -> None:
    """Recompute the chain and every balance from the entries; exit 6 if anything contradicts.

    Example: primum ledger verify
    """
    from primum.entrypoints.cli import rendering, session

    stores = session.open_stores(session.existing())
    seq, head = stores.ledger.head()
    wrong = list(stores.ledger.verify())
    if output is not Output.TABLE:
        rendering.structured({"entries": seq, "head": head, "contradictions": wrong}, output)
    elif wrong:
        for sentence in wrong:
            print(sentence)
    else:
        print(f"intact: {seq} entries, head {head[:16]}")
    if wrong:
        raise typer.Exit(Exit.TAMPERED)


def thaw(
    budget: Annotated[str, typer.Argument(help="The PrivacyBudget's name.")],
    reason: Annotated[
        str, typer.Option("--reason", help="Why it may be used again; kept for good.")
    ],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace.")] = "",
) -> None:
    """Let a frozen budget be used again; only a steward may.

    Example: primum ledger thaw wisconsin --reason "plug-in removed, incident 17 closed"
    """
    from primum.adapters.identity import Role, caller
    from primum.domain.errors import Conflict, Refused
    from primum.domain.names import derived_uuid
    from primum.entrypoints.cli import session

    settings = session.existing()
    who = caller(settings.home, settings.token)
    if not who.holds(Role.STEWARD):
        raise Refused(f"ledger thaw needs the role steward; {who.name} does not hold it")
    stores = session.open_stores(settings)
    key = session.only_namespace(stores.resources, "PrivacyBudget", budget, namespace)
    account = str(stores.resources.get(key).status.get("accountId", ""))
    seq, _ = stores.ledger.head()
    result = stores.ledger.thaw(
        account,
        reason=reason,
        key=derived_uuid("thaw", account, str(seq)),
        actor=f"steward/{who.name}",
    )
    if not result.stands:
        raise Conflict(f"{key}: {result.code.value}. {result.message}")
    print(f"{key} thawed; the ledger keeps why")


def entry_document(entry: object) -> dict[str, object]:
    """An entry as people and auditors read it."""
    from dataclasses import asdict

    value = asdict(entry)  # type: ignore[call-overload]
    value["kind"] = str(value["kind"])
    return dict(value)
