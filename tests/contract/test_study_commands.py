"""``primum study compare`` and ``show``: what is side by side, who sees what, what cannot be.

Commands run in this process against a home folder with planned and evaluated Studies.
"""

from __future__ import annotations

import re
from decimal import Decimal

import numpy as np
import pytest
from command_line import CommandLine
from manifests import BUDGET, STUDY

from primum.domain.governance.evidence import Evidence, EvidenceKind
from primum.domain.names import ResourceKey, outcome_id
from primum.domain.quantities import Neighbors, PrivacyUnit
from primum.domain.study.plan import Access, Plan, Treatment
from primum.domain.study.steps import StepOutcome, StepStatus
from primum.entrypoints import bootstrap, settings
from primum_pipelines import artifacts
from primum_pipelines.evaluation import predictions, subgroups
from primum_pipelines.evaluation.figures import Scored, utility

ROWS = 120
PICTURE = b"<svg/>"
SEX = np.tile([0, 1], ROWS // 2)


def answers(skill):
    """A model that is surer of the truth the more skill it has; the same rows for all."""
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 2, ROWS)
    sure = skill * (labels - 0.5) + generator.normal(size=ROWS)
    positive = 1 / (1 + np.exp(-sure))
    units = np.array([f"P-{n}" for n in range(ROWS)])
    return Scored(labels, np.stack([1 - positive, positive], axis=1), 1, units)


class Ward:
    """Stores in which Studies have come to something."""

    def __init__(self, home):
        self.home = home
        self.settings = settings.from_environment({"PRIMUM_HOME": str(home)})
        bootstrap.prepare_home(self.settings)
        self.stores = bootstrap.stores(self.settings)
        for budget, account in (("wisconsin", "a" * 32), ("other", "b" * 32)):
            key = ResourceKey("PrivacyBudget", "oncology", budget)
            stored, _ = self.stores.resources.apply(key, BUDGET, labels={})
            self.stores.resources.set_status(key, stored.uid, {"accountId": account})

    def declare(self, name, budget="wisconsin"):
        key = ResourceKey("Study", "oncology", name)
        spec = STUDY | {"data": [{"role": "Private", "budget": budget}]}
        return self.stores.resources.apply(key, spec, labels={})[0]

    def plan(self, stored, epsilon, budget="wisconsin"):
        plan = Plan(
            stored.uid,
            stored.generation,
            "Train",
            (Access("evaluate", "evaluate", budget, Treatment.DISCLOSED),),
            Decimal(epsilon),
            Decimal("1e-5"),
            PrivacyUnit.PATIENT,
            Neighbors.ADD_OR_REMOVE_ONE,
            {"algorithm": "DPSGD", "steps": 73},
            {"model": "Logistic"},
            ("evaluate",),
        )
        self.stores.evidence.put_plan(plan)

    def study(self, name, epsilon, skill):
        stored = self.declare(name)
        self.plan(stored, epsilon)
        scored = answers(skill)
        kept = artifacts.store(
            f"{bootstrap.artifacts_uri(self.settings)}/{stored.uid}",
            "predictions-wisconsin.npz",
            predictions.to_bytes(
                predictions.of(scored, dataset="a", readers={"ada": scored.labels})
            ),
            kind=predictions.ARTIFACT_KIND,
        )
        picture = artifacts.store(
            f"{bootstrap.artifacts_uri(self.settings)}/{stored.uid}",
            "reliability-wisconsin.svg",
            PICTURE,
            kind="Picture",
        )
        measured = {n: figure.to_json() for n, figure in utility(scored).items()}
        sides = (
            (EvidenceKind.UTILITY, measured, {}),
            (EvidenceKind.FAIRNESS, {}, subgroups.fairness(scored, {"sex": SEX})),
        )
        evidence = [
            Evidence(kind, "wisconsin", stored.uid, stored.generation, "", None, public, inside)
            for kind, public, inside in sides
        ]
        outcome = StepOutcome(
            outcome_id(stored.uid, stored.generation, "evaluate"),
            "evaluate",
            StepStatus.SUCCEEDED,
            "StepSucceeded",
            "evaluated",
            (),
            tuple(item.digest for item in evidence),
            (kept, picture),
            "2.5",
        )
        self.stores.evidence.record(
            outcome, evidence, study_uid=stored.uid, generation=stored.generation
        )


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    """Three Studies of one dataset, one of another, and one without a plan."""
    ward = Ward(tmp_path_factory.mktemp("compared") / "home")
    for name, epsilon, skill in (("good", "8", 4.0), ("fair", "3", 2.0), ("poor", "1", 0.5)):
        ward.study(name, epsilon, skill)
    ward.plan(ward.declare("elsewhere", "other"), "3", "other")
    ward.declare("unplanned")
    return ward


@pytest.fixture
def say(ward, capsys):
    line = CommandLine(ward.home)
    return lambda *words, **more: line("study", "compare", *words, capsys=capsys, **more)


def test_studies_stand_side_by_side(say):
    done = say("good", "fair", "poor", "-o", "json")
    assert done.code == 0, done.err
    found = done.json()
    assert [item["study"] for item in found["studies"]] == [
        f"oncology/{name}" for name in ("good", "fair", "poor")
    ]
    assert [item["epsilon"] for item in found["studies"]] == ["8", "3", "1"]
    areas = [float(item["figures"]["rocAuc"]["estimate"]) for item in found["studies"]]
    assert areas == sorted(areas, reverse=True)
    assert {item["seconds"] for item in found["studies"]} == {"2.5"}


def test_models_are_tested_on_the_same_units(say):
    tests = {
        item["study"]: item for item in say("good", "fair", "poor", "-o", "json").json()["tests"]
    }
    assert set(tests) == {"oncology/fair", "oncology/poor"}
    with_ada = tests["oncology/poor"]["readers"]["ada"]  # She is always right.
    poorer, better = (float(with_ada[side]["kappa"]["estimate"]) for side in ("this", "other"))
    assert poorer < better
    poor, fair = tests["oncology/poor"], tests["oncology/fair"]
    assert poor["rows"] == ROWS
    assert float(poor["mcnemar"]["adjustedP"]) < 0.001
    assert float(poor["kappa"]["estimate"]) < float(fair["kappa"]["estimate"])
    assert float(poor["rocAuc"]["difference"]["estimate"]) < 0
    against = say("good", "fair", "poor", "--against", "poor", "-o", "json").json()["tests"]
    assert {item["against"] for item in against} == {"oncology/poor"}


def test_what_epsilon_does_to_subgroups(say):
    groups = say("good", "fair", "poor", "-o", "json").json()["subgroups"]
    assert set(groups) == {"sex/0", "sex/1"}
    assert [point["epsilon"] for point in groups["sex/0"]["points"]] == ["1", "3", "8"]
    assert -1 <= float(groups["sex/0"]["trend"]["estimate"]) <= 1


def test_who_has_no_role_in_the_zone_sees_what_is_public(say):
    done = say("good", "poor", "-o", "json", PRIMUM_TOKEN="nobody")
    found = done.json()
    assert found["tests"] == []
    assert found["subgroups"] == {}
    assert {item["fairness"] for item in found["studies"]} == {None}
    assert found["studies"][0]["figures"]["rocAuc"]["view"] == "Public"
    assert "predictions" not in done.out


def test_a_table_for_people(say):
    done = say("good", "poor")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split()[:4] == ["STUDY", "MODEL", "EPSILON", "SPENT"]
    assert lines[1].startswith("oncology/good   Logistic DPSGD   8")
    assert "McNemar p" in done.out
    assert "kappa with reader ada" in done.out
    assert "kappa with reader" not in say("good", "poor", PRIMUM_TOKEN="nobody").out
    assert "P-1" not in done.out


@pytest.mark.parametrize(("name", "start"), [("u.svg", b"<?xml"), ("u.png", b"\x89PNG")])
def test_a_picture_of_utility_over_epsilon(say, tmp_path, name, start):
    assert say("good", "fair", "poor", "--picture", tmp_path / name).code == 0
    assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("good",), "must be two to 64 different ones; found 1"),
        (("good", "good"), "must be two to 64 different ones"),
        (("good", "elsewhere"), "must have read one dataset in common; found none"),
        (("good", "unplanned"), "must have been planned; found Study oncology/unplanned"),
        (("good", "poor", "--against", "fair"), "--against must be one of good, poor; found fair"),
        (("good", "poor", "--picture", "u.jpg"), "--picture must end in .svg or .png"),
        (("good", "poor", "--figure", "f1", "--picture", "u.svg"), "--figure must be one of accu"),
    ],
)
def test_what_cannot_be_compared(say, words, part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = say(*words)
    assert done.code == 2
    assert part in done.err.replace("'", "")
    assert len(done.err.splitlines()) == 1


def test_an_unknown_study_is_not_found(say):
    assert say("good", "nowhere").code == 4


def test_answers_that_were_changed_are_noticed(ward, say):
    stored = ward.stores.resources.get(ResourceKey("Study", "oncology", "poor"))
    path = ward.home / "artifacts" / stored.uid / "predictions-wisconsin.npz"
    before = path.read_bytes()
    path.write_bytes(before[:-1] + b"x")
    try:
        assert say("good", "poor").code == 6
    finally:
        path.write_bytes(before)


@pytest.fixture
def show(ward, capsys):
    line = CommandLine(ward.home)
    return lambda *words, **more: line("study", "show", *words, capsys=capsys, **more)


def test_every_figure_of_a_study_is_shown_with_its_interval(show):
    said = show("fair").out
    assert re.search(r"Utility +wisconsin +rocAuc +0\.\d+ \(0\.\d+ to \d", said)
    assert re.search(r"Fairness +wisconsin +sex/0/sensitivity +.*\)\*", said)
    assert "* Restricted: shown because" in said
    found = show("good", "-o", "json").json()
    assert {"accuracy", "mcc", "sex/gap/rocAuc"} <= {item["figure"] for item in found}


def test_pictures_are_copied_for_the_zone_alone(show, tmp_path):
    folder = tmp_path / "figures"
    assert show("good", "--pictures", str(folder)).code == 0
    assert (folder / "reliability-wisconsin.svg").read_bytes() == PICTURE
    refused = show("good", "--pictures", str(tmp_path / "no"), PRIMUM_TOKEN="nobody")
    assert refused.code != 0
    assert "needs the role steward or auditor" in refused.err
    assert not (tmp_path / "no").exists()


def test_who_has_no_role_is_shown_what_is_public(show):
    said = show("good", PRIMUM_TOKEN="nobody").out
    assert "rocAuc" in said
    assert "Fairness" not in said
    assert "Restricted" not in said
