"""What every registered sample filter owes, whoever wrote it."""

from __future__ import annotations

import numpy as np
import pytest

from primum import extensions
from primum.domain.errors import InvalidValue
from primum_pipelines.sample_filters.filter import GROUP, Duplicates

SHAPES = [(1, 8, 8), (12,)]


@pytest.fixture(params=extensions.names(GROUP))
def sample_filter(request):
    return extensions.load(GROUP, request.param)()


@pytest.fixture(params=SHAPES, ids=["images", "tables"])
def rows(request):
    generator = np.random.default_rng(4)
    return generator.random((150, *request.param)).astype(np.float32)


def fit(sample_filter, rows, *, duplicates=Duplicates.DROP, seed=0):
    return sample_filter.fit(rows[:100], rows[100:], duplicates=duplicates, seed=seed)


def test_it_is_registered_under_its_own_name(sample_filter):
    assert sample_filter.name in extensions.names(GROUP)


def test_exact_copies_of_training_examples_are_rejected(sample_filter, rows):
    fitted = fit(sample_filter, rows)
    copies = rows[:100]
    scores = fitted.score(copies)
    assert not fitted.decide(scores).any()
    assert np.array_equal(scores.nearest, np.arange(100))


def test_examples_of_the_same_population_are_mostly_kept(sample_filter, rows):
    fitted = fit(sample_filter, rows)
    assert fitted.decide(fitted.score(rows[100:])).mean() >= 0.9


def test_scores_and_decisions_have_one_entry_per_candidate(sample_filter, rows):
    fitted = fit(sample_filter, rows)
    for count in (0, 1, 7):
        scores = fitted.score(rows[100 : 100 + count])
        keep = fitted.decide(scores)
        assert scores.distances.shape == scores.nearest.shape == keep.shape == (count,)
        assert keep.dtype == bool
        assert (scores.distances >= 0).all()


def test_the_same_seed_gives_the_same_decisions(sample_filter, rows):
    first, second = fit(sample_filter, rows, seed=3), fit(sample_filter, rows, seed=3)
    assert first.threshold == second.threshold
    assert np.array_equal(first.decide(first.score(rows)), second.decide(second.score(rows)))


def test_a_degenerate_threshold_is_refused_until_duplicates_are_dropped(sample_filter, rows):
    doubled = rows.copy()
    doubled[1] = doubled[0]
    with pytest.raises(InvalidValue, match="exact duplicates"):
        fit(sample_filter, doubled, duplicates=Duplicates.KEEP)
    fitted = fit(sample_filter, doubled)
    assert fitted.threshold > 0
    assert not fitted.decide(fitted.score(doubled[:1])).any()


def test_messages_hold_no_distance_and_no_row(sample_filter, rows):
    doubled = rows.copy()
    doubled[1] = doubled[0]
    with pytest.raises(InvalidValue) as caught:
        fit(sample_filter, doubled, duplicates=Duplicates.KEEP)
    assert "row" not in str(caught.value)
    assert not any(character.isdigit() and character != "0" for character in str(caught.value))
