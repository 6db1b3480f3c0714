"""Events of dp-accounting: what is carried, what is refused by name, and who may charge what."""

from __future__ import annotations

import math
import subprocess
import sys
from decimal import Decimal

import pytest

from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.basic import BasicAccountant
from primum.domain.accounting.events import (
    Composed,
    Gaussian,
    IndividuallyFiltered,
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
from primum.domain.accounting.gdp import GdpAccountant
from primum.domain.accounting.library import CLASSES, REFUSED, LibraryEvent, class_name
from primum.domain.accounting.library_costs import PADDING, library_object
from primum.domain.accounting.library_reading import event_from_dp_accounting
from primum.domain.accounting.pld import PldAccountant
from primum.domain.accounting.policies import policy_named
from primum.domain.accounting.rdp import RdpAccountant, rdp_curve
from primum.domain.errors import InvalidValue, UnsupportedEvent
from primum.domain.quantities import Neighbors

ADD, REPLACE = Neighbors.ADD_OR_REMOVE_ONE, Neighbors.REPLACE_ONE
DELTA = Decimal("1e-6")
NOISE = Decimal("1.31")
LAPLACE = LibraryEvent.of("Laplace", noise_multiplier=Decimal(2))
GAUSSIAN = LibraryEvent.of("Gaussian", noise_multiplier=NOISE)
SAMPLED_LAPLACE = LibraryEvent.of(
    "PoissonSampled", sampling_probability=Decimal("0.01"), event=LAPLACE
)
DISCRETE = LibraryEvent.of("DiscreteLaplace", noise_parameter=Decimal("0.25"), sensitivity=2)
MIXTURE = LibraryEvent.of(
    "MixtureOfGaussians",
    standard_deviation=Decimal(20),
    sensitivities=(Decimal(0), Decimal(1), Decimal(2)),
    sampling_probs=(Decimal("0.81"), Decimal("0.18"), Decimal("0.01")),
)
SELECTED = LibraryEvent.of(
    "RepeatAndSelect", event=GAUSSIAN, mean=Decimal(5), shape=Decimal("Infinity")
)
FIXED_SIZE = LibraryEvent.of(
    "SampledWithoutReplacement", source_dataset_size=1625, sample_size=64, event=GAUSSIAN
)
TREE = LibraryEvent.of("SingleEpochTreeAggregation", noise_multiplier=NOISE, step_counts=(9, 3))
TRUNCATED = LibraryEvent.of(
    "TruncatedSubsampledGaussian",
    dataset_size=1000,
    sampling_probability=Decimal("0.05"),
    truncated_batch_size=70,
    noise_multiplier=Decimal(2),
)
ZCDP = LibraryEvent.of("ZCDp", rho=Decimal("0.02"), xi=Decimal("0.001"))
REPLACED = LibraryEvent.of(
    "SampledWithReplacement", source_dataset_size=100, sample_size=10, event=GAUSSIAN
)
RESPONSE = LibraryEvent.of("RandomizedResponse", noise_parameter=Decimal("0.5"), num_buckets=4)
POISSON = LibraryEvent.of("PoissonSampled", sampling_probability=Decimal("0.281"), event=GAUSSIAN)
TWICE = LibraryEvent.of("SelfComposed", event=POISSON, count=2)
BOTH = LibraryEvent.of("Composed", events=(TWICE, ZCDP))
EVERY = {
    event.name: event
    for event in (
        *(BOTH, TWICE, DISCRETE, GAUSSIAN, LAPLACE, MIXTURE, POISSON, RESPONSE, SELECTED),
        *(REPLACED, FIXED_SIZE, TREE, TRUNCATED, ZCDP),
    )
}


def library_classes() -> dict[str, type]:
    """Every event class that the installed library exports or defines."""
    import dp_accounting

    found = {**vars(dp_accounting), **vars(dp_accounting.dp_event)}
    base = dp_accounting.DpEvent
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    }


def test_every_class_of_the_installed_library_is_carried_or_refused_by_name():
    """A new class of a later version fails here until somebody has decided about it."""
    assert set(library_classes()) == {class_name(name) for name in (*CLASSES, *REFUSED)}
    assert set(EVERY) == set(CLASSES)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_the_fields_are_those_of_the_library(name):
    import attr

    fields = [field.name for field in attr.fields(library_classes()[class_name(name)])]
    assert fields == list(CLASSES[name])
    assert type(library_object(EVERY[name])) is library_classes()[class_name(name)]


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_json_reads_back_through_the_one_door(name):
    event = Repeated(Composed((EVERY[name], Gaussian(NOISE))), 3)
    assert event_from_json(event.to_json()) == event


def test_json_is_canonical_and_in_the_fields_own_terms():
    assert SAMPLED_LAPLACE.to_json() == {
        "event": "LibraryEvent",
        "name": "PoissonSampled",
        "parameters": {
            "samplingProbability": "0.01",
            "event": {"name": "Laplace", "parameters": {"noiseMultiplier": "2"}},
        },
    }
    assert SELECTED.to_json()["parameters"]["shape"] == "Infinity"
    again = LibraryEvent.of("Laplace", noise_multiplier=Decimal("2.00"))
    assert again == LAPLACE
    assert again.to_json() == LAPLACE.to_json()


def test_people_read_every_parameter():
    assert describe(SAMPLED_LAPLACE) == (
        "dp-accounting PoissonSampled(sampling probability 0.01, event Laplace(noise multiplier 2))"
    )


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UnsupportedEvent, match=r"Gaussian, .*LibraryEvent; found Shuffle"):
        event_from_json({"event": "Shuffle"})
    with pytest.raises(UnsupportedEvent, match=r"MixtureOfGaussians.*ZCDp; found Shuffle"):
        event_from_json({"event": "LibraryEvent", "name": "Shuffle", "parameters": {}})


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_must_not_hide_in_a_library_event_is_refused_by_name(name):
    with pytest.raises(UnsupportedEvent, match=f"found {name}"):
        LibraryEvent.of(name)
    inner = {"name": name, "parameters": {}}
    with pytest.raises(UnsupportedEvent, match=f"found {name}"):
        event_from_json(
            {
                "event": "LibraryEvent",
                "name": "SelfComposed",
                "parameters": {"event": inner, "count": 2},
            }
        )


@pytest.mark.parametrize(
    ("name", "parameters", "named"),
    [
        ("Laplace", {}, "Laplace.noiseMultiplier must be present"),
        ("Laplace", {"noiseMultiplier": 2}, "Laplace.noiseMultiplier must be a quoted decimal"),
        ("Laplace", {"noiseMultiplier": "x"}, "Laplace.noiseMultiplier must be a quoted decimal"),
        ("Laplace", {"noiseMultiplier": "0"}, "noise_multiplier must be from"),
        ("Laplace", {"noiseMultiplier": "-1"}, "noise_multiplier must be from"),
        ("Laplace", {"noiseMultiplier": "NaN"}, "noise_multiplier must be finite"),
        ("Laplace", {"noiseMultiplier": "sNaN"}, "noise_multiplier must be finite"),
        ("Laplace", {"noiseMultiplier": "Infinity"}, "noise_multiplier must be finite"),
        ("Laplace", {"noiseMultiplier": "1e-400"}, "noise_multiplier must be from"),
        ("Laplace", {"noiseMultiplier": "1." + "1" * 41}, "at most 40 digits"),
        ("Laplace", {"noiseMultiplier": "2", "scale": "2"}, "Laplace.scale must not be present"),
        ("Laplace", [], "Laplace.parameters must be an object"),
        ("ZCDp", {"rho": "0.1"}, "ZCDp.xi must be present"),
        ("ZCDp", {"rho": "-0.1", "xi": "0"}, "ZCDp.rho must be from"),
        ("PoissonSampled", {"samplingProbability": "1.1"}, "PoissonSampled.event must be present"),
        ("SelfComposed", {"event": "Laplace", "count": 2}, "must be an object with name"),
        ("Composed", {"events": []}, "Composed.events must be a list of 1 to 64"),
        ("Composed", {"events": {}}, "Composed.events must be a list of 1 to 64"),
    ],
)
def test_a_malformed_library_event_is_refused_by_field(name, parameters, named):
    with pytest.raises(InvalidValue, match=named):
        event_from_json({"event": "LibraryEvent", "name": name, "parameters": parameters})


@pytest.mark.parametrize(
    ("name", "fields", "named"),
    [
        ("SelfComposed", {"event": LAPLACE, "count": 0}, "count must be a whole number from 1"),
        ("SelfComposed", {"event": LAPLACE, "count": True}, "count must be a whole number"),
        ("SelfComposed", {"event": Gaussian(NOISE), "count": 2}, "must be a library event"),
        ("Laplace", {"noise_multiplier": 2}, "noise_multiplier must be an exact decimal"),
        ("Laplace", {"noise_multiplier": 2.0}, "noise_multiplier must be an exact decimal"),
        ("Laplace", {"scale": Decimal(2)}, "Laplace.scale must not be present"),
        (
            "SampledWithoutReplacement",
            {"source_dataset_size": 9, "sample_size": 10, "event": GAUSSIAN},
            "sample_size must be at most source_dataset_size",
        ),
        (
            "MixtureOfGaussians",
            {
                "standard_deviation": Decimal(1),
                "sensitivities": (Decimal(0), Decimal(1)),
                "sampling_probs": (Decimal("0.5"), Decimal("0.4")),
            },
            "sampling_probs must add up to 1",
        ),
        (
            "MixtureOfGaussians",
            {
                "standard_deviation": Decimal(1),
                "sensitivities": (Decimal(0), Decimal(1)),
                "sampling_probs": (Decimal("0.5"), Decimal("0.5000000001")),
            },
            "sampling_probs must add up to 1",
        ),
        (
            "MixtureOfGaussians",
            {
                "standard_deviation": Decimal(1),
                "sensitivities": (Decimal(0),),
                "sampling_probs": (Decimal(1),),
            },
            "sensitivities must have one above 0",
        ),
        (
            "MixtureOfGaussians",
            {
                "standard_deviation": Decimal(1),
                "sensitivities": (Decimal(1),),
                "sampling_probs": (Decimal("0.5"), Decimal("0.5")),
            },
            "must be as many as sensitivities",
        ),
    ],
)
def test_an_event_without_a_meaning_is_refused(name, fields, named):
    with pytest.raises(InvalidValue, match=named):
        LibraryEvent.of(name, **fields)


def test_fields_have_one_order():
    wrong = tuple(reversed(ZCDP.parameters))
    with pytest.raises(InvalidValue, match="ZCDp must have the fields rho, xi; found xi, rho"):
        LibraryEvent("ZCDp", wrong)


def test_a_library_event_is_small():
    deep = LAPLACE
    for _ in range(5):
        deep = LibraryEvent.of("SelfComposed", event=deep, count=2)
    with pytest.raises(InvalidValue, match="nest library events at most 6 deep"):
        LibraryEvent.of("SelfComposed", event=deep, count=2)
    hostile = LAPLACE.to_json()
    del hostile["event"]
    for _ in range(5000):
        hostile = {"name": "SelfComposed", "parameters": {"event": hostile, "count": 1}}
    with pytest.raises(InvalidValue, match="nest library events at most 6 deep"):
        event_from_json({"event": "LibraryEvent", **hostile})
    row = LibraryEvent.of("Composed", events=(LAPLACE,) * 63)
    with pytest.raises(InvalidValue, match="at most 64 library events"):
        LibraryEvent.of("Composed", events=(row, LAPLACE))


@pytest.mark.parametrize(
    ("planned", "executed", "expected"),
    [
        (Repeated(ZCDP, 9), Repeated(ZCDP, 9), True),
        (Repeated(ZCDP, 9), Repeated(ZCDP, 4), True),
        (Repeated(ZCDP, 9), NoEvent(), True),
        (Repeated(ZCDP, 9), Repeated(ZCDP, 10), False),
        (ZCDP, LibraryEvent.of("ZCDp", rho=Decimal("0.01"), xi=Decimal("0.001")), False),
        (GAUSSIAN, Gaussian(NOISE), False),
        (Gaussian(NOISE), GAUSSIAN, False),
        (NonPrivate(), GAUSSIAN, True),
        (ZCDP, NonPrivate(), False),
        (Composed((ZCDP, MIXTURE)), Composed((MIXTURE, ZCDP)), True),
    ],
)
def test_covers_only_the_equal_event(planned, executed, expected):
    assert covers(planned, executed) is expected


def test_it_is_one_mechanism():
    assert dict(flatten(Repeated(Composed((ZCDP, ZCDP, MIXTURE)), 2))) == {ZCDP: 4, MIXTURE: 2}
    with pytest.raises(InvalidValue, match="bound must be Gaussian steps"):
        IndividuallyFiltered(GAUSSIAN, (2,))


RENYI_ADD = {"Composed", "SelfComposed", "Gaussian", "Laplace", "PoissonSampled", "ZCDp"}
RENYI_ADD |= {"RepeatAndSelect"}
RENYI_REPLACE = {"Gaussian", "Laplace", "ZCDp", "RepeatAndSelect", "RandomizedResponse"}
RENYI_REPLACE |= {"SampledWithoutReplacement"}
LOSSES_ADD = {"SelfComposed", "DiscreteLaplace", "Gaussian", "Laplace", "MixtureOfGaussians"}
LOSSES_ADD |= {"PoissonSampled", "TruncatedSubsampledGaussian"}
LOSSES_REPLACE = {"SelfComposed", "Gaussian", "PoissonSampled", "RandomizedResponse"}
LOSSES_REPLACE |= {"TruncatedSubsampledGaussian"}


@pytest.mark.parametrize("name", sorted(CLASSES))
@pytest.mark.parametrize(
    ("accountant", "neighbors", "supported"),
    [
        (RdpAccountant(), ADD, RENYI_ADD),
        (RdpAccountant(), REPLACE, RENYI_REPLACE),
        (PldAccountant(), ADD, LOSSES_ADD),
        (PldAccountant(), REPLACE, LOSSES_REPLACE),
        (GdpAccountant(), ADD, set()),
        (BasicAccountant(), ADD, {"Laplace", "DiscreteLaplace"}),
    ],
    ids=["RDP add", "RDP replace", "PLD add", "PLD replace", "GDP", "pure"],
)
def test_who_vouches_for_what_and_everybody_else_refuses_by_name(
    name, accountant, neighbors, supported
):
    event = EVERY[name]
    if name in supported:
        assert accountant.unsupported(event, neighbors) is None
        return
    with pytest.raises(UnsupportedEvent, match=name):
        accountant.epsilon(Composed((event, Gaussian(NOISE))), DELTA, neighbors)


@pytest.mark.parametrize(
    ("event", "neighbors", "remedy"),
    [
        (FIXED_SIZE, ADD, "it has one under ReplaceOne"),
        (POISSON, REPLACE, "it has one under AddOrRemoveOne"),
        (SAMPLED_LAPLACE, ADD, "use PLD accounting, or a Basic budget"),
        (TREE, ADD, "in dp-accounting."),
    ],
)
def test_a_refusal_names_the_relation_and_what_would_help(event, neighbors, remedy):
    reason = policy_named("RDP").unsupported(event, neighbors)
    assert neighbors.value in reason
    assert remedy in reason


def test_zcdp_is_its_line_and_two_steps_away_under_a_replacement():
    curve = rdp_curve(Repeated(ZCDP, 10), (2.0, 16.0), ADD)
    assert curve == pytest.approx([10 * (0.001 + 0.02 * order) for order in (2, 16)], rel=1e-8)
    doubled = rdp_curve(ZCDP, (2.0, 16.0), REPLACE)
    assert doubled == pytest.approx([0.003 + 0.08 * order for order in (2, 16)], rel=1e-8)


def test_a_divergence_below_floating_point_is_never_nothing():
    """The library computes 0 here; a million steps of it would be free."""
    tiny = LibraryEvent.of(
        "PoissonSampled",
        sampling_probability=Decimal("1E-9"),
        event=LibraryEvent.of("Gaussian", noise_multiplier=Decimal(1)),
    )
    own = SubsampledGaussian(Decimal(1), Decimal("1E-9"))
    orders = (2.0, 3.0, 8.0)
    for ours, theirs in zip(rdp_curve(own, orders, ADD), rdp_curve(tiny, orders, ADD), strict=True):
        assert theirs >= ours
    assert rdp_curve(Repeated(tiny, 10**6), (2.0,), ADD)[0] >= 10**6 * PADDING
    charge = policy_named("RDP").charge(tiny, ADD)
    assert all(amount >= 1 for _, amount in charge.amounts)


def test_noise_that_hides_nothing_costs_more_than_any_budget_has():
    bare = LibraryEvent.of("Gaussian", noise_multiplier=Decimal("1E-6"))
    policy = policy_named("RDP")
    assert not policy.admits(
        capacity=policy.capacity(Guarantee(Decimal(1000), Decimal("0.1"))),
        used=policy.charge(NoEvent(), ADD),
        request=policy.charge(bare, ADD),
    )


def test_what_the_librarys_arithmetic_cannot_do_is_refused_by_name():
    wide = LibraryEvent.of("Gaussian", noise_multiplier=Decimal("1E+12"))
    event = LibraryEvent.of(
        "SampledWithoutReplacement", source_dataset_size=10, sample_size=5, event=wide
    )
    with pytest.raises(UnsupportedEvent, match=r"SampledWithoutReplacement.*beyond what"):
        policy_named("RDP").charge(event, REPLACE)


@pytest.mark.parametrize("event", [DISCRETE, MIXTURE, SAMPLED_LAPLACE, TRUNCATED])
def test_a_basic_budget_charges_a_proved_point_of_what_has_no_renyi_curve(event):
    basic, mixture = policy_named("Basic"), policy_named("Mixture")
    charge = basic.charge(Composed((event, GAUSSIAN)), ADD).as_dict
    alone = basic.charge(event, ADD).as_dict
    assert charge["epsilon"] > alone["epsilon"] > 0
    assert alone["delta"] == (0 if event is DISCRETE else 1000)
    request = mixture.charge(event, ADD)
    guarantee = Guarantee(Decimal(300), Decimal("1e-5"))
    nothing = mixture.charge(NoEvent(), ADD)
    assert mixture.admits(capacity=mixture.capacity(guarantee), used=nothing, request=request)


def test_discrete_laplace_is_pure():
    charge = policy_named("Basic").charge(Repeated(DISCRETE, 3), ADD).as_dict
    assert charge["delta"] == 0
    assert charge["epsilon"] == pytest.approx(1.5e12, rel=1e-9)
    assert charge["epsilon"] >= 15 * 10**11
    assert BasicAccountant().epsilon(DISCRETE, DELTA, REPLACE) >= 1
    exact = PldAccountant().epsilon(Repeated(DISCRETE, 3), Decimal("1e-12"), ADD)
    assert exact <= BasicAccountant().epsilon(Repeated(DISCRETE, 3), DELTA, ADD) + Decimal("0.001")


def test_a_basic_budget_still_refuses_answers_that_tell_who_answered():
    own = RandomizedResponse(Decimal("0.5"), 4)
    for event in (own, RESPONSE, Composed((own, MIXTURE)), Composed((DISCRETE, RESPONSE))):
        assert "RandomizedResponse" in policy_named("Basic").unsupported(event, ADD)


def test_reading_an_event_imports_no_library():
    program = (
        "import sys; from primum.domain.accounting import events, policies, rdp, pld; "
        "from primum.domain.accounting.library import LibraryEvent; "
        f"event = events.event_from_json({BOTH.to_json()!r}); "
        "assert events.covers(event, event) and events.describe(event); "
        "print([m for m in ('dp_accounting', 'numpy', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_no_cost_is_infinite_by_accident():
    for name in sorted(RENYI_ADD):
        assert all(math.isfinite(value) for value in rdp_curve(EVERY[name], (3.0, 64.0), ADD))


def test_objects_of_the_library_are_read_as_our_own_events_where_there_are_any():
    import dp_accounting as dp

    words = dp.dp_event
    step = words.PoissonSampledDpEvent(0.281, words.GaussianDpEvent(1.31))
    found = event_from_dp_accounting(
        words.ComposedDpEvent(
            [
                words.SelfComposedDpEvent(step, 90),
                words.LaplaceDpEvent(2),
                words.RandomizedResponseDpEvent(0.5, 4),
                words.NoOpDpEvent(),
                words.NonPrivateDpEvent(),
                words.SingleEpochTreeAggregationDpEvent(1.31, 9),
                words.ZCDpEvent(0.02),
                words.RepeatAndSelectDpEvent(words.GaussianDpEvent(1.31), 5, math.inf),
            ]
        )
    )
    zcdp = LibraryEvent.of("ZCDp", rho=Decimal("0.02"), xi=Decimal(0))
    tree = LibraryEvent.of("SingleEpochTreeAggregation", noise_multiplier=NOISE, step_counts=(9,))
    assert found == Composed(
        (
            Repeated(SubsampledGaussian(NOISE, Decimal("0.281")), 90),
            Laplace(Decimal(2)),
            RandomizedResponse(Decimal("0.5"), 4),
            NoEvent(),
            NonPrivate(),
            tree,
            zcdp,
            SELECTED,
        )
    )


def test_what_is_no_event_of_the_library_is_refused_by_name():
    import dp_accounting as dp

    class ShuffledDpEvent(dp.DpEvent):
        pass

    words = dp.dp_event
    for part in (ShuffledDpEvent(), words.UnsupportedDpEvent(), "Gaussian", None):
        with pytest.raises(UnsupportedEvent, match="found"):
            event_from_dp_accounting(part)
        with pytest.raises(UnsupportedEvent, match="found"):
            event_from_dp_accounting(words.SelfComposedDpEvent(part, 3))
        with pytest.raises(UnsupportedEvent, match="found"):
            event_from_dp_accounting(words.RepeatAndSelectDpEvent(part, 3.0, 1.0))
    for bad in (math.nan, -1.0, "1", True, None):
        with pytest.raises(InvalidValue, match="noise_multiplier"):
            event_from_dp_accounting(words.GaussianDpEvent(bad))
    deep = words.GaussianDpEvent(1.0)
    for _ in range(2000):
        deep = words.SelfComposedDpEvent(deep, 1)
    with pytest.raises(InvalidValue, match="deep"):
        event_from_dp_accounting(deep)


def test_a_sampled_composition_counts_every_part_whatever_number_type_it_was_given_in():
    """The library itself stops at a noise multiplier that is a whole number (version 0.6.0)."""
    import dp_accounting as dp

    words = dp.dp_event
    whole = words.PoissonSampledDpEvent(0.1, words.SelfComposedDpEvent(words.GaussianDpEvent(4), 9))
    found = event_from_dp_accounting(whole)
    own = SubsampledGaussian(Decimal(4) / 3, Decimal("0.1"))
    assert rdp_curve(found, (8.0,), ADD) == pytest.approx(rdp_curve(own, (8.0,), ADD), rel=1e-6)


@pytest.mark.parametrize(
    "event",
    [
        LibraryEvent.of(
            "PoissonSampled",
            sampling_probability=Decimal("0.01"),
            event=LibraryEvent.of("Laplace", noise_multiplier=Decimal("1E-6")),
        ),
        LibraryEvent.of("DiscreteLaplace", noise_parameter=Decimal("1E+6"), sensitivity=10**6),
        Repeated(SAMPLED_LAPLACE, 10**9),
        Composed((SAMPLED_LAPLACE, Gaussian(Decimal("1E-6")))),
        LibraryEvent.of("SelfComposed", event=TRUNCATED, count=10**9),
    ],
    ids=["little noise", "discrete", "often", "beside little noise", "composed"],
)
def test_a_grid_that_does_not_fit_into_memory_is_refused_before_it_is_made(event):
    with pytest.raises(UnsupportedEvent, match="on the grid of a loss distribution"):
        PldAccountant().epsilon(event, DELTA, ADD)


def test_a_long_plan_of_small_losses_fits():
    assert PldAccountant().unsupported(Repeated(SAMPLED_LAPLACE, 10**4), ADD) is None
