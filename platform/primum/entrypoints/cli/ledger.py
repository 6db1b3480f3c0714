"""``primum ledger``: accounts, entries, and whether the record is intact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from primum.entrypoints.cli import files, questions, replaying
from primum.entrypoints.cli.exits import Exit
from primum.entrypoints.cli.rendering import Output
from primum.entrypoints.settings import Settings

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table, json or yaml.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="Who spent what, what is left, and whether the record is intact.", no_args_is_help=True
    )
    group.command("accounts")(accounts)
    group.command("entries")(entries)
    group.command("verify")(verify)
    group.command("checkpoint")(checkpoint)
    group.command("export")(export)
    group.command("thaw")(thaw)
    questions.register(group)
    replaying.register(group)
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


def verify(
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", help="One that was kept elsewhere; may be repeated."),
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option("--public-key", help="PEM; default: this platform's.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="An exported ledger instead of this platform's.")
    ] = None,
    chain: Annotated[
        bool, typer.Option("--chain", help="The chain alone: quicker, and blind to balances.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Recompute the chain and every balance, and meet every signed checkpoint.

    With --bundle nothing is read but the bundle and the key; with --chain no balance, reservation
    or checkpoint is looked at. Exit 6 if anything contradicts.

    Example: primum ledger verify --checkpoint safe/2026-11.json --public-key safe/primum.pem
    """
    from primum.domain.errors import InvalidValue
    from primum.entrypoints.cli import rendering

    outside = {str(file): files.json_object(file, "checkpoint") for file in checkpoints or ()}
    if chain:
        if bundle or public_key or outside:
            raise InvalidValue("--chain", "must be given alone", "another option with it")
        seq, head, wrong = _chain_verified()
    else:
        verified = _bundle_verified if bundle else _ledger_verified
        seq, head, wrong = verified(bundle, public_key, outside)
    if output is not Output.TABLE:
        rendering.structured({"entries": seq, "head": head, "contradictions": wrong}, output)
    elif wrong:
        for sentence in wrong:
            print(sentence)
    else:
        what = "chain intact" if chain else "intact"
        print(f"{what}: {seq} entries, head {head[:16]}")
    if wrong:
        raise typer.Exit(Exit.TAMPERED)


def _ledger_verified(
    _bundle: Path | None, public_key: Path | None, outside: Mapping[str, Mapping[str, Any]]
) -> tuple[int, str, list[str]]:
    from primum.entrypoints import bootstrap
    from primum.entrypoints.cli import session

    settings = session.existing()
    stores = session.open_stores(settings)
    key_file = public_key or bootstrap.keys_folder(settings) / "signing.pub.pem"
    key = files.text(key_file, "public key")
    seq, head = stores.ledger.head()
    return seq, head, list(stores.ledger.verify(public_key=key, outside=outside))


def _chain_verified() -> tuple[int, str, list[str]]:
    from primum.entrypoints.cli import session

    stores = session.open_stores(session.existing())
    seq, head = stores.ledger.head()
    return seq, head, list(stores.ledger.verify_chain())


def _bundle_verified(
    bundle: Path | None, public_key: Path | None, outside: Mapping[str, Mapping[str, Any]]
) -> tuple[int, str, list[str]]:
    from primum.adapters.bundle import verify_bundle
    from primum.domain.errors import InvalidValue

    if bundle is None or public_key is None:
        remedy = "The key inside a bundle proves nothing."
        raise InvalidValue("--public-key", "must be given with --bundle", "none", remedy)
    key = files.text(public_key, "public key")
    found = verify_bundle(bundle, public_key=key, outside=outside)
    return found.seq, found.head, list(found.faults)


def checkpoint(
    out: Annotated[
        Path | None, typer.Option("--out", help="A new file for it; default: print it.")
    ] = None,
) -> None:
    """Sign where the ledger stands, for somebody to keep where this platform cannot reach.

    Example: primum ledger checkpoint --out safe/2026-11.json
    """
    from primum.application.checkpointing import opened
    from primum.domain.canonical import canonical_json
    from primum.domain.errors import Conflict
    from primum.entrypoints import bootstrap
    from primum.entrypoints.cli import session

    settings = session.existing()
    name = _officer(settings, "ledger checkpoint")
    if out is not None and out.exists():
        raise Conflict(f"checkpoint {out} must not exist yet; found a file there")
    signer = bootstrap.signer(settings)
    ledger = session.open_stores(settings).ledger
    envelope = ledger.checkpoint(signer, actor=f"person/{name}")
    text = canonical_json(envelope) + b"\n"
    if out is None:
        print(text.decode(), end="")
        return
    files.create(out, text, "checkpoint")
    stated = opened(envelope, signer.public_key())
    print(f"signed: entry {stated.seq}, head {stated.hash[:16]}; keep {out} elsewhere")


def export(
    file: Annotated[Path, typer.Argument(help="The bundle, a new tar file.")],
) -> None:
    """Write the whole ledger for an auditor; it verifies offline with the public key alone.

    Example: primum ledger export ledger-2026.tar
    """
    from primum.adapters.bundle import write_bundle
    from primum.entrypoints import bootstrap
    from primum.entrypoints.cli import session

    settings = session.existing()
    _officer(settings, "ledger export")
    stores = session.open_stores(settings)
    seq, head = write_bundle(file, stores.ledger, bootstrap.signer(settings))
    print(f"exported: {seq} entries, head {head[:16]}, to {file}")


def _officer(settings: Settings, command: str) -> str:
    """The name of a caller who may have the ledger signed.

    Raises:
        Refused: If the caller holds none of the roles that read the ledger.
    """
    from primum.adapters.identity import Role, caller
    from primum.domain.errors import Refused

    who = caller(settings.home, settings.token)
    if not who.holds(Role.COMPLIANCE, Role.STEWARD, Role.AUDITOR):
        raise Refused(
            f"{command} needs the role compliance, steward or auditor; {who.name} holds none"
        )
    return who.name


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
