"""Do reconstruction attacks reach what their papers say, and is it gone under noise?"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from primum.domain.errors import InvalidValue  # noqa: E402
from primum_pipelines.attacks import figures, imprint, model_inversion  # noqa: E402
from primum_pipelines.attacks.linear_prior import LinearPrior  # noqa: E402


def pictures(count, seed):
    """Smooth 28 x 28 pictures whose brightness varies, flat, in [-1, 1]."""
    generator = np.random.default_rng(seed)
    grid = np.linspace(-1, 1, 28)
    across, down = np.meshgrid(grid, grid)
    centers = generator.uniform(-0.5, 0.5, (count, 2, 1, 1))
    width = generator.uniform(0.1, 0.6, (count, 1, 1))
    far = (across - centers[:, 0]) ** 2 + (down - centers[:, 1]) ** 2
    return (2 * np.exp(-far / width) - 1).reshape(count, -1)


def share_recovered(*, noise=0.0, clip=float("inf"), seed=0):
    batch = pictures(64, seed)
    layer = imprint.Imprint(imprint.quantiles(pictures(500, seed + 1), 128), dimension=784)
    weights, biases = imprint.gradient_sum(
        layer,
        torch.from_numpy(batch),
        max_grad_norm=clip,
        noise_multiplier=noise,
        generator=torch.Generator().manual_seed(seed),
    )
    found = imprint.recover(weights, biases)
    best = [
        figures.psnr(found, np.repeat(row[None], len(found), axis=0), data_range=2.0).max()
        for row in batch
    ]
    return float((np.array(best) > 30).mean())


def test_an_imprint_recovers_the_share_that_is_alone_in_a_bin():
    """The formula holds for records that fall into bins evenly; these fall nearly so."""
    expected = imprint.expected_share(records=64, bins=128)
    assert expected == pytest.approx(0.61, abs=0.01)
    found = np.mean([share_recovered(seed=seed) for seed in range(4)])
    assert found == pytest.approx(expected, abs=0.12)


def test_an_imprint_recovers_nothing_from_clipped_noisy_gradients():
    assert share_recovered(noise=1.0, clip=1.0) == 0


def pictures_table():
    """Sixty training pictures and two hundred held-out ones, from which the bins come."""
    from primum_pipelines.datasets.table import UnitTable

    rows = (pictures(260, 7).reshape(-1, 1, 28, 28).astype(np.float32) + 1) / 2
    return UnitTable(
        features=rows,
        labels=np.arange(260) % 2,
        units=np.array([str(n) for n in range(260)]),
        train=np.arange(260) < 60,
        classes=("a", "b"),
    )


@pytest.mark.parametrize("steps", [1, 4])
def test_an_imprint_reads_records_off_an_update_of_several_local_steps(steps):
    """The same sums over and over: noise left out, many are read; with it, none."""
    from primum_pipelines.attacks.imprinting import ImprintEffort, imprint_attack
    from primum_pipelines.audits.subject import PlannedMechanism
    from primum_pipelines.models.artifact import ModelSpec
    from primum_pipelines.optimization.dpsgd import DPSGD

    spec = ModelSpec("MLP", {}, (1, 28, 28), ("a", "b"), "b", (), (), (), "s")
    effort = ImprintEffort(batch=16, bins=64, candidates=10, trials=2, local_steps=steps)

    def recovered(noise):
        mechanism = PlannedMechanism("b", noise, 0.5, 1, 1e4)
        found = imprint_attack(
            pictures_table(), spec, mechanism=mechanism, algorithm=DPSGD(), effort=effort
        )
        return found.share_recovered

    assert recovered(1e-9) > 0.4
    assert recovered(1.0) == 0


def test_evenly_spread_records_meet_the_formula():
    """Measures drawn from the very distribution whose quantiles are the bins."""
    generator = np.random.default_rng(5)
    population = generator.normal(size=(4000, 1)) * 0.1 + generator.normal(size=(4000, 20)) * 1e-3
    shares = []
    for seed in range(30):
        rows = np.random.default_rng(seed).choice(4000, 64, replace=False)
        layer = imprint.Imprint(imprint.quantiles(population, 128), dimension=20)
        weights, biases = imprint.gradient_sum(
            layer,
            torch.from_numpy(population[rows]),
            max_grad_norm=float("inf"),
            noise_multiplier=0.0,
            generator=torch.Generator(),
        )
        found = imprint.recover(weights, biases)
        gaps = np.abs(found[None] - population[rows][:, None]).max(axis=2).min(axis=1)
        shares.append((gaps < 1e-4).mean())
    assert np.mean(shares) == pytest.approx(0.61, abs=0.05)


def test_the_linear_prior_is_the_best_linear_guess():
    """Records along two directions: the prior's error is that of the filter, far below no prior."""
    generator = np.random.default_rng(1)
    axes = np.linalg.qr(generator.normal(size=(50, 2)))[0].T
    records = 3 + generator.normal(size=(3000, 2)) * [2.0, 1.0] @ axes
    prior = LinearPrior.of(records[:2000])
    truth = records[2000:]
    observed = truth + generator.normal(size=truth.shape) * 0.5
    error = ((prior.denoise(observed, std=0.5) - truth) ** 2).sum(axis=1).mean()
    expected = sum(variance * 0.25 / (variance + 0.25) for variance in (4.0, 1.0))
    assert error == pytest.approx(expected, rel=0.1)
    assert error < 0.1 * ((observed - truth) ** 2).sum(axis=1).mean()
    assert prior.denoise(observed, std=1e6) == pytest.approx(np.repeat(prior.mean[None], 1000, 0))


def test_a_prior_needs_a_population():
    with pytest.raises(InvalidValue, match="two records"):
        LinearPrior.of(np.zeros((1, 4)))


def test_inversion_of_a_linear_classifier_points_along_its_weights():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(30, 2))
    before = [value.clone() for value in module.parameters()]
    found = model_inversion.invert_classes(module, classes=2, input_shape=(30,), iterations=200)
    direction = (module[0].weight[1] - module[0].weight[0]).sign()
    assert (found[1].sign() == direction).float().mean() > 0.95
    assert found.abs().max() <= 1
    for value, old in zip(module.parameters(), before, strict=True):
        assert torch.equal(value, old)


def test_structural_similarity_of_known_cases():
    rows = pictures(3, 2)
    shape = (1, 28, 28)
    assert figures.ssim(rows, rows, shape=shape, data_range=2.0) == pytest.approx(np.ones(3))
    noisy = rows + 0.5 * np.random.default_rng(0).normal(size=rows.shape)
    found = figures.ssim(noisy, rows, shape=shape, data_range=2.0)
    assert (found < 0.6).all()
    constant = figures.ssim(np.full_like(rows, 0.5), np.zeros_like(rows), shape=shape, data_range=2)
    assert constant == pytest.approx(np.full(3, 0.0004 / (0.25 + 0.0004)), rel=1e-3)


def waves(count, seed):
    """Smooth 14 x 14 pictures in [0, 1] that have nothing in common but their frequencies."""
    generator = np.random.default_rng(seed)
    grid = np.linspace(0, 2 * np.pi, 14)
    across, down = np.meshgrid(grid, grid)
    phases = generator.uniform(0, 2 * np.pi, (count, 3, 1, 1))
    heights = generator.normal(size=(count, 3, 1, 1))
    parts = [across, down, across + down]
    found = sum(heights[:, n] * np.sin(part[None] + phases[:, n]) for n, part in enumerate(parts))
    return (found / np.abs(found).max(axis=(1, 2), keepdims=True) + 1) / 2


@pytest.fixture(scope="module")
def attacked():
    """What gradient inversion makes of a small convolutional model of pictures without noise."""
    from primum_pipelines.attacks.reconstruction import ReconstructionEffort, reconstruct
    from primum_pipelines.audits.subject import PlannedMechanism
    from primum_pipelines.datasets.table import UnitTable
    from primum_pipelines.models.artifact import LoadedModel, ModelSpec
    from primum_pipelines.models.registry import build
    from primum_pipelines.optimization.dpsgd import DPSGD

    rows = waves(60, 3)[:, None].astype(np.float32)
    table = UnitTable(
        features=rows,
        labels=np.arange(60) % 2,
        units=np.array([str(n) for n in range(60)]),
        train=np.arange(60) < 40,
        classes=("a", "b"),
    )
    torch.manual_seed(0)
    spec = ModelSpec(
        "MLP", {"hidden": 32, "layers": 1}, (1, 14, 14), ("a", "b"), "b", (), (), (), "s"
    )
    module = build(spec.model, spec.parameters, input_shape=spec.input_shape, classes=2)
    mechanism = PlannedMechanism(
        "b", noise_multiplier=1e-6, sample_rate=0.5, steps=1, max_grad_norm=1
    )
    effort = ReconstructionEffort(candidates=10, trials=4, targets=2, iterations=400, restarts=1)
    model = LoadedModel(module.eval(), spec)
    return reconstruct(model, table, mechanism=mechanism, algorithm=DPSGD(), effort=effort)


def test_inversion_of_an_unprotected_update_shows_the_record(attacked):
    found = attacked.optimized
    assert found.ncc_without_noise > 0.9
    assert found.ncc_baseline < 0.8
    assert found.ssim_without_noise > found.ssim_baseline
    assert found.psnr_without_noise > found.psnr_baseline
    assert found.mse_mean < found.mse_baseline
    assert found.feature_distance < found.feature_distance_baseline
    assert found.recognizable == 1
    assert attacked.ncc_analytic == pytest.approx(1, abs=1e-6)
    assert attacked.identified_by_gradient == 4


def test_records_and_reconstructions_are_shown_side_by_side(attacked):
    assert attacked.picture.startswith(b"\x89PNG")
    assert "PNG" not in repr(attacked)


def test_an_update_of_several_steps_is_their_sum_and_gives_the_record_away():
    """Against steps taken one by one; inverted as an accumulated gradient, it shows the record."""
    from primum_pipelines.attacks.gradient_inversion import InversionEffort, invert
    from primum_pipelines.attacks.local_updates import LocalSteps, caused_by
    from primum_pipelines.attacks.reconstruction import observed_update
    from primum_pipelines.audits.subject import PlannedMechanism
    from primum_pipelines.optimization.dpsgd import DPSGD

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(20, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    record, label = torch.rand(1, 20) * 2 - 1, torch.tensor([1])
    local = LocalSteps(max_grad_norm=0.7, steps=3, step_size=0.2)
    silent = PlannedMechanism("b", 1e-9, 0.5, 1, 0.7)
    seen = observed_update(module, record, label, silent, DPSGD(), local=local)
    caused = caused_by(module, local)
    assert caused(record, label)[0].detach().numpy() == pytest.approx(seen.numpy(), abs=1e-4)
    found = invert(
        caused,
        seen[None],
        label,
        input_shape=(20,),
        effort=InversionEffort(iterations=80, restarts=1),
        generator=torch.Generator().manual_seed(1),
    )
    assert figures.ncc(found.double().numpy(), record.double().numpy())[0] > 0.95


def test_local_steps_raise_the_bound_as_their_composition():
    from primum_pipelines.audits.gradient_inversion import one_update_bound
    from primum_pipelines.audits.subject import PlannedMechanism

    mechanism = PlannedMechanism("b", 4.0, 0.5, 1, 1.0)
    one = one_update_bound(mechanism, candidates=100)
    assert one < one_update_bound(mechanism, candidates=100, local_steps=4)
    half = PlannedMechanism("b", 2.0, 0.5, 1, 1.0)
    assert one_update_bound(mechanism, candidates=100, local_steps=4) == pytest.approx(
        one_update_bound(half, candidates=100)
    )
    silent = PlannedMechanism("b", 0.0, 0.5, 1, 1.0)
    assert one_update_bound(silent, candidates=100) == 1


def federated(**parameters):
    """A subject whose plan has two sites; the second one's mechanism reveals more."""
    from decimal import Decimal

    from primum.domain.quantities import Neighbors, PrivacyUnit
    from primum.domain.study.plan import Plan
    from primum_pipelines.audits.subject import AuditSubject, PlannedMechanism

    plan = Plan(
        study_uid="uid",
        generation=1,
        kind="Federate",
        accesses=(),
        epsilon=Decimal(3),
        delta=Decimal("1e-5"),
        unit=PrivacyUnit.PATIENT,
        neighbors=Neighbors.ADD_OR_REMOVE_ONE,
        mechanism={"sites": {"a": {"stepsPerRound": 3}, "b": {"stepsPerRound": 5}}},
        parameters=parameters,
        steps=("audit",),
    )
    sites = (PlannedMechanism("a", 4.0, 0.2, 9, 1.0), PlannedMechanism("b", 1.0, 0.2, 15, 1.0))
    return AuditSubject(None, plan, sites, {})


def test_an_update_of_a_federation_is_that_of_a_round():
    from primum_pipelines.audits.gradient_inversion import local_steps, step_size

    subject = federated(learningRate="0.5", batchSize=10)
    assert local_steps(subject, {}) == 5
    assert local_steps(subject, {"localSteps": "2"}) == 2
    assert step_size(subject) == 0.05
    with pytest.raises(InvalidValue, match="localSteps"):
        local_steps(subject, {"localSteps": 33})
    with pytest.raises(InvalidValue, match="learningRate"):
        step_size(federated())


def test_susceptibility_is_the_derivative_of_the_gradient_norm():
    """Against finite differences in float64."""
    from primum_pipelines.attacks.susceptibility import susceptibility

    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    module = module.double()
    inputs = torch.randn(70, 4, dtype=torch.float64)
    labels = torch.arange(70) % 3
    found = susceptibility(module, inputs, labels)
    step = 1e-5
    for axis in range(4):
        moved = torch.zeros(4, dtype=torch.float64)
        moved[axis] = step
        above = susceptibility(module, inputs + moved, labels).norms
        below = susceptibility(module, inputs - moved, labels).norms
        assert found.inputs[:, axis] == pytest.approx(
            (above - below) / (2 * step), rel=1e-3, abs=1e-6
        )
    alone = torch.autograd.grad(
        torch.nn.functional.cross_entropy(module(inputs[:1]), labels[:1]), list(module.parameters())
    )
    assert found.norms[0] == pytest.approx(float(torch.cat([g.flatten() for g in alone]).norm()))
