"""``kubectl primum quote``: what Studies would cost, asked of the ledger API. Spends nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from primum.domain.errors import InvalidValue, NotFound, Refused
from primum.entrypoints.cli import quoting
from primum.entrypoints.cli.exits import Exit
from primum.entrypoints.cli.kubectl.connection import Cluster, OutputOption
from primum.entrypoints.cli.rendering import Output


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(quote)


def quote(
    context: typer.Context,
    file: Annotated[
        list[Path], typer.Option("--filename", "-f", help="File or folder with Studies, or -.")
    ],
    output: OutputOption = Output.TABLE,
) -> None:
    """Say what Studies would cost and whether they fit; exit 3 if one does not.

    Example: kubectl primum quote -f study.yaml
    """
    from primum.resources.loading import load_files

    cluster: Cluster = context.obj
    loaded = load_files(file, namespace=cluster.namespace)
    studies = [item for item in loaded if item.key.kind == "Study"]
    if not studies:
        given = ", ".join(str(path) for path in file)
        raise InvalidValue(given, "must hold at least one Study", "none")
    answers = [_quoted(cluster, item) for item in studies]
    quoting.show(answers, output)
    if any(answer["fits"] in ("No", "Not now") for answer in answers):
        raise typer.Exit(Exit.REFUSED)


def _quoted(cluster: Cluster, item: Any) -> dict[str, object]:
    from primum.resources.metadata import API_VERSION

    body = {
        "apiVersion": API_VERSION,
        "kind": "Study",
        "metadata": {"name": item.key.name, "namespace": item.key.namespace},
        "spec": item.spec_mapping(),
    }
    try:
        found = cluster.ledger.ask("POST", "/v1/quotes", body)
    except (Refused, NotFound) as error:
        reason, message = _final(str(error))
        if not reason and isinstance(error, Refused):
            raise  # The caller was refused, not the Study.
        return {"study": str(item.key), "fits": "No", "reason": reason, "message": message}
    return {
        "study": found["study"],
        "plan": found["plan"],
        "epsilon": found["epsilon"],
        "delta": found["delta"],
        "epsilonLeft": found["epsilonLeft"],
        "fits": quoting.how_often(int(found["times"]), str(found["refusal"])),
        "message": found["refusal"],
        "waits": found["waits"],
        "alternatives": found["alternatives"],
    }


def _final(said: str) -> tuple[str, str]:
    """The reason and the sentence of a refusal such as ``EndpointTaken: ...``."""
    from primum.domain.conditions import Reason

    word, _, rest = said.partition(": ")
    known = word in {reason.value for reason in Reason}
    return (word, rest) if known else ("", said)
