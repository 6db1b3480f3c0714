"""Blocks on the command line: the example's budget is divided, mistakes are one sentence, and who
applies a Study is who the operating system says it is.

Commands run in this process. What would start Ray or a pipeline run is switched off.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys

import pytest
from command_line import EXAMPLES, CommandLine

from primum.resources.metadata import REQUESTER_LABEL

FOLDER = EXAMPLES / "blocks"
STUDY = (FOLDER / "winter.yaml").read_text()
BUDGET = (FOLDER / "budget.yaml").read_text()
USER = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    """Neither Ray nor a pipeline run is ever started."""
    from primum.adapters.kfp import LocalKfpRunner
    from primum.adapters.ray.compute import RayCompute

    monkeypatch.setattr(RayCompute, "warm", lambda self: None)
    monkeypatch.setattr(LocalKfpRunner, "launch", lambda self, run_id, **how: None)


def make_data(folder):
    folder.mkdir()
    made = subprocess.run(
        [sys.executable, FOLDER / "make_data.py"], capture_output=True, check=True
    )
    (folder / "admissions.csv").write_bytes(made.stdout)


@pytest.fixture
def primum(tmp_path, capsys):
    """`primum` with a home folder in which the example's budget is registered."""
    make_data(tmp_path / "data")
    command = CommandLine(tmp_path / "home")
    done = command("apply", "-f", FOLDER / "budget.yaml", capsys=capsys)
    assert done.code == 0, done.err
    return lambda *words, **more: command(*words, capsys=capsys, **more)


@pytest.fixture
def apply(primum, tmp_path):
    """Apply a text, follow it for a few seconds."""

    def applied(text, *words):
        file = tmp_path / "applied.yaml"
        file.write_text(text)
        return primum("apply", "-f", file, *words)

    return applied


def budget_of(primum):
    return primum("get", "budget", "admissions", "-o", "json").json()


def requester_of(primum, name):
    return primum("get", "study", name, "-o", "json").json()["metadata"]["labels"][REQUESTER_LABEL]


def test_the_examples_budget_has_a_block_for_every_month(primum):
    status = budget_of(primum)["status"]
    assert (status["blocks"], status["newestBlock"], status["units"]) == (6, "2025-06", 2400)
    assert primum("ledger", "verify").code == 0


@pytest.mark.parametrize(
    ("blocks", "sentence"),
    [
        ('{from: "2030-01-01"}', "spec.data.blocks must match a block that exists"),
        ("{values: [icu]}", "spec.data.blocks.values must be absent by Time; found some."),
    ],
)
def test_blocks_that_do_not_exist_end_the_study_at_plan(apply, blocks, sentence):
    done = apply(STUDY.replace('{from: "2025-01-01", until: "2025-04-01"}', blocks))
    assert done.code != 0
    assert sentence in done.out


def test_a_quote_of_few_blocks_spends_nothing(apply, primum):
    days = next(line for line in BUDGET.splitlines() if line.startswith("    days: "))
    slowly = BUDGET.replace(days, '    days: "3650"')
    assert apply(slowly).code == 0
    before = primum("ledger", "accounts", "-o", "json").out
    done = primum("quote", "-f", FOLDER / "winter.yaml")
    assert done.code == 3
    assert "wait until " in done.out
    assert primum("ledger", "accounts", "-o", "json").out == before
    at_once = BUDGET.replace(days + "\n", "").replace("rule: PerTime", "rule: Immediate")
    assert apply(at_once).code == 0
    assert primum("quote", "-f", FOLDER / "winter.yaml").code == 0


def test_blocks_cannot_be_divided_otherwise_later(apply):
    done = apply(BUDGET.replace("period: Month", "period: Week"))
    assert done.code != 0
    assert "spec.blocks.period must stay as declared; found Week." in done.err


def test_who_applies_is_who_the_operating_system_says(apply, primum):
    apply(STUDY, "--no-wait")
    assert requester_of(primum, "mortality-winter") == USER


def test_a_requester_in_the_file_is_not_believed(apply, primum):
    labels = f"  labels: {{team: icu, {REQUESTER_LABEL}: somebody-else}}\n"
    done = apply(STUDY.replace("  namespace: icu\n", f"  namespace: icu\n{labels}"), "--no-wait")
    assert done.code == 0
    assert f"must be who applies; found somebody-else. It is {USER}." in done.err
    assert requester_of(primum, "mortality-winter") == USER
    found = primum("get", "study", "mortality-winter", "-o", "json").json()
    assert found["metadata"]["labels"]["team"] == "icu"


def test_who_applied_first_stays_the_requester(apply, primum, monkeypatch):
    from primum.entrypoints.cli import session

    apply(STUDY, "--no-wait")
    monkeypatch.setattr(session, "user_name", lambda: "mallory")
    apply(STUDY, "--no-wait")
    assert requester_of(primum, "mortality-winter") == USER


def test_a_user_without_a_usable_name_is_a_number(monkeypatch):
    from primum.entrypoints.cli import session

    def named(name):
        return lambda _: type("Entry", (), {"pw_name": name})

    monkeypatch.setattr(pwd, "getpwuid", named("HOSPITAL\\ada"))
    assert session.user_name() == f"uid-{os.getuid()}"
    monkeypatch.setenv("USER", "mallory")
    monkeypatch.setattr(pwd, "getpwuid", named("ada.l"))
    assert session.user_name() == "ada.l"


def test_blocks_and_who_waits_for_them_can_be_asked_for(apply, primum):
    apply(STUDY, "--timeout", "2")
    shown = primum("ledger", "blocks", "admissions", "-n", "icu")
    assert shown.code == 0, shown.err
    assert "2025-01" in shown.out
    assert "unlocked: the part of the budget" in shown.out
    rows = json.loads(primum("ledger", "blocks", "admissions", "-o", "json").out)
    assert [row["block"] for row in rows][:2] == ["2025-01", "2025-02"]
    assert all(row["spent"] == "0" for row in rows)
    queue = primum("ledger", "queue", "admissions")
    assert queue.code == 0, queue.err
    assert "icu/" in queue.out or "nobody waits" in queue.out


def test_a_budget_that_is_not_there_is_named(primum):
    asked = primum("ledger", "blocks", "nothing")
    assert asked.code != 0
    assert "nothing" in asked.err
