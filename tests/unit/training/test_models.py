"""Are models built as told, stored whole, and refused where clipping would mean nothing?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stored_models import load_model
from torch import nn

from primum.domain.errors import InvalidValue
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
        ("TanhCNN", (1, 28, 28), {}),
        ("ResNet9", (1, 16, 16), {}),
        ("ResNet18", (1, 16, 16), {}),
        ("SmoothNet", (1, 8, 8), {"width": 1, "depth": 2}),
        ("SmallViT", (1, 28, 28), {}),
        ("SliceAttention", (1, 8, 8, 8), {}),
        ("SliceAttention", (1, 4, 12, 8), {"axes": 1, "pooling": "Max"}),
        ("ComplexCNN", (4, 16, 16), {}),
    ],
)
def test_a_row_is_answered_by_itself(name, shape, parameters):
    """The output for a row must not depend on the batch it comes in."""
    module = registry.build(name, parameters, input_shape=shape, classes=3)
    rows = torch.randn(4, *shape)
    together, alone = module(rows), torch.cat([module(row[None]) for row in rows])
    assert together.shape == (4, 3)
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "parameters"),
    [
        ("ResNet9", (3, 32, 32), 10, 2_448_714),
        ("SmoothNet", (3, 32, 32), 10, 3_391_853),
        ("TanhCNN", (1, 28, 28), 10, 26_010),
    ],
)
def test_architectures_have_the_published_size(name, shape, classes, parameters):
    module = registry.build(name, {}, input_shape=shape, classes=classes)
    assert sum(p.numel() for p in module.parameters()) == parameters


@pytest.mark.parametrize("shape", [(1, 16, 24), (2, 8, 8, 8)])
def test_a_u_net_gives_a_class_for_every_pixel(shape):
    module = registry.build("UNet", {}, input_shape=shape, classes=3)
    rows = torch.randn(2, *shape)
    together, alone = module(rows), torch.cat([module(row[None]) for row in rows])
    assert together.shape == (2, 3, *shape[1:])
    assert torch.allclose(together, alone, atol=1e-5)


def test_attention_finds_the_slice_that_tells_the_classes_apart():
    """Volumes of noise; one slice along one axis is bright in half of them (methods, 2.1)."""
    torch.manual_seed(0)
    module = registry.build("SliceAttention", {"axes": 1}, input_shape=(1, 6, 8, 8), classes=2)
    labels = torch.arange(64) % 2
    volumes = torch.randn(64, 1, 6, 8, 8) * 0.3
    volumes[:, 0, 4] += 2.0 * labels.view(-1, 1, 1)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(volumes), labels).backward()
        optimizer.step()
    importance = module.importance(volumes[labels == 1])
    assert torch.allclose(importance.sum(dim=1), torch.ones(32), atol=1e-5)
    assert int(importance.mean(dim=0).argmax()) == 4


def test_a_complex_convolution_is_one_of_complex_numbers():
    from primum_pipelines.models.architectures.waves import ComplexConvolution

    layer = ComplexConvolution(2, 3, kernel=3, stride=2)
    rows = torch.randn(4, 2, 2, 9, 9)
    weight = torch.complex(layer.real.weight, layer.imaginary.weight)
    expected = nn.functional.conv2d(
        torch.complex(rows[:, 0], rows[:, 1]), weight, stride=2, padding=1
    )
    found = layer(rows)
    assert torch.allclose(torch.complex(found[:, 0], found[:, 1]), expected, atol=1e-5)


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
        ("Oracle", {}, (2,), "model must be one of ComplexCNN, Logistic, MLP"),
        ("ResNet9", {"groups1": 3}, (3, 32, 32), "groups1 must be a power of two"),
        ("ResNet18", {}, (30,), "must be given images"),
        ("SmoothNet", {"depth": 0}, (3, 32, 32), "depth must be a whole number"),
        ("SmallViT", {"patch": 5}, (1, 28, 28), "multiples of 5"),
        ("SliceAttention", {"axes": 2}, (1, 8, 8, 8), "axes must be 1 or 3"),
        ("SliceAttention", {}, (1, 4, 8, 8), "cubes if axes is 3"),
        ("SliceAttention", {"pooling": "Sum"}, (1, 8, 8, 8), "pooling must be one of Attention"),
        ("UNet", {}, (1, 10, 10), "multiples of 4"),
        ("ComplexCNN", {}, (3, 16, 16), "pairs of channels"),
        ("MLP", {"hidden": 0}, (2,), "hidden must be a whole number"),
        ("MLP", {"hidden": "many"}, (2,), "hidden must be a whole number"),
        ("SmallCNN", {"channels": 9}, (1, 28, 28), "channels must be a multiple of 8"),
        ("SmallCNN", {}, (30,), "must be given images.*Use Logistic or MLP for tables"),
        ("SmallCNN", {}, (1, 28, 28, 28), "must be given images.*Use SliceAttention for volumes"),
        ("SliceAttention", {}, (1, 28, 28), "must be given volumes.*Use it for volumes alone"),
    ],
)
def test_what_cannot_be_built_is_named(name, parameters, shape, named):
    with pytest.raises(InvalidValue, match=named):
        registry.build(name, parameters, input_shape=shape, classes=2)


def test_a_stored_model_answers_as_before(tmp_path):
    module = registry.build(SPEC.model, SPEC.parameters, input_shape=(2,), classes=2)
    path = tmp_path / artifact.FILE_NAME
    path.write_bytes(artifact.to_bytes(module, SPEC))
    loaded = load_model(path)
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
        load_model(path)


def test_a_foreign_safetensors_file_is_no_model(tmp_path):
    from safetensors.torch import save

    path = tmp_path / "m"
    path.write_bytes(save({"a": torch.zeros(2)}))
    with pytest.raises(InvalidValue, match="written by Primum"):
        load_model(path)


@pytest.mark.parametrize(
    ("rows", "named"), [([[1.0]], "rows of shape"), ([[np.nan, 1.0]], "must be finite")]
)
def test_wrong_inputs_are_refused(tmp_path, rows, named):
    module = registry.build(SPEC.model, SPEC.parameters, input_shape=(2,), classes=2)
    loaded = artifact.from_bytes(artifact.to_bytes(module, SPEC))
    with pytest.raises(InvalidValue, match=named):
        loaded.predict_proba(np.array(rows))
