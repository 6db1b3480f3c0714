"""``kubectl primum audit``: attack a released artifact again, and read what audits found."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from primum.entrypoints.cli.exits import Exit
from primum.entrypoints.cli.kubectl.connection import (
    Cluster,
    Listing,
    ListingOption,
    OutputOption,
    full_name,
    named,
)
from primum.entrypoints.cli.rendering import Output

_LOOK_SECONDS = 2.0


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Membership and reconstruction audits.", no_args_is_help=True)
    group.command("run")(run)
    group.command("show")(show)
    group.command("history")(history)
    app.add_typer(group, name="audit")


def run(
    context: typer.Context,
    study: Annotated[str, typer.Argument(help="The Study whose artifact is attacked.")],
    attack: Annotated[
        str, typer.Option("--attack", help="Such as OneRunCanary, LiRA or GradientInversion.")
    ],
    kind: Annotated[
        str, typer.Option("--kind", help="Membership or Reconstruction.")
    ] = "Membership",
    canaries: Annotated[int, typer.Option("--canaries", help="Planted canaries to evaluate.")] = 0,
    shadows: Annotated[int, typer.Option("--shadows", help="Shadow models to train.")] = 0,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds to wait for the verdict; 0: do not.")
    ] = 3600.0,
    output: ListingOption = Listing.TABLE,
) -> None:
    """Declare an AuditRun and wait for its verdict; exit 3 unless it is Pass, 8 when time is up.

    Example: kubectl primum audit run malignancy --attack LiRA --shadows 64
    """
    from primum.entrypoints.cli import audits

    cluster: Cluster = context.obj
    subject = named(study, "Study")
    body = audits.audit_run(
        cluster.namespace, subject, attack=attack, kind=kind, canaries=canaries, shadows=shadows
    )
    made = cluster.create("AuditRun", body)
    name = body["metadata"]["name"]
    if output is Listing.NAME:
        print(full_name("AuditRun", name), flush=True)
    elif output is Listing.TABLE:
        print(f"auditrun/{name} declared", flush=True)
    end = time.monotonic() + timeout
    while timeout:
        made = cluster.get("AuditRun", name)
        status = made.get("status") or {}
        ended: dict[str, str] = next(
            (c for c in status.get("conditions", ()) if c["type"] == "Succeeded"), {}
        )
        if ended.get("status") in ("True", "False"):
            _told(made, ended, output)
            raise typer.Exit(Exit.DONE if status.get("verdict") == "Pass" else Exit.REFUSED)
        if time.monotonic() > end:
            raise typer.Exit(Exit.TIMED_OUT)
        time.sleep(_LOOK_SECONDS)
    _told(made, {}, output)


def _told(made: dict[str, Any], ended: dict[str, str], output: Listing) -> None:
    """Print how a run stands: its verdict for people, all of it for programs."""
    from primum.entrypoints.cli import rendering

    if output in (Listing.JSON, Listing.YAML):
        rendering.structured(made, output.plain)
    elif ended and output is Listing.TABLE:
        verdict = (made.get("status") or {}).get("verdict") or ended["reason"]
        print(f"{verdict}: {ended.get('message', '')}")


def history(
    context: typer.Context,
    release: Annotated[str, typer.Argument(help="The Release.")],
    output: ListingOption = Listing.TABLE,
) -> None:
    """Show every audit of a release since it was released, and every due time that was missed.

    Verdicts and comparisons for everybody; the compared figures for stewards and auditors.

    Example: kubectl primum audit history malignancy
    """
    from primum.entrypoints.cli import rendering

    cluster: Cluster = context.obj
    name = named(release, "Release")
    found = cluster.ledger.ask("GET", f"/v1/releases/{cluster.namespace}/{name}/audits")
    if output is Listing.NAME:
        for item in found["audits"]:
            print(full_name("AuditRun", item["auditRun"]))
        return
    if output is not Listing.TABLE:
        rendering.structured(found, output.plain)
        return
    inside = any(item["figure"] is not None for item in found["audits"])
    headers = ["when", "attack", "why", "verdict", "compared", "auditrun"]
    rows = [
        [
            f"{item['at'][:16].replace('T', ' ')} UTC",
            item["attack"],
            ",".join(item["causes"]) or "asked for",
            item["verdict"] if item["reason"].startswith(("Audit", "Claim")) else item["reason"],
            item["comparison"],
            item["auditRun"],
            *([item["figure"] or "-"] if inside else []),
        ]
        for item in found["audits"]
    ]
    rendering.table([*headers, "figure"] if inside else headers, rows)
    for item in found["missed"]:
        times = "time" if item["count"] == 1 else "times"
        until = item["until"][:16].replace("T", " ")
        print(f"missed: {item['count']} due {times} up to {until} UTC")


def show(
    context: typer.Context,
    study: Annotated[str, typer.Argument(help="The Study.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a Study's evidence: verdicts for everybody, figures for stewards and auditors.

    Example: kubectl primum audit show malignancy -o yaml
    """
    from primum.entrypoints.cli import rendering

    cluster: Cluster = context.obj
    name = named(study, "Study")
    found = cluster.ledger.rows(f"/v1/studies/{cluster.namespace}/{name}/evidence")
    if output is not Output.TABLE:
        rendering.structured(found, output)
        return
    rows = [[e["kind"], e["name"], e["verdict"] or "-", e["digest"][7:19]] for e in found]
    rendering.table(["kind", "name", "verdict", "digest"], rows)
