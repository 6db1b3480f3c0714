"""Library events of any shape: one text each, never covered by another, never cheaper in part."""

from __future__ import annotations

import json
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from primum.domain.accounting import library_costs
from primum.domain.accounting.events import (
    Composed,
    LibraryEvent,
    Repeated,
    covers,
    describe,
    event_from_json,
    flatten,
)
from primum.domain.accounting.library_reading import event_from_dp_accounting
from primum.domain.accounting.policies import policy_named
from primum.domain.accounting.rdp import rdp_curve, unsupported_by_rdp
from primum.domain.quantities import Neighbors

FEW = settings(max_examples=60, deadline=None)
ORDERS = (2.0, 3.0, 8.0, 64.0)  # At fractional ones the library may give up: infinite.

noises = st.decimals("0.5", "100", places=3)
rates = st.decimals("0.0001", "1", places=4)
sizes = st.integers(1, 10**6)
relations = st.sampled_from(Neighbors)


def made(name, **fields):
    return st.fixed_dictionaries(fields).map(lambda values: LibraryEvent.of(name, **values))


gaussians = made("Gaussian", noise_multiplier=noises)
sampled = made("PoissonSampled", sampling_probability=rates, event=gaussians)
simple = st.one_of(
    gaussians,
    sampled,
    made("Laplace", noise_multiplier=noises),
    made("ZCDp", rho=st.decimals("0", "1", places=6), xi=st.decimals("0", "1", places=6)),
    made(
        "RandomizedResponse",
        noise_parameter=st.decimals("0.01", "0.99", places=2),
        num_buckets=st.integers(2, 9),
    ),
)
others = st.one_of(
    made(
        "DiscreteLaplace",
        noise_parameter=st.decimals("0.001", "2", places=3),
        sensitivity=st.integers(1, 50),
    ),
    made(
        "SingleEpochTreeAggregation",
        noise_multiplier=noises,
        step_counts=st.lists(sizes, min_size=1, max_size=4).map(tuple),
    ),
    made(
        "TruncatedSubsampledGaussian",
        dataset_size=sizes,
        sampling_probability=rates,
        truncated_batch_size=sizes,
        noise_multiplier=noises,
    ),
    made("SampledWithReplacement", source_dataset_size=sizes, sample_size=sizes, event=gaussians),
    st.integers(1, 99).map(
        lambda percent: LibraryEvent.of(
            "MixtureOfGaussians",
            standard_deviation=Decimal(3),
            sensitivities=(Decimal(0), Decimal("1.5")),
            sampling_probs=(1 - Decimal(percent) / 100, Decimal(percent) / 100),
        )
    ),
)
shapes = st.one_of(st.just(Decimal("Infinity")), st.decimals("0", "3", places=1))


def around(inner):
    return st.one_of(
        made("SelfComposed", event=inner, count=st.integers(1, 1000)),
        made("Composed", events=st.lists(inner, min_size=1, max_size=3).map(tuple)),
        made("RepeatAndSelect", event=inner, mean=st.decimals("1", "50", places=1), shape=shapes),
    )


computed = st.one_of(simple, around(simple), around(around(simple)))
events = st.one_of(computed, others, around(others))


@given(events)
@FEW
def test_json_reads_back_and_is_one_text_per_event(event):
    text = json.dumps(event.to_json(), sort_keys=True)
    again = event_from_json(json.loads(text))
    assert again == event
    assert hash(again) == hash(event)
    assert json.dumps(again.to_json(), sort_keys=True) == text
    assert event.name in describe(event)


@given(events)
@FEW
def test_the_library_reads_back_what_we_hand_it(event):
    """Every field arrives, as the library itself repeats it."""
    import dp_accounting

    there = library_costs.library_object(event)
    assert dp_accounting.DpEvent.from_named_tuple(there.to_named_tuple()) == there


@given(events)
@FEW
def test_what_the_library_says_is_read_as_our_events(event):
    """What has an event of its own becomes it; the rest keeps every parameter."""
    there = library_costs.library_object(event)
    found = event_from_dp_accounting(there)
    assert event_from_json(found.to_json()) == found
    for leaf, _ in flatten(found):
        if isinstance(leaf, LibraryEvent):
            assert leaf.name not in {"Composed", "SelfComposed", "Gaussian", "Laplace"}
    if event.name in {"RepeatAndSelect", "ZCDp", "DiscreteLaplace", "MixtureOfGaussians"}:
        assert found == event


@given(events, events)
@FEW
def test_only_equal_events_cover_each_other(planned, executed):
    assert covers(Repeated(planned, 3), Repeated(planned, 2))
    assert not covers(Repeated(planned, 2), Repeated(planned, 3))
    assert covers(planned, executed) is (planned == executed)


@given(computed, relations)
@FEW
def test_a_curve_is_above_nothing_and_grows_with_the_count(event, neighbors):
    if unsupported_by_rdp(event, neighbors) is not None:
        return
    curve = rdp_curve(event, ORDERS, neighbors)
    assert all(value >= library_costs.PADDING for value in curve)
    thrice = rdp_curve(Repeated(event, 3), ORDERS, neighbors)
    inside = LibraryEvent.of("SelfComposed", event=event, count=3)
    for one, three, nested in zip(curve, thrice, rdp_curve(inside, ORDERS, neighbors), strict=True):
        assert three >= one
        assert abs(three - nested) <= 1e-9 * three
    doubled = policy_named("RDP").charge(Composed((event, event)), neighbors).as_dict
    alone = policy_named("RDP").charge(event, neighbors).as_dict
    assert all(0 < alone[key] <= doubled[key] for key in alone)
