"""One word about two runs of an attack, and no more."""

from __future__ import annotations

import pytest

from primum.domain.governance.regression import Comparison, compared, figure


def area(make, lower, upper):
    found = {"estimate": lower, "lower": lower, "upper": upper}
    return make.evidence("Membership", "LiRA", restricted={"auc": found})


def test_intervals_that_meet_are_unchanged(make):
    assert compared(area(make, "0.5", "0.6"), area(make, "0.6", "0.7")) is Comparison.UNCHANGED


def test_the_first_run_has_nothing_to_be_compared_with(make):
    assert compared(area(make, "0.5", "0.6"), None) is Comparison.FIRST_RUN


@pytest.mark.parametrize(
    ("hits", "word"), [(50, "Unchanged"), (90, "Worse"), (10, "Better"), (101, "NotComparable")]
)
def test_counts_are_compared_by_exact_intervals(make, hits, word):
    def run(count):
        return make.evidence(
            "Membership", "OneRunCanary", public={"guesses": 100}, restricted={"correct": count}
        )

    assert compared(run(hits), run(50)).value == word


@pytest.mark.parametrize(
    "restricted",
    [{}, {"auc": {"lower": "0.5"}}, {"auc": {"lower": "0.7", "upper": "0.6"}}, {"identified": 3}],
)
def test_a_record_without_an_interval_is_not_comparable(make, restricted):
    found = make.evidence("Reconstruction", "Imprint", restricted=restricted)
    assert compared(found, area(make, "0.5", "0.6")) is Comparison.NOT_COMPARABLE
    assert compared(area(make, "0.5", "0.6"), found) is Comparison.NOT_COMPARABLE


def test_different_figures_are_not_comparable(make):
    share = make.evidence(
        "Reconstruction", "Imprint", public={"trials": 10}, restricted={"identified": 3}
    )
    assert compared(area(make, "0.5", "0.6"), share) is Comparison.NOT_COMPARABLE


def test_a_figure_is_not_printed(make):
    assert "0.5" not in repr(figure(area(make, "0.5", "0.6")))
