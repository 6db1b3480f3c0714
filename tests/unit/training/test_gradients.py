"""Does every engine give each unit's gradient exactly, for every layer, and refuse what it cannot?

The reference differentiates unit by unit with autograd; Opacus' per-example gradients are a second,
independent one.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from primum.domain.errors import InvalidValue
from primum_pipelines.models.layers import Folded, Positions
from primum_pipelines.models.registry import build as build_model
from primum_pipelines.optimization.clipping import clip
from primum_pipelines.optimization.gradients.checks import require_apart, require_complete
from primum_pipelines.optimization.gradients.contributions import Lookup, Product
from primum_pipelines.optimization.gradients.engine import engine_of
from primum_pipelines.optimization.gradients.segments import one_row_each, sized
from primum_pipelines.optimization.settings import ClippingRule, GradientMode

ROWS = 6
CLASSES = 3


def row_loss(module, inputs, labels):
    return nn.functional.cross_entropy(module(inputs), labels, reduction="none")


def head(numbers):
    return nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(numbers, CLASSES))


class Tied(nn.Module):
    """One layer used twice, one never, an embedding with a padding row, a frozen bias."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 6, padding_idx=0)
        self.places = Positions(5, 6)
        self.twice = nn.Linear(6, 6)
        self.normal = nn.LayerNorm(6)
        self.never = nn.Linear(2, 2)
        self.out = nn.Linear(6, CLASSES)
        self.out.bias.requires_grad_(False)

    def forward(self, rows):
        hidden = self.places(self.table(rows))
        hidden = self.normal(hidden + self.twice(torch.tanh(self.twice(hidden))))
        return self.out(hidden.mean(dim=1))


class Slices(nn.Module):
    """Every slice of a row through the same small network."""

    def __init__(self):
        super().__init__()
        self.body = Folded(
            nn.Sequential(
                nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(),
                nn.Linear(64, 5),
            )
        )  # fmt: skip
        self.out = nn.Linear(5, CLASSES)

    def forward(self, rows):
        return self.out(self.body(rows).mean(dim=1))


class Own(nn.Module):
    """A parameter of its own, used twice within its own forward: no rule knows it."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(4, 7))
        self.out = nn.Linear(7, CLASSES)

    def forward(self, rows):
        return self.out(torch.tanh(rows @ self.matrix) * self.matrix.sum())


def image(*shape):
    return lambda: torch.randn(ROWS, *shape)


MODELS = {
    "linear": (lambda: nn.Sequential(nn.Linear(9, 5), head(5)), image(9)),
    "sequence": (lambda: nn.Sequential(nn.Linear(4, 5, bias=False), head(15)), image(3, 4)),
    "conv1d": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3, stride=2, dilation=2, groups=2, padding=1), head(32)
        ),
        image(2, 18),
    ),
    "conv2d": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, (3, 5), padding="same"), nn.Tanh(),
            nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", stride=2), nn.Tanh(),
            nn.Conv2d(6, 5, 1, bias=False), nn.InstanceNorm2d(5, affine=True), head(80),
        ),
        image(2, 8, 8),
    ),
    "conv3d": (
        lambda: nn.Sequential(
            nn.Conv3d(1, 4, 3, padding=1, stride=2), nn.LayerNorm([4, 3, 3, 3]), nn.Tanh(),
            nn.ConvTranspose3d(4, 2, 3, stride=2, output_padding=1), head(1024),
        ),
        image(1, 6, 6, 6),
    ),
    "transposed": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(2, 4, 3, stride=2, output_padding=1, groups=2, dilation=2),
            nn.GroupNorm(2, 4), head(784),
        ),
        image(2, 5, 5),
    ),
    "tied": (Tied, lambda: torch.randint(0, 7, (ROWS, 5))),
    "slices": (Slices, image(4, 1, 4, 4)),
    "own": (Own, image(4)),
}  # fmt: skip
SEGMENTS = {
    "singles": one_row_each(ROWS),
    "pairs": sized(torch.tensor([2, 2, 2])),
    "ragged": sized(torch.tensor([1, 3, 2])),
}


def reference(module, rows, labels, *, weights, segments):
    """Unit by unit: slow and obvious."""
    owners = segments.spread(torch.arange(segments.units))
    losses = row_loss(module, rows, labels) * weights
    named = {n: p for n, p in module.named_parameters() if p.requires_grad}
    found = {name: [] for name in named}
    for unit in range(segments.units):
        parts = torch.autograd.grad(
            losses[owners == unit].sum(), list(named.values()), retain_graph=True, allow_unused=True
        )
        for (name, parameter), part in zip(named.items(), parts, strict=True):
            found[name].append(torch.zeros_like(parameter) if part is None else part)
    return {name: torch.stack(parts) for name, parts in found.items()}


def near(found, expected, *, of):
    """Equal but for float32 rounding, on the scale of ``of``."""
    return float((found - expected).abs().max()) <= 2e-4 * float(of.abs().max()) + 1e-12


def assert_exact(module, rows, *, mode, segments):
    labels, weights = torch.arange(ROWS) % CLASSES, torch.rand(ROWS) + 0.5
    expected = reference(module, rows, labels, weights=weights, segments=segments)
    found = engine_of(module, mode)(row_loss, (rows, labels), weights=weights, segments=segments)
    factors = torch.rand(segments.units)
    squares, formed = found.squares(), found.formed()
    sums = {name: torch.ones_like(expected[name][0]) for name in squares}
    found.add_to(sums, dict.fromkeys(squares, factors))
    scale = torch.cat([part.flatten() for part in expected.values()])
    for name, part in expected.items():
        if name not in squares:
            assert not part.any()
            continue
        assert near(formed[name], part, of=scale), name
        lengths = part.flatten(1).square().sum(dim=1)
        assert near(squares[name], lengths, of=scale.square().sum()), name
        total = 1 + torch.einsum("u,u...->...", factors, part)
        assert near(sums[name], total, of=scale), name


@pytest.mark.parametrize("mode", GradientMode)
@pytest.mark.parametrize("segments", SEGMENTS.values(), ids=SEGMENTS)
@pytest.mark.parametrize("name", MODELS)
def test_every_mode_gives_each_units_gradient(name, segments, mode):
    torch.manual_seed(3)
    build, rows = MODELS[name]
    assert_exact(build(), rows(), mode=mode, segments=segments)


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("SmallCNN", (1, 16, 16), {}),
        ("TanhCNN", (1, 20, 20), {}),
        ("ResNet9", (1, 16, 16), {}),
        ("ResNet18", (1, 16, 16), {}),
        ("SmoothNet", (1, 8, 8), {"width": 2, "depth": 2}),
        ("SmallViT", (1, 16, 16), {"width": 32}),
        ("SliceAttention", (1, 8, 8, 8), {}),
        ("UNet", (1, 8, 8), {"width": 8}),
        ("ComplexCNN", (2, 16, 16), {}),
    ],
)
def test_every_model_has_exact_gradients(name, shape, parameters):
    """Norms and a weighted sum of three units of one, two and one rows, against autograd."""
    torch.manual_seed(8)
    module = build_model(name, parameters, input_shape=shape, classes=CLASSES)
    segments, weights = sized(torch.tensor([1, 2, 1])), torch.ones(4)
    rows, labels = torch.randn(4, *shape), torch.arange(4) % CLASSES

    def loss(model, inputs, labels):
        logits = model(inputs).flatten(2) if name == "UNet" else model(inputs)
        logits = logits.mean(dim=2) if name == "UNet" else logits
        return nn.functional.cross_entropy(logits, labels, reduction="none")

    engine = engine_of(module, GradientMode.AUTO)
    assert "row by row" not in engine.name
    found = engine(loss, (rows, labels), weights=weights, segments=segments)
    squares = torch.stack(list(found.squares().values())).sum(dim=0)
    sums = {n: torch.zeros_like(p) for n, p in module.named_parameters()}
    found.add_to(sums, dict.fromkeys(found.parts, torch.tensor([0.5, 1.0, 2.0])))
    expected = {n: torch.zeros_like(p) for n, p in module.named_parameters()}
    for unit, (part, factor) in enumerate([([0], 0.5), ([1, 2], 1.0), ([3], 2.0)]):
        losses = loss(module, rows[part], labels[part]).sum()
        own = torch.autograd.grad(losses, list(module.parameters()))
        norm = torch.stack([gradient.square().sum() for gradient in own]).sum()
        assert float(squares[unit]) == pytest.approx(float(norm), rel=1e-3)
        for total, gradient in zip(expected.values(), own, strict=True):
            total.add_(factor * gradient)
    largest = max(float(total.abs().max()) for total in expected.values())
    for parameter, total in expected.items():
        assert float((sums[parameter] - total).abs().max()) < 1e-3 * largest, parameter


@pytest.mark.parametrize("name", ["linear", "sequence", "conv1d", "conv3d"])
def test_opacus_finds_the_same(name):
    grad_sample = pytest.importorskip("opacus.grad_sample")
    torch.manual_seed(4)
    build, rows = MODELS[name]
    module, inputs, labels = build(), rows(), torch.arange(ROWS) % CLASSES
    found = engine_of(module, GradientMode.AUTO)(
        row_loss, (inputs, labels), weights=torch.ones(ROWS), segments=one_row_each(ROWS)
    ).formed()
    wrapped = grad_sample.GradSampleModule(module, loss_reduction="sum", strict=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        row_loss(wrapped, inputs, labels).sum().backward()
    for parameter_name, parameter in module.named_parameters():
        theirs = parameter.grad_sample
        assert near(found[parameter_name], theirs, of=theirs), parameter_name


@settings(max_examples=30, deadline=None)
@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.integers(1, 2),
    mode=st.sampled_from([GradientMode.AUTO, GradientMode.GHOST, GradientMode.FORMED]),
    segments=st.sampled_from(list(SEGMENTS.values())),
)
def test_every_convolution(kernel, stride, padding, dilation, channels, groups, mode, segments):
    torch.manual_seed(5)
    layer = nn.Conv2d(
        channels[0] * groups, channels[1] * groups, kernel,
        stride=stride, padding=padding, dilation=dilation, groups=groups,
    )  # fmt: skip
    rows = torch.randn(ROWS, channels[0] * groups, 8, 9)
    numbers = layer(rows).flatten(1).shape[1]
    assert_exact(nn.Sequential(layer, head(numbers)), rows, mode=mode, segments=segments)


@settings(max_examples=50, deadline=None)
@given(
    positions=st.integers(1, 60),
    closeness=st.floats(0.0, 7.0),
    seed=st.integers(0, 1000),
    table=st.booleans(),
)
def test_a_norm_that_was_not_formed_is_never_too_small(positions, closeness, seed, table):
    """Positions that nearly cancel: rounding must not let anything longer than the bound pass."""
    torch.manual_seed(seed)
    half = torch.randn(ROWS, positions, 40)
    left = torch.cat([half, -half * (1 + 10**-closeness)], dim=1)
    if table:
        numbers = torch.arange(positions).repeat(ROWS, 2)
        part = Lookup(numbers, left, torch.Size([positions, 40]))
        exact = Lookup(numbers, left.double(), part.shape)
    else:
        right = torch.randn(ROWS, positions, 30).repeat(1, 2, 1)
        part = Product(left, right, torch.Size([40, 30]))
        exact = Product(left.double(), right.double(), part.shape)
    true = exact.formed().flatten(1).square().sum(dim=1)
    assert bool((part.squares().double() >= true * (1 - 1e-5)).all())


def test_frozen_layers_get_nothing():
    module = nn.Sequential(nn.Linear(9, 5), head(5))
    module[0].requires_grad_(requires_grad=False)
    found = engine_of(module, GradientMode.AUTO)(
        row_loss,
        (torch.randn(ROWS, 9), torch.zeros(ROWS, dtype=torch.long)),
        weights=torch.ones(ROWS),
        segments=one_row_each(ROWS),
    )
    assert set(found.parts) == {"1.2.weight", "1.2.bias"}


class Elsewhere(nn.Module):
    """Uses a layer's weight without calling the layer, beside or instead of calling it."""

    def __init__(self, *, calls):
        super().__init__()
        self.layer = nn.Linear(4, CLASSES)
        self.calls = calls

    def forward(self, rows):
        past = nn.functional.linear(rows, self.layer.weight)
        return past + self.layer(rows) if self.calls else past


class InPlace(nn.Module):
    """Changes a layer's input after the layer has seen it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, CLASSES, bias=False)

    def forward(self, rows):
        rows = rows * 1.0
        found = self.layer(rows)
        rows += 1
        return found + 0 * rows.sum()


class Shuffled(nn.Module):
    """Folds slices by itself: nobody can tell which row they belong to."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, CLASSES)

    def forward(self, rows):
        return self.layer(rows.view(-1, 2)).view(len(rows), 2, -1).sum(dim=1)


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (Elsewhere(calls=False), "layer.weight must be used by its own layer alone"),
        (Shuffled(), "layer layer must keep 6 rows in its first axis"),
    ],
)
def test_a_model_that_no_rule_can_see_through_is_refused(module, named):
    with pytest.raises(InvalidValue, match=named):
        engine_of(module, GradientMode.AUTO)(
            row_loss,
            (torch.randn(ROWS, 4), torch.zeros(ROWS, dtype=torch.long)),
            weights=torch.ones(ROWS),
            segments=one_row_each(ROWS),
        )


def test_an_input_that_was_changed_in_place_is_refused():
    """Autograd finds it, or the engine does; either way there is no gradient."""
    with pytest.raises((InvalidValue, RuntimeError), match=r"in place|inplace"):
        engine_of(InPlace(), GradientMode.AUTO)(
            row_loss,
            (torch.randn(ROWS, 4), torch.zeros(ROWS, dtype=torch.long)),
            weights=torch.ones(ROWS),
            segments=one_row_each(ROWS),
        )


def test_a_use_beside_the_layer_is_found_before_training():
    module, weights = Elsewhere(calls=True), torch.ones(ROWS)
    rows = (torch.randn(ROWS, 4), torch.zeros(ROWS, dtype=torch.long))
    with pytest.raises(InvalidValue, match=r"layer.weight must be used by its own layer alone"):
        require_complete(
            module, row_loss, rows, weights=weights, segments=one_row_each(ROWS),
            engine=engine_of(module, GradientMode.AUTO), named=dict(module.named_parameters()),
        )  # fmt: skip


def test_a_loss_that_mixes_units_is_refused():
    def centered(module, inputs, labels):
        losses = row_loss(module, inputs, labels)
        return losses - losses.mean()

    module, rows = nn.Linear(4, CLASSES), (torch.randn(ROWS, 4), torch.arange(ROWS) % CLASSES)
    require_apart(module, row_loss, rows, segments=one_row_each(ROWS))
    with pytest.raises(InvalidValue, match="must treat every unit by itself"):
        require_apart(module, centered, rows, segments=one_row_each(ROWS))


def test_a_loss_over_the_whole_batch_is_refused():
    def whole(module, inputs, labels):
        return row_loss(module, inputs, labels).mean()

    module, rows = nn.Linear(4, CLASSES), (torch.randn(ROWS, 4), torch.arange(ROWS) % CLASSES)
    with pytest.raises(InvalidValue, match="one value per row"):
        require_apart(module, whole, rows, segments=one_row_each(ROWS))


@pytest.mark.parametrize("rule", ClippingRule)
def test_no_rule_lets_more_than_the_bound_pass(rule):
    torch.manual_seed(6)
    squares = {
        "a.weight": torch.rand(50) * 10,
        "a.bias": torch.rand(50),
        "b.weight": torch.rand(50),
    }
    squares["b.weight"][:3] = torch.tensor([0.0, float("nan"), float("inf")])
    clipped = clip(squares, rule=rule, bound=0.7, layers=2)
    left = sum(clipped.factors[name].square() * values for name, values in squares.items())
    good = clipped.finite
    assert good.tolist() == [True, False, False] + [True] * 47
    assert float(left[good].max()) <= 0.7**2 * (1 + 1e-5)
    assert torch.allclose(left[good].sqrt() / 0.7, clipped.lengths[good], atol=1e-5)
    assert not any(values[~good].any() for values in clipped.factors.values())


def test_the_rules_are_those_of_their_papers():
    squares = {"a.weight": torch.tensor([9.0, 0.01]), "b.weight": torch.tensor([16.0, 0.0])}
    flat = clip(squares, rule=ClippingRule.FLAT, bound=1.0, layers=2).factors["a.weight"]
    assert flat.tolist() == pytest.approx([0.2, 1.0])
    apart = clip(squares, rule=ClippingRule.PER_LAYER, bound=1.0, layers=2).factors
    assert apart["a.weight"].tolist() == pytest.approx([2**-0.5 / 3, 1.0])
    assert apart["b.weight"].tolist() == pytest.approx([2**-0.5 / 4, 1.0])
    smooth = clip(squares, rule=ClippingRule.AUTOMATIC, bound=1.0, layers=2).factors["a.weight"]
    assert smooth.tolist() == pytest.approx([1 / 5.01, 1 / 0.11])
