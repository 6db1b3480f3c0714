"""Fewer bits in the passes: does the guarantee stay, whatever the gradients become?"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from primum.domain.accounting.events import event_from_json
from primum.domain.errors import InvalidValue
from primum_pipelines.kinds.train.kind import TrainKind
from primum_pipelines.kinds.train.step import train
from primum_pipelines.models.registry import build
from primum_pipelines.optimization.algorithm import MechanismParameters, TrainingTask
from primum_pipelines.optimization.clipping import clip
from primum_pipelines.optimization.dpsgd import DPSGD
from primum_pipelines.optimization.gradients.engine import engine_of
from primum_pipelines.optimization.gradients.segments import one_row_each
from primum_pipelines.optimization.settings import ClippingRule, GradientMode, Precision

KIND = TrainKind()
ROWS = 12
NARROW = Precision.BFLOAT16


def row_loss(module, features, labels):
    return nn.functional.cross_entropy(module(features), labels, reduction="none")


def small_cnn():
    torch.manual_seed(0)
    return build("SmallCNN", {}, input_shape=(1, 16, 16), classes=3)


def some_rows():
    torch.manual_seed(1)
    return torch.randn(ROWS, 1, 16, 16), torch.arange(ROWS) % 3


def found_by(precision, *, mode=GradientMode.AUTO, rows=None):
    rows = some_rows() if rows is None else rows
    engine = engine_of(small_cnn(), mode, precision)
    return engine(
        row_loss, rows, weights=torch.ones(len(rows[0])), segments=one_row_each(len(rows[0]))
    )


@pytest.mark.parametrize("mode", [GradientMode.AUTO, GradientMode.GHOST, GradientMode.FORMED])
def test_norms_are_of_the_very_gradients_that_are_summed(mode):
    """The coarse vector is formed, its norm and its clipped sum are taken of it in float32."""
    found = found_by(NARROW, mode=mode)
    formed = found.formed()
    assert {values.dtype for values in formed.values()} == {torch.float32}
    for name, squares in found.squares().items():
        own = formed[name].flatten(1).double().square().sum(dim=1)
        assert torch.allclose(squares.double(), own, rtol=1e-4)
    bound = 0.05
    squares = found.squares()
    clipped = clip(squares, rule=ClippingRule.FLAT, bound=bound, layers=1)
    for unit in range(ROWS):
        left = {name: torch.zeros_like(values[0]) for name, values in formed.items()}
        only = torch.zeros(ROWS).index_fill_(0, torch.tensor([unit]), 1.0)
        found.add_to(left, {name: factor * only for name, factor in clipped.factors.items()})
        norm = torch.cat([part.flatten() for part in left.values()]).norm()
        assert float(norm) <= bound * (1 + 1e-5)


def test_gradients_are_nearly_those_of_float32():
    coarse, fine = found_by(NARROW).formed(), found_by(Precision.FLOAT32).formed()
    assert any(not torch.equal(coarse[name], fine[name]) for name in fine)
    for name, values in fine.items():
        assert float((coarse[name] - values).norm()) < 0.1 * float(values.norm()) + 1e-4


def test_a_units_gradient_does_not_know_who_else_is_there():
    rows = some_rows()
    together = found_by(NARROW, rows=rows).formed()
    alone = found_by(NARROW, rows=tuple(part[:1] for part in rows)).formed()
    for name, values in together.items():
        assert torch.allclose(values[:1], alone[name], rtol=2e-2, atol=1e-4)


def test_one_unit_that_overflows_contributes_nothing_and_the_step_is_taken():
    """No step is left out by what the data holds, as a gradient scaler would."""
    features, labels = some_rows()
    module = small_cnn()
    task = TrainingTask(
        module=module,
        inputs=(features, labels),
        loss=row_loss,
        expected_units=ROWS,
        mechanism=MechanismParameters(1e-9, 1.0, 1, 0.05),
        learning_rate=1.0,
        seed=1,
        precision=NARROW,
    )
    start = {name: value.clone() for name, value in module.state_dict().items()}
    kept = replace(task, inputs=(features[1:], labels[1:]))
    DPSGD().fit(kept)
    without = {name: value.clone() for name, value in module.state_dict().items()}
    module.load_state_dict(start)
    poisoned = features.clone()
    poisoned[0] = 3e38
    report = DPSGD().fit(replace(task, inputs=(poisoned, labels)))
    assert report.executed == ((1e-9, 1.0, 1),)
    for name, value in module.state_dict().items():
        assert torch.allclose(value, without[name], atol=2e-4)
    assert "BFloat16 passes" in report.gradients


def test_weights_and_sums_stay_in_float32():
    module = small_cnn()
    task = TrainingTask(
        module=module,
        inputs=some_rows(),
        loss=row_loss,
        expected_units=ROWS,
        mechanism=MechanismParameters(1.0, 1.0, 2, 0.5),
        learning_rate=0.1,
        precision=NARROW,
    )
    report = DPSGD().fit(task)
    assert {value.dtype for value in module.parameters()} == {torch.float32}
    assert {value.dtype for value in report.update_sums.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"gradients": "Functional"}, r"precision must be Float32 with gradients: Functional"),
        ({"biasAware": "0.1"}, r"biasAware must be absent with precision"),
        ({"precision": "Float16"}, r"precision must be one of Float32, BFloat16"),
    ],
)
def test_what_cannot_be_had_in_fewer_bits_is_refused(study, planning, changes, named):
    job = {**study().job, "precision": "BFloat16", **changes}
    with pytest.raises(InvalidValue, match=named):
        KIND.declare(study(job=job), planning())


def test_fewer_bits_cost_the_same_and_the_receipt_says_so(make_zone, study, planning):
    job = {**study().job, "model": "MLP", "precision": "BFloat16"}
    zone = make_zone(study=study(job=job))
    plain = KIND.declare(study(job={**study().job, "model": "MLP"}), planning())
    assert zone.plan.accesses == plain.accesses
    (receipt,) = train(zone.request("job")).receipts
    assert event_from_json(receipt["event"]) == plain.accesses[0].event
    assert "BFloat16 passes" in receipt["facts"]["gradients"]
