"""``kubectl primum certificate``: what is promised about a release, and whether it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from primum.entrypoints.cli import certificates
from primum.entrypoints.cli.exits import Exit
from primum.entrypoints.cli.kubectl.connection import Cluster, OutputOption, named
from primum.entrypoints.cli.rendering import Output

ReleaseArgument = Annotated[str, typer.Argument(help="The Release.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="What is promised about a released artifact.", no_args_is_help=True)
    group.command("show")(show)
    group.command("get")(get)
    group.command("verify")(verify)
    app.add_typer(group, name="certificate")


def show(
    context: typer.Context, release: ReleaseArgument, output: OutputOption = Output.YAML
) -> None:
    """Print the statement inside a release's certificate, without checking it.

    Example: kubectl primum certificate show malignancy
    """
    from primum.entrypoints.cli import rendering

    envelope = _asked(context.obj, release)["envelope"]
    statement = certificates.statement_of(envelope, f"of {release}")
    rendering.structured(statement, Output.YAML if output is Output.TABLE else output)


def get(context: typer.Context, release: ReleaseArgument) -> None:
    """Print a release's certificate as it was signed, to keep beside the artifact.

    Example: kubectl primum certificate get malignancy > malignancy.json
    """
    from primum.entrypoints.cli import rendering

    rendering.structured(_asked(context.obj, release)["envelope"], Output.JSON)


def verify(
    context: typer.Context,
    release: ReleaseArgument,
    public_key: Annotated[
        Path, typer.Option("--public-key", help="PEM that you got from whom you trust.")
    ],
    artifact: Annotated[
        Path | None, typer.Option("--artifact", help="The artifact's file.")
    ] = None,
) -> None:
    """Check a release's certificate: signature, shape, bytes, and that it was not revoked.

    Exit 6 if anything is wrong, 3 if it was revoked.

    Example: kubectl primum certificate verify malignancy --public-key hospital.pem
    """
    found = _asked(context.obj, release)
    certificates.check(found["envelope"], public_key, artifact)
    if found["revoked"]:
        print(f"revoked: {found['revoked']}")
        raise typer.Exit(Exit.REFUSED)
    print(f"valid: release {release} holds" + (f" for {artifact}" if artifact else ""))
    certificates.print_claim(found["envelope"], public_key)


def _asked(cluster: Cluster, release: str) -> dict[str, Any]:
    name = named(release, "Release")
    return cluster.ledger.ask("GET", f"/v1/releases/{cluster.namespace}/{name}/certificate")
