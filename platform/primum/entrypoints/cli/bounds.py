"""``primum bounds``: every formal quantity of the product through one door."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="Formal privacy quantities, by name.",
        no_args_is_help=True,
    )
    group.command("eval")(evaluate)
    group.command("list")(list_quantities)
    app.add_typer(group, name="bounds")


def evaluate(
    quantity: Annotated[str, typer.Option("--quantity", help="The quantity's name.")] = "",
    given: Annotated[str, typer.Option("--input", help="Its inputs as JSON.")] = "",
    batch: Annotated[
        str, typer.Option("--batch", help="File with one {quantity, inputs} per line, or -.")
    ] = "",
) -> None:
    """Evaluate one quantity, or a batch of them, and print {"result": ...} per line.

    Example: primum bounds eval --quantity gaussian.epsilon --input '{"delta": 1e-5, "psi": 1.0}'
    """
    import json
    import sys
    from pathlib import Path

    from primum.domain.errors import InvalidValue, NotFound, PrimumError
    from primum.domain.risk import catalogue

    if bool(batch) == bool(quantity):
        raise InvalidValue(
            "bounds eval", "must have exactly one of --quantity and --batch", "both or neither"
        )
    if quantity:
        print(json.dumps({"result": catalogue.evaluate(quantity, _json("--input", given or "{}"))}))
        return
    if batch != "-" and not Path(batch).exists():
        raise NotFound(f"--batch {batch} does not exist")
    lines = sys.stdin if batch == "-" else Path(batch).open(encoding="utf-8")  # noqa: SIM115 - read to its end below
    for line in lines:
        if not line.strip():
            continue
        try:
            asked = _json("line", line)
            answer: object = {"result": catalogue.evaluate(str(asked["quantity"]), asked["inputs"])}
        except KeyError as missing:
            answer = {"error": f"line must have quantity and inputs; found no {missing}"}
        except PrimumError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer))


def list_quantities() -> None:
    """List the names of all quantities.

    Example: primum bounds list
    """
    from primum.domain.risk import catalogue

    for name in catalogue.quantities():
        print(name)


def _json(field: str, text: str) -> dict[str, Any]:
    import json

    from primum.domain.errors import InvalidValue

    try:
        value = json.loads(text)
    except ValueError:
        raise InvalidValue(field, "must be JSON", text) from None
    if not isinstance(value, dict):
        raise InvalidValue(field, "must be a JSON object", text)
    return value
