"""``primum bounds``: every formal quantity of the product, and what a plan means for a person."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from primum.entrypoints.cli.rendering import Output

if TYPE_CHECKING:
    from primum.application.platform import Platform
    from primum.domain.canonical import JSON
    from primum.domain.study.spec import StudySpec

_FORMS = {".svg": "svg", ".png": "png"}


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="Formal privacy quantities, by name.",
        no_args_is_help=True,
    )
    group.command("eval")(evaluate)
    group.command("list")(list_quantities)
    group.command("plan")(plan)
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


def plan(
    file: Annotated[
        list[Path], typer.Option("--filename", "-f", help="File or folder with Studies.")
    ],
    prior: Annotated[
        str, typer.Option("--prior", help="How sure somebody is of membership before, 0 to 1.")
    ] = "0.5",
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Draw the risk corridor, .svg or .png.")
    ] = None,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="table, json or yaml.")
    ] = Output.TABLE,
) -> None:
    """Say what Studies would mean for a person in their data, before anything runs. Spends nothing.

    How well the best adversary tells who was in the data, picks a record among candidates, and
    rebuilds one: exact for the events that the Study would be charged, whether it fits or not.

    Example: primum bounds plan -f examples/breast-cancer/study.yaml
    """
    from primum import extensions
    from primum.domain.errors import InvalidValue
    from primum.entrypoints import bootstrap
    from primum.entrypoints.cli import session
    from primum.entrypoints.cli.rendering import structured
    from primum.resources import conversion
    from primum.resources.loading import load_files
    from primum.resources.stored import unstored

    if picture is not None and picture.suffix not in _FORMS:
        raise InvalidValue("--picture", "must end in .svg or .png", picture.name)
    studies = [item for item in load_files(file) if item.key.kind == "Study"]
    if not studies or (picture is not None and len(studies) > 1):
        rule = "must hold at least one Study" if not studies else "must hold one Study to be drawn"
        raise InvalidValue(", ".join(str(path) for path in file), rule, len(studies))
    platform = bootstrap.platform(session.existing())
    mean = extensions.load("primum.step_runtime", "plan_meaning")
    answers: list[dict[str, Any]] = []
    for item in studies:
        spec = conversion.study_spec(unstored(item.key, item.spec_mapping()))
        payload = {**_planned(platform, spec), "prior": prior}
        answers.append({"study": str(item.key), **mean(payload)})
        if picture is not None:
            draw = extensions.load("primum.step_runtime", "plan_picture")
            picture.write_bytes(draw(payload, form=_FORMS[picture.suffix]))
    if output is not Output.TABLE:
        structured(answers, output)
        return
    for answer in answers:
        _print_meaning(answer)


def _planned(platform: Platform, spec: StudySpec) -> dict[str, JSON]:
    """A Study's plan with public facts of its datasets.

    Raises:
        Refused: If it would not be planned.
    """
    from primum.application import planning
    from primum.domain.errors import Refused
    from primum.domain.study.lifecycle import Refusal

    try:
        found = planning.plan_study(platform, spec)
        context = planning.planning_context(platform, spec)
    except planning.Blocked as blocked:
        found = blocked.refusal
    if isinstance(found, Refusal):
        raise Refused(f"{found.reason.value}: {found.message}")
    return {
        "plan": found.to_json(),
        "datasets": {
            name: {
                "uri": facts.dataset.uri,
                "options": dict(facts.dataset.options),
                "unit": facts.dataset.unit.value,
            }
            for name, facts in context.datasets.items()
        },
    }


def _print_meaning(answer: dict[str, Any]) -> None:
    claim = answer["claim"]
    print(f"{answer['study']}: epsilon {claim['epsilon']} at delta {claim['delta']}")
    for budget, told in answer["budgets"].items():
        how = "exact" if told["exact"] == "yes" else f"upper bounds ({told['curve']})"
        print(f"  {budget}, {how}, for all that the plan charges to it:")
        for sentence in told["sentences"]:
            print(f"    {sentence}")


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
