"""``primum conformance``: what a run record of any framework really guarantees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from primum.entrypoints.cli.exits import Exit, code_of
from primum.entrypoints.cli.rendering import Output

if TYPE_CHECKING:
    from primum.domain.conformance.verdicts import Report


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Recheck privacy claims of run records.", no_args_is_help=True)
    group.callback()(_group)
    group.command("check")(check)
    app.add_typer(group, name="conformance")


def _group() -> None:
    """Recheck privacy claims of run records."""


def check(
    files: Annotated[list[Path], typer.Argument(help="Run records as JSON, or - for stdin.")],
    output: Annotated[
        Output, typer.Option("--output", "-o", help="table, json or yaml.")
    ] = Output.TABLE,
) -> None:
    """Recompute what runs guarantee; exit 3 unless every claim is Supported, 2 if one is damaged.

    Example: primum conformance check examples/conformance/flower-public-case.json
    """
    import sys

    from primum.domain.conformance.reading import read_records
    from primum.domain.conformance.verdicts import Verdict
    from primum.domain.conformance.verdicts import check as judge
    from primum.domain.errors import PrimumError

    reports: list[Report] = []
    damaged: int = Exit.DONE
    for file in files:
        try:
            reports += [judge(record) for record in read_records(_text(file), name=file.stem)]
        except PrimumError as error:
            damaged = damaged or code_of(error)
            # A foreign file must not drive the terminal.
            said = "".join(sign if sign.isprintable() else "?" for sign in str(error))
            print(f"error: {file}: {said}", file=sys.stderr)
    _print(reports, output)
    if damaged:
        raise typer.Exit(damaged)
    if any(report.verdict is not Verdict.SUPPORTED for report in reports):
        raise typer.Exit(Exit.REFUSED)


def _text(file: Path) -> str:
    import sys

    from primum.domain.conformance.fields import TEXT_MAX
    from primum.domain.errors import InvalidValue, NotFound

    if str(file) == "-":
        return sys.stdin.read(TEXT_MAX + 1)
    if not file.is_file():
        raise NotFound(f"run record {file} does not exist")
    try:
        with file.open(encoding="utf-8") as opened:
            return opened.read(TEXT_MAX + 1)
    except UnicodeDecodeError:
        raise InvalidValue("record", "must be UTF-8 text", "other bytes") from None


def _print(reports: list[Report], output: Output) -> None:
    from primum.domain.conformance.checks import shown
    from primum.entrypoints.cli import rendering

    if output is not Output.TABLE:
        rendering.structured([report.to_json() for report in reports], output)
        return
    if not reports:
        return
    rows = []
    for report in reports:
        claim = report.record.claim
        rows.append(
            [
                report.record.name,
                report.record.source.value,
                report.verdict.value,
                f"{claim.epsilon} at {claim.delta} ({claim.neighbors.value})",
                shown(report.guarantee, report.found.neighbors).removeprefix("epsilon "),
                shown(report.found.total, report.found.neighbors).removeprefix("epsilon "),
            ]
        )
    headers = ["record", "format", "verdict", "claimed epsilon", "true epsilon", "whole run"]
    rendering.table(headers, rows)
    for report in reports:
        for finding in report.findings:
            print(f"\n{report.record.name}: {finding.code.value} ({finding.severity.value})")
            print(f"  {finding.message}")
            print(f"  claimed: {finding.claimed}")
            print(f"  true:    {finding.actual}")
