"""DP-MERF's one release: its sensitivity, its noise, its canaries, and what is made of it."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
import torch

from primum.domain.errors import InvalidValue
from primum_pipelines.optimization import canaries
from primum_pipelines.optimization.dpsgd import DPSGD
from primum_pipelines.synthesis import merf
from primum_pipelines.synthesis.embedding import (
    FEATURES_MAX,
    FEATURES_MIN,
    NOISE_RATIO_MAX,
    features_for,
    noise_ratio,
)
from primum_pipelines.synthesis.generator import GeneratorTask, draw, train_generator

CLASSES = 3
DIMENSION = 16


def contributions(*, rows=60, units=None, features=40, seed=0, drop=None):
    generator = np.random.default_rng(seed)
    values = generator.random((rows, DIMENSION)).astype(np.float32)
    labels = generator.integers(0, CLASSES, rows)
    names = np.array([f"u{i}" for i in range(rows)]) if units is None else units
    keep = np.ones(rows, dtype=bool) if drop is None else names != drop
    return merf.Contributions(
        merf.FourierFeatures.draw(features=features, dimension=DIMENSION, seed=7),
        rows=values[keep],
        labels=labels[keep],
        units=names[keep],
        classes=CLASSES,
    )


def several_rows_each(rows=60):
    return np.array([f"u{i % 7}" for i in range(rows)])


@pytest.mark.parametrize("units", [None, several_rows_each()], ids=["one row", "several rows"])
def test_no_unit_contributes_more_than_the_sensitivity(units):
    found = contributions(units=units)
    norms = found.of(torch.arange(found.units)).double().norm(dim=1)
    assert norms.max() <= 1 + 1e-6
    if units is None:
        assert norms.min() >= 1 - 1e-6


@pytest.mark.parametrize("units", [None, several_rows_each()], ids=["one row", "several rows"])
def test_removing_a_unit_moves_the_sum_by_its_own_contribution(units):
    names = contributions(units=units)
    without = contributions(units=units, drop="u3")
    moved = (names.total() - without.total()).norm()
    assert without.units == names.units - 1
    assert 0 < moved <= 1 + 1e-5


def test_total_is_the_sum_of_the_contributions():
    found = contributions(units=several_rows_each())
    by_hand = found.of(torch.arange(found.units)).double().sum(dim=0).view(CLASSES, -1)
    assert torch.allclose(found.total(), by_hand)


def test_class_counts_ride_along():
    found = contributions()
    assert float(found.total()[:, 0].sum()) == pytest.approx(0.1 * found.units, rel=1e-5)


@pytest.mark.parametrize("noise_multiplier", [0.7, 5.0])
def test_release_adds_the_planned_noise_to_every_entry_once(noise_multiplier):
    found = contributions(rows=400, features=400)
    noisy, report = merf.release_sum(
        found,
        algorithm=DPSGD(),
        noise_multiplier=noise_multiplier,
        expected_units=400,
        sealed=None,
        seed=11,
    )
    residual = (noisy - found.total()) / noise_multiplier
    count = residual.numel()
    assert report.executed == ((noise_multiplier, 1.0, 1),)
    assert report.max_grad_norm == 1.0
    # Five standard errors: one false alarm in a million.
    assert float(residual.std()) == pytest.approx(1.0, abs=5 / np.sqrt(2 * count))
    assert float(residual.mean()) == pytest.approx(0.0, abs=5 / np.sqrt(count))


def test_planted_canaries_show_and_leave_the_embedding_alone():
    found = contributions(rows=100)
    sealed = canaries.seal(64)
    noisy, report = merf.release_sum(
        found,
        algorithm=DPSGD(),
        noise_multiplier=0.05,
        expected_units=100,
        sealed=sealed,
        seed=3,
    )
    scores = canaries.scores(report)
    assert tuple(score > 0.5 for score in scores) == sealed.coins
    assert float((noisy - found.total()).abs().max()) < 0.5


def test_an_algorithm_that_hides_its_sums_is_refused():
    class Silent(DPSGD):
        def fit(self, task):
            report = super().fit(task)
            report.update_sums.clear()
            return report

    with pytest.raises(InvalidValue, match="update sums"):
        merf.release_sum(
            contributions(),
            algorithm=Silent(),
            noise_multiplier=1.0,
            expected_units=60,
            sealed=None,
            seed=1,
        )


def test_embedding_of_the_exact_sum_has_the_class_shares_and_means():
    found = contributions(rows=300)
    embedding = merf.embedding_of(found.total(), noise_multiplier=0.0)
    assert float(embedding.shares.sum()) == pytest.approx(1.0)
    assert float(embedding.means.norm(dim=1).max()) <= 1 + 1e-6


def test_embedding_survives_noise_that_drowns_a_class():
    drowned = torch.full((CLASSES, 41), -5.0, dtype=torch.float64)
    embedding = merf.embedding_of(drowned, noise_multiplier=2.0)
    assert torch.isfinite(embedding.means).all()
    assert float(embedding.shares.min()) > 0


def test_features_depend_on_their_public_seed_alone():
    first = merf.FourierFeatures.draw(features=40, dimension=DIMENSION, seed=7)
    again = merf.FourierFeatures.draw(features=40, dimension=DIMENSION, seed=7)
    other = merf.FourierFeatures.draw(features=40, dimension=DIMENSION, seed=8)
    assert torch.equal(first.frequencies, again.frequencies)
    assert not torch.equal(first.frequencies, other.frequencies)


@pytest.mark.parametrize("features", [3, 21, FEATURES_MIN - 2])
def test_odd_or_too_few_features_are_refused(features):
    with pytest.raises(InvalidValue, match="even"):
        merf.FourierFeatures.draw(features=features, dimension=4, seed=0)


def test_number_of_features_follows_the_public_noise_ratio():
    # Pneumonia size: at epsilon 5.7 all features fit, at epsilon 1 they would drown.
    assert features_for(noise_multiplier=Decimal("0.85"), classes=2, units=4690) == FEATURES_MAX
    few = features_for(noise_multiplier=Decimal("3.73"), classes=2, units=4690)
    assert FEATURES_MIN <= few < 100
    ratio = noise_ratio(noise_multiplier=Decimal("3.73"), features=few, classes=2, units=4690)
    assert ratio <= NOISE_RATIO_MAX
    assert features_for(noise_multiplier=Decimal(0), classes=2, units=4690) == FEATURES_MAX
    assert features_for(noise_multiplier=Decimal(50), classes=10, units=100) == FEATURES_MIN


def test_generator_learns_what_the_embedding_says():
    """Two classes at two places: generated vectors of a class lie at that class's place."""
    generator = np.random.default_rng(5)
    labels = np.arange(400) % 2
    values = np.clip(0.25 + 0.5 * labels[:, None] + generator.normal(0, 0.05, (400, 4)), 0, 1)
    features = merf.FourierFeatures.draw(features=200, dimension=4, seed=1)
    found = merf.Contributions(
        features,
        rows=values.astype(np.float32),
        labels=labels,
        units=np.arange(400).astype(str),
        classes=2,
    )
    embedding = merf.embedding_of(found.total(), noise_multiplier=0.0)
    trained = train_generator(GeneratorTask(embedding, features, dimension=4, steps=200, seed=2))
    samples, drawn = draw(trained, count=200, seed=3)
    assert drawn.bincount().tolist() == [100, 100]
    for label, place in ((0, 0.25), (1, 0.75)):
        assert float(samples[drawn == label].mean()) == pytest.approx(place, abs=0.06)
