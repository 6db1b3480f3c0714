"""``kubectl primum explain``: why a resource stands as it does, stage by stage, and what helps."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from primum.entrypoints.cli.kubectl.connection import (
    Cluster,
    Listing,
    ListingOption,
    full_name,
)

_MARKS = {"True": "yes", "False": "NO", "Unknown": "-"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(explain)


def explain(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="KIND/NAME or KIND.")],
    name: Annotated[str, typer.Argument(help="The resource's name.")] = "",
    output: ListingOption = Listing.TABLE,
) -> None:
    """Say what a resource has reached, what stands in its way, and what would help.

    Example: kubectl primum explain study/malignancy
    """
    from primum.domain.errors import InvalidValue
    from primum.entrypoints.cli import rendering, session

    cluster: Cluster = context.obj
    if not name:
        kind, _, name = kind.partition("/")
    wanted = session.kind_of(kind)
    if not name:
        raise InvalidValue("name", f"must be given, as in {kind}/NAME", "nothing")
    found = cluster.get(wanted, name)
    if output is Listing.NAME:
        print(full_name(wanted, name))
        return
    if output is not Listing.TABLE:
        rendering.structured(_document(wanted, found), output.plain)
        return
    told = _document(wanted, found)
    print(f"{wanted} {found['metadata']['namespace']}/{name}: {told['summary']}")
    for step in told["conditions"]:
        mark = _MARKS.get(step["status"], "-")
        print(f"  {mark:<4} {step['type']:<15} {step['reason']:<18} {step['since']}".rstrip())
    for fact, value in told["facts"].items():
        print(f"  {fact:<20} {value}")
    if told["hindrance"]:
        print(f"because: {told['hindrance']}")


def _document(kind: str, found: dict[str, Any]) -> dict[str, Any]:
    """What is told, in one form for people and programs."""
    status = found.get("status") or {}
    conditions = [_step(item) for item in status.get("conditions") or ()]
    current = int(found["metadata"].get("generation", 1))
    behind = [c for c in conditions if c["generation"] not in ("", current)]
    summary = next((c for c in conditions if c["type"] in ("Succeeded", "Ready")), None)
    stopping = next((c for c in conditions if c["status"] == "False"), None)
    pending = next((c for c in conditions if c["status"] == "Unknown" and c["message"]), None)
    words = "not looked at yet" if summary is None else f"{summary['type']} {summary['status']}"
    if summary is not None and summary["reason"]:
        words += f", {summary['reason']}"
    if behind:
        words += "; this is about an earlier version of its spec"
    if found["metadata"].get("deletionTimestamp"):
        words += "; it is being deleted"
    hindrance = stopping or pending
    return {
        "kind": kind,
        "namespace": found["metadata"]["namespace"],
        "name": found["metadata"]["name"],
        "summary": words,
        "conditions": conditions,
        "facts": {k: v for k, v in status.items() if isinstance(v, str | int) and v != ""},
        "hindrance": hindrance["message"] if hindrance else "",
    }


def _step(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": str(item.get("type", "")),
        "status": str(item.get("status", "Unknown")),
        "reason": str(item.get("reason", "")),
        "since": str(item.get("lastTransitionTime", "")),
        "generation": item.get("observedGeneration", ""),
        "message": str(item.get("message", "")),
    }
