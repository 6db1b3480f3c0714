"""Is a generator that copies caught, and one that does not left alone?"""

from __future__ import annotations

import numpy as np
import pytest

from primum.domain.errors import InvalidValue
from primum.domain.risk.intervals import clopper_pearson_one_sided
from primum_pipelines.attacks import figures, synthetic
from primum_pipelines.audits.audit import FAIL_CONFIDENCE


def people(count, seed):
    """Records in two overlapping groups, twelve numbers each."""
    generator = np.random.default_rng(seed)
    center = np.where(generator.random((count, 1)) < 0.5, 0.35, 0.65)
    return np.clip(center + 0.12 * generator.normal(size=(count, 12)), 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def sides():
    """Training records, held-out records to compare with, and held-out records to attack."""
    return people(200, 1), people(200, 2), people(200, 3)


def samples_of(train, *, copied):
    """Training records with a little noise, or fresh people."""
    if not copied:
        return people(400, 9)
    generator = np.random.default_rng(4)
    rows = generator.integers(0, len(train), 400)
    return np.clip(train[rows] + 0.01 * generator.normal(size=(400, 12)), 0, 1).astype(np.float32)


@pytest.mark.parametrize("score", [synthetic.calibrated_distance, synthetic.density_ratio])
def test_members_of_a_copycat_are_found(sides, score):
    train, reference, others = sides
    samples = samples_of(train, copied=True)
    found = figures.auc(score(train, samples, reference), score(others, samples, reference))
    assert found > 0.8


@pytest.mark.parametrize("score", [synthetic.calibrated_distance, synthetic.density_ratio])
def test_fresh_samples_tell_nothing(sides, score):
    """200 against 200, so an AUC of 0.5 has a standard error of 0.03."""
    train, reference, others = sides
    samples = samples_of(train, copied=False)
    found = figures.auc(score(train, samples, reference), score(others, samples, reference))
    assert 0.4 < found < 0.6


def test_samples_may_be_in_order(sides):
    """More samples than a density takes, sorted: the last are as near as the first."""
    train, reference, others = sides
    samples = np.repeat(train[np.argsort(train[:, 0])], 15, axis=0)
    scores = synthetic.density_ratio(train, samples, reference)
    assert figures.auc(scores, synthetic.density_ratio(others, samples, reference)) > 0.8
    upper = train[:, 0] > np.median(train[:, 0])
    assert figures.auc(scores[upper], scores[~upper]) == pytest.approx(0.5, abs=0.15)


def test_exact_copies_are_the_surest(sides):
    train, reference, _ = sides
    scores = synthetic.calibrated_distance(train[:5], train[:5], reference)
    assert np.isfinite(scores).all()
    assert (scores > 5).all()


def test_copies_are_counted_beside_what_was_never_seen(sides):
    train, _, others = sides
    copied = synthetic.copying(samples_of(train, copied=True), train, others, seed=0)
    fresh = synthetic.copying(samples_of(train, copied=False), train, others, seed=0)
    assert copied.copies > 350
    assert copied.control_copies < 5
    assert copied.nearer > 0.95
    assert copied.authentic < 0.2 < fresh.authentic
    assert fresh.copies < 10
    assert 0.4 < fresh.nearer < 0.6
    tail = float(1 - FAIL_CONFIDENCE) / 2
    limits = [
        clopper_pearson_one_sided(successes=count, trials=400, tail_probability=tail)
        for count in (fresh.copies, fresh.control_copies)
    ]
    assert limits[0]["lower"] <= limits[1]["upper"]


def test_duplicates_in_the_training_data_do_not_set_the_limit_to_nothing(sides):
    train, _, others = sides
    doubled = np.concatenate([train[:100], train[:100]])
    found = synthetic.copying(samples_of(train[:100], copied=True), doubled, others, seed=0)
    assert found.copies > 100


def test_too_few_records_are_refused(sides):
    train, reference, others = sides
    with pytest.raises(InvalidValue, match="must have two records"):
        synthetic.copying(train, train, others[:1], seed=0)
    with pytest.raises(InvalidValue, match="must have 10 rows each"):
        synthetic.density_ratio(train, train[:9], reference)


def test_a_constant_column_is_no_dimension(sides):
    train, reference, others = (np.concatenate([part, part * 0 + 0.5], axis=1) for part in sides)
    samples = samples_of(train[:, :12], copied=True)
    samples = np.concatenate([samples, samples * 0 + 0.5], axis=1)
    scores = synthetic.density_ratio(others, samples, reference)
    assert np.isfinite(scores).all()
    assert len(train)
