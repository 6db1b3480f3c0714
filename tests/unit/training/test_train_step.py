"""Does Train train, say what it did, and keep what is Restricted restricted?"""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from stored_models import load_model

from primum import extensions
from primum.domain.accounting.events import covers, event_from_json
from primum.domain.canonical import canonical_json
from primum.domain.errors import Tampered
from primum.domain.governance.evidence import evidence_from_json
from primum.domain.quantities import PrivacyUnit
from primum.domain.study.jobs import SyntheticFacts
from primum.domain.study.spec import AuditSpec, DataRole, DatasetSpec, StudyInput
from primum_pipelines.artifacts import store
from primum_pipelines.datasets.access import open_private
from primum_pipelines.kinds.train.kind import TrainKind
from primum_pipelines.kinds.train.step import train
from primum_pipelines.models.registry import build
from primum_pipelines.optimization import dpsgd
from primum_pipelines.steps import evaluate

CANARIES = (AuditSpec("Membership", "OneRunCanary", {"canaries": 100}),)


def test_the_receipt_is_what_was_planned_and_names_its_token(make_zone, study):
    zone = make_zone(study=study(audits=CANARIES))
    result = train(zone.request("job"))
    (receipt,) = result.receipts
    planned = next(access for access in zone.plan.accesses if access.step == "job")
    assert event_from_json(receipt["event"]) == planned.event
    assert receipt["tokenId"] == "token-train@wisconsin"
    assert receipt["facts"]["sampling"] == "Poisson"
    assert receipt["facts"]["steps"] == 73
    assert "operating system" in receipt["facts"]["generator"]
    canonical_json({"result": [dict(item) for item in result.receipts]})  # no floats anywhere


def test_the_model_is_good_and_free_of_canaries(make_zone, study):
    """Accuracy at epsilon 3 was 0.93 to 0.98 in 20 runs; below 0.85 something is broken."""
    zone = make_zone(study=study(audits=CANARIES))
    result = train(zone.request("job"))
    kinds = {item["kind"]: item for item in result.artifacts}
    model = load_model(kinds["Model"]["uri"])
    assert set(model.module.state_dict()) == {"1.weight", "1.bias"}
    assert model.spec.digest == kinds["Model"]["digest"]
    table = open_private(zone.request("job"), "train@wisconsin")
    held_out = ~table.train
    chosen = model.predict_proba(table.features[held_out]).argmax(axis=1)
    assert (chosen == table.labels[held_out]).mean() > 0.85


def test_what_was_measured_stays_restricted(make_zone, study):
    zone = make_zone(study=study(audits=CANARIES))
    result = train(zone.request("job"))
    (record,) = [evidence_from_json(item) for item in result.evidence]
    assert set(record.restricted) == {"trainLoss", "clippedShare"}
    sealed = json.loads((Path(zone.folder) / "canaries.json").read_text())
    assert record.public["canaryCommitment"] == sealed["commitment"]
    public = json.dumps(dict(record.public)) + result.message
    assert sealed["salt"] not in public
    assert not set(sealed["scores"]) & set(public.split('"'))


def test_included_canaries_show(make_zone, study):
    """Included canaries outrank excluded ones: AUC above 0.5 by more than 4 deviations."""
    job = {**study().job, "noiseMultiplier": "3.74"}
    audits = (AuditSpec("Membership", "OneRunCanary", {"canaries": 600}),)
    zone = make_zone(study=study(audits=audits, job=job))
    train(zone.request("job"))
    sealed = json.loads((Path(zone.folder) / "canaries.json").read_text())
    coins = np.array(sealed["coins"], dtype=bool)
    scores = np.array([float(item) for item in sealed["scores"]])
    auc = (scores[coins][:, None] > scores[~coins][None, :]).mean()
    assert auc > 0.6


def test_an_algorithm_that_did_less_is_reported_as_such(zone, monkeypatch):
    real = dpsgd.DPSGD.fit

    def short(self, task):
        return real(self, replace(task, mechanism=replace(task.mechanism, steps=5)))

    monkeypatch.setattr(dpsgd.DPSGD, "fit", short)
    result = train(zone.request("job"))
    planned = next(access for access in zone.plan.accesses if access.step == "job")
    executed = event_from_json(result.receipts[0]["event"])
    assert executed != planned.event
    assert covers(planned.event, executed)
    assert result.message == "trained 5 of 73 steps"


def test_a_training_that_blows_up_fails_and_states_what_it_executed(make_zone, study):
    wild = {"learningRate": "3" + "0" * 38, "noiseMultiplier": "500"}
    zone = make_zone(study=study(job={**study().job, **wild}))
    result = train(zone.request("job"))
    assert result.status == "Failed"
    assert "weights must stay finite" in result.message
    planned = next(access for access in zone.plan.accesses if access.step == "job")
    executed = event_from_json(result.receipts[0]["event"])
    assert covers(planned.event, executed)
    assert executed.count < planned.event.count
    assert list(result.artifacts) == []


def test_a_patient_with_several_visits_is_clipped_once(make_zone, study, facts, monkeypatch):
    """Forty patients with one to four visits: what is sampled, clipped and counted is patients."""
    options = {
        "label": "sick",
        "features": {"age": ["0", "100"]},
        "classes": ["no", "yes"],
        "unitColumn": "patient",
        "maxExamplesPerUnit": 3,
    }
    dataset = DatasetSpec("csv://visits.csv", PrivacyUnit.PATIENT, options=options)
    known = facts(dataset=dataset, units=40, train_units=32)
    zone = make_zone(study=study(job={**study().job, "batchSize": 8}, audits=CANARIES), facts=known)
    visits = [
        f"p{n},{20 + n + visit},{'yes' if n % 3 else 'no'}"
        for n in range(40)
        for visit in range(1 + n % 4)
    ]
    (Path(zone.folder) / "visits.csv").write_text("\n".join(["patient,age,sick", *visits]) + "\n")
    real, tasks = dpsgd.DPSGD.fit, []

    def seen(self, task):
        tasks.append(task)
        return real(self, task)

    monkeypatch.setattr(dpsgd.DPSGD, "fit", seen)
    result = train(zone.request("job"))
    (task,) = tasks
    table = open_private(zone.request("job"), "train@wisconsin")
    patients = len(set(table.units[table.train]))
    planted = task.units.count - patients
    assert task.units.sizes.max() == 3
    assert 20 < planted < 80
    assert task.units.sizes[patients:].tolist() == [1] * planted
    assert task.expected_units == 32
    assert zone.plan.mechanism["unitExamplesMax"] == 3
    assert result.receipts[0]["facts"]["clippedPer"] == "Patient"


def test_only_the_head_is_trained_where_that_is_asked_for(make_zone, study):
    job = {**study().job, "model": "MLP", "trainable": "Head", "optimizer": "NoiseCorrectedAdam"}
    zone = make_zone(study=study(job=job))
    result = train(zone.request("job"))
    model = load_model(result.artifacts[0]["uri"]).module
    torch.manual_seed(0)  # Of the initial weights, which are public.
    fresh = build("MLP", {"hidden": 32, "layers": 1}, input_shape=(30,), classes=2)
    assert torch.equal(model[1].weight, fresh[1].weight)
    assert not torch.equal(model[3].weight, fresh[3].weight)


def test_synthetic_data_pre_trains(make_zone, study, planning):
    """With hardly any private steps, what the model knows it knows from the synthetic input."""
    from primum_pipelines.synthesis import archive

    source = make_zone()
    table = open_private(source.request("job"), "train@wisconsin")
    stored = store(str(source.folder), "synthetic.npz", archive.to_bytes(table), kind="Dataset")
    inputs = (StudyInput(DataRole.SYNTHETIC, release="copy"), *study().inputs)
    job = {**study().job, "noiseMultiplier": "500", "learningRate": "0.000001"}
    facts = SyntheticFacts("copy", stored.uri, "Void", stored.digest, ("copied",))
    asked = study(inputs=inputs, job=job)
    zone = make_zone(
        study=asked,
        plan=TrainKind().declare(asked, planning(synthetic={"copy": facts})),
        synthetic={"copy": {"uri": stored.uri, "digest": stored.digest}},
    )
    result = train(zone.request("job"))
    model = load_model(result.artifacts[0]["uri"])
    chosen = model.predict_proba(table.features).argmax(axis=1)
    assert (chosen == table.labels).mean() > 0.8
    zone.synthetic["copy"]["digest"] = "sha256:" + "0" * 64
    with pytest.raises(Tampered):
        train(zone.request("job"))


def test_released_data_alone_needs_no_token(make_zone, study, planning):
    from primum_pipelines.synthesis import archive

    source = make_zone()
    table = open_private(source.request("job"), "train@wisconsin")
    stored = store(str(source.folder), "synthetic.npz", archive.to_bytes(table), kind="Dataset")
    asked = study(inputs=(StudyInput(DataRole.SYNTHETIC, release="copy"),))
    facts = SyntheticFacts("copy", stored.uri, "Valid", stored.digest)
    zone = make_zone(
        study=asked,
        plan=TrainKind().declare(asked, planning(synthetic={"copy": facts})),
        synthetic={"copy": {"uri": stored.uri, "digest": stored.digest}},
    )
    result = train(zone.request("job"))
    assert result.receipts == []
    inputs = {"job": {"artifacts": result.artifacts}}
    (utility, _) = evaluate.run(zone.request("evaluate", inputs=inputs)).evidence
    assert Decimal(utility["public"]["accuracy"]["estimate"]) > Decimal("0.8")


def test_public_data_alone_is_evaluated_on_what_is_held_out(make_zone, study, planning):
    asked = study(
        inputs=(StudyInput(DataRole.PUBLIC, uri="sklearn://digits"),),
        job={**study().job, "epochs": 3},
    )
    zone = make_zone(study=asked, plan=TrainKind().declare(asked, planning()))
    inputs = {"job": {"artifacts": train(zone.request("job")).artifacts}}
    found = evaluate.run(zone.request("evaluate", inputs=inputs))
    utility = found.evidence[0]
    assert utility["name"] == "public:digits"
    assert Decimal(utility["public"]["accuracy"]["estimate"]) > Decimal("0.8")
    assert set(utility["public"]["classes"]) == set("0123456789")
    assert found.receipts == []


def test_the_leaky_plugin_claims_what_it_did_not_do(zone, monkeypatch):
    """The example plug-in is caught by audits, not here: its receipt looks perfect."""
    source = Path(__file__).parents[3] / "examples/plugins/leaky_sgd/src"
    monkeypatch.syspath_prepend(str(source))
    from leaky_sgd import LeakySGD

    real = extensions.load
    monkeypatch.setattr(
        extensions,
        "load",
        lambda group, name: LeakySGD if name == "DPSGD" else real(group, name),
    )
    result = train(zone.request("job"))
    planned = next(access for access in zone.plan.accesses if access.step == "job")
    assert event_from_json(result.receipts[0]["event"]) == planned.event
    assert LeakySGD.reviewed is False
