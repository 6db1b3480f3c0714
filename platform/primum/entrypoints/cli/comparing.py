"""``primum study compare``: Studies of one dataset side by side.

Figures that no disclosure covers, and tests between models, are shown to who may read them in the
zone; to others the same command shows what is public.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from primum.entrypoints.cli.measured import show
from primum.entrypoints.cli.rendering import Output

if TYPE_CHECKING:
    from primum.application.comparing import ComparedStudy

_DIFFERENCE = "rocAucDifference"
_COLUMNS = ("dice", "rocAuc", "accuracy", "ece")
_OF_MASKS = frozenset(("dice",))  # Shown where a Study has it.


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="What Studies came to.", no_args_is_help=True)
    group.command("compare")(compare)
    group.command("show")(show)
    app.add_typer(group, name="study")


def compare(
    studies: Annotated[list[str], typer.Argument(help="Studies of one dataset; two at least.")],
    against: Annotated[
        str, typer.Option("--against", help="The Study that others are tested against.")
    ] = "",
    figure: Annotated[
        str, typer.Option("--figure", help="What the picture shows over epsilon.")
    ] = "rocAuc",
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Write it here: a .svg or .png file.")
    ] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace.")] = "",
    output: Annotated[
        Output, typer.Option("--output", "-o", help="table, json or yaml.")
    ] = Output.TABLE,
) -> None:
    """Compare Studies of one dataset: utility over epsilon, subgroups, calibration and cost.

    Tests between models (McNemar, kappa, DeLong) are against the first Study, or the one named.

    Example: primum study compare malignancy malignancy-eps1 --picture utility.svg
    """
    from primum import extensions
    from primum.application import comparing
    from primum.entrypoints.cli import rendering, session

    settings = session.existing()
    stores = session.open_stores(settings)
    keys = [session.only_namespace(stores.resources, "Study", name, namespace) for name in studies]
    view = view_of(settings)
    found = comparing.compare(
        [stores.resources.get(key) for key in keys], stores.evidence, stores.resources, view=view
    )
    reference = _named(found, against)
    tests = extensions.load("primum.step_runtime", "compare_models")(
        {item.name: item.predictions for item in found if item.predictions is not None}
        if reference.predictions is not None
        else {},
        against=reference.name,
    )
    groups = extensions.load("primum.step_runtime", "compare_subgroups")(
        [(float(item.epsilon), item.fairness) for item in found if item.fairness is not None],
        figure=_DIFFERENCE,
    )
    if picture is not None:
        _draw(found, figure, picture)
    if output is not Output.TABLE:
        value = {"studies": [item.to_json() for item in found], "tests": tests, "subgroups": groups}
        rendering.structured(value, output)
        return
    _print(found, tests, groups)


def view_of(settings: Any) -> Any:
    """From where the caller may look: in the zone, or only at what is public."""
    from primum.adapters.identity import Role, caller
    from primum.application.comparing import View

    inside = caller(settings.home, settings.token).holds(Role.STEWARD, Role.AUDITOR)
    return View.ZONE if inside else View.PUBLIC


def _named(found: Sequence[ComparedStudy], against: str) -> ComparedStudy:
    from primum.domain.errors import InvalidValue

    if not against:
        return found[0]
    for item in found:
        if against in (item.name, item.name.partition("/")[2]):
            return item
    listed = ", ".join(item.name.partition("/")[2] for item in found)
    raise InvalidValue("--against", f"must be one of {listed}", against)


def _draw(found: Sequence[ComparedStudy], figure: str, picture: Path) -> None:
    from primum import extensions
    from primum.domain.errors import InvalidValue

    forms = {".svg": "svg", ".png": "png"}
    if picture.suffix not in forms:
        raise InvalidValue("--picture", "must end in .svg or .png", picture.name)
    series: dict[str, list[dict[str, str]]] = {}
    for item in found:
        shown = item.figures.get(figure)
        if shown is not None:
            entry = {"epsilon": str(item.epsilon), "estimate": shown.estimate}
            entry |= {"lower": shown.lower, "upper": shown.upper}
            series.setdefault(item.model, []).append(entry)
    if not series:
        known = sorted({name for item in found for name in item.figures})
        rule = f"must be one of {', '.join(known)}" if known else "must have been disclosed"
        raise InvalidValue("--figure", rule, figure)
    draw = extensions.load("primum.step_runtime", "compare_picture")
    picture.write_bytes(draw(series, figure=figure, form=forms[picture.suffix]))


def _print(found: Sequence[ComparedStudy], tests: Sequence[Any], groups: Any) -> None:
    from primum.application.comparing import View
    from primum.entrypoints.cli import rendering

    known = {name for item in found for name in item.figures}
    columns = [name for name in _COLUMNS if name in known or name not in _OF_MASKS]
    rows = []
    for item in found:
        cells = [item.name, item.model, short(str(item.epsilon)), short(item.spent)]
        rows.append([*cells, *(_cell(item, name) for name in columns), f"{short(item.seconds)}"])
    headers = ["study", "model", "epsilon", "spent", *columns, "seconds"]
    rendering.table(headers, rows)
    shown = [item.figures[name] for item in found for name in columns if name in item.figures]
    if any(figure.view is View.ZONE for figure in shown):
        print("* Restricted: shown because you hold a role inside the steward's zone")
    for test in tests:
        print(_sentence(test))
    for name, entry in groups.items():
        points = ", ".join(
            f"{short(point[_DIFFERENCE])} at epsilon {short(point['epsilon'])}"
            for point in entry["points"]
        )
        trend = entry["trend"]
        said = f"; r with log epsilon {short(trend['estimate'])}" if trend else ""
        print(f"{name}: ROC-AUC beside other groups {points}{said}")


def _cell(item: ComparedStudy, name: str) -> str:
    from primum.application.comparing import View

    figure = item.figures.get(name)
    if figure is None:
        return "-"
    star = "*" if figure.view is View.ZONE else ""
    return f"{short(figure.estimate)} ({short(figure.lower)}-{short(figure.upper)}){star}"


def _sentence(test: Any) -> str:
    if not test["rows"]:
        return f"{test['study']} and {test['against']} answered no unit in common"
    counts, kappa = test["mcnemar"], test["kappa"]
    area = test.get("rocAuc")
    parts = [
        f"{test['study']} against {test['against']}, {test['rows']} units:",
        f"only this right {counts['onlyThisRight']}, only the other {counts['onlyOtherRight']},",
        f"McNemar p {short(counts['adjustedP'])}; kappa {short(kappa['estimate'])}",
    ]
    if area is not None:
        parts.append(
            f"; ROC-AUC {short(area['difference']['estimate'])}, p {short(area['adjustedP'])}"
        )
    parts += [_with_reader(name, pair) for name, pair in test.get("readers", {}).items()]
    return " ".join(parts).replace(" ;", ";")


def _with_reader(name: str, pair: Any) -> str:
    shown = [
        short(part["kappa"]["estimate"]) if "kappa" in part else part["masked"]
        for part in (pair["this"], pair["other"])
    ]
    return f"; kappa with reader {name} {shown[0]}, of the other {shown[1]}"


def short(value: str) -> str:
    """A number as people read it, three digits of it."""
    try:
        return f"{float(value):.3g}"
    except ValueError:
        return value or "-"
