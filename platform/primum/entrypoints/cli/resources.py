"""``primum apply | get | describe | wait | delete | logs``: declared resources, as with kubectl."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from primum.entrypoints.cli.exits import Exit
from primum.entrypoints.cli.rendering import Output

NamespaceOption = Annotated[
    str, typer.Option("--namespace", "-n", help="Namespace; default: the only one that has it.")
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table, json or yaml.")]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Seconds to wait at most.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(apply)
    app.command()(get)
    app.command()(describe)
    app.command()(wait)
    app.command()(delete)
    app.command()(logs)


def apply(
    file: Annotated[
        list[Path], typer.Option("--filename", "-f", help="File, folder or - for standard input.")
    ],
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Store the resources and return at once.")
    ] = False,
    timeout: TimeoutOption = 3600.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create or change resources, and follow them until they come to rest.

    Where `primum up` runs, it does the work; otherwise this command does it itself.

    Example: primum apply -f examples/breast-cancer/budget.yaml -f examples/breast-cancer/study.yaml
    """
    from primum.entrypoints.cli import applying

    code = applying.apply(
        file,
        follow=applying.Follow.NO if no_wait else applying.Follow.YES,
        timeout=timeout,
        output=output,
    )
    raise typer.Exit(code)


def get(
    kind: Annotated[
        str, typer.Argument(help="budgets, studies, policies, releases, auditruns, or KIND/NAME.")
    ],
    name: Annotated[str, typer.Argument(help="One resource's name.")] = "",
    namespace: NamespaceOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """List resources, or show one.

    Example: primum get studies -n oncology
    """
    from primum.entrypoints.cli import listing

    listing.get(kind, name, namespace, output)


def describe(
    kind: Annotated[str, typer.Argument(help="KIND/NAME or KIND.")],
    name: Annotated[str, typer.Argument(help="The resource's name.")] = "",
    namespace: NamespaceOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Show everything about one resource.

    Its stages, conditions, public figures, and what your role may see.

    Example: primum describe study malignancy
    """
    from primum.entrypoints.cli import listing

    listing.describe(kind, name, namespace, output)


def wait(
    kind: Annotated[str, typer.Argument(help="KIND/NAME or KIND.")],
    name: Annotated[str, typer.Argument(help="The resource's name.")] = "",
    namespace: NamespaceOption = "",
    timeout: TimeoutOption = 3600.0,
) -> None:
    """Wait until a resource comes to rest.

    Exit 0 if it succeeded, 3 if it was refused, 8 when time is up.

    Example: primum wait study/malignancy --timeout 600
    """
    from primum.entrypoints.cli import applying

    raise typer.Exit(applying.wait_for(kind, name, namespace, timeout))


def delete(
    kind: Annotated[str, typer.Argument(help="KIND/NAME or KIND.")],
    name: Annotated[str, typer.Argument(help="The resource's name.")] = "",
    namespace: NamespaceOption = "",
) -> None:
    """Delete a resource. What was spent stays spent: the ledger is never undone.

    Example: primum delete study malignancy
    """
    from primum.entrypoints.cli import applying

    raise typer.Exit(applying.delete(kind, name, namespace))


def logs(
    study: Annotated[str, typer.Argument(help="The Study's name.")],
    namespace: NamespaceOption = "",
) -> None:
    """Print what a Study's pipeline run printed.

    Example: primum logs malignancy
    """
    from primum.entrypoints.cli import listing

    listing.logs(study.removeprefix("study/"), namespace)
    raise typer.Exit(Exit.DONE)
