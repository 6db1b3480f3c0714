"""Is an algorithm never asked for what it would ignore, and dropout never a hiding place?"""

from __future__ import annotations

import re

import pytest
import torch
from stored_models import load_model
from torch import nn

from primum import extensions
from primum.domain.errors import InvalidValue
from primum.domain.quantities import PrivacyUnit
from primum.domain.study.spec import AuditSpec, DatasetSpec
from primum_pipelines.kinds.train import together
from primum_pipelines.kinds.train.kind import TrainKind
from primum_pipelines.models.artifact import from_bytes, to_bytes
from primum_pipelines.models.registry import build
from primum_pipelines.optimization.algorithm import (
    MechanismParameters,
    TrainingTask,
    fields_read,
)
from primum_pipelines.optimization.dpsgd import DPSGD

KIND = TrainKind()
ASKED = {
    "augmentation": {"multiplicity": 2},
    "averaging": "0.9",
    "biasAware": "0.1",
    "clipping": "PerLayer",
    "earlyStopping": {"score": "HeldOut", "patience": 2, "noiseMultiplier": "20"},
    "ensemble": 4,
    "gradients": "Ghost",
    "individualFilter": {"epochs": 30},
    "momentum": "0.9",
    "optimizer": "Adam",
    "precision": "BFloat16",
    "rowsAtOnce": 16,
    "schedule": "Cosine",
    "warmUp": "0.1",
    "weightDecay": "0.01",
}


class Plain:
    """A plug-in that knows noise, rate, steps, clipping bound and learning rate alone."""

    name = "Plain"
    reviewed = True

    def fit(self, task):
        return DPSGD().fit(task)


@pytest.fixture
def plain(monkeypatch):
    real = extensions.load

    def load(group, name):
        return Plain if group == "primum.training_algorithms" else real(group, name)

    monkeypatch.setattr(extensions, "load", load)


@pytest.mark.parametrize("field", sorted(ASKED))
def test_a_plug_in_is_not_asked_for_what_it_would_ignore(study, planning, plain, field):
    with pytest.raises(
        InvalidValue, match=rf"{field} must be absent for an algorithm that does not"
    ):
        KIND.declare(study(job={**study().job, field: ASKED[field]}), planning())


def test_langevin_too(study, planning, plain):
    job = {**study().job, "langevin": {"temperature": "1"}, "ensemble": 4, "weightDecay": "0.1"}
    with pytest.raises(InvalidValue, match=r"must be absent for an algorithm that does not read"):
        KIND.declare(study(job=job), planning())


def test_what_is_said_without_changing_anything_is_no_question(study, planning, plain):
    """A resource states every default; a plug-in is not refused for that."""
    unsaid = {
        "clipping": "Flat", "gradients": "Auto", "schedule": "Constant", "optimizer": "SGD",
        "precision": "Float32", "averaging": "0.0", "momentum": "0",
    }  # fmt: skip
    KIND.declare(study(job={**study().job, **unsaid}), planning())


def test_a_plug_in_that_clips_rows_gets_no_units_of_several(study, facts, planning, plain):
    options = {
        "label": "sick", "features": {"age": ["0", "100"]}, "classes": ["no", "yes"],
        "unitColumn": "patient", "maxExamplesPerUnit": 3,
    }  # fmt: skip
    dataset = DatasetSpec("csv://visits.csv", PrivacyUnit.PATIENT, options=options)
    known = planning(facts(dataset=dataset))
    with pytest.raises(InvalidValue, match=r"must take all rows of a unit together"):
        KIND.declare(study(), known)


def test_every_field_that_can_be_ignored_is_known_here():
    """A new field of the reviewed algorithm is in both lists, or plug-ins would ignore it."""
    beside = {"units", "workers"}  # Of the data and of the machines, asked for elsewhere.
    assert fields_read(DPSGD) - beside == set(together._UNSAID)
    assert {*ASKED, "langevin"} == set(together._UNSAID)


@pytest.mark.parametrize(("model", "shape"), [("MLP", (6,)), ("SmallCNN", (1, 16, 16))])
def test_dropout_is_of_training_alone_and_kept_in_the_file(model, shape):
    module = build(model, {"dropout": "0.5"}, input_shape=shape, classes=2)
    rows = torch.randn(4, *shape)
    assert not torch.equal(module(rows), module(rows))
    module.eval()
    assert torch.equal(module(rows), module(rows))
    assert "dropout" not in extensions.load("primum.models", model)().check({"dropout": "0"})
    with pytest.raises(InvalidValue, match=r"dropout must be at least 0 and below 1"):
        build(model, {"dropout": "1"}, input_shape=shape, classes=2)


class Besides(nn.Module):
    """Uses its layer's weight past the layer, behind a dropout."""

    def __init__(self):
        super().__init__()
        self.drop, self.layer = nn.Dropout(0.5), nn.Linear(5, 2)

    def forward(self, rows):
        return self.layer(self.drop(rows)) + self.drop(rows) @ self.layer.weight.t()


def test_dropout_hides_no_use_of_a_parameter():
    torch.manual_seed(0)
    task = TrainingTask(
        module=Besides(),
        inputs=(torch.randn(40, 5), torch.arange(40) % 2),
        loss=lambda m, x, y: nn.functional.cross_entropy(m(x), y, reduction="none"),
        expected_units=40,
        mechanism=MechanismParameters(1.0, 1.0, 1, 0.3),
        learning_rate=0.1,
    )
    with pytest.raises(InvalidValue, match=r"layer.weight must be used by its own layer alone"):
        DPSGD().fit(task)


def test_a_model_with_dropout_is_trained_and_answers_without_it(make_zone, study):
    from primum_pipelines.kinds.train.step import train

    job = {**study().job, "model": "MLP", "modelParameters": {"dropout": "0.2"}}
    zone = make_zone(study=study(job=job))
    result = train(zone.request("job"))
    model = load_model(result.artifacts[0]["uri"])
    assert model.spec.parameters["dropout"] == "0.2"
    rows = torch.zeros((3, 30)).numpy()
    assert (model.predict_proba(rows) == model.predict_proba(rows)).all()
    assert from_bytes(to_bytes(model.module, model.spec)).spec.parameters == model.spec.parameters


@pytest.mark.parametrize(
    ("attack", "given", "said"),
    [
        ("LiRA", {"varient": "Offline"}, "must be one of augmentations, pool, shadows, stopping"),
        ("LiRA", {"variant": "Sideways"}, "variant must be one of Online, Offline; found Sideways"),
        ("RMIA", {"stopping": "Sometimes"}, "stopping must be one of Certain, Never"),
        ("OneRunCanary", {"canaries": 100, "shadows": 8}, "must be one of canaries"),
        ("MechanismSelfTest", {"pool": 9}, "must have no parameters for MechanismSelfTest"),
        ("DOMIAS", {}, "Train makes; found DOMIAS. It is for PrivateFeatures and Synthesize"),
    ],
)
def test_an_audit_that_would_ignore_a_setting_is_refused_before_anything_is_spent(
    study, planning, attack, given, said
):
    with pytest.raises(InvalidValue, match=re.escape(said)):
        KIND.declare(study(audits=(AuditSpec("Membership", attack, given),)), planning())


@pytest.mark.parametrize("attack", extensions.names("primum.audits"))
def test_an_audit_names_every_setting_that_it_reads(attack):
    audit = extensions.load("primum.audits", attack)
    assert isinstance(audit.reads, frozenset)
    assert set(getattr(audit, "words", {})) <= audit.reads
