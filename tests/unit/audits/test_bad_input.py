"""Is every audit of the wrong thing one clear error and Inconclusive, and never a pass?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("opacus")

from primum.domain.governance.evidence import Verdict, evidence_from_json
from primum.domain.study.spec import AuditSpec
from primum_pipelines import artifacts
from primum_pipelines.audits.membership import judged
from primum_pipelines.audits.subject import subject_of
from primum_pipelines.datasets import access
from primum_pipelines.datasets.table import LabelTask
from primum_pipelines.kinds import declaring
from primum_pipelines.optimization import canaries
from primum_pipelines.steps.audit import run

ASKED = (
    AuditSpec("Membership", "LiRA", {"shadows": 4, "pool": 100}),
    AuditSpec("Membership", "Thresholds", {"shadows": 4, "pool": 100}),
    AuditSpec("Reconstruction", "GradientInversion", {"trials": 16, "iterations": 5}),
    AuditSpec("Reconstruction", "Imprint", {"trials": 16}),
    AuditSpec("Reconstruction", "ModelInversion", {"iterations": 5}),
)


@pytest.fixture(scope="module")
def request_of(trained):
    return trained(audits=ASKED)


def found_by(request):
    evidence = map(evidence_from_json, run(request).evidence)
    return {item.name: item for item in evidence if item.name in {a.attack for a in ASKED}}


def nobody_inside(table):
    return replace(table, train=np.zeros(len(table.train), dtype=bool))


def unit_on_both_sides(table):
    units = table.units.copy()
    units[np.flatnonzero(table.train)[0]] = units[np.flatnonzero(~table.train)[0]]
    return replace(table, units=units)


def held_out_copies(table):
    """Every second held-out record is a training record under another name."""
    features, labels = table.features.copy(), table.labels.copy()
    outside = np.flatnonzero(~table.train)[::2]
    inside = np.flatnonzero(table.train)[: len(outside)]
    features[outside], labels[outside] = features[inside], labels[inside]
    return replace(table, features=features, labels=labels)


def other_columns(table):
    return replace(
        table,
        features=table.features[:, :7],
        feature_low=table.feature_low[:7],
        feature_high=table.feature_high[:7],
        feature_names=table.feature_names[:7],
    )


def other_classes(table):
    return replace(table, classes=("cat", "dog"))


def several_labels(table):
    return replace(table, task=LabelTask.MULTI_LABEL)


BAD = {
    unit_on_both_sides: "members and non-members overlap",
    held_out_copies: "members and non-members overlap",
    other_columns: "same shape of records, same classes",
    other_classes: "same shape of records, same classes",
    several_labels: "must be one class per row",
    nobody_inside: "must have",
}


@pytest.mark.parametrize(("broken", "rule"), BAD.items(), ids=[broken.__name__ for broken in BAD])
def test_bad_data_is_one_clear_error(request_of, monkeypatch, broken, rule):
    opened = access.open_private
    monkeypatch.setattr(access, "open_private", lambda *asked: broken(opened(*asked)))
    found = found_by(request_of)
    assert set(found) == {item.attack for item in ASKED}
    for name, item in found.items():
        assert item.verdict == "Inconclusive", name
        (reason,) = item.public["reasons"]
        assert rule in reason, (name, reason)


def test_a_generator_is_not_audited_as_a_classifier(request_of):
    job = {"artifacts": [{"kind": "Dataset", "uri": "nowhere", "digest": "sha256:" + "0" * 64}]}
    found = found_by(replace(request_of, inputs={"job": job}))
    for item in found.values():
        assert item.verdict == "Inconclusive"
        (reason,) = item.public["reasons"]
        assert "the Study trained no classifier" in reason


def test_a_classifier_is_not_audited_as_a_generator(trained, monkeypatch):
    # A Study that asks for it is refused when it is planned; an AuditRun asks afterwards.
    monkeypatch.setattr(declaring, "require_asked", lambda *_, **__: None)
    asked = [
        AuditSpec("Membership", "DOMIAS"),
        AuditSpec("Membership", "GeneratorLoss"),
        AuditSpec("Membership", "MeanEmbedding"),
        AuditSpec("Reconstruction", "Copies"),
    ]
    evidence = map(evidence_from_json, run(trained(audits=asked)).evidence)
    found = {item.name: item for item in evidence}
    for item in asked:
        assert found[item.attack].verdict == "Inconclusive"
        (reason,) = found[item.attack].public["reasons"]
        assert "must be an attack on what job.kind: Train makes" in reason


def test_constant_scores_are_no_pass(request_of):
    """Enough units on either side for any claim, and an attack that says nothing of any."""
    found = judged(subject_of(request_of), present=[0.5] * 2000, absent=[0.5] * 2000, threshold=0.5)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reasons == ("the attack gave every unit the same score",)


def test_a_record_without_a_score_is_no_pass(request_of):
    """A model whose answers are no numbers: every comparison with them is false."""
    missing = float("nan")
    found = judged(
        subject_of(request_of),
        present=[missing, *[0.1, 0.2] * 1000],
        absent=[0.1, 0.2] * 1000,
        threshold=0.9,
    )
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reasons == ("the attack gave a unit no score",)


def test_canaries_without_any_mark_are_no_pass(trained):
    """What an algorithm leaves that tells the audit nothing: all scores are one."""
    request = trained(audits=[AuditSpec("Membership", "OneRunCanary", {"canaries": 400})])
    marks = canaries.to_bytes(canaries.seal(400), [0.0] * 400)
    kind = canaries.ARTIFACT_KIND
    silent = artifacts.store(request.artifacts_uri, "silent.json", marks, kind=kind)
    left = [item for item in request.inputs["job"]["artifacts"] if item["kind"] != kind]
    entry = {"kind": kind, "uri": silent.uri, "digest": silent.digest}
    job = {"artifacts": [*left, entry]}
    evidence = map(evidence_from_json, run(replace(request, inputs={"job": job})).evidence)
    (found,) = [item for item in evidence if item.name == "OneRunCanary"]
    assert found.verdict == "Inconclusive"
    assert found.public["reasons"] == ["the attack gave every unit the same score"]
