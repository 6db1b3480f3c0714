"""A run registers a dataset where it lies: its real step, its own credential, over HTTP."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys

import pytest
from api_platform import make_platform
from ledger_server import served

from primum.application import budgets
from primum.application.platform import Registering
from primum.domain.conditions import ConditionType
from primum.domain.errors import Refused
from primum.domain.names import ResourceKey
from primum.entrypoints.step import run_step
from primum.resources import status

# A step's connection ends with its process, which is the test's here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
KEY = ResourceKey("PrivacyBudget", "oncology", "cohort")
ROWS = "name,age,died\nAda,71,yes\nGrete,64,no\nEmmy,53,no\nRosa,80,yes\nLise,49,no\n"
OPTIONS = {
    "label": "died",
    "classes": ["no", "yes"],
    "features": [{"name": "age", "low": "0", "high": "120"}],
    "unitColumn": "name",
}


class Place:
    """A platform behind HTTP, and a folder that only runs see."""

    def __init__(self, server, folder, monkeypatch):
        platform = make_platform()
        conduct = dataclasses.replace(platform.conduct, registering=Registering.IN_A_RUN)
        self.platform = dataclasses.replace(platform, conduct=conduct)
        server.app.state.platform, self.folder = self.platform, folder
        for name in [n for n in os.environ if n.startswith("PRIMUM_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PRIMUM_LEDGER_URL", server.url)
        monkeypatch.setenv("PRIMUM_DATA", str(folder))
        monkeypatch.setenv("PRIMUM_HOME", str(folder / "home"))

    def declare(self, **dataset):
        spec = {
            "dataset": {
                "uri": "csv://cohort.csv",
                "unit": "Patient",
                "options": OPTIONS,
                **dataset,
            },
            "guarantee": {"epsilon": "3.0", "delta": "1e-5"},
        }
        self.platform.resources.apply(KEY, spec, labels={})

    def look(self):
        budgets.reconcile_budget(self.platform, self.platform.resources.get(KEY))
        ready = status.condition(self.platform.resources.get(KEY).status, ConditionType.READY)
        return f"{ready.status} {ready.reason}", ready.message

    def step(self):
        """The text that the run's Secret holds."""
        (_, (context,)), *_ = reversed(self.platform.runner.launched.values())
        return json.dumps(context.to_json())


@pytest.fixture(scope="module")
def server():
    with served(make_platform()) as found:
        yield found


@pytest.fixture
def place(server, tmp_path, monkeypatch):
    (tmp_path / "cohort.csv").write_text(ROWS, encoding="utf-8")
    return Place(server, tmp_path, monkeypatch)


def test_the_step_counts_units_and_tells_no_value(place):
    place.declare()
    assert place.look()[0] == "Unknown Pending"
    run_step(place.step())
    run_step(place.step())  # It meets its earlier self.
    assert place.look()[0] == "True Registered"
    with pytest.raises(Refused, match="has ended"):
        run_step(place.step())
    found = place.platform.resources.get(KEY).status
    assert found["units"] == 5
    (kept,) = place.platform.evidence.evidence(place.platform.resources.get(KEY).uid, 1)
    assert set(kept.public) == {"digest", "units", "trainUnits", "message"}
    assert not any(name in json.dumps(kept.to_json()) for name in ("Ada", "Grete", "71"))


def test_a_dataset_that_cannot_be_used_is_told_by_column(place):
    (place.folder / "cohort.csv").write_text(ROWS.replace("yes", "perhaps"), encoding="utf-8")
    place.declare()
    place.look()
    with pytest.raises(Refused, match="InvalidSpec"):
        run_step(place.step())
    reason, message = place.look()
    assert reason == "False InvalidSpec"
    assert "died" in message
    assert "perhaps" not in message


def test_a_file_that_is_not_there_is_named(place):
    place.declare(uri="csv://elsewhere.csv")
    place.look()
    with pytest.raises(Refused, match="DatasetUnreadable"):
        run_step(place.step())
    reason, message = place.look()
    assert reason == "False DatasetUnreadable"
    assert "elsewhere.csv" in message


def test_a_fault_says_its_type_alone(place, monkeypatch):
    import primum_pipelines.steps.register as step

    def broken(_payload):
        raise ZeroDivisionError("Ada, 71")

    monkeypatch.setattr(step, "register", broken)
    place.declare()
    place.look()
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(Refused) as refusal:
        run_step(place.step())
    said = f"{refusal.value}{out.getvalue()}{place.look()}"
    assert "ZeroDivisionError" in said
    assert "Ada" not in said
