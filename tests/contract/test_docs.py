"""What the documents say is true of the code: words, links, commands, settings, and examples."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from primum.domain.accounting.policy_rdp import DEFAULT_ORDER_WEIGHTS
from primum.domain.budget.entries import EntryKind, ReservationState
from primum.domain.conditions import STAGE_OF, ConditionType, Reason
from primum.domain.governance.evidence import Verdict
from primum.domain.quantities import PrivacyUnit
from primum.entrypoints import bootstrap, settings
from primum.entrypoints.cli.exits import Exit
from primum.resources.loading import load_files

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = (
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "examples").rglob("*.md")),
    *sorted(DOCS.rglob("*.md")),
)
FIRST_COMMAND_LINE_MAX = 25


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(path), re.MULTILINE | re.DOTALL)


def table_words(path: Path, heading: str) -> list[str]:
    """The code words in the first column of the table below a heading, in order."""
    body = text_of(path).split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in body.splitlines() if line.startswith("| `")]
    return [word for row in rows for word in re.findall(r"`([^`]+)`", row.split("|")[1])]


def test_condition_types_are_those_of_the_code() -> None:
    assert table_words(DOCS / "conditions.md", "Types") == [kind.value for kind in ConditionType]


def test_condition_types_have_the_stage_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w*) *\|", text_of(DOCS / "conditions.md"), re.MULTILINE)
    said = {name: stage for name, stage in rows if name in {kind.value for kind in ConditionType}}
    assert said == {kind.value: str(STAGE_OF.get(kind, "")) for kind in ConditionType}


def test_reasons_are_those_of_the_code() -> None:
    assert table_words(DOCS / "conditions.md", "Reasons") == [reason.value for reason in Reason]


def test_reasons_said_to_be_unused_are_unused() -> None:
    """And the others are used: by member, or by their word."""
    source = "\n".join(
        text_of(path)
        for root in ("platform", "pipelines", "policies", "operators")
        for path in (ROOT / root).rglob("*.py")
        if path.name != "conditions.py" or "domain" not in path.parts
    )
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", text_of(DOCS / "conditions.md"), re.MULTILINE)
    unused = {name for name, meaning in rows if "nothing sets it yet" in meaning}
    set_somewhere = {
        reason.value
        for reason in Reason
        if re.search(rf"\bReason\.{reason.name}\b", source) or f"{reason.value}: " in source
    }
    assert unused == {reason.value for reason in Reason} - set_somewhere


def test_ledger_words_are_those_of_the_code() -> None:
    page = DOCS / "ledger.md"
    states = table_words(page, "States of a reservation")
    assert states == [state.value for state in ReservationState]
    assert set(table_words(page, "Entries")) == {kind.value for kind in EntryKind}


def test_number_of_renyi_orders_is_that_of_the_code() -> None:
    orders = ", ".join(str(order) for order, _ in DEFAULT_ORDER_WEIGHTS)
    page = text_of(DOCS / "decisions/0006-accounting-policies.md")
    assert f"with eight orders** ({orders})" in page
    assert len(DEFAULT_ORDER_WEIGHTS) == 8
    assert "at eight orders" in text_of(DOCS / "ledger.md")


def test_every_setting_is_described_with_its_default() -> None:
    page = text_of(DOCS / "getting-started/platform-engineer.md")
    known = re.findall(r"``(PRIMUM_\w+)``", settings.Settings.__doc__ or "")
    assert known
    for name in known:
        assert f"`{name}`" in page, name
    found = settings.from_environment({})
    for default in (found.api_port, found.serving_port, found.poll_seconds, found.host):
        assert str(default) in page
    for seconds in (found.lease_seconds, found.token_seconds):
        assert str(int(seconds)) in page


def test_every_switch_against_telemetry_is_listed() -> None:
    page = text_of(DOCS / "decisions/0003-telemetry-switches.md")
    switches = set(bootstrap.QUIET) - {"OMP_NUM_THREADS"}
    assert switches == set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))
    for name in switches:
        assert f"| `{name}` | `{bootstrap.QUIET[name]}` |" in page


def test_exit_codes_are_those_of_the_code() -> None:
    page = text_of(DOCS / "getting-started/platform-engineer.md")
    rows = re.findall(r"^\| (\d) \|", page, re.MULTILINE)
    assert [int(row) for row in rows] == [code.value for code in Exit]


def test_verdicts_and_units_are_those_of_the_code() -> None:
    auditor = text_of(DOCS / "getting-started/auditor.md")
    assert all(f"| {verdict.value} |" in auditor for verdict in Verdict)
    steward = text_of(DOCS / "getting-started/data-steward.md")
    assert all(f"`{unit.value}`" in steward for unit in PrivacyUnit)


def test_first_command_comes_early() -> None:
    lines = text_of(ROOT / "README.md").splitlines()
    first = next(number for number, line in enumerate(lines, 1) if line.startswith("make "))
    assert first <= FIRST_COMMAND_LINE_MAX


def test_every_decision_has_its_headings() -> None:
    records = sorted((DOCS / "decisions").glob("*.md"))
    assert records
    for number, path in enumerate(records, 1):
        assert path.name.startswith(f"{number:04d}-"), path.name
        text = text_of(path)
        assert text.startswith(f"# {number:04d} "), path.name
        headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
        assert headings == ["Context", "Decision", "Alternatives", "Drawbacks"], path.name


def test_decisions_cited_in_code_exist() -> None:
    cited = {
        number
        for root in ("platform", "pipelines", "policies", "operators")
        for path in (ROOT / root).rglob("*.py")
        for number in re.findall(r"docs/decisions/(\d{4})", text_of(path))
    }
    assert cited <= {path.name[:4] for path in (DOCS / "decisions").glob("*.md")}


def test_changelog_has_its_shape() -> None:
    text = text_of(ROOT / "CHANGELOG.md")
    assert text.startswith("# Changelog\n")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    dated = re.compile(r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}")
    assert all(dated.fullmatch(heading) for heading in headings[1:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{page.name}: {target}"


def commands() -> Iterator[tuple[str, str]]:
    """Every ``primum ...`` that a page shows as typed, with the page it is on."""
    for page in PAGES:
        for block in blocks(page, "(?:text|sh)"):
            for line in block.splitlines():
                command = line.removeprefix("$ ")
                if command.startswith("primum "):
                    yield str(page.relative_to(ROOT)), command


def command_line() -> click.Command:
    module = importlib.import_module("primum.entrypoints.cli")
    found = next(item for item in vars(module).values() if isinstance(item, typer.Typer))
    command: click.Command = typer.main.get_command(found)
    return command


def test_commands_shown_are_parsed() -> None:
    """Command, options and arguments exist; nothing is run."""
    shown = list(commands())
    assert shown
    top = command_line()
    for page, line in shown:
        command: Any = top
        words = shlex.split(line)[1:]
        while hasattr(command, "commands") and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        assert command is not top, f"{page}: {line}"
        try:
            command.make_context(line, words)
        except Exception as error:
            raise AssertionError(f"{page}: {line}: {error}") from error


def test_commands_in_prose_exist() -> None:
    top: Any = command_line()
    known = set(top.commands)
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
        for word in re.findall(r"`primum ([a-z]+)", prose):
            assert word in known, f"{page.name}: primum {word}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", text_of(ROOT / "Makefile"), re.MULTILINE))
    for page in PAGES:
        for word in re.findall(r"(?:^|`)make ([a-z-]+)", text_of(page), re.MULTILINE):
            assert word in targets, f"{page.name}: make {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_resources_shown_are_valid(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page, "yaml")):
        if "apiVersion:" in block:
            file = tmp_path / f"{number}.yaml"
            file.write_text(block, encoding="utf-8")
            assert load_files([file])


def test_json_shown_is_json() -> None:
    for page in PAGES:
        for block in blocks(page, "json"):
            json.loads(block)


def test_example_files_are_valid() -> None:
    for file in sorted((ROOT / "examples").rglob("*.yaml")):
        assert load_files([file]), file.name
        assert all(yaml.safe_load_all(text_of(file)))


@pytest.fixture(scope="module")
def shown_classes() -> dict[str, type]:
    """The classes of docs/extending.md, made by running its code."""
    found: dict[str, type] = {}
    for block in blocks(DOCS / "extending.md", "python"):
        assert ast.get_docstring(ast.parse(block))
        space: dict[str, Any] = {"__name__": "shown"}
        exec(compile(block, "extending.md", "exec"), space)
        found |= {n: v for n, v in space.items() if isinstance(v, type) and v.__module__ == "shown"}
    return found


def test_shown_driver_gives_a_sound_table(shown_classes: dict[str, type]) -> None:
    from primum_pipelines.datasets.checks import require_sound

    driver = shown_classes["LettersDriver"]()
    table = driver.load("letters://small", PrivacyUnit.PATIENT, {}, ())
    require_sound(table)
    facts = driver.describe("letters://small", {})
    assert facts["featureNames"] == list(table.feature_names)
    assert facts["classes"] == list(table.classes)
    assert driver.locate("letters://small", ()) == ""


def test_shown_audit_never_passes(shown_classes: dict[str, type]) -> None:
    finding = shown_classes["Silent"]().run(None, {})
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert finding.reasons


def test_shown_model_is_built_and_maps_rows_to_logits(shown_classes: dict[str, type]) -> None:
    torch = pytest.importorskip("torch")
    model = shown_classes["Bottleneck"]()
    module = model.build(model.check({}), input_shape=(3,), classes=2)
    assert module(torch.zeros(5, 3)).shape == (5, 2)


def test_shown_training_algorithm_reports_what_it_ran(shown_classes: dict[str, type]) -> None:
    torch = pytest.importorskip("torch")
    from primum_pipelines.optimization.algorithm import MechanismParameters, TrainingTask

    def loss(module: Any, rows: Any, labels: Any) -> Any:
        return torch.nn.functional.cross_entropy(module(rows), labels, reduction="none")

    mechanism = MechanismParameters(
        noise_multiplier=1.0, sample_rate=0.5, steps=2, max_grad_norm=1.0
    )
    task = TrainingTask(
        module=torch.nn.Linear(2, 2),
        inputs=(torch.zeros(8, 2), torch.zeros(8, dtype=torch.int64)),
        loss=loss,
        expected_units=8,
        mechanism=mechanism,
        learning_rate=0.1,
        seed=1,
    )
    report = shown_classes["TighterSGD"]().fit(task)
    assert report.max_grad_norm == 0.5
    assert report.executed == ((1.0, 0.5, 2),)
