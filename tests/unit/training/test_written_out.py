"""Do written-out passes give what autograd gives, row by row, for one model and for many?"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from primum.domain.errors import InvalidValue  # noqa: E402
from primum_pipelines.models.registry import build  # noqa: E402
from primum_pipelines.optimization import canaries  # noqa: E402
from primum_pipelines.optimization.gradients.checks import require_complete  # noqa: E402
from primum_pipelines.optimization.gradients.engine import engine_of  # noqa: E402
from primum_pipelines.optimization.gradients.segments import one_row_each, sized  # noqa: E402
from primum_pipelines.optimization.gradients.written_out import can_be_written_out  # noqa: E402
from primum_pipelines.optimization.losses import TaskLoss  # noqa: E402
from primum_pipelines.optimization.settings import GradientMode  # noqa: E402
from primum_pipelines.optimization.written.blocks import Block, FirstBlock  # noqa: E402
from primum_pipelines.optimization.written.chain import Chain  # noqa: E402
from primum_pipelines.optimization.written.layers import weighted  # noqa: E402

CLASSES = 3
ROWS = 5
GRAY, COLOR, ODD = (1, 12, 12), (3, 16, 16), (1, 13, 13)


@pytest.fixture(autouse=True)
def _same_weights():
    torch.manual_seed(0)


def convolutional(first=GRAY, *, last=nn.Tanh, stride=1, bias=True):
    """Blocks in both orders, and layers of every other kind."""
    return nn.Sequential(
        nn.Conv2d(first[0], 8, 3, padding=1, bias=bias),
        nn.GroupNorm(4, 8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1, bias=bias, stride=stride),
        nn.GroupNorm(4, 16),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(16, 4, 2),
        last(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, CLASSES),
    )


def registered(name, shape, **parameters):
    return build(name, parameters, input_shape=shape, classes=CLASSES)


MODELS = {
    "SmallCNN": lambda: (registered("SmallCNN", (1, 28, 28), channels=8), (1, 28, 28)),
    "SmallCNN in color": lambda: (registered("SmallCNN", COLOR, channels=8), COLOR),
    "MLP on images": lambda: (registered("MLP", GRAY, hidden=7, layers=2), GRAY),
    "Logistic": lambda: (registered("Logistic", (6,)), (6,)),
    "blocks in both orders": lambda: (convolutional(), GRAY),
    "no bias": lambda: (convolutional(bias=False), GRAY),
    "a rest that a pool leaves out": lambda: (convolutional(ODD), ODD),
    "color, stride": lambda: (convolutional(COLOR, stride=2, last=nn.SELU), COLOR),
}


def moved(module, seed):
    """Weights off their initial values, so that no gradient is zero by chance."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module


def data(shape, rows=ROWS, *, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn((rows, *shape), generator=generator),
        torch.randint(CLASSES, (rows,), generator=generator),
    )


def row_loss(module, inputs, labels):
    return nn.functional.cross_entropy(module(inputs), labels, reduction="none")


def by_autograd(module, inputs, labels):
    """Each row's gradient at each trained parameter, one row after another."""
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    found = [
        torch.autograd.grad(row_loss(module, inputs[at : at + 1], labels[at : at + 1]).sum(),
                            list(trained.values()))
        for at in range(len(inputs))
    ]  # fmt: skip
    return {name: torch.stack([one[place] for one in found]) for place, name in enumerate(trained)}


def written(modules, inputs, labels):
    """All models' rows by one chain; every model has the same rows."""
    chain = Chain(modules[0])
    stack = {
        name: torch.stack([dict(one.named_parameters())[name].detach() for one in modules])
        for name, _ in modules[0].named_parameters()
    }
    forward = chain.forward(stack, chain.entered(inputs).copies(len(modules)))
    gradient = forward.output.softmax(dim=-1)
    gradient[:, range(len(labels)), labels] -= 1
    return forward, chain.back(forward, gradient)


def close(found, expected):
    room = 1e-4 * float(expected.abs().max()) + 1e-6
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=room)


@pytest.mark.parametrize(("models", "rows"), [(1, 9), (2, 9), (2, 3)])
@pytest.mark.parametrize("name", MODELS)
def test_rows_gradients_are_those_of_autograd(name, models, rows):
    made = [moved(MODELS[name]()[0], seed) for seed in range(models)]
    inputs, labels = data(MODELS[name]()[1], rows)
    forward, found = written(made, inputs, labels)
    assert set(found) == {n for n, _ in made[0].named_parameters()}
    for at, module in enumerate(made):
        close(forward.output[at], module(inputs).detach())
        for parameter, expected in by_autograd(module, inputs, labels).items():
            part = found[parameter]
            close(part.formed()[at * rows : (at + 1) * rows], expected)


def test_sums_and_norms_are_of_the_same_numbers():
    module, shape = MODELS["SmallCNN"]()
    inputs, labels = data(shape)
    factor = torch.tensor([[0.5, 0.0, 2.0, 1.0, 0.25]])
    for part in written([moved(module, 1)], inputs, labels)[1].values():
        rows = part.formed()
        close(part.squares(), rows.flatten(1).square().sum(dim=1))
        close(weighted(part, factor)[0], torch.einsum("r,r...->...", factor[0], rows))


def test_blocks_are_taken_together():
    module, shape = MODELS["SmallCNN"]()
    forward, _ = written([module], *data(shape))
    assert [type(one) for _, _, one in forward.passes[:2]] == [FirstBlock, Block]


def test_a_falling_normalization_is_taken_layer_by_layer():
    """The largest before a falling line is the smallest after it."""
    module, shape = MODELS["SmallCNN"]()
    module[5].weight.data[3] = -0.7
    inputs, labels = data(shape)
    forward, found = written([module], inputs, labels)
    assert not any(isinstance(one, Block) for _, _, one in forward.passes)
    for name, expected in by_autograd(module, inputs, labels).items():
        close(found[name].formed(), expected)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_of_equal_values_the_first_is_the_largest(value):
    """Empty images: every window is the same, and PyTorch's pool takes the first of them."""
    module, shape = MODELS["SmallCNN"]()
    moved(module, 5)
    inputs, labels = torch.full((ROWS, *shape), value), torch.arange(ROWS) % CLASSES
    inputs[0, 0, 3:9, 4:8] = 0.3
    as_near_as_float32_comes(module, inputs, labels)


def test_bright_images_lose_no_digits():
    """The statistics of a first block are of what is left after its mean is taken off."""
    module, shape = MODELS["SmallCNN"]()
    inputs, labels = data(shape)
    as_near_as_float32_comes(moved(module, 2), inputs * 0.05 + 40.0, labels)


def as_near_as_float32_comes(module, inputs, labels):
    """Not farther from float64 than ten times what autograd in float32 is."""
    found, single = written([module], inputs, labels)[1], by_autograd(module, inputs, labels)
    double = by_autograd(module.double(), inputs.double(), labels)
    most = max(float(part.abs().max()) for part in double.values())
    for name, expected in double.items():
        room = 10 * float((single[name] - expected).abs().max()) + 1e-4 * most
        assert float((found[name].formed() - expected).abs().max()) <= room, name


def test_only_what_is_trained_is_wanted():
    module, shape = MODELS["SmallCNN"]()
    for name, parameter in module.named_parameters():
        parameter.requires_grad = name in {"5.bias", "12.weight"}
    found = written([module], *data(shape))[1]
    assert set(found) == {"5.bias", "12.weight"}


@pytest.mark.parametrize("name", MODELS)
def test_the_engine_gives_units_of_several_rows(name):
    module, shape = MODELS[name]()
    moved(module, 1)
    sizes = torch.tensor([1, 3, 2])
    inputs, labels = data(shape, rows=6)
    weights = (1 / sizes.to(torch.float32)).repeat_interleave(sizes)
    found = engine_of(module, GradientMode.AUTO)(
        row_loss, (inputs, labels), weights=weights, segments=sized(sizes)
    )
    rows = by_autograd(module, inputs, labels)
    for parameter, part in found.parts.items():
        units = (rows[parameter].flatten(1) * weights[:, None]).split(sizes.tolist())
        close(part.formed().flatten(1), torch.stack([unit.sum(dim=0) for unit in units]))


def used(module, losses):
    engine = engine_of(module, GradientMode.AUTO)
    inputs, labels = data(GRAY)
    found = engine(losses, (inputs, labels), weights=torch.ones(ROWS), segments=one_row_each(ROWS))
    assert "forward" not in vars(module)
    return engine.name, found


def test_the_model_answers_as_before_when_its_losses_are_done():
    module = MODELS["MLP on images"]()[0]
    name, _ = used(module, row_loss)
    assert name == "book-keeping (Auto, plain layers written out)"
    assert module(data(GRAY)[0]).grad_fn is not None


def test_losses_that_ask_otherwise_are_left_to_the_other_engine():
    """Twice, or for other inputs: the gradient has to be right all the same."""

    def twice(module, inputs, labels):
        return row_loss(module, inputs, labels) + row_loss(module, inputs.flip(-1), labels)

    module = moved(MODELS["MLP on images"]()[0], 4)
    name, found = used(module, twice)
    inputs, labels = data(GRAY)
    first, second = (
        by_autograd(module, inputs, labels),
        by_autograd(module, inputs.flip(-1), labels),
    )
    assert name == "book-keeping (Auto)"
    for parameter, part in found.parts.items():
        close(part.formed(), first[parameter] + second[parameter])


class Before(nn.Module):
    """A trained layer feeds the sequence: what comes back through it is wanted too."""

    def __init__(self, first):
        super().__init__()
        self.first, self.rest = first, nn.Sequential(nn.ReLU(), nn.Linear(5, CLASSES))

    def forward(self, inputs):
        return self.rest(self.first(inputs.flatten(1)))


def both_engines(module, losses, rows):
    weights, segments = torch.ones(len(rows[0])), one_row_each(len(rows[0]))
    engines = [engine_of(module, mode) for mode in (GradientMode.AUTO, GradientMode.FORMED)]
    found = [one(losses, rows, weights=weights, segments=segments) for one in engines]
    return engines[0].name, *(one.formed() for one in found)


def test_a_model_beside_canaries_is_written_out_too():
    """As every Study with a planted audit is trained: the head by its rule, the model written."""
    sealed = canaries.SealedCoins((True, False, True), salt="")
    module, shape = MODELS["SmallCNN"]()
    together = canaries.WithCanaries(moved(module, 1), count=3)
    rows = canaries.add_rows(*data(shape), sealed)
    name, found, expected = both_engines(together, canaries.MarkedLoss(TaskLoss()), rows)
    assert "plain layers written out" in name
    assert set(found) == set(expected) == {n for n, _ in together.named_parameters()}
    for parameter, part in expected.items():
        close(found[parameter], part)


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_a_sequence_behind_a_trained_layer_is_left_to_its_rules(trained):
    first = nn.Linear(GRAY[1] * GRAY[2], 5).requires_grad_(trained)
    name, found, expected = both_engines(Before(first), row_loss, data(GRAY))
    assert ("written out" in name) is not trained
    assert set(found) == set(expected)
    for parameter, part in expected.items():
        close(found[parameter], part)


def test_a_parameter_in_the_loss_is_refused():
    def penalized(module, inputs, labels):
        return row_loss(module, inputs, labels) + module[1].weight.square().sum()

    module, (inputs, labels) = MODELS["MLP on images"]()[0], data(GRAY)
    with pytest.raises(InvalidValue, match="must be used by its own layer alone"):
        require_complete(
            module,
            penalized,
            (inputs, labels),
            weights=torch.ones(ROWS),
            segments=one_row_each(ROWS),
            engine=engine_of(module, GradientMode.AUTO),
            named=dict(module.named_parameters()),
        )


def test_a_loss_that_fails_leaves_the_model_as_it_was():
    def failing(module, inputs, _labels):
        module(inputs)
        raise InvalidValue("loss", "must be defined", "none")

    module = MODELS["MLP on images"]()[0]
    with pytest.raises(InvalidValue):
        used(module, failing)
    assert "forward" not in vars(module)


class Doubled(nn.Linear):
    """A layer of our own that only looks like a known one."""

    def forward(self, inputs):
        return 2 * super().forward(inputs)


def shared():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(Doubled(4, 2)),
        shared(),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)),
        nn.Sequential(nn.Linear(4, 2)).double(),
        nn.Sequential(nn.Flatten(2), nn.Linear(4, 2)),
    ],
    ids=["subclass", "shared", "linear over images", "dropout", "double", "flatten"],
)
def test_anything_else_is_left_to_the_other_engine(module):
    assert not can_be_written_out(module)
