"""``primum up | down``: the embedded platform.

Control loop, API, inference server and a warm Ray.
"""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(down)


def up(
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return as soon as the platform answers.")
    ] = False,
) -> None:
    """Start the platform of this folder and keep its workers warm. Starting it twice is harmless.

    Example: primum up --detach
    """
    from primum.entrypoints import daemon
    from primum.entrypoints.cli import session

    settings = session.existing(create=True)
    if detach:
        print(daemon.start_detached(settings))
        return
    daemon.run(settings)


def down(
    force: Annotated[
        bool,
        typer.Option("--force", help="Interrupt runs; what they opened is charged in full."),
    ] = False,
) -> None:
    """Stop the platform of this folder and every process it started.

    Refuses while a run is under way (exit 5), since what a run has opened would be charged in full.

    Example: primum down
    """
    from primum.entrypoints import daemon
    from primum.entrypoints.cli import session

    interrupt = daemon.Interrupt.FORCE if force else daemon.Interrupt.REFUSE
    print(daemon.stop(session.existing(), interrupt))
