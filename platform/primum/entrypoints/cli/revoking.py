"""``primum revoke``: take a release back for good; serving has stopped when the command ends."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(revoke)


def revoke(
    release: Annotated[str, typer.Argument(help="The Release's name.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for everybody to read.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace.")] = "",
) -> None:
    """Take a release back for good; nothing serves it when this ends. Needs the role compliance.

    Exit 0 when it was withdrawn, 3 without the role, 7 where it could not be seen to have stopped.

    Example: primum revoke malignancy --reason "a complaint"
    """
    from primum.adapters.identity import Role, caller
    from primum.application import releases
    from primum.domain.errors import InvalidValue, Refused
    from primum.entrypoints import bootstrap
    from primum.entrypoints.cli import session

    settings = session.existing()
    who = caller(settings.home, settings.token)
    if not who.holds(Role.COMPLIANCE):
        raise Refused(f"revoke needs the role compliance; {who.name} does not hold it")
    if not reason.strip():
        raise InvalidValue("--reason", "must say why", "nothing")
    platform = bootstrap.platform(settings)
    key = session.only_namespace(platform.resources, "Release", release, namespace)
    began = time.monotonic()
    releases.revoke(platform, key, reason.strip())
    stored = platform.resources.get(key)
    if stored is not None:
        releases.reconcile_release(platform, stored)  # Its status says so at once, too.
    took = time.monotonic() - began
    print(f"REVOKED {key} by {who.name}: {reason.strip()}", file=sys.stderr)
    print(f"{key} is revoked for good and not served any more ({took:.1f} s)")
