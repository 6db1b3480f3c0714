"""The steps of PrivateFeatures with real tokens on small data, and what is made of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from primum import signing
from primum.domain.accounting.events import covers, event_from_json
from primum.domain.errors import InvalidValue, Refused, Tampered
from primum.domain.governance.claims import ClaimStatus, claim_of_plan
from primum.domain.quantities import PrivacyUnit
from primum.domain.study.jobs import SyntheticFacts
from primum.domain.study.plan import Treatment
from primum.domain.study.spec import AuditSpec
from primum_pipelines import artifacts
from primum_pipelines.datasets.access import open_private
from primum_pipelines.kinds.private_features import features, step
from primum_pipelines.kinds.private_features.kind import PrivateFeaturesKind
from primum_pipelines.kinds.private_features.planned import EXTRACTOR
from primum_pipelines.kinds.train import step as training
from primum_pipelines.kinds.train.kind import TrainKind
from primum_pipelines.models.artifact import ModelSpec
from primum_pipelines.models.extractor import FrozenExtractor
from primum_pipelines.steps import audit, evaluate
from primum_pipelines.synthesis import archive

JOB = {"model": "MLP", "modelParameters": {"hidden": 16}}
TRAIN = {"model": "Logistic", "epochs": 20, "batchSize": 64, "maxGradNorm": "1.0"}
CANARIES = AuditSpec("Membership", "OneRunCanary", {"canaries": 100})


@pytest.fixture
def plan_of(bench):
    def plan(facts, job=None, *, synthetic=(), **changes):
        names = [item.release for item in synthetic]
        given = {**JOB, **(job or {})}
        study = bench.study("PrivateFeatures", given, [facts], releases=names, **changes)
        return PrivateFeaturesKind().declare(study, bench.context([facts], synthetic=synthetic))

    return plan


def made(result, kind):
    return next(item for item in result.artifacts if item["kind"] == kind)


def stored(result, kind):
    item = made(result, kind)
    return artifacts.fetch(item["uri"], digest=item["digest"])


def with_synthetic(request, **releases):
    given = {name: {"uri": r.uri, "digest": r.digest} for name, r in releases.items()}
    return replace(request, context={**request.context, "synthetic": given})


def test_images_end_as_a_table_with_a_receipt_that_the_plan_covers(bench, plan_of):
    facts = bench.images("xrays")
    plan = plan_of(facts, {"rows": 200}, audits=[CANARIES])
    result = step.run(bench.request(plan, "job", [facts]))
    assert result.status == "Succeeded"
    (receipt,) = result.receipts
    assert receipt["access"] == "features@xrays"
    assert receipt["tokenId"] == "token-features@xrays"
    assert covers(plan.accesses[0].event, event_from_json(receipt["event"]))
    assert "keyed by the operating system" in receipt["facts"]["generator"]
    assert receipt["facts"]["clippedPer"] == "Image"
    table = archive.from_bytes(stored(result, "Dataset"))
    assert table.features.shape == (200, 16)
    assert set(np.unique(table.labels)) == {0, 1}
    spread = float(plan.mechanism["noiseMultiplier"])
    assert table.features.std() == pytest.approx(spread, rel=0.1)  # 16 of 17 parts are noise.
    assert made(result, "Canaries")["uri"].endswith("canaries.json")


def test_the_same_study_twice_shares_no_number(bench, plan_of):
    facts = bench.images("xrays")
    request = bench.request(plan_of(facts), "job", [facts])
    tables = []
    for _ in range(2):
        tables.append(archive.from_bytes(stored(step.run(request), "Dataset")).features)
    assert np.isin(tables[0], tables[1]).mean() < 0.01  # Floats may meet by chance.


def test_the_extractor_is_the_same_whatever_the_private_data_is(bench, plan_of):
    """Its weights are those that everybody can draw: no private row had a part in them."""
    digests = set()
    for seed in (1, 2):
        facts = bench.images("xrays", seed=seed)
        result = step.run(bench.request(plan_of(facts), "job", [facts]))
        digests.add(made(result, EXTRACTOR)["digest"])
    assert len(digests) == 1


def released(bench, result, name, claim="Valid"):
    item = made(result, "Dataset")
    return SyntheticFacts(name, item["uri"], claim, item["digest"])


def train_on(bench, release, job=TRAIN):
    study = bench.study("Train", job, [], epsilon=None, releases=[release.release])
    plan = TrainKind().declare(study, bench.context([], synthetic=[release]))
    request = with_synthetic(bench.request(plan, "job", []), **{release.release: release})
    return plan, training.train(request)


def test_any_number_of_trainings_on_the_table_cost_nothing(bench, plan_of):
    facts = bench.images("xrays")
    result = step.run(bench.request(plan_of(facts), "job", [facts]))
    release = released(bench, result, "xray-features")
    for model in ("MLP", "Logistic"):
        plan, trained = train_on(bench, release, {**TRAIN, "model": model})
        assert plan.accesses == ()
        assert plan.epsilon == 0
        assert claim_of_plan(plan, artifact="model").status is ClaimStatus.VALID
        assert trained.status == "Succeeded"
        assert trained.receipts == []
        assert made(trained, "Model")
    request = bench.request(plan, "evaluate", [], job=trained)
    assert evaluate.run(with_synthetic(request, **{"xray-features": release})).evidence


def test_a_model_of_the_table_tells_classes_of_people_apart(bench, plan_of):
    """At an epsilon at which a row is worth something; the labels come from noisy codes alone."""
    facts = replace(bench.images("xrays", rows=2000), epsilon=1000)
    plan = plan_of(facts, {"model": "Logistic", "modelParameters": {}}, epsilon="200")
    result = step.run(bench.request(plan, "job", [facts]))
    _, trained = train_on(bench, released(bench, result, "table"))
    from primum_pipelines.models.artifact import from_bytes

    model = from_bytes(stored(trained, "Model"))
    request = bench.request(plan, "evaluate", [facts], job=result)
    table = open_private(request, "evaluate@xrays")
    extractor = features.extractor_from_bytes(stored(result, EXTRACTOR))
    mechanism = features.planned_mechanism(plan.parameters)
    noisy = archive.from_bytes(stored(result, "Dataset"))
    people = features.in_released_form(extractor, table, mechanism, released=noisy)
    said = model.predict_proba(people.features[~people.train]).argmax(axis=1)
    assert (said == people.labels[~people.train]).mean() > 0.9


def test_pretraining_uses_a_released_table_and_nothing_private(bench, plan_of):
    """A Release whose claim covers it teaches the extractor; what it costs was paid there."""
    facts = bench.images("xrays")
    labels = np.arange(100) % 2
    pictures = np.zeros((100, 1, 8, 8), dtype=np.float32)
    pictures[labels == 1, :, :4] = 1.0
    request = bench.request(plan_of(facts), "validate", [facts])
    like = open_private(request, "validate@xrays")
    table = replace(archive.released_form(pictures, like), labels=labels)
    item = artifacts.store(
        request.artifacts_uri, "teacher.npz", archive.to_bytes(table), kind="Dataset"
    )
    teacher = SyntheticFacts("teacher", item.uri, "Valid", item.digest)
    plan = plan_of(facts, {"epochs": 3}, synthetic=[teacher])
    runs = [
        step.run(with_synthetic(bench.request(plan, "job", [facts]), teacher=teacher))
        for _ in range(2)
    ]
    assert [run.status for run in runs] == ["Succeeded", "Succeeded"]
    plain = step.run(bench.request(plan_of(facts), "job", [facts]))
    taught = {made(run, EXTRACTOR)["digest"] for run in runs}
    assert len(taught) == 1
    assert made(plain, EXTRACTOR)["digest"] not in taught


def test_a_teacher_of_another_shape_is_refused_and_nothing_is_charged(bench, plan_of):
    facts = bench.images("xrays")
    result = step.run(bench.request(plan_of(facts), "job", [facts]))
    teacher = released(bench, result, "teacher")  # A table of 16 numbers is no picture.
    plan = plan_of(facts, {"epochs": 1}, synthetic=[teacher])
    refused = step.run(with_synthetic(bench.request(plan, "job", [facts]), teacher=teacher))
    assert refused.status == "Failed"
    assert "must have rows of shape (1, 8, 8)" in refused.message
    assert [item["event"] for item in refused.receipts] == [{"event": "NoEvent"}]
    assert refused.artifacts == []


class Mixing(nn.Module):
    """Takes the mean of the batch off: what one person gets depends on the others."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, rows):
        return self.head(rows - rows.mean(dim=0))


def spec(width=4):
    return ModelSpec("Mixing", {}, (width,), ("a", "b"), "b", (), (), (), "x/y")


def test_an_extractor_that_mixes_people_is_refused():
    with pytest.raises(InvalidValue, match="must treat every unit by itself"):
        FrozenExtractor(Mixing(), spec()).rehearse()


def test_an_extractor_without_one_vector_per_row_is_refused():
    folded = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (-1, 1)), nn.Linear(1, 2))
    with pytest.raises(InvalidValue, match="one vector per row"):
        FrozenExtractor(folded, spec()).rehearse()


def test_features_are_what_the_last_layer_is_given():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    extractor = FrozenExtractor(nn.Sequential(body, nn.Dropout(0.9), nn.Linear(3, 2)), spec())
    rows = np.random.default_rng(0).random((600, 4)).astype(np.float32)
    with torch.no_grad():
        expected = body(torch.from_numpy(2 * rows - 1)).double().numpy()
    assert np.allclose(extractor.features(rows), expected, atol=1e-6)


def test_without_a_valid_token_nothing_is_opened(bench, plan_of):
    facts = bench.images("xrays")
    request = bench.request(plan_of(facts), "job", [facts])
    with pytest.raises(Refused):
        step.run(replace(request, tokens={}))
    with pytest.raises(Refused):
        step.run(replace(request, public_key=signing.generate()[1]))


def ward(bench, *, units=120, rows_each=3, train_units=120):
    """A table in which every patient has several rows, of one class or another."""
    options = {
        "label": "sick",
        "features": {"age": ["0", "100"], "pulse": ["0", "200"]},
        "unitColumn": "patient",
        "maxExamplesPerUnit": rows_each,
    }
    lines = [
        f"p{n},{20 + n % 60},{60 + 10 * k},{(n + k) % 2}"
        for n in range(units)
        for k in range(rows_each)
    ]
    (bench.folder / "ward.csv").write_text("\n".join(["patient,age,pulse,sick", *lines]) + "\n")
    return bench.facts(
        "ward",
        "csv://ward.csv",
        unit=PrivacyUnit.PATIENT,
        units=units,
        train_units=train_units,
        options=options,
        disclosures=("Utility", "DataRange"),
    )


def test_a_patient_with_several_rows_is_one_row_of_the_table(bench, plan_of):
    facts = ward(bench)
    plan = plan_of(facts, {"rows": 130}, delta="1e-4")
    assert plan.mechanism["unitExamplesMax"] == 3
    result = step.run(bench.request(plan, "job", [facts]))
    assert archive.from_bytes(stored(result, "Dataset")).features.shape == (130, 16)
    table = open_private(bench.request(plan, "validate", [facts]), "validate@ward")
    extractor = features.extractor_from_bytes(stored(result, EXTRACTOR))
    rows = extractor.features(table.features)
    means, labels = features.of_units(extractor, table)
    assert means.shape == (120, 16)
    assert np.allclose(means[5], rows[15:18].mean(axis=0))
    assert np.allclose(labels[5], np.bincount(table.labels[15:18], minlength=2) / 3)


def test_more_people_than_rows_are_never_put_into_a_table(bench, plan_of):
    """The file has grown since it was registered: no place would be left, and none is shared."""
    facts = ward(bench, units=200, rows_each=1, train_units=20)
    plan = plan_of(facts, delta="1e-4")
    with pytest.raises(InvalidValue, match="must have at most 20 training units"):
        step.run(bench.request(plan, "job", [facts]))
    assert not list(bench.folder.glob("artifacts/*"))


@pytest.mark.parametrize("disclosures", [("Utility",), ()], ids=["disclosed", "restricted"])
def test_figures_of_the_table_are_public_only_where_disclosed(bench, plan_of, disclosures):
    facts = replace(bench.images("xrays"), disclosures=disclosures)
    plan = plan_of(facts)
    job = step.run(bench.request(plan, "job", [facts]))
    result = step.evaluate(bench.request(plan, "evaluate", [facts], job=job))
    (record,) = result.evidence
    assert record["kind"] == "Samples"
    assert record["subject"] == made(job, "Dataset")["digest"]
    assert ("accuracy" in record["public"]) is bool(disclosures)
    assert "trainedOnReal" in record["restricted"]
    assert [item["event"] for item in result.receipts] == [{"event": "NoEvent"}]


def test_a_table_that_was_swapped_is_noticed(bench, plan_of):
    facts = bench.images("xrays")
    plan = plan_of(facts)
    job = step.run(bench.request(plan, "job", [facts]))
    (bench.folder / "artifacts" / archive.FILE_NAME).write_bytes(b"other bytes")
    with pytest.raises(Tampered):
        step.evaluate(bench.request(plan, "evaluate", [facts], job=job))


def audited(bench, plan, facts, job, *audits):
    request = bench.request(plan, "audit", [facts], job=job)
    asked = [{"kind": a.kind, "attack": a.attack, "parameters": dict(a.parameters)} for a in audits]
    context = {**request.context, "audits": json.loads(json.dumps(asked))}
    result = audit.run(replace(request, context=context))
    return {item["name"]: item for item in result.evidence}


DISTANCE = AuditSpec("Membership", "SampleDistance", {})
DENSITY = AuditSpec("Membership", "DOMIAS", {})


def test_the_self_test_runs_unasked_and_canaries_are_judged(bench, plan_of):
    facts = bench.images("xrays")
    plan = plan_of(facts, audits=[CANARIES])
    job = step.run(bench.request(plan, "job", [facts]))
    found = audited(bench, plan, facts, job, CANARIES)
    assert found["MechanismSelfTest"]["verdict"] == "Pass"
    public = found["MechanismSelfTest"]["public"]
    assert public["algorithm"] == "NoisyFeatures"
    assert public["falseAlarmRate"] == "0.0001"
    assert found["OneRunCanary"]["verdict"] == "Pass"


def test_an_audit_run_tests_the_mechanism_by_its_stated_facts(bench, plan_of):
    """Its plan has audit accesses alone, and no event to read the noise from."""
    facts = bench.images("xrays")
    plan = plan_of(facts, audits=[DISTANCE])
    job = step.run(bench.request(plan, "job", [facts]))
    alone = replace(plan, accesses=tuple(a for a in plan.accesses if a.step == "audit"))
    found = audited(bench, alone, facts, job, DISTANCE)
    assert found["MechanismSelfTest"]["verdict"] == "Pass"
    assert found["SampleDistance"]["verdict"] != "Fail"


def test_a_release_with_less_noise_than_charged_fails_its_own_self_test(
    bench, plan_of, monkeypatch
):
    facts = bench.images("xrays")
    plan = plan_of(facts)
    job = step.run(bench.request(plan, "job", [facts]))
    from primum_pipelines.kinds.private_features.mechanism import TableMechanism

    halved = property(lambda self: self.clip * self.noise_multiplier / 2)
    monkeypatch.setattr(TableMechanism, "noise_std", halved)
    found = audited(bench, plan, facts, job)
    assert found["MechanismSelfTest"]["verdict"] == "Fail"


def test_canaries_show_a_table_with_hardly_any_noise(bench, plan_of):
    facts = bench.images("xrays")
    plan = plan_of(facts, audits=[CANARIES])
    parameters = {**plan.parameters, "noiseMultiplier": "0.05"}
    broken = replace(plan, parameters=parameters)
    job = step.run(bench.request(broken, "job", [facts]))
    found = audited(bench, plan, facts, job, CANARIES)
    assert found["OneRunCanary"]["verdict"] == "Fail"


@pytest.mark.parametrize("asked", [DISTANCE, DENSITY], ids=lambda item: item.attack)
def test_distances_are_taken_between_features(bench, plan_of, asked):
    """So few held-out people certify nothing: Inconclusive, and never a Pass."""
    facts = bench.images("xrays")
    plan = plan_of(facts, epsilon="7.0", audits=[asked])
    job = step.run(bench.request(plan, "job", [facts]))
    found = audited(bench, plan, facts, job, asked)[asked.attack]
    assert found["verdict"] == "Inconclusive"
    assert "could not have certified the claim" in " ".join(found["public"]["reasons"])
    assert found["restricted"]["members"] == 180


def test_distances_find_the_people_of_a_table_without_noise(bench, plan_of):
    facts = bench.images("xrays", rows=600)
    plan = plan_of(facts, audits=[DISTANCE])
    parameters = {**plan.parameters, "noiseMultiplier": "0.0001"}
    job = step.run(bench.request(replace(plan, parameters=parameters), "job", [facts]))
    found = audited(bench, plan, facts, job, DISTANCE)["SampleDistance"]
    assert float(found["restricted"]["auc"]["estimate"]) > 0.95
    assert found["verdict"] == "Fail"


@pytest.mark.parametrize(
    ("kind", "attack"),
    [("Reconstruction", "GradientInversion"), ("Membership", "LiRA"), ("Reconstruction", "Copies")],
)
def test_an_audit_run_of_what_does_not_apply_says_so(bench, plan_of, kind, attack):
    facts = bench.images("xrays")
    plan = plan_of(facts, audits=[DISTANCE])
    job = step.run(bench.request(plan, "job", [facts]))
    found = audited(bench, plan, facts, job, AuditSpec(kind, attack, {}))[attack]
    assert found["verdict"] == "Inconclusive"
    assert "must be an attack on what job.kind: PrivateFeatures makes" in str(found["public"])


def test_private_data_beside_the_table_is_another_charge(bench, plan_of):
    """A Train Study that also reads the private data pays for that, as with samples."""
    facts = bench.images("xrays")
    result = step.run(bench.request(plan_of(facts), "job", [facts]))
    release = released(bench, result, "table")
    study = bench.study("Train", {**TRAIN, "model": "MLP"}, [facts], releases=["table"])
    plan = TrainKind().declare(study, bench.context([facts], synthetic=[release]))
    assert plan.accesses[0].treatment is Treatment.CHARGED
    request = with_synthetic(bench.request(plan, "job", [facts]), table=release)
    refused = training.train(request)  # Features are no pictures.
    assert refused.status == "Failed"
    assert "input table must have rows of shape (1, 8, 8)" in refused.message
    assert [item["event"] for item in refused.receipts] == [{"event": "NoEvent"}]
