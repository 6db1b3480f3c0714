"""The steps of Federate, with real tokens, on small data and on the four hospitals."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from primum.domain.accounting.events import covers, event_from_json
from primum.domain.errors import Refused
from primum.domain.quantities import PrivacyUnit
from primum.domain.study.spec import AuditSpec
from primum_pipelines import artifacts
from primum_pipelines.kinds.federate import step
from primum_pipelines.kinds.federate.kind import FederateKind
from primum_pipelines.models.artifact import from_bytes
from primum_pipelines.optimization.dpsgd import DPSGD

JOB = {"model": "Logistic", "rounds": 2, "batchSize": 40, "maxGradNorm": "1.0"}
HOSPITALS = {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}


@pytest.fixture
def sites(bench):
    return [bench.images("north", rows=240), bench.images("south", rows=120, seed=1)]


@pytest.fixture
def plan(bench, sites):
    audits = [AuditSpec("Membership", "OneRunCanary", {"canaries": 20})]
    study = bench.study("Federate", JOB, sites, audits=audits)
    return FederateKind().declare(study, bench.context(sites))


def made(result, kind):
    return [item for item in result.artifacts if item["kind"] == kind]


def test_one_model_and_one_receipt_per_site_that_its_plan_covers(bench, plan, sites):
    result = step.run(bench.request(plan, "job", sites))
    assert result.status == "Succeeded"
    planned = {access.name: access.event for access in plan.accesses}
    assert [item["access"] for item in result.receipts] == ["train@north", "train@south"]
    for receipt in result.receipts:
        assert receipt["tokenId"] == f"token-{receipt['access']}"
        executed = event_from_json(receipt["event"])
        assert executed == planned[receipt["access"]]
        assert covers(planned[receipt["access"]], executed)
    (reference,) = made(result, "Model")
    model = from_bytes(artifacts.fetch(reference["uri"], digest=reference["digest"]))
    assert model.spec.input_shape == (1, 8, 8)


def test_canaries_are_planted_at_the_site_that_reveals_most(bench, plan, sites):
    result = step.run(bench.request(plan, "job", sites))
    assert len(made(result, "Canaries")) == 1
    (record,) = result.evidence
    assert record["public"]["canarySite"] in ("north", "south")
    assert record["public"]["canaryCommitment"].startswith("sha256:")
    assert record["restricted"] == {}


def test_a_site_that_fails_gives_no_receipt_and_the_others_do(bench, plan, sites, monkeypatch):
    rounds = []

    def fit(self, task):
        if task.expected_units == sites[1].train_units:
            rounds.append(task)
            if len(rounds) == 2:
                raise RuntimeError("patient 17 has value 3.5")
        return original(self, task)

    original = DPSGD.fit
    monkeypatch.setattr(DPSGD, "fit", fit)
    result = step.run(bench.request(plan, "job", sites))
    assert result.status == "Failed"
    assert "patient" not in result.message
    assert "site south" in result.message
    assert [item["access"] for item in result.receipts] == ["train@north"]
    assert made(result, "Model") == []


def test_every_site_needs_its_own_token(bench, plan, sites):
    request = bench.request(plan, "job", sites)
    half = {name: token for name, token in request.tokens.items() if "south" not in name}
    with pytest.raises(Refused, match="train@south"):
        step.run(replace(request, tokens=half))


@pytest.mark.parametrize("disclosed", [2, 1], ids=["both disclose", "one does not"])
def test_pooled_figures_leave_only_where_every_site_discloses(bench, sites, disclosed):
    facts = [sites[0], sites[1] if disclosed == 2 else replace(sites[1], disclosures=())]
    plan = FederateKind().declare(bench.study("Federate", JOB, facts), bench.context(facts))
    job = step.run(bench.request(plan, "job", facts))
    result = step.evaluate(bench.request(plan, "evaluate", facts, job=job))
    found = {item["name"]: item for item in result.evidence if item["kind"] == "Utility"}
    assert set(found) == {"pooled", "north", "south"}
    assert "accuracy" in found["north"]["public"]
    for name in ("pooled", "south"):
        assert ("accuracy" in found[name]["public"]) is (disclosed == 2)
        assert ("accuracy" in found[name]["restricted"]) is (disclosed == 1)


@pytest.fixture
def hospitals(bench):
    root = os.environ.get("PRIMUM_TEST_ASSETS")
    folder = Path(root, "data", "uci-heart-disease") if root else None
    if folder is None or not folder.is_dir():
        pytest.skip("set PRIMUM_TEST_ASSETS to a folder with data/uci-heart-disease")
    train = {"cleveland": 229, "hungarian": 224, "switzerland": 98, "va": 153}
    return folder, [
        bench.facts(
            name,
            f"uci-heart://{name}",
            unit=PrivacyUnit.PATIENT,
            units=units,
            train_units=train[name],
        )
        for name, units in HOSPITALS.items()
    ]


def test_four_hospitals_train_one_model_better_than_chance(bench, hospitals):
    folder, facts = hospitals
    job = {**JOB, "rounds": 4, "batchSize": 32, "learningRate": "0.5"}
    study = bench.study("Federate", job, facts, epsilon="6.0")
    plan = FederateKind().declare(study, bench.context(facts))
    request = replace(bench.request(plan, "job", facts), data_dirs=(str(folder),))
    trained = step.run(request)
    assert len(trained.receipts) == 4
    request = bench.request(plan, "evaluate", facts, job=trained)
    result = step.evaluate(replace(request, data_dirs=(str(folder),)))
    pooled = next(item for item in result.evidence if item["name"] == "pooled")
    assert float(pooled["public"]["rocAuc"]["lower"]) > 0.5
