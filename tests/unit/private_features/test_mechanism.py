"""The one Gaussian mechanism of PrivateFeatures: clip, places, noise, and what it guarantees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from primum.domain.errors import InvalidValue
from primum_pipelines.kinds.private_features.mechanism import (
    TableMechanism,
    clipped,
    contributions,
    random_places,
    release,
)
from primum_pipelines.optimization.canaries import seal
from primum_pipelines.optimization.randomness import SeededSource, random_source

FINITE = st.floats(-1e9, 1e9, allow_nan=False)
PLAN = TableMechanism(rows=64, clip=2.0, label_share=0.5, noise_multiplier=1.5)


def mechanism(**changes):
    given = {"rows": 64, "clip": 2.0, "label_share": 0.5, "noise_multiplier": 1.5}
    return TableMechanism(**{**given, **changes})


def units(count, *, width=5, classes=3, length=100.0, seed=0):
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(count, width))
    features *= length / np.linalg.norm(features, axis=1, keepdims=True)
    return features, np.eye(classes)[generator.integers(0, classes, count)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(FINITE, min_size=3, max_size=3), min_size=1, max_size=5),
    st.floats(0.01, 0.99),
    st.floats(1e-3, 1e3),
)
def test_no_unit_adds_more_than_the_clip(rows, share, clip):
    plan = mechanism(clip=clip, label_share=share)
    labels = np.tile([0.25, 0.75], (len(rows), 1))
    found = clipped(contributions(np.array(rows), labels, mechanism=plan), bound=clip)
    assert (np.linalg.norm(found, axis=1) <= clip * (1 + 1e-12)).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(FINITE, min_size=4, max_size=4), st.floats(0.01, 100))
def test_clipping_keeps_direction_and_leaves_short_vectors_alone(vector, bound):
    row = np.array([vector])
    (found,) = clipped(row, bound=bound)
    length = np.linalg.norm(row)
    expected = row[0] if length <= bound else row[0] * bound / length
    assert np.allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_count_as_nothing(bad):
    found = contributions(np.array([[bad, 1.0]]), np.array([[1.0, 0.0]]), mechanism=PLAN)
    assert np.isfinite(found).all()
    assert np.linalg.norm(found) <= PLAN.clip * (1 + 1e-12)


def test_a_label_keeps_its_share_however_long_the_features_are():
    features, labels = units(4)
    found = contributions(features, labels, mechanism=PLAN)
    assert np.allclose(np.linalg.norm(found[:, 5:], axis=1), PLAN.clip * np.sqrt(0.5))
    assert np.allclose(np.linalg.norm(found, axis=1), PLAN.clip)


def test_every_number_of_the_table_has_the_planned_noise():
    """Units are zero in four columns; those are normal with the planned deviation (KS, 1e-6)."""
    plan = mechanism(rows=5000, clip=3.0, noise_multiplier=0.7)
    features = np.zeros((4000, 4))
    labels = np.tile([1.0, 0.0], (4000, 1))
    found = release(features, labels, mechanism=plan, source=random_source(None))
    noise = np.concatenate([found.features, found.codes[:, 1:]], axis=1) / plan.noise_std
    for column in noise.T:
        assert stats.kstest(column, "norm").pvalue > 1e-6
    flat = noise.ravel()
    assert stats.chi2(flat.size).interval(1 - 1e-6)[0] < (flat**2).sum()
    assert (flat**2).sum() < stats.chi2(flat.size).interval(1 - 1e-6)[1]


def test_rows_without_a_unit_hold_noise_as_the_others_do():
    plan = mechanism(rows=2000)
    nobody = release(np.zeros((0, 8)), np.zeros((0, 3)), mechanism=plan, source=random_source(None))
    energy = (nobody.features**2).sum(axis=1) / plan.noise_std**2
    assert nobody.features.shape == (2000, 8)
    assert stats.kstest(energy, stats.chi2(8).cdf).pvalue > 1e-6


def test_two_releases_share_nothing():
    features, labels = units(20)
    first, second = (
        release(features, labels, mechanism=PLAN, source=random_source(None)) for _ in range(2)
    )
    assert np.isin(first.features, second.features).mean() < 0.01


def test_places_are_a_uniform_injection():
    """Each of 4 x 3 x 2 injections of three units into four rows is as likely as any other."""
    source = SeededSource(1)
    seen = np.array([random_places(source, units=3, rows=4) for _ in range(4800)])
    assert all(len(set(places)) == 3 for places in seen)
    _, counts = np.unique(seen, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-6


def test_a_unit_more_moves_one_row_by_at_most_the_clip():
    """With the places of the others held fixed, which is what the guarantee is about."""
    features, labels = units(10)

    class Still:
        """Places in a fixed order, and no noise."""

        name = "none"

        def uniform(self, count):
            return np.arange(count) / count

        def normal(self, count):
            return np.zeros(count)

    tables = []
    for count in (9, 10):
        found = release(features[:count], labels[:count], mechanism=PLAN, source=Still())
        tables.append(np.concatenate([found.features, found.codes], axis=1))
    change = tables[1] - tables[0]
    assert (np.abs(change).sum(axis=1) > 1e-6).sum() == 1
    assert np.linalg.norm(change) <= PLAN.clip * (1 + 1e-6)
    other, _ = units(1, seed=9)
    features[9] = other[0]
    found = release(features, labels, mechanism=PLAN, source=Still())
    replaced = np.concatenate([found.features, found.codes], axis=1) - tables[1]
    assert np.linalg.norm(replaced) <= 2 * PLAN.clip * (1 + 1e-6)


def test_canaries_cost_the_table_no_row_and_no_column():
    features, labels = units(64)
    sealed = seal(40)
    found = release(features, labels, mechanism=PLAN, source=random_source(None), sealed=sealed)
    assert found.features.shape == (64, 5)
    assert found.codes.shape == (64, 3)
    assert found.canary_scores.shape == (40,)


def test_a_canary_scores_its_coin_plus_the_planned_noise():
    sealed = seal(4000)
    plan = mechanism(rows=10, noise_multiplier=0.5)
    features, labels = units(10)
    found = release(features, labels, mechanism=plan, source=random_source(None), sealed=sealed)
    left = (found.canary_scores - np.array(sealed.coins)) / 0.5
    assert stats.kstest(left, "norm").pvalue > 1e-6


def test_more_units_than_rows_are_refused_without_a_count():
    features, labels = units(65)
    with pytest.raises(InvalidValue, match="at most 64 training units") as refused:
        release(features, labels, mechanism=PLAN, source=random_source(None))
    assert "65" not in str(refused.value)


def test_what_is_released_shows_no_number_in_a_log():
    features, labels = units(5)
    found = release(features, labels, mechanism=PLAN, source=random_source(None))
    assert "array" not in repr(found)
