"""Does a learned prior see more than a linear one, and no more than the noise allows?"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from primum.domain.errors import InvalidValue  # noqa: E402
from primum.domain.governance.evidence import Verdict  # noqa: E402
from primum.domain.study.steps import WorkRequest  # noqa: E402
from primum_pipelines.attacks import figures, prior_records  # noqa: E402
from primum_pipelines.attacks.dead_leaves import dead_leaves  # noqa: E402
from primum_pipelines.attacks.diffusion_prior import (  # noqa: E402
    NOISE_MIN,
    Denoiser,
    DiffusionPrior,
    PriorEffort,
    digest_of,
    noise_levels,
    train_prior,
)
from primum_pipelines.attacks.guided_sampling import GuidanceEffort, sample  # noqa: E402
from primum_pipelines.attacks.linear_prior import LinearPrior  # noqa: E402
from primum_pipelines.attacks.local_updates import LocalSteps, caused_by  # noqa: E402
from primum_pipelines.attacks.pool import pool_of  # noqa: E402
from primum_pipelines.audits.diffusion_prior import DiffusionPrior as Audit  # noqa: E402
from primum_pipelines.audits.subject import AuditSubject, PlannedMechanism  # noqa: E402
from primum_pipelines.datasets.access import open_published  # noqa: E402
from primum_pipelines.datasets.table import UnitTable  # noqa: E402
from primum_pipelines.models.artifact import LoadedModel, ModelSpec  # noqa: E402
from primum_pipelines.models.registry import build  # noqa: E402
from primum_pipelines.optimization.dpsgd import DPSGD  # noqa: E402

SIDE = 12
SHAPE = (1, SIDE, SIDE)
EFFORT = PriorEffort(steps=60, batch=32)


def squares(count, seed):
    """Pictures of one bright square each: sharp edges, which a linear filter cannot keep."""
    generator = np.random.default_rng(seed)
    across, down = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 2)
    centers = generator.uniform(-0.7, 0.7, (count, 2, 1, 1))
    far = np.maximum(np.abs(across - centers[:, 0]), np.abs(down - centers[:, 1]))
    inside = far < generator.uniform(0.3, 0.6, (count, 1, 1))
    bright = generator.uniform(0.5, 0.95, (count, 1, 1))
    return torch.from_numpy(np.where(inside, bright, -0.9).astype(np.float32))[:, None]


@pytest.fixture(scope="module")
def prior():
    return train_prior(squares(300, 0), EFFORT)


def error(found, truth):
    return float(((found - truth) ** 2).mean())


def test_made_up_pictures_are_repeatable_and_within_range():
    some = dead_leaves(5, shape=(3, 9, 11), seed=3)
    assert some.shape == (5, 3, 9, 11)
    assert np.array_equal(some, dead_leaves(5, shape=(3, 9, 11), seed=3))
    assert not np.array_equal(some, dead_leaves(5, shape=(3, 9, 11), seed=4))
    assert np.abs(some).max() <= 1
    assert some.std() > 0.2


@pytest.mark.parametrize("shape", [(7,), (1, 9, 13), (2, 6, 6, 6)])
def test_an_untrained_denoiser_is_the_linear_prior(shape):
    records = np.random.default_rng(0).uniform(-1, 1, (40, int(np.prod(shape))))
    linear = LinearPrior.of(records)
    noisy = torch.from_numpy(records[:5]).float().view(-1, *shape)
    found = Denoiser(shape, linear)(noisy, torch.full((5,), 0.3))
    assert found.shape == noisy.shape
    expected = linear.denoise(records[:5], std=0.3)
    assert found.detach().flatten(1).numpy() == pytest.approx(expected, abs=1e-4)


def test_learning_beats_the_best_linear_guess(prior):
    """Same records for both, others to try them on."""
    linear = LinearPrior.of(squares(300, 0).flatten(1).double().numpy())
    truth, noise = squares(60, 9), 0.5
    generator = torch.Generator().manual_seed(1)
    seen = truth + noise * torch.randn(truth.shape, generator=generator)
    level = torch.full((60,), noise)
    by_line = torch.from_numpy(linear.denoise(seen.flatten(1).double().numpy(), std=noise))
    by_line = error(by_line.view(truth.shape), truth)
    assert error(prior.denoise(seen, noise=level), truth) < 0.85 * by_line
    assert error(prior.reverse(seen, noise=level, steps=15), truth) < by_line
    assert by_line < error(seen, truth)


def test_hopeless_noise_gives_the_mean(prior):
    seen = 1e4 * torch.randn((4, *SHAPE), generator=torch.Generator().manual_seed(2))
    found = prior.denoise(seen, noise=torch.full((4,), 1e9))
    assert found.abs().max() <= 1
    assert torch.isfinite(prior.reverse(seen, noise=torch.full((4,), 1e9), steps=3)).all()


def test_noise_falls_to_its_end():
    levels = noise_levels(torch.tensor([5.0, 0.5]), 6)
    assert len(levels) == 7
    assert all((after < now).all() for now, after in itertools.pairwise(levels))
    assert levels[-1].tolist() == pytest.approx([NOISE_MIN] * 2, rel=1e-4)


def test_a_prior_needs_records_that_differ():
    with pytest.raises(InvalidValue, match="two different records"):
        train_prior(torch.zeros((10, *SHAPE)), EFFORT)


def test_the_same_records_give_the_same_prior_and_others_another():
    few = PriorEffort(steps=3, batch=8)
    records = squares(20, 0)
    one, two = train_prior(records, few), train_prior(records, few)
    for left, right in zip(one.denoiser.parameters(), two.denoiser.parameters(), strict=True):
        assert torch.equal(left, right)
    assert one.digest == two.digest == digest_of(records, few)
    assert digest_of(squares(20, 1), few) != one.digest
    assert digest_of(records, PriorEffort(steps=4, batch=8)) != one.digest


def test_a_prior_is_kept_under_its_digest_and_learned_anew_when_damaged(tmp_path):
    few = PriorEffort(steps=3, batch=8)
    learned = []

    def get(records):
        learned.append(0)
        return prior_records.prior_of(
            records,
            few,
            zone_dir=str(tmp_path),
            on_step=lambda done, _: learned.__setitem__(-1, done),
        )

    first, again = get(squares(20, 0)), get(squares(20, 0))
    assert learned == [3, 0]
    seen, level = torch.randn((2, *SHAPE)), torch.full((2,), 0.4)
    assert torch.equal(first.denoise(seen, noise=level), again.denoise(seen, noise=level))
    (file,) = (tmp_path / prior_records.FOLDER).iterdir()
    file.write_bytes(file.read_bytes()[:-3] + b"abc")
    get(squares(20, 0))
    assert learned == [3, 0, 3]
    for seed in range(1, prior_records.KEPT_MAX + 2):
        get(squares(20, seed))
    assert len(list((tmp_path / prior_records.FOLDER).iterdir())) == prior_records.KEPT_MAX


def test_without_a_zone_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prior_records.prior_of(squares(20, 0), PriorEffort(steps=1, batch=4), zone_dir="")
    assert list(tmp_path.iterdir()) == []


def model_of_pictures():
    torch.manual_seed(0)
    spec = ModelSpec("MLP", {"hidden": 32, "layers": 1}, SHAPE, ("a", "b"), "b", (), (), (), "s")
    module = build(spec.model, spec.parameters, input_shape=SHAPE, classes=2)
    return LoadedModel(module.eval(), spec)


def test_guidance_finds_records_that_the_prior_alone_does_not(prior):
    module = model_of_pictures().module
    truth, labels = squares(3, 9), torch.tensor([0, 1, 0])
    caused = caused_by(module, LocalSteps(1.0))
    exact = caused(truth, labels).detach()

    def correlation(observed):
        found = sample(
            prior,
            observed,
            labels,
            caused=caused,
            effort=GuidanceEffort(steps=20, restarts=2),
            generator=torch.Generator().manual_seed(3),
        )
        assert found.abs().max() <= 1
        flat = [part.flatten(1).double().numpy() for part in (found, truth)]
        return figures.ncc(*flat).mean()

    assert correlation(exact) > 0.9
    assert correlation(exact + torch.randn(exact.shape)) < 0.6


def test_what_was_attacked_is_no_public_record():
    table = pictures_table()
    pool = pool_of(table, model_of_pictures().spec)
    with pytest.raises(InvalidValue, match="must hold no records of the Study"):
        prior_records.require_apart(pool.inputs[:30], pool)
    prior_records.require_apart(squares(30, 77), pool)


def test_public_records_must_be_of_the_studys_form():
    spec = model_of_pictures().spec
    with pytest.raises(InvalidValue, match="the Study's shape"):
        prior_records.published(pictures_table(), replace(spec, input_shape=(1, 8, 8)), most=9)
    found = prior_records.published(pictures_table(), spec, most=9)
    assert found.shape == (9, *SHAPE)
    with pytest.raises(InvalidValue, match="published set for tables"):
        prior_records.made_up(5, shape=(30,))


def request_for(*, public=()):
    return WorkRequest(
        context={
            "datasets": {"wisconsin": {"uri": "sklearn://breast_cancer"}},
            "plan": {"parameters": {"publicInputs": list(public)}},
        },
        tokens={},
        public_key="",
        artifacts_uri="",
        data_dirs=[],
        inputs={},
    )


@pytest.mark.parametrize(
    ("uri", "rule"),
    [
        ("sklearn://breast_cancer", "must not be a dataset that the Study protects"),
        ("csv:///somewhere/patients.csv", "must be Synthetic, a published set, or a Public input"),
    ],
)
def test_private_places_are_not_opened_as_public(uri, rule):
    with pytest.raises(InvalidValue, match=rule):
        open_published(request_for(), uri)
    if not uri.startswith("csv"):
        return
    with pytest.raises(InvalidValue, match="must not be a dataset"):
        open_published(
            request_for(public=[{"uri": "sklearn://breast_cancer", "options": {}}]),
            "sklearn://breast_cancer",
        )


def pictures_table():
    rows = (squares(60, 5).numpy() + 1) / 2
    return UnitTable(
        features=rows,
        labels=np.arange(60) % 2,
        units=np.array([str(n) for n in range(60)]),
        train=np.arange(60) < 40,
        classes=("a", "b"),
    )


@dataclass(frozen=True, slots=True, repr=False)
class Pictures(AuditSubject):
    """A Study of made-up pictures whose mechanism is given."""

    noise_multiplier: float = 1.0

    def model(self):
        return model_of_pictures()

    def table(self):
        return pictures_table()

    def algorithm(self):
        return DPSGD()

    def released_by(self):
        return PlannedMechanism("b", self.noise_multiplier, 0.5, 1, 1.0)


@dataclass(frozen=True, slots=True)
class Claim:
    """What an audit reads of a plan."""

    epsilon: Decimal = Decimal(3)
    delta: Decimal = Decimal("1e-5")


def audited(noise, **parameters):
    """Made-up pictures of the audit's own are no squares, so its prior is a poor one here."""
    quick = {"learningSteps": 5, "records": 60, "steps": 6, "restarts": 1, "trials": 16}
    subject = Pictures(request_for(), Claim(), (), {}, noise_multiplier=noise)
    return Audit().run(subject, quick | {"candidates": 10} | parameters)


def test_the_audit_passes_under_the_planned_noise_and_keeps_figures_inside():
    found = audited(2.0)
    assert found.verdict is Verdict.PASS
    assert found.public["prior"] == "Synthetic"
    assert {"releases", "updates", "identified"}.isdisjoint(found.public)
    assert set(found.pictures) == {"denoised.png", "guided.png"}
    assert float(found.restricted["identifiedLowerLimit"]) <= float(
        found.public["bounds"]["gammaOneUpdate"]
    )
    released = found.restricted["releases"]
    assert set(released) == {
        "observed",
        "linearPrior",
        "diffusionPrior",
        "reverseProcess",
        "baseline",
    }


def test_noise_left_out_fails_the_audit(monkeypatch):
    """The plan says 2, the algorithm adds none: nearly every record is named."""
    original = DPSGD.fit

    def quiet(self, task):
        mechanism = replace(task.mechanism, noise_multiplier=1e-9)
        return original(self, replace(task, mechanism=mechanism))

    monkeypatch.setattr(DPSGD, "fit", quiet)
    found = audited(2.0)
    assert found.verdict is Verdict.FAIL, (found.public, found.restricted)
    assert found.restricted["releases"]["observed"]["identified"] >= 12


def test_too_few_trials_are_inconclusive():
    assert audited(2.0, trials=4).verdict is Verdict.INCONCLUSIVE


def test_a_prior_stays_out_of_what_is_printed(prior):
    assert "denoiser" not in repr(DiffusionPrior(prior.denoiser, "digest"))
