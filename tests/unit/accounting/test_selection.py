"""Are selections made, read back and drawn as declared, and refused where nothing is proved?"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest

from primum.domain.accounting.events import (
    Composed,
    Gaussian,
    IndividuallyFiltered,
    Laplace,
    LibraryEvent,
    NonPrivate,
    Repeated,
    SubsampledGaussian,
    event_from_json,
    flatten,
)
from primum.domain.accounting.pld import PldAccountant
from primum.domain.accounting.rdp import rdp_curve
from primum.domain.accounting.selection import (
    RandomStopping,
    StoppingLaw,
    library_event_of,
    runs_in_view,
    selected_from,
)
from primum.domain.errors import InvalidValue, UnsupportedEvent
from primum.domain.quantities import Neighbors

ADD = Neighbors.ADD_OR_REMOVE_ONE
TNB, POISSON = StoppingLaw.TRUNCATED_NEGATIVE_BINOMIAL, StoppingLaw.POISSON
GEOMETRIC = RandomStopping(TNB, shape=Decimal(1), gamma=Decimal("0.25"))
STEP = SubsampledGaussian(Decimal("1.31"), Decimal("0.05"))
TRAINING = Composed((Repeated(STEP, 90), Gaussian(Decimal(20))))


def test_a_selection_is_read_back_as_the_runs_it_selects_from():
    event = GEOMETRIC.event(TRAINING)
    assert event_from_json(event.to_json()) == event
    run = selected_from(event)
    assert dict(flatten(run)) == dict(flatten(TRAINING))
    assert dict(flatten(runs_in_view(Repeated(event, 2)))) == {
        STEP: 180,
        Gaussian(Decimal(20)): 2,
    }


def test_other_events_are_no_selection_and_stay_in_view():
    laplace = LibraryEvent.of("Laplace", noise_multiplier=Decimal(2))
    assert selected_from(laplace) is None
    assert dict(flatten(runs_in_view(Composed((laplace, STEP))))) == {laplace: 1, STEP: 1}
    assert selected_from(GEOMETRIC.event(Laplace(Decimal(2)))) is None


@pytest.mark.parametrize("event", [STEP, Repeated(STEP, 90), TRAINING, Gaussian(Decimal(2))])
def test_the_librarys_words_for_a_run_cost_what_the_run_costs(event):
    orders = (2.0, 8.0, 32.0)
    theirs = rdp_curve(library_event_of(event), orders, ADD)
    assert theirs == pytest.approx(rdp_curve(event, orders, ADD), rel=1e-6)


def test_a_run_of_everybody_is_not_sampled():
    full = SubsampledGaussian(Decimal(2), Decimal(1))
    assert library_event_of(full) == library_event_of(Gaussian(Decimal(2)))


@pytest.mark.parametrize(
    "event",
    [
        NonPrivate(),
        IndividuallyFiltered(Repeated(STEP, 9), (2, 4)),
        Repeated(STEP, 0),
        Composed(()),
    ],
)
def test_what_cannot_be_selected_from_is_refused(event):
    with pytest.raises(UnsupportedEvent, match="best of several runs"):
        library_event_of(event)


@pytest.mark.parametrize(
    ("law", "numbers", "named"),
    [
        (TNB, {"shape": "1"}, "gamma"),
        (TNB, {"gamma": "0.1", "shape": "-0.5"}, "shape"),
        (TNB, {"gamma": "0.1", "shape": "11"}, "shape"),
        (TNB, {"gamma": "1", "shape": "1"}, "gamma"),
        (TNB, {"gamma": "0.1", "shape": "1", "mean": "3"}, "mean must be absent"),
        (POISSON, {"mean": "0.9"}, "mean"),
        (POISSON, {"mean": "3", "gamma": "0.1"}, "gamma must be absent"),
        (POISSON, {}, "mean"),
    ],
)
def test_a_distribution_without_its_own_numbers_is_refused(law, numbers, named):
    with pytest.raises(InvalidValue, match=named):
        RandomStopping(law, **{name: Decimal(value) for name, value in numbers.items()})


def test_numbers_of_runs_rise_with_the_uniform_value():
    law = RandomStopping(POISSON, mean=Decimal(5))
    drawn = [law.runs_at(Fraction(at, 64)) for at in range(64)]
    assert drawn == sorted(drawn)
    assert drawn[0] == 0
    assert GEOMETRIC.runs_at(Fraction(0)) == 1
    assert GEOMETRIC.runs_at(1 - Fraction(1, 2**256)) > 500  # The far tail is not cut off.
    assert GEOMETRIC.runs_at(Fraction(1, 4)) == 2  # A quarter of all searches is a single run.
    assert GEOMETRIC.runs_at(Fraction(1, 4) - Fraction(1, 2**200)) == 1
    with pytest.raises(InvalidValue, match="uniform"):
        GEOMETRIC.runs_at(Fraction(1))


def test_less_gamma_and_more_shape_cost_more():
    def cost(shape, gamma):
        law = RandomStopping(TNB, shape=Decimal(shape), gamma=Decimal(gamma))
        return rdp_curve(law.event(TRAINING), (8.0,), ADD)[0]

    assert cost("0", "0.1") < cost("0", "0.01") < cost("1", "0.01")


def test_only_accountants_that_have_a_bound_vouch_for_a_selection():
    event = GEOMETRIC.event(TRAINING)
    assert PldAccountant().unsupported(event, ADD) is not None
    with pytest.raises(UnsupportedEvent):
        rdp_curve(event, (8.0,), Neighbors.REPLACE_ONE)
