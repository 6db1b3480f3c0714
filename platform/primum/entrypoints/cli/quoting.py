"""``primum quote``: what a Study would cost, and what would fit. Spends nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from primum.entrypoints.cli.exits import Exit
from primum.entrypoints.cli.rendering import Output

if TYPE_CHECKING:
    from primum.application.platform import Platform
    from primum.application.quoting import Quote
    from primum.domain.study.lifecycle import Refusal
    from primum.domain.study.plan import Plan
    from primum.domain.study.spec import StudySpec


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(quote)


def quote(
    file: Annotated[
        list[Path], typer.Option("--filename", "-f", help="File or folder with Studies.")
    ],
    output: Annotated[
        Output, typer.Option("--output", "-o", help="table, json or yaml.")
    ] = Output.TABLE,
    audits: Annotated[
        bool, typer.Option("--audits", help="Try out what the audits would take, too.")
    ] = False,
) -> None:
    """Say what Studies would cost and whether they fit; exit 3 if one does not.

    With --audits also what their audits would take, and whether that ends before the deadline.

    Example: primum quote -f examples/breast-cancer/study.yaml
    """
    from primum.application import planning, quoting
    from primum.domain.errors import InvalidValue
    from primum.domain.study.lifecycle import Refusal
    from primum.entrypoints import bootstrap
    from primum.entrypoints.cli import session
    from primum.resources import conversion
    from primum.resources.loading import load_files
    from primum.resources.stored import unstored

    studies = [item for item in load_files(file) if item.key.kind == "Study"]
    if not studies:
        given = ", ".join(str(path) for path in file)
        raise InvalidValue(given, "must hold at least one Study", "none")
    settings = session.existing()
    platform = bootstrap.platform(settings)
    answers: list[dict[str, object]] = []
    fits = True
    for item in studies:
        spec = conversion.study_spec(unstored(item.key, item.spec_mapping()))
        try:
            found = quoting.quote(platform, spec)
        except planning.Blocked as blocked:
            found = blocked.refusal
        answers.append({"study": str(item.key), **_answer(found)})
        if isinstance(found, Refusal):
            fits = False
            continue
        fits = fits and found.fits
        if audits:
            said, in_time = _audits(platform, spec, found.plan)
            fits = fits and in_time
            answers[-1] |= said
    show(answers, output)
    if not fits:
        raise typer.Exit(Exit.REFUSED)


def _answer(found: Quote | Refusal) -> dict[str, object]:
    from primum.domain.study.lifecycle import Refusal

    if isinstance(found, Refusal):
        return {"fits": "No", "reason": found.reason.value, "message": found.message}
    return {
        "plan": found.headline,
        "epsilon": str(found.plan.epsilon),
        "delta": str(found.plan.delta),
        "epsilonLeft": str(found.epsilon_left),
        "fits": how_often(found.times, found.refusal),
        "message": found.refusal,
        "waits": found.waits,
        "alternatives": list(found.alternatives),
    }


def _audits(platform: Platform, spec: StudySpec, plan: Plan) -> tuple[dict[str, object], bool]:
    """What a Study's audits would take, and whether every one of them would end in time."""
    from primum import extensions
    from primum.application import audit_costs
    from primum.entrypoints.cli.audits import cost_lines
    from primum.resources.audits import AuditPolicy

    trial = extensions.load("primum.step_runtime", "estimate_audits")
    costs = audit_costs.audit_costs(platform, spec, plan, spec.audits, trial=trial)
    policy = AuditPolicy.model_validate(dict(spec.audit_policy), by_alias=True)
    problems = audit_costs.too_long(costs, seconds=policy.active_deadline_seconds)
    return {"audits": cost_lines(costs), "auditsTooLong": list(problems)}, not problems


def how_often(times: int, refusal: str) -> str:
    """How often a Study fits, in words."""
    from primum.domain.budget.filters import TIMES_MAX

    if not refusal:
        if times >= TIMES_MAX:  # The ledger counts no further.
            return f"at least {TIMES_MAX} times"
        return "once" if times == 1 else f"{times} times"
    return "Not now" if times else "No"


def show(answers: list[dict[str, object]], output: Output) -> None:
    """Print what was answered about Studies."""
    from primum.entrypoints.cli.rendering import structured

    if output is not Output.TABLE:
        structured(answers, output)
        return
    for answer in answers:
        print(answer["study"])
        for name, value in answer.items():
            if name != "study" and value:
                between = ", or " if name == "alternatives" else "; "
                shown = between.join(value) if isinstance(value, list) else value
                print(f"  {name:<13} {shown}")
