from __future__ import annotations

from decimal import Decimal

import pytest

from primum.domain.accounting.events import (
    Composed,
    Gaussian,
    Laplace,
    NoEvent,
    NonPrivate,
    RandomizedResponse,
    Repeated,
    SubsampledGaussian,
    covers,
    describe,
    event_from_json,
    flatten,
)
from primum.domain.errors import InvalidValue, UnsupportedEvent

STEP = SubsampledGaussian(Decimal("1.31"), Decimal("0.281"))


def test_json_is_canonical_and_reads_back():
    plan = Repeated(STEP, 90)
    assert plan.to_json() == {
        "event": "Repeated",
        "of": {"event": "SubsampledGaussian", "noiseMultiplier": "1.31", "sampleRate": "0.281"},
        "count": 90,
    }
    assert event_from_json(plan.to_json()) == plan
    assert Gaussian(Decimal("1.310")).to_json() == Gaussian(Decimal("1.31")).to_json()


def test_description_is_short_and_exact():
    assert (
        describe(Repeated(STEP, 90)) == "90 x Gaussian(noise multiplier 1.31) at Poisson rate 0.281"
    )
    assert describe(Composed(())) == "nothing"


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ({"event": "Shuffle"}, "Shuffle"),
        ({"event": "Gaussian"}, "noiseMultiplier"),
        ({"event": "Gaussian", "noiseMultiplier": "1", "extra": 1}, "extra"),
        ({"event": "Gaussian", "noiseMultiplier": 1.5}, "noiseMultiplier"),
        ({"event": "Gaussian", "noiseMultiplier": "x"}, "noiseMultiplier"),
        ({"event": "Composed", "events": "x"}, "events"),
        ([], "object"),
    ],
)
def test_unknown_and_malformed_parts_are_refused_by_name(value, part):
    with pytest.raises((InvalidValue, UnsupportedEvent), match=part):
        event_from_json(value)


def test_deep_nesting_is_refused_before_the_stack_ends():
    value = {"event": "NoEvent"}
    for _ in range(5000):
        value = {"event": "Repeated", "of": value, "count": 1}
    with pytest.raises(InvalidValue, match="deep"):
        event_from_json(value)


@pytest.mark.parametrize(
    "bad", [Decimal("0"), Decimal("-1"), Decimal("NaN"), Decimal("Infinity"), 1.0, Decimal("1E-9")]
)
def test_noise_must_be_a_positive_finite_decimal(bad):
    with pytest.raises(InvalidValue, match="noise_multiplier must"):
        Gaussian(bad)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SubsampledGaussian(Decimal(1), Decimal("1.1")),
        lambda: SubsampledGaussian(Decimal(1), Decimal(0)),
        lambda: RandomizedResponse(Decimal(1), 2),
        lambda: RandomizedResponse(Decimal("0.5"), 1),
        lambda: Repeated(STEP, -1),
        lambda: Repeated(STEP, True),
        lambda: Composed((STEP, "x")),
    ],
)
def test_out_of_range_parameters_are_refused(make):
    with pytest.raises(InvalidValue):
        make()


def test_flatten_merges_counts_and_drops_nothing():
    plan = Composed(
        (Repeated(STEP, 3), NoEvent(), Repeated(Composed((STEP, Laplace(Decimal(2)))), 2))
    )
    assert dict(flatten(plan)) == {STEP: 5, Laplace(Decimal(2)): 2}


@pytest.mark.parametrize(
    ("planned", "executed", "expected"),
    [
        (Repeated(STEP, 90), Repeated(STEP, 90), True),
        (Repeated(STEP, 90), Repeated(STEP, 91), False),
        (Repeated(STEP, 90), NoEvent(), True),
        (
            Repeated(STEP, 90),
            Repeated(SubsampledGaussian(Decimal("1.4"), Decimal("0.28")), 90),
            True,
        ),
        (Repeated(STEP, 90), SubsampledGaussian(Decimal("1.3"), Decimal("0.281")), False),
        (Repeated(STEP, 90), SubsampledGaussian(Decimal("1.31"), Decimal("0.3")), False),
        (Gaussian(Decimal("1.31")), STEP, True),
        (STEP, Gaussian(Decimal("1.31")), False),
        (STEP, NonPrivate(), False),
        (NonPrivate(), Repeated(STEP, 10), True),
        (Composed((Gaussian(Decimal(1)), STEP)), Composed((Gaussian(Decimal(1)), STEP)), True),
        (Laplace(Decimal(1)), Gaussian(Decimal(100)), False),
    ],
)
def test_covers(planned, executed, expected):
    assert covers(planned, executed) is expected
