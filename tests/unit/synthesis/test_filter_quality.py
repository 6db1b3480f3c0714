"""Exact search, and what a filter is worth and gives away."""

from __future__ import annotations

import math

import numpy as np
import pytest

from primum.domain.governance.evidence import Verdict
from primum_pipelines.sample_filters.filter import Duplicates
from primum_pipelines.sample_filters.perturbations import families
from primum_pipelines.sample_filters.pixel_l2 import PixelL2, distinct
from primum_pipelines.sample_filters.quality import (
    FilterQuality,
    Rate,
    epsilon_forced,
    measure,
)
from primum_pipelines.sample_filters.search import SelfMatch, nearest


def rows(count=60, shape=(1, 8, 8), seed=0):
    return np.random.default_rng(seed).random((count, *shape)).astype(np.float32)


def by_hand(candidates, reference):
    left = candidates.reshape(len(candidates), 1, -1).astype(np.float64)
    right = reference.reshape(1, len(reference), -1).astype(np.float64)
    return np.sqrt(((left - right) ** 2).sum(axis=2))


@pytest.mark.parametrize("count", [1, 5, 1500], ids=["one", "few", "more than a block"])
def test_search_agrees_with_every_distance_taken_by_hand(count):
    candidates, reference = rows(count, (6,), seed=1), rows(40, (6,), seed=2)
    found, distances = nearest(candidates, reference), by_hand(candidates, reference)
    assert np.array_equal(found.nearest, distances.argmin(axis=1))
    assert found.distances == pytest.approx(distances.min(axis=1), abs=1e-6)


def test_exact_duplicates_are_at_distance_zero_not_nearly_zero():
    """float32 products cancel: without the re-check these come out at about 0.01."""
    reference = rows(200, (784,), seed=3)
    assert (nearest(reference, reference).distances == 0.0).all()


def test_a_set_searched_within_itself_leaves_each_row_out():
    reference = rows(30, (6,))
    found = nearest(reference, reference, self_match=SelfMatch.EXCLUDED)
    assert (found.nearest != np.arange(30)).all()
    assert (found.distances > 0).all()


def test_distinct_keeps_the_first_of_each_in_order():
    values = rows(10, (3,))
    values[4], values[7] = values[1], values[1]
    assert np.array_equal(distinct(values), np.delete(values, [4, 7], axis=0))


def test_perturbations_keep_shape_and_range():
    images = rows(5)
    generator = np.random.default_rng(0)
    assert len(families(images)) == 13
    assert set(families(rows(5, (4,)))) == {"exact", "noise-0.02", "noise-0.05", "noise-0.1"}
    for name, perturb in families(images).items():
        changed = perturb(images, generator)
        assert changed.shape == images.shape, name
        assert changed.min() >= -1e-6, name
        assert changed.max() <= 1 + 1e-6, name
        assert (name == "exact") == np.array_equal(changed, images)


def test_pixel_l2_sees_copies_and_misses_flips():
    reference, held_out = rows(400, (1, 8, 8), seed=5), rows(200, (1, 8, 8), seed=6)
    sample_filter = PixelL2()
    fitted = sample_filter.fit(reference, held_out, duplicates=Duplicates.KEEP, seed=0)
    quality = measure(sample_filter, fitted, reference=reference, held_out=held_out, seed=0)
    assert quality.sensitivity["exact"].successes == quality.sensitivity["exact"].trials == 300
    assert quality.sensitivity["flip"].successes < 30
    assert quality.worst_family != "exact"
    assert quality.verdict is Verdict.FAIL
    assert 0 <= quality.agreement <= 1


def quality_of(*, hits, kept, trials=300):
    return FilterQuality(
        sensitivity={"exact": Rate(hits, trials)}, specificity=Rate(kept, trials), agreement=1.0
    )


def test_a_good_filter_forces_a_large_epsilon():
    """99 % sensitivity at 1 % false alarms forces 4.6 with exact rates; bounds give less."""
    quality = quality_of(hits=9900, kept=9900, trials=10000)
    forced = epsilon_forced(quality, delta=1e-5)
    assert math.log(0.98 / 0.013) < forced < math.log(0.99 / 0.01)
    by_formula = (quality.sensitivity["exact"].lower - 1e-5) / (1 - quality.specificity.lower)
    assert forced == pytest.approx(math.log(by_formula))


def test_a_filter_that_tells_nothing_forces_nothing():
    assert epsilon_forced(quality_of(hits=150, kept=150), delta=1e-5) == 0.0


def test_verdict_wants_both_rates_by_their_lower_bounds():
    assert quality_of(hits=300, kept=300).verdict is Verdict.PASS
    assert quality_of(hits=300, kept=280).verdict is Verdict.FAIL
    assert quality_of(hits=10, kept=10, trials=10).verdict is Verdict.FAIL
