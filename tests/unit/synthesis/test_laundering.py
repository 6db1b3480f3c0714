"""Synthetic data does not launder: DP training on the output of an uncharged generator is Void."""

from __future__ import annotations

from dataclasses import replace

import pytest

from primum.domain.governance.claims import ClaimStatus, claim_of_plan
from primum.domain.quantities import PrivacyUnit
from primum.domain.study.jobs import SyntheticFacts
from primum_pipelines.kinds.synthesize import step as synthesize
from primum_pipelines.kinds.synthesize.kind import SynthesizeKind
from primum_pipelines.kinds.train import step as training
from primum_pipelines.kinds.train.kind import TrainKind

TRAIN = {"model": "Logistic", "epochs": 2, "batchSize": 128, "maxGradNorm": "1.0"}


@pytest.fixture
def wisconsin(bench):
    return bench.facts(
        "wisconsin",
        "sklearn://breast_cancer",
        unit=PrivacyUnit.PATIENT,
        units=569,
        train_units=463,
    )


def released(bench, facts, *, mechanism):
    """A dataset made by Synthesize, as the facts that a later plan sees."""
    job = {"samples": 60, "iterations": 20, "features": 40, "mechanism": mechanism}
    epsilon = None if mechanism == "None" else "1.0"
    study = bench.study("Synthesize", job, [facts], epsilon=epsilon)
    plan = SynthesizeKind().declare(study, bench.context([facts]))
    result = synthesize.run(bench.request(plan, "job", [facts]))
    dataset = next(item for item in result.artifacts if item["kind"] == "Dataset")
    claim = claim_of_plan(plan, artifact="artifact of oncology/biopsies")
    return SyntheticFacts(
        "biopsies", dataset["uri"], claim.status.value, dataset["digest"], claim.void_edges
    )


def trained(bench, facts, release):
    study = bench.study("Train", TRAIN, [facts], releases=["biopsies"])
    plan = TrainKind().declare(study, bench.context([facts], synthetic=[release]))
    request = bench.request(plan, "job", [facts])
    synthetic = {"biopsies": {"uri": release.uri, "digest": release.digest}}
    request = replace(request, context={**request.context, "synthetic": synthetic})
    return plan, training.train(request)


def test_a_model_on_an_uncharged_generator_is_void_and_names_the_edge(bench, wisconsin):
    release = released(bench, wisconsin, mechanism="None")
    plan, result = trained(bench, wisconsin, release)
    assert result.status == "Succeeded"  # the training itself is real and charged
    claim = claim_of_plan(plan, artifact="model")
    assert claim.status is ClaimStatus.VOID
    assert "generator trained on wisconsin without a charge" in claim.text
    assert "through release biopsies" in claim.text
    assert "covers the last stage only" in claim.text


def test_a_model_on_a_charged_generator_keeps_its_claim(bench, wisconsin):
    release = released(bench, wisconsin, mechanism="Gaussian")
    plan, result = trained(bench, wisconsin, release)
    assert result.status == "Succeeded"
    assert claim_of_plan(plan, artifact="model").status is ClaimStatus.VALID
