"""``kubectl primum revoke``: take a release back for good, and see that nothing serves it."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from primum.entrypoints.cli.exits import Exit
from primum.entrypoints.cli.kubectl.connection import (
    Cluster,
    Listing,
    ListingOption,
    full_name,
    named,
)

_LOOK_SECONDS = 0.5


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(revoke)


def revoke(
    context: typer.Context,
    release: Annotated[str, typer.Argument(help="The Release.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for everybody to read.")],
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds to wait until nothing serves it; 0: do not.")
    ] = 120.0,
    output: ListingOption = Listing.TABLE,
) -> None:
    """Take a release back for good; nothing serves it when this ends. For the role compliance.

    Exit 0 when it was taken back, 3 without the right, 8 where it was not seen to have stopped.

    Example: kubectl primum revoke malignancy --reason "a complaint"
    """
    from primum.domain.errors import InvalidValue
    from primum.entrypoints.cli import rendering

    cluster: Cluster = context.obj
    name = named(release, "Release")
    if not reason.strip():
        raise InvalidValue("--reason", "must say why", "nothing")
    found = cluster.get("Release", name)
    if not found["spec"].get("revocation"):
        found = cluster.merge("Release", name, {"spec": {"revocation": {"reason": reason.strip()}}})
    end = time.monotonic() + timeout
    while timeout and not _stopped(found):
        if time.monotonic() > end:
            print(f"{full_name('Release', name)} is revoked; it was not seen to have stopped")
            raise typer.Exit(Exit.TIMED_OUT)
        time.sleep(_LOOK_SECONDS)
        found = cluster.get("Release", name)
    if output is Listing.NAME:
        print(full_name("Release", name))
    elif output is not Listing.TABLE:
        rendering.structured(found, output.plain)
    else:
        said = found["spec"]["revocation"]["reason"]
        ends = " and not served any more" if _stopped(found) else ""
        print(f"{full_name('Release', name)} is revoked for good{ends}: {said}")


def _stopped(found: dict[str, Any]) -> bool:
    """Whether the operator says that it serves it no more.

    It says Revoked as soon as that is asked, and its reason alone when nothing is left that serves.
    """
    listed = (found.get("status") or {}).get("conditions") or ()
    said = found["spec"]["revocation"]["reason"]
    return any(
        item["type"] == "Ready" and item["reason"] == "Revoked" and item["message"] == said
        for item in listed
    )
