"""``primum study show``: every figure of one Study's model with its interval, and its pictures.

What no disclosure covers is shown to who may read it in the zone, and to nobody else.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from primum.entrypoints.cli.rendering import Output

if TYPE_CHECKING:
    from primum.application.measured import Line


def show(
    study: Annotated[str, typer.Argument(help="The Study.")],
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="Copy its pictures into this folder.")
    ] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace.")] = "",
    output: Annotated[
        Output, typer.Option("--output", "-o", help="table, json or yaml.")
    ] = Output.TABLE,
) -> None:
    """Show what was measured of a Study's model on held-out units, with 95 % intervals.

    Example: primum study show malignancy --pictures figures
    """
    from primum.application import measured
    from primum.application.comparing import View
    from primum.entrypoints.cli import rendering, session
    from primum.entrypoints.cli.comparing import view_of

    settings = session.existing()
    stores = session.open_stores(settings)
    key = session.only_namespace(stores.resources, "Study", study, namespace)
    stored = stores.resources.get(key)
    view = view_of(settings)
    found = measured.lines(stored, stores.evidence, view=view)
    if pictures is not None:
        _copy(measured.pictures(stored, stores.evidence), pictures, view)
    if output is not Output.TABLE:
        rendering.structured([line.to_json() for line in found], output)
        return
    rows = [[line.kind, line.data, line.figure, _value(line)] for line in found]
    rendering.table(["kind", "data", "figure", "estimate"], rows)
    if any(line.view is View.ZONE for line in found):
        print("* Restricted: shown because you hold a role inside the steward's zone")


def _copy(found: Any, folder: Path, view: Any) -> None:
    from primum import extensions
    from primum.application.comparing import View
    from primum.domain.errors import Refused

    if view is not View.ZONE:
        raise Refused("study show --pictures needs the role steward or auditor")
    fetch = extensions.load("primum.step_runtime", "fetch_artifact")
    folder.mkdir(parents=True, exist_ok=True)
    for artifact in found:
        name = artifact.uri.rpartition("/")[2]
        (folder / name).write_bytes(fetch(artifact.uri, digest=artifact.digest))


def _value(line: Line) -> str:
    from primum.application.comparing import View
    from primum.entrypoints.cli.comparing import short

    star = "*" if line.view is View.ZONE else ""
    if "masked" in line.value:
        return f"masked: {line.value['masked']}{star}"
    low, high = (short(str(line.value[end])) for end in ("lower", "upper"))
    return f"{short(str(line.value['estimate']))} ({low} to {high}){star}"
