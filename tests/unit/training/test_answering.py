"""How a released model answers: scaled, together, or not at all; and it costs nothing."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from stored_models import load_model

from primum.domain.accounting.events import event_from_json
from primum.domain.errors import InvalidValue
from primum.domain.governance.evidence import EvidenceKind, evidence_from_json
from primum.domain.study.spec import DataRole, StudyInput
from primum_pipelines.datasets.table import LabelTask
from primum_pipelines.evaluation import calibration
from primum_pipelines.kinds.train.adjusting import adjusted
from primum_pipelines.kinds.train.step import train
from primum_pipelines.models import artifact, light
from primum_pipelines.models.registry import build
from primum_pipelines.optimization import randomness
from primum_pipelines.steps import evaluate
from primum_serving import protocol
from primum_serving.registry import ServedModel

TOGETHER = {"ensemble": 8, "answers": {"abstainBelow": "0.9"}}
SCALED = {"answers": {"temperature": "Public"}}
PUBLIC = StudyInput(DataRole.PUBLIC, uri="sklearn://breast_cancer")
"""The same rows as the private ones of this test, which says nothing of anybody here."""


def evaluated(zone):
    result = train(zone.request("job"))
    assert result.status == "Succeeded", result.message
    kinds = {item["kind"]: item for item in result.artifacts}
    inputs = {"job": {"artifacts": result.artifacts}}
    seen = evaluate.run(zone.request("evaluate", inputs=inputs))
    found = {item.kind: item for item in map(evidence_from_json, seen.evidence)}
    return result, load_model(kinds["Model"]["uri"]), found


def charged(zone):
    return [access.event for access in zone.plan.accesses if access.step == "job"]


def test_a_temperature_of_public_rows_is_in_the_file_and_measured_before_and_after(
    make_zone, study, monkeypatch
):
    # The same noise every time: on a hundred held-out rows calibration is a matter of luck too.
    monkeypatch.setattr(randomness, "random_source", lambda _: randomness.SeededSource(7))
    inputs = (*study().inputs, PUBLIC)
    wild = {**study().job, "learningRate": "30", **SCALED}  # Very sure of itself.
    zone = make_zone(study=study(job=wild, inputs=inputs))
    result, model, found = evaluated(zone)
    assert [event_from_json(item["event"]) for item in result.receipts] == charged(zone)
    assert charged(zone) == charged(make_zone(study=study()))
    assert float(model.spec.temperature) > 1.5
    measured = found[EvidenceKind.CALIBRATION].restricted
    assert measured["temperature"] == model.spec.temperature
    after, before = (
        Decimal(part["ece"]["estimate"]) for part in (measured, measured["unadjusted"])
    )
    assert after < before
    rows = np.random.default_rng(1).uniform(0, 30, (5, 30))
    expected = calibration.scaled(model.last().predict_proba(rows), float(model.spec.temperature))
    np.testing.assert_allclose(model.predict_proba(rows), expected)
    quick = light.light_model((zone.folder / "model.safetensors").read_bytes())
    np.testing.assert_allclose(quick.predict_proba(rows), expected, atol=2e-5)


def test_members_answer_together_and_abstain_where_they_disagree(make_zone, study):
    zone = make_zone(study=study(job={**study().job, **TOGETHER}))
    result, model, found = evaluated(zone)
    assert [event_from_json(item["event"]) for item in result.receipts] == charged(zone)
    assert charged(zone) == charged(make_zone(study=study()))
    assert (len(model.members), model.spec.agreement) == (8, "0.9")
    assert "Ensemble" not in {item["kind"] for item in result.artifacts}
    told = found[EvidenceKind.MULTIPLICITY].restricted
    assert told["agreement"] == "0.9"
    rows = np.random.default_rng(2).uniform(0, 30, (200, 30))
    answers, each = model.answer(rows), model.members_say(rows)
    np.testing.assert_allclose(answers.probabilities, each.mean(axis=0))
    share = np.stack([(each.argmax(axis=2) == k).mean(axis=0) for k in (0, 1)]).max(axis=0)
    np.testing.assert_array_equal(answers.answered, share >= 0.9)
    assert light.light_model((zone.folder / "model.safetensors").read_bytes()) is None


@pytest.mark.parametrize("kept", [0, 1])
def test_a_model_that_lost_its_members_is_not_released_as_one_that_abstains(kept):
    """A training that lost its worker near the end may have kept none."""
    spec = spec_of("Logistic", (3,))
    module = build("Logistic", {}, input_shape=(3,), classes=2)
    with pytest.raises(InvalidValue, match="must have kept 2 iterates"):
        adjusted(module, spec, [module.state_dict()] * kept, (), parameters=TOGETHER)


def served(model):
    return ServedModel("chest", model, "sha256:" + "0" * 64, "sha256:" + "1" * 64, {})


def asked(model, rows, **changes):
    tensor = {"name": "features", "datatype": "FP32", "shape": list(rows.shape)}
    request = {"inputs": [{**tensor, "data": rows.ravel().tolist()}], **changes}
    return {item["name"]: item for item in protocol.answer(request, served(model))["outputs"]}


def spec_of(model, shape, classes=("no", "yes"), **changes):
    return artifact.ModelSpec(
        model=model,
        parameters=changes.pop("parameters", {}),
        input_shape=shape,
        classes=classes,
        positive=classes[-1],
        feature_names=(),
        feature_low=(),
        feature_high=(),
        study="oncology/malignancy",
        **changes,
    )


@pytest.fixture
def disputed():
    """Three members that say yes from another threshold each: they disagree in between."""
    spec = spec_of("Logistic", (1,), members=3, agreement="0.9")
    states = []
    for threshold in (-0.5, 0.0, 0.5):
        state = build("Logistic", {}, input_shape=(1,), classes=2).state_dict()
        state["1.weight"] = torch.tensor([[-8.0], [8.0]])
        state["1.bias"] = torch.tensor([8.0 * threshold, -8.0 * threshold])
        states.append(state)
    module = build("Logistic", {}, input_shape=(1,), classes=2)
    return artifact.from_bytes(artifact.to_bytes(module, spec, members=states))


def test_an_endpoint_says_that_it_abstains_and_why_and_tells_nothing_else(disputed):
    found = asked(disputed, np.array([[0.0], [0.5], [1.0]], np.float32))
    assert found["label"]["data"] == ["no", "abstain", "yes"]
    first, second, third = found["reason"]["data"]
    assert (first, third) == ("", "")
    assert second == "fewer than 0.9 of the ensemble's members say the same"
    assert found["probability"]["data"][2:4] == [0.0, 0.0]
    assert sum(found["probability"]["data"][:2]) == pytest.approx(1)
    assert protocol.metadata(served(disputed))["outputs"][2]["name"] == "reason"
    alone = asked(disputed, np.zeros((1, 1), np.float32), outputs=[{"name": "reason"}])
    assert list(alone) == ["reason"]


def test_a_model_that_never_abstains_gives_no_reasons():
    module = build("Logistic", {}, input_shape=(1,), classes=2)
    model = artifact.from_bytes(artifact.to_bytes(module, spec_of("Logistic", (1,))))
    assert list(asked(model, np.zeros((1, 1), np.float32))) == ["label", "probability"]
    with pytest.raises(protocol.BadRequest, match="label or probability"):
        asked(model, np.zeros((1, 1), np.float32), outputs=[{"name": "reason"}])


def test_masks_are_answered_pixel_by_pixel():
    width = {"width": 8, "levels": 1}
    spec = spec_of("UNet", (1, 4, 6), parameters=width, task=LabelTask.SEGMENTATION)
    module = build("UNet", width, input_shape=(1, 4, 6), classes=2)
    model = artifact.from_bytes(artifact.to_bytes(module, spec))
    found = asked(model, np.zeros((2, 1, 4, 6), np.float32))
    assert (found["label"]["datatype"], found["label"]["shape"]) == ("UINT8", [2, 4, 6])
    assert found["probability"]["shape"] == [2, 2, 4, 6]
    shapes = [item["shape"] for item in protocol.metadata(served(model))["outputs"]]
    assert shapes == [[-1, 4, 6], [-1, 2, 4, 6]]


@pytest.mark.parametrize("load", [artifact.from_bytes, light.light_model])
def test_several_labels_are_answered_each_by_itself(load):
    spec = spec_of("Logistic", (2,), ("edema", "effusion"), task=LabelTask.MULTI_LABEL)
    module = build("Logistic", {}, input_shape=(2,), classes=2)
    with torch.no_grad():
        module[1].bias.copy_(torch.tensor([3.0, 2.0]))
    model = load(artifact.to_bytes(module, spec))
    found = asked(model, np.zeros((1, 2), np.float32))
    assert (found["label"]["datatype"], found["label"]["data"]) == ("BOOL", [True, True])
    expected = [1 / (1 + np.exp(-3)), 1 / (1 + np.exp(-2))]
    assert found["probability"]["data"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (SCALED, r"temperature must be One without a public"),
        ({"answers": {"abstainBelow": "0.9"}}, r"abstainBelow must be absent without ensemble"),
        ({**TOGETHER, "answers": {"abstainBelow": "0.5"}}, r"above 0\.5 and at most 1"),
        ({**TOGETHER, "answers": {"abstain": "0.9"}}, r"answers\.abstain must be one of"),
        ({**TOGETHER, "ensemble": 40}, r"ensemble must be at most 36, half of the steps"),
    ],
)
def test_what_could_not_be_done_after_the_training_is_refused_by_the_plan(
    make_zone, study, job, message
):
    with pytest.raises(InvalidValue, match=message):
        make_zone(study=study(job={**study().job, **job}))


def test_a_file_with_other_members_than_it_says_is_refused():
    module = build("Logistic", {}, input_shape=(1,), classes=2)
    spec = spec_of("Logistic", (1,), members=2, agreement="0.9")
    with pytest.raises(InvalidValue, match="members must be 2"):
        artifact.to_bytes(module, spec)
    whole = artifact.to_bytes(module, spec, members=[module.state_dict()] * 2)
    broken = whole.replace(b"members/1/1.bias", b"members/7/1.bias")
    with pytest.raises(InvalidValue, match="model file"):
        artifact.from_bytes(broken)
