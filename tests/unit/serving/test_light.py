"""Does numpy alone give what torch gives, for exactly the architectures it speaks for?"""

from __future__ import annotations

import numpy as np
import pytest

from primum.domain.errors import InvalidValue

torch = pytest.importorskip("torch")

from primum_pipelines.models import artifact, light  # noqa: E402
from primum_pipelines.models.networks import MLP, Logistic, SmallCNN  # noqa: E402


def stored(model, parameters, shape, *, classes=3, name=None, scale=1.0):
    torch.manual_seed(1)
    module = model.build(model.check(parameters), input_shape=shape, classes=classes)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.randn_like(value) * scale)
    count = int(np.prod(shape)) if len(shape) == 1 else 0
    spec = artifact.ModelSpec(
        model=name or model.name,
        parameters=model.check(parameters),
        input_shape=shape,
        classes=tuple(f"class {index}" for index in range(classes)),
        positive="class 0",
        feature_names=tuple(f"f{index}" for index in range(count)),
        feature_low=("-5",) * count,
        feature_high=("5",) * count,
        study="oncology/malignancy",
    )
    return artifact.to_bytes(module, spec)


@pytest.mark.parametrize(
    ("model", "parameters", "shape"),
    [
        (Logistic(), {}, (30,)),
        (Logistic(), {}, (1, 8, 8)),
        (MLP(), {}, (30,)),
        (MLP(), {"hidden": 7, "layers": 3}, (30,)),
    ],
)
def test_the_same_answers(model, parameters, shape):
    data = stored(model, parameters, shape)
    quick, slow = light.light_model(data), artifact.from_bytes(data)
    rows = np.random.default_rng(0).uniform(-6, 6, (50, *shape))
    assert quick is not None
    assert quick.spec == slow.spec
    np.testing.assert_allclose(quick.predict_proba(rows), slow.predict_proba(rows), atol=2e-5)


def test_large_logits_do_not_overflow():
    data = stored(Logistic(), {}, (30,), scale=1e3)
    found = light.light_model(data).predict_proba(np.full((1, 30), 5.0))
    assert np.isfinite(found).all()
    assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize("rows", [np.zeros((1, 29)), np.full((1, 30), np.nan)])
def test_bad_rows_are_refused(rows):
    with pytest.raises(InvalidValue, match="inputs"):
        light.light_model(stored(Logistic(), {}, (30,))).predict_proba(rows)


def test_other_architectures_are_left_to_torch():
    assert light.light_model(stored(SmallCNN(), {}, (1, 8, 8))) is None
    assert light.light_model(stored(MLP(), {}, (30,), name="Logistic")) is None


@pytest.mark.parametrize("data", [b"", b"\x00" * 100, b"not a model"])
def test_what_is_no_model_is_refused(data):
    with pytest.raises(InvalidValue, match="model file"):
        light.light_model(data)


def test_a_cut_file_is_refused():
    with pytest.raises(InvalidValue, match="model file"):
        light.light_model(stored(Logistic(), {}, (30,))[:-4])
