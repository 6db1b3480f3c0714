"""What people see while a Study comes to rest: stages once, a bar only on a terminal."""

from __future__ import annotations

import dataclasses
import json
import sys
from types import SimpleNamespace

import pytest

from primum.adapters.memory import MemoryEvidenceStore
from primum.domain.names import ResourceKey
from primum.entrypoints.cli import reporting
from primum.entrypoints.cli.exits import Exit
from primum.entrypoints.cli.reporting import Display
from primum.resources.stored import StoredResource

TIME = "2026-11-22T06:00:00.000000Z"


def stored(kind="Study", generation=1, spec=None, **conditions):
    listed = [
        {
            "type": name,
            "status": status,
            "reason": reason,
            "message": message,
            "observedGeneration": 1,
            "lastTransitionTime": TIME,
        }
        for name, (status, reason, message) in conditions.items()
    ]
    return StoredResource(
        key=ResourceKey(kind, "a", "x"),
        uid="u",
        generation=generation,
        resource_version=1,
        created=TIME,
        spec=spec or {},
        status={"conditions": listed, "stage": "Plan", "epsilonSpent": "0"},
        labels={},
        owner="",
        deleting="",
    )


@pytest.fixture
def display(tmp_path, monkeypatch):
    """Makes displays over a home folder; nobody's role."""

    def make(*, terminal=False, quiet=False):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
        stores = SimpleNamespace(
            evidence=MemoryEvidenceStore(), ledger=SimpleNamespace(reservations=lambda **_: ())
        )
        settings = SimpleNamespace(home=tmp_path, token="")
        return Display(settings, stores, quiet=quiet)

    return make


PENDING = {"Succeeded": ("Unknown", "Pending", "")}
PLANNED = {"Planned": ("True", "PlanAccepted", "Train it"), **PENDING}
REFUSED = {
    "Planned": ("False", "InvalidSpec", "spec.x must be y; found z."),
    "Succeeded": ("False", "InvalidSpec", "spec.x must be y; found z."),
}


def test_each_stage_is_printed_once_and_plainly(display, capsys):
    shown = display()
    for _ in range(3):
        assert shown.update(stored(**PLANNED)) is None
    out = capsys.readouterr().out
    assert out.count("Train it") == 1
    assert out.count("Study a/x") == 1
    assert "\r" not in out
    assert "\033" not in out


def test_a_bar_moves_on_a_terminal_and_holds_counts_alone(display, tmp_path, capsys):
    folder = tmp_path / "artifacts" / "u" / "1" / "progress"
    folder.mkdir(parents=True)
    progress = {"done": 30, "total": 60, "message": "30 of 60 steps"}
    (folder / "job.json").write_text(json.dumps(progress))
    display(terminal=True).update(stored(**PLANNED))
    out = capsys.readouterr().out
    assert "job" in out
    assert "[############............] 30 of 60 steps" in out
    (folder / "job.json").write_text("{")  # Being written.
    assert display(terminal=True).update(stored(**PLANNED)) is None
    display(terminal=False).update(stored(**PLANNED))
    assert "####" not in capsys.readouterr().out


def test_the_end_says_why_and_how_to_exit(display, capsys):
    assert display().update(stored(**REFUSED)) is Exit.INVALID
    assert "Study a/x  invalid spec at Plan: spec.x must be y; found z." in capsys.readouterr().out


def test_quiet_means_quiet(display, capsys):
    assert display(quiet=True).update(stored(**REFUSED)) is Exit.INVALID
    assert capsys.readouterr().out == ""


def test_an_older_generation_s_end_is_not_this_one_s(display):
    assert display().update(stored(generation=2, **REFUSED)) is None


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("BudgetNotFound", Exit.NOT_FOUND),
        ("PolicyNotFound", Exit.NOT_FOUND),
        ("ReleaseNotFound", Exit.NOT_FOUND),
        ("BudgetNotReady", Exit.REFUSED),
    ],
)
def test_what_only_a_person_can_change_is_not_waited_for(
    display, monkeypatch, capsys, reason, code
):
    now = [0.0]
    monkeypatch.setattr(reporting.time, "monotonic", lambda: now[0])
    waits = stored(**{"Planned": ("False", reason, "must be; found."), **PENDING})
    shown = display()
    assert shown.update(waits) is None  # It may have come up a moment ago.
    now[0] += 10.0
    assert shown.update(waits) is code
    assert "waits at Plan: must be; found." in capsys.readouterr().out


def test_a_revoked_release_is_what_was_asked_for(display, capsys):
    release = stored(kind="Release", Ready=("False", "Revoked", "a patient withdrew"))
    assert display().update(release) is Exit.DONE
    assert "Revoked" in capsys.readouterr().out


def test_a_budget_that_is_not_ready_says_why(display, capsys):
    spec = {
        "guarantee": {"epsilon": "8.0", "delta": "1e-5"},
        "dataset": {"unit": "Patient"},
    }
    budget = stored(
        kind="PrivacyBudget", spec=spec, Ready=("False", "DatasetUnreadable", "file must exist")
    )
    assert display().update(budget) is Exit.NOT_FOUND
    out = capsys.readouterr().out
    assert "epsilon 8.0, delta 1e-5, unit Patient" in out
    assert "not ready" in out
    assert "file must exist" in out


def test_an_audit_run_ends_with_its_verdict(display, capsys):
    run = stored(kind="AuditRun", Succeeded=("False", "AuditInconclusive", "too few shadows"))
    assert display().update(run) is Exit.REFUSED
    out = capsys.readouterr().out
    assert "AuditInconclusive" in out
    assert "too few shadows" in out


@pytest.mark.parametrize(
    ("spent", "said"),
    [
        ("2.999973", "epsilon spent 3.00,"),
        ("1.806", "epsilon spent 1.81 (claim 3.00),"),  # It ended early.
        ("0", "epsilon spent 0.00,"),
    ],
)
def test_what_was_charged_is_told_apart_from_the_claim(display, capsys, spent, said):
    done = stored(BudgetReserved=("True", "Reserved", ""), Succeeded=("True", "Done", ""))
    figures = {"epsilonClaimed": "2.999973", "epsilonSpent": spent}
    display().update(dataclasses.replace(done, status={**done.status, **figures}))
    assert said in capsys.readouterr().out
