"""Is an ensemble of iterates one file, and is what it says measured?"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from primum.domain.errors import InvalidValue  # noqa: E402
from primum_pipelines.models import ensemble  # noqa: E402
from primum_pipelines.models.artifact import ModelSpec, to_bytes  # noqa: E402
from primum_pipelines.models.registry import build  # noqa: E402

SPEC = ModelSpec(
    model="MLP",
    parameters={"hidden": 4, "layers": 1},
    input_shape=(3,),
    classes=("no", "yes"),
    positive="yes",
    feature_names=("a", "b", "c"),
    feature_low=("0", "0", "0"),
    feature_high=("1", "1", "1"),
    study="ward/one",
)


def modules(count):
    torch.manual_seed(0)
    return [build(SPEC.model, SPEC.parameters, input_shape=(3,), classes=2) for _ in range(count)]


def test_members_come_back_in_their_order():
    made = modules(12)
    loaded = ensemble.from_bytes(ensemble.to_bytes([m.state_dict() for m in made], SPEC))
    rows = np.random.default_rng(0).random((5, 3)).astype(np.float32)
    said = ensemble.predict_members(loaded, rows)
    assert said.shape == (12, 5, 2)
    for member, module in zip(said, made, strict=True):
        logits = module(torch.from_numpy(2 * rows - 1))
        assert member == pytest.approx(torch.softmax(logits, 1).detach().numpy(), abs=1e-6)
    assert loaded[0].spec.classes == ("no", "yes")


def test_one_member_is_no_ensemble():
    with pytest.raises(InvalidValue, match="two members"):
        ensemble.to_bytes([modules(1)[0].state_dict()], SPEC)


@pytest.mark.parametrize("data", [b"", b"\x00" * 64])
def test_other_files_are_refused(data):
    with pytest.raises(InvalidValue):
        ensemble.from_bytes(data)


def test_a_model_is_no_ensemble():
    with pytest.raises(InvalidValue, match="ensemble file"):
        ensemble.from_bytes(to_bytes(modules(1)[0], SPEC))
