"""Are reliability, adaptive ECE and temperature scaling what their papers say?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from primum.domain.errors import InvalidValue
from primum_pipelines.evaluation import calibration
from primum_pipelines.evaluation.figures import Scored
from primum_pipelines.steps import measuring


def truthful(rows=4000, seed=3):
    """Probabilities that come true as often as they say."""
    generator = np.random.default_rng(seed)
    high = generator.uniform(0.5, 1, rows)
    labels = (generator.random(rows) > high).astype(np.int64)
    return np.stack([high, 1 - high], axis=1), labels


def overconfident(factor):
    probabilities, labels = truthful()
    return calibration.scaled(probabilities, 1 / factor), labels


def test_bins_add_up_to_the_calibration_error():
    probabilities, labels = overconfident(2)
    scored = Scored(labels, probabilities, 0)
    bins = calibration.reliability(scored)
    assert sum(item.rows for item in bins) == len(labels)
    gaps = [item.rows * abs(item.accuracy - item.confidence) for item in bins if item.rows]
    found = calibration.calibration(scored)
    assert found["ece"].estimate == pytest.approx(sum(gaps) / len(labels))


def test_many_slices_of_a_patient_do_not_make_a_bin_that_is_shown():
    probabilities, labels = truthful()
    own = Scored(labels, probabilities, 0, np.arange(len(labels)))
    assert measuring._bins(own)
    assert measuring._bins(replace(own, units=np.arange(len(labels)) % 29)) == []


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
def test_the_temperature_that_was_put_in_is_found_again(factor):
    probabilities, labels = overconfident(factor)
    assert calibration.fit_temperature(probabilities, labels) == pytest.approx(factor, rel=0.1)


def test_scaling_heals_overconfidence_and_keeps_every_answer():
    probabilities, labels = overconfident(3)
    healed = calibration.scaled(probabilities, calibration.fit_temperature(probabilities, labels))
    assert (healed.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    before = calibration.calibration(Scored(labels, probabilities, 0))
    after = calibration.calibration(Scored(labels, healed, 0))
    for name in ("ece", "adaptiveEce"):
        assert after[name].estimate < before[name].estimate / 4, name


def test_adaptive_bins_hold_equally_many():
    """Scores 0.6 and 0.9, each right half of the time: gaps 0.1 and 0.4, whatever the bins."""
    high = np.repeat([0.6, 0.9], 150)
    labels = np.tile([0, 1], 150)
    found = calibration.calibration(Scored(labels, np.stack([high, 1 - high], axis=1), 0))
    assert found["adaptiveEce"].estimate == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_must_be_above_zero(temperature):
    with pytest.raises(InvalidValue, match="temperature must be above 0"):
        calibration.scaled(np.array([[0.5, 0.5]]), temperature)


def test_certain_answers_can_be_scaled():
    healed = calibration.scaled(np.array([[1.0, 0.0]]), 50.0)
    assert np.isfinite(healed).all()
    assert healed.sum() == pytest.approx(1)


def test_a_temperature_needs_rows():
    with pytest.raises(InvalidValue, match="at least one"):
        calibration.fit_temperature(np.zeros((0, 2)), np.zeros(0, dtype=np.int64))
