"""Is what a plan allows the exact curve of all its events, and said in sentences that hold?"""

from __future__ import annotations

import math
from decimal import Decimal

import pytest

from primum.domain.accounting.events import (
    Composed,
    Gaussian,
    IndividuallyFiltered,
    RandomizedResponse,
    Repeated,
    SubsampledGaussian,
)
from primum.domain.governance.meaning import Meaning, meaning_sentences
from primum.domain.quantities import PrivacyUnit
from primum.domain.risk import gaussian, tradeoff
from primum.domain.risk.planned import CurveKind, planned_curve

EPSILON, DELTA = Decimal(3), Decimal("1E-5")
FPRS = (0.001, 0.01, 0.1, 0.5)
TRAINING = Repeated(SubsampledGaussian(Decimal("1.0"), Decimal("0.01")), 1000)


def curve(event):
    return planned_curve(event, epsilon=EPSILON, delta=DELTA)


def test_releases_of_everybody_are_one_gaussian():
    """Noise 2 four times and noise 1 once: psi is sqrt(4/4 + 1)."""
    found = curve(Composed((Repeated(Gaussian(Decimal(2)), 4), Gaussian(Decimal(1)))))
    psi = math.sqrt(2)
    assert found.kind is CurveKind.GAUSSIAN
    assert found.true_positives(FPRS) == [gaussian.tpr_at_fpr(psi=psi, fpr=fpr) for fpr in FPRS]
    assert found.advantage() == gaussian.advantage(psi)
    # The loss of a Gaussian when the target took part is N(psi^2/2, psi^2).
    sure = found.sure_at_most(prior=0.5, share=0.95)
    assert sure == pytest.approx(1 / (1 + math.exp(-(1 + psi * 1.6448536269514722))))


def test_a_training_has_the_curve_of_the_theory_page():
    found = curve(TRAINING)
    assert found.kind is CurveKind.LOSS_DISTRIBUTION
    known = tradeoff.dpsgd_curve(q=0.01, noise_multiplier=1.0, steps=1000, fpr=[1e-4, *FPRS])
    assert found.true_positives([1e-4, *FPRS]) == known["tpr"]
    assert found.true_positives([0.001])[0] == pytest.approx(4.068448e-3, rel=1e-4)
    assert found.advantage() == pytest.approx(0.1610176, rel=1e-4)
    assert 0.5 < found.sure_at_most(prior=0.5, share=0.5) < 0.6
    assert found.sure_at_most(prior=0.5, share=0.95) < found.sure_at_most(prior=0.5, share=0.999)
    assert found.sure_at_most(prior=0.5, share=1.0) == 1


def test_two_charged_events_allow_more_than_each():
    """The exact composition, between the larger of the two and the sum of two equal ones."""
    small = Gaussian(Decimal(4))
    both = curve(Composed((TRAINING, small)))
    assert both.kind is CurveKind.LOSS_DISTRIBUTION
    alone = [curve(TRAINING), curve(small)]
    for at, rate in enumerate(both.true_positives(FPRS)):
        assert rate > max(item.true_positives(FPRS)[at] for item in alone)
    assert both.advantage() < sum(item.advantage() for item in alone)


def test_two_halves_are_the_whole():
    step = SubsampledGaussian(Decimal("1.0"), Decimal("0.01"))
    other = SubsampledGaussian(Decimal("1.0000001"), Decimal("0.01"))
    halves = curve(Composed((Repeated(step, 500), Repeated(other, 500))))
    assert halves.true_positives(FPRS) == pytest.approx(
        curve(TRAINING).true_positives(FPRS), rel=1e-4
    )


def test_individual_filters_are_bounded_at_their_orders_alone():
    """What a bound proves in the Renyi sense is looser than its curve, and never below it."""
    found = curve(IndividuallyFiltered(TRAINING, (2, 4, 8, 16)))
    assert found.kind is CurveKind.RENYI
    exact = curve(TRAINING)
    for loose, tight in zip(found.true_positives(FPRS), exact.true_positives(FPRS), strict=True):
        assert tight <= loose <= 1
    assert exact.advantage() <= found.advantage() <= 1
    assert found.sure_at_most(prior=0.5, share=0.95) is None


def test_what_has_no_curve_is_bounded_by_its_claim():
    found = curve(RandomizedResponse(Decimal("0.2"), 2))
    assert found.kind is CurveKind.CLAIM
    assert found.true_positives([0.01]) == [
        tradeoff.tpr_upper_epsilon_delta(epsilon=3.0, delta=1e-5, fpr=0.01)
    ]
    assert found.advantage() == pytest.approx(math.tanh(1.5), abs=2e-3)
    assert found.advantage() >= math.tanh(1.5)


MEANING = Meaning(
    unit=PrivacyUnit.PATIENT,
    epsilon=EPSILON,
    delta=DELTA,
    prior=0.5,
    advantage=0.1601,
    fpr=0.001,
    tpr=0.00891,
    share=0.95,
    sure=0.70001,
    candidates=100,
    named=0.0637,
    dimension=784,
    correlation=0.0311,
)


def test_sentences_round_up_and_name_who_is_protected():
    said = " ".join(meaning_sentences(MEANING))
    for part in (
        "at most 58.1 percent",
        "wrongly names 1 in 1,000 patients",
        "at most 9 in 1,000 who were",
        "50 percent sure that a patient was in the data is afterwards at most 70.1 percent sure",
        "for 95 of 100 patients",
        "at most 6.4 percent of the time; chance is 1 percent",
        "at most 0.04; people begin to see a likeness at 0.5",
    ):
        assert part in said, part
    assert "as a group" not in said


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"sure": None}, "is at most 95.3 percent sure afterwards, except with a probability"),
        ({"sure": None, "prior": 0.1}, "at most 69.1 percent sure"),
        ({"epsilon": Decimal("Infinity")}, "Nothing bounds how sure"),
        ({"unit": PrivacyUnit.IMAGE}, "Somebody with several images in the data is protected less"),
        ({"named": 3.0}, "at most 100 percent of the time"),
    ],
)
def test_sentences_of_other_plans(changes, part):
    from dataclasses import replace

    assert part in " ".join(meaning_sentences(replace(MEANING, **changes)))


def test_nothing_is_said_of_pictures_whose_shape_is_not_known():
    from dataclasses import replace

    assert "correlation" not in " ".join(meaning_sentences(replace(MEANING, dimension=0)))
