"""Are models built as told, stored whole, and refused where clipping would mean nothing?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from primum.domain.errors import InvalidValue, NotFound
from primum_pipelines.models import artifact, registry
from primum_pipelines.models.artifact import ModelSpec

SPEC = ModelSpec(
    model="MLP",
    parameters={"hidden": 4, "layers": 1},
    input_shape=(2,),
    classes=("no", "yes"),
    positive="yes",
    feature_names=("age", "sex"),
    feature_low=("0", "0"),
    feature_high=("100", "1"),
    study="oncology/malignancy",
)


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("Logistic", (30,), {}),
        ("Logistic", (1, 28, 28), {}),
        ("MLP", (30,), {"hidden": "16", "layers": 2}),
        ("SmallCNN", (1, 28, 28), {}),
        ("SmallCNN", (3, 32, 32), {"channels": 8}),
    ],
)
def test_a_row_is_answered_by_itself(name, shape, parameters):
    """The output for a row must not depend on the batch it comes in."""
    module = registry.build(name, parameters, input_shape=shape, classes=3)
    rows = torch.randn(4, *shape)
    together, alone = module(rows), torch.cat([module(row[None]) for row in rows])
    assert together.shape == (4, 3)
    assert torch.allclose(together, alone, atol=1e-5)


def test_the_small_cnn_is_small():
    module = registry.build("SmallCNN", {}, input_shape=(1, 28, 28), classes=2)
    assert 20_000 < sum(p.numel() for p in module.parameters()) < 40_000


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.InstanceNorm1d(2, track_running_stats=True)]
)
def test_batch_statistics_are_refused(layer):
    with pytest.raises(InvalidValue, match="must not compute statistics over the batch"):
        registry.refuse_batch_statistics(nn.Sequential(nn.Linear(2, 2), layer))


@pytest.mark.parametrize(
    ("name", "parameters", "shape", "named"),
    [
        ("Oracle", {}, (2,), "model must be one of Logistic, MLP, SmallCNN"),
        ("MLP", {"hidden": 0}, (2,), "hidden must be a whole number"),
        ("MLP", {"hidden": "many"}, (2,), "hidden must be a whole number"),
        ("SmallCNN", {"channels": 9}, (1, 28, 28), "channels must be a multiple of 8"),
        ("SmallCNN", {}, (30,), "must be given images"),
    ],
)
def test_what_cannot_be_built_is_named(name, parameters, shape, named):
    with pytest.raises(InvalidValue, match=named):
        registry.build(name, parameters, input_shape=shape, classes=2)


def test_a_stored_model_answers_as_before(tmp_path):
    module = registry.build(SPEC.model, SPEC.parameters, input_shape=(2,), classes=2)
    path = tmp_path / artifact.FILE_NAME
    path.write_bytes(artifact.to_bytes(module, SPEC))
    loaded = artifact.load_model(path)
    raw = np.array([[50.0, 1.0], [500.0, 0.0]])
    scaled = torch.tensor([[0.0, 1.0], [1.0, -1.0]])  # beyond a bound is clipped to it
    expected = torch.softmax(module(scaled).double(), dim=1).detach().numpy()
    assert np.allclose(loaded.predict_proba(raw), expected, atol=1e-6)
    assert loaded.spec.classes == ("no", "yes")
    assert loaded.predict_proba(raw[:0]).shape == (0, 2)


def test_the_same_model_has_the_same_bytes():
    module = registry.build(SPEC.model, SPEC.parameters, input_shape=(2,), classes=2)
    assert artifact.to_bytes(module, SPEC) == artifact.to_bytes(module, SPEC)


@pytest.mark.parametrize("data", [b"", b"no model", b"\x00" * 64])
def test_another_file_is_no_model(tmp_path, data):
    path = tmp_path / "m"
    path.write_bytes(data)
    with pytest.raises(InvalidValue, match="model file must be a safetensors file"):
        artifact.load_model(path)


def test_a_foreign_safetensors_file_is_no_model(tmp_path):
    from safetensors.torch import save

    path = tmp_path / "m"
    path.write_bytes(save({"a": torch.zeros(2)}))
    with pytest.raises(InvalidValue, match="written by Primum"):
        artifact.load_model(path)


def test_an_absent_file_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        artifact.load_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("rows", "named"), [([[1.0]], "rows of shape"), ([[np.nan, 1.0]], "must be finite")]
)
def test_wrong_inputs_are_refused(tmp_path, rows, named):
    module = registry.build(SPEC.model, SPEC.parameters, input_shape=(2,), classes=2)
    loaded = artifact.from_bytes(artifact.to_bytes(module, SPEC))
    with pytest.raises(InvalidValue, match=named):
        loaded.predict_proba(np.array(rows))
