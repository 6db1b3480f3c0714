"""``get``, ``describe`` and ``logs``: read stores and print; change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from primum.domain.names import run_id
from primum.entrypoints.cli import rendering, session
from primum.entrypoints.cli.rendering import Output
from primum.resources.stored import StoredResource


def get(kind: str, name: str, namespace: str, output: Output) -> None:
    """List or show resources."""
    resources = session.open_resources(session.existing())
    word, slash, rest = kind.partition("/")
    wanted = session.kind_of(word)
    if slash or name:
        key = session.only_namespace(resources, wanted, rest or name, namespace)
        found = [resources.get(key)]
    else:
        found = list(resources.list(wanted, namespace))
    if output is not Output.TABLE:
        documents = [rendering.document(item) for item in found]
        rendering.structured(documents[0] if slash or name else {"items": documents}, output)
        return
    headers, row = _COLUMNS[wanted]
    rendering.table(
        ["namespace", "name", *headers, "age"], [_row(item, row(item)) for item in found]
    )


def describe(kind: str, name: str, namespace: str, output: Output) -> None:
    """Show everything about one resource."""
    from primum.entrypoints.cli import reporting
    from primum.resources.status import conditions_of

    settings = session.existing()
    stores = session.open_stores(settings)
    word, slash, rest = kind.partition("/")
    key = session.only_namespace(
        stores.resources, session.kind_of(word), rest if slash else name, namespace
    )
    stored = stores.resources.get(key)
    if output is not Output.TABLE:
        rendering.structured(rendering.document(stored), output)
        return
    print(f"{key}   generation {stored.generation}, created {stored.created}")
    if key.kind == "Study":
        for line in [
            *reporting.stage_table(stored.status),
            *reporting.summary(settings, stores, stored),
        ]:
            print(line)
    else:
        _print_status(stored)
    print("Conditions")
    rows = [
        (c.type.value, c.status.value, c.reason.value, c.last_transition_time[:19], c.message)
        for c in conditions_of(stored.status)
    ]
    rendering.table(["type", "status", "reason", "since", "message"], rows)


def logs(study: str, namespace: str) -> None:
    """Print the run's log."""
    from primum.adapters.kfp import LocalKfpRunner
    from primum.entrypoints import bootstrap

    settings = session.existing()
    stores = session.open_stores(settings)
    stored = stores.resources.get(
        session.only_namespace(stores.resources, "Study", study, namespace)
    )
    runner = LocalKfpRunner(settings.home, environment=bootstrap.child_environment(settings))
    print(runner.logs(run_id(stored.uid, stored.generation)))


def _print_status(stored: StoredResource) -> None:
    for name, value in stored.status.items():
        if name != "conditions" and not isinstance(value, Mapping | list):
            print(f"  {name:<20} {value}")


def _row(stored: StoredResource, cells: list[str]) -> list[str]:
    return [stored.key.namespace, stored.key.name, *cells, rendering.age(stored.created)]


def _condition(stored: StoredResource, kind: str) -> Mapping[str, Any]:
    listed = stored.status.get("conditions", ())
    items = listed if isinstance(listed, list | tuple) else ()
    return next((item for item in items if isinstance(item, Mapping) and item["type"] == kind), {})


def _text(stored: StoredResource, *path: str) -> str:
    value: Any = {"spec": stored.spec, "status": stored.status}
    for part in path:
        value = value.get(part, "") if isinstance(value, Mapping) else ""
    return str(value)


def _budget(stored: StoredResource) -> list[str]:
    spent, cap = (
        _text(stored, "status", "epsilonSpent") or "-",
        _text(stored, "spec", "guarantee", "epsilon"),
    )
    unit = _text(stored, "spec", "dataset", "unit")
    ready = _condition(stored, "Ready")
    return [
        unit,
        f"{spent} / {cap}",
        str(ready.get("status", "Unknown")),
        str(ready.get("reason", "Pending")),
    ]


def _claimed(stored: StoredResource) -> str:
    """The claimed epsilon; a Void claim has none."""
    claimed = _text(stored, "status", "epsilonClaimed") or "-"
    return "void" if claimed == "Infinity" else claimed


def _study(stored: StoredResource) -> list[str]:
    ended = _condition(stored, "Succeeded")
    kind, claimed = (
        _text(stored, "spec", "job", "kind"),
        _claimed(stored),
    )
    stage = _text(stored, "status", "stage") or "Plan"
    return [
        kind,
        claimed,
        stage,
        str(ended.get("status", "Unknown")),
        str(ended.get("reason", "Pending")),
    ]


def _ready(stored: StoredResource) -> list[str]:
    ready = _condition(stored, "Ready")
    return [str(ready.get("status", "Unknown")), str(ready.get("reason", "Pending"))]


def _release(stored: StoredResource) -> list[str]:
    return [_text(stored, "spec", "kind"), *_ready(stored), _text(stored, "status", "url")]


def _audit_run(stored: StoredResource) -> list[str]:
    ended = _condition(stored, "Succeeded")
    attack = _text(stored, "spec", "audit", "attack")
    return [attack, str(ended.get("status", "Unknown")), _text(stored, "status", "verdict") or "-"]


_COLUMNS: Mapping[str, tuple[list[str], Any]] = {
    "PrivacyBudget": (["unit", "epsilon spent / cap", "ready", "reason"], _budget),
    "Study": (["kind", "epsilon", "stage", "succeeded", "reason"], _study),
    "GatePolicy": (["ready", "reason"], _ready),
    "Release": (["kind", "ready", "reason", "url"], _release),
    "AuditRun": (["attack", "succeeded", "verdict"], _audit_run),
}
