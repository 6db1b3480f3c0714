"""Do the attacks compute what they say, on cases whose answer is known?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from primum.domain.errors import InvalidValue  # noqa: E402
from primum_pipelines.attacks import figures, gradient_inversion, reconstruction  # noqa: E402
from primum_pipelines.attacks.gradient_inversion import InversionEffort  # noqa: E402
from primum_pipelines.attacks.local_updates import LocalSteps, caused_by  # noqa: E402
from primum_pipelines.attacks.pool import pool_of  # noqa: E402
from primum_pipelines.attacks.shadows import ClippedSums, complementary_halves  # noqa: E402
from primum_pipelines.datasets.table import UnitTable  # noqa: E402
from primum_pipelines.models.artifact import ModelSpec  # noqa: E402
from primum_pipelines.models.networks import MLP, Logistic, SmallCNN  # noqa: E402

MODELS = [
    (Logistic(), {}, (6,)),
    (MLP(), {"hidden": 5, "layers": 2}, (6,)),
    (SmallCNN(), {"channels": 8}, (1, 12, 12)),
]


def clipped_sum(module, parameters, inputs, labels, bound):
    """The slow definition: one record at a time."""
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for row, label in zip(inputs, labels, strict=True):
        current = {name: value.clone().requires_grad_() for name, value in parameters.items()}
        logits = torch.func.functional_call(module, current, (row[None],))
        loss = torch.nn.functional.cross_entropy(logits, label[None])
        gradients = torch.autograd.grad(loss, list(current.values()))
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        for name, gradient in zip(current, gradients, strict=True):
            total[name] += gradient * min(1.0, bound / float(norm))
    return total


@pytest.mark.parametrize(("model", "parameters", "shape"), MODELS)
def test_stacked_clipped_sums_equal_those_of_one_record_at_a_time(model, parameters, shape) -> None:
    torch.manual_seed(0)
    modules = [model.build(parameters, input_shape=shape, classes=3) for _ in range(3)]
    for module in modules:
        for value in module.parameters():
            torch.nn.init.normal_(value, std=0.3)
    stack = {
        name: torch.stack([dict(m.named_parameters())[name].detach() for m in modules])
        for name, _ in modules[0].named_parameters()
    }
    records, labels = torch.randn(12, *shape), torch.randint(0, 3, (3, 4))
    rows = torch.randperm(12).view(3, 4)
    inputs = records[rows]
    taken = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    ghost = ClippedSums(modules[0])
    sums = ghost(stack, ghost.entered(records).only(rows), labels, taken=taken, bound=0.4)
    for index in range(3):
        own = {name: value[index] for name, value in stack.items()}
        rows = taken[index]
        expected = clipped_sum(modules[0], own, inputs[index][rows], labels[index][rows], 0.4)
        for name, value in expected.items():
            assert torch.allclose(sums[name][index], value, atol=1e-6)


def test_a_layer_that_stacking_does_not_know_is_refused() -> None:
    with pytest.raises(InvalidValue, match="LSTM"):
        ClippedSums(torch.nn.Sequential(torch.nn.LSTM(3, 3)))


def test_every_record_is_in_exactly_half_of_the_shadows() -> None:
    halves = complementary_halves(6, 11, generator=torch.Generator().manual_seed(0))
    assert halves.sum(dim=0).tolist() == [3] * 11
    assert not (halves[0] & halves[1]).any()
    with pytest.raises(InvalidValue):
        complementary_halves(5, 11, generator=torch.Generator())


def test_ncc_psnr_and_auc_on_known_cases() -> None:
    rows = np.array([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    assert figures.ncc(2 * rows + 5, rows).tolist() == pytest.approx([1.0, 0.0])
    assert figures.psnr(rows + 0.1, rows, data_range=1.0) == pytest.approx([20.0, 20.0])
    assert figures.auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0
    assert figures.auc(np.array([1.0]), np.array([1.0])) == 0.5
    assert figures.threshold_at(np.arange(10.0), 0.1) == 8.0


def test_inversion_recovers_a_record_from_its_exact_gradient_and_not_from_noise() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(20, 2))
    records = torch.rand(3, 20) * 2 - 1
    labels = torch.tensor([0, 1, 1])
    caused = caused_by(module, LocalSteps(1.0))
    exact = caused(records, labels).detach()
    effort = InversionEffort(iterations=300, restarts=2)
    truth = records.double().numpy()

    def inverted(observed):
        found = gradient_inversion.invert(
            caused,
            observed,
            labels,
            input_shape=(20,),
            effort=effort,
            generator=torch.Generator().manual_seed(1),
        )
        return figures.ncc(found.double().numpy(), truth)

    assert (inverted(exact) > 0.99).all()
    assert (abs(inverted(exact + 10 * torch.randn(exact.shape))) < 0.8).all()


def test_clipping_bounds_every_observed_gradient() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(20, 2))
    found = caused_by(module, LocalSteps(0.5))(
        100 * torch.randn(5, 20), torch.zeros(5, dtype=torch.int64)
    )
    assert (found.norm(dim=1) <= 0.5 + 1e-6).all()


def test_the_candidate_whose_gradient_was_seen_is_the_most_likely() -> None:
    candidates = torch.eye(4)
    scores = reconstruction.log_likelihoods(candidates[2] * 0.9, candidates)
    assert int(scores.argmax()) == 2


def test_a_tie_names_nobody() -> None:
    assert reconstruction.first_is_best(np.array([2.0, 1.0]))
    assert not reconstruction.first_is_best(np.array([1.0, 1.0]))
    assert not reconstruction.first_is_best(np.array([1.0, 2.0]))


def table_of(features, units, train):
    return UnitTable(
        features=np.array(features, np.float32)[:, None],
        labels=np.arange(len(features)) % 2,
        units=np.array(units),
        train=np.array(train),
        classes=("no", "yes"),
    )


SPEC = ModelSpec("Logistic", {}, (1,), ("no", "yes"), "yes", ("x",), ("0",), ("1",), "ns/s")


def test_the_pool_holds_each_unit_once_and_no_copies() -> None:
    """Unit b has two rows. One of ten held-out units copies unit a, which was trained on."""
    others = [0.5 + n / 100 for n in range(9)]
    table = table_of(
        [0.1, *others, 0.1, 0.2, 0.3],
        ["c", *(f"o{n}" for n in range(9)), "a", "b", "b"],
        [False] * 10 + [True] * 3,
    )
    pool = pool_of(table, SPEC)
    assert len(pool.labels) == 11
    assert pool.duplicates == 2
    # The copy that stays is the member: it was trained on, whatever it is called.
    assert pool.members.tolist() == [False] * 9 + [True, True]


def test_members_and_others_that_overlap_are_refused() -> None:
    with pytest.raises(InvalidValue, match="every unit on one side"):
        pool_of(table_of([0.1, 0.2, 0.3], ["a", "b", "a"], [True, False, False]), SPEC)
    with pytest.raises(InvalidValue, match="not trained on"):
        pool_of(table_of([0.1, 0.2, 0.1], ["a", "b", "c"], [True, False, False]), SPEC)
    with pytest.raises(InvalidValue, match="same shape of records"):
        pool_of(table_of([0.1, 0.2], ["a", "b"], [True, False]), replace(SPEC, input_shape=(2,)))
