"""``primum token issue | list | revoke``: who may ask this machine's API and its page.

In a cluster the API server answers that question, and none of this is used.
"""

from __future__ import annotations

from typing import Annotated

import typer

from primum.adapters.identity import Identity, Role
from primum.entrypoints.cli.rendering import Output
from primum.entrypoints.settings import Settings

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table, json or yaml.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Who may ask the API and its page.", no_args_is_help=True)
    group.command("issue")(issue)
    group.command("list")(list_holders)
    group.command("revoke")(revoke)
    app.add_typer(group, name="token")


def issue(
    name: Annotated[str, typer.Argument(help="A person or a service, never a patient.")],
    roles: Annotated[list[Role], typer.Option("--role", help="A role; may be repeated.")],
) -> None:
    """Give somebody a token; it is shown once. Nobody can give a role that they do not hold.

    Example: primum token issue grace --role compliance
    """
    from primum.adapters import identity
    from primum.domain.errors import Conflict, Refused
    from primum.domain.names import check_name
    from primum.entrypoints.cli import session

    settings = session.existing()
    giver = _caller(settings)
    missing = [role.value for role in roles if not giver.holds(role)]
    if missing:
        raise Refused(
            f"token issue needs the roles that it gives; {giver.name} does not hold "
            f"{', '.join(missing)}"
        )
    check_name("name", name)
    if name in [holder.name for holder in identity.holders(settings.home)]:
        raise Conflict(f"name must be new; found {name} with a token. Revoke it first.")
    print(identity.issue(settings.home, name=name, roles=tuple(roles)))


def list_holders(output: OutputOption = Output.TABLE) -> None:
    """Show who holds which roles; no token is shown, and none is kept.

    Example: primum token list
    """
    from primum.adapters import identity
    from primum.entrypoints.cli import rendering, session

    settings = session.existing()
    _caller(settings)
    rows = [
        {"name": holder.name, "roles": sorted(role.value for role in holder.roles)}
        for holder in identity.holders(settings.home)
    ]
    if output is not Output.TABLE:
        rendering.structured(rows, output)
        return
    rendering.table(["name", "roles"], [[str(r["name"]), ", ".join(r["roles"])] for r in rows])


def revoke(name: Annotated[str, typer.Argument(help="Whose tokens end.")]) -> None:
    """End every token of a name, and with it every session on the page, at once.

    Example: primum token revoke grace
    """
    from primum.adapters import identity
    from primum.domain.errors import NotFound, Refused
    from primum.entrypoints.cli import session

    settings = session.existing()
    giver = _caller(settings)
    found = [h for h in identity.holders(settings.home) if h.name == name]
    if not found:
        raise NotFound(f"nobody of the name {name} holds a token")
    if any(not giver.holds(role) for holder in found for role in holder.roles):
        raise Refused(f"token revoke needs the roles that it ends; {giver.name} lacks some")
    identity.withdraw(settings.home, name)
    print(f"{name} holds no token any more")


def _caller(settings: Settings) -> Identity:
    """Who runs the command.

    Raises:
        Refused: If nobody's token was given.
    """
    from primum.adapters import identity
    from primum.domain.errors import Refused

    who = identity.caller(settings.home, settings.token)
    if not who.roles:
        raise Refused("this needs a token; found one of nobody. See PRIMUM_TOKEN")
    return who
