"""What the server accepts from a site, and how it averages."""

from __future__ import annotations

import numpy as np
import pytest

from primum.domain.errors import InvalidValue
from primum_pipelines.federation.aggregation import (
    check_update,
    step_norm_max,
    weighted_average,
)


def arrays(value=0.0, *, dtype=np.float32):
    return {"weight": np.full((2, 3), value, dtype), "bias": np.full(2, value, dtype)}


def check(update, norm_max=10.0):
    check_update(update, sent=arrays(), site="va", norm_max=norm_max)


def test_an_update_like_what_was_sent_passes():
    check(arrays(0.5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": np.zeros(1, np.float32)}, "exactly the arrays"),
        ({"bias": np.zeros(3, np.float32)}, "must have array bias"),
        ({"bias": np.zeros(2, np.float64)}, "must have array bias of float32"),
        ({"bias": np.array([0.0, np.nan], np.float32)}, "must be finite"),
        ({"bias": np.array([0.0, np.inf], np.float32)}, "must be finite"),
        ({"bias": np.array([0.0, 11.0], np.float32)}, "must not move the model further"),
    ],
)
def test_what_cannot_have_come_from_the_planned_training_is_refused(change, message):
    with pytest.raises(InvalidValue, match=message) as caught:
        check({**arrays(), **change})
    assert "site va" in str(caught.value)
    assert "11" not in str(caught.value).replace("[", "")


def test_a_missing_array_is_refused():
    with pytest.raises(InvalidValue, match="exactly the arrays"):
        check({"weight": arrays()["weight"]})


def test_the_average_weighs_by_declared_units():
    updates = {"a": arrays(1.0), "b": arrays(5.0)}
    averaged = weighted_average(updates, weights={"a": 300, "b": 100})
    assert averaged["weight"] == pytest.approx(np.full((2, 3), 2.0))
    assert averaged["bias"].dtype == np.float32


def test_sites_that_agree_stay_where_they_are():
    updates = {name: arrays(0.3) for name in "abc"}
    averaged = weighted_average(updates, weights={"a": 1, "b": 2, "c": 97})
    assert np.array_equal(averaged["weight"], arrays(0.3)["weight"])


@pytest.mark.parametrize(
    ("updates", "weights"),
    [
        ({}, {}),
        ({"a": arrays()}, {"a": 1, "b": 1}),
        ({"a": arrays(), "c": arrays()}, {"a": 1, "b": 1}),
        ({"a": arrays()}, {"a": 0}),
    ],
    ids=["nobody", "one missing", "a stranger", "no weight"],
)
def test_the_wrong_sites_or_weights_are_refused(updates, weights):
    with pytest.raises(InvalidValue):
        weighted_average(updates, weights=weights)


def test_the_longest_step_grows_with_what_lengthens_it():
    base = {
        "learning_rate": 1.0,
        "max_grad_norm": 1.0,
        "noise_multiplier": 1.0,
        "sample_rate": 0.1,
        "train_units": 200,
        "parameters": 22,
        "steps": 10,
    }
    first = step_norm_max(**base)
    # 10 steps of a batch of 20: each moves by at most (batch + noise) / 20.
    assert first == pytest.approx(10 * (20 + 10 * 20**0.5 + 10 + 10 * 22**0.5) / 20)
    for name in ("learning_rate", "max_grad_norm", "noise_multiplier", "parameters", "steps"):
        assert step_norm_max(**{**base, name: 2 * base[name]}) > first
