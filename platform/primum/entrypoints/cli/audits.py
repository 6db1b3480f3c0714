"""``primum audit``.

Attack a released artifact again, and read what audits found, as far as a role may.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from primum.entrypoints.cli.rendering import Output


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Membership and reconstruction audits.", no_args_is_help=True)
    group.command("run")(run)
    group.command("show")(show)
    app.add_typer(group, name="audit")


def run(
    study: Annotated[str, typer.Argument(help="The Study whose artifact is attacked.")],
    attack: Annotated[
        str, typer.Option("--attack", help="A registered attack, such as OneRunCanary or LiRA.")
    ],
    kind: Annotated[
        str, typer.Option("--kind", help="Membership or Reconstruction.")
    ] = "Membership",
    canaries: Annotated[int, typer.Option("--canaries", help="Planted canaries to evaluate.")] = 0,
    shadows: Annotated[int, typer.Option("--shadows", help="Shadow models to train.")] = 0,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace.")] = "",
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait at most.")] = 3600.0,
) -> None:
    """Run one audit as an AuditRun and wait for its verdict; exit 3 unless it is Pass.

    Example: primum audit run malignancy --attack LiRA --shadows 64
    """
    from primum.domain.names import ResourceKey
    from primum.entrypoints.cli import applying, session

    check_attack("--attack", attack)
    settings = session.existing()
    stores = session.open_stores(settings)
    subject = session.only_namespace(stores.resources, "Study", study, namespace)
    body = audit_run(
        subject.namespace, study, attack=attack, kind=kind, canaries=canaries, shadows=shadows
    )
    key = ResourceKey("AuditRun", subject.namespace, body["metadata"]["name"])
    stored, _ = stores.resources.apply(key, body["spec"], labels={})
    raise typer.Exit(applying.follow_all(settings, stores, [stored], timeout=timeout, quiet=False))


def audit_run(
    namespace: str, study: str, *, attack: str, kind: str, canaries: int, shadows: int
) -> dict[str, Any]:
    """An AuditRun that breaks no rule, under a name of its own.

    Raises:
        InvalidValue: If it would break one.
    """
    import time

    from primum.resources.loading import checked_resource

    audit: dict[str, object] = {"kind": kind, "attack": attack}
    audit |= {
        name: value for name, value in (("canaries", canaries), ("shadows", shadows)) if value
    }
    name = f"{study[:40]}-{attack.lower()[:12]}-{int(time.time()) % 10**8}"
    body: dict[str, Any] = {
        "apiVersion": "primum.dev/v1alpha1",
        "kind": "AuditRun",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"study": study, "audit": audit},
    }
    checked_resource(body)
    return body


def check_attack(field: str, attack: str) -> None:
    """Refuse an attack that is not installed before anything is stored.

    Raises:
        InvalidValue: If there is none of that name; lists those that are.
    """
    from primum import extensions
    from primum.domain.errors import InvalidValue
    from primum.resources.wording import nearest

    known = extensions.names("primum.audits")
    if attack not in known:
        rule = f"must be one of {', '.join(known)}"
        raise InvalidValue(field, rule, attack, nearest(attack, known))


def show(
    study: Annotated[str, typer.Argument(help="The Study.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace.")] = "",
    output: Annotated[
        Output, typer.Option("--output", "-o", help="table, json or yaml.")
    ] = Output.TABLE,
) -> None:
    """Show a Study's evidence: verdicts for everybody, figures for stewards and auditors.

    Example: primum audit show malignancy -o yaml
    """
    from primum.adapters.identity import Role, caller
    from primum.entrypoints.cli import rendering, session

    settings = session.existing()
    stores = session.open_stores(settings)
    key = session.only_namespace(stores.resources, "Study", study, namespace)
    stored = stores.resources.get(key)
    inside = caller(settings.home, settings.token).holds(Role.STEWARD, Role.AUDITOR)
    found = stores.evidence.evidence(stored.uid, stored.generation)
    if output is Output.TABLE:
        rows = [
            [e.kind.value, e.name, e.verdict.value if e.verdict else "-", e.digest[7:19]]
            for e in found
        ]
        rendering.table(["kind", "name", "verdict", "digest"], rows)
        return
    documents = []
    for item in found:
        value = item.to_json() | {"digest": item.digest}
        if not inside:
            value.pop("restricted")
        documents.append(value)
    rendering.structured(documents, output)
