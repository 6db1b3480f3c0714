"""``primum consent``: withdraw the consent of units, and see what it came too late for.

Names of units are read from a file or standard input, never from arguments, which other processes
may list. They go to the steward's zone and are printed nowhere.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from primum.entrypoints.cli.rendering import Output

if TYPE_CHECKING:
    from primum.application.consent import Impact, Records, Running
    from primum.domain.names import ResourceKey
    from primum.domain.study.impact import AffectedStudy

NamespaceOption = Annotated[str, typer.Option("--namespace", "-n", help="Namespace.")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table, json or yaml.")]
BudgetArgument = Annotated[str, typer.Argument(help="The PrivacyBudget's name.")]

BYTES_MAX = 4_194_304  # 10,000 names of 200 characters, in any script.
UNLEARNED = (
    "Nothing was unlearned. Models and data that were released hold what they learned, within the "
    "guarantee that their certificates state."
)
OPTIONS = (
    "You can take a release back (primum delete release NAME), and train again: a new Study reads "
    "without the unit, and spends budget. Copies elsewhere are not found."
)


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Withdrawn consents: who is not read any more.", no_args_is_help=True)
    group.command("withdraw")(withdraw)
    group.command("list")(list_)
    group.command("impact")(impact)
    app.add_typer(group, name="consent")


def withdraw(
    budget: BudgetArgument,
    unit_file: Annotated[
        Path, typer.Option("--unit-file", help="One unit per line; - for standard input.")
    ],
    namespace: NamespaceOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Block every later read of the units that a file names. Only a steward may.

    Example: primum consent withdraw wisconsin --unit-file withdrawn.txt
    """
    from primum.application import consent
    from primum.entrypoints import bootstrap
    from primum.entrypoints.cli import rendering, session

    settings = session.existing()
    actor = _steward(settings, "consent withdraw")
    names = _names(unit_file)
    records, key = _records(settings, budget, namespace)
    done = consent.withdraw(records, bootstrap.zone(settings), key, names, actor=actor)
    if output is not Output.TABLE:
        rendering.structured(
            {
                "budget": key.name,
                "namespace": key.namespace,
                "withdrawn": [{"mark": item.mark, "at": item.at} for item in done.tombstones],
                "running": [
                    {"namespace": item.namespace, "study": item.name} for item in done.running
                ],
                "unlearned": False,
            },
            output,
        )
        return
    rendering.table(["mark", "since"], [[i.mark, i.at[:19]] for i in done.tombstones])
    print(f"{key}: these units are not opened any more, and the ledger says so by their marks.")
    _warn(done.running)
    print(f"{UNLEARNED} See what came before: primum consent impact {key.name} -n {key.namespace}")


def list_(
    budget: BudgetArgument, namespace: NamespaceOption = "", output: OutputOption = Output.TABLE
) -> None:
    """Show the marks and dates of a budget's withdrawals. Only a steward may.

    Example: primum consent list wisconsin
    """
    from primum.application import consent
    from primum.entrypoints import bootstrap
    from primum.entrypoints.cli import rendering, session

    settings = session.existing()
    _steward(settings, "consent list")
    records, key = _records(settings, budget, namespace)
    found = consent.listed(records, bootstrap.zone(settings), key)
    if output is not Output.TABLE:
        rows = [{"mark": i.mark, "at": i.at, "entry": i.seq or None} for i in found]
        rendering.structured(rows, output)
        return
    rendering.table(
        ["mark", "since", "entry"],
        [[i.mark, i.at[:19], str(i.seq) if i.seq else "missing"] for i in found],
    )
    if any(not item.seq for item in found):
        print("missing: the units are blocked; repeat `primum consent withdraw` to enter them")


def impact(
    budget: BudgetArgument,
    mark: Annotated[str, typer.Option("--mark", help="One withdrawal; default: all.")] = "",
    namespace: NamespaceOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Show which Studies, certificates and releases a withdrawal came too late for.

    Only a steward may.

    Example: primum consent impact wisconsin
    """
    from primum.application import consent
    from primum.entrypoints import bootstrap
    from primum.entrypoints.cli import rendering, session

    settings = session.existing()
    _steward(settings, "consent impact")
    records, key = _records(settings, budget, namespace)
    found = consent.impact(records, bootstrap.zone(settings), key, mark=mark)
    if output is not Output.TABLE:
        rendering.structured(_document(key, found), output)
        return
    if not found.marks:
        print(f"{key}: no consent was withdrawn")
        return
    rows = [_row(item) for item in found.studies]
    if not rows:
        print(f"{key}: no Study had opened the data before")
    else:
        rendering.table(["study", "generation", "how", "certificate", "releases"], rows)
    print(f"{_looks(found.looks)} inside the zone came before; what they found stayed there.")
    if rows:
        print(UNLEARNED)
        print(OPTIONS)


def _looks(count: int) -> str:
    return "1 look" if count == 1 else f"{count} looks"


def _row(item: AffectedStudy) -> list[str]:
    releases = [
        f"{i.name} ({', '.join(word for word in (i.kind, i.standing.value) if word)})"
        for i in item.releases
    ]
    return [
        item.study,
        str(item.generation) if item.generation else "-",
        f"made with {item.source}" if item.source else "read",
        item.certificate[:19] or "none",
        ", ".join(releases) or "none",
    ]


def _document(key: ResourceKey, found: Impact) -> dict[str, Any]:
    return {
        "budget": key.name,
        "namespace": key.namespace,
        "marks": found.marks,
        "studies": [
            {
                "study": item.study,
                "generation": item.generation or None,
                "path": item.path.value,
                "source": item.source or None,
                "certificate": item.certificate or None,
                "releases": [
                    {"name": i.name, "kind": i.kind or None, "standing": i.standing.value}
                    for i in item.releases
                ],
            }
            for item in found.studies
        ],
        "looksInsideTheZone": found.looks,
        "unlearned": False,
        "note": f"{UNLEARNED} {OPTIONS}",
    }


def _warn(running: Sequence[Running]) -> None:
    for item in running:
        print(
            f"running: {item.namespace}/{item.name} goes on with what it opened before. "
            f"To stop it: primum delete study {item.name} -n {item.namespace}"
        )


def _names(file: Path) -> list[str]:
    """Lines of a file or of standard input.

    Raises:
        InvalidValue: If there is too much, or it is not text.
        NotFound: If the file does not exist.
    """
    from primum.domain.errors import InvalidValue
    from primum.entrypoints.cli import files

    if str(file) == "-":
        data = sys.stdin.buffer.read(BYTES_MAX + 1)
    else:
        data = files.content(file, "unit file")
    if len(data) > BYTES_MAX:
        raise InvalidValue("unit file", f"must have at most {BYTES_MAX} bytes", "more")
    try:
        return data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InvalidValue("unit file", "must be text in UTF-8", "other bytes") from None


def _steward(settings: Any, command: str) -> str:
    """The steward who asks, as the ledger names actors.

    Raises:
        Refused: If the caller is not one.
    """
    from primum.adapters.identity import Role, caller
    from primum.domain.errors import Refused

    who = caller(settings.home, settings.token)
    if not who.holds(Role.STEWARD):
        raise Refused(f"{command} needs the role steward; {who.name} does not hold it")
    return f"steward/{who.name}"


def _records(settings: Any, budget: str, namespace: str) -> tuple[Records, ResourceKey]:
    from primum.adapters.system import SystemClock
    from primum.application.consent import Records
    from primum.entrypoints import bootstrap
    from primum.entrypoints.cli import session

    stores = session.open_stores(settings)
    key = session.only_namespace(stores.resources, "PrivacyBudget", budget, namespace)
    records = Records(
        ledger=stores.ledger,
        evidence=stores.evidence,
        resources=stores.resources,
        lineage=bootstrap.lineage_reader(settings),
        clock=SystemClock(),
    )
    return records, key
