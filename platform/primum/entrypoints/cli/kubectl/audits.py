"""``kubectl primum audit``: attack a released artifact again, and read what audits found."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from primum.entrypoints.cli.exits import Exit
from primum.entrypoints.cli.kubectl.connection import Cluster, OutputOption, named
from primum.entrypoints.cli.rendering import Output

_LOOK_SECONDS = 2.0


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Membership and reconstruction audits.", no_args_is_help=True)
    group.command("run")(run)
    group.command("show")(show)
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
    cluster.create("AuditRun", body)
    name = body["metadata"]["name"]
    print(f"auditrun/{name} declared")
    end = time.monotonic() + timeout
    while timeout:
        status = cluster.get("AuditRun", name).get("status") or {}
        ended: dict[str, str] = next(
            (c for c in status.get("conditions", ()) if c["type"] == "Succeeded"), {}
        )
        if ended.get("status") in ("True", "False"):
            print(f"{status.get('verdict') or ended['reason']}: {ended.get('message', '')}")
            raise typer.Exit(Exit.DONE if status.get("verdict") == "Pass" else Exit.REFUSED)
        if time.monotonic() > end:
            raise typer.Exit(Exit.TIMED_OUT)
        time.sleep(_LOOK_SECONDS)


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
